"""The prefix tree against the plain loop: same draws, same log probabilities, same gradients."""

from __future__ import annotations

import itertools

import ladder_steps
import plain_methods
import pytest
import torch
from scipy import stats

from tinycats.language_model.network import network_with_onednn
from tinycats.language_model.sampling import draw_tokens, uniform_generator
from tinycats.policies import objective
from tinycats.policies.rollout import Sampler

PROMPT = [3, 4, 5, 6, 7]


def sampler(policy, base, new_tokens, precision="fp32", prompt=PROMPT, **options):
    networks = network_with_onednn(policy, precision), network_with_onednn(base, precision)
    return Sampler(*networks, prompt, new_tokens, ladder_steps.END, **options)


def completions(rollout):
    return [[i for i in row if i >= 0] for row in rollout.tokens.tolist()]


@pytest.mark.parametrize("architecture", ladder_steps.MODELS)
@pytest.mark.parametrize(
    ("new_tokens", "batch", "options"),
    [
        (4, 60, {}),
        (4, 60, {"micro_batch": 7}),
        (4, 60, {"tree_depth": 2}),
        (1, 30, {}),
        (40, 12, {"tree_depth": 3, "micro_batch": 64}),
        (244, 6, {"micro_batch": 300}),
    ],
)
def test_gradient_equals_the_plain_loop(architecture, new_tokens, batch, options):
    """Every method; early ends, duplicates, micro-batches, short and long: within 1e-5."""
    vocabulary = 12 if new_tokens == 4 else 64  # few tokens: many duplicates and early ends
    base = ladder_steps.MODELS[architecture](vocabulary)
    policy = ladder_steps.moved(base)
    tree = sampler(policy, base, new_tokens, **options)
    rollout = tree.sample(batch, uniform_generator(0, 0), keep_graph=new_tokens == 4)
    drawn = completions(rollout)
    if new_tokens == 4:
        assert len(rollout.token_ids) < batch, "no duplicates: the case is not tested"
        assert any(len(ids) < new_tokens for ids in drawn), "no early end: the case is not tested"
    rewards = torch.rand(batch, generator=uniform_generator(1, 0))
    num_tokens = len(PROMPT) + new_tokens
    plain = plain_methods.measured(policy, base, PROMPT, drawn, new_tokens)
    parameters = dict(policy.named_parameters())
    coefficient = objective.kl_coefficient_per_nat(6000)
    others = [name for name in objective.ADVANTAGES if name != "tilt"]
    terms = [name for name in objective.KLS if name != "none"]
    combinations = list(itertools.product(others, terms))
    if new_tokens > 4 or options:  # slow: each advantage and each KL once
        combinations = list(zip(others, itertools.cycle(terms), strict=False))
    combinations.append(("tilt", "none"))
    for advantage, kl in combinations:
        policy.zero_grad(set_to_none=True)
        again = tree.follow([tuple(ids) for ids in drawn], keep_graph=new_tokens == 4)
        facts = objective.Drawn(rewards, again.log_ratio, coefficient, n=3)
        found = objective.advantages(facts, advantage, kl)
        value = objective.loss_value(
            *(found, again.log_prob, objective.kl_sum(again, kl)),
            *(coefficient, num_tokens),
        )
        tree.backward(again, found, coefficient, kl, num_tokens)
        ours = {n: p.grad.clone() for n, p in parameters.items()}
        expected = plain_methods.loss(plain, rewards, advantage, kl, num_tokens, coefficient, 3)
        gradients = torch.autograd.grad(expected, list(parameters.values()), retain_graph=True)
        if kl != "policy_to_base":  # the surrogate has another value
            assert float(value) == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        theirs = dict(zip(parameters, gradients, strict=True))
        ladder_steps.assert_same_gradients(ours, theirs, 1e-5)


@pytest.mark.parametrize("architecture", ladder_steps.MODELS)
def test_tree_and_tail_draw_the_same(architecture):
    """Where the tree ends and the tail begins, and what is batched with what, changes no token."""
    base = ladder_steps.MODELS[architecture]()
    policy = ladder_steps.moved(base)
    drawn = [
        completions(sampler(policy, base, 20, **options).sample(50, uniform_generator(7, 3)))
        for options in ({}, {"tree_depth": 20}, {"tree_depth": 1}, {"micro_batch": 9})
    ]
    assert all(other == drawn[0] for other in drawn[1:])
    other_seed = sampler(policy, base, 20).sample(50, uniform_generator(8, 3))
    assert completions(other_seed) != drawn[0]


def test_samples_follow_the_softmax():
    """Chi-square of 20,000 draws of two tokens against their exact probabilities."""
    model = ladder_steps.gpt_neo(6)
    tree = sampler(model, model, 2, prompt=[3, 4])
    rollout = tree.sample(20000, uniform_generator(0, 0))
    exact = tree.follow(list(rollout.token_ids)).log_prob.exp()
    assert float(exact.sum()) == pytest.approx(1, abs=1e-4), "not every completion was drawn"
    expected = exact / exact.sum() * 20000
    keep = expected > 5
    observed = rollout.counts[keep].double()
    result = stats.chisquare(observed, expected[keep] * observed.sum() / expected[keep].sum())
    assert result.pvalue > 1e-3


