"""TrainConfig: every setting of a run in one frozen dataclass, with its default, unit and help text.

The flags of `tools/train.py`, the saved `config.json` and the checks all come from the fields below, so they cannot
disagree. Knows nothing of argparse or Paddle.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .files import MAX_JSON_BYTES, PathLike, read_file
from .networks.sizes import check_image_size

MAX_SEED = 2**32 - 1
DIFFAUGMENT = ("color", "translation", "cutout")


def _setting(default: Any, group: str, help: str, choices: tuple | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"group": group, "help": help, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run. Defaults are those of the tutorial's code, but for the averaged generator, the
    generator's first weights, the learning rate and the augmentation, which make better faces of as many images:
    docs/quality.md."""

    data: str = _setting(
        "",
        "data",
        "folder, .zip, packed .npy, or the word cartoon; "
        "empty: work/img_align_celeba or its .zip if one is there, else cartoon",
    )
    crop: str = _setting(
        "tutorial", "data", "which square is kept: tutorial, center, or X,Y in pixels of the shrunk image"
    )
    flip: bool = _setting(False, "data", "mirror every second image, at random")
    workers: int = _setting(0, "data", "threads that decode images; 0: one per core")

    image_size: int = _setting(64, "model", "height = width in pixels, a power of two from 16 to 256")
    latent_dim: int = _setting(100, "model", "numbers per latent")
    base_channels: int = _setting(64, "model", "channels of the layer next to the image, in both networks")
    init: str = _setting(
        "bilinear",
        "model",
        "how the generator's doubling layers begin: as random kernels, which draw a grid, or as bilinear enlargement "
        "(Aitken et al. 2017)",
        ("bilinear", "normal"),
    )

    epochs: int = _setting(5, "optimisation", "passes over the data")
    steps: int = _setting(0, "optimisation", "end after this many iterations whatever --epochs says; 0: no such limit")
    batch_size: int = _setting(
        128, "optimisation", "images per discriminator step, of each process if there are several"
    )
    loss: str = _setting("bce", "optimisation", "objective", ("bce", "hinge", "lsgan"))
    lr: float = _setting(5e-4, "optimisation", "Adam's learning rate; the tutorial's is 2e-4")
    lr_d: float = _setting(
        0.0, "optimisation", "the discriminator's, if it is to be another (Heusel et al. 2017); 0: that of --lr"
    )
    lr_warmup: int = _setting(0, "optimisation", "iterations over which the learning rates rise to their full values")
    lr_decay: float = _setting(
        0.0,
        "optimisation",
        "share of the run, at its end, over which the learning rates fall linearly to nothing; 0: none. The end is "
        "that of --epochs or --steps: resuming with another one changes the rates from there on",
    )
    beta1: float = _setting(0.5, "optimisation", "Adam's first decay; 0.9 makes GANs oscillate (Radford et al. 2016)")
    beta2: float = _setting(0.999, "optimisation", "Adam's second decay")
    d_steps: int = _setting(1, "optimisation", "discriminator steps per iteration, each on a fresh batch")
    g_steps: int = _setting(1, "optimisation", "generator steps per iteration")
    ema: float = _setting(
        0.999, "optimisation", "decay per iteration of the averaged generator that draws and is exported; 0: none"
    )
    batch_norm_momentum: float = _setting(
        0.8, "optimisation", "share of the running statistics that BatchNorm keeps per iteration"
    )
    precise_bn: bool = _setting(
        False,
        "optimisation",
        "measure the generator's BatchNorm statistics for its very weights before it draws; with --ema it always is so",
    )
    amp: str = _setting(
        "auto",
        "optimisation",
        "mixed precision; auto: O1 on a GPU, O0 on a CPU (where O1 is bfloat16 by oneDNN)",
        ("auto", "O0", "O1", "O2"),
    )
    amp_dtype: str = _setting(
        "auto", "optimisation", "auto: bfloat16 where the GPU has it, else float16", ("auto", "bfloat16", "float16")
    )
    cpu_kernels: str = _setting(
        "auto",
        "optimisation",
        "who computes the layers on a CPU: Paddle's operators, or oneDNN from Paddle's wheel, twice as fast; "
        "auto: oneDNN where it fits",
        ("auto", "paddle", "onednn"),
    )
    sync_bn: bool = _setting(
        False, "optimisation", "BatchNorm over the batches of all processes together instead of each its own; GPUs only"
    )
    seed: int = _setting(0, "optimisation", "fixes first weights, latents and the order of the data")
    device: str = _setting("auto", "optimisation", "auto: a GPU if Paddle sees one; or cpu, gpu, gpu:1, ...")

    diffaugment: str = _setting(
        "translation,cutout",
        "regularisation",
        "what is done to all that the discriminator sees: any of color,translation,cutout (Zhao et al. 2020); "
        "empty: nothing, as in the tutorial",
    )
    instance_noise: float = _setting(
        0.0,
        "regularisation",
        "deviation of the noise on what the discriminator sees, at the start; pixels are -1 .. 1 (Arjovsky & Bottou "
        "2017)",
    )
    noise_steps: int = _setting(1000, "regularisation", "iterations over which --instance-noise fades to none")
    r1: float = _setting(
        0.0, "regularisation", "weight of the penalty on the discriminator's gradient (R1, Mescheder et al. 2018)"
    )
    r1_every: int = _setting(16, "regularisation", "iterations between two penalties of --r1 (Karras et al. 2020)")

    out: str = _setting("work/train", "output", "folder under which numbered run folders are made")
    log_every: int = _setting(10, "output", "iterations between two log lines")
    sample_every: int = _setting(100, "output", "iterations between two sample grids")
    checkpoint_every: int = _setting(500, "output", "iterations between two checkpoints; one more is kept at the end")
    keep: int = _setting(3, "output", "newest checkpoints kept, besides the best and the last healthy one")
    evaluate_every: int = _setting(
        500, "output", "iterations between two measurements of the images (sliced Wasserstein distance); 0: none"
    )
    visualdl: bool = _setting(False, "output", "also write scalars, grids and graphs for VisualDL, Paddle's dashboard")
    on_collapse: str = _setting(
        "warn",
        "output",
        "when all faces become one: warn, stop, or rollback to the last healthy checkpoint with fresh randomness",
        ("warn", "stop", "rollback"),
    )

    def validate(self) -> TrainConfig:
        """This config, unchanged. Raises ValueError naming every setting that is out of range or of another type."""
        self.from_mapping(self.to_json())  # types first: ranges compare numbers
        problems = [*_range_problems(self), *_choice_problems(self)]
        try:
            check_image_size(self.image_size)
        except ValueError as error:
            problems.append(str(error))
        problems += _combination_problems(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; `from_mapping` takes it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainConfig:
        """A config from names and values; what is missing keeps its default.

        Raises ValueError for unknown names (naming the nearest one) and for values of another type.
        """
        known = {f.name: f for f in fields(cls)}
        values = {_RENAMED.get(name, name): value for name, value in values.items()}
        values = {name: value for name, value in values.items() if name not in _RETIRED or _RETIRED[name] != value}
        problems: list[str] = []
        for name, value in values.items():
            if name in _RETIRED:
                problems.append(f"{name} is gone: it made faces worse (docs/quality.md); received {value!r}")
            elif name not in known:
                nearest = difflib.get_close_matches(name, known, 1)
                problems.append(f"unknown setting {name!r}" + (f", did you mean {nearest[0]!r}?" if nearest else ""))
            elif not _fits(value, type(known[name].default)):
                expected = type(known[name].default).__name__
                problems.append(f"{name} must be of type {expected}, received {value!r}")
        if problems:
            raise ValueError("; ".join(problems))
        floats = {f.name for f in fields(cls) if isinstance(f.default, float)}
        return cls(**{name: float(value) if name in floats else value for name, value in values.items()})


# help(TrainConfig) says what each setting is.
TrainConfig.__doc__ = "\n".join(
    [
        TrainConfig.__doc__ or "",
        "",
        *(f"{f.name}: {f.metadata['help']} (default: {f.default!r})" for f in fields(TrainConfig)),
    ]
)

# Settings of older runs: their names today, and those that are gone with the value at which they did nothing.
_RENAMED = {"batch_norm_reestimate": "precise_bn"}
_RETIRED = {"spectral_norm": False, "label_smoothing": 0.0}

# What --preset sets; explicit flags win.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The tutorial's text: 8 epochs, the generator learns twice per iteration, and nothing that it does not have.
    "tutorial": {
        "epochs": 8,
        "batch_size": 128,
        "lr": 2e-4,
        "d_steps": 1,
        "g_steps": 2,
        "ema": 0.0,
        "init": "normal",
        "diffaugment": "",
    },
    # Sized for five to ten minutes on two CPU cores with synthetic faces.
    "quick": {
        "base_channels": 32,
        "batch_size": 32,
        "epochs": 7,
        "lr": 2e-4,
        "ema": 0.99,
    },
}

