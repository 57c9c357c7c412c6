"""The weights that a process steps: all of them, or a part of every layer's (FSDP2).

Sharded, each process keeps a part of a layer's weights, of their gradients and of the optimizer's
moments, cut along the first dimension. A layer is put together where it is computed, and given up
behind it. What is outside of the layers stays whole in every process: losses read the vocabulary's
matrix in a way that no forward pass of it could announce.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import distributed, nn

from ollama_bridge.models.compute.cache import cache_among
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.train.optimizer import trainable_parameters
from ollama_bridge.train.ranks import Ranks

# Of a float32 weight in a saved state: itself, and AdamW's two moments.
_STATE_BYTES = 12


class Weights:
    """The trainable weights of a run, whole in every process.

    Attributes:
        parameters: What this process's optimizer steps, by name.
        count: How many numbers are trained, in all processes.
        in_step: Whether all processes have to run the model equally often.
        writes: Whether this process writes what was gathered.
        gathered_bytes: Main memory that the first process takes to save a state.
    """

    in_step = False
    gathered_bytes = 0

    def __init__(self, parameters: dict[str, nn.Parameter], ranks: Ranks) -> None:
        self.parameters = parameters
        self.count = sum(parameter.numel() for parameter in parameters.values())
        self.writes = ranks.first
        self._ranks = ranks

    def passes(self, count: int) -> int:
        """How often this process has to run the model, if it has so many parts to compute."""
        return int(self._ranks.largest(count)) if self.in_step else count

    def sum_gradients(self) -> None:
        """Sum gradients over all processes."""
        self._ranks.sum_gradients(self.parameters.values())

    def clip_gradients(self, limit: float) -> torch.Tensor:
        """Scale the gradient down to a norm, and return the one that it had."""
        return nn.utils.clip_grad_norm_(self.parameters.values(), limit)

    def clear_gradients(self) -> None:
        """Forget gradients, also those that were not summed."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def gathered(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """All processes' parts of a weight, or of one of its moments, put together."""
        del name
        return values

    def own_part(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """This process's part of a weight, or of one of its moments."""
        del name
        return values

    def put_back(self) -> None:
        """Make the model whole again in every process."""


class ShardedWeights(Weights):
    """Weights of which every process keeps a part.

    Args:
        model: Whole, and the same in every process. Its layers are replaced until
            :meth:`put_back`, which leaves all of it on the CPU.
        parameters: Its trainable ones, by name.
        ranks: The processes of the run.
    """

    in_step = True

    def __init__(
        self, model: CausalModel, parameters: dict[str, nn.Parameter], ranks: Ranks
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(parameters, ranks)
        self.gathered_bytes = self.count * _STATE_BYTES
        self._model = model
        layers = model.base_model.layers
        self._hollow = [_without_weights(layer, shared=model.config) for layer in layers]
        mesh = init_device_mesh(model.device.type, (ranks.size,))
        for layer in layers:
            shard = fully_shard(layer, mesh=mesh, reshard_after_forward=True)
            # Gradients are summed here (`batches.Batch.whole`); gloo could not average.
            shard.set_gradient_divide_factor(1.0)
            shard.set_force_sum_reduction_for_comms(True)
        layers[-1].register_forward_hook(_put_together_for_keys, with_kwargs=True)
        now = dict(model.named_parameters())
        self._shards = {name: now[name] for name in parameters if _is_shard(now[name])}
        # AdamW takes each number by itself, and steps plain tensors faster.
        self.parameters = {
            name: nn.Parameter(value.to_local().detach()) if _is_shard(value) else value
            for name, value in ((name, now[name]) for name in parameters)
        }

    def sum_gradients(self) -> None:
        """Sum what is whole; the sum of a shard was made while the backward pass ran."""
        whole = [value for name, value in self.parameters.items() if name not in self._shards]
        self._ranks.sum_gradients(whole)
        for name, shard in self._shards.items():
            if shard.grad is not None:
                self.parameters[name].grad = shard.grad.to_local()

    def clip_gradients(self, limit: float) -> torch.Tensor:
        """Scale by the norm of the gradient of all weights, whoever keeps them."""
        squares = {True: torch.zeros((), device=self._model.device)}
        squares[False] = squares[True].clone()
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                squares[name in self._shards] += parameter.grad.square().sum()
        distributed.all_reduce(squares[True])
        norm = (squares[True] + squares[False]).sqrt()
        nn.utils.clip_grads_with_norm_(self.parameters.values(), limit, norm)
        return norm

    def clear_gradients(self) -> None:
        """Forget gradients, also those that were not summed."""
        super().clear_gradients()
        for shard in self._shards.values():
            shard.grad = None

    def gathered(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """All parts put together, on the CPU; in the first process only, to whom they matter."""
        from torch.distributed.tensor import DTensor

        shard = self._shards.get(name)
        if shard is None or values.dim() == 0:
            return values
        whole = DTensor.from_local(
            values,
            shard.device_mesh,
            shard.placements,
            run_check=False,
            shape=shard.shape,
            stride=shard.stride(),
        ).full_tensor()
        return whole.cpu() if self._ranks.first else values

    def own_part(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """The rows of this process."""
        if name not in self._shards or values.dim() == 0:
            return values
        parts = values.chunk(self._ranks.size)
        return parts[self._ranks.rank] if self._ranks.rank < len(parts) else values[:0]

    def put_back(self) -> None:
        """Make the model whole again in every process, on the CPU."""
        layers = self._model.base_model.layers
        for number, (layer, hollow) in enumerate(zip(layers, self._hollow, strict=True)):
            values = {
                name: (value.full_tensor() if _is_shard(value) else value).detach().cpu()
                for name, value in layer.state_dict().items()
            }
            hollow.load_state_dict(values, assign=True)
            layers[number] = hollow.train(layer.training)
        self._model.cpu()


def place_weights(
    model: CausalModel, device: torch.device, ranks: Ranks, *, sharded: bool
) -> Weights:
    """Bring a model to where it is trained, the same in every process.

    Args:
        model: On the CPU; its weights that require a gradient are trained.
        device: Of this process.
        ranks: The processes of the run.
        sharded: Whether each keeps a part of every layer's weights, where there are several.

    Raises:
        TrainingError: nothing is to be trained, or what is is not float32.
    """
    model.to(device)
    parameters = trainable_parameters(model)
    for parameter in model.parameters():
        # Weights that were mapped from a file lie at odd addresses, and that decides last bits.
        parameter.data = parameter.data.clone()
    # Of frozen ones too: a start that each process computed (PiSSA, a cut) differs in last bits.
    ranks.copy_from_first(model.parameters())
    if sharded and ranks.size > 1:
        return ShardedWeights(model, parameters, ranks)
    return Weights(parameters, ranks)


def _put_together_for_keys(
    layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: torch.Tensor
) -> None:
    """Make the last layer's keys of a shared prefix wait, in the backward pass, for its weights.

    FSDP2 puts a layer together when the gradient of its output comes. Of the last layer's call for
    the prefix, losses over the vocabulary read keys and values alone: no such gradient came, and
    the layer had been given up behind the call for the rows. So the keys get one of 0 to hand on.
    """
    del layer, args
    cache, _ = cache_among(kwargs)
    if cache is None or not output.requires_grad:
        return
    number = len(cache.layers) - 1
    if cache.get_seq_length(number) == output.shape[1]:  # nothing was there before
        entry = cache.layers[number]
        always = torch.ones((), dtype=torch.bool, device=output.device)
        entry.keys = torch.where(always, entry.keys, output.sum().to(entry.keys.dtype))


def _is_shard(value: torch.Tensor) -> bool:
    return hasattr(value, "to_local")


def _without_weights(layer: nn.Module, *, shared: object) -> nn.Module:
    """A copy that takes no memory until it is given weights; ``shared`` is not copied."""
    replaced: dict[int, object] = {
        id(parameter): nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
        for parameter in layer.parameters()
    }
    return copy.deepcopy(layer, {**replaced, id(shared): shared})
