"""Linear layers by oneDNN: equal to torch's own, in value and gradient, and not slower."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from tinycats.compute import linear

pytestmark = pytest.mark.skipif(not linear.available(), reason="no oneDNN for x86 in this torch")


def gradients(layer: nn.Linear, x: torch.Tensor, seed: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    inputs = [x, *layer.parameters()]
    return [y.detach(), *torch.autograd.grad(y, inputs, seed)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24), (1, 24)])
def test_values_and_gradients_are_those_of_torch(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    x, seed = torch.randn(shape), torch.randn(*shape[:-1], 40)
    expected = gradients(layer, x, seed)
    linear.replace_linear_layers(layer)
    assert type(layer) is linear.OneDnnLinear
    for one, other in zip(gradients(layer, x, seed), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_product_takes_transposed_views() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(31, 17), torch.randn(31, 9)
    torch.testing.assert_close(linear.matmul(a.T, b), a.T @ b)
    c = torch.randn(4, 9).T
    torch.testing.assert_close(linear.matmul(b, c), b @ c)


def test_other_precisions_are_left_to_torch() -> None:
    layer = nn.Linear(8, 8)
    x = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
    linear.replace_linear_layers(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
    assert layer.double()(x.double()).dtype == torch.float64


def test_a_frozen_layer_may_apply_gelu_as_it_writes() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40), 3 * torch.randn(3, 5, 24)
    expected = nn.functional.gelu(layer(x))
    linear.replace_linear_layers(layer)
    assert not linear.fuse_gelu(layer)  # its weights may still change
    linear.replace_linear_layers(layer, frozen=True)
    assert linear.fuse_gelu(layer)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.05, atol=0.05)


def test_it_is_not_slower_at_the_encoders_shape() -> None:
    x = torch.randn(768, 384)
    plain, fast = nn.Linear(384, 1536), nn.Linear(384, 1536)
    linear.replace_linear_layers(fast)

    def seconds(layer: nn.Linear) -> float:
        began = time.process_time()
        for _ in range(10):
            layer(x)
        return time.process_time() - began

    with torch.inference_mode():
        times = [(seconds(plain), seconds(fast)) for _ in range(8)]
    ratio = min(p for p, _ in times) / min(f for _, f in times)
    print(f"oneDNN: {ratio:.2f} times MKL's speed")
    assert ratio > 0.5


def test_an_operator_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another torch may change the operator: its results are compared with torch's own first."""
    right = linear._product
    for wrong in (lambda *a: right(*a) + 1e-2, lambda x, weight: right(x, weight)):
        caplog.clear()
        monkeypatch.setattr(linear, "_product", wrong)
        linear.available.cache_clear()
        try:
            layer = nn.Linear(8, 8)
            linear.replace_linear_layers(layer)
            assert type(layer) is nn.Linear
            a, b = torch.ones(2, 3), torch.ones(3, 2)
            assert torch.equal(linear.matmul(a, b), a @ b)
            assert "oneDNN's linear layers are not used" in caplog.text
        finally:
            monkeypatch.undo()
            linear.available.cache_clear()
