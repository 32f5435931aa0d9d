"""The trainer against training written plainly: weights and every column, over several steps."""

from __future__ import annotations

import copy
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import ladder_steps
import pytest
import torch
from plain_training import PlainTraining
from word_model import END, biased_model, tied_model, word_tokenizer

from tinycats.policies import objective, passes, rollout
from tinycats.policies.columns import TOP_COMPLETIONS, TRAINING
from tinycats.policies.settings import TrainingSettings
from tinycats.policies.training import Trainer
from tinycats.program import UserError

PROMPT = "once there was"
NEW_TOKENS = 4
STEPS = 3
BATCH = 41
MEASURED = ("seconds", "samples_per_second")


def reward(texts: list[str]) -> torch.Tensor:
    """A number between −0.2 and 0.8 that every character of a text changes."""
    return torch.tensor([zlib.crc32(text.encode()) % 1000 / 1000 - 0.2 for text in texts])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


@pytest.fixture(scope="module")
def tied() -> Any:
    return tied_model()


@pytest.fixture(scope="module")
def biased() -> Any:
    return biased_model()


def settings(**more: Any) -> TrainingSettings:
    return replace(
        TrainingSettings(
            prompts=(PROMPT,),
            num_tokens=len(PROMPT.split()) + NEW_TOKENS,
            steps=STEPS,
            batch_size=BATCH,
            learning_rate=2e-3,
            weight_decay=0.3,
            kl_factor=6000.0,
            advantage="reward",
            kl="base_to_policy",
            seed=5,
        ),
        **more,
    )


def plainly(model: Any, tokenizer: Any, asked: TrainingSettings) -> PlainTraining:
    """Train by the plain loop, from a policy that has left its base a little."""
    start = ladder_steps.moved(model)
    plain = PlainTraining(start, copy.deepcopy(model), tokenizer, reward, asked)
    plain.run()
    return plain


def trained(
    model: Any, tokenizer: Any, asked: TrainingSettings, folder: Path, tree_depth: int | None = None
) -> Trainer:
    """Train by the library, from the same policy."""
    start = ladder_steps.moved(model)
    base, state = copy.deepcopy(model), folder / "state.pt"
    trainer = Trainer(start, base, tokenizer, reward, asked, "identity", state)
    for sampler in trainer.mixture.samplers:
        sampler.tree_depth = tree_depth or sampler.tree_depth
    trainer.run(checkpoint_seconds=3600)
    return trainer


def assert_same(trainer: Trainer, plain: PlainTraining) -> None:
    assert trainer.rows[0].keys() == TRAINING.keys()
    assert trainer.top[0].keys() == TOP_COMPLETIONS.keys()
    assert plain.rows[0].keys() == TRAINING.keys() - set(MEASURED)
    assert len(trainer.rows) == len(plain.rows) == STEPS
    for ours, theirs in zip(trainer.rows, plain.rows, strict=True):
        for name, value in theirs.items():
            where = f"{name} at step {theirs['step']}"
            # loss and signal are sums of larger terms that cancel
            within = {"loss": {"rel": 1e-4, "abs": 1e-6}, "gradient_snr": {"rel": 2e-3}}
            about = pytest.approx(value, nan_ok=True, **within.get(name, {"rel": 1e-4}))
            assert ours[name] == about, where
            if name in ("step", "distinct_completions", "top_1_mass", "top_10_mass"):
                assert ours[name] == value, where
    assert [t | {"reward": None} for t in trainer.top] == [t | {"reward": None} for t in plain.top]
    assert [t["reward"] for t in trainer.top] == pytest.approx([t["reward"] for t in plain.top])
    theirs = dict(plain.policy.named_parameters())
    for name, value in trainer.policy.named_parameters():
        if name.endswith("k_proj.bias"):
            continue  # softmax cancels it: its gradient is rounding, which AdamW scales up
        distance = float((value - theirs[name]).detach().norm() / theirs[name].detach().norm())
        assert distance < 1e-5, f"{name}: relative difference {distance:.1e}"


COMBINATIONS = [
    (factor, advantage, kl)
    for factor in (0.0, 6000.0)
    for advantage in ("reward", "mean", "leave_one_out")
    for kl in ("base_to_policy", "policy_to_base")
]


