"""The objective: pure functions of log-probabilities and rewards, without a model.

Symbols follow the post. A batch holds B completions s; a completion has T new tokens s_t, each drawn
in a state s_<t (the prompt and the tokens before it) from π(·|s_<t) over a vocabulary of V; R(s) is
its reward, N = NUM_TOKENS counts the prompt's tokens too. The loss is

    L = mean_s[ −A(s) · Σ_t log π(s_t|s_<t) / N ]  +  c · mean_s[ Σ_t KL_t / N ]

with A = R and KL_t = KL(p_base‖π) at the state s_<t as the post has them (docs/methods.md says how
this differs from the formula it is usually explained with), and c the KL coefficient per nat. A
method is an advantage A of :data:`ADVANTAGES`, a KL term of :data:`KLS`, and an update: one per batch,
or several with PPO's clipped ratio (:func:`clipped`).

A tensor named ``log_p`` holds log π and ``log_p_base`` log p_base, each ``(states, vocabulary)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tinycats.language_model.divergence import rowwise_dot

#: GPT-2's vocabulary. The post averages the KL over it, so its KL_FACTOR carries this unit.
POST_VOCABULARY = 50257


def kl_coefficient_per_nat(kl_factor: float) -> float:
    """The post's KL_FACTOR in reward units per nat: 6000 is 0.1194, whatever the vocabulary.

    ``F.kl_div(...).mean(-1)`` divides a sum over the vocabulary by V = 50257; the quotient is what
    carries over to a model with another vocabulary.
    """
    return kl_factor / POST_VOCABULARY


# ---------------------------------------------------------------------------- advantages


@dataclass(frozen=True)
class Drawn:
    """What an advantage may depend on: a batch as it was drawn."""

    rewards: Tensor  # (batch,) R(s)
    log_ratio: Tensor  # (batch,) Σ_t log π(s_t|s_<t) − log p_base(s_t|s_<t), nats
    coefficient: float  # c, reward units per nat
    n: int = 1  # completions in a group, for best_of_n


def reward(drawn: Drawn) -> Tensor:
    """A = R, the post's: with R nearly always positive every completion is pushed up."""
    return drawn.rewards


def mean(drawn: Drawn) -> Tensor:
    """A = R − mean R: biased by the factor (B−1)/B, since R(s) is part of the mean."""
    rewards = drawn.rewards
    return rewards - rewards.mean()


def leave_one_out(drawn: Drawn) -> Tensor:
    """A = R − mean of the others' R (RLOO: Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740).

    Unbiased, and with one prompt exactly the mean baseline's times B/(B−1).
    """
    size = len(drawn.rewards)
    return (drawn.rewards - drawn.rewards.mean()) * (size / (size - 1))


def standardised(drawn: Drawn) -> Tensor:
    """A = (R − mean R) / std R (GRPO: Shao et al. 2024, arXiv 2402.03300), the batch as one group.

    Not a baseline alone: the division makes the reward's weight relative to the KL depend on the
    batch, and it grows as the rewards become equal. Its expected gradient is that of no fixed
    objective. The standard deviation divides by B; 1e-6 is added, so equal rewards give A = 0.
    """
    centred = drawn.rewards - drawn.rewards.mean()
    return centred / (centred.pow(2).mean().sqrt() + 1e-6)


def best_of_n(drawn: Drawn) -> Tensor:
    """A = n for the best of each n consecutive completions, else 0: the winners are imitated.

    RAFT (Dong et al. 2023, arXiv 2304.06767), or best-of-n distillation with the policy as its own
    teacher. The reward term is the cross-entropy of π to the best-of-n distribution of π itself:
    only the order of the rewards counts, and there is no fixed target. Groups follow the order in
    which the completions were drawn; of equal rewards the first wins.
    """
    groups = drawn.rewards.view(-1, drawn.n)
    winners = torch.zeros_like(groups).scatter_(1, groups.argmax(1, keepdim=True), drawn.n)
    return winners.flatten()


def tilt(drawn: Drawn) -> Tensor:
    """A = B · w(s) with w ∝ exp(R/c) · p_base/π and Σ w = 1: distillation of the optimal policy.

    With these importance weights the loss is the cross-entropy of π to π* ∝ p_base · exp(R/c), the
    best policy for a penalty of c per nat of KL(π‖p_base): generative distributional control
    (Khalifa et al. 2021, arXiv 2012.11635; Korbak et al. 2022, arXiv 2206.00761). It descends
    KL(π*‖π), not KL(π‖π*), and holds the penalty itself. Self-normalised weights are biased by
    O(1/B), and noisy while few completions carry most of the weight; at π = π* all are equal.
    """
    exponent = drawn.rewards.double() / drawn.coefficient - drawn.log_ratio
    return (len(drawn.rewards) * exponent.softmax(0)).to(drawn.rewards.dtype)


