"""Long stories: sampled from a model, then measured token by token under it and under the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinycats.compute.devices import put
from tinycats.files.tables import Row
from tinycats.language_model.cache import growing_cache
from tinycats.language_model.divergence import divergences
from tinycats.language_model.network import Network
from tinycats.language_model.sampling import chunks, draw_tokens
from tinycats.language_model.text import decode, encode, encode_prompt
from tinycats.progress import progress
from tinycats.random_numbers import seed_for

#: Tokens in one teacher-forced pass while measuring.
TOKENS_PER_PASS = 4096


@dataclass(frozen=True)
class Request:
    """One story to sample: its prompt, its forced beginning and its seed."""

    prompt_group: str
    prompt: str
    prompt_ids: tuple[int, ...]
    forced_ids: tuple[int, ...]  # first new tokens that are not sampled
    sample_seed: int


def requests(
    tokenizer: Any,
    prompts: Mapping[str, Sequence[str]],
    per_prompt: Mapping[str, int],
    forced: str,
    seed: int,
) -> list[Request]:
    """The stories of one seed.

    The random numbers of a story follow from the seed, its prompt and its index among the stories of
    that prompt. So they are the same for every model, and stories pair up; and another prompt more
    or less leaves them as they are.

    Args:
        prompts: group → prompts.
        per_prompt: group → stories for each of its prompts.
        forced: text that every story begins with after its prompt (may be empty).
    """
    result, told = [], Counter[str]()
    forced_ids = tuple(encode(tokenizer, forced))
    for group, texts in prompts.items():
        for text in texts:
            prompt_ids = tuple(encode_prompt(tokenizer, text))
            for _ in range(per_prompt[group]):
                sample_seed = seed_for("story", seed, text, told[text])
                result.append(Request(group, text, prompt_ids, forced_ids, sample_seed))
                told[text] += 1
    return result


@torch.no_grad()
def sample_stories(
    network: Network, asked: Sequence[Request], new_tokens: int, end_token: int
) -> list[list[int]]:
    """New token ids of each story (forced ones first, an end token last if it ended).

    All stories advance by one token at a time: a story whose prompt is longer than the shortest
    one takes its next prompt token instead of a sampled one, so no padding is needed. Stories that
    have ended are removed from the batch once they are a fifth of it.
    """
    given = [r.prompt_ids + r.forced_ids for r in asked]
    shortest = min(len(r.prompt_ids) for r in asked)
    numbers = np.stack([np.random.default_rng(r.sample_seed).random(new_tokens) for r in asked])
    told: list[list[int]] = [[] for _ in asked]
    active, ended = list(range(len(asked))), set[int]()
    cache = growing_cache(max(map(len, given)) + new_tokens)
    fed = torch.tensor([ids[:shortest] for ids in given])
    position = shortest
    longest = max(map(len, given)) - shortest + new_tokens
    for _ in progress(
        count(), longest, "token", lambda: f"{len(ended)} of {len(asked)} stories ended"
    ):
        if not active:
            break
        log_p = network.next_log_probabilities(fed, cache)
        index = [min(max(position - len(asked[i].prompt_ids), 0), new_tokens - 1) for i in active]
        u = put(torch.from_numpy(numbers[active, index]), network.device)
        drawn = draw_tokens(
            log_p.exp(), u, torch.arange(len(active), device=network.device)
        ).tolist()
        tokens, stay = [], []
        for row, i in enumerate(active):
            if i in ended:
                tokens.append(end_token)
                continue
            token = given[i][position] if position < len(given[i]) else drawn[row]
            tokens.append(token)
            if position >= len(asked[i].prompt_ids):
                told[i].append(token)
                if token == end_token or len(told[i]) == new_tokens:
                    ended.add(i)
                    continue
            stay.append(row)
        if len(stay) <= 0.8 * len(active):
            cache.batch_select_indices(put(torch.tensor(stay, dtype=torch.long), network.device))
            active = [active[row] for row in stay]
            tokens = [tokens[row] for row in stay]
        fed = torch.tensor(tokens)[:, None]
        position += 1
    return told


def _padded(
    asked: Sequence[Request], told: Sequence[list[int]]
) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of similar length: story indices and their inputs, padded on the right."""
    lengths = [len(r.prompt_ids) + len(t) for r, t in zip(asked, told, strict=True)]
    order = sorted(range(len(told)), key=lambda i: lengths[i])
    size = max(1, TOKENS_PER_PASS // max(lengths))
    for part in chunks(len(order), size):
        members = order[part]
        inputs = torch.zeros(len(members), max(lengths[i] for i in members) - 1, dtype=torch.long)
        for row, i in enumerate(members):
            ids = [*asked[i].prompt_ids, *told[i]][:-1]
            inputs[row, : len(ids)] = torch.tensor(ids)
        yield members, inputs


@torch.no_grad()
def measure_stories(
    policy: Network, base: Network | None, asked: Sequence[Request], told: Sequence[list[int]]
) -> list[dict[str, np.ndarray]]:
    """For each story, per new token: ``log_prob_policy`` and, with a base, ``log_prob_base``,
    ``kl_policy_to_base_nats`` and ``kl_base_to_policy_nats`` (float32, nats)."""
    results: list[dict[str, np.ndarray]] = [{} for _ in told]
    parts = list(_padded(asked, told))
    for members, inputs in progress(parts, len(parts), "measuring stories, part"):
        inputs = inputs.to(policy.device)
        hidden = policy.forward(inputs, [])[0]
        hidden_base = base.forward(inputs, [])[0] if base else hidden
        for row, i in enumerate(members):
            begin = len(asked[i].prompt_ids) - 1
            states = slice(begin, begin + len(told[i]))
            token = torch.tensor(told[i], device=policy.device)[:, None]
            log_p = policy.log_probabilities(hidden[row, states])
            found = {"log_prob_policy": log_p.gather(1, token)[:, 0]}
            if base is not None:
                log_p_base = base.log_probabilities(hidden_base[row, states])
                found["log_prob_base"] = log_p_base.gather(1, token)[:, 0]
                (
                    found["kl_policy_to_base_nats"],
                    found["kl_base_to_policy_nats"],
                ) = divergences(log_p.exp(), log_p, log_p_base)
            results[i] = {name: values.cpu().numpy() for name, values in found.items()}
    return results


def _numbers(values: np.ndarray) -> list[float | None]:
    """Rounded to four decimals, enough for a reader of stories; no −0."""
    return [round(float(v), 4) + 0.0 if np.isfinite(v) else None for v in values]


def story_row(
    tokenizer: Any, request: Request, ids: list[int], found: Mapping[str, np.ndarray]
) -> Row:
    """A row of a stories file (:data:`tinycats.stories.columns.STORY_FIELDS`).

    Args:
        ids: the new tokens, forced ones first.
        found: per new token, the four measurements of :func:`measure_stories`.
    """
    end = tokenizer.eos_token_id
    forced = [token for token in request.forced_ids if token != end]
    return {
        "prompt_group": request.prompt_group,
        "prompt": request.prompt,
        "forced": tokenizer.decode(forced),
        "text": decode(tokenizer, ids),
        "token_ids": ids,
        "tokens": [decode(tokenizer, [i], special_tokens=True) for i in ids],
        "log_prob_policy": _numbers(found["log_prob_policy"]),
        "log_prob_base": _numbers(found["log_prob_base"]),
        "kl_policy_to_base_nats": _numbers(found["kl_policy_to_base_nats"]),
        "kl_base_to_policy_nats": _numbers(found["kl_base_to_policy_nats"]),
        "ended": bool(ids and ids[-1] == end),
        "sample_seed": request.sample_seed,
    }


def tell_stories(
    policy: Network,
    base: Network,
    tokenizer: Any,
    asked: Sequence[Request],
    new_tokens: int,
) -> list[Row]:
    """Rows of a stories file.

    The conditioned model takes a forced token with probability 1, whatever its probability under
    the model itself: its log probability is 0, KL(conditioned‖base) there is −log p_base, and
    KL(base‖conditioned) is infinite, written as null.
    """
    told = sample_stories(policy, asked, new_tokens, tokenizer.eos_token_id)
    measured = measure_stories(policy, base, asked, told)
    rows = []
    for request, ids, found in zip(asked, told, measured, strict=True):
        forced = len(request.forced_ids)
        found["log_prob_policy"][:forced] = 0.0
        found["kl_policy_to_base_nats"][:forced] = -found["log_prob_base"][:forced]
        found["kl_base_to_policy_nats"][:forced] = np.inf
        rows.append(story_row(tokenizer, request, ids, found))
    return rows


def find_stories(policy: Network, rows: Sequence[Row], tokenizer: Any) -> list[Row]:
    """Log-probabilities under a policy of another model's stories.

    Returns: rows with the fields :data:`~tinycats.stories.columns.FORGETTING_FIELDS`.
    """
    asked = [
        Request(
            row["prompt_group"],
            row["prompt"],
            tuple(encode_prompt(tokenizer, row["prompt"])),
            (),
            row["sample_seed"],
        )
        for row in rows
    ]
    measured = measure_stories(policy, None, asked, [row["token_ids"] for row in rows])
    return [
        {"story": i, "log_prob_policy": _numbers(found["log_prob_policy"])}
        for i, found in enumerate(measured)
    ]
