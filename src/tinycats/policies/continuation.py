"""The KL term at the tokens that go on after the rewarded ones: ``kl_tokens``.

The reward reads a completion of T tokens, and the loss has the KL at these. A story goes on, and
nothing in the loss keeps a policy from going on otherwise than the base model. With M = kl_tokens the
loss has in addition

    c · mean_s[ Σ_{T<t≤T+M} KL_t / N ]

over m = kl_stories stories s of T + M tokens. The optimum stays: π* goes on as the base does, where
these KLs are 0. ``kl_states`` says whose stories they are:

- ``policy``: the first m completions of the batch, continued by the policy. For ``policy_to_base``
  the score-function term is part of the gradient, of the rewarded tokens too: choosing a token also
  chooses where the KL is paid later (:mod:`tinycats.policies.objective`). So the gradient is the
  unbiased one of KL(π‖p_base) of stories of T + M tokens.
- ``base``: stories drawn once from the base model, :data:`POOL` batches of m in turn. Nothing is drawn
  at a step and the base is computed once. They need not go where the policy's stories go.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tinycats.language_model.network import Network
from tinycats.language_model.sampling import uniform_generator
from tinycats.policies import objective
from tinycats.policies.prefix_tree import Rollout
from tinycats.policies.rollout import Sampler
from tinycats.policies.settings import TrainingSettings

#: Batches of the base model's stories that take turns.
POOL = 16
#: Their random numbers: no step of training is as late.
_POOL_STREAM = 10**9


class Continuation:
    """The KL term after the rewarded tokens of one run.

    Args:
        policy, base: networks with the same vocabulary on the same device.
        prompt_ids: the training prompt.
        new_tokens: T.
        end_token: id that ends a completion.
        settings: of the run, with ``kl_tokens`` above 0.
    """

    def __init__(
        self,
        policy: Network,
        base: Network,
        prompt_ids: list[int],
        new_tokens: int,
        end_token: int,
        settings: TrainingSettings,
    ) -> None:
        self.settings, self.new_tokens = settings, new_tokens
        length = new_tokens + settings.kl_tokens
        rest = (prompt_ids, length, end_token, settings.micro_batch)
        self.sampler = Sampler(policy, base, *rest)
        self._of_base = Sampler(base, base, *rest)
        self._pool: dict[int, Rollout] = {}

    def draw(self, step: int) -> Rollout:
        """The stories of a step, measured under the policy's present weights."""
        s = self.settings
        if s.kl_states == "base":
            return self.sampler.again(self._stories_of_base(step % POOL), keep_graph=True)
        generator = uniform_generator(s.seed, step)  # begins with the batch's own numbers
        first, more = (
            torch.rand(rows, columns, generator=generator, dtype=torch.float64)
            for rows, columns in ((s.batch_size, self.new_tokens), (s.kl_stories, s.kl_tokens))
        )
        return self.sampler.sample_at(torch.cat([first[: s.kl_stories], more], 1), keep_graph=True)

    def _stories_of_base(self, place: int) -> Rollout:
        if place not in self._pool:
            s = self.settings
            generator = uniform_generator(s.seed, _POOL_STREAM + place)
            drawn = self._of_base.sample(s.kl_stories, generator)
            told = self.sampler.follow([drawn.token_ids[i] for i in drawn.index.tolist()])
            self._pool[place] = replace(told, levels=[level.released() for level in told.levels])
        return self._pool[place]

    def kl(self, stories: Rollout) -> float:
        """mean_s Σ_{T<t≤T+M} KL_t, nats, in the direction of the KL term."""
        name, total = objective.KLS[self.settings.kl].sum_name, 0.0
        for level in stories.levels:
            at_states: Tensor = getattr(level, name)
            after = at_states[level.state][level.step >= self.new_tokens]
            total += float(after.double().sum())
        return total / len(stories.tokens)

    def backward(self, stories: Rollout, coefficient: float) -> None:
        """Add the term's gradient to the policy's ``.grad``; once for the stories of a step."""
        s, levels = self.settings, []
        for level in stories.levels:
            step = torch.empty(len(level.visits), dtype=torch.long)
            step[level.state] = level.step
            after = step >= self.new_tokens
            # what comes after a token is a consequence of it only in the policy's own stories
            follows = after & (s.kl_states == "policy")
            levels.append(
                replace(
                    level,
                    visits=level.visits * after,
                    kl_policy_to_base=level.kl_policy_to_base * follows,
                )
            )
        nothing = torch.zeros(len(stories.tokens))
        self.sampler.backward(
            replace(stories, levels=levels), nothing, coefficient, s.kl, s.num_tokens
        )
