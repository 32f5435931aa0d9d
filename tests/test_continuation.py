"""The KL term after the rewarded tokens (kl_tokens), against a plain loop and exact enumeration."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import ladder_steps
import plain_methods
import pytest
import torch
from plain_methods import Measured
from test_updates import model, reward, trainer, weights  # noqa: F401 (a fixture)
from torch import Tensor

from tinycats.language_model.network import network_with_onednn
from tinycats.policies.continuation import POOL, Continuation
from tinycats.policies.settings import TrainingSettings
from tinycats.program import UserError

PROMPT = [3, 1, 4]
C = 0.3
DIRECTIONS = ("base_to_policy", "policy_to_base")


def plain_term(m: Measured, kl: str, states: str, first: int, num_tokens: int) -> Tensor:
    """A loss whose gradient is the term's, each story's: ``(batch,)``; without c."""
    after = torch.arange(m.log_prob.shape[1]) >= first
    kls = (m.base_to_policy if kl == "base_to_policy" else m.policy_to_base) * after
    total = kls.sum(1)
    if kl == "policy_to_base" and states == "policy":
        later = (kls.flip(1).cumsum(1).flip(1) - kls).detach()
        total = total + (later * m.log_prob).sum(1)
    return total / num_tokens


def continuation(policy: Any, base: Any, new_tokens: int, **options: Any) -> Continuation:
    settings = TrainingSettings(
        **{"kl_factor": 1.0, "num_tokens": 3 + new_tokens, "batch_size": 30, **options}
    )
    networks = network_with_onednn(policy, "fp32"), network_with_onednn(base, "fp32")
    return Continuation(*networks, PROMPT, new_tokens, ladder_steps.END, settings)


def completions(stories: Any) -> list[list[int]]:
    return [[i for i in row if i >= 0] for row in stories.tokens.tolist()]


@pytest.mark.parametrize("architecture", ladder_steps.MODELS)
@pytest.mark.parametrize("states", ["policy", "base"])
@pytest.mark.parametrize(
    ("new_tokens", "kl_tokens", "options"),
    [
        (2, 3, {}),
        (2, 3, {"micro_batch": 5}),
        (3, 14, {"kl_stories": 8}),
        (14, 4, {"kl_stories": 12}),
    ],
)
def test_gradient_equals_the_plain_loop(
    architecture: str, states: str, new_tokens: int, kl_tokens: int, options: dict[str, int]
) -> None:
    """On a tree, in micro-batches, and where the tail begins after and before the rewarded tokens."""
    base = ladder_steps.MODELS[architecture](12)
    policy = ladder_steps.moved(base)
    for kl in DIRECTIONS:
        settings = {"kl_tokens": kl_tokens, "kl_states": states, "kl": kl, "kl_stories": 20}
        term = continuation(policy, base, new_tokens, **(settings | options))
        stories = term.draw(0)
        drawn = completions(stories)
        assert any(len(ids) < new_tokens + kl_tokens for ids in drawn), (
            "none ends early: not tested"
        )
        assert any(len(ids) > new_tokens for ids in drawn), "none goes on: not tested"
        policy.zero_grad(set_to_none=True)
        value = term.kl(stories)
        term.backward(stories, C)
        ours = {n: p.grad.clone() for n, p in policy.named_parameters()}
        m = plain_methods.measured(policy, base, PROMPT, drawn, new_tokens + kl_tokens)
        expected = C * plain_term(m, kl, states, new_tokens, 3 + new_tokens).mean()
        gradients = torch.autograd.grad(expected, list(dict(policy.named_parameters()).values()))
        kls = (m.base_to_policy if kl == "base_to_policy" else m.policy_to_base)[:, new_tokens:]
        assert value == pytest.approx(kls.sum(1).mean().item(), rel=1e-5)
        ladder_steps.assert_same_gradients(
            ours, dict(zip(ours, gradients, strict=True)), 1e-5 if new_tokens < 14 else 2e-5
        )


def test_its_expected_gradient_is_that_of_the_kl_of_what_comes_after() -> None:
    """All 85 stories of 3 tokens, of which 1 is rewarded, each with its probability."""
    policy = ladder_steps.gpt_neo(vocabulary=5).double()
    base = ladder_steps.moved(policy, by=0.2)
    told = ladder_steps.all_completions(5, 3)
    m = plain_methods.measured(policy, base, PROMPT, told, 3)
    p = m.log_prob.sum(1).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-9)
    parameters = [q for q in policy.parameters() if q.requires_grad]

    def gradient(value: Tensor) -> Tensor:
        found = torch.autograd.grad(value, parameters, retain_graph=True)
        return torch.cat([g.flatten() for g in found])

    term = plain_term(m, "policy_to_base", "policy", 1, 4)
    exact = (p * m.policy_to_base[:, 1:].sum(1)).sum() / 4
    assert torch.allclose(
        gradient((p.detach() * term).sum()), gradient(exact), atol=1e-6
    )  # GPT-Neo's attention is fp32
    # of the base's own stories it is KL(p_base‖π) of what comes after, without a score-function term
    of_base = m.log_prob_base.sum(1).exp()
    term = plain_term(m, "base_to_policy", "base", 1, 4)
    exact = -(of_base * m.log_prob[:, 1:].sum(1)).sum() / 4
    assert torch.allclose(
        gradient((of_base * term).sum()), gradient(exact), atol=1e-6
    )  # GPT-Neo's attention is fp32


@pytest.mark.parametrize("states", ["policy", "base"])
@pytest.mark.parametrize("kl", DIRECTIONS)
def test_a_step_of_training_has_both_terms(
    model: Path,  # noqa: F811
    tmp_path: Path,
    kl: str,
    states: str,
) -> None:
    ours = trainer(model, tmp_path, kl=kl, kl_tokens=5, kl_stories=10, kl_states=states)
    alone = trainer(model, tmp_path, kl=kl)
    term = ours.continuation
    assert term is not None
    assert alone.continuation is None
    plain, base = copy.deepcopy(ours.policy), copy.deepcopy(ours.policy)
    began, told = weights(ours), completions(term.draw(0))
    drawn = completions(ours.mixture.samplers[0].sample(30, torch_generator(ours.settings.seed)))
    if states == "policy":  # the batch's own completions go on
        assert [ids[:4] for ids in told] == drawn[:10]
    # at the base itself all KLs are 0, so it begins elsewhere
    for one in (ours.policy, alone.policy, plain):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(3)
            for q in one.parameters():
                q.add_(0.02 * torch.randn(q.shape, generator=generator))
    began, told = weights(ours), completions(term.draw(0))
    drawn = completions(ours.mixture.samplers[0].sample(30, torch_generator(ours.settings.seed)))
    ours.take_step()
    alone.take_step()
    s, prompt = ours.settings, ours.prompt_ids[0]
    rewards = reward(
        [ours.tokenizer.decode(prompt + ids, skip_special_tokens=True) for ids in drawn]
    )
    c = 6000 / 50257
    m = plain_methods.measured(plain, base, prompt, drawn, 4)
    value = plain_methods.loss(m, rewards, s.advantage, kl, s.num_tokens, c)
    extended = plain_methods.measured(plain, base, prompt, told, 9)
    value = value + c * plain_term(extended, kl, states, 4, s.num_tokens).mean()
    value.backward()
    gradients = [q.grad for q in plain.parameters() if q.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    assert ours.rows[0]["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    optimizer = torch.optim.AdamW(plain.parameters(), s.learning_rate, weight_decay=s.weight_decay)
    optimizer.step()
    expected = torch.cat([q.detach().flatten() for q in plain.parameters()])
    assert (weights(ours) - expected).norm() < 1e-2 * (expected - began).norm()
    assert not weights(alone).equal(weights(ours))
    kls = (extended.base_to_policy if kl == "base_to_policy" else extended.policy_to_base)[:, 4:]
    assert ours.rows[0]["loss"] - alone.rows[0]["loss"] == pytest.approx(
        c * kls.sum(1).mean().item() / s.num_tokens, rel=1e-4
    )


def torch_generator(seed: int) -> torch.Generator:
    from tinycats.language_model.sampling import uniform_generator

    return uniform_generator(seed, 0)


def test_stories_of_the_base_take_turns_and_do_not_follow_the_policy() -> None:
    base = ladder_steps.gpt_neo(12)
    policy = ladder_steps.moved(base)
    term = continuation(policy, base, 2, kl_tokens=3, kl_states="base", kl_stories=20)
    first, second = term.draw(0), term.draw(1)
    assert not first.tokens.equal(second.tokens)
    with torch.no_grad():
        for q in policy.parameters():
            q.mul_(1.1)
    again = term.draw(POOL)
    assert again.tokens.equal(first.tokens)
    assert not again.log_prob.equal(first.log_prob)
    assert again.log_prob_base.equal(first.log_prob_base)
    # a run that goes on from its state draws the same ones
    other = continuation(policy, base, 2, kl_tokens=3, kl_states="base", kl_stories=20)
    assert other.draw(POOL + 1).tokens.equal(second.tokens)


@pytest.mark.parametrize("states", ["policy", "base"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    model: Path,  # noqa: F811
    tmp_path: Path,
    states: str,
) -> None:
    options = {"kl_tokens": 4, "kl_stories": 8, "kl_states": states, "steps": 4}
    whole = trainer(model, tmp_path, **options)
    whole.run(3600)
    half = trainer(model, tmp_path, **options)
    half.take_step()
    half.take_step()
    half.save_state()
    again = trainer(model, tmp_path, **options)
    again.run(3600)
    assert weights(again).equal(weights(whole))


def test_without_a_penalty_it_changes_nothing(model: Path, tmp_path: Path) -> None:  # noqa: F811
    both = [
        trainer(model, tmp_path, kl_factor=0.0, steps=2, kl_tokens=tokens, kl_stories=9)
        for tokens in (0, 5)
    ]
    for one in both:
        one.run(3600)
    assert weights(both[0]).equal(weights(both[1]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kl": "k3"}, "kl_tokens: 5 found with kl k3, expected 0, or kl base_to_policy or"),
        ({"updates_per_batch": 2}, "kl_tokens: 5 found with updates_per_batch 2, expected 0, or 1"),
        ({"batch_size": 20}, "kl_stories: 32 found, expected at most batch_size = 20"),
    ],
)
def test_what_it_excludes(change: dict[str, Any], expected: str) -> None:
    settings = TrainingSettings(kl_factor=6000.0, kl_tokens=5)
    settings.check_combination()
    with pytest.raises(UserError) as error:
        replace(settings, **change).check_combination()
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)
    replace(settings, batch_size=20, kl_states="base").check_combination()
