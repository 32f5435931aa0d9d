"""What the policy and the base compute for one level of the prefix tree.

Both networks pass over the level's rows, reading the keys and values of the levels above; then
both next-token distributions are measured at each state, and tokens are drawn from the policy's.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tinycats.compute.devices import put, suited
from tinycats.language_model.cache import Cache
from tinycats.language_model.divergence import divergences, entropy
from tinycats.language_model.network import Network
from tinycats.language_model.sampling import chunks, draw_tokens, sections
from tinycats.policies.prefix_tree import Level, ancestors

#: Logits computed at once to draw tokens: on a CPU 4 MB, which stay in cache.
LOGITS_DRAWN = {"cpu": 2**20, "elsewhere": 2**25}
#: The fewest states in a chunk, since every chunk reads the head's weights once more.
STATES_PER_CHUNK = 128
#: Log-probabilities of a level kept from drawing to differentiating: 256 MB for each network.
LOGITS_KEPT = 2**26


class Passed(NamedTuple):
    """What both networks compute for the states of one level, before any token is drawn."""

    hidden: Tensor  # (states, width) of the policy, outside any graph
    cache: Cache  # the policy's, leaves of this level's graph
    hidden_base: Tensor  # (states, width)
    cache_base: Cache
    graph: tuple[Tensor, Cache] | None  # the policy's hidden states and cache within the graph


class LevelPasses:
    """Passes of both networks over the levels of a prefix tree.

    Args:
        policy, base: networks with the same vocabulary on the same device.
        prompt: ``(1, P)`` token ids.
        micro_batch: tokens in one pass.
    """

    def __init__(self, policy: Network, base: Network, prompt: Tensor, micro_batch: int) -> None:
        self.policy, self.base, self.prompt = policy, base, prompt
        self.device, self.micro_batch = policy.device, micro_batch
        self.vocabulary = int(policy.head.weight.shape[0])
        drawn = suited(LOGITS_DRAWN, self.device) // self.vocabulary
        self.states_drawn = max(STATES_PER_CHUNK, drawn)

    @cached_property
    @torch.no_grad()
    def prompt_base(self) -> tuple[Tensor, Cache]:
        """The base's last hidden state ``(1, width)`` and cache of the prompt, which never change."""
        hidden, cache = self.base.forward(put(self.prompt, self.device), [])
        return hidden[:, -1].clone(), cache

    def states(
        self,
        above: list[Level],
        inputs: Tensor,
        parents: Tensor,
        select: Tensor,
        keep_graph: bool,
        keep_cache: bool = True,
        of_base: tuple[Tensor, Cache] | None = None,
    ) -> Passed:
        """Both networks over the rows of a level below ``above``, at the states in ``select``.

        ``of_base`` has the base's hidden states and cache where they are known from an earlier pass.
        """
        keep_graph = keep_graph and inputs.numel() <= self.micro_batch
        with torch.set_grad_enabled(keep_graph):
            hidden, new = self._forward(above, inputs, parents, select, False, keep_cache)
        if of_base is not None:
            hidden_base, cache_base = of_base
        elif above:
            with torch.no_grad():
                hidden_base, cache_base = self._forward(
                    above, inputs, parents, select, True, keep_cache
                )
        else:
            hidden_base, cache_base = self.prompt_base
        return Passed(
            hidden=hidden.detach(),
            cache=[(k.detach().requires_grad_(), v.detach().requires_grad_()) for k, v in new],
            hidden_base=hidden_base,
            cache_base=cache_base,
            graph=(hidden, new) if keep_graph else None,
        )

    def _forward(
        self,
        above: list[Level],
        inputs: Tensor,
        parents: Tensor,
        select: Tensor,
        base: bool,
        keep_cache: bool,
    ) -> tuple[Tensor, Cache]:
        """All rows of a level through one network, ``micro_batch`` tokens at a time."""
        network = self.base if base else self.policy
        rows, length = inputs.shape
        outputs, caches = [], []
        for part in chunks(rows, self.micro_batch // length):
            past = ancestors(above, parents[part], base)
            hidden, new = network.forward(put(inputs[part], self.device), past)
            outputs.append(hidden.flatten(0, 1))
            caches.append(new if keep_cache else [])
        joined = caches[0]
        if len(caches) > 1:  # a single part needs no copy
            joined = [
                (torch.cat([k for k, _ in block]), torch.cat([v for _, v in block]))
                for block in zip(*caches, strict=True)
            ]
        return torch.cat(outputs)[put(select, self.device)], joined

    @torch.no_grad()
    def measure(
        self, passed: Passed, state: Tensor, token: Tensor, u: Tensor | None, keep: bool
    ) -> tuple[Tensor, dict[str, Any]]:
        """Both distributions at each state: draw the tokens where ``u`` is given, measure them.

        Returns the tokens taken, ``(entries,)`` on the CPU, and the measurements of :class:`Level`.
        """
        states = len(passed.hidden)
        kept: tuple[Tensor, Tensor] | None = None
        if keep and states * self.vocabulary <= LOGITS_KEPT:
            kept = (
                torch.empty(states, self.vocabulary, device=self.device),
                torch.empty(states, self.vocabulary, device=self.device),
            )
        state_of = put(state, self.device)
        given = put(token if u is None else u, self.device)
        tokens, found = [], []
        for part, entries in sections(state, states, self.states_drawn):
            log_p = self.policy.log_probabilities(passed.hidden[part])
            log_p_base = self.base.log_probabilities(passed.hidden_base[part])
            p = log_p.exp()
            if kept is not None:
                kept[0][part], kept[1][part] = log_p, log_p_base
            row = state_of[entries] - part.start
            taken = given[entries] if u is None else draw_tokens(p, given[entries], row)
            tokens.append(taken)
            forward, backward = divergences(p, log_p, log_p_base)
            found.append(
                {
                    "log_prob": log_p[row, taken],
                    "log_prob_base": log_p_base[row, taken],
                    "kl_policy_to_base": forward,
                    "kl_base_to_policy": backward,
                    "entropy": entropy(p, log_p),
                }
            )
        measured: dict[str, Any] = {
            name: torch.cat([values[name] for values in found]) for name in found[0]
        }
        token = token if u is None else torch.cat(tokens).cpu()
        return token, {**measured, "log_probabilities": kept}
