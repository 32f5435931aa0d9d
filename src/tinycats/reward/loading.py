"""The reward that a program is given, of whatever form."""

from __future__ import annotations

from pathlib import Path

from tinycats.reward.model import Reward
from tinycats.reward.settings import RewardFiles


def load_reward(files: RewardFiles, device: str) -> Reward:
    """Load a reward; its libraries are imported here, so that only its own are.

    Raises:
        UserError: a file is missing or damaged, or the files are of no form.
    """
    files.check_combination()
    if files.python is not None:
        from tinycats.reward.python import PythonReward

        return PythonReward(files.python)
    if files.classifier is not None:
        from tinycats.reward.classifier import ClassifierReward

        return ClassifierReward(Path(files.classifier), files.label, device)
    from tinycats.reward.similarity import Similarity

    folder = Path(str(files.encoder))
    if files.concept is not None:
        return Similarity.to(folder, files.concept, device)
    return Similarity.from_files(folder, Path(str(files.reference)), device)
