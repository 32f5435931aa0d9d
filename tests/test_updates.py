"""The trainer with several updates per batch, a KL to stop at, and an adapted KL coefficient."""

from __future__ import annotations

import copy
import zlib
from pathlib import Path
from typing import Any

import plain_methods
import pytest
import torch
from tiny_model import write_model
from torch import Tensor

from tinycats.models.folders import load_causal_lm
from tinycats.policies import objective
from tinycats.policies.settings import TrainingSettings
from tinycats.policies.training import Trainer


def reward(texts: list[str]) -> Tensor:
    """Some number from 0 to 1 for each text."""
    return torch.tensor([zlib.crc32(text.encode()) / 2**32 for text in texts])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


def trainer(model: Path, folder: Path, **options: Any) -> Trainer:
    policy, tokenizer = load_causal_lm(model)
    base, _ = load_causal_lm(model)
    settings: dict[str, Any] = {"kl_factor": 6000.0, "steps": 8, "batch_size": 30}
    settings |= {"learning_rate": 3e-3, "advantage": "leave_one_out"}
    made = TrainingSettings(**(settings | options))
    return Trainer(policy, base, tokenizer, reward, made, "a test", folder / "state.pt")


def weights(of: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in of.policy.parameters()])


@pytest.mark.parametrize("kl", ["base_to_policy", "policy_to_base", "in_reward", "k3"])
def test_updates_of_a_batch_equal_plain_clipped_steps(model: Path, tmp_path: Path, kl: str) -> None:
    ours = trainer(model, tmp_path, updates_per_batch=3, clip=0.05, kl=kl)
    plain, base = copy.deepcopy(ours.policy), copy.deepcopy(ours.policy)
    began = weights(ours)
    drawn: list[list[int]] = []
    sampler = ours.mixture.samplers[0]
    sample = sampler.sample

    def noted(*args: Any, **options: Any) -> Any:
        rollout = sample(*args, **options)
        drawn[:] = [[i for i in row if i >= 0] for row in rollout.tokens.tolist()]
        return rollout

    sampler.sample = noted  # type: ignore[method-assign]
    ours.take_step()

    s, prompt = ours.settings, ours.prompt_ids[0]
    rewards = reward(
        [ours.tokenizer.decode(prompt + ids, skip_special_tokens=True) for ids in drawn]
    )
    optimizer = torch.optim.AdamW(plain.parameters(), s.learning_rate, weight_decay=s.weight_decay)
    first, clipped = None, 0
    for _ in range(3):
        now = plain_methods.measured(plain, base, prompt, drawn, 4)
        value = plain_methods.loss(
            *(now, rewards, s.advantage, kl, s.num_tokens, 6000 / 50257), drawn=first, clip=s.clip
        )
        if first is None:
            first = now.held()
        clipped += int((((now.log_prob - first.log_prob).exp() - 1).abs() > s.clip).sum())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert clipped > 5, "nothing is clipped: the case is not tested"
    expected = torch.cat([p.detach().flatten() for p in plain.parameters()])
    assert (weights(ours) - expected).norm() < 1e-2 * (expected - began).norm()


def test_with_one_update_clip_changes_nothing(model: Path, tmp_path: Path) -> None:
    both = [trainer(model, tmp_path, clip=clip, steps=2) for clip in (0.01, 0.9)]
    for one in both:
        one.run(3600)
    assert weights(both[0]).equal(weights(both[1]))


def test_training_ends_with_the_first_batch_beyond_a_kl(model: Path, tmp_path: Path) -> None:
    whole = trainer(model, tmp_path, kl_factor=0.0)
    whole.run(3600)
    found = [row["kl_policy_to_base_nats"] for row in whole.rows]
    stop = (found[3] + max(found[:3])) / 2
    assert max(found[:3]) < stop < found[3], "the KL does not grow: the case is not tested"
    stopped = trainer(model, tmp_path, kl_factor=0.0, stop_at_kl=stop)
    stopped.run(3600)
    assert [row["kl_policy_to_base_nats"] for row in stopped.rows] == found[:4]
    stopped.save_state()
    again = trainer(model, tmp_path, kl_factor=0.0, stop_at_kl=stop)
    again.run(3600)
    assert (again.step, len(again.rows)) == (4, 4)


def test_the_coefficient_follows_the_kl_and_survives_a_stop(model: Path, tmp_path: Path) -> None:
    options = {"target_kl": 0.05, "horizon": 60}
    whole = trainer(model, tmp_path, **options)
    whole.run(3600)
    c = 6000 / 50257
    for row in whole.rows:
        error = min(max(row["kl_policy_to_base_nats"] / 0.05 - 1, -0.2), 0.2)
        c *= 1 + error * 30 / 60
    assert whole.coefficient == pytest.approx(c, rel=1e-12)
    constant = trainer(model, tmp_path)
    constant.run(3600)
    assert constant.coefficient == 6000 / 50257
    assert not weights(constant).equal(weights(whole))

    half = trainer(model, tmp_path, **options)
    for _ in range(4):
        half.take_step()
    half.save_state()
    rest = trainer(model, tmp_path, **options)
    rest.run(3600)
    assert weights(rest).equal(weights(whole))
    assert rest.coefficient == whole.coefficient


@pytest.mark.parametrize(("kl", "factor"), [(0.0, 0.8), (0.9, 0.9), (1.0, 1), (1.1, 1.1), (9, 1.2)])
def test_the_controller_is_proportional_and_clamped(kl: float, factor: float) -> None:
    assert objective.adapted(0.5, kl, 1.0, 100, 100) == pytest.approx(0.5 * factor)
