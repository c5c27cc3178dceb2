"""Generate faces with an exported model: `python deploy/infer.py --n 100`."""

from __future__ import annotations

import os
import sys

if __package__ in (None, ""):
    folder = os.path.dirname(os.path.realpath(__file__))
    if os.path.basename(folder) != "deploy":
        sys.exit(f"error: {folder} must be called deploy: its files import each other by that name. Rename it.")
    sys.path[0] = os.path.dirname(folder)  # not this folder: its names are no top-level modules

from deploy import interrupts, process_limits

if __name__ == "__main__":
    interrupts.exit_at_once()  # on Ctrl-C, while all that follows is imported

import argparse
import importlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from deploy.manifest import EXPORT, ModelError, default_folder
from deploy.seed_ranges import Seeds
from deploy.streams import drop_stdout, log_to_stderr, open_standard_streams, printable

MODEL_HELP = "export folder (default: work/export, or as long as there is none, the demo generator in deploy/demo)"
DEMO_SENTENCE = "Your own: `python tools/train.py`, then `python tools/export.py --format onnx`."
BACKENDS = ("auto", "onnxruntime", "paddle", "openvino")
EXAMPLES = """examples:
  python deploy/infer.py --n 100
  python deploy/infer.py --seeds 0,7,100-199 --format jpg --out faces
  python deploy/infer.py --interpolate 3,14,15 --frames 90 --out walk.mp4

Complete images of this model in --out are kept: run the same command again after an interruption. Damage to a .png is
noticed wherever it is, and the image is made again; a .jpg has no checksum: only one that was cut short is noticed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    open_standard_streams()
    arguments = parse(argv)
    log_to_stderr(arguments.log_level.upper(), "%(levelname)s: %(message)s")
    try:
        interrupts.raise_outside_imports()
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `... | head`: the reader has left, there is nobody to tell
        drop_stdout()
        return 1
    except KeyboardInterrupt:
        message, code = (
            "interrupted; all files written so far are complete. Run the same command again: images that are there are "
            "kept, a video or an .npz starts over.",
            interrupts.INTERRUPTED,
        )
    except Exception as error:
        if not is_expected(error):
            raise
        if arguments.log_level == "debug":
            logging.exception("traceback")
        message, code = f"error: {sentence(error)}", 1
    print(printable(message), file=sys.stderr)
    return code


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments, checked and complete: `seeds` is a Seeds, `out` a Path."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to generate")
    what.add_argument("--n", type=whole_number(1), metavar="N", help="number of images (default: 100)")
    what.add_argument("--seed", type=whole_number(0), metavar="S", help="the first seed (default: 0)")
    what.add_argument("--seeds", type=_seeds, metavar="LIST", help="a list of seeds: 0,7,100-199")
    what.add_argument(
        "--interpolate", type=_seeds, metavar="LIST", help="a video that morphs from face to face and back to the first"
    )
    what.add_argument("--frames", type=whole_number(2), help="frames of the video (default: 60)")
    what.add_argument("--fps", type=whole_number(1, 50), help="frames per second, at most 50 (default: 25)")
    what.add_argument("--scale", type=whole_number(1, 16), help="enlarge the video, not the images (default: 4)")
    what.add_argument("--score", action="store_true", help="also write the discriminator's scores: scores.json")
    what.add_argument("--verify", action="store_true", help="only check that files and images match the export")
    where = parser.add_argument_group("input and output")
    where.add_argument("--model", type=named_path, help=MODEL_HELP)
    where.add_argument(
        "--out", type=named_path, help="folder (default: work/generate) or video (.../walk.mp4), .mp4 or .gif"
    )
    where.add_argument("--format", choices=("png", "jpg", "npz"), help="npz: one file (default: png)")
    where.add_argument("--grid", action=argparse.BooleanOptionalAction, help="grid.png of the first 100 (default: yes)")
    how = parser.add_argument_group("how")
    how.add_argument("--backend", choices=BACKENDS, default="auto", help="(default: auto: onnxruntime, else paddle)")
    how.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: with --backend openvino (default: fp32)"
    )
    how.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="(default: auto)")
    how.add_argument("--threads", type=whole_number(0, 1024), default=0, help="0: one per core (default: 0)")
    how.add_argument("--batch-size", type=whole_number(1, 4096), default=32, help="images per call (default: 32)")
    how.add_argument("--json", action="store_true", help="the result as one line of JSON on stdout")
    how.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(default: info)"
    )
    arguments = parser.parse_args(argv)
    _complete(parser, arguments)
    return arguments


def _complete(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    modes = [name for name in ("score", "verify", "interpolate") if getattr(arguments, name)]
    if len(modes) > 1:
        parser.error(f"--{modes[0]} and --{modes[1]} exclude each other")
    asked = [name for name in ("n", "seed", "seeds") if getattr(arguments, name) is not None]
    if asked and (arguments.verify or arguments.interpolate is not None):
        parser.error(f"--{'verify' if arguments.verify else 'interpolate'} and --{asked[0]} exclude each other")
    for name, default in {"frames": 60, "fps": 25, "scale": 4}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
        elif arguments.interpolate is None:
            parser.error(f"--{name} is for a video: it needs --interpolate")
    for name, default in {"format": "png", "grid": True}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
        elif modes in (["verify"], ["interpolate"]):
            parser.error(f"--{name} is for images: --{modes[0]} writes none")
    if arguments.verify and arguments.out is not None:
        parser.error("--verify writes nothing: --out is not for it")
    if arguments.seeds is not None and (arguments.n is not None or arguments.seed is not None):
        parser.error("--seeds excludes --n and --seed")
    if arguments.interpolate is not None:
        if not 2 <= len(arguments.interpolate) <= arguments.frames:
            parser.error("--interpolate needs at least two seeds, and --frames at least one frame for each of them")
        arguments.out = arguments.out or Path("work/generate/walk.mp4")
        if arguments.out.suffix not in (".mp4", ".gif"):
            parser.error(f"--out must name an .mp4 or .gif file with --interpolate, received {arguments.out}")
    if arguments.seeds is None:
        first = arguments.seed or 0
        try:
            arguments.seeds = Seeds(range(first, first + (100 if arguments.n is None else arguments.n)))
        except ValueError as error:
            parser.error(str(error))
    arguments.out = arguments.out or Path("work/generate")
    if arguments.precision == "bf16" and arguments.backend != "openvino":
        parser.error("--precision bf16 needs --backend openvino: the others compute float32 on a CPU")


def choose_model(named: Path | None) -> Path:
    """The export folder that was named, else that of tools/export.py, else the demo, which one line then says."""
    if named is not None:
        return named
    folder = default_folder()
    if folder != EXPORT:
        logging.info("%s does not exist: these faces come from the demo generator. %s", EXPORT, DEMO_SENTENCE)
    return folder


def _run(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    arguments.model = choose_model(arguments.model)
    if arguments.verify:
        return _verify(arguments)
    from deploy.runtimes import load_discriminator, load_generator

    where = {"backend": arguments.backend, "device": arguments.device, "threads": arguments.threads}
    with ThreadPoolExecutor(1) as beside:  # a runtime reads its model on one core: the other can load OpenCV
        images = beside.submit(importlib.import_module, "deploy.images")
        generator = load_generator(arguments.model, **where, precision=arguments.precision)
    images.result()  # or why it cannot be imported
    result: dict[str, Any] = {"out": str(arguments.out), "backend": generator.backend, "device": generator.device}
    if arguments.interpolate is not None:
        text = _walk(arguments, generator, result)
    else:
        discriminator = load_discriminator(arguments.model, **where) if arguments.score else None
        text = _images(arguments, generator, discriminator, result)
    result["seconds"] = round(time.monotonic() - start, 3)
    print(
        json.dumps(result) if arguments.json else f"{text} ({generator.backend}, {generator.device}){_next(arguments)}"
    )
    return 0


def _next(arguments: argparse.Namespace) -> str:
    """A line that says what to look at, where there is one file to look at."""
    if arguments.interpolate is not None:
        return f"\nnext: open {_shown(arguments.out)}"
    return f"\nnext: open {_shown(arguments.out / 'grid.png')}" if arguments.grid else ""


def _shown(path: Path) -> str:
    """A path of the user's as text for a terminal, whole."""
    return printable(str(path), max_length=100_000)


