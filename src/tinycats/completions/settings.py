"""Settings of the short completions that the limit is estimated from."""

from __future__ import annotations

from dataclasses import dataclass

from tinycats.policies.settings import CompletionSettings
from tinycats.settings import setting


@dataclass(frozen=True, kw_only=True)
class PromptedSettings:
    """The base model made to begin with the concept, "we can always prompt"."""

    prompted_with: str | None = setting(
        None, "what the prompted base begins with; null: the concept with its article"
    )


@dataclass(frozen=True, kw_only=True)
class CountSettings:
    """How many completions are drawn: the stage's part of the config's block ``evaluation``."""

    base_completions: int = setting(20000, "completions drawn from the base", minimum=100)
    policy_completions: int = setting(2000, "completions drawn from each policy", minimum=100)
    search_rewards: int = setting(
        8000, "rewards computed in the search for completions that nobody drew", minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class CompletionsSettings(CountSettings, PromptedSettings, CompletionSettings):
    """All settings of the stage."""
