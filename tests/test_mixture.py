"""Several prompts on a toy with few completions: the expected gradient is that of their mean."""

from __future__ import annotations

import itertools

import ladder_steps
import plain_methods
import pytest
import torch

from tinycats.language_model.network import network_with_onednn
from tinycats.policies import objective
from tinycats.policies.mixture import Batch, Mixture, halved

PROMPTS, NEW_TOKENS, NUM_TOKENS, C = [[3, 1], [2, 3, 1]], 2, 5, 0.6


def test_expected_gradient_is_that_of_the_mean_over_prompts() -> None:
    """−E[R] + c·KL(π‖p_base), each the mean over two prompts, by enumeration of all batches."""
    model = ladder_steps.gpt_neo(vocabulary=4)
    policy, base = ladder_steps.moved(model, by=0.2), model
    completions = ladder_steps.all_completions(4, NEW_TOKENS)
    generator = torch.Generator().manual_seed(2)
    rewards = torch.rand(len(PROMPTS), len(completions), generator=generator)
    wanted, p = torch.zeros(()), []
    for prompt, own in zip(PROMPTS, rewards, strict=True):
        m = plain_methods.measured(policy, base, prompt, completions, NEW_TOKENS)
        p.append(m.log_prob.sum(1).exp())
        gain = p[-1] @ (own - C * (m.log_prob - m.log_prob_base).sum(1))
        wanted = wanted - gain / len(PROMPTS) / NUM_TOKENS
    parameters = [q for q in policy.parameters() if q.requires_grad]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(wanted, parameters)])

    networks = network_with_onednn(policy), network_with_onednn(base)
    mixture = Mixture(*networks, PROMPTS, NEW_TOKENS, ladder_steps.END, 4096)
    found = torch.zeros_like(expected)
    for drawn in itertools.product(range(len(completions)), repeat=len(PROMPTS)):
        batch = Batch(
            [
                sampler.follow([tuple(completions[i])])
                for sampler, i in zip(mixture.samplers, drawn, strict=True)
            ]
        )
        policy.zero_grad()
        advantages = [own[[i]] for own, i in zip(rewards, drawn, strict=True)]
        mixture.backward(batch, advantages, C, "policy_to_base", NUM_TOKENS)
        probability = p[0][drawn[0]] * p[1][drawn[1]]
        gradient = torch.cat([q.grad.flatten() for q in parameters if q.grad is not None])
        found += probability.detach() * gradient
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_at_the_optimal_policy_the_weights_of_tilt_are_equal_within_each_prompt_alone() -> None:
    """Normalised over the batch they would differ by Z of the prompts, and move π* away."""
    log_z, n = torch.tensor([0.3, 2.0]), 4
    generator = torch.Generator().manual_seed(1)
    rewards = torch.rand(2, n, generator=generator)
    log_ratio = (rewards / C - log_z[:, None]).double()  # of π*(·|x) = p_base · exp(R/c) / Z_x
    own = [
        objective.advantages(objective.Drawn(r, d, C), "tilt", "none")
        for r, d in zip(rewards, log_ratio, strict=True)
    ]
    assert torch.cat(own).tolist() == pytest.approx([1.0] * 2 * n)
    together = objective.Drawn(rewards.flatten(), log_ratio.flatten(), C)
    assert objective.advantages(together, "tilt", "none").std() > 0.3


def test_halves_have_as_many_of_every_prompt() -> None:
    assert [list(range(7))[halved(7, second)] for second in (False, True)] == [[0, 1, 2], [3, 4, 5]]


def test_a_batch_is_split_evenly_over_the_prompts() -> None:
    model = ladder_steps.gpt_neo(vocabulary=4)
    networks = network_with_onednn(model), network_with_onednn(model)
    mixture = Mixture(*networks, PROMPTS, NEW_TOKENS, ladder_steps.END, 4096)
    batch = mixture.sample(12, torch.Generator().manual_seed(0))
    assert [len(rollout.index) for rollout in batch.rollouts] == [6, 6]