def _images(arguments: argparse.Namespace, generator: Any, discriminator: Any, result: dict[str, Any]) -> str:
    from deploy.generate import write_images

    written, scores = write_images(
        generator,
        arguments.seeds,
        arguments.out,
        suffix=f".{arguments.format}",
        batch_size=arguments.batch_size,
        with_grid=arguments.grid,
        discriminator=discriminator,
    )
    count = len(arguments.seeds)
    result.update(images=count, written=written)
    text = f"{count:,} images in {_shown(arguments.out)}"
    if written < count:
        text += f", {count - written:,} of them were there"
    if scores is not None:
        (low, low_seed), (high, high_seed) = scores.lowest, scores.highest
        result["score"] = {"mean": scores.mean, "lowest": [low_seed, low], "highest": [high_seed, high]}
        text += (
            f"; mean discriminator score {scores.mean:.3f} (seed {low_seed}: {low:.3f} .. seed {high_seed}: {high:.3f})"
        )
    return text


def _walk(arguments: argparse.Namespace, generator: Any, result: dict[str, Any]) -> str:
    from deploy.walk import write_walk

    write_walk(
        generator,
        list(arguments.interpolate),
        arguments.out,
        frames=arguments.frames,
        fps=arguments.fps,
        scale=arguments.scale,
        batch_size=arguments.batch_size,
    )
    result["frames"] = arguments.frames
    return f"{arguments.frames} frames in {_shown(arguments.out)}"