#: Name in the config → the function from a batch to its advantages ``(batch,)``.
ADVANTAGES: dict[str, Callable[[Drawn], Tensor]] = {
    f.__name__: f for f in (reward, mean, leave_one_out, standardised, best_of_n, tilt)
}


def advantages(drawn: Drawn, advantage: str, kl: str) -> Tensor:
    """A(s) of each completion of a batch, ``(batch,)``, by names of :data:`ADVANTAGES` and :data:`KLS`."""
    return ADVANTAGES[advantage](replace(drawn, rewards=KLS[kl].rewards(drawn)))


# ---------------------------------------------------------------------------- KL terms


class Kl:
    """No KL term, as for `tilt`, or with KL factor 0. A subclass overrides where its penalty enters.

    Attributes:
        sum_name: the sum over a completion, an attribute of a rollout, that the loss's value has; or
            empty.
        at_states: whether the penalty is a divergence differentiated at each state.
    """

    sum_name = ""
    at_states = False

    def rewards(self, drawn: Drawn) -> Tensor:
        """R(s) with a penalty, ``(batch,)``."""
        return drawn.rewards

    def token_advantages(self, advantage: Tensor, kl_after: Tensor, coefficient: float) -> Tensor:
        """The advantage of each token taken, ``(tokens,)``, fixed when the batch is drawn.

        Args:
            advantage: A(s) of the completion that took the token, ``(tokens,)``.
            kl_after: Σ_{t'>t} KL(π‖p_base)_{t'} of that completion, nats, ``(tokens,)``.
            coefficient: c, reward units per nat.
        """
        return advantage

    def token_weights(self, weight: Tensor, log_ratio: Tensor, coefficient: float) -> Tensor:
        """What multiplies −log π(s_t|s_<t) / N of each token taken, ``(tokens,)``.

        Args:
            weight: the same without the KL term.
            log_ratio: d_t = log π − log p_base of the token taken, nats, ``(tokens,)``.
            coefficient: c, reward units per nat.
        """
        return weight

    def logit_gradient(
        self, p: Tensor, log_p: Tensor, log_p_base: Tensor, pushed: Tensor, pulled: Tensor
    ) -> Tensor:
        """``pushed`` · π + ``pulled`` · ∂KL/∂logits, ``(states, vocabulary)``; may overwrite ``p``."""
        return p.mul_(pushed[:, None])


class BaseToPolicy(Kl):
    """c · KL(p_base‖π) at the states visited, summed over the vocabulary: the post's code.

    The states are held fixed (no score-function term), so this is the gradient of no sequence-level
    divergence. At a state, ∂KL = π − p_base: distillation of the base model.
    """

    sum_name, at_states = "kl_base_to_policy", True

    def logit_gradient(
        self, p: Tensor, log_p: Tensor, log_p_base: Tensor, pushed: Tensor, pulled: Tensor
    ) -> Tensor:
        return p.mul_((pushed + pulled)[:, None]).sub_(log_p_base.exp().mul_(pulled[:, None]))


class PolicyToBase(Kl):
    """c · KL(π‖p_base) of whole completions: the post's formula, with its exact gradient.

    The KL at each state is summed over the vocabulary (Amini et al. 2025, arXiv 2504.10637). The
    score-function term is added to it: choosing s_t also chooses which states come later, so the KL
    paid there counts against it. Together they are the unbiased gradient of the divergence, whose
    chain rule is Σ_t E[KL_t]. ∂KL = π · (log π − log p_base − KL).
    """

    sum_name, at_states = "kl_policy_to_base", True

    def token_advantages(self, advantage: Tensor, kl_after: Tensor, coefficient: float) -> Tensor:
        return advantage - coefficient * kl_after

    def logit_gradient(
        self, p: Tensor, log_p: Tensor, log_p_base: Tensor, pushed: Tensor, pulled: Tensor
    ) -> Tensor:
        ratio = log_p - log_p_base
        kl = rowwise_dot(p, ratio)[:, None]
        return p * (pushed[:, None] + pulled[:, None] * (ratio - kl))


class InReward(Kl):
    """R − c · Σ_t d_t in place of R, d_t = log π − log p_base: RLHF's penalty (arXiv 1909.08593).

    The estimator k1 of KL(π‖p_base), held constant. Its expected gradient is that of
    `policy_to_base` for the advantages `reward` and `leave_one_out`; it is noisier, since it samples
    the vocabulary and charges a token for earlier ones.
    """

    def rewards(self, drawn: Drawn) -> Tensor:
        penalty = drawn.coefficient * drawn.log_ratio
        return drawn.rewards - penalty.to(drawn.rewards.dtype)


