"""Pack images once, for training and evaluation: FILE.npy (uint8 [N, 3, S, S]) and a FILE.json that describes it."""

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

from dcgan.data.decode import DEFAULT_LIMITS, Limits
from dcgan.data.packed import PackedData
from dcgan.data.prepare import prepare
from tools.console import add_log_level, run, start_logging

EXAMPLES = """examples:
  # CelebA at 64 x 64, read from its .zip in place
  python tools/prepare.py --data work/img_align_celeba.zip --out work/celeba-64.npy
  # your own images at 128 x 128, cut from the middle
  python tools/prepare.py --data ~/images --out work/mine-128.npy --image-size 128 --crop center
"""


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--data", required=True, metavar="SRC", help="a folder of images, a .zip, or cartoon[:COUNT]")
    flags.add_argument("--out", required=True, metavar="FILE.npy", type=pathlib.Path, help="reused if it still matches")
    flags.add_argument("--image-size", type=int, default=64, metavar="S", help="height = width, pixels (default: 64)")
    flags.add_argument(
        "--crop",
        default="tutorial",
        help="tutorial (0,10 at 64 pixels: CelebA's faces), center, or X,Y in pixels of the resized image; "
        "moved inside the image where needed (default: tutorial)",
    )
    flags.add_argument("--seed", type=int, default=0, help="of the synthetic faces (default: 0)")
    flags.add_argument("--workers", type=int, default=0, help="threads; 0: one for each core (default: 0)")
    limits = flags.add_argument_group("limits, against hostile files")
    for name, text in LIMITS.items():
        default = getattr(DEFAULT_LIMITS, name)
        flag = f"--{name.replace('_', '-')}"
        limits.add_argument(flag, type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    flags.add_argument("--json", action="store_true", help="end with one line of JSON on stdout instead of a sentence")
    add_log_level(flags)
    return flags


LIMITS = {
    "max_pixels": "width x height of one image",
    "max_file_bytes": "size of one image file, unpacked",
    "max_zip_ratio": "unpacked to packed size of one archive entry of more than 1 MiB",
}


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    start_logging(args.log_level)
    packed = prepare(
        args.data,
        args.out,
        image_size=args.image_size,
        crop=args.crop,
        seed=args.seed,
        workers=args.workers,
        limits=Limits(**{name: getattr(args, name) for name in LIMITS}),
    )
    result = summary(packed)
    print(json.dumps(result) if args.json else SENTENCE.format(**result))
    return 0


SENTENCE = "{path}: {count} images of {image_size} x {image_size} ({megabytes:.1f} MB), {rejected} files left out"


def summary(packed: PackedData) -> dict:
    """What was packed, as plain values."""
    return {
        "path": str(packed.path),
        "count": len(packed),
        "image_size": packed.images.shape[-1],
        "megabytes": packed.images.nbytes / 1e6,
        "rejected": len(packed.info["rejected"]),
        "sha256": packed.digest,
    }


def cli() -> None:
    """The installed command."""
    run(main)


if __name__ == "__main__":
    cli()
