"""DCGAN in torch, as its own users would write it to be fast on a CPU: what this project is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tools.benchmarks.measure import Run
from tools.benchmarks.work import Layer, discriminator, generator

LATENT_DIM = 100


def networks(base_channels: int, image_size: int) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with the layers of dcgan.networks, in channels_last."""
    g = _stack(generator(LATENT_DIM, base_channels, image_size), nn.ConvTranspose2d, nn.ReLU(), nn.Tanh())
    d = _stack(discriminator(base_channels, image_size), nn.Conv2d, nn.LeakyReLU(0.2), nn.Identity())
    del d[1]  # the discriminator's first layer has no BatchNorm
    return g.to(memory_format=torch.channels_last), d.to(memory_format=torch.channels_last)


def _stack(layers: list[Layer], convolution: type[nn.Module], activation: nn.Module, last: nn.Module) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in layers:
        stride, padding = (1, 0) if 1 in (layer.side_in, layer.side_out) else (2, 1)
        modules.append(convolution(layer.channels_in, layer.channels_out, 4, stride, padding, bias=False))
        modules += [nn.BatchNorm2d(layer.channels_out), activation]
    return nn.Sequential(*modules[:-2], last)


def adversarial_step(real: np.ndarray, base_channels: int, image_size: int, threads: int, dtype: str) -> Run:
    """One iteration: one pass of G, D learns from real and fake images in one backward, G from a frozen D."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    g, d = networks(base_channels, image_size)
    g_adam, d_adam = (torch.optim.Adam(n.parameters(), 2e-4, betas=(0.5, 0.999)) for n in (g, d))
    real_images = torch.from_numpy(real).to(memory_format=torch.channels_last)
    half = dtype == "bfloat16"

    def precision() -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()

    def loss(images: torch.Tensor, is_real: bool) -> torch.Tensor:
        with precision():
            logits = d(images).float()
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(is_real)))

    def step() -> None:
        with precision():
            fake = g(torch.randn(len(real_images), LATENT_DIM, 1, 1))
        d_adam.zero_grad()
        (loss(real_images, True) + loss(fake.detach(), False)).backward()
        d_adam.step()
        d.requires_grad_(False)
        g_adam.zero_grad()
        loss(fake, True).backward()
        g_adam.step()
        d.requires_grad_(True)

    return step


def inference(base_channels: int, image_size: int, batch_size: int, threads: int, dtype: str) -> Run:
    """One forward pass of a generator in eval mode, BatchNorm folded by nobody."""
    torch.set_num_threads(threads)
    g = networks(base_channels, image_size)[0].eval().to(getattr(torch, dtype))
    z = torch.randn(batch_size, LATENT_DIM, 1, 1).to(getattr(torch, dtype))

    def generate() -> np.ndarray:
        with torch.inference_mode():
            return g(z).float().numpy()

    return generate


def examples_recipe(
    images: np.ndarray, base_channels: int, threads: int, seed: int, count: int
) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
    """An iteration of pytorch/examples' dcgan/main.py with its defaults (batch 64, learning rate 2e-4, weights from
    N(0, 0.02), D's two backward passes) on uint8 images [N, 3, S, S]; and what makes `count` images, uint8, in train
    mode as there.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    random, size = np.random.default_rng(seed), 64
    g, d = (network.apply(_initialise) for network in networks(base_channels, images.shape[-1]))
    g_adam, d_adam = (torch.optim.Adam(n.parameters(), 2e-4, betas=(0.5, 0.999)) for n in (g, d))
    fixed = torch.randn(count, LATENT_DIM, 1, 1)
    order = np.empty(0, int)

    def loss(batch: torch.Tensor, label: float) -> torch.Tensor:
        logits = d(batch)
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    def train() -> None:
        nonlocal order
        if len(order) < size:  # the last, smaller batch of an epoch is left out
            order = random.permutation(len(images))
        chosen, order = order[:size], order[size:]
        real = torch.from_numpy(images[chosen]).float().div_(127.5).sub_(1).to(memory_format=torch.channels_last)
        d_adam.zero_grad()
        loss(real, 1.0).backward()
        fake = g(torch.randn(size, LATENT_DIM, 1, 1))
        loss(fake.detach(), 0.0).backward()
        d_adam.step()
        g_adam.zero_grad()
        loss(fake, 1.0).backward()
        g_adam.step()

    def generate() -> np.ndarray:
        with torch.no_grad():
            made = torch.cat([g(part) for part in fixed.split(size)])
        return made.add(1).mul(127.5).round().clamp(0, 255).byte().contiguous().numpy()

    return train, generate


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
