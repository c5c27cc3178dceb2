"""Measure how close generated images are to real ones: a checkpoint, an exported model or a folder of images."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from deploy import interrupts

if __name__ == "__main__":
    interrupts.exit_at_once()  # on Ctrl-C, while all that follows is imported

import argparse
import json
import logging
import pathlib
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploy.infer import named_path
from deploy.own_files import MARK, refuse_foreign
from tools.console import add_log_level, run, start_logging

if TYPE_CHECKING:
    import numpy as np

    from tools.evaluation_targets import EvaluationTarget

EXAMPLES = """examples:
  # the newest run under work/train against its own training images
  python tools/evaluate.py
  # the baseline that no generator can beat: real images against other real images
  python tools/evaluate.py --real-vs-real --data img_align_celeba.zip --n 5000
  # an exported model; then a folder of images; each against CelebA
  python tools/evaluate.py --model work/export --data img_align_celeba.zip
  python tools/evaluate.py --images work/generate --data img_align_celeba.zip
  # also FID, KID, precision and recall, with a feature network of your own (docs/quality.md)
  python tools/evaluate.py --inception inception.onnx

exit codes: 0 measured; 1 failed; 2 wrong usage
"""
OUT, NEAREST = pathlib.Path("work/evaluate"), "nearest.png"
log = logging.getLogger("tools.evaluate")  # __name__ may be __main__
MEANINGS = {
    "swd": "sliced Wasserstein distance x 1000, mean over the scales; lower is better",
    "ms_ssim": "MS-SSIM of pairs of generated images; higher than that of real images means less variety",
    "ms_ssim_real": "MS-SSIM of pairs of real images",
    "nearest_ratio": "distance to the nearest training image, real images = 1; far below 1 means memorised images",
    "fid": "Frechet distance of the features; lower is better",
    "kid": "kernel distance of the features, unbiased; lower is better",
    "kid_std": "standard deviation of kid over blocks of images",
    "precision": "share of generated images that look like real ones; higher is better",
    "recall": "share of real images that the generated ones cover; higher is better",
}


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = flags.add_argument_group("what to measure (default: the newest run under work/train)")
    what = what.add_mutually_exclusive_group()
    what.add_argument("--checkpoint", metavar="PATH", help="a run, a checkpoint folder or a generator.params")
    what.add_argument("--model", metavar="DIR", help="an export folder; its own runtime generates the images")
    what.add_argument("--images", metavar="SRC", help="existing images: a folder, a .zip or a packed .npy")
    what.add_argument(
        "--real-vs-real", action="store_true", help="other real images: the baseline that no generator can beat"
    )
    hidden = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}  # older names
    what.add_argument("--pictures", dest="images", **hidden)
    what.add_argument("--floor", dest="real_vs_real", action="store_true", **hidden)
    against = flags.add_argument_group("what to compare with")
    against.add_argument(
        "--data", metavar="SRC", help="a folder, .zip, packed .npy or cartoon (default: the run's own)"
    )
    against.add_argument("--crop", help="of both sets: tutorial, center, or X,Y (default: the run's own, or tutorial)")
    against.add_argument("--image-size", type=int, metavar="S", help="pixels (default: the generator's, or 64)")
    against.add_argument(
        "--n",
        type=int,
        metavar="N",
        help="images of each set (default: 10,000; with fewer images 5,000, or all of them)",
    )
    against.add_argument("--seed", type=int, default=0, metavar="S", help="the first of the N seeds (default: 0)")
    features = flags.add_argument_group("features of a trained network (docs/quality.md)")
    features.add_argument("--inception", metavar="FILE.onnx", help="adds FID, KID, precision and recall")
    features.add_argument(
        "--inception-range",
        type=_range,
        metavar="LOW,HIGH",
        help="values of black and white for a float32 input (default: -1,1; write --inception-range=-1,1)",
    )
    features.add_argument("--inception-output", default="", metavar="NAME", help="which output (default: the only one)")
    flags.add_argument(
        "--out",
        type=named_path,
        metavar="DIR",
        help="folder for evaluate.json and nearest.png (default: the run folder, or work/evaluate)",
    )
    flags.add_argument("--save-real", type=pathlib.Path, metavar="DIR", help="also write the N real images as PNGs")
    flags.add_argument("--compare", metavar="PATH", help="an earlier evaluate.json: print how much each figure changed")
    flags.add_argument("--batch-size", type=int, default=50, metavar="N", help="images per call (default: 50)")
    flags.add_argument(
        "--device", default="auto", help="where the generator runs: auto, cpu, gpu, gpu:N (default: auto)"
    )
    flags.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    add_log_level(flags)
    return flags


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    start_logging(args.log_level)
    if not args.inception and (args.inception_range or args.inception_output):
        raise ValueError("--inception-range and --inception-output are of a feature network: they need --inception")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, received {args.batch_size}")

    from dcgan.environment import import_paddle

    import_paddle()
    from dcgan.errors import EvaluationError
    from dcgan.metrics.evaluate import evaluate
    from dcgan.metrics.evaluate_json import compare, read_report
    from dcgan.metrics.onnx_features import OnnxFeatures
    from tools import evaluation_targets as targets

    before = read_report(args.compare) if args.compare else None
    extractor = None
    if args.inception:
        extractor = OnnxFeatures(args.inception, args.inception_range, args.inception_output, args.batch_size)
    target = None if args.real_vs_real else open_target(args)
    run_folder = None if args.out or target is None else target.run
    out = args.out or run_folder or OUT
    refuse_foreign_results(out, run_folder)
    data = targets.open_data(args.data, args.crop, args.image_size, target)
    target = target or targets.real_target(data)
    n = targets.how_many(args.n, len(data), target)
    if args.save_real:
        targets.save_images(args.save_real, targets.chosen_real(data, n))
    log.info("Measuring %s images against as many real images.", f"{n:,}")
    fake = target.images(n, data)
    report, nearest = evaluate(data, fake, target.report_facts(n), extractor, held_out=args.real_vs_real)
    try:
        changes = compare(report, before) if before else {}
    except EvaluationError:
        if not before_is_in(args.compare, out):
            write(out, report, nearest, run_folder)  # what was measured is worth keeping, not at the other's cost
        raise
    write(out, report, nearest, run_folder)
    print(json.dumps(report) if args.json else text(report, changes, out) + next_step(args.model, report))
    return 0


def before_is_in(compare: str, out: pathlib.Path) -> bool:
    """Whether `out` holds the report that --compare names, as a file or by its folder."""
    named = pathlib.Path(compare).resolve()
    return out.resolve() in (named, named.parent)


def open_target(args: argparse.Namespace) -> EvaluationTarget:
    """The target that the flags name."""
    from tools import evaluation_targets as targets

    if args.images:
        return targets.folder_target(args.images)
    if args.model:
        return targets.exported_target(args.model, args.device, args.seed, args.batch_size)
    return targets.checkpoint_target(args.checkpoint, args.device, args.seed, args.batch_size)


def refuse_foreign_results(out: pathlib.Path, run_folder: pathlib.Path | None) -> None:
    """Raise FileExistsError if `write` would replace a file that this project did not write."""
    from dcgan.metrics.evaluate_json import FILE_NAME, START
    from dcgan.runs.report import REPORT_FILE, refuse_foreign_page

    refuse_foreign(out / FILE_NAME, START)
    refuse_foreign(out / NEAREST)
    if run_folder is not None:
        refuse_foreign_page(run_folder / REPORT_FILE)


def write(out: pathlib.Path, report: dict, nearest: np.ndarray, run_folder: pathlib.Path | None) -> None:
    """Leave evaluate.json and nearest.png in `out`; if that is a run folder, note them in its metrics and report."""
    from dcgan.images import write_png
    from dcgan.metrics.evaluate_json import FILE_NAME
    from dcgan.runs.records import append_record
    from dcgan.runs.report import write_report
    from deploy.files import make_folders, write_json

    make_folders(out)
    write_json(out / FILE_NAME, report)
    write_png(out / NEAREST, nearest, MARK)
    step = report["target"].get("step")
    if run_folder is not None and isinstance(step, int):
        append_record(run_folder / "metrics.jsonl", {"step": step, "evaluate": report})
        write_report(run_folder)


def text(report: Mapping[str, Any], changes: Mapping[str, float], out: pathlib.Path) -> str:
    """The report for people."""
    lines = []
    for name, value in report["figures"].items():
        change = f"{changes[name]:+10.4f}" if name in changes else ""
        lines.append(f"{name:<16}{value:10.4f}{change}  {MEANINGS.get(name, '')}".rstrip())
    protocol = dict(report["protocol"])
    features = protocol.pop("features")
    lines += ["", "measured: " + ", ".join(f"{k} {v}" for k, v in report["target"].items() if v is not None)]
    lines += ["protocol: " + ", ".join(f"{k} {v}" for k, v in protocol.items())]
    if features:
        lines += ["features: " + ", ".join(f"{k} {v}" for k, v in features.items())]
    lines += [f"{out}: evaluate.json, nearest.png"]
    return "\n".join(lines)


def next_step(model: str | None, report: Mapping[str, Any]) -> str:
    """The command with which torch-fidelity measures the same model, if the export has the form that it takes."""
    path = pathlib.Path(model or "", "generator-uint8.onnx")
    if not model or not path.is_file():
        return ""
    n, size = report["protocol"]["n_generated"], report["target"]["latent_dim"]
    return (
        "\n\ntorch-fidelity can measure the same model (write the real images with --save-real REAL):\n"
        f"  fidelity --cpu --fid --kid --input1 {shlex.quote(str(path))} --input1-model-z-type normal "
        f"--input1-model-z-size {size} --input1-model-num-samples {n} --input2 REAL"
    )


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"two numbers LOW,HIGH are expected, received {text!r}") from None
    if not (abs(low) < 1e6 and abs(high) < 1e6 and low != high):  # also true for NaN
        raise argparse.ArgumentTypeError(f"two different finite numbers are expected, received {text!r}")
    return low, high


def cli() -> None:
    """The installed command."""
    run(main)


if __name__ == "__main__":
    cli()
