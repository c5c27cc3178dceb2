"""Export the newest checkpoint to ONNX or a Paddle program and check that its outputs match the trained network."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from deploy import interrupts

if __name__ == "__main__":
    interrupts.exit_at_once()  # on Ctrl-C, while all that follows is imported

import argparse
import json
import pathlib
import shlex
import time

from dcgan.environment import command
from tools.console import add_log_level, run, start_logging

EXAMPLES = """examples:
  # the newest run under work/train -> work/export/generator.onnx, ready for deploy/infer.py
  python tools/export.py --format onnx
  # both formats, generator and discriminator, from a given run
  python tools/export.py --format all --network both --checkpoint work/train/00000-cartoon
  # a page for the browser -> work/web, also as one file that opens with a double-click
  python tools/export.py --format web --single-file
  # torch-fidelity's form of a generator: z -> uint8 images
  python tools/export.py --format onnx --uint8

exit codes: 0 exported and checked; 1 failed, the last export is untouched; 2 wrong usage
"""
FORMATS = {"paddle": ("paddle",), "onnx": ("onnx",), "all": ("paddle", "onnx"), "web": ("web",), "params": ()}
NETWORKS = {"generator": ("generator",), "discriminator": ("discriminator",), "both": ("generator", "discriminator")}


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="paddle: generator.json + .pdiparams; onnx: generator.onnx; all: both; web: a page for the browser "
        "that generates faces offline; params: the tutorial's generator.params, beside the other files "
        "(default: onnx)",
    )
    flags.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        metavar="PATH",
        help="a run, a checkpoint folder or a generator.params (default: the newest run under work/train)",
    )
    flags.add_argument(
        "--out",
        type=pathlib.Path,
        help="folder, replaced as a whole after all checks passed (default: work/export); for web, work/web",
    )
    flags.add_argument("--network", choices=NETWORKS, default="generator", help="what to export (default: generator)")
    flags.add_argument(
        "--precision",
        choices=("fp32", "fp16-weights", "fp16"),
        default="fp32",
        help="of ONNX models. fp16-weights: half the size, computes in float32; fp16: computes in float16 "
        "(default: fp32)",
    )
    flags.add_argument("--opset", type=int, default=17, help="ONNX operator set, 13 to 21 (default: 17)")
    flags.add_argument(
        "--precise-bn",
        type=int,
        default=8,
        metavar="N",
        help="re-estimate BatchNorm statistics over N batches of 64 latents, at most 500; 0: keep those of training "
        "(default: 8)",
    )
    flags.add_argument(
        "--calibrate", dest="precise_bn", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )  # its older name
    flags.add_argument("--uint8", action="store_true", help="also write generator-uint8.onnx: z -> uint8 images")
    flags.add_argument("--single-file", action="store_true", help="with --format web: also write playground.html")
    flags.add_argument("--bisect", action="store_true", help=argparse.SUPPRESS)  # always done now; kept for scripts
    flags.add_argument(
        "--device",
        default="cpu",
        help="where outputs are compared: cpu, gpu, gpu:N or auto; the files are the same (default: cpu)",
    )
    flags.add_argument("--json", action="store_true", help="print the manifest as one line of JSON instead of a report")
    add_log_level(flags)
    return flags


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    start_logging(args.log_level)

    from dcgan.environment import import_paddle

    import_paddle()
    from export.exporter import OUT, OUT_WEB, ExportConfig, export, export_params

    out = args.out or (OUT_WEB if args.format == "web" else OUT)

    config = ExportConfig(
        checkpoint=args.checkpoint,
        formats=FORMATS[args.format],
        networks=NETWORKS[args.network],
        precision=args.precision,
        opset=args.opset,
        precise_bn=args.precise_bn,
        uint8=args.uint8,
        single_file=args.single_file,
        device=args.device,
    )
    if args.format == "params":
        path = export_params(out, config)
        print(json.dumps({"path": str(path)}) if args.json else path)
        return 0
    started = time.monotonic()
    export(out, config)
    content = json.loads((out / "manifest.json").read_text("utf-8"))
    print(json.dumps(content) if args.json else report(content, out, time.monotonic() - started))
    return 0


def report(manifest: dict, out: pathlib.Path, seconds: float) -> str:
    """What was written and checked, and what to do next, from a manifest's JSON."""
    from export.parity import Row, table

    parity = manifest["parity"]
    rows = [Row(**row) for row in parity["rows"]]
    worst = max(rows, key=lambda row: row.max / row.allowed)
    kinds = {model["kind"] for model in manifest["models"] if model["network"] == "generator"}
    backend = "" if "onnx" in kinds else " --backend paddle"
    place = "" if out == pathlib.Path("work/export") else f" --model {shlex.quote(str(out))}"
    lines = [table(rows), "", "bit-identical:", *(f"  {what}" for what in parity["equal"])]
    lines.append(f"parity: passed; largest difference {worst.max:.1e} (limit {worst.allowed:.1e})")
    lines += ["", f"{out}, in {seconds:.1f} s:"]
    lines += [f"  {name}  {entry['bytes'] / 1e6:.2f} MB" for name, entry in manifest["files"].items()]
    if "index.html" in manifest["files"]:
        lines.append(
            f"next: python -m http.server --directory {shlex.quote(str(out))}, then open http://localhost:8000"
        )
        if "playground.html" in manifest["files"]:
            lines.append(f"or open {out / 'playground.html'} with a double-click")
    elif kinds:
        lines.append(f"next: {command('infer')} --n 100{backend}{place}")
    return "\n".join(lines)


def cli() -> None:
    """The installed command."""
    run(main)


if __name__ == "__main__":
    cli()
