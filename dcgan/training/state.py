"""What a checkpoint holds: every number of a model that training changes, by name.

Optimizers' tensors go by the structured names of the parameters that they belong to. Paddle names them by
process-global counters, which is why its own optimizer files fit only a process that built everything in the same
order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ..checkpoints.checkpoint import Tensors, misfits
from ..distributed.process_group import ProcessGroup
from ..errors import CheckpointError, TrainingError

Pairs = list[tuple[paddle.Tensor, np.ndarray]]


class ModelState:
    """The tensors and loss scales of networks and their optimizers.

    Args: networks - by name.  optimizers, scalers - by the name of the network that they move.
    Groups of a checkpoint are called as the network, and `<network>_optimizer`.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Layer],
        optimizers: Mapping[str, paddle.optimizer.Optimizer],
        scalers: Mapping[str, paddle.amp.GradScaler],
    ):
        self._networks, self._optimizers, self._scalers = networks, optimizers, scalers

    # ---- to and from a checkpoint -----------------------------------------------------------------------------------

    def collect(self) -> dict[str, Tensors]:
        """Every group as float32 arrays by name. Under O2 the float32 master weights take the place of the
        parameters, so that a checkpoint has one form whatever the precision.

        Raises TrainingError for numbers that are not finite: such a checkpoint would only replace a good one.
        """
        groups = {name: network_arrays(network) for name, network in self._networks.items()}
        for name, optimizer in self._optimizers.items():
            network = self._networks[name]
            groups[f"{name}_optimizer"] = optimizer_arrays(optimizer, network)
            groups[name].update({k: master.numpy() for k, master in master_weights(optimizer, network).items()})
        bad = [f"{g}/{k}" for g, tensors in groups.items() for k, v in tensors.items() if not np.isfinite(v).all()]
        if bad:
            raise TrainingError(f"not saved: {len(bad)} tensors are not finite, {bad[0]} among them.")
        return groups

    def restore(self, groups: Mapping[str, Tensors], folder: Any) -> None:
        """Set every tensor to its value in `groups`.

        Raises CheckpointError, which names `folder` and every tensor that is missing, unknown, of another shape or not
        of finite float32 numbers; nothing is changed then.
        """
        problems, pairs = self._match(groups)
        if problems:
            raise CheckpointError(f"{folder} does not fit this model: " + "; ".join(problems))
        for tensor, value in pairs:
            tensor.set_value(paddle.to_tensor(value).astype(tensor.dtype))

    def _match(self, groups: Mapping[str, Tensors]) -> tuple[list[str], Pairs]:
        """All problems at once, and pairs of (own tensor, saved value)."""
        found = [_match_group(name, net.state_dict(), groups.get(name)) for name, net in self._networks.items()]
        found += [
            ([f"it holds a {name}, which this model was not built with"], [])
            for name in groups
            if name not in self._networks and not name.endswith("_optimizer")
        ]
        for name, optimizer in self._optimizers.items():
            network, group = self._networks[name], f"{name}_optimizer"
            found.append(_match_group(group, optimizer_slots(optimizer, network), groups.get(group)))
            saved = groups.get(name, {})
            masters = master_weights(optimizer, network)
            found.append(([], [(master, saved[k]) for k, master in masters.items() if k in saved]))
        return [p for problems, _ in found for p in problems], [pair for _, pairs in found for pair in pairs]

    def scaler_states(self) -> dict[str, dict[str, Any]]:
        """The loss scalers' states as JSON values, by network."""
        return {
            name: {key: np.asarray(value).tolist() for key, value in scaler.state_dict().items()}
            for name, scaler in self._scalers.items()
        }

    def restore_scalers(self, states: Mapping[str, Any]) -> None:
        """Set the loss scalers to what `scaler_states` gave; those without a saved state stay as they are."""
        for name, scaler in self._scalers.items():
            if name in states:
                scaler.load_state_dict(
                    {k: np.array(v, np.float32) if isinstance(v, list) else v for k, v in states[name].items()}
                )

    # ---- over processes ----------------------------------------------------------------------------------------------

    def broadcast(self, process_group: ProcessGroup) -> None:
        """Give every process the tensors of rank 0."""
        process_group.broadcast_tensors(list(self._tensors().values()))

    def check_equal(self, process_group: ProcessGroup, except_for: Collection[str] = ()) -> None:
        """Compare all tensors of all processes but those named. Raises TrainingError naming one that differs."""
        if process_group.size == 1:
            return
        tensors = {name: tensor for name, tensor in self._tensors().items() if name not in except_for}
        process_group.check_equal({name: tensor.astype("float32").numpy() for name, tensor in tensors.items()})

    def _tensors(self) -> dict[str, paddle.Tensor]:
        """Everything that training changes, by `<network or optimizer>/<name>`."""
        groups = {name: network.state_dict() for name, network in self._networks.items()}
        for name, optimizer in self._optimizers.items():
            network = self._networks[name]
            groups[f"{name}_optimizer"] = optimizer_slots(optimizer, network)
            groups[f"{name}_masters"] = master_weights(optimizer, network)
        return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def network_arrays(network: nn.Layer) -> Tensors:
    """Weights and statistics by structured name, float32 on the host."""
    return {name: tensor.astype("float32").numpy() for name, tensor in network.state_dict().items()}


def optimizer_arrays(optimizer: paddle.optimizer.Optimizer, network: nn.Layer) -> Tensors:
    """An optimizer's moments by `<structured name>/<moment>`, float32 on the host."""
    slots = optimizer_slots(optimizer, network)
    return {name: tensor.astype("float32").numpy() for name, tensor in slots.items()}


def optimizer_slots(optimizer: paddle.optimizer.Optimizer, network: nn.Layer) -> dict[str, paddle.Tensor]:
    """The optimizer's own tensors by structured name, made first where no step has made them yet."""
    trainable = {name: p for name, p in network.named_parameters() if not p.stop_gradient}
    optimizer._create_accumulators(paddle.base.default_main_program().global_block(), list(trainable.values()))
    masters = getattr(optimizer, "_master_weights", {})  # O2: the moments belong to these, not to the parameters
    return {
        f"{name}/{moment}": by_parameter[masters.get(parameter.name, parameter).name]
        for moment, by_parameter in optimizer._accumulators.items()
        for name, parameter in trainable.items()
    }


def master_weights(optimizer: paddle.optimizer.Optimizer, network: nn.Layer) -> dict[str, paddle.Tensor]:
    """float32 weights by structured name where the parameters themselves are of half precision (O2), else nothing."""
    masters = getattr(optimizer, "_master_weights", {})
    return {name: masters[p.name] for name, p in network.named_parameters() if p.name in masters}


def _match_group(group: str, own: Mapping[str, paddle.Tensor], saved: Tensors | None) -> tuple[list[str], Pairs]:
    if saved is None:
        return [f"it holds no {group}"], []
    problems = [f"{group}: {problem}" for problem in misfits(own, saved)]
    problems += [  # what `collect` writes; anything else would be rounded, or train on as NaN, without a word
        f"{group}: {name} is not of finite float32 numbers ({value.dtype})"
        for name, value in saved.items()
        if value.dtype != np.float32 or not np.isfinite(value).all()
    ]
    return problems, [(own[name], saved[name]) for name in own if name in saved]
