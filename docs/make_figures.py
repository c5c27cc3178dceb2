#!/usr/bin/env python3
"""Make every figure and every number of docs/tutorial.zh.md and docs/tutorial.en.md from one training run."""

from __future__ import annotations

import argparse
import copy
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dcgan.environment import import_paddle

import_paddle()

import cv2
import numpy as np
import paddle
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dcgan import DCGAN
from dcgan import train as runs
from dcgan.callbacks.plots import matplotlib_defaults
from dcgan.config import TrainConfig
from dcgan.data.crop import fit_image
from dcgan.data.decode import decode_image
from dcgan.data.packed import PackedData
from dcgan.data.synthetic_faces import draw_face
from dcgan.images import TITLE_HEIGHT, grid, to_float, to_uint8
from dcgan.metrics.evaluate import chosen_real, evaluate, measure
from dcgan.model import augmentation
from dcgan.networks.layers import parameter_count
from dcgan.networks.modes import evaluating
from dcgan.presets import PRESETS
from dcgan.resume import saved_config
from dcgan.runs.find_checkpoint import find_checkpoint
from dcgan.runs.records import is_of_training, read_records
from dcgan.training.losses import OBJECTIVES
from deploy.files import atomic_write
from deploy.seeds import latents
from deploy.walk import walk_latents
from docs.make_images import cut
from tools.console import add_log_level, run, start_logging

DOCS = Path(__file__).resolve().parent
EXAMPLES = """examples:
  python docs/make_figures.py                                      train with --preset quick first
  python docs/make_figures.py --run work/train/00000-cartoon       a run on synthetic faces that exists
"""
BLUE, RED, GREY = "#2563eb", "#d9480f", "#5c6878"
FACES = (0, 3, 11, 17, 28, 45, 66, 82)  # seeds that are followed through time


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--run", type=Path, metavar="RUN", help="run folder (default: train one under work/train)")
    flags.add_argument("--docs", type=Path, default=DOCS, help="folder of the tutorial's pages (default: this one)")
    flags.add_argument("--n", type=int, default=1000, help="images of each set that are measured (default: 1000)")
    add_log_level(flags)
    return flags


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    start_logging(arguments.log_level)
    folder = arguments.run or runs.train(TrainConfig(data="cartoon", **PRESETS["quick"]), argv=sys.argv).folder
    found = find_checkpoint(folder)
    config = saved_config(found)
    model = DCGAN(config)
    model.load(found)
    data = runs.packed_data(config)
    records = list(filter(is_of_training, read_records(folder / "metrics.jsonl")))
    out = arguments.docs / "images" / "tutorial"
    out.mkdir(parents=True, exist_ok=True)

    write_data(out / "data.jpg", data)
    write_crop(out / "crop.jpg", config.image_size)
    write_networks(out / "networks.png", model)
    write_loss(out / "loss.png")
    write_augmented(out / "shown.jpg", data)
    write_progress(out / "progress.jpg", folder / "samples")
    write_curves(out / "curves.png", records)
    write_comparison(out / "comparison.jpg", model, data)
    write_modes(out / "modes.jpg", model)
    write_walk(out / "walk.jpg", model)
    figures = write_nearest(out / "nearest.jpg", model, data, min(arguments.n, len(data) // 2))
    numbers = {**training_numbers(model, data, records), **figures}
    for language in ("en", "zh"):
        write_numbers(arguments.docs / f"tutorial.{language}.md", numbers, language)
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) // 1000} KB")
    return 0


# ---- images -------------------------------------------------------------------------------------------------------


def write_jpeg(path: Path, image_uint8: np.ndarray, quality: int = 88) -> None:
    """Write an RGB image, uint8 [3, H, W], atomically."""
    bgr = np.ascontiguousarray(image_uint8[::-1].transpose(1, 2, 0))
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    with atomic_write(path) as stream:
        stream.write(encoded.tobytes())


def write_data(path: Path, data: PackedData) -> None:
    write_jpeg(path, grid(np.asarray(data.images[:48]), columns=12))


def write_augmented(path: Path, data: PackedData) -> None:
    """Above training images, below what the discriminator sees of them by the default settings."""
    images = np.asarray(data.images[:12])
    paddle.seed(0)
    shown = augmentation(TrainConfig())(paddle.to_tensor(to_float(images)), 0).numpy()
    write_jpeg(path, grid(np.concatenate([images, to_uint8(shown)]), columns=len(images)))


def write_crop(path: Path, size: int) -> None:
    """A portrait as it is, shrunk with the square that is kept, and that square."""
    portrait = draw_face(4)  # [218, 178, 3]
    kept = fit_image(portrait, size)
    height = round(portrait.shape[0] * size / portrait.shape[1])
    shrunk = cv2.resize(portrait, (size, height), interpolation=cv2.INTER_AREA)
    scale = 3
    shrunk, kept = (np.repeat(np.repeat(p, scale, 0), scale, 1) for p in (shrunk, kept))
    top = round(10 * size / 64) * scale
    framed = cv2.rectangle(
        shrunk.copy(), (1, top), (size * scale - 2, top + size * scale - 2), (37, 99, 235), 3
    )  # RGB blue
    tallest = max(portrait.shape[0], shrunk.shape[0])
    parts = [np.pad(p, ((0, tallest - len(p)), (0, 16), (0, 0)), constant_values=255) for p in (portrait, framed, kept)]
    write_jpeg(path, np.concatenate(parts, axis=1)[:, :-16].transpose(2, 0, 1))


def write_progress(path: Path, samples: Path, columns: int = 10) -> None:
    """A row per seed, a column per moment, cut out of the sample grids."""
    paths = sorted(samples.glob("step-*.png"))
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, columns).round().astype(int))]
    grids = [decode_image(p.read_bytes())[TITLE_HEIGHT:] for p in chosen]
    faces = [cut(image, seed) for seed in FACES for image in grids]
    write_jpeg(path, grid(np.stack(faces).transpose(0, 3, 1, 2), columns=len(grids)))


