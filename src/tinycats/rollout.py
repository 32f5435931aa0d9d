"""Rollouts on a prefix tree: every distinct prefix of a batch is computed once.

Many completions of one prompt begin alike: of 1000 samples of 4 tokens a small story model gives
some 600 distinct ones, and a policy that has found its cat a handful. A batch is therefore kept as
a tree of the prefixes that occur. The prompt is its root, computed once; each level below adds one
token to the prefixes above, reading the keys and values of its ancestors; a prefix carries the
number of completions that pass through it. Where completions are long (the post's first listing
has 244 new tokens) they no longer share prefixes after a few tokens, so below ``tree_depth`` what
remains of each distinct completion is one row of a last level, the tail.

    prompt ─┬─ " a" ──┬─ " little" ── …
            │  ×701   └─ " cat" ──── …        a state is a place where a token is predicted;
            └─ " two" ─── …                   ×n counts the completions that pass through

Sampling is by inversion: completion i takes at step t the token where π's cumulative distribution
passes its own uniform number u[i, t]. So neither the order of the work nor the sharing changes
what is drawn, and equal seeds give equal batches.

The gradient is taken over the same tree, from the deepest level up. A level's keys and values are
leaves of its own small graph: deeper levels leave their gradient in ``.grad``, and the level passes
it on. Memory is thus bounded by ``micro_batch`` tokens, and deduplication is exact, in the gradient
too. The head is applied only at states, in chunks of rows that stay in cache, with the gradient
of the logits written out by hand (:func:`tinycats.objective.logit_gradient`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tinycats import objective
from tinycats.linear import matmul
from tinycats.network import Cache, Network, growing_cache
from tinycats.prefix_tree import Level, Rollout, ancestors, chunks, draw
from tinycats.program import UserError

#: Levels of one token each before the rest of a completion becomes a row of the tail.
TREE_DEPTH = 12
#: Logits held at once by the head: 16 MB, so that softmax and its gradient stay in cache.
LOGITS_PER_CHUNK = 2**22
#: Log-probabilities of a level kept from drawing to differentiating: 256 MB for each network.
LOGITS_KEPT = 2**26


class Sampler:
    """Draws completions of one prompt from a policy and differentiates the objective over them.

    Args:
        policy, reference: networks with the same vocabulary on the same device.
        prompt_ids: ``(P,)`` token ids, P ≥ 1.
        new_tokens: T, the most tokens a completion may have.
        end_token: id that ends a completion; it is part of the completion.
        micro_batch: tokens in one forward-backward pass.
    """

    def __init__(
        self,
        policy: Network,
        reference: Network,
        prompt_ids: list[int],
        new_tokens: int,
        end_token: int,
        micro_batch: int = 4096,
        tree_depth: int = TREE_DEPTH,
    ) -> None:
        if not prompt_ids:
            raise UserError("the prompt has no tokens; a completion needs at least one to follow")
        self.policy, self.reference = policy, reference
        self.device = policy.device
        self.prompt = torch.tensor([prompt_ids], device=self.device)
        self.new_tokens, self.end_token = new_tokens, end_token
        self.micro_batch, self.tree_depth = micro_batch, tree_depth
        self.prompt_reference: tuple[Tensor, Cache] | None = None  # never changes: computed once

    # ------------------------------------------------------------------ drawing

    def sample(self, batch: int, generator: torch.Generator, keep_graph: bool = False) -> Rollout:
        """Draw ``batch`` completions; ``keep_graph`` keeps what :meth:`backward` would redo."""
        u = torch.rand(batch, self.new_tokens, generator=generator, dtype=torch.float64)
        return self._grow(u.to(self.device), None, keep_graph)

    def follow(self, token_ids: list[tuple[int, ...]], keep_graph: bool = False) -> Rollout:
        """The same quantities for given completions (each non-empty, an end token only at its end)."""
        tokens = torch.full((len(token_ids), self.new_tokens), -1)
        for row, ids in enumerate(token_ids):
            tokens[row, : len(ids)] = torch.tensor(ids)
        return self._grow(None, tokens.to(self.device), keep_graph)

    def _grow(self, u: Tensor | None, given: Tensor | None, keep_graph: bool) -> Rollout:
        batch = len(u) if u is not None else len(given)  # type: ignore[arg-type]
        self.levels: list[Level] = []
        self.tokens = torch.full((batch, self.new_tokens), -1, device=self.device)
        self.log_reference = torch.zeros(batch, device=self.device)
        alive = torch.arange(batch, device=self.device)  # completions that have not ended
        row = torch.zeros_like(alive)  # their row in the level being added
        inputs, parents = self.prompt, torch.zeros(1, dtype=torch.long, device=self.device)
        for step in range(min(self.new_tokens, self.tree_depth)):
            numbers = u[alive, step] if u is not None else None
            known = given[alive, step] if given is not None else None
            token = self._add_level(inputs, parents, alive, row, step, numbers, known, keep_graph)
            self.tokens[alive, step] = token
            goes_on = token != self.end_token
            if given is not None and step + 1 < self.new_tokens:
                goes_on &= given[alive, step + 1] >= 0
            alive, row, token = alive[goes_on], row[goes_on], token[goes_on]
            if len(alive) == 0 or step + 1 == self.new_tokens:
                break
            # distinct (row, token) pairs are the rows of the next level
            vocabulary = int(self.policy.head.weight.shape[0])
            pairs, row = torch.unique(row * vocabulary + token, return_inverse=True)
            inputs, parents = (pairs % vocabulary)[:, None], pairs // vocabulary
        else:
            if len(alive):
                self._add_tail(inputs, parents, alive, row, u, given)
        return Rollout.of(self.levels, self.tokens, self.log_reference)

    def _add_level(
        self,
        inputs: Tensor,
        parents: Tensor,
        alive: Tensor,
        row: Tensor,
        step: int,
        u: Tensor | None,
        known: Tensor | None,
        keep_graph: bool,
    ) -> Tensor:
        """Append a level of one state a row; returns the token each completion takes."""
        rows, length = inputs.shape
        level = Level(inputs, parents, torch.arange(rows, device=self.device) * length + length - 1)
        level.sample, level.step, level.state = alive, torch.full_like(alive, step), row
        level.visits = torch.bincount(row, minlength=rows).float()
        level.token = torch.empty_like(row) if known is None else known
        self.levels.append(level)
        self._measure(level, self._states(level, keep_graph), u, keep_graph)
        return level.token

    def _add_tail(
        self,
        inputs: Tensor,
        parents: Tensor,
        alive: Tensor,
        row: Tensor,
        u: Tensor | None,
        given: Tensor | None,
    ) -> None:
        """Append the rest of every completion, distinct ones once, as rows of one level."""
        depth = len(self.levels)
        if given is None:
            assert u is not None
            self._draw_tail(inputs, parents, alive, row, u)
        else:
            self.tokens[alive, depth:] = given[alive, depth:]
        rest = self.tokens[alive, depth:]  # (alive, length)
        distinct, row = torch.unique(
            torch.cat([row[:, None], rest], dim=1), dim=0, return_inverse=True
        )
        first, rest = distinct[:, 0], distinct[:, 1:]
        length = int((rest >= 0).sum(1).max())
        predicted = rest[:, :length] >= 0  # (rows, length)
        fed = torch.cat([inputs[first], rest[:, : length - 1]], dim=1)
        select = predicted.flatten().nonzero()[:, 0]
        level = Level(fed.clamp(min=0), parents[first], select)
        place = torch.full((predicted.numel(),), -1, device=self.device)
        place[select] = torch.arange(len(select), device=self.device)
        taken = predicted[row]  # (alive, length)
        entry, position = taken.nonzero(as_tuple=True)
        level.sample, level.step = alive[entry], depth + position
        level.state = place[row[entry] * length + position]
        level.token = self.tokens[level.sample, level.step]
        level.visits = torch.bincount(level.state, minlength=len(select)).float()
        self.levels.append(level)
        states = self._states(level, keep_graph=False, keep_cache=False)  # nothing comes below
        self._measure(level, states, None, keep=False)

    @torch.no_grad()
    def _draw_tail(
        self, inputs: Tensor, parents: Tensor, alive: Tensor, row: Tensor, u: Tensor
    ) -> None:
        """Draw tokens past the tree's depth, one row a completion, with an ordinary cache."""
        depth = len(self.levels)
        # their caches fill up, to as many tokens as four passes have
        for part in chunks(len(alive), 4 * self.micro_batch // self.new_tokens):
            members, fed = alive[part], inputs[row[part]]
            cache = growing_cache(self.prompt.shape[1] + self.new_tokens)
            for layer, (k, v) in enumerate(ancestors(self.levels, parents[row[part]])):
                cache.update(torch.cat(k, 2), torch.cat(v, 2), layer)
            going = torch.arange(len(members), device=self.device)
            for step in range(depth, self.new_tokens):
                low = self.policy.precision == "bf16"
                with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                    out = self.policy.body(input_ids=fed, past_key_values=cache, use_cache=True)
                log_p = self.policy.log_probabilities(out.last_hidden_state[:, -1].float())
                token = draw(
                    log_p[going],
                    u[members[going], step],
                    torch.arange(len(going), device=self.device),
                )
                self.tokens[members[going], step] = token
                going = going[token != self.end_token]
                if len(going) == 0:
                    break
                fed = self.tokens[members, step].clamp(min=0)[:, None]

    # ------------------------------------------------------------------ one level's arithmetic

    def _states(self, level: Level, keep_graph: bool, keep_cache: bool = True) -> Tensor:
        """Hidden states of the policy at the level's states; fills the level's caches."""
        keep_graph = keep_graph and level.inputs.numel() <= self.micro_batch
        with torch.set_grad_enabled(keep_graph):
            hidden, new = self._forward(level, reference=False, keep_cache=keep_cache)
        if keep_graph:
            level.graph = (hidden, new)
        level.cache = [(k.detach().requires_grad_(), v.detach().requires_grad_()) for k, v in new]
        if len(self.levels) == 1 and self.prompt_reference is not None:
            level.hidden_reference, level.cache_reference = self.prompt_reference
        else:
            with torch.no_grad():
                level.hidden_reference, level.cache_reference = self._forward(
                    level, reference=True, keep_cache=keep_cache
                )
        if len(self.levels) == 1:
            self.prompt_reference = level.hidden_reference, level.cache_reference
        return hidden.detach()

    def _forward(self, level: Level, reference: bool, keep_cache: bool) -> tuple[Tensor, Cache]:
        """All rows of the last level through a network, ``micro_batch`` tokens at a time."""
        network = self.reference if reference else self.policy
        rows, length = level.inputs.shape
        outputs, caches = [], []
        for part in chunks(rows, self.micro_batch // length):
            past = ancestors(self.levels[:-1], level.parents[part], reference)
            hidden, new = network.forward(level.inputs[part], past)
            outputs.append(hidden.flatten(0, 1))
            caches.append(new if keep_cache else [])
        joined = [
            (torch.cat([c[i][0] for c in caches]), torch.cat([c[i][1] for c in caches]))
            for i in range(len(caches[0]))
        ]
        return torch.cat(outputs)[level.select], joined

    @torch.no_grad()
    def _measure(self, level: Level, hidden: Tensor, u: Tensor | None, keep: bool) -> None:
        """Both distributions at each state: draw the tokens (where ``u`` is given), measure them."""
        level.log_density = torch.zeros(len(level.state), device=self.device)
        vocabulary = int(self.policy.head.weight.shape[0])
        size = LOGITS_PER_CHUNK // vocabulary
        for name in ("kl_policy_to_reference", "kl_reference_to_policy", "entropy"):
            setattr(level, name, torch.empty(len(hidden), device=self.device))
        if keep and len(hidden) * vocabulary <= LOGITS_KEPT:
            level.log_probabilities = (
                torch.empty(len(hidden), vocabulary, device=self.device),
                torch.empty(len(hidden), vocabulary, device=self.device),
            )
        order = torch.argsort(level.state, stable=True)
        bounds = torch.searchsorted(
            level.state[order].contiguous(),
            torch.tensor([s.stop for s in chunks(len(hidden), size)], device=self.device),
        ).tolist()
        begin = 0
        for part, end in zip(chunks(len(hidden), size), bounds, strict=True):
            log_p = self.policy.log_probabilities(hidden[part])
            log_ref = self.reference.log_probabilities(level.hidden_reference[part])
            if level.log_probabilities is not None:
                level.log_probabilities[0][part] = log_p
                level.log_probabilities[1][part] = log_ref
            level.kl_policy_to_reference[part] = objective.kl_policy_to_reference(log_p, log_ref)
            level.kl_reference_to_policy[part] = objective.kl_reference_to_policy(log_p, log_ref)
            level.entropy[part] = objective.entropy(log_p)
            entries = order[begin:end]
            begin = end
            state = level.state[entries] - part.start
            if u is not None:
                level.token[entries] = draw(log_p, u[entries], state)
            token = level.token[entries]
            level.log_density[entries] = log_p[state, token]
            self.log_reference.index_add_(0, level.sample[entries], log_ref[state, token])

    # ------------------------------------------------------------------ the gradient

    def backward(
        self,
        rollout: Rollout,
        advantage: Tensor,
        coefficient: float,
        kl_direction: str,
        num_tokens: int,
    ) -> None:
        """Add ∂L/∂θ of the rollout to the policy's ``.grad``; ``advantage`` is ``(batch,)``."""
        advantage = advantage.to(self.device)
        scale = 1.0 / (len(advantage) * num_tokens)
        weights = self._token_weights(rollout, advantage, coefficient, kl_direction)
        for depth in reversed(range(len(rollout.levels))):
            level = rollout.levels[depth]
            rows, length = level.inputs.shape
            whole = level.graph is not None
            for part in chunks(rows, rows if whole else self.micro_batch // length):
                inside = (level.select >= part.start * length) & (level.select < part.stop * length)
                states = inside.nonzero()[:, 0]
                if level.graph is not None:
                    hidden, new = level.graph
                else:
                    past = ancestors(rollout.levels[:depth], level.parents[part])
                    hidden, new = self.policy.forward(level.inputs[part], past)
                    hidden = hidden.flatten(0, 1)[level.select[states] - part.start * length]
                d_hidden = self._head_backward(
                    level, hidden.detach(), states, weights[depth], coefficient, kl_direction, scale
                )
                outputs, seeds = [hidden], [d_hidden]
                for fresh, kept in zip(new, level.cache, strict=False):  # the tail keeps none
                    for output, leaf in zip(fresh, kept, strict=True):
                        if leaf.grad is not None:
                            outputs.append(output)
                            seeds.append(leaf.grad[part])
                torch.autograd.backward(outputs, seeds)
            level.graph, level.cache, level.log_probabilities = None, [], None

    def _token_weights(
        self, rollout: Rollout, advantage: Tensor, coefficient: float, kl_direction: str
    ) -> list[Tensor]:
        """Weight of every entry of every level; what comes after a token is summed from the end."""
        after = torch.zeros(len(advantage), device=self.device)
        result: list[Tensor] = []
        for level in reversed(rollout.levels):
            kl = torch.zeros(len(advantage), self.new_tokens + 1, device=self.device)
            kl[level.sample, level.step] = level.kl_policy_to_reference[level.state]
            later = kl.flip(1).cumsum(1).flip(1)  # Σ over this level's steps ≥ t
            kl_after = after[level.sample] + later[level.sample, level.step + 1]
            result.append(
                objective.token_weights(
                    advantage[level.sample], kl_after, coefficient, kl_direction
                )
            )
            after = after + later[:, 0]
        return result[::-1]

    @torch.no_grad()
    def _head_backward(
        self,
        level: Level,
        hidden: Tensor,
        states: Tensor,
        weight: Tensor,
        coefficient: float,
        kl_direction: str,
        scale: float,
    ) -> Tensor:
        """∂L/∂hidden ``(states, width)``; adds the head's own gradient on the way."""
        head = self.policy.head
        for parameter in (head.weight, head.bias):
            if parameter is not None and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        d_hidden = torch.empty_like(hidden)
        size = LOGITS_PER_CHUNK // int(head.weight.shape[0])
        entry_state = level.state - states[0]
        for part in chunks(len(hidden), size):
            entries = ((entry_state >= part.start) & (entry_state < part.stop)).nonzero()[:, 0]
            log_p, log_ref = self._distributions(level, hidden[part], states[part], coefficient)
            d_logits = objective.logit_gradient(
                log_p,
                log_ref,
                level.visits[states[part]],
                entry_state[entries] - part.start,
                level.token[entries],
                weight[entries],
                coefficient,
                kl_direction,
            ).mul_(scale)
            d_hidden[part] = matmul(d_logits, head.weight)
            head.weight.grad += matmul(d_logits.T, hidden[part])
            if head.bias is not None:
                head.bias.grad += d_logits.sum(0)
        return d_hidden

    def _distributions(
        self, level: Level, hidden: Tensor, states: Tensor, coefficient: float
    ) -> tuple[Tensor, Tensor]:
        """log π and log p_ref at some of a level's states: as kept, or computed again.

        Where the KL has no weight the reference is not asked, and log π stands in its place.
        """
        if level.log_probabilities is not None:
            begin, end = int(states[0]), int(states[-1]) + 1  # states of a chunk are consecutive
            return level.log_probabilities[0][begin:end], level.log_probabilities[1][begin:end]
        log_p = self.policy.log_probabilities(hidden)
        if not coefficient:
            return log_p, log_p
        return log_p, self.reference.log_probabilities(level.hidden_reference[states])
