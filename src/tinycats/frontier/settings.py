"""Settings of the limit."""

from __future__ import annotations

from dataclasses import dataclass

from tinycats.completions.settings import PromptedSettings
from tinycats.settings import setting


@dataclass(frozen=True, kw_only=True)
class FrontierSettings(PromptedSettings):
    """All settings of the stage."""

    bootstrap_samples: int = setting(200, "replicates of the limit's band", minimum=20)
