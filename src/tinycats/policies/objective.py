"""The objective: pure functions of log-probabilities and rewards, without a model.

Symbols follow the post. A batch holds B completions s; a completion has T new tokens s_t, each drawn
in a state s_<t (the prompt and the tokens before it) from π(·|s_<t) over a vocabulary of V; R(s) is
its reward, N = NUM_TOKENS counts the prompt's tokens too. The loss is

    L = mean_s[ −A(s) · Σ_t log π(s_t|s_<t) / N ]  +  c · mean_s[ Σ_t KL_t / N ]

with A = R and KL_t = KL(p_base‖π) at the state s_<t as the post has them (docs/methods.md says how
this differs from the formula it is usually explained with), and c the KL coefficient per nat.

A tensor named ``log_p`` holds log π and ``log_p_base`` log p_base, each ``(states, vocabulary)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tinycats.language_model.divergence import rowwise_dot
from tinycats.program import UserError

#: GPT-2's vocabulary. The post averages the KL over it, so its KL_FACTOR carries this unit.
POST_VOCABULARY = 50257

KL_DIRECTIONS = ("base_to_policy", "policy_to_base")


def kl_coefficient_per_nat(kl_factor: float) -> float:
    """The post's KL_FACTOR in reward units per nat: 6000 is 0.1194, whatever the vocabulary.

    ``F.kl_div(...).mean(-1)`` divides a sum over the vocabulary by V = 50257; the quotient is what
    carries over to a model with another vocabulary.
    """
    return kl_factor / POST_VOCABULARY


# ---------------------------------------------------------------------------- rewards


def no_baseline(rewards: Tensor) -> Tensor:
    """A = R, the post's: with R nearly always positive every completion is pushed up."""
    return rewards


def mean_baseline(rewards: Tensor) -> Tensor:
    """A = R − mean R: biased by the factor (B−1)/B, since R(s) is part of the mean."""
    return rewards - rewards.mean()


def leave_one_out_baseline(rewards: Tensor) -> Tensor:
    """A = R − mean of the others' R (RLOO: Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740).

    Unbiased, and with one prompt exactly the mean baseline's times B/(B−1).

    Raises:
        UserError: there are no others.
    """
    if len(rewards) < 2:
        raise UserError(
            f"training.batch_size: {len(rewards)} leaves nothing to compare a completion with;"
            " baseline leave_one_out needs at least 2"
        )
    return (rewards - rewards.mean()) * (len(rewards) / (len(rewards) - 1))


#: Name in the config → rewards ``(batch,)`` to advantages ``(batch,)``. A new one is one line here.
BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": no_baseline,
    "mean": mean_baseline,
    "leave_one_out": leave_one_out_baseline,
}


def advantages(rewards: Tensor, baseline: str) -> Tensor:
    """A(s) of each completion of a batch, ``(batch,)``, by the baseline of that name.

    Raises:
        UserError: the baseline is unknown, or not defined for this batch.
    """
    if baseline not in BASELINES:
        raise UserError(f"baseline {baseline!r} is unknown; choose one of {', '.join(BASELINES)}")
    return BASELINES[baseline](rewards)


# ---------------------------------------------------------------------------- the batch


def token_weights(
    advantage: Tensor, kl_after: Tensor, coefficient: float, kl_direction: str
) -> Tensor:
    """What multiplies −log π(s_t|s_<t) / N of each token taken, ``(tokens,)``.

    Args:
        advantage: A(s) of the completion that took the token, ``(tokens,)``.
        kl_after: Σ_{t'>t} KL_{t'} of that completion, nats, ``(tokens,)``.
        coefficient: c, reward units per nat.

    ``base_to_policy`` (the post) differentiates the KL only at the states visited: the weight
    is A, and the KL term is the gradient of no sequence-level divergence. ``policy_to_base``
    adds the score-function term: choosing s_t also chooses which states come later, so the KL paid
    there counts against it. Together with the exact KL at each state this is the unbiased gradient
    of c · KL(π‖p_base) over whole completions, whose chain rule is Σ_t E[KL_t].
    """
    if kl_direction == "base_to_policy":
        return advantage
    if kl_direction == "policy_to_base":
        return advantage - coefficient * kl_after
    raise UserError(f"kl {kl_direction!r} is unknown; choose one of {', '.join(KL_DIRECTIONS)}")


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
    kl_direction: str,
) -> Tensor:
    """∂(B·N·L)/∂logits at each state, ``(states, vocabulary)``, written out by hand.

    Args:
        visits: how many completions of the batch pass through each state, ``(states,)``.
        state, token, weight: for each token taken, its state's row, its id, and its
            :func:`token_weights`, ``(tokens,)`` each.

    With softmax logits, ∂(−w log π(a)) = w (π − 1_a), ∂KL(p_base‖π) = π − p_base and
    ∂KL(π‖p_base) = π · (log π − log p_base − KL). Equal prefixes are one state, so ``visits`` and the
    summed weights carry the counts: deduplication changes no gradient.
    """
    p = log_p.exp()
    pushed = torch.zeros_like(visits).index_add_(0, state, weight)  # Σ of weights at each state
    if coefficient == 0:
        gradient = p.mul_(pushed[:, None])
    elif kl_direction == "base_to_policy":
        pulled = coefficient * visits
        gradient = p.mul_((pushed + pulled)[:, None]).sub_(log_p_base.exp().mul_(pulled[:, None]))
    else:
        ratio = log_p - log_p_base
        kl = rowwise_dot(p, ratio)[:, None]
        gradient = p * (pushed[:, None] + coefficient * visits[:, None] * (ratio - kl))
    gradient.index_put_((state, token), -weight, accumulate=True)
    return gradient
