"""The benchmarks as lists of tables, plain values fit for JSON; and those tables as text."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcgan.errors import ProjectError
from deploy.manifest import ModelError, read_manifest, read_verified, write_manifest
from tools.benchmarks import data, infer, scale, serve, to_quality, train, work
from tools.benchmarks.measure import Case, Timing, measure

Say = Callable[[str], object]


def run_train(args: argparse.Namespace, against: list[str], scratch: Path, say: Say) -> list[dict[str, Any]]:
    """One table a batch size; or the one of `--to-quality`."""
    if args.to_quality:
        sizes = {"base_channels": args.base_channels, "image_size": args.image_size, "threads": args.threads}
        return [to_quality.table(sizes, args, against, scratch, say)]
    tables = []
    for size in args.batch_size:
        sizes = (100, args.base_channels, args.image_size, size)
        cases = only(train.cases(size, args.base_channels, args.image_size, args.threads, against), args.only)
        todo = {4: work.training_step(*sizes), 2: work.training_step(*sizes, bytes_per_number=2)}
        title = f"one training iteration of {size} images, {args.image_size} x {args.image_size}, {_of(args)}"
        tables.append(_with_lower_bound(title, cases, args.rounds, say, todo))
    return tables


def run_infer(args: argparse.Namespace, against: list[str], scratch: Path, say: Say) -> list[dict[str, Any]]:
    """One table a batch size, and the cold start."""
    if args.model is None:
        say("exporting a generator with random weights")
        folder = infer.export_random(scratch, args.base_channels, args.image_size)
    else:
        folder = _copy(args.model, scratch / "export")  # nothing is written into a user's export
        if (folder / "generator.pdiparams").is_file():
            infer.write_stock(folder)
    tables = []
    for size in args.batch_size:
        layers = work.generator(infer.LATENT_DIM, args.base_channels, args.image_size)
        todo = {b: work.inference(layers, size, b) for b in (4, 2)}
        cases = only(infer.cases(folder, size, args.base_channels, args.image_size, args.threads, against), args.only)
        tables.append(_with_lower_bound(f"generating {size} images, {_of(args)}", cases, args.rounds, say, todo))
    cold = infer.cold_cases(folder, scratch / "images")
    tables.append(_table("a cold start, each time a new process", *measure(cold, args.rounds, say)))
    return tables


def _copy(model: Path, folder: Path) -> Path:
    """The files of an export, checked, in a new folder; nothing else that lies beside them. Raises ProjectError."""
    folder.mkdir()
    try:
        manifest = read_manifest(model)
        for name in manifest.files:
            (folder / name).write_bytes(read_verified(model, manifest, name))
        write_manifest(folder, manifest)
    except ModelError as error:
        raise ProjectError(str(error)) from None
    return folder


def run_data(args: argparse.Namespace, against: list[str], scratch: Path, say: Say) -> list[dict[str, Any]]:
    """Preparing; loading; and how both grow, if asked for."""
    if args.data is not None and not (args.data.is_dir() and any(args.data.glob("*.jpg"))):
        raise ProjectError(f"--data must be a folder of .jpg files, received {args.data}")
    say("writing JPEG files" if args.data is None else f"reading {args.data}")
    images = args.data or data.write_jpegs(scratch / "jpegs", 2000)
    cases = data.prepare_cases(images, scratch, args.image_size, against)
    prepared, skipped = measure(cases, args.rounds, say)
    tables = [_table(f"preparing {cases[0].units:,.0f} JPEG files", prepared, skipped)]
    small = scratch / "tutorial" if "tutorial" in against else images
    loaders = data.loader_cases(small, scratch / "packed.npy", int(cases[0].units), 20, against)
    tables.append(_table("loading what was prepared, in batches of 128", *measure(loaders, args.rounds, say)))
    if args.counts:
        say(f"preparing {', '.join(f'{n:,}' for n in args.counts)} synthetic faces")
        tables.append({"title": "growth", "growth": data.growth(args.counts, scratch, args.image_size)})
    return tables


def run_serve(args: argparse.Namespace, against: list[str], scratch: Path, say: Say) -> list[dict[str, Any]]:
    """Loads of different sizes; then, if asked for, many answers compared, and a long overload."""
    if args.model is None:
        say("exporting a generator with random weights")
    folder = args.model or infer.export_random(scratch, args.base_channels, args.image_size)
    tables = [serve.measure(folder, scratch, args.threads, against, args.rounds, args.seconds, say)]
    if args.answers:
        tables.append(serve.answers(folder, scratch, args.threads, args.answers))
    if args.overload_seconds:
        tables.append(serve.overload(folder, scratch, args.threads, args.overload_seconds, say, args.overload_rate))
    return tables


def run_scale(args: argparse.Namespace, against: list[str], scratch: Path, say: Say) -> list[dict[str, Any]]:
    """One process and several, one table a batch size."""
    tables = []
    for size in args.batch_size:
        settings = {"steps": args.steps, "batch_size": size}
        settings.update(image_size=args.image_size, base_channels=args.base_channels)
        rows = scale.rounds(settings, args.processes, args.rounds, args.threads, scratch, say)
        tables.append({"title": f"training with {size} images an iteration, {_of(args)}", "scale": rows})
    return tables


RUNS = {"train": run_train, "data": run_data, "infer": run_infer, "serve": run_serve, "scale": run_scale}


def only(cases: list[Case], words: list[str]) -> list[Case]:
    """The cases whose names hold one of the words, and the rates; all without words. ValueError if there is none."""
    if not words:
        return cases
    rates = [case for case in cases if train.is_rate(case.name)]
    others = [case for case in cases if case not in rates]
    wanted = [case for case in others if any(word.lower() in case.name.lower() for word in words)]
    if not wanted:
        names = "; ".join(case.name for case in others)
        raise ValueError(f"--only: no case is called {' or '.join(words)}; there are: {names}")
    return wanted + rates


def _of(args: argparse.Namespace) -> str:
    return f"{args.base_channels} channels, {args.threads} threads"


def _table(title: str, timings: list[Timing], skipped: dict[str, str]) -> dict[str, Any]:
    rows = [timing.row(timings[0]) for timing in timings]
    return {"title": title, "rows": rows, "skipped": skipped}


def _with_lower_bound(
    title: str, cases: list[Case], rounds: int, say: Say, todo: dict[int, work.Work]
) -> dict[str, Any]:
    """A table whose rows also say how many times the lower bound of their precision they take."""
    timings, skipped = measure(cases, rounds, say)
    rates = {t.case.name: t.per_second for t in timings if train.is_rate(t.case.name)}
    bounds = train.lower_bound(rates, todo[4], todo[2])
    table = _table(title, [t for t in timings if not train.is_rate(t.case.name)], skipped)
    for row in table["rows"]:
        least = bounds.get("bfloat16" if "bfloat16" in row["name"] else "float32")
        if least:
            row["times_lower_bound"] = row["median_seconds"] / max(least.values())
    return {**table, "rates": rates, "lower_bound": bounds, "flop": todo[4].flop, "bytes_of_float32": todo[4].bytes}


# ---- text -----------------------------------------------------------------------------------------------------------


def text(result: dict[str, Any]) -> str:
    """The whole result for a person."""
    its = result["machine"]
    lines = [
        f"{its['processor']}, {its['cores']} cores, {' '.join(its['vector_units']) or 'no vector units known'}; "
        f"load {', '.join(f'{n:.1f}' for n in its['load_average'])}; {its['system']}",
        f"Python {its['python']}, " + ", ".join(f"{name} {number}" for name, number in its["versions"].items()),
    ]
    for table in result["tables"]:
        lines += ["", table["title"], *_lines(table)]
    legends = {"loads": serve.LEGEND, "scale": scale.LEGEND}
    legend = next((legends[kind] for kind in legends if kind in result["tables"][0]), _LEGEND)
    return "\n".join([*lines, "", *legend])


def _lines(table: dict[str, Any]) -> list[str]:
    if "to_quality" in table:
        return to_quality.text(table)
    if "growth" in table:
        return _growth(table["growth"])
    if "scale" in table:
        return scale.text(table["scale"])
    return _rows(table) if "rows" in table else serve.text(table)


_LEGEND = [
    "ratio: how many times as fast as the first row, for each unit: the median over the rounds of the ratio within one",
    "cpu s: processor time of the case's own process; what it starts is not counted",
]


def _rows(table: dict[str, Any]) -> list[str]:
    width = max((len(row["name"]) for row in table["rows"]), default=0) + 2
    lines = [f"{'':{width}}{'median s':>10}{'fastest s':>11}{'cpu s':>9}{'per second':>12}{'ratio':>8}"]
    if "rates" in table:
        lines[0] += f"{'x bound':>9}"
    for row in table["rows"]:
        above = f"{row['times_lower_bound']:9.1f}" if "times_lower_bound" in row else ""
        lines.append(
            f"{row['name']:{width}}{row['median_seconds']:10.4g}{row['fastest_seconds']:11.4g}"
            f"{row['median_cpu_seconds']:9.3g}{row['per_second']:12,.0f}{row['ratio']:8.2f}{above}"
        )
        lines += [f"{'':4}{note}" for note in row["notes"]]
    lines += [f"{name}: left out, {reason}" for name, reason in table["skipped"].items()]
    if "rates" in table:
        shown = (
            f"{name} {rate / 1e9:,.0f} G{'B' if 'copy' in name else 'FLOP'}/s" for name, rate in table["rates"].items()
        )
        lines.append(
            f"lower bound, at the rates of these rounds: {table['flop'] / 1e9:,.1f} GFLOP, "
            f"{table['bytes_of_float32'] / 1e9:,.2f} GB; " + ", ".join(shown)
        )
        lines += [
            f"  {dtype}: {least['compute_seconds']:.4f} s to compute, {least['memory_seconds']:.4f} s to move"
            for dtype, least in table["lower_bound"].items()
        ]
    return lines


def _growth(rows: list[dict[str, float]]) -> list[str]:
    lines = [f"{'images':>10}{'prepare s':>12}{'peak MiB':>10}{'file MB':>10}{'epoch s':>10}"]
    return lines + [
        f"{row['images']:10,}{row['prepare_seconds']:12.1f}{row['prepare_peak_mib']:10.0f}{row['file_mb']:10.0f}"
        f"{row['epoch_seconds']:10.2f}"
        for row in rows
    ]