def test_draw_takes_the_token_where_u_falls():
    p = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.0, 0.5]])
    u = torch.tensor([0.0, 0.0999, 0.1001, 0.2999, 0.9999, 0.4999, 0.5001], dtype=torch.float64)
    state = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    assert draw_tokens(p, u, state).tolist() == [0, 0, 1, 1, 2, 0, 2]


def test_a_token_is_drawn_from_its_lower_edge_up_to_its_upper_one():
    """So a token of probability 0 is never drawn, not even by u = 0."""
    p = torch.tensor([[0.0, 0.25, 0.25, 0.5], [0.5, 0.5, 0.0, 0.0]])
    u = torch.tensor([0.0, 0.25, 0.5, 0.5, 0.75], dtype=torch.float64)
    assert draw_tokens(p, u, torch.tensor([0, 0, 0, 1, 1])).tolist() == [1, 2, 3, 1, 1]


def test_log_prob_sums_to_one_over_all_completions():
    """Every completion of at most 3 tokens of a vocabulary of 6, an end token ending it early."""
    model = ladder_steps.gpt_neo(6)
    everything = [tuple(ids) for ids in ladder_steps.all_completions(6, 3)]
    followed = sampler(model, model, 3, prompt=[3, 4]).follow(everything)
    assert float(followed.log_prob.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert followed.kl_policy_to_base.abs().max() < 1e-6


def test_bf16_stays_near_fp32():
    """Body in bfloat16: gradients point the same way (cosine above 0.99), KL stays exact at 0."""
    base = ladder_steps.gpt_neo(64)
    policy = ladder_steps.moved(base)
    rewards = torch.rand(200, generator=uniform_generator(1, 0))
    gradients = {}
    for precision in ("fp32", "bf16"):
        tree = sampler(policy, base, 4, precision)
        drawn = sampler(policy, base, 4).sample(200, uniform_generator(0, 0))
        again = tree.follow([tuple(ids) for ids in completions(drawn)])
        policy.zero_grad(set_to_none=True)
        tree.backward(again, rewards, 0.1, "base_to_policy", 9)
        gradients[precision] = torch.cat([p.grad.flatten() for p in policy.parameters()])
    cosine = torch.cosine_similarity(gradients["fp32"], gradients["bf16"], dim=0)
    assert cosine > 0.99
    same = sampler(base, base, 4, "bf16").sample(100, uniform_generator(0, 0))
    assert same.kl_base_to_policy.abs().max() < 1e-6


@pytest.mark.parametrize("architecture", ladder_steps.MODELS)
@pytest.mark.parametrize(
    ("new_tokens", "options"),
    [(4, {}), (4, {"micro_batch": 7, "tree_depth": 2}), (20, {"tree_depth": 3, "micro_batch": 64})],
)
def test_clipped_update_equals_the_plain_loop(architecture, new_tokens, options):
    """A batch measured again after the weights have moved, some tokens beyond the clip."""
    base = ladder_steps.MODELS[architecture](12)
    policy, later = ladder_steps.moved(base), ladder_steps.moved(base, seed=5)
    tree = sampler(policy, base, new_tokens, **options)
    rollout = tree.sample(24, uniform_generator(0, 0), keep_graph=True)
    drawn = completions(rollout)
    then = plain_methods.measured(policy, base, PROMPT, drawn, new_tokens).held()
    rewards = torch.rand(24, generator=uniform_generator(1, 0))
    num_tokens, coefficient, clip = len(PROMPT) + new_tokens, 0.1, 0.2
    parameters = dict(policy.named_parameters())
    tree.backward(rollout, rewards, coefficient, "base_to_policy", num_tokens)  # releases levels
    with torch.no_grad():
        for name, value in later.named_parameters():
            parameters[name].copy_(value)
    now = plain_methods.measured(policy, base, PROMPT, drawn, new_tokens)
    ratio = (now.log_prob - then.log_prob).exp()
    outside = ((ratio - 1).abs() > clip).double().mean()
    assert 0.05 < outside < 0.95, "nothing or everything is clipped: the case is not tested"
    for kl in ("base_to_policy", "policy_to_base", "in_reward", "k3"):
        again = tree.again(rollout, keep_graph=new_tokens == 4)
        torch.testing.assert_close(
            again.log_prob, now.log_prob.sum(1).double(), rtol=1e-5, atol=1e-5
        )
        facts = objective.Drawn(rewards, rollout.log_ratio, coefficient)
        advantage = objective.advantages(facts, "leave_one_out", kl)
        policy.zero_grad(set_to_none=True)
        tree.backward(again, advantage, coefficient, kl, num_tokens, rollout, clip)
        ours = {n: p.grad.clone() for n, p in parameters.items()}
        expected = plain_methods.loss(
            *(now, rewards, "leave_one_out", kl, num_tokens, coefficient),
            drawn=then,
            clip=clip,
        )
        gradients = torch.autograd.grad(expected, list(parameters.values()), retain_graph=True)
        theirs = dict(zip(parameters, gradients, strict=True))
        ladder_steps.assert_same_gradients(ours, theirs, 1e-5)


def test_a_ratio_of_one_leaves_the_advantage():
    advantage = torch.tensor([0.3, -0.7, 0.0])
    assert objective.clipped(advantage, torch.zeros(3), 0.2).equal(advantage)
