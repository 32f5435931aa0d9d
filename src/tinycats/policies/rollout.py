"""Rollouts on a prefix tree: every distinct prefix of a batch is computed once.

Many completions of one prompt begin alike: of 1000 samples of 4 tokens a small story model gives
some 600 distinct ones, and a converged policy a handful. A batch is therefore kept as
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
of the logits written out by hand (:func:`tinycats.policies.objective.logit_gradient`).

Which completion takes which token where is kept in small tensors on the CPU; the arithmetic is on
the device. The host synchronises once per level, to read the tokens drawn, and once per batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tinycats.compute.devices import put
from tinycats.compute.linear import matmul
from tinycats.language_model.cache import growing_cache
from tinycats.language_model.network import Network
from tinycats.language_model.sampling import chunks, draw_tokens, sections
from tinycats.policies import objective
from tinycats.policies.passes import STATES_PER_CHUNK, LevelPasses
from tinycats.policies.prefix_tree import Level, Rollout, ancestors
from tinycats.program import UserError

#: Levels of one token each before the rest of a completion becomes a row of the tail.
TREE_DEPTH = 12
#: Logits computed at once for the gradient: 128 MB, since the gradient of the head's weights is
#: written once for each chunk.
LOGITS_DIFFERENTIATED = 2**25


class Sampler:
    """Draws completions of one prompt from a policy and differentiates the objective over them.

    Args:
        policy, base: networks with the same vocabulary on the same device.
        prompt_ids: ``(P,)`` token ids, P ≥ 1.
        new_tokens: T, the most tokens a completion may have.
        end_token: id that ends a completion; it is part of the completion.
        micro_batch: tokens in one forward-backward pass.
    """

    def __init__(
        self,
        policy: Network,
        base: Network,
        prompt_ids: list[int],
        new_tokens: int,
        end_token: int,
        micro_batch: int = 4096,
        tree_depth: int = TREE_DEPTH,
    ) -> None:
        if not prompt_ids:
            raise UserError("the prompt has no tokens; a completion needs at least one to follow")
        self.policy, self.base = policy, base
        self.device = policy.device
        self.prompt = torch.tensor([prompt_ids])
        self.new_tokens, self.end_token = new_tokens, end_token
        self.micro_batch, self.tree_depth = micro_batch, tree_depth
        self.passes = LevelPasses(policy, base, self.prompt, micro_batch)
        self.vocabulary = self.passes.vocabulary
        self.states_differentiated = max(STATES_PER_CHUNK, LOGITS_DIFFERENTIATED // self.vocabulary)

    # ------------------------------------------------------------------ drawing

    def sample(self, batch: int, generator: torch.Generator, keep_graph: bool = False) -> Rollout:
        """Draw ``batch`` completions; ``keep_graph`` keeps what :meth:`backward` would redo."""
        u = torch.rand(batch, self.new_tokens, generator=generator, dtype=torch.float64)
        return self.sample_at(u, keep_graph)

    def sample_at(self, u: Tensor, keep_graph: bool = False) -> Rollout:
        """The completions at uniform numbers ``u`` (batch, T), float64."""
        return self._grow(torch.full(u.shape, -1), u, keep_graph)

    def follow(self, token_ids: list[tuple[int, ...]], keep_graph: bool = False) -> Rollout:
        """The same quantities for given completions (each non-empty, an end token only at its end)."""
        tokens = torch.full((len(token_ids), self.new_tokens), -1)
        for row, ids in enumerate(token_ids):
            tokens[row, : len(ids)] = torch.tensor(ids)
        return self._grow(tokens, None, keep_graph)

    def again(self, rollout: Rollout, keep_graph: bool = False) -> Rollout:
        """The same completions and levels, measured under the policy's present weights.

        What the base computed is taken from ``rollout``, also after :meth:`backward`.
        """
        levels: list[Level] = []
        for depth, level in enumerate(rollout.levels):
            tail = depth == self.tree_depth
            passed = self.passes.states(
                *(levels, level.inputs, level.parents, level.select),
                keep_graph=keep_graph and not tail,
                keep_cache=not tail,
                of_base=(level.hidden_base, level.cache_base),
            )
            _, measured = self.passes.measure(
                passed, level.state, level.token, None, keep_graph and not tail
            )
            levels.append(replace(level, cache=passed.cache, graph=passed.graph, **measured))
        return Rollout.of(levels, rollout.tokens)

    def _grow(self, tokens: Tensor, u: Tensor | None, keep_graph: bool) -> Rollout:
        """The tree of ``tokens`` (batch, T), which are drawn by ``u`` where that is given."""
        levels: list[Level] = []
        alive = torch.arange(len(tokens))  # have not ended; those of a row are together
        row = torch.zeros_like(alive)  # their row in the level being added, ascending
        inputs, parents = self.prompt, torch.zeros(1, dtype=torch.long)
        for step in range(min(self.new_tokens, self.tree_depth)):
            level = self._level(levels, inputs, parents, alive, row, tokens, u, keep_graph)
            levels.append(level)
            token = tokens[alive, step] = level.token
            goes_on = token != self.end_token
            if u is None and step + 1 < self.new_tokens:
                goes_on &= tokens[alive, step + 1] >= 0
            alive, row, token = alive[goes_on], row[goes_on], token[goes_on]
            if len(alive) == 0 or step + 1 == self.new_tokens:
                break
            # distinct (row, token) pairs are the rows of the next level
            pairs, row = torch.unique(row * self.vocabulary + token, return_inverse=True)
            inputs, parents = (pairs % self.vocabulary)[:, None], pairs // self.vocabulary
            row, order = torch.sort(row, stable=True)
            alive = alive[order]
        else:
            if len(alive):
                if u is not None:
                    self._draw_tail(levels, inputs, parents, alive, row, tokens, u)
                levels.append(self._tail(levels, inputs, parents, alive, row, tokens))
        return Rollout.of(levels, tokens)

    def _level(
        self,
        above: list[Level],
        inputs: Tensor,
        parents: Tensor,
        alive: Tensor,
        row: Tensor,
        tokens: Tensor,
        u: Tensor | None,
        keep_graph: bool,
    ) -> Level:
        """The level below ``above``, one state a row, with the token that each completion takes."""
        step, (rows, length) = len(above), inputs.shape
        select = torch.arange(rows) * length + length - 1
        passed = self.passes.states(above, inputs, parents, select, keep_graph)
        token = tokens[alive, step]
        uniforms = None if u is None else u[alive, step]
        token, measured = self.passes.measure(passed, row, token, uniforms, keep_graph)
        return Level(
            inputs=inputs,
            parents=parents,
            select=select,
            sample=alive,
            step=torch.full_like(alive, step),
            state=row,
            token=token,
            visits=torch.bincount(row, minlength=rows).float(),
            cache=passed.cache,
            cache_base=passed.cache_base,
            hidden_base=passed.hidden_base,
            graph=passed.graph,
            **measured,
        )

    def _tail(
        self,
        above: list[Level],
        inputs: Tensor,
        parents: Tensor,
        alive: Tensor,
        row: Tensor,
        tokens: Tensor,
    ) -> Level:
        """The rest of every completion, distinct ones once, as rows of one level."""
        depth = len(above)
        rest = tokens[alive, depth:]  # (alive, length)
        distinct, row = torch.unique(
            torch.cat([row[:, None], rest], dim=1), dim=0, return_inverse=True
        )
        first, rest = distinct[:, 0], distinct[:, 1:]
        length = int((rest >= 0).sum(1).max())
        predicted = rest[:, :length] >= 0  # (rows, length)
        fed = torch.cat([inputs[first], rest[:, : length - 1]], dim=1)
        select = predicted.flatten().nonzero()[:, 0]
        place = torch.full((predicted.numel(),), -1)
        place[select] = torch.arange(len(select))
        taken = predicted[row]  # (alive, length)
        entry, position = taken.nonzero(as_tuple=True)
        state, order = torch.sort(place[row[entry] * length + position], stable=True)
        sample, step = alive[entry[order]], depth + position[order]
        inputs, parents = fed.clamp(min=0), parents[first]
        # nothing comes below, so no cache is kept
        passed = self.passes.states(
            above, inputs, parents, select, keep_graph=False, keep_cache=False
        )
        token, measured = self.passes.measure(passed, state, tokens[sample, step], None, keep=False)
        return Level(
            inputs=inputs,
            parents=parents,
            select=select,
            sample=sample,
            step=step,
            state=state,
            token=token,
            visits=torch.bincount(state, minlength=len(select)).float(),
            cache=passed.cache,
            cache_base=passed.cache_base,
            hidden_base=passed.hidden_base,
            graph=None,
            **measured,
        )

    @torch.no_grad()
    def _draw_tail(
        self,
        above: list[Level],
        inputs: Tensor,
        parents: Tensor,
        alive: Tensor,
        row: Tensor,
        tokens: Tensor,
        u: Tensor,
    ) -> None:
        """Fill ``tokens`` past the tree's depth, one row a completion, with an ordinary cache."""
        depth = len(above)
        # their caches fill up, to as many tokens as four passes have
        for part in chunks(len(alive), 4 * self.micro_batch // self.new_tokens):
            members, fed = alive[part], inputs[row[part]]
            cache = growing_cache(self.prompt.shape[1] + self.new_tokens)
            for layer, (k, v) in enumerate(ancestors(above, parents[row[part]])):
                cache.update(torch.cat(k, 2), torch.cat(v, 2), layer)
            going = torch.arange(len(members))
            for step in range(depth, self.new_tokens):
                log_p = self.policy.next_log_probabilities(fed, cache)
                token = draw_tokens(
                    log_p[put(going, self.device)].exp(),
                    put(u[members[going], step], self.device),
                    torch.arange(len(going), device=self.device),
                ).cpu()
                tokens[members[going], step] = token
                going = going[token != self.end_token]
                if len(going) == 0:
                    break
                fed = tokens[members, step].clamp(min=0)[:, None]

    # ------------------------------------------------------------------ the gradient

    def backward(
        self,
        rollout: Rollout,
        advantage: Tensor,
        coefficient: float,
        kl: str,
        num_tokens: int,
        drawn: Rollout | None = None,
        clip: float = 0.2,
    ) -> None:
        """Add ∂L/∂θ of the rollout to the policy's ``.grad``; ``advantage`` is ``(batch,)``.

        A level's graph, cache and log-probabilities are released once used, so call this only once.
        Where ``drawn`` is given, the batch as measured when it was drawn, and ``rollout`` is it
        :meth:`again`, the policy gradient is PPO's, with ``clip`` as its ε.
        """
        scale = 1.0 / (len(advantage) * num_tokens)
        weights = self._token_weights(rollout, advantage, coefficient, kl, drawn, clip)
        for depth in reversed(range(len(rollout.levels))):
            level = rollout.levels[depth]
            rows, length = level.inputs.shape
            size = rows if level.graph is not None else max(1, self.micro_batch // length)
            for part, states in sections(level.select // length, rows, size):
                if level.graph is not None:
                    hidden, new = level.graph
                else:
                    past = ancestors(rollout.levels[:depth], level.parents[part])
                    hidden, new = self.policy.forward(put(level.inputs[part], self.device), past)
                    select = level.select[states] - part.start * length
                    hidden = hidden.flatten(0, 1)[put(select, self.device)]
                d_hidden = self._head_backward(
                    level,
                    hidden.detach(),
                    states,
                    weights[depth] * scale,
                    coefficient * scale,
                    kl,
                )
                outputs, seeds = [hidden], [d_hidden]
                for fresh, kept in zip(new, level.cache, strict=False):  # the tail keeps none
                    for output, leaf in zip(fresh, kept, strict=True):
                        if leaf.grad is not None:
                            outputs.append(output)
                            seeds.append(leaf.grad[part])
                torch.autograd.backward(outputs, seeds)
            rollout.levels[depth] = level.released()

    def _token_weights(
        self,
        rollout: Rollout,
        advantage: Tensor,
        coefficient: float,
        kl: str,
        drawn: Rollout | None,
        clip: float,
    ) -> list[Tensor]:
        """Weight of every entry of every level; what comes after a token is summed from the end."""
        term = objective.KLS[kl]
        after = torch.zeros(len(advantage))
        result: list[Tensor] = []
        first = drawn or rollout
        for level, then in zip(reversed(rollout.levels), reversed(first.levels), strict=True):
            kls = torch.zeros(len(advantage), self.new_tokens + 1)
            kls[level.sample, level.step] = then.kl_policy_to_base[level.state]
            later = kls.flip(1).cumsum(1).flip(1)  # Σ over this level's steps ≥ t
            kl_after = after[level.sample] + later[level.sample, level.step + 1]
            weight = term.token_advantages(advantage[level.sample], kl_after, coefficient)
            if drawn is not None:
                weight = objective.clipped(weight, level.log_prob - then.log_prob, clip)
            log_ratio = level.log_prob - level.log_prob_base
            result.append(term.token_weights(weight, log_ratio, coefficient))
            after = after + later[:, 0]
        return result[::-1]

    @torch.no_grad()
    def _head_backward(
        self,
        level: Level,
        hidden: Tensor,
        states: slice,
        weight: Tensor,
        coefficient: float,
        kl: str,
    ) -> Tensor:
        """∂L/∂hidden ``(states, width)``; adds the head's own gradient on the way."""
        head = self.policy.head
        for parameter in (head.weight, head.bias):
            if parameter is not None and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        d_hidden = torch.empty_like(hidden)
        for chunk, entries in sections(
            level.state, states.stop, self.states_differentiated, states.start
        ):
            part = slice(chunk.start - states.start, chunk.stop - states.start)
            log_p, log_p_base = self._distributions(
                level, hidden[part], chunk, bool(coefficient) and objective.KLS[kl].at_states
            )
            d_logits = objective.logit_gradient(
                log_p,
                log_p_base,
                put(level.visits[chunk], self.device),
                put(level.state[entries] - chunk.start, self.device),
                put(level.token[entries], self.device),
                put(weight[entries], self.device),
                coefficient,
                kl,
            )
            d_logits = head.before_scale_and_cap(d_logits, hidden[part])
            d_hidden[part] = matmul(d_logits, head.weight)
            head.weight.grad += matmul(d_logits.T, hidden[part])
            if head.bias is not None:
                head.bias.grad += d_logits.sum(0)
        return d_hidden

    def _distributions(
        self, level: Level, hidden: Tensor, states: slice, with_base: bool
    ) -> tuple[Tensor, Tensor]:
        """log π and log p_base at some of a level's states: as kept, or computed again.

        Where the base is not needed, it is not computed, and log π is returned in its place.
        """
        if level.log_probabilities is not None:
            return level.log_probabilities[0][states], level.log_probabilities[1][states]
        log_p = self.policy.log_probabilities(hidden)
        if not with_base:
            return log_p, log_p
        return log_p, self.base.log_probabilities(level.hidden_base[states])
