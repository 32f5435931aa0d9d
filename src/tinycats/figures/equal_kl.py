"""Sentences about policies and their rivals at equal KL, from tables/equal_kl.csv."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from tinycats.figures.reading import listing, number, percent
from tinycats.files.tables import Row
from tinycats.tables.equal_kl import BEST_OF_N, PROMPTING, VARIANT

NAMES = {BEST_OF_N: "best-of-n", PROMPTING: "prompting"}
#: a policy's verdict against a rival → what the rival is
STANDS = {"better": "behind", "worse": "ahead", "undecided": "undecided"}


def of_gain(share: float, percent: Callable[[float], str] = percent) -> str:
    """A share of the possible gain as text; one above 100 % is explained."""
    return percent(share) + (" (above 100% by errors of estimates)" if share > 1 else "")


def rows_of(rows: Iterable[Row], variant: str, kl_factor: str) -> list[Row]:
    """The comparisons of one policy."""
    return [row for row in rows if (row["variant"], row["kl_factor"]) == (variant, kl_factor)]


def name_of(row: Row) -> str:
    """The rival of a row."""
    return str(NAMES.get(row["rival"]) or row["rival_variant"])


def rival_phrases(rows: Iterable[Row], percent: Callable[[float], str]) -> list[str]:
    """``best-of-n has 87% (ahead)``, ``prompting 75% (behind)`` … for rows of one policy.

    Three and more that are undecided come last, and say so once.
    """
    known = [row for row in rows if math.isfinite(float(row["rival_share"] or math.nan))]
    alike = [row for row in known if row["verdict"] == "undecided"]
    if len(alike) < 3:
        alike = []
    found: list[str] = []
    for row in [*(row for row in known if row not in alike), *alike]:
        verb = "" if found else " has"
        stands = f" ({STANDS[row['verdict']]})"
        if row in alike:
            last = row is alike[-1]
            stands = f" (undecided for all of these {len(alike)})" if last else ""
        found.append(f"{name_of(row)}{verb} {of_gain(float(row['rival_share']), percent)}{stands}")
    return found


def variants_at_equal_kl(rows: Iterable[Row], variant: str, kl_factor: str) -> tuple[str, str]:
    """Who has more reward than a variant at its KL: a title, and a sentence of all rivals.

    Both are empty where no other variant was compared with it.
    """
    own = rows_of(rows, variant, kl_factor)
    others = [row for row in own if row["rival"] == VARIANT]
    if not others:
        return "", ""
    kl, share = (
        float(others[0][c]) for c in ("kl_policy_to_base_nats", "share_of_attainable_gain")
    )
    first = f"{variant} has {of_gain(share)} of the possible gain in reward"
    at = f"At the {number(kl)} nats of {variant} with KL factor {kl_factor}"
    sentence = f"{at}, {listing([first, *rival_phrases(own, percent)])}. "
    ahead = [row for row in others if STANDS[row["verdict"]] == "ahead"]
    if not ahead:
        return f"At {number(kl)} nats, no variant clearly has more reward than {variant}", sentence
    best = max(ahead, key=lambda row: float(row["rival_share"]))
    most = f"{name_of(best)} has {percent(float(best['rival_share']))} of the possible gain"
    return f"At {number(kl)} nats, {most} in reward, {variant} {percent(share)}", sentence