@pytest.mark.parametrize(("factor", "advantage", "kl"), COMBINATIONS)
def test_training_equals_training_written_plainly(
    tied: Any, tokenizer: Any, tmp_path: Path, factor: float, advantage: str, kl: str
) -> None:
    asked = settings(kl_factor=factor, advantage=advantage, kl=kl, snr_every=2)
    plain = plainly(tied, tokenizer, asked)
    assert_same(trained(tied, tokenizer, asked, tmp_path), plain)
    rows = plain.rows
    assert any(END in top["text"] for top in plain.top), "no early end: the case is not tested"
    distinct = [row["distinct_completions"] for row in rows]
    assert 5 < min(distinct) < BATCH, "no duplicates: the case is not tested"
    assert len({row["reward_mean"] for row in rows}) == STEPS
    assert min(row["kl_base_to_policy_nats"] for row in rows) > 0.01
    assert [math.isnan(row["gradient_snr"]) for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("advantage", "kl"), [("reward", "base_to_policy"), ("leave_one_out", "policy_to_base")]
)
def test_several_prompts_have_the_mean_of_their_losses(
    tied: Any, tokenizer: Any, tmp_path: Path, advantage: str, kl: str
) -> None:
    """Prompts of other lengths, in the order given; advantages within each prompt."""
    prompts = ("the dog ran and", PROMPT, "it")
    asked = settings(
        prompts=prompts, num_tokens=8, batch_size=42, advantage=advantage, kl=kl, snr_every=2
    )
    plain = plainly(tied, tokenizer, asked)
    assert_same(trained(tied, tokenizer, asked, tmp_path), plain)
    assert {row["prompt"] for row in plain.top} == set(prompts)
    texts = [{row["text"] for row in plain.top if row["prompt"] == prompt} for prompt in prompts]
    assert texts[0] & texts[1] | texts[0] & texts[2], "no completion of two prompts: not tested"


#: work in many small parts: constants to change, and what the trainer is given
PARTS: dict[str, tuple[dict[tuple[Any, str], Any], int | None, dict[str, Any]]] = {
    "chunks": (
        {
            (passes, "LOGITS_DRAWN"): {"cpu": 1, "elsewhere": 1},
            (passes, "STATES_PER_CHUNK"): 3,
            (rollout, "STATES_PER_CHUNK"): 4,
            (rollout, "LOGITS_DIFFERENTIATED"): 1,
        },
        None,
        {},
    ),
    "nothing kept": (
        {
            (passes, "LOGITS_KEPT"): 0,
            (rollout, "STATES_PER_CHUNK"): 4,
            (rollout, "LOGITS_DIFFERENTIATED"): 1,
        },
        None,
        {"micro_batch": 16},
    ),
    "tail": (
        {(rollout, "STATES_PER_CHUNK"): 5, (rollout, "LOGITS_DIFFERENTIATED"): 1},
        2,
        {"micro_batch": 24},
    ),
}


@pytest.mark.parametrize("model", ["tied", "biased"])
@pytest.mark.parametrize("factor", [0.0, 6000.0])
def test_parts_of_the_work_change_nothing(
    model: str,
    factor: float,
    tokenizer: Any,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Levels of several chunks, micro-batches, the tail; the head's bias learns too."""
    network = request.getfixturevalue(model)
    asked = settings(kl="policy_to_base", advantage="leave_one_out", kl_factor=factor, snr_every=1)
    plain = plainly(network, tokenizer, asked)
    for part, (constants, tree_depth, more) in PARTS.items():
        with pytest.MonkeyPatch.context() as patch:
            for (module, name), value in constants.items():
                patch.setattr(module, name, value)
            trainer = trained(network, tokenizer, replace(asked, **more), tmp_path, tree_depth)
        try:
            assert_same(trainer, plain)
        except AssertionError as error:
            raise AssertionError(f"{part}: {error}") from error


@pytest.mark.parametrize("tree_depth", [NEW_TOKENS, 1])
def test_bf16_is_the_precision_of_the_body_alone(
    tree_depth: int, tied: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Both bodies compute in bfloat16; the first step is near the plain loop's in bfloat16."""
    asked = settings(precision="bf16", steps=1)
    seen: list[torch.dtype] = []

    def note(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen.append(output.dtype)

    start, base = ladder_steps.moved(tied), copy.deepcopy(tied)
    for model in (start, base):
        model.transformer.h[0].mlp.c_fc.register_forward_hook(note)
    trainer = Trainer(start, base, tokenizer, reward, asked, "identity", tmp_path / "state.pt")
    trainer.mixture.samplers[0].tree_depth = tree_depth
    seen.clear()  # the check of the head is in float32
    trainer.take_step()
    assert set(seen) == {torch.bfloat16}
    if tree_depth == NEW_TOKENS:
        assert len(seen) == 2 * NEW_TOKENS  # each level once through each body
    plain = plainly(tied, tokenizer, asked)
    exact = plainly(tied, tokenizer, replace(asked, precision="fp32"))
    for name, value in plain.rows[0].items():
        if name not in ("step", "gradient_snr"):
            assert trainer.rows[0][name] == pytest.approx(value, rel=0.03, abs=0.003), name
    for name in ("entropy_nats", "kl_policy_to_base_nats"):
        assert trainer.rows[0][name] != pytest.approx(exact.rows[0][name], rel=1e-5), name


def test_one_completion_has_no_others_to_be_compared_with() -> None:
    drawn = objective.Drawn(torch.tensor([0.25, 0.75]), torch.zeros(2), 0.1)
    found = objective.advantages(drawn, "leave_one_out", "base_to_policy")
    assert found.tolist() == [-0.5, 0.5]
    with pytest.raises(UserError, match="at least 2"):
        settings(advantage="leave_one_out", batch_size=1).check_combination()
