"""Products of adapted layers in one function, with its gradient written out.

PEFT's layer writes down ``W x``, ``B A x``, a multiple of it and the sum, each as wide as the
layer's output, and autograd does so again for the gradients. Here both products are added where
they are made, the scale is given to the narrow factor, and the input is cast and kept once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.precision import product_dtype
from ollama_bridge.models.compute.stand_ins import computed_by
from ollama_bridge.train.peft_names import AdaptedLinear


@contextlib.contextmanager
def one_function_each(model: CausalModel) -> Iterator[None]:
    """Inside the block adapted layers are computed by :func:`adapted_product`, if theirs is that.

    Those with dropout, and variants (DoRA), stay PEFT's.

    Args:
        model: With one adapter, which is active, beside layers whose weights are frozen.
    """
    with computed_by(_forward, [layer for layer in model.modules() if _is_plain(layer)]):
        yield


def adapted_product(
    inputs: torch.Tensor,
    base: nn.Linear,
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """``W x + b + scale * B A x``, multiplied in the type of autocast where it is enabled.

    Source: Hu et al. 2021, arXiv 2106.09685, equation 3.

    Args:
        inputs: (..., in).
        base: Frozen W and b.
        down: A, (r, in).
        up: B, (out, r).
        scale: Of the adapter.

    Returns:
        (..., out), in the type of the products.
    """
    output: torch.Tensor = _AdaptedProduct.apply(
        inputs, base.weight, base.bias, down, up, scale, product_dtype(inputs)
    )
    return output


class _AdaptedProduct(torch.autograd.Function):
    """Keeps x and A x, in the type of the products."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1]).to(dtype)
        inner = rows @ down.to(dtype).t()
        output = nn.functional.linear(
            inner, (scale * up).to(dtype), None if bias is None else bias.to(dtype)
        )
        # The larger product comes last: what is added to it is small, and the sum is rounded once.
        output.addmm_(rows, weight.to(dtype).t())
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale, ctx.dtype, ctx.input_dtype = scale, dtype, inputs.dtype
        return output.view(*inputs.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inner, weight, down, up = ctx.saved_tensors
        shape = (*slope.shape[:-1], weight.shape[1])
        slope = slope.reshape(-1, slope.shape[-1]).to(ctx.dtype)
        inner_slope = slope @ (ctx.scale * up).to(ctx.dtype)
        to_down = (inner_slope.t() @ rows).to(down.dtype)
        to_up = ctx.scale * (slope.t() @ inner).to(up.dtype)
        to_inputs = None
        if ctx.needs_input_grad[0]:
            to_inputs = inner_slope @ down.to(ctx.dtype)
            to_inputs = to_inputs.addmm_(slope, weight.to(ctx.dtype)).view(shape)
            to_inputs = to_inputs.to(ctx.input_dtype)
        return to_inputs, None, None, to_down, to_up, None, None


def _is_plain(layer: nn.Module) -> bool:
    if not isinstance(layer, AdaptedLinear) or layer.fan_in_fan_out or len(layer.lora_A) != 1:
        return False
    (name,) = layer.lora_A
    base = layer.get_base_layer()
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and name not in layer.lora_variant
    )


def _forward(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    (name,) = layer.lora_A
    return adapted_product(
        inputs,
        layer.get_base_layer(),
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
    )
