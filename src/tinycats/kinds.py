"""The kinds of models that a study has: each one line of :data:`KINDS`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of model. Its texts may hold ``{variant}`` and ``{factor}``.

    Attributes:
        name: its value in the column ``model``.
        stem: its path below a stage's folder, without the seed.
        label: its name in tables, legends and captions.
        phrase: its name in a sentence.
        all_seeds: whether one file may serve all seeds: ``base.csv`` beside ``base/seed=0.csv``.
        opened: whether its stories begin with tokens drawn from another distribution, after which
            the base model goes on (docs/damage.md).
    """

    name: str
    stem: str
    label: str
    phrase: str
    all_seeds: bool = False
    opened: bool = False

    @property
    def of_policy(self) -> bool:
        """Whether its models are policies or belong to one: they have a variant and a KL factor."""
        return "{factor}" in self.stem

    @property
    def key(self) -> str:
        """Its name in the report's data: the stem without ``kl=``."""
        return self.stem.replace("kl=", "")

    @property
    def grammar(self) -> str:
        """What a path of it looks like, for people."""
        return self.stem.format(variant="<variant>", factor="<factor>") + "/seed=<number>"


def _opened(name: str, label: str, phrase: str) -> Kind:
    """A kind of which there is one beside each policy."""
    return Kind(name, f"{name}/{{variant}}/kl={{factor}}", label, phrase, opened=True)


#: in the order of tables, legends and pages
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("base", "base", "base", "the base", all_seeds=True),
        Kind("prompted", "prompted", "prompted", "the prompted base", all_seeds=True),
        Kind("policy", "{variant}/kl={factor}", "KL {factor}", "KL factor {factor}"),
        _opened(
            "optimal",
            "optimal at KL {factor}",
            "the optimal policy at the KL of KL factor {factor}",
        ),
        _opened(
            "best_of_n", "best of n at KL {factor}", "best of n at the KL of KL factor {factor}"
        ),
        _opened(
            "opening_only",
            "opening only of KL {factor}",
            "the base model after the opening of KL factor {factor}",
        ),
        Kind(
            "optimal_prompted",
            "optimal_prompted",
            "optimal at prompted",
            "the optimal policy at the KL of the prompted base",
            opened=True,
        ),
    )
}

POLICY = "policy"  # the kind of what is trained
#: the kinds of which there is one beside each policy
OPENED = tuple(name for name, kind in KINDS.items() if kind.opened and kind.of_policy)
