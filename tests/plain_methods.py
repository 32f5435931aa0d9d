"""Every method as a plain loss for autograd, written without the library: the tests' oracle.

The value of :func:`loss` is a surrogate: its gradient is the method's. It is the library's loss too,
but for ``policy_to_base``, where the score-function term adds to it, and for clipped updates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Measured(NamedTuple):
    """Of each completion at each new token, ``(batch, new_tokens)``, 0 after its end."""

    log_prob: Tensor  # log π of the token taken
    log_prob_base: Tensor
    base_to_policy: Tensor  # KL(p_base‖π) at its state
    policy_to_base: Tensor  # KL(π‖p_base)

    def rows(self, index: Tensor) -> Measured:
        return Measured(*(value[index] for value in self))

    def held(self) -> Measured:
        return Measured(*(value.detach() for value in self))


def at_tokens(log_p: Tensor, log_p_base: Tensor, tokens: Tensor) -> Measured:
    """From both distributions ``(T, vocabulary)`` along one completion of T tokens: ``(T,)`` each."""
    return Measured(
        log_p.gather(1, tokens[:, None])[:, 0],
        log_p_base.gather(1, tokens[:, None])[:, 0],
        (log_p_base.exp() * (log_p_base - log_p)).sum(1),
        (log_p.exp() * (log_p - log_p_base)).sum(1),
    )


def stacked(each: list[Measured], new_tokens: int) -> Measured:
    def padded(value: Tensor) -> Tensor:
        return torch.cat([value, value.new_zeros(new_tokens - len(value))])

    columns = zip(*each, strict=True)
    return Measured(*(torch.stack([padded(value) for value in column]) for column in columns))


def measured(
    model: Any, base: Any, prompt: list[int], completions: list[list[int]], new_tokens: int
) -> Measured:
    """One completion after the other, each in one forward pass, within autograd's graph."""

    def log_p(network: Any, tokens: list[int]) -> Tensor:
        logits: Tensor = network(torch.tensor([prompt + tokens])).logits
        return logits[0, len(prompt) - 1 : -1].log_softmax(-1)

    each = []
    for tokens in completions:
        with torch.no_grad():
            log_p_base = log_p(base, tokens)
        each.append(at_tokens(log_p(model, tokens), log_p_base, torch.tensor(tokens)))
    return stacked(each, new_tokens)


def advantages(m: Measured, rewards: Tensor, advantage: str, coefficient: float, n: int) -> Tensor:
    """A(s), ``(batch,)``; ``rewards`` hold a penalty already where the KL term is ``in_reward``."""
    size = len(rewards)
    if advantage == "reward":
        return rewards
    if advantage == "mean":
        return rewards - rewards.sum() / size
    if advantage == "leave_one_out":
        return rewards - (rewards.sum() - rewards) / (size - 1)
    if advantage == "standardised":
        return (rewards - rewards.mean()) / (rewards.std(unbiased=False) + 1e-6)
    if advantage == "best_of_n":  # of equal rewards the first wins
        groups = rewards.view(-1, n)
        return (n * (torch.arange(n) == groups.argmax(1)[:, None])).to(rewards.dtype).flatten()
    if advantage == "tilt":
        d = (m.log_prob - m.log_prob_base).sum(1)
        weights = torch.exp(rewards / coefficient - d)
        return size * weights / weights.sum()
    raise AssertionError(f"the oracle has no advantage {advantage}")


def loss(
    m: Measured,
    rewards: Tensor,
    advantage: str,
    kl: str,
    num_tokens: int,
    coefficient: float,
    n: int = 2,
    drawn: Measured | None = None,
    clip: float = 0.2,
) -> Tensor:
    """The surrogate of a batch: ``rewards`` is ``(batch,)``, ``coefficient`` is per nat, groups have ``n``.

    Where ``drawn`` is given, ``m`` is of the same completions under other weights: PPO's loss.
    """
    d = m.log_prob - m.log_prob_base
    first = (drawn or m).held()
    if kl == "in_reward":
        rewards = rewards - coefficient * (first.log_prob - first.log_prob_base).sum(1)
    a = advantages(first, rewards, advantage, coefficient, n)[:, None].expand_as(d)
    if kl == "policy_to_base":
        kls = first.policy_to_base
        a = a - coefficient * (kls.flip(1).cumsum(1).flip(1) - kls)
    penalty = {
        "base_to_policy": m.base_to_policy,
        "policy_to_base": m.policy_to_base,
        "in_reward": torch.zeros_like(d),
        "k3": torch.exp(-d) - 1 + d,
        "none": torch.zeros_like(d),
    }[kl]
    gain = a * m.log_prob
    if drawn is not None:
        ratio = (m.log_prob - first.log_prob).exp()
        gain = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
    return (coefficient * penalty - gain).sum(1).mean() / num_tokens
