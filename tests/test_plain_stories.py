"""Stories and completions against the model run plainly: whole sequences, no cache, no tree."""

from __future__ import annotations

import copy
import math
import zlib
from collections import Counter
from typing import Any

import ladder_steps
import numpy as np
import pytest
import torch
from word_model import END, VOCABULARY, tied_model, word_tokenizer

from tinycats.completions.collector import Collector, pool_of
from tinycats.language_model.network import Network
from tinycats.language_model.text import check_context
from tinycats.program import UserError
from tinycats.stories import storytelling
from tinycats.stories.storytelling import Request, find_stories, sample_stories, tell_stories

NEW_TOKENS = 7
PROMPTS = ("once there was", "then the dog sat on the mat and", "a cat")


def reward(texts: list[str]) -> torch.Tensor:
    return torch.tensor([zlib.crc32(text.encode()) % 1000 / 1000 for text in texts])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


@pytest.fixture(scope="module")
def base() -> Any:
    return tied_model(end=1.5)


@pytest.fixture(scope="module")
def policy(base: Any) -> Any:
    return ladder_steps.moved(base, by=0.1)


@torch.no_grad()
def log_p(model: Any, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """log p at every token of ``ids`` after ``prompt``, ``(tokens, vocabulary)``, float64."""
    logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)


def of_tokens(values: torch.Tensor, ids: list[int]) -> list[float]:
    return values[torch.arange(len(ids)), torch.tensor(ids)].tolist()


def asked(tokenizer: Any, forced: str = "") -> list[Request]:
    """Stories of prompts of three lengths, two each."""
    return [
        Request(
            "some", text, tuple(tokenizer(text).input_ids), tuple(tokenizer(forced).input_ids), s
        )
        for s, text in enumerate(PROMPTS * 4, start=11)
    ]


@pytest.mark.parametrize("forced", ["", "the bird"])
def test_stories_are_drawn_and_measured_as_the_model_run_plainly(
    policy: Any, base: Any, tokenizer: Any, forced: str
) -> None:
    requests = asked(tokenizer, forced)
    rows = tell_stories(Network(policy), Network(base), tokenizer, requests, NEW_TOKENS)
    assert any(row["ended"] for row in rows[:-1]), "no story ends: the case is not tested"
    assert not all(row["ended"] for row in rows), "every story ends: the case is not tested"
    for request, row in zip(requests, rows, strict=True):
        prompt = list(request.prompt_ids)
        uniform = np.random.default_rng(request.sample_seed).random(NEW_TOKENS)
        told = list(request.forced_ids)
        while len(told) < NEW_TOKENS and 0 not in told:
            p = log_p(policy, prompt, [*told, 0])[-1].exp()
            told.append(int((p.cumsum(0) <= uniform[len(told)]).sum()))
        assert row["token_ids"] == told
        assert row["prompt_group"] == "some"
        assert row["prompt"] == request.prompt
        assert row["forced"] == forced
        assert row["ended"] is (told[-1] == 0)
        words = [VOCABULARY[i] for i in told]
        assert row["tokens"] == words
        assert row["text"] == " ".join(word for word in words if word != END)
        assert row["sample_seed"] == request.sample_seed
        own, theirs = log_p(policy, prompt, told), log_p(base, prompt, told)
        given = len(request.forced_ids)
        under_base = of_tokens(theirs, told)
        expected = {
            "log_prob_policy": [0.0] * given + of_tokens(own, told)[given:],
            "log_prob_base": under_base,
            "kl_policy_to_base_nats": [-v for v in under_base[:given]]
            + (own.exp() * (own - theirs)).sum(1).tolist()[given:],
            "kl_base_to_policy_nats": (theirs.exp() * (theirs - own)).sum(1).tolist()[given:],
        }
        reverse = row["kl_base_to_policy_nats"]
        assert reverse[:given] == [None] * given
        for name, values in expected.items():
            found = reverse[given:] if name == "kl_base_to_policy_nats" else row[name]
            assert found == pytest.approx(values, abs=1.1e-4), name


def test_forgetting_is_the_base_s_stories_under_the_policy(
    policy: Any, base: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storytelling, "TOKENS_PER_PASS", 40)  # several batches, of other lengths
    requests = asked(tokenizer)
    rows = tell_stories(Network(base), Network(base), tokenizer, requests, NEW_TOKENS)
    found = find_stories(Network(policy), rows, tokenizer)
    assert [row["story"] for row in found] == list(range(len(rows)))
    for request, row, own in zip(requests, rows, found, strict=True):
        expected = of_tokens(
            log_p(policy, list(request.prompt_ids), row["token_ids"]), row["token_ids"]
        )
        assert own["log_prob_policy"] == pytest.approx(expected, abs=1.1e-4)
        assert row["kl_policy_to_base_nats"] == pytest.approx([0] * len(expected), abs=1e-4)


def test_stories_do_not_depend_on_their_company(policy: Any, tokenizer: Any) -> None:
    requests = asked(tokenizer)
    together = sample_stories(Network(policy), requests, NEW_TOKENS, 0)
    alone = [sample_stories(Network(policy), [r], NEW_TOKENS, 0)[0] for r in requests]
    assert together == alone


# ---------------------------------------------------------------------------- completions


TRAINED, NUM_TOKENS = ["once there was", "it"], 6