def _verify(arguments: argparse.Namespace) -> int:
    from deploy.verify import table, verify

    rows = verify(arguments.model, arguments.backend, arguments.device, arguments.threads, arguments.precision)
    passed = all(row.passed for row in rows)
    if arguments.json:
        print(json.dumps({"passed": passed, "rows": [row._asdict() for row in rows]}))
    else:
        print(table(rows))
    if not passed:
        print("error: the export does not make the images here that it made where it was exported", file=sys.stderr)
    return 0 if passed else 1


def whole_number(lowest: int, highest: int = 2**32) -> Callable[[str], int]:
    """An argparse type: whole numbers of a range."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 12 and lowest <= int(text) <= highest):
            raise argparse.ArgumentTypeError(f"a whole number of {lowest} .. {highest} is expected, received {text!r}")
        return int(text)

    return convert


def named_path(text: str) -> Path:
    """An argparse type: a path, and not the empty text that would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("a path is expected, received an empty text")
    return Path(text)


def _seeds(text: str) -> Seeds:
    try:
        return Seeds.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def is_expected(error: Exception) -> bool:
    """Whether a user can cause this error: then it is one line. Anything else is a bug, and keeps its traceback."""
    kinds = (ModelError, ValueError, OSError, ImportError, MemoryError)
    return isinstance(error, kinds) or process_limits.reached(error) is not None


def sentence(error: Exception, requirements: str = "requirements.txt") -> str:
    """One line that says what happened and, where that helps, what to do."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ModuleNotFoundError):
        path = Path(__file__).resolve().with_name(requirements)
        return f"{(error.name or '').partition('.')[0]} is not installed. Run `python -m pip install -r {path}`."
    if isinstance(error, MemoryError):
        return "the memory is full. Try smaller batches: --batch-size of infer.py, --max-batch of serve.py."
    limit = process_limits.reached(error)
    if limit is not None:
        return limit
    return " ".join(str(error).split())


def cli() -> int:
    """The installed command."""
    interrupts.exit_at_once()
    return main()


if __name__ == "__main__":
    raise SystemExit(cli())
