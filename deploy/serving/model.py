"""One export as it is served: loaded, and verified on this machine, before a request may use it."""

from __future__ import annotations

import hashlib
from typing import Any

from deploy.files import PathLike
from deploy.manifest import Manifest, ModelError, describe_content, read_manifest, to_json, verify_files
from deploy.playground import model_files
from deploy.runtimes import BACKENDS, Runtime, load_discriminator, load_generator
from deploy.verify import Row, verify_runtime


class Model:
    """A generator, a discriminator or None, the manifest, and `tag`: what, with a seed, decides about every byte.

    `browser_files` - by name what the playground needs to run the generator in a browser, None if it cannot;
    `browser_description` - their digests.
    """

    def __init__(
        self,
        generator: Runtime,
        discriminator: Runtime | None,
        manifest: Manifest,
        verified: Row,
        browser_files: dict[str, bytes] | None,
    ):
        self.generator, self.discriminator = generator, discriminator
        self.manifest, self.verified = manifest, verified
        self.browser_files, self.browser_description = browser_files, describe_content(browser_files or {})
        self.id = generator.model_id
        self.tag = hashlib.sha256(f"{generator.backend} {generator.device} {self.id}".encode()).hexdigest()[:16]
        self.latent_dim = manifest.latent_dim
        self.image_size = manifest.image_size

    def describe(self) -> dict[str, Any]:
        """The manifest as JSON, and under `serving` what runs it here."""
        serving = {"model": self.tag, "backend": self.generator.backend, "device": self.generator.device}
        return {**to_json(self.manifest), "serving": {**serving, "scores": self.discriminator is not None}}


def load(folder: PathLike, backend: str = "auto", threads: int = 0) -> Model:
    """The export in `folder`, checked as `infer.py --verify` checks it.

    Raises ModelError if it is missing or damaged, or if its generator does not make here the reference images that it
    made where it was exported.
    """
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    generator = load_generator(folder, backend, threads=threads)
    row = verify_runtime(folder, manifest, generator)
    if not row.passed:
        raise ModelError(
            f"the generator differs by {row.max_difference:.1e} from its reference images, {row.tolerance:.0e} is "
            "allowed: it does not make here what it made where it was exported."
        )
    discriminator = None
    if manifest.find("discriminator", BACKENDS[generator.backend]) is not None:
        discriminator = load_discriminator(folder, generator.backend, threads=threads)
    if read_manifest(folder) != manifest:  # the generator could be of one export and the discriminator of another
        raise ModelError(f"{folder} was replaced by another export while it was loaded. Load it again.")
    return Model(generator, discriminator, manifest, row, model_files(folder, manifest))
