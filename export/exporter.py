"""The whole act of exporting: weights -> files -> proof -> in place of the last export.

Everything is built in a folder beside the target and measured there; only an export that passed takes the target's
place, so that a wrong one cannot be made by accident and the last good one survives every failure.
"""

from __future__ import annotations

import hashlib
import io
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import paddle

from dcgan.checkpoints.params import write_params
from dcgan.compute_plan import inference_plan
from dcgan.images import to_uint8
from dcgan.networks.batch_norm import BATCH_SIZE, LATENT_COUNT
from dcgan.networks.modes import eval_kernels
from dcgan.training.state import network_arrays
from deploy import playground
from deploy.files import PathLike, atomic_write, make_folders, write_json
from deploy.manifest import NETWORKS, PRECISIONS, Manifest, ModelEntry, describe_files, to_json, write_manifest
from deploy.own_files import MARK, refuse_foreign
from deploy.seeds import latents

from . import parity, static_graph
from .batch_norm_change import BatchNormChange, precise_bn_change
from .certificate import Exported, certify
from .converter import check_installed, check_opset, convert
from .folder import PARAMS_FILE, replacing
from .load_weights import Source, Trained, load_source

if TYPE_CHECKING:  # onnx_graph and web import onnx, which a Paddle program does not need
    import onnx

log = logging.getLogger(__name__)

OUT, OUT_WEB = Path("work/export"), Path("work/web")
MOST_PRECISE_BN = 500  # batches: memory grows with them, to 0.7 GB for 512 channels
OPSET = 17  # with file format (IR) 8: read by every onnxruntime since 1.12 (2022)
_WORDS = {"formats": ("paddle", "onnx", "web"), "networks": NETWORKS}
_REFERENCE_FILE, _REFERENCE_SEEDS = "reference.npz", range(10)


@dataclass(frozen=True)
class ExportConfig:
    """What to export. `formats` holds "paddle", "onnx" or both, or "web" alone; `networks` "generator" or more.

    `precise_bn` - batches of 64 latents over which BatchNorm statistics are re-estimated; 0: as training left them.
    `uint8` - a second ONNX generator whose output is uint8.  `single_file` - the web page as one HTML too.
    `device` - where parity is measured; the files are the same.
    """

    checkpoint: PathLike | None = None
    formats: Sequence[str] = ("onnx",)
    networks: Sequence[str] = ("generator",)
    precision: str = "fp32"
    opset: int = OPSET
    precise_bn: int = LATENT_COUNT // BATCH_SIZE
    uint8: bool = False
    single_file: bool = False
    device: str = "cpu"

    @property
    def makes_onnx(self) -> bool:
        """Whether ONNX is among the formats: the web page uses it, too."""
        return "onnx" in self.formats or "web" in self.formats

    @property
    def stored_precision(self) -> str:
        """What the manifest calls the precision of the models: those of the web page hold their weights as float16."""
        return "fp16-weights" if "web" in self.formats else self.precision

    def check(self) -> None:
        """Raise ValueError for words that are none of a setting's, and for settings that exclude each other."""
        for name, known in _WORDS.items():
            given = getattr(self, name)
            if isinstance(given, str) or not set(given) <= set(known):
                raise ValueError(f"{name} must be a list of {', '.join(known)}, received {given!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, received {self.precision!r}")
        is_web = tuple(self.formats) == ("web",)
        if is_web and (self.precision != "fp32" or self.uint8 or tuple(self.networks) != ("generator",)):
            raise ValueError(
                "the web page uses the generator alone, in float32. Use --format web without --precision, "
                "--uint8 and --network, or --format onnx."
            )
        if "web" in self.formats and not is_web:
            raise ValueError("the web page is a folder of its own. Use --format web alone.")
        if self.single_file and not is_web:
            raise ValueError("a single file is a form of the web page. Use --format web.")
        if self.precision != "fp32" and tuple(self.formats) != ("onnx",):
            raise ValueError(
                f"{self.precision} is for ONNX: Paddle's CPU kernels compute float32, and on a GPU Paddle Inference "
                "converts a float32 program by itself. Use --format onnx."
            )
        if self.uint8 and ("onnx" not in self.formats or "generator" not in self.networks):
            raise ValueError("uint8 is a form of the ONNX generator. Use --format onnx or all, --network generator.")
        check_opset(self.opset)
        if not 0 <= self.precise_bn <= MOST_PRECISE_BN:
            raise ValueError(
                f"precise_bn must be from 0 to {MOST_PRECISE_BN} batches of latents, received {self.precise_bn}"
            )


