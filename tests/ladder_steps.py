"""The ladder as an oracle: its steps as modules, tiny models, gradients, and a toy to enumerate.

plain = ladder_steps.step(1)                      # the post's loop
plain = ladder_steps.plain("leave_one_out", "policy_to_base")  # its way, other formulas
value, gradients = ladder_steps.loss_and_gradients(plain, model, base, ...)
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

LADDER = Path(__file__).parents[1] / "ladder"
END = 0


def step(number: int) -> Any:
    """A fresh module of the ladder's file ``number``, so that a test may replace its parts."""
    (path,) = LADDER.glob(f"{number}_*.py")
    spec = importlib.util.spec_from_file_location(f"ladder_step_{number}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(advantage: str, kl: str) -> Any:
    """Step 1's way of computing with an advantage and KL of the ladder, taken from the steps that bring them."""
    module = step(1)
    if kl == "policy_to_base":
        module.kl, module.objective = step(3).kl, step(3).objective
    raw = module.objective if kl == "base_to_policy" else _without_baseline(module.objective)
    if advantage == "leave_one_out":
        module.objective = step(2).objective if kl == "base_to_policy" else step(3).objective
    elif advantage == "mean":  # the ladder has no step for it
        module.objective = lambda log_probs, kls, rewards, *rest: raw(
            log_probs, kls, rewards - rewards.mean(), *rest
        )
    else:
        module.objective = raw
    return module


def _without_baseline(objective):
    """Step 3's objective with R in place of A: what its baseline takes away is put back."""

    def value(log_probs, kls, rewards, num_tokens, kl_factor):
        zero = torch.zeros_like(rewards)
        penalty = objective(log_probs, kls, zero, num_tokens, kl_factor)
        return penalty - (rewards * log_probs.sum(1)).mean() / num_tokens

    return value


# ---------------------------------------------------------------------------- tiny models


def gpt_neo(vocabulary: int = 64, seed: int = 0, window: int = 4, positions: int = 256):
    """GPT-Neo with a global and a local layer, weights large enough for uneven distributions."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        window_size=window,
        attention_types=[[["global", "local"], 1]],
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=END,
        eos_token_id=END,
    )
    return _with_large_weights(GPTNeoForCausalLM(config), seed)


def llama(vocabulary: int = 64, seed: int = 0, positions: int = 256):
    """Llama with grouped queries and a head of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        bos_token_id=END,
        eos_token_id=END,
    )
    return _with_large_weights(LlamaForCausalLM(config), seed)


MODELS: dict[str, Callable[..., Any]] = {"gpt_neo": gpt_neo, "llama": llama}


def _with_large_weights(model, seed: int):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def moved(model, seed: int = 1, by: float = 0.05):
    """A copy with every parameter moved a little: a base that the policy has left."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(by * noise.to(parameter.dtype))
    return other


def loss_and_gradients(module: ModuleType, model, *args) -> tuple[float, dict[str, Tensor]]:
    """``module.loss(model, *args)`` and ∂/∂θ of it, by name."""
    model.zero_grad(set_to_none=True)
    value = module.loss(model, *args)
    if value.requires_grad:  # step 5 writes its gradient itself
        value.backward()
    return value.item(), {n: p.grad.clone() for n, p in model.named_parameters()}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float):
    """Every tensor within ``relative`` of the other, by Euclidean norm.

    A tensor with less than a tenth of the whole gradient's norm is held to that tenth: its terms cancel,
    and float32 rounds them by the machine's order of summation.
    """
    assert found.keys() == expected.keys()
    whole = torch.stack([value.norm() for value in expected.values()]).norm()
    for name, value in expected.items():
        distance = (found[name] - value).norm() / value.norm().clamp(min=whole / 10)
        assert distance <= relative, f"{name}: relative difference {distance:.2e}"


# ---------------------------------------------------------------------------- a toy to enumerate


def all_completions(vocabulary: int = 6, new_tokens: int = 3) -> list[list[int]]:
    """Every completion: it ends with the end token, or has ``new_tokens`` tokens."""
    done: list[list[int]] = []
    open_: list[list[int]] = [[]]
    for _ in range(new_tokens):
        open_ = [[*head, token] for head in open_ for token in range(vocabulary)]
        done += [tokens for tokens in open_ if tokens[-1] == END]
        open_ = [tokens for tokens in open_ if tokens[-1] != END]
    return done + open_