class K3(Kl):
    """c · (e^(−d_t) − 1 + d_t) at each token taken, differentiated as a loss: GRPO's (arXiv 2402.03300).

    As a value it estimates KL(π‖p_base) without bias. Its derivative c · (1 − e^(−d_t)) · ∇log π does
    not: its expectation is that of `base_to_policy`, the other direction, of which it is a noisy
    estimate with unbounded e^(−d_t).
    """

    sum_name = "k3"

    def token_weights(self, weight: Tensor, log_ratio: Tensor, coefficient: float) -> Tensor:
        return weight + coefficient * torch.expm1(-log_ratio)


#: Name in the config → the KL term.
KLS: dict[str, Kl] = {
    "base_to_policy": BaseToPolicy(),
    "policy_to_base": PolicyToBase(),
    "in_reward": InReward(),
    "k3": K3(),
    "none": Kl(),
}


# ---------------------------------------------------------------------------- the loss


def clipped(advantage: Tensor, log_ratio: Tensor, clip: float) -> Tensor:
    """The weight of each token in the gradient of PPO's loss, ``(tokens,)`` (arXiv 1707.06347).

    PPO's loss has −min(ρA, clamp(ρ, 1−ε, 1+ε)·A) in place of −A·log π, where ρ = π/π_drawn is of one
    token, as is usual for language models, not of the completion. ∂ρ = ρ·∂log π, so the weight is ρA,
    or 0 where the minimum is the clamped term. At ρ = 1, the first update, this is A: REINFORCE.

    Args:
        advantage: A of each token taken, as drawn.
        log_ratio: log ρ, nats.
        clip: ε.
    """
    ratio = log_ratio.exp()
    outside = torch.where(advantage > 0, ratio > 1 + clip, ratio < 1 - clip)
    return torch.where(outside, 0.0, ratio * advantage)


def kl_sum(rollout: Any, kl: str) -> Tensor:
    """Σ_t of a KL term over each completion of a :class:`Rollout`, nats, ``(batch,)``; 0 if it has none."""
    name = KLS[kl].sum_name
    total: Tensor = getattr(rollout, name) if name else torch.zeros_like(rollout.log_prob)
    return total


def loss_value(
    advantage: Tensor, log_prob: Tensor, kl: Tensor, coefficient: float, num_tokens: int
) -> Tensor:
    """L of a batch: ``advantage``, ``log_prob`` = Σ_t log π and ``kl`` = Σ_t KL_t are ``(batch,)``.

    With autograd through ``log_prob`` and ``kl`` this is the post's loss to the letter.
    """
    return (-advantage * log_prob + coefficient * kl).mean() / num_tokens


def logit_gradient(
    log_p: Tensor,
    log_p_base: Tensor,
    visits: Tensor,
    state: Tensor,
    token: Tensor,
    weight: Tensor,
    coefficient: float,
    kl: str,
) -> Tensor:
    """∂(B·N·L)/∂logits at each state, ``(states, vocabulary)``, written out by hand.

    Args:
        visits: how many completions of the batch pass through each state, ``(states,)``.
        state, token, weight: for each token taken, its state's row, its id, and what multiplies its
            −log π, ``(tokens,)`` each.

    With softmax logits, ∂(−w log π(a)) = w (π − 1_a); :data:`KLS` have ∂KL. Equal prefixes are one
    state, so ``visits`` and the summed weights carry the counts: deduplication changes no gradient.
    """
    term = KLS[kl] if coefficient else KLS["none"]
    pushed = torch.zeros_like(visits).index_add_(0, state, weight)  # Σ of weights at each state
    gradient = term.logit_gradient(log_p.exp(), log_p, log_p_base, pushed, coefficient * visits)
    gradient.index_put_((state, token), -weight, accumulate=True)
    return gradient


def adapted(coefficient: float, kl: float, target: float, batch: int, horizon: int) -> float:
    """The KL coefficient after a batch, by the controller of Ziegler et al. (arXiv 1909.08593).

    c ← c · (1 + e · batch / horizon), e = (KL / target − 1) clamped to ±0.2, as in their code, where
    the paper's K is batch / horizon.

    Args:
        coefficient: c of the batch.
        kl: the batch's mean KL(π‖p_base), exact, nats.
        target: the KL to hold, nats.
        batch: completions in the batch.
        horizon: completions over which c adapts.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * batch / horizon)
