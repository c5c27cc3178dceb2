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

from deploy.files import PathLike
from deploy.untrusted import MAX_JSON_BYTES, read_file

from .networks.sizes import check_image_size

MAX_SEED = 2**32 - 1
DIFFAUGMENT = ("color", "translation", "cutout")
_MANY = 10**9  # more iterations than any run has


def _setting(
    default: Any,
    group: str,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    unit: str = "",
    aliases: tuple[str, ...] = (),
) -> Any:
    """A field that knows all about itself.

    Args: group - of flags in --help.  help - what it sets, without default and unit.  low, high - the smallest and the
          largest number allowed.  choices - the words allowed.  unit - of a number.  aliases - older names, which JSON
          and flags still take.
    """
    metadata = {"group": group, "help": help, "low": low, "high": high}
    metadata.update({"choices": choices, "unit": unit, "aliases": aliases})
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run. Defaults are those of the tutorial's code, but for the averaged generator and what
    else makes better faces of as many images: docs/quality.md."""

    data: str = _setting(
        "",
        "data",
        "folder, .zip, packed .npy, or the word cartoon; "
        "empty: work/img_align_celeba or its .zip if one is there, else cartoon",
    )
    crop: str = _setting(
        "tutorial", "data", "which square is kept: tutorial, center, or X,Y in pixels of the shrunk image"
    )
    flip: bool = _setting(False, "data", "mirror each image left to right with probability 1/2")
    workers: int = _setting(0, "data", "threads that decode images; 0: one per core", 0, 256, unit="threads")

    image_size: int = _setting(
        64, "model", "height and width of an image, a power of two from 16 to 256", unit="pixels"
    )  # checked by networks/sizes.py
    latent_dim: int = _setting(100, "model", "length of a latent vector", 1, 65536, unit="numbers")
    base_channels: int = _setting(
        64, "model", "channels of the layer next to the image, in both networks", 1, 1024, unit="channels"
    )
    init: str = _setting(
        "bilinear",
        "model",
        "first weights of the generator's upsampling layers: normal (random kernels, which leave a checkerboard at "
        "first) or bilinear (bilinear interpolation, which leaves none; Aitken et al. 2017)",
        choices=("bilinear", "normal"),
    )

    epochs: int = _setting(5, "optimisation", "passes over the data", 1, _MANY, unit="epochs")
    steps: int = _setting(
        0,
        "optimisation",
        "end after this many iterations, whatever --epochs says; 0: no limit",
        0,
        _MANY,
        unit="iterations",
    )
    batch_size: int = _setting(
        128, "optimisation", "images per discriminator step, in each process", 1, 65536, unit="images"
    )
    loss: str = _setting("bce", "optimisation", "objective", choices=("bce", "hinge", "lsgan"))
    energy_weight: float = _setting(
        50.0,
        "optimisation",
        "weight, in the generator's loss, of the distance between generated and real images of 4 x 4 and 8 x 8 pixels: "
        "colour and contrast, which BatchNorm hides from the discriminator (docs/quality.md); 0: none",
        0.0,
        1e6,
    )
    texture_weight: float = _setting(
        10.0,
        "optimisation",
        "weight, in the generator's loss, of the distance between generated and real images in texture: faint grain, "
        "which the discriminator is slow to notice (docs/quality.md); 0: none",
        0.0,
        1e6,
    )
    structure_weight: float = _setting(
        0.0, "optimisation", "weight in the generator's loss of the distance in structure; 0: none", 0.0, 1e6
    )
    lr: float = _setting(5e-4, "optimisation", "learning rate of Adam; the tutorial's is 2e-4", 1e-12, 1e3)
    lr_d: float = _setting(
        0.0,
        "optimisation",
        "learning rate of the discriminator, if it differs (Heusel et al. 2017); 0: the same as --lr",
        0.0,
        1e3,
    )
    lr_warmup: int = _setting(
        0, "optimisation", "iterations over which the learning rates rise to their values", 0, _MANY, unit="iterations"
    )
    lr_decay: float = _setting(
        0.0,
        "optimisation",
        "last part of the run in which the learning rates fall linearly to 0; 0: they stay. The end of the run is that "
        "of --epochs or --steps. All three may change on a resume, which lets a run that was long enough settle",
        0.0,
        1.0,
        unit="fraction",
    )
    beta1: float = _setting(
        0.5, "optimisation", "Adam's beta1; 0.9 makes GANs oscillate (Radford et al. 2016)", 0.0, 0.999999
    )
    beta2: float = _setting(0.999, "optimisation", "Adam's beta2", 0.0, 0.999999)
    d_steps: int = _setting(
        1, "optimisation", "discriminator steps per iteration, each on a new batch", 1, 1000, unit="steps"
    )
    g_steps: int = _setting(1, "optimisation", "generator steps per iteration", 1, 1000, unit="steps")
    ema: float = _setting(
        0.999,
        "optimisation",
        "decay per iteration of the averaged generator, which generates and is exported; 0: no average",
        0.0,
        0.999999,
    )
    batch_norm_momentum: float = _setting(
        0.8,
        "optimisation",
        "fraction of the running statistics that BatchNorm keeps per iteration",
        0.0,
        0.999999,
    )
    precise_bn: bool = _setting(
        False,
        "optimisation",
        "re-estimate the generator's BatchNorm statistics for its current weights before it generates "
        "(Wu & Johnson 2021); with --ema this is always done",
        aliases=("batch_norm_reestimate",),
    )
    amp: str = _setting(
        "auto",
        "optimisation",
        "mixed precision. auto: O1 on a GPU; on a CPU O1 where a short measurement, remembered for this processor, "
        "finds it at least 1.25 times as fast, else O0. On a CPU O1 and O2 are bfloat16 by oneDNN",
        choices=("auto", "O0", "O1", "O2"),
    )
    amp_dtype: str = _setting(
        "auto",
        "optimisation",
        "number format of mixed precision; auto: bfloat16 where the GPU has it, else float16",
        choices=("auto", "bfloat16", "float16"),
    )
    cpu_kernels: str = _setting(
        "auto",
        "optimisation",
        "library that computes the layers on a CPU: paddle (its own operators) or onednn (oneDNN, which Paddle's wheel "
        "contains); auto: oneDNN where it runs",
        choices=("auto", "paddle", "onednn"),
    )
    deterministic: bool = _setting(
        True,
        "optimisation",
        "on a GPU, use only cuDNN algorithms that repeat to the bit, so that a resumed run equals an uninterrupted "
        "one; they may be slower, and FLAGS_cudnn_exhaustive_search is refused. A CPU always repeats",
    )
    sync_bn: bool = _setting(
        False, "optimisation", "compute BatchNorm over the batches of all processes together; GPUs only"
    )
    seed: int = _setting(
        0, "optimisation", "sets the first weights, the latents and the order of the data", 0, MAX_SEED
    )
    device: str = _setting("auto", "optimisation", "auto: a GPU if Paddle sees one; or cpu, gpu, gpu:1, ...")

    diffaugment: str = _setting(
        "translation",
        "regularisation",
        "augmentations of everything the discriminator sees: any of color,translation,cutout (Zhao et al. 2020); "
        "empty: none, as in the tutorial",
    )
    translation_ratio: float = _setting(
        0.0625,
        "regularisation",
        "how far the augmentation translation shifts an image at most, as a fraction of its side: 4 of 64 pixels; "
        "Zhao et al. 2020 take 0.125, and faces come out less sharp",
        0.0,
        0.5,
    )
    instance_noise: float = _setting(
        0.0,
        "regularisation",
        "standard deviation, at the start, of the noise added to what the discriminator sees; pixels are in [-1, 1] "
        "(Arjovsky & Bottou 2017)",
        0.0,
        10.0,
    )
    noise_steps: int = _setting(
        1000, "regularisation", "iterations after which --instance-noise has fallen to 0", 1, _MANY, unit="iterations"
    )

    out: str = _setting("work/train", "output", "folder under which numbered run folders are made")
    log_every: int = _setting(10, "output", "iterations between two log lines", 1, _MANY, unit="iterations")
    sample_every: int = _setting(100, "output", "iterations between two sample grids", 1, _MANY, unit="iterations")
    checkpoint_every: int = _setting(
        500,
        "output",
        "iterations between two checkpoints; the end of the run writes another one",
        1,
        _MANY,
        unit="iterations",
    )
    keep: int = _setting(
        3, "output", "newest checkpoints kept, besides the best and the last healthy one", 1, _MANY, unit="checkpoints"
    )
    evaluate_every: int = _setting(
        500,
        "output",
        "iterations between two evaluations of the images (sliced Wasserstein distance); 0: none",
        0,
        _MANY,
        unit="iterations",
    )
    visualdl: bool = _setting(False, "output", "also write scalars and grids for VisualDL, Paddle's dashboard")
    on_collapse: str = _setting(
        "warn",
        "output",
        "what to do when all images become one: warn, stop, or rollback (continue from the last healthy checkpoint "
        "with other random numbers)",
        choices=("warn", "stop", "rollback"),
    )

    def validate(self) -> TrainConfig:
        """This config, unchanged. Raises ValueError naming every setting that is out of range or of another type."""
        self.from_mapping(self.to_json())  # types first: ranges compare numbers
        problems = []
        for name, value, about in ((f.name, getattr(self, f.name), f.metadata) for f in fields(self)):
            if about["low"] is not None and not about["low"] <= value <= about["high"]:  # also true for NaN
                problems.append(f"{name} must be from {about['low']} to {about['high']}, received {value!r}")
            if about["choices"] and value not in about["choices"]:
                problems.append(f"{name} must be one of {', '.join(about['choices'])}, received {value!r}")
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
        values = {
            name: value for name, value in values.items() if name not in _RETIRED or _RETIRED[name] not in (value, None)
        }
        problems: list[str] = []
        for name, value in values.items():
            if name in _RETIRED:
                problems.append(f"{name} is gone, docs/quality.md says why; received {value!r}")
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


def help_text(field: dataclasses.Field, otherwise: str = "") -> str:
    """What a setting is, its unit and its default, in one line: for --help and for help(TrainConfig).

    Args: otherwise - what the default is in other cases.
    """
    default = field.default if field.default != "" else "empty"
    unit = field.metadata["unit"]
    default = f"{default}{' ' + unit if unit else ''}{'; ' + otherwise if otherwise else ''}"
    return f"{field.metadata['help']} (default: {default})"


TrainConfig.__doc__ = "\n".join(
    [TrainConfig.__doc__ or "", "", *(f"{f.name}: {help_text(f)}" for f in fields(TrainConfig))]
)

# Older names of settings, and settings that are gone, with the value at which they did nothing; None: any value.
_RENAMED = {alias: f.name for f in fields(TrainConfig) for alias in f.metadata["aliases"]}
_RETIRED = {"spectral_norm": False, "label_smoothing": 0.0, "r1": 0.0, "r1_every": None}


# Settings that may differ between a checkpoint and the run that continues it.
CHANGEABLE = frozenset(
    "epochs steps lr_decay device amp amp_dtype cpu_kernels deterministic sync_bn workers out log_every sample_every "
    "checkpoint_every keep evaluate_every visualdl on_collapse".split()
)


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


def _combination_problems(config: TrainConfig) -> list[str]:
    """Settings that are right by themselves and wrong together, and lists of words."""
    problems = []
    words = config.diffaugment.split(",") if config.diffaugment else []
    if len(set(words)) < len(words) or not set(words) <= set(DIFFAUGMENT):
        problems.append(f"diffaugment must be some of {','.join(DIFFAUGMENT)}, received {config.diffaugment!r}")
    if config.sync_bn and config.precise_bn and not config.ema:
        problems.append("precise_bn with sync_bn needs an averaged generator: set ema")
    return problems


def _fits(value: Any, expected: type) -> bool:
    """Whether a JSON value may stand for a field of this type: whole numbers pass as floats, bools not as numbers."""
    if expected is float:
        return isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)