def write_comparison(path: Path, model: DCGAN, data: PackedData) -> None:
    """Real faces on the left, generated ones on the right."""
    real, fake = np.asarray(data.images[:36]), to_uint8(model.generate(range(36)))
    space = np.full((3, grid(real).shape[1], 16), 255, np.uint8)
    write_jpeg(path, np.concatenate([grid(real), space, grid(fake)], axis=2))


def write_modes(path: Path, model: DCGAN) -> None:
    """One seed beside eight different neighbours: above in training mode, below in eval mode."""
    network = copy.deepcopy(model.inference_generator())  # training mode would move the running statistics
    batches = [[7, 100 + i] for i in range(8)]
    network.train()
    with paddle.no_grad():
        above = [network(paddle.to_tensor(latents(batch, model.config.latent_dim))).numpy()[0] for batch in batches]
    below = [model.generate(batch)[0] for batch in batches]
    write_jpeg(path, grid(to_uint8(np.stack(above + below)), columns=len(batches)))


def write_walk(path: Path, model: DCGAN) -> None:
    """Three rows: from one face to the next and on, round to the first."""
    path_of_latents = walk_latents([5, 24, 66], 30, model.config.latent_dim)
    with evaluating(model.inference_generator()), paddle.no_grad():
        images = model.network(paddle.to_tensor(path_of_latents)).numpy()
    write_jpeg(path, grid(to_uint8(images), columns=10))


# ---- figures --------------------------------------------------------------------------------------------------------