# Settings that may differ between a checkpoint and the run that continues it.
CHANGEABLE = frozenset(
    "epochs steps device amp amp_dtype sync_bn cpu_kernels workers out log_every sample_every checkpoint_every keep "
    "evaluate_every visualdl on_collapse".split()
)


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset. Raises ValueError listing the names there are."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, received {name!r}")
    return dict(PRESETS[name])


def read_config(path: PathLike) -> dict[str, Any]:
    """The settings in a `config.json`, or in the run folder that holds one. Raises ValueError, FileNotFoundError."""
    path = Path(path)
    run = path if path.is_dir() else None  # in another person's run folder, config.json may be a link to anything
    path = path / "config.json" if run else path
    try:
        values = json.loads(read_file(path, MAX_JSON_BYTES, within=run))
    except FileNotFoundError:
        raise FileNotFoundError(f"no config at {path}: give a run folder or its config.json") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold one JSON object of settings, received a {type(values).__name__}")
    return values


def differences(saved: TrainConfig, asked: TrainConfig) -> list[str]:
    """One line for each setting that differs and may not: what a resume must refuse."""
    return [
        f"{f.name}: saved {getattr(saved, f.name)!r}, asked {getattr(asked, f.name)!r}"
        for f in fields(TrainConfig)
        if f.name not in CHANGEABLE and getattr(saved, f.name) != getattr(asked, f.name)
    ]