@pytest.fixture(scope="module")
def collected(policy: Any, base: Any, tokenizer: Any) -> tuple[Collector, list[dict[str, Any]]]:
    given: Any = reward  # texts → rewards is all that is needed of a RewardModel
    collector = Collector(copy.deepcopy(base), tokenizer, given, TRAINED, NUM_TOKENS, 64)
    collector.draw_base(300)
    prompted = collector.draw_prompted("the cat", 120)
    who = {"model": "policy", "variant": "blog", "kl_factor": "0", "seed": 3}
    collector.draw_policy(who, copy.deepcopy(policy), 200)
    return collector, prompted


def test_completions_hold_what_the_models_run_plainly_say(
    collected: tuple[Collector, list[dict[str, Any]]], policy: Any, base: Any, tokenizer: Any
) -> None:
    collector, prompted = collected
    (_, of_base), (who, of_policy) = collector.tables
    assert (who["variant"], who["seed"]) == ("blog", 3)
    for rows, count, model in (
        (of_base, 300, base),
        (of_policy, 200, policy),
        (prompted, 120, None),
    ):
        for text in TRAINED:
            assert sum(row["count"] for row in rows if row["prompt"] == text) == count / 2
        assert max(row["count"] for row in rows) > 1, "no duplicates: the case is not tested"
        assert len({(row["prompt"], row["token_ids"]) for row in rows}) == len(rows)
        for row in [*rows[:40], *rows[-40:]]:
            prompt = tokenizer(row["prompt"]).input_ids
            ids = [int(i) for i in row["token_ids"].split()]
            assert len(ids) == 3 or ids[-1] == 0
            text = " ".join(VOCABULARY[i] for i in ids if i)
            assert row["text"] == text
            assert row["reward"] == pytest.approx(
                float(reward([f"{row['prompt']} {text}".strip()]))
            )
            theirs = log_p(base, prompt, ids)
            taken = of_tokens(theirs, ids)
            assert row["log_prob_base"] == pytest.approx(sum(taken), abs=1e-4)
            if model is None:  # made to begin with two tokens
                assert text.startswith("the cat")
                paid = -sum(taken[:2])
                assert row["log_prob_policy"] == pytest.approx(sum(taken[2:]), abs=1e-4)
                assert row["kl_policy_to_base_nats"] == pytest.approx(paid, abs=1e-4)
                assert row["kl_base_to_policy_nats"] is None
                continue
            own = log_p(model, prompt, ids)
            assert row["log_prob_policy"] == pytest.approx(sum(of_tokens(own, ids)), abs=1e-4)
            kl = float((own.exp() * (own - theirs)).sum())
            assert row["kl_policy_to_base_nats"] == pytest.approx(kl, abs=1e-4)
            kl = float((theirs.exp() * (theirs - own)).sum())
            assert row["kl_base_to_policy_nats"] == pytest.approx(kl, abs=1e-4)


def test_first_tokens_are_the_model_s_own(
    collected: tuple[Collector, list[dict[str, Any]]], policy: Any, base: Any, tokenizer: Any
) -> None:
    collector, _ = collected
    for prompt in TRAINED:
        ids = tokenizer(prompt).input_ids
        first = int(log_p(base, ids, [0])[0].argmax())
        for after, row in (("", 0), (VOCABULARY[first], 1)):
            p = log_p(policy, ids, [first, 0])[row].exp().tolist()
            found = {
                r["token"]: r["probability"]
                for r in collector.first_tokens
                if (r["model"], r["prompt"], r["after"]) == ("policy", prompt, after)
            }
            expected = {word: p[i] for i, word in enumerate(VOCABULARY) if p[i] >= 1e-4}
            assert found == pytest.approx(expected, rel=1e-4)
            assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_pool_holds_every_completion_under_every_model(
    collected: tuple[Collector, list[dict[str, Any]]], policy: Any, base: Any, tokenizer: Any
) -> None:
    collector, _ = collected
    models = [copy.deepcopy(base), copy.deepcopy(policy)]
    tensors, _ = collector.log_probs(models, [0, 1])

    def pair(row: dict[str, Any]) -> tuple[int, tuple[int, ...]]:
        return TRAINED.index(row["prompt"]), tuple(map(int, row["token_ids"].split()))

    drawn = [Counter({pair(r): r["count"] for r in rows}) for _, rows in collector.tables]
    rewards = {pair(r): r["reward"] for _, rows in collector.tables for r in rows}
    keys = sorted(rewards)
    assert tensors["prompt"].tolist() == [prompt for prompt, _ in keys]
    padded = [[*ids, -1, -1, -1][:3] for _, ids in keys]
    assert tensors["token_ids"].tolist() == padded
    assert tensors["counts"].tolist() == [[count[key] for key in keys] for count in drawn]
    assert tensors["reward"].tolist() == pytest.approx([rewards[key] for key in keys])
    for row, model in enumerate((base, policy)):
        for i in range(0, len(keys), 7):
            prompt, own = tokenizer(TRAINED[keys[i][0]]).input_ids, list(keys[i][1])
            expected = math.fsum(of_tokens(log_p(model, prompt, own), own))
            assert tensors["log_prob"][row, i] == pytest.approx(expected, abs=1e-4)


def test_the_pool_is_spread_evenly_over_the_study() -> None:
    assert pool_of(64) == list(range(64))
    spread = pool_of(130)
    assert (spread[0], spread[-1], len(set(spread))) == (0, 129, 64)


def test_prompt_and_new_tokens_may_fill_the_context_and_no_more() -> None:
    check_context("num_tokens", 12, 20, 32)
    check_context("num_tokens", 10**9, 20, None)
    with pytest.raises(UserError, match="at most 12 will do"):
        check_context("num_tokens", 13, 20, 32)