def export(out: PathLike = OUT, config: ExportConfig = ExportConfig()) -> Manifest:
    """Write what `config` asks for to the folder `out`, which is replaced as a whole, and return its manifest.

    Raises CheckpointError when there is nothing to export, ExportError when a step fails or ONNX is asked for where it
    cannot be made, ParityError when the result does not compute what the trained network computes; `out` is then as it
    was.
    """
    config.check()
    if not config.formats or not config.networks:
        raise ValueError("there is nothing to export: name at least one of formats and one of networks")
    if config.makes_onnx:
        check_installed()
    source, change, device = _prepare(config)
    report = parity.Report()
    with replacing(out) as folder:
        models: list[ModelEntry] = []
        for trained in source.networks.values():
            exported = _write_network(trained, folder, config, source.checkpoint)
            certify(exported, report, config.stored_precision, device)
            models += exported.models
        if not report.passed:
            log.error("%s", parity.table(report.rows))
        report.raise_if_failed()
        manifest = _manifest(folder, config, source, models, change, report, device)
        if config.single_file:
            manifest = _with_single_file(folder, manifest)
        write_manifest(folder, manifest)
    return manifest


def export_params(out: PathLike = OUT, config: ExportConfig = ExportConfig()) -> Path:
    """Write the generator as the tutorial's `generator.params` into the folder `out`; nothing else there changes.

    The weights are the trained ones; the statistics are re-estimated unless `config.precise_bn` is 0. Returns the path.
    Raises ValueError for a config that no such file can fulfil, CheckpointError when there is nothing to export,
    FileExistsError when a generator.params is there that no export wrote.
    """
    if "generator" not in config.networks:
        raise ValueError("generator.params holds the generator alone. Use --network generator, or --format onnx.")
    config = replace(config, formats=(), networks=("generator",))
    config.check()
    path = Path(out) / PARAMS_FILE
    refuse_foreign(path)
    source, _, _ = _prepare(config)
    make_folders(path.parent)
    write_params(path, network_arrays(source.networks["generator"].layer), MARK)
    return path


def _prepare(config: ExportConfig) -> tuple[Source, BatchNormChange | None, str]:
    """Networks from disk, in eval mode, on the device, with the statistics that will be exported."""
    compute = inference_plan(config.device)
    compute.apply()
    device = "cpu" if compute.is_cpu else "gpu"
    source = load_source(config.checkpoint, config.networks)
    weights = source.checkpoint
    step = "" if weights["step"] is None else f", step {weights['step']}"
    log.info("Exporting %s of %s%s", weights["network"], weights["run"], step)
    if not config.precise_bn or "generator" not in source.networks:
        return source, None, device
    generator = source.networks["generator"].layer
    with eval_kernels(generator, compute.sampling_kernels()):  # as for the training grid: it has the same statistics
        change = precise_bn_change(generator, source.latent_dim, config.precise_bn)
    log.info("%s", change.sentence())
    return source, change, device


def _write_network(trained: Trained, folder: Path, config: ExportConfig, checkpoint: Mapping[str, Any]) -> Exported:
    """Write one network in every format asked for. The Paddle program comes first: ONNX is made of it."""
    prefix = folder / trained.name
    static_graph.write_static_graph(trained.layer, trained.signature, prefix)
    operators = static_graph.read_operators(prefix, trained.layer)
    program = static_graph.program_files(prefix)
    models = []
    if config.makes_onnx:
        from . import onnx_graph

        facts = _facts(trained, config, checkpoint)
        converted = convert(prefix, config.opset, operators)
        model = onnx_graph.clean(converted, static_graph.parameter_names(trained.layer), trained.signature, facts)
        models = _write_onnx(model, trained, folder, config)
    if "paddle" in config.formats:
        models.append(ModelEntry(trained.name, "paddle", tuple(path.name for path in program)))
    else:
        for path in program:
            path.unlink()
    return Exported(trained, folder, models, operators)


