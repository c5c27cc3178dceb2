#!/usr/bin/env python3
"""Train recipes one after another, measure each with both sets of metrics, and write the table for docs/quality.md.

    python docs/search_recipes.py recipes.txt --inception effnet_lite0.onnx --inception-range=-0.9921875,1

recipes.txt has one recipe a line, a name and the flags of tools/train.py; lines that begin with # are comments:

    quick: --preset quick --data cartoon
    quick-fast: --preset quick --data cartoon --lr 5e-4

Each recipe is trained with each of --seeds in --out/<name>-seed<seed>. What is done is not done twice, and a training
that was interrupted is resumed, so the same command goes on after a stop. Lines may be added while it runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deploy.files import write_json

FIGURES = ("fid", "kid", "swd", "ms_ssim", "ms_ssim_real", "recall", "nearest_ratio")
RESULT = "result.json"


class Recipe(NamedTuple):
    """A name and the flags of tools/train.py."""

    name: str
    flags: tuple[str, ...]


def read_recipes(path: Path) -> list[Recipe]:
    """The recipes of a file. Raises ValueError naming the line that is none, or a name that is there twice."""
    recipes: list[Recipe] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, flags = line.partition(":")
        if not colon or not name.strip() or "/" in name:
            raise ValueError(f"{path}, line {number}: 'NAME: FLAGS' is expected, received {line!r}")
        if name.strip() in {recipe.name for recipe in recipes}:
            raise ValueError(f"{path}, line {number}: there is another recipe called {name.strip()!r}")
        recipes.append(Recipe(name.strip(), tuple(shlex.split(flags))))
    return recipes


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    while True:  # the file is read again after each training: lines may have been added
        due = next(undone(args), None)
        write_table(args)
        if due is None:
            return 0
        recipe, seed, folder = due
        print(f"{recipe.name}, seed {seed}", file=sys.stderr, flush=True)
        train(recipe, seed, folder)
        write_json(folder / RESULT, {"flags": list(recipe.flags), "seed": seed, **measure(folder, args)})


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("recipes", type=Path, help="the file of recipes")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0], help="each recipe's seeds (default: 0)")
    flags.add_argument("--out", type=Path, default=Path("work/search"), help="(default: work/search)")
    flags.add_argument("--n", type=int, default=2000, help="images of each set (default: 2000)")
    flags.add_argument("--inception", help="as of tools/evaluate.py: adds fid, kid and recall")
    flags.add_argument("--inception-range", help="as of tools/evaluate.py")
    flags.add_argument("--inception-output", help="as of tools/evaluate.py")
    return flags


def undone(args: argparse.Namespace) -> Iterator[tuple[Recipe, int, Path]]:
    """Recipe, seed and folder of what has no result yet."""
    for recipe, seed, folder in planned(args):
        if not (folder / RESULT).exists():
            yield recipe, seed, folder


def planned(args: argparse.Namespace) -> Iterator[tuple[Recipe, int, Path]]:
    for recipe in read_recipes(args.recipes):
        for seed in args.seeds:
            yield recipe, seed, args.out / f"{recipe.name}-seed{seed}"


def train(recipe: Recipe, seed: int, folder: Path) -> None:
    """Train, or go on with a training that has a checkpoint. The log and the seconds it took are left in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    how = ["--out", str(folder), "--seed", str(seed), *recipe.flags]
    if any(folder.glob("*/checkpoints/step-*")):
        how = ["--resume", str(folder)]
    start = time.monotonic()
    with open(folder / "train.log", "a", encoding="utf-8") as log:
        subprocess.run([sys.executable, ROOT / "tools" / "train.py", *how], stdout=log, stderr=log, check=True)
    seconds = folder / "seconds.txt"
    before = float(seconds.read_text("utf-8")) if seconds.exists() else 0.0
    seconds.write_text(f"{before + time.monotonic() - start:.1f}", "utf-8")


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of tools/evaluate.py, and on synthetic faces the shares of their attributes."""
    command = [sys.executable, ROOT / "tools" / "evaluate.py", "--checkpoint", folder, "--n", str(args.n), "--json"]
    for name in ("inception", "inception_range", "inception_output"):
        if getattr(args, name):
            command.append(f"--{name.replace('_', '-')}={getattr(args, name)}")
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(answer.stdout.splitlines()[-1])
    result = {"report": report, "seconds": float((folder / "seconds.txt").read_text("utf-8"))}
    run = max(folder.glob("[0-9]*"))
    config = json.loads((run / "config.json").read_text("utf-8"))
    if config["data"].startswith("cartoon") and config["image_size"] == 64:
        result["attributes"] = attribute_shares(run, config, args)
    return result


def attribute_shares(run: Path, config: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Shares of attributes among `args.n` generated and as many real synthetic faces, and how far apart they are."""
    from dcgan.environment import import_paddle

    import_paddle()
    from dcgan.data.prepare import cached_packed
    from dcgan.metrics.evaluate import chosen_real
    from dcgan.metrics.face_attributes import AttributeClassifier, compare_shares, train_classifier
    from tools.evaluation_targets import checkpoint_target

    path = args.out / "attribute_classifier.npz"
    if not path.exists():
        train_classifier().save(path)
    classifier = AttributeClassifier.load(path)
    data = cached_packed(config["data"], image_size=config["image_size"], crop=config["crop"])
    real = classifier.shares(chosen_real(data, args.n))
    fake = classifier.shares(checkpoint_target(run, "auto", 0, 50).images(args.n, data))
    return {"distance": compare_shares(real, fake), "real": real, "fake": fake}


def write_table(args: argparse.Namespace) -> None:
    """`table.md` in --out: a row for each result."""
    rows = []
    for recipe, seed, folder in planned(args):
        if (folder / RESULT).exists():
            rows.append(table_row(recipe, seed, json.loads((folder / RESULT).read_text("utf-8"))))
    head = ["recipe", "seed", "seconds", *FIGURES, "attributes"]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    (args.out / "table.md").write_text("\n".join(lines) + "\n", "utf-8")


def table_row(recipe: Recipe, seed: int, result: dict[str, Any]) -> list[str]:
    figures = result["report"]["figures"]
    shown = [f"{figures[name]:.4g}" if name in figures else "" for name in FIGURES]
    attributes = f"{result['attributes']['distance']:.3f}" if "attributes" in result else ""
    flags = f"`{shlex.join(recipe.flags)}`"
    return [flags, str(seed), f"{result['seconds']:.0f}", *shown, attributes]


if __name__ == "__main__":
    sys.exit(main())