def with_default_data(config: TrainConfig) -> TrainConfig:
    """The config with `data` filled in when it is empty: CelebA if it lies in `work/`, else synthetic faces."""
    if config.data:
        return config
    for candidate in (Path("work/img_align_celeba"), Path("work/img_align_celeba.zip")):
        if candidate.exists():
            return dataclasses.replace(config, data=str(candidate))
    return dataclasses.replace(config, data="cartoon")


# name: (smallest, largest) allowed value
_RANGES = {
    "workers": (0, 256),
    "latent_dim": (1, 65536),
    "base_channels": (1, 1024),
    "epochs": (1, 10**9),
    "steps": (0, 10**9),
    "batch_size": (1, 65536),
    "lr": (1e-12, 1e3),
    "lr_d": (0.0, 1e3),
    "lr_warmup": (0, 10**9),
    "lr_decay": (0.0, 1.0),
    "beta1": (0.0, 0.999999),
    "beta2": (0.0, 0.999999),
    "d_steps": (1, 1000),
    "g_steps": (1, 1000),
    "ema": (0.0, 0.999999),
    "batch_norm_momentum": (0.0, 0.999999),
    "r1": (0.0, 1e6),
    "r1_every": (1, 10**9),
    "instance_noise": (0.0, 10.0),
    "noise_steps": (1, 10**9),
    "seed": (0, MAX_SEED),
    "log_every": (1, 10**9),
    "sample_every": (1, 10**9),
    "checkpoint_every": (1, 10**9),
    "keep": (1, 10**9),
    "evaluate_every": (0, 10**9),
}


def _range_problems(config: TrainConfig) -> list[str]:
    return [
        f"{name} must be from {low} to {high}, received {getattr(config, name)!r}"
        for name, (low, high) in _RANGES.items()
        if not low <= getattr(config, name) <= high  # also true for NaN
    ]


def _choice_problems(config: TrainConfig) -> list[str]:
    return [
        f"{f.name} must be one of {', '.join(f.metadata['choices'])}, received {getattr(config, f.name)!r}"
        for f in fields(config)
        if f.metadata["choices"] and getattr(config, f.name) not in f.metadata["choices"]
    ]


def _combination_problems(config: TrainConfig) -> list[str]:
    """Settings that are right by themselves and wrong together, and lists of words."""
    problems = []
    words = config.diffaugment.split(",") if config.diffaugment else []
    if len(set(words)) < len(words) or not set(words) <= set(DIFFAUGMENT):
        problems.append(f"diffaugment must be some of {','.join(DIFFAUGMENT)}, received {config.diffaugment!r}")
    if config.sync_bn and config.precise_bn and not config.ema:
        problems.append("precise_bn with sync_bn needs an averaged generator: set ema")
    if config.r1 and config.amp == "O2":
        problems.append("r1 needs float32 weights, received amp O2; O1 has them")
    if config.r1 and config.sync_bn:
        problems.append("r1 knows the statistics of its own process only: leave out sync_bn")
    return problems


def _fits(value: Any, expected: type) -> bool:
    """Whether a JSON value may stand for a field of this type: whole numbers pass as floats, bools not as numbers."""
    if expected is float:
        return isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)