def _write_onnx(model: onnx.ModelProto, trained: Trained, folder: Path, config: ExportConfig) -> list[ModelEntry]:
    """Write the model in the precision asked for, and the same with uint8 images if asked for."""
    from . import onnx_graph

    signature, stem = trained.signature, trained.name
    if config.stored_precision == "fp16-weights":
        model = onnx_graph.with_float16_weights(model, signature)
    elif config.precision == "fp16":
        model, stem = onnx_graph.with_float16(model, signature), f"{stem}-fp16"
    variants = {f"{stem}.onnx": (model, signature)}
    if config.uint8 and trained.name == "generator":
        uint8 = onnx_graph.with_uint8(model, signature), signature._replace(output_dtype="uint8")
        variants[f"{stem}-uint8.onnx"] = uint8
    entries = []
    for name, (variant, its) in variants.items():
        onnx_graph.check(variant, its)
        onnx_graph.write(variant, folder / name)
        versions = variant.opset_import[0].version, variant.ir_version
        entries.append(ModelEntry(trained.name, "onnx", (name,), config.stored_precision, its.output_dtype, *versions))
    return entries


def _facts(trained: Trained, config: ExportConfig, checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """What the ONNX file says of itself to whoever opens it."""
    from .onnx_graph import describe

    signature = trained.signature
    is_generator = trained.name == "generator"
    notes = (", standard normal", ", RGB, -1 to 1") if is_generator else (", RGB, -1 to 1", ", positive means real")
    return {
        "network": trained.name,
        "weights": trained.group,
        "run": checkpoint["run"],
        "step": "unknown" if checkpoint["step"] is None else str(checkpoint["step"]),
        "input": describe(signature.input_name, "float32", signature.input_shape) + notes[0],
        "output": describe(signature.output_name, "float32", signature.output_shape) + notes[1],
        "precision": config.precision,
        "batch_norm": "folded into the convolutions",
        "paddle": paddle.__version__,
        "paddle2onnx": version("paddle2onnx"),
    }


def _manifest(
    folder: Path,
    config: ExportConfig,
    source: Source,
    models: Sequence[ModelEntry],
    change: BatchNormChange | None,
    report: parity.Report,
    device: str,
) -> Manifest:
    names = [name for model in models for name in model.files]
    versions = {library.__name__: library.__version__ for library in (paddle, onnxruntime, np)}
    if config.makes_onnx:
        versions.update({name: version(name) for name in ("onnx", "paddle2onnx")})
    if config.makes_onnx and "generator" in source.networks:
        names.append(_write_directions(folder, models))
    if "web" in config.formats:
        from . import web

        versions["onnxruntime-web"] = playground.runtime_version()
        names += web.write_page(folder)
    measured = {**report.to_json(), "device": device, "inputs": "seeds 0-99"}
    precision = config.stored_precision
    measured["tolerances"] = {precision: parity.TOLERANCES[precision, device]._asdict()}
    if "generator" in source.networks:
        measured["reference"] = _write_reference(folder, source.networks["generator"])
        names.append(_REFERENCE_FILE)
    return Manifest(
        latent_dim=source.latent_dim,
        image_size=source.image_size,
        models=tuple(models),
        files=describe_files(folder, names),
        checkpoint=source.checkpoint,
        config=source.config,
        versions={"python": platform.python_version(), **versions},
        precise_bn=None if change is None else change._asdict(),
        parity=measured,
    )


def _write_directions(folder: Path, models: Sequence[ModelEntry]) -> str:
    """Write what the sliders of the playground move along, and return the name of the file."""
    import onnx

    from .directions import principal_directions

    model = next(model for model in models if (model.network, model.kind) == ("generator", "onnx"))
    write_json(folder / playground.DIRECTIONS, principal_directions(onnx.load(folder / model.files[0])))
    return playground.DIRECTIONS


def _with_single_file(folder: Path, manifest: Manifest) -> Manifest:
    """Write the page as one file, and return the manifest with that file in it."""
    from . import web

    with atomic_write(folder / web.SINGLE_FILE) as stream:
        stream.write(web.single_file(folder, to_json(manifest)))
    return replace(manifest, files={**manifest.files, **describe_files(folder, [web.SINGLE_FILE])})


def _write_reference(folder: Path, trained: Trained) -> dict[str, Any]:
    """The trained network's images of ten seeds, the reference for --verify on other machines."""
    seeds = np.array(_REFERENCE_SEEDS, np.uint32)
    images = parity.run_layer(trained.layer)(latents(seeds, trained.signature.input_shape[0]))
    content = io.BytesIO()
    np.savez(content, seeds=seeds, images=images)
    with atomic_write(folder / _REFERENCE_FILE) as stream:
        stream.write(content.getvalue())
    digest = hashlib.sha256(to_uint8(images).tobytes()).hexdigest()
    return {"seeds": seeds.tolist(), "file": _REFERENCE_FILE, "sha256_uint8": digest}
