"""Settings of training. A new one is a field here, a line in config.yaml, and its use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tinycats.program import UserError
from tinycats.settings import setting, shown_in_line


@dataclass(frozen=True, kw_only=True)
class CompletionSettings:
    """What a completion is, in training and in the stage ``completions``."""

    prompts: tuple[str, ...] = setting(
        ("Once upon a time there was",),
        "what completions follow, an equal part of them each",
    )
    num_tokens: int = setting(
        10, "the longest prompt and its completion together, in tokens", minimum=2
    )
    micro_batch: int = setting(4096, "tokens in one forward-backward pass", minimum=1)


@dataclass(frozen=True, kw_only=True)
class SharedSettings(CompletionSettings):
    """What all policies of a study share."""

    steps: int = setting(100, "updates", minimum=1)
    batch_size: int = setting(1000, "completions a step", minimum=1)
    learning_rate: float = setting(1.35e-5, "AdamW's learning rate", above=0)
    weight_decay: float = setting(0.01, "AdamW's weight decay", minimum=0)
    precision: str = setting("fp32", "arithmetic of the model's body", choices=("fp32", "bf16"))
    snr_every: int = setting(
        0, "steps between measurements of the gradient's signal-to-noise ratio; 0: never", minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """What a policy is trained by: see docs/methods.md and :mod:`tinycats.policies.objective`."""

    advantage: str = setting(
        "reward",
        "what multiplies a completion's log-probability",
        choices=("reward", "mean", "leave_one_out", "standardised", "best_of_n", "tilt"),
    )
    kl: str = setting(
        "base_to_policy",
        "the KL term",
        choices=("base_to_policy", "policy_to_base", "in_reward", "k3", "none"),
    )
    n: int | None = setting(None, "completions in a group, for best_of_n alone", minimum=2)
    updates_per_batch: int = setting(
        1, "updates for each batch, from the second on with PPO's clipped ratio", minimum=1
    )
    clip: float = setting(0.2, "PPO's ε, how far a token's ratio may move", above=0, maximum=1)
    stop_at_kl: float | None = setting(
        None, "the first batch with more KL(policy‖base), nats, is the last; null: never", above=0
    )
    target_kl: float | None = setting(
        None,
        "KL(policy‖base) that the KL coefficient is adapted to, nats; null: it is constant",
        above=0,
    )
    horizon: int = setting(10000, "completions over which the coefficient adapts", minimum=1)
    kl_tokens: int = setting(
        0, "tokens after the rewarded ones that the KL term covers too; 0: none", minimum=0
    )
    kl_stories: int = setting(32, "stories a step that kl_tokens are of", minimum=1)
    kl_states: str = setting(
        "policy", "who tells the stories that kl_tokens are of", choices=("policy", "base")
    )


@dataclass(frozen=True, kw_only=True)
class VariantSettings(MethodSettings):
    """What a variant sets; null leaves the study's own."""

    prompts: int | None = setting(
        None, "how many of training.prompts, from the first on, this variant trains on", minimum=1
    )
    steps: int | None = setting(None, "training.steps of this variant", minimum=1)
    batch_size: int | None = setting(None, "training.batch_size of this variant", minimum=1)
    learning_rate: float | None = setting(None, "training.learning_rate of this variant", above=0)

    @property
    def record(self) -> dict[str, Any]:
        """Advantage and KL, and whatever else is not the default."""
        always = ("advantage", "kl")
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in always or getattr(self, field.name) != field.default
        }


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(MethodSettings, SharedSettings):
    """Everything that the result of one run depends on, models and code aside."""

    # above 1e12 the penalty has no further effect, and the factor names a folder
    kl_factor: float = setting(help="the post's KL_FACTOR (0, 6000)", minimum=0, maximum=1e12)
    seed: int = setting(0, "seed of the random numbers", minimum=0)

    def check_combination(self) -> None:
        """Refuse settings that exclude each other.

        Raises:
            UserError: one line that names the settings, the values found and what is expected.
        """
        tilt, best_of_n = self.advantage == "tilt", self.advantage == "best_of_n"
        compared = self.advantage in ("leave_one_out", "standardised", "tilt")
        self.check_prompts()
        prompts = len(self.prompts)
        each = "" if prompts == 1 else " for each prompt"
        own = self.batch_size // prompts  # completions of each prompt
        if own < 2 and (compared or self.snr_every):
            what = f"advantage {self.advantage}" if compared else "snr_every"
            raise UserError(
                f"batch_size: {self.batch_size} leaves nothing to compare a completion with;"
                f" expected at least 2{each} with {what}"
            )
        if tilt != (self.kl == "none"):
            raise UserError(
                f"kl: {self.kl} found with advantage {self.advantage}, expected none with advantage"
                " tilt, which holds the penalty itself, and a KL term with every other; KL factor 0"
                " is for no penalty"
            )
        if tilt and self.kl_factor == 0:
            raise UserError(
                "advantage: tilt found with KL factor 0, expected factors above 0, since its"
                " weights are exp(R/c)"
            )
        if best_of_n != (self.n is not None):
            raise UserError(
                f"n: {'null' if self.n is None else self.n} found with advantage {self.advantage},"
                " expected a whole number of at least 2 with best_of_n and null with every other"
            )
        if self.updates_per_batch > 1 and (tilt or best_of_n):
            raise UserError(
                f"updates_per_batch: {self.updates_per_batch} found with advantage {self.advantage},"
                " expected 1: its loss is a cross-entropy, and clipping is for a policy gradient"
            )
        if self.target_kl and self.kl_factor == 0:
            raise UserError(
                f"target_kl: {self.target_kl:g} found with KL factor 0, expected factors above 0,"
                " since the factor is where the adapted coefficient begins"
            )
        if self.target_kl and self.horizon < self.batch_size:
            raise UserError(
                f"horizon: {self.horizon} found, expected at least batch_size = {self.batch_size}"
            )
        if self.kl_tokens and self.kl not in ("base_to_policy", "policy_to_base"):
            raise UserError(
                f"kl_tokens: {self.kl_tokens} found with kl {self.kl}, expected 0, or kl"
                " base_to_policy or policy_to_base, which are known at every token"
            )
        if self.kl_tokens and self.updates_per_batch > 1:
            raise UserError(
                f"kl_tokens: {self.kl_tokens} found with updates_per_batch {self.updates_per_batch},"
                " expected 0, or 1 update per batch"
            )
        if self.kl_tokens and self.kl_states == "policy" and self.kl_stories > self.batch_size:
            raise UserError(
                f"kl_stories: {self.kl_stories} found, expected at most batch_size ="
                f" {self.batch_size}, since completions of the batch are continued"
            )
        if self.kl_tokens and prompts > 1:
            raise UserError(
                f"kl_tokens: {self.kl_tokens} found with {prompts} prompts, expected 0, or one prompt"
            )
        if self.n and own % self.n:
            part = "" if prompts == 1 else f" / {prompts} prompts"
            raise UserError(
                f"n: {self.n} found, expected a divisor of batch_size = {self.batch_size}{part}"
            )

    def check_prompts(self) -> None:
        """Refuse prompts that are equal, or that a batch cannot be split over.

        Raises:
            UserError: one line that names the settings, the values found and what is expected.
        """
        prompts = len(self.prompts)
        if len(set(self.prompts)) < prompts:
            raise UserError(
                f"prompts: {shown_in_line(list(self.prompts))} found, expected no two equal"
            )
        if self.batch_size % prompts:
            raise UserError(
                f"batch_size: {self.batch_size} found with {prompts} prompts, expected a multiple of"
                f" {prompts}, since a batch is split evenly over them"
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """How a run guards against being killed and is watched; no part of its result."""

    checkpoint_seconds: float = setting(
        60.0, "seconds between states; 0: one after every step", minimum=0
    )
    tensorboard: bool = setting(
        False, "whether to write TensorBoard events too, in events/ beside training.csv"
    )


@dataclass(frozen=True, kw_only=True)
class TrainingBlock(CheckpointSettings, SharedSettings):
    """The config's block ``training``."""

    kl_factors: tuple[float, ...] = setting(
        help="KL_FACTOR in the post's unit, no two equal", minimum=0, maximum=1e12, distinct=True
    )
    seeds: tuple[int, ...] = setting(help="seeds, no two equal", minimum=0, distinct=True)
