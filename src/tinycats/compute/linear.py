"""Linear maps by oneDNN on x86 CPUs: float32 as before, on some processors in half the time.

torch hands float32 products to MKL, which on AMD's processors keeps to half of the vector width.
oneDNN, which torch carries too and uses for bfloat16, takes all of it. The sums are the same but
for their order. ``tests/test_linear.py`` shows both, equality and ratio.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """``x @ weight.T + bias`` in oneDNN, ``then`` perhaps "gelu"; both may be transposed views."""
    how = "none" if then == "gelu" else ""  # by the error function, not by tanh
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], how)
    return result


def available() -> bool:
    """Whether this torch on this machine can do it; where not, torch's own products serve."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class _Product(torch.autograd.Function):
    """``x @ weight.T + bias`` for ``x`` ``(rows, in)``, and its three gradients, each one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(g, weight.T) if of_x else None,
            _product(g.T, x.T) if of_weight else None,
            g.sum(0) if of_bias else None,
        )


class OneDnnLinear(nn.Linear):
    """``nn.Linear`` by oneDNN for float32 on the CPU, and as it ever was for anything else."""

    packed: Tensor | None = None  # the weight in oneDNN's own order, where it is frozen
    gelu = False  # of what comes out, where it is frozen

    def forward(self, input: Tensor) -> Tensor:
        plain = input.dtype == self.weight.dtype == torch.float32
        if not plain or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            result = super().forward(input)
            return nn.functional.gelu(result) if self.gelu else result
        rows = input.reshape(-1, self.in_features)
        if self.packed is not None:
            result = _product(rows, self.packed, self.bias, "gelu" if self.gelu else "none")
        else:
            result = _Product.apply(rows, self.weight, self.bias)
        return result.view(*input.shape[:-1], self.out_features)


def use_onednn(model: nn.Module, frozen: bool = False) -> None:
    """Let the model's linear layers compute by oneDNN from now on, where it is available.

    Weights and names stay what they are: only the layers' class changes. The weights of a
    ``frozen`` model, which no gradient asks for and nothing changes, are put in order once.
    """
    if frozen:
        model.requires_grad_(False)
    for module in model.modules() if available() else ():
        if type(module) in (nn.Linear, OneDnnLinear):
            module.__class__ = OneDnnLinear
            if frozen and module.weight.device.type == "cpu":
                module.packed = torch.ops.mkldnn._reorder_linear_weight(module.weight, None)


def fuse_gelu(layer: nn.Module) -> bool:
    """Let a frozen layer apply GELU as it writes its output; False where oneDNN does not do it."""
    if not isinstance(layer, OneDnnLinear) or layer.packed is None:
        return False
    layer.gelu = True
    return True


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of two matrices outside any graph, by the same choice."""
    cpu = a.device.type == "cpu" and a.dtype == b.dtype == torch.float32
    return _product(a, b.T) if cpu and available() else a @ b
