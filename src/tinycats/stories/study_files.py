"""Files of a study that a command is about: a policy's folder, and its base model's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tinycats import layout
from tinycats.kinds import POLICY
from tinycats.layout import ModelId, canonical
from tinycats.policies.settings import TrainingBlock
from tinycats.program import UserError
from tinycats.settings import LONGEST_NAME, check


def check_name(option: str, name: str) -> None:
    """Raise a UserError if this can be no name of a study or a variant."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or len(name) > LONGEST_NAME:
        raise UserError(
            f"{option}: {name[:80]!r} should be letters, digits, dot, dash, underscore, at most"
            f" {LONGEST_NAME}"
        )


def policy_folder(study: str, variant: str, factor: str, seed: int) -> Path:
    """Folder of a trained policy below the current folder.

    Raises:
        UserError: there is none; the line ends in the command that makes it.
    """
    check_name("--study", study)
    check_name("--variant", variant)
    model = ModelId(POLICY, variant, factor, seed)
    folder = layout.results(study) / layout.POLICY_FOLDER.of(model)
    if (folder / layout.RUN.name).exists():
        return folder
    if not Path("Snakefile").exists():
        raise UserError(f"{folder}: not here; run this in the folder that holds Snakefile")
    config = _config(study)
    training = check(TrainingBlock, config.get("training"), "config: training")
    if variant not in (v if isinstance(v := config.get("variants"), dict) else ()):
        raise UserError(f"--variant: the study {study} has no variant {variant!r} in its config")
    own = Path(f"config/{study}.yaml")
    lacking = []
    if factor not in map(canonical, training.kl_factors):
        lacking.append(f"{factor} to training.kl_factors")
    if seed not in training.seeds:
        lacking.append(f"{seed} to training.seeds")
    first = f"add {' and '.join(lacking)} in {own if own.exists() else 'config.yaml'} and " * bool(
        lacking
    )
    command = f"snakemake {folder / layout.RUN.name} --cores 1 --resources gpu=1"
    command += f" --configfile {own}" if own.exists() else ""
    command += "" if config.get("study") == study else f" --config study={study}"
    runs = layout.RUN.pattern().format(variant="*", factor="*", seed="*")
    others = {path.name for path in Path("results").glob("*") if next(path.glob(runs), None)}
    here = f" (but of --study {' and '.join(sorted(others - {study}))})" if others - {study} else ""
    raise UserError(f"{folder}: no such policy yet{here}; {first}make it with: {command}")


def _config(study: str) -> dict[str, Any]:
    """A study's configuration as Snakemake merges it: config/<study>.yaml over config.yaml."""
    from tinycats.files.text import read_yaml

    def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
        both = {k: merge(below[k], v) if isinstance(v, dict) and isinstance(below.get(k), dict) else v
                for k, v in above.items()}  # fmt: skip
        return below | both

    found: dict[str, Any] = {}
    for path in (Path("config.yaml"), Path(f"config/{study}.yaml")):
        if path.exists():
            found = merge(found, read_yaml(path))
    return found


def base_folder(policy: Path) -> Path:
    """Folder of the base model that a policy was trained from, by its identity."""
    from tinycats.models.folders import folder_identity
    from tinycats.policies.record import read_run

    wanted = read_run(policy / layout.RUN.name).get("base_model_identity")
    for path in sorted(Path("resources/models").glob("*/manifest.json")):
        if folder_identity(path.parent) == wanted:
            return path.parent
    raise UserError(
        f"resources/models: no folder has the base model of {policy} (identity {wanted}); get it"
        " with: snakemake --cores 1 models"
    )
