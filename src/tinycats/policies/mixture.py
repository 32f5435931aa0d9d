"""Batches of several prompts: split evenly over them, with a prefix tree each.

Training on prompts x₁ … x_m has the mean over the prompts of what training on each would have:

    L = mean_x L_x,   L_x the loss of the B/m completions of prompt x (:mod:`tinycats.policies.objective`)

An advantage compares a completion with those of its own prompt, since another prompt's rewards say
nothing about it: its baseline is its prompt's, `standardised` has a group for each prompt as GRPO has,
and the weights of `tilt` are normalised for each prompt, as π*(·|x) ∝ p_base(·|x) · exp(R/c) is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinycats.language_model.network import Network
from tinycats.policies import objective
from tinycats.policies.prefix_tree import Rollout
from tinycats.policies.rollout import Sampler


class Mixture:
    """Draws batches of several prompts from a policy and differentiates the objective over them.

    Args:
        policy, base: networks with the same vocabulary on the same device.
        prompts: token ids of each prompt.
        new_tokens, end_token, micro_batch: as :class:`Sampler` has them, for every prompt.
    """

    def __init__(
        self,
        policy: Network,
        base: Network,
        prompts: Sequence[list[int]],
        new_tokens: int,
        end_token: int,
        micro_batch: int,
    ) -> None:
        self.new_tokens = new_tokens
        self.samplers = [
            Sampler(policy, base, ids, new_tokens, end_token, micro_batch) for ids in prompts
        ]

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """``batch`` completions, a multiple of the number of prompts."""
        own = batch // len(self.samplers)
        return Batch([s.sample(own, generator, keep_graph=True) for s in self.samplers])

    def again(self, batch: Batch) -> Batch:
        """The same completions measured under the policy's present weights."""
        both = zip(self.samplers, batch.rollouts, strict=True)
        return Batch([s.again(rollout, keep_graph=True) for s, rollout in both])

    def half(self, batch: Batch, second: bool) -> Batch:
        """The first or the second half of each prompt's completions, measured anew."""
        halves = []
        for sampler, rollout in zip(self.samplers, batch.rollouts, strict=True):
            drawn = [rollout.token_ids[i] for i in rollout.index.tolist()]
            halves.append(sampler.follow(drawn[halved(len(drawn), second)]))
        return Batch(halves)

    def backward(
        self,
        batch: Batch,
        advantages: Sequence[Tensor],
        coefficient: float,
        kl: str,
        num_tokens: int,
        drawn: Batch | None = None,
        clip: float = 0.2,
    ) -> None:
        """Add ∂L/∂θ to the policy's ``.grad``, as :meth:`Sampler.backward`; once for each batch."""
        for i, sampler in enumerate(self.samplers):
            sampler.backward(
                batch.rollouts[i],
                advantages[i],
                coefficient,
                kl,
                num_tokens * len(self.samplers),  # L has the mean over prompts
                drawn.rollouts[i] if drawn else None,
                clip,
            )


class Batch:
    """The completions of one step: a rollout for each prompt, equally many completions of each."""

    def __init__(self, rollouts: list[Rollout]) -> None:
        self.rollouts = rollouts

    def measured(self, num_tokens: int) -> dict[str, float]:
        """The columns of training.csv that are means of what the rollouts measure."""
        names = ("kl_policy_to_base", "kl_base_to_policy", "entropy")
        mean = {
            f"{name}_nats": float(torch.cat([getattr(r, name) for r in self.rollouts]).mean())
            for name in names
        }
        per_token = mean["kl_base_to_policy_nats"] / (objective.POST_VOCABULARY * num_tokens)
        return {**mean, "kl_post_unit": per_token}

    def frequent(self) -> list[tuple[int, int]]:
        """(prompt, distinct completion) from the most frequent on, by their indices."""
        places = [
            (-count, prompt, rollout.token_ids[i], i)
            for prompt, rollout in enumerate(self.rollouts)
            for i, count in enumerate(rollout.counts.tolist())
        ]
        return [(prompt, i) for _, prompt, _, i in sorted(places)]


def halved(size: int, second: bool) -> slice:
    """The first or the second half of so many, equally large."""
    half = size // 2
    return slice(half, 2 * half) if second else slice(0, half)
