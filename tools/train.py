#!/usr/bin/env python3
"""Train a DCGAN and leave a run folder with sample grids, loss curves, checkpoints and generator.params.

examples:
  python tools/train.py                                    synthetic faces, six to fifteen minutes on two CPU cores
  python tools/train.py --data photos/ --crop center       your own images: a folder, a .zip or a packed .npy
  python tools/train.py --data img_align_celeba.zip        CelebA, read from its archive
  python tools/train.py --resume                           continue the newest run
  python -m paddle.distributed.launch --nproc_per_node 4 tools/train.py ...    four GPUs, or four processes
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from deploy import interrupts

if __name__ == "__main__":
    interrupts.exit_at_once()  # on Ctrl-C, while all that follows is imported

import argparse
import dataclasses
import shlex
from typing import Any, Optional

from dcgan.config import TrainConfig, help_text, read_config, with_default_data
from dcgan.environment import command, export_command
from dcgan.errors import ProjectError
from dcgan.presets import COMPARISONS, FITTED_HELP, PRESETS, fitted_to
from dcgan.selftest import kill_count
from dcgan.selftest import report as report_resume
from tools.console import add_log_level, open_in_browser, run, start_logging

BASIC = ("data", "crop", "image_size", "epochs", "steps", "batch_size")  # the fields that --help shows
NO_DATA = """No --data given, and no work/img_align_celeba(.zip): training on synthetic faces, with --preset {preset}.
For CelebA get img_align_celeba.zip from mmlab.ie.cuhk.edu.hk/projects/CelebA.html and give its path to --data."""


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        build_parser(everything=True).print_help()
        parser.exit()


def build_parser(everything: bool = False) -> argparse.ArgumentParser:
    """One flag per TrainConfig field; default and help text come from the field.

    The help shows what a first run needs, or every flag with `everything`; the flags are the same.
    """
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--data SRC] [flags]",
        description=__doc__,
        epilog=None if everything else "All other flags (recipe, hardware, output): --help-all",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    basic = parser.add_argument_group("basic")
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(TrainConfig):
        name = f"advanced: {field.metadata['group']}"
        is_basic = field.name in BASIC
        group = basic if is_basic else groups.setdefault(name, parser.add_argument_group(name))
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "choices": field.metadata["choices"]}
        if isinstance(field.default, bool):
            options = {"default": argparse.SUPPRESS, "action": argparse.BooleanOptionalAction}
        else:
            options["type"] = type(field.default)
            options["metavar"] = None if options["choices"] else field.name.upper()
        names = ["--" + name.replace("_", "-") for name in (field.name, *field.metadata["aliases"])]
        text = help_text(field, FITTED_HELP.get(field.name, ""))
        shown = text.replace("%", "%%") if is_basic or everything else argparse.SUPPRESS
        group.add_argument(names[0], dest=field.name, help=shown, **options)
        if names[1:]:  # an older spelling works and is not advertised
            group.add_argument(*names[1:], dest=field.name, **{**options, "help": argparse.SUPPRESS})
    basic.add_argument("--preset", choices=tuple(PRESETS), help="a named set of settings; explicit flags win")
    basic.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="continue a run or a checkpoint; without PATH: the newest run under --out",
    )
    basic.add_argument("--open", action="store_true", help="open report.html in the browser at the first image grid")
    basic.add_argument("--dry-run", action="store_true", help="print what would be trained, write nothing")
    basic.add_argument("-h", "--help", action="help", help="show this help")
    basic.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every flag")
    other = parser.add_argument_group("advanced: other")

    def shown_with_all(text: str) -> str:
        return text if everything else argparse.SUPPRESS

    other.add_argument(
        "--config", help=shown_with_all("settings of a run: its config.json or its folder; explicit flags win")
    )
    other.add_argument(
        "--selftest-resume",
        nargs="?",
        const=3,
        type=kill_count,
        metavar="KILLS",
        help=shown_with_all(
            "check on this machine that a run killed with kill -9 resumes with bit-identical results, "
            "KILLS times (default: 3), then exit"
        ),
    )
    add_log_level(other, hidden=not everything)
    return parser


def main(argv: Optional[list[str]] = None) -> int:
    arguments = vars(build_parser().parse_args(argv))
    explicit = {f.name: arguments[f.name] for f in dataclasses.fields(TrainConfig) if f.name in arguments}
    start_logging(arguments["log_level"])

    if arguments["selftest_resume"] is not None:
        return report_resume(arguments["selftest_resume"], explicit.get("seed", 0))

    from dcgan.environment import import_paddle

    import_paddle()
    from dcgan.distributed.process_group import init_process_group
    from dcgan.dry_run import count_images, describe
    from dcgan.train import train

    flags = {name: value for name, value in arguments.items() if name != "log_level"}
    process_group = init_process_group(explicit.get("device", TrainConfig.device), flags)
    config, found = _settings(arguments, explicit, process_group.size) if process_group.is_rank_zero else (None, None)
    config = TrainConfig.from_mapping(process_group.broadcast(config and config.to_json()))
    if arguments["dry_run"]:
        if process_group.is_rank_zero:
            print(describe(config.validate(), count_images(config), process_group.size))
        process_group.shutdown()
        return 0
    result = train(config, found, sys.argv, process_group, open_in_browser if arguments["open"] else None)
    process_group.shutdown()
    return _report(result) if process_group.is_rank_zero else 128 + result.signal if result.signal else 0


def _settings(arguments: dict, explicit: dict, processes: int) -> tuple:
    """The config of the run, and the checkpoint to continue from or None."""
    if "epochs" in explicit:
        explicit.setdefault("steps", 0)  # the latest word on the length of the run counts, whatever it is taken from
    if arguments["resume"] is not None:
        if arguments["preset"] or arguments["config"]:
            raise ProjectError("--resume takes its settings from the run: leave out --preset and --config")
        from dcgan.resume import saved_config
        from dcgan.runs.find_checkpoint import find_checkpoint

        found = find_checkpoint(arguments["resume"] or explicit.get("out", TrainConfig.out))
        return dataclasses.replace(saved_config(found), **explicit), found
    return _new_config(arguments, explicit, processes), None


def _new_config(arguments: dict, explicit: dict, processes: int) -> TrainConfig:
    """Settings of a new run: defaults fitted to the data, then preset, then --config, then explicit flags."""
    if arguments["preset"] and arguments["config"]:
        raise ProjectError("--preset and --config both set everything: give one of them, and flags for the rest")
    saved = read_config(arguments["config"]) if arguments["config"] else {}
    asked = with_default_data(TrainConfig.from_mapping({**saved, **explicit}))
    name = arguments["preset"]
    if asked.data == "cartoon" and not explicit.get("data") and not saved.get("data"):
        name = name or "quick"
        print(NO_DATA.format(preset=name), file=sys.stderr)
    settings = {**PRESETS[name or "default"], **saved, **explicit, "data": asked.data}
    if name in (None, "default") and not saved:
        from dcgan.dry_run import count_images

        asked.validate()  # before anything is computed from it
        settings = {**fitted_to(count_images(asked), asked.d_steps * processes, explicit), **settings}
    config = TrainConfig.from_mapping(settings)
    if config.batch_size == 1 and any(getattr(config, name) for name in COMPARISONS):
        flags = " ".join(f"--{name.replace('_', '-')} 0" for name in COMPARISONS)
        raise ProjectError(
            "--batch-size must be at least 2, received 1: parts of the loss compare the images of a batch with each "
            f"other. For batches of one, add {flags}"
        )
    return config


def _report(result: Any) -> int:
    """Say where everything is and what to do next; the last line on stdout is the run folder."""
    if result.signal:
        next_command = f"{command('train')} --resume {shlex.quote(str(result.folder))}"
        print(f"stopped at step {result.global_step}, saved. Continue with: {next_command}", file=sys.stderr)
        return 128 + result.signal
    folder = shlex.quote(str(result.folder))
    if (result.folder / "report.html").is_file():  # not beside a lone checkpoint that had nothing left to do
        print(f"report: {result.folder / 'report.html'}", file=sys.stderr)
    print(f"done: {result.global_step} iterations. Next: {export_command(folder)}", file=sys.stderr)
    print(result.folder)
    return 0


def cli() -> None:
    """The installed command."""
    run(main)


if __name__ == "__main__":
    cli()
