"""Settings of the stories that are told for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinycats.completions.settings import PromptedSettings
from tinycats.policies.settings import CompletionSettings
from tinycats.settings import setting


@dataclass(frozen=True, kw_only=True)
class StoriesSettings:
    """Stories of a policy."""

    prompts: Mapping[str, tuple[str, ...]] = setting(
        help="prompts in named groups; the group training must be there", first="training"
    )
    stories_per_training_prompt: int = setting(64, "stories for each training prompt", minimum=1)
    stories_per_other_prompt: int = setting(8, "stories for each other prompt", minimum=1)
    new_tokens: int = setting(250, "most tokens of a story, its prompt aside", minimum=1)

    def per_prompt(self) -> dict[str, int]:
        """Group → stories for each of its prompts."""
        return {
            group: self.stories_per_training_prompt
            if group == "training"
            else self.stories_per_other_prompt
            for group in self.prompts
        }


@dataclass(frozen=True, kw_only=True)
class BaseStoriesSettings(PromptedSettings, StoriesSettings):
    """Stories of the base model and of the prompted base."""


@dataclass(frozen=True, kw_only=True)
class OpeningCountSettings:
    """How many stories a distribution of openings has: a part of the config's block ``evaluation``."""

    opening_stories: int = setting(
        24,
        "stories of each distribution of openings, at most as many as the training prompt has",
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class OpeningStoriesSettings(OpeningCountSettings, StoriesSettings, CompletionSettings):
    """Stories that begin with openings and are continued by the base model."""

    @property
    def count(self) -> int:
        """Stories of each distribution: the first of the training prompt's."""
        return min(self.opening_stories, self.stories_per_training_prompt)