def new_figure(width: float, height: float, **layout: float) -> tuple[Figure, list]:
    """A figure of so many inches and its axes, side by side as `layout` says."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.ravel(figure.subplots(**layout)))


def save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})


@matplotlib_defaults()
def write_networks(path: Path, model: DCGAN) -> None:
    """What stands between the layers of both networks, read off a forward pass."""
    figure, axes = new_figure(9, 3.6, nrows=2)
    size = model.config.image_size
    inputs = (paddle.zeros([1, model.config.latent_dim]), paddle.zeros([1, 3, size, size]))
    for axis, network, value in zip(axes, (model.generator, model.discriminator), inputs):
        shapes = [list(value.shape[1:]), *shapes_between(network, value)]
        for i, shape in enumerate(shapes):
            side = shape[1] if len(shape) == 3 else 1
            height = 0.16 + 0.84 * np.log2(side) / np.log2(size)
            width = 0.10 + 0.05 * np.log2(shape[0])
            kind = BLUE if network is model.generator else RED
            corner = i - width / 2, (1 - height) / 2
            axis.add_patch(Rectangle(corner, width, height, facecolor=kind + "33", edgecolor=kind))
            text = " x ".join(map(str, shape))
            axis.text(i, -0.08, text, ha="center", va="top", fontsize=9, color=GREY)
            if i:
                axis.annotate("", (i - 0.42, 0.5), (i - 0.58, 0.5), arrowprops={"arrowstyle": "->", "color": GREY})
        name = "G" if network is model.generator else "D"
        axis.set(xlim=(-0.9, len(shapes) - 0.4), ylim=(-0.3, 1.05))
        axis.text(-0.85, 0.5, name, fontsize=15, fontweight="bold", va="center")
        axis.axis("off")
    save(figure, path)


def shapes_between(network: paddle.nn.Layer, value: paddle.Tensor) -> list[list[int]]:
    """Shapes [C, H, W] that leave the convolutions, in their order."""
    shapes: list[list[int]] = []
    convolutions = [layer for name, layer in network.named_sublayers() if name.startswith("conv_")]
    hooks = [c.register_forward_post_hook(lambda _, __, y: shapes.append(list(y.shape[1:]))) for c in convolutions]
    with evaluating(network), paddle.no_grad():
        network(value)
    for hook in hooks:
        hook.remove()
    return shapes


@matplotlib_defaults()
def write_loss(path: Path) -> None:
    """The generator's loss of the paper's game and the one that is used, over D(G(z)), with their slopes."""
    logits = paddle.linspace(-6, 6, 241)
    logits.stop_gradient = False
    score = paddle.nn.functional.sigmoid(logits)
    used = paddle.stack([OBJECTIVES["bce"].generator(logits[i]) for i in range(len(logits))])
    game = -paddle.nn.functional.softplus(logits)  # log(1 - D(G(z)))
    figure, (left, right) = new_figure(8, 2.8, ncols=2)
    for loss, label, colour in ((game, "log(1 - D(G(z)))", GREY), (used, "-log D(G(z))", RED)):
        (slope,) = paddle.grad(loss.sum(), logits, retain_graph=True)
        left.plot(score.numpy(), loss.numpy(), color=colour, label=label)
        right.plot(score.numpy(), np.abs(slope.numpy()), color=colour, label=label)
    left.set(xlabel="D(G(z))", title="loss of G")
    right.set(xlabel="D(G(z))", title="size of its gradient by D's logit")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    save(figure, path)


@matplotlib_defaults()
def write_curves(path: Path, records: Sequence[dict]) -> None:
    figure, (left, right) = new_figure(9, 2.8, ncols=2)
    steps = [record["step"] for record in records]
    for axis, names in ((left, ("loss_d", "loss_g")), (right, ("score_real", "score_fake"))):
        labels = {"loss_d": "D", "loss_g": "G", "score_real": "D(x)", "score_fake": "D(G(z))"}
        for name, colour in zip(names, (BLUE, RED)):
            axis.plot(steps, [record[name] for record in records], color=colour, linewidth=1, label=labels[name])
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=2, frameon=False)
    left.set(xlabel="iteration")
    left.set_title("losses", loc="left")
    right.set(xlabel="iteration", ylim=(0, 1))
    right.set_title("probability of being real", loc="left")
    save(figure, path)


# ---- numbers --------------------------------------------------------------------------------------------------------

LABELS = {
    "images": ("training images", "训练图片数"),
    "settings": ("settings that are not the defaults", "与默认值不同的设置"),
    "generator": ("parameters of G", "G 的参数量"),
    "discriminator": ("parameters of D", "D 的参数量"),
    "iterations": ("iterations", "迭代次数"),
    "minutes": ("minutes on two CPU cores", "两核 CPU 用时（分钟）"),
    "rate": ("images per second, median", "每秒图片数（中位数）"),
    "loss_d": ("loss of D, mean of the last tenth", "D 的损失，最后十分之一的平均"),
    "loss_g": ("loss of G, mean of the last tenth", "G 的损失，最后十分之一的平均"),
    "score_real": ("D(x), mean of the last tenth", "D(x)，最后十分之一的平均"),
    "score_fake": ("D(G(z)), mean of the last tenth", "D(G(z))，最后十分之一的平均"),
    "n": ("images of each set that are compared", "参与比较的图片数（每组）"),
    "swd_untrained": ("sliced Wasserstein distance before training", "训练前的 sliced Wasserstein 距离"),
    "swd": ("sliced Wasserstein distance after training", "训练后的 sliced Wasserstein 距离"),
    "swd_real": ("the same between two sets of real images", "两组真实图片之间的同一距离"),
    "ms_ssim": ("MS-SSIM of pairs of generated images", "生成图片两两之间的 MS-SSIM"),
    "ms_ssim_real": ("MS-SSIM of pairs of real images", "真实图片两两之间的 MS-SSIM"),
    "nearest_ratio": (
        "distance to the nearest training image, real images = 1",
        "到最近训练图片的距离（真实图片 = 1）",
    ),
}


def training_numbers(model: DCGAN, data: PackedData, records: Sequence[dict]) -> dict[str, str]:
    tail = records[-max(1, len(records) // 10) :]
    changed = {k: v for k, v in model.config.to_json().items() if v != TrainConfig().to_json()[k] and k != "out"}
    measured = {name: [r[name] for r in tail if r.get(name) is not None] for name in LABELS}  # some come late
    means = {name: statistics.fmean(values) for name, values in measured.items() if values}
    kept = ("loss_d", "loss_g", "score_real", "score_fake")
    return {
        "images": f"{len(data):,}",
        "settings": ", ".join(f"`{name} {json.dumps(value)}`" for name, value in changed.items()),
        "generator": f"{parameter_count(model.generator):,}",
        "discriminator": f"{parameter_count(model.discriminator):,}",
        "iterations": f"{model.global_step:,}",
        "minutes": f"{records[-1]['elapsed_seconds'] / 60:.1f}",
        "rate": f"{statistics.median(record['images_per_second'] for record in records):.0f}",
        **{name: f"{means[name]:.2f}" for name in kept},
    }


def write_nearest(path: Path, model: DCGAN, data: PackedData, n: int) -> dict[str, str]:
    """Figures of n generated images against n real ones, and the image of the nearest neighbours."""
    fake = to_uint8(model.generate(range(n)))
    report, nearest = evaluate(data, fake, {"seeds": f"0-{n - 1}"})
    write_jpeg(path, nearest, 80)
    real, others = chosen_real(data, n), chosen_real(data, n, skip=n)
    untrained = to_uint8(DCGAN(model.config).generate(range(n)))
    figures = report["figures"]
    return {
        "n": f"{n:,}",
        "swd_untrained": f"{measure(real, untrained)['swd']:.0f}",
        "swd": f"{figures['swd']:.1f}",
        "swd_real": f"{measure(real, others)['swd']:.1f}",
        **{name: f"{figures[name]:.2f}" for name in ("ms_ssim", "ms_ssim_real", "nearest_ratio")},
    }


def write_numbers(page: Path, numbers: dict[str, str], language: str) -> None:
    """Put the tables between the page's `<!-- numbers: a b c -->` and `<!-- end -->`, each with the rows it names."""
    column = ("en", "zh").index(language)

    def table(match: re.Match) -> str:
        rows = [f"| {LABELS[name][column]} | {numbers[name]} |\n" for name in match[1].split()]
        return f"<!-- numbers: {match[1]} -->\n| | |\n|---|---|\n{''.join(rows)}<!-- end -->"

    text = page.read_text("utf-8")
    text = re.sub(r"<!-- numbers: ([\w ]+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)
    with atomic_write(page, "w") as stream:
        stream.write(text)


if __name__ == "__main__":
    run(main)
