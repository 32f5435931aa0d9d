"""Linear layers by oneDNN on x86 CPUs: the same float32 arithmetic, on some processors twice as fast.

torch computes float32 products with MKL, which on AMD's processors uses half of the vector width.
oneDNN, which torch ships too and uses for bfloat16, uses all of it. Results differ only by the
order of the sums. ``tests/test_linear.py`` checks equality and speed.
"""

from __future__ import annotations

import logging
import platform
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """``x @ weight.T + bias`` by oneDNN, then ``then`` ("none" or "gelu"); transposed views work."""
    how = "none" if then == "gelu" else ""  # by the error function, not by tanh
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], how)
    return result


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
    """``nn.Linear`` by oneDNN for float32 on the CPU; falls back to ``nn.Linear`` otherwise."""

    packed: Tensor | None = None  # the weight in oneDNN's own order, where it is frozen
    gelu = False  # whether a frozen layer applies GELU to its output

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


@cache
def available() -> bool:
    """Whether oneDNN's products work here: a small one is compared with torch's own, once a process.

    The operators are not part of torch's public interface, so another torch may lack or change
    them. Then torch's own products are used, with a message in the log.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            correct = _self_test()
    except (AttributeError, RuntimeError, TypeError) as error:
        log.warning("oneDNN's linear layers are not used: %s", str(error).splitlines()[0])
        return False
    if not correct:
        log.warning("oneDNN's linear layers are not used: their results differ from torch's")
    return correct


def _self_test() -> bool:
    """Values and gradients of a small layer, and a packed layer with GELU, against torch's own."""
    x = torch.linspace(-2, 2, 35).view(5, 7).requires_grad_()
    weight = torch.linspace(1, -1, 21).view(3, 7).requires_grad_()
    bias = torch.linspace(-1, 1, 3).requires_grad_()
    seed = torch.linspace(0.5, 1.5, 15).view(5, 3)
    inputs = (x, weight, bias)
    ours, theirs = _Product.apply(*inputs), nn.functional.linear(*inputs)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    fused = _product(x.detach(), packed, bias.detach(), "gelu")
    pairs = [
        (ours, theirs),
        (fused, nn.functional.gelu(theirs)),
        *zip(
            torch.autograd.grad(ours, inputs, seed),
            torch.autograd.grad(theirs, inputs, seed),
            strict=True,
        ),
    ]
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def replace_linear_layers(model: nn.Module, frozen: bool = False) -> None:
    """Replace the model's ``nn.Linear`` layers in place by :class:`OneDnnLinear`, if available.

    Weights and names stay the same: only the layers' class changes. The weights of a ``frozen``
    model, which must not change afterwards, are also stored in oneDNN's order.
    """
    if frozen:
        model.requires_grad_(False)
    for module in model.modules() if available() else ():
        if type(module) in (nn.Linear, OneDnnLinear):
            module.__class__ = OneDnnLinear
            if frozen and module.weight.device.type == "cpu":
                module.packed = torch.ops.mkldnn._reorder_linear_weight(module.weight, None)


def fuse_gelu(layer: nn.Module) -> bool:
    """Make a frozen layer apply GELU to its output; returns False if it is not a oneDNN layer."""
    if not isinstance(layer, OneDnnLinear) or layer.packed is None:
        return False
    layer.gelu = True
    return True


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of two matrices outside any graph, by oneDNN where :class:`OneDnnLinear` uses it."""
    cpu = a.device.type == "cpu" and a.dtype == b.dtype == torch.float32
    return _product(a, b.T) if cpu and available() else a @ b
