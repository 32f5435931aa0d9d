"""What the report says about reward: shares of the attainable gain, and rivals at equal KL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinycats.figures.equal_kl import STANDS, name_of, rival_phrases, rows_of
from tinycats.files.tables import Row
from tinycats.layout import BASE, ModelId
from tinycats.report.wording import PERCENT, Cell, cell, human, join, number
from tinycats.tables.equal_kl import PROMPTING
from tinycats.tables.intervals import ENOUGH_SEEDS, t_interval

_COLUMNS = ("reward", "kl_policy_to_base_nats", "limit", "share_of_attainable_gain", "regret_nats")


def percent(share: float) -> str:
    return f"{human(100 * share, digits=0)}\N{NO-BREAK SPACE}%"


def share_table(
    rows: Iterable[Row], variants: Sequence[str], equal: Sequence[Row] = ()
) -> list[dict[str, Any]]:
    """Rows of frontier/policies.csv averaged over seeds: the share of the possible gain in reward.

    The share's interval has two parts, whose squares add up: between seeds, and the errors of limit
    and base reward, which all seeds have in common. With fewer than four seeds it has none.

    Args:
        rows: of frontier/policies.csv.
        equal: of tables/equal_kl.csv. A line's ``rivals`` has a cell for each rival's name: its
            share at the policy's KL, and whether it is ahead.
    """
    groups: dict[ModelId, list[Row]] = {}
    for row in rows:
        groups.setdefault(ModelId.from_row(row).without_seed, []).append(row)
    table = []
    for model in sorted(groups, key=lambda model: model.order()):
        line: dict[str, Any] = {"key": model.key, "name": model.label(variants)}
        line["seeds"] = len(groups[model])
        for column in _COLUMNS:
            values = [number(row[column]) for row in groups[model]]
            known = sorted(value for value in values if value is not None)
            line[column] = sum(known) / len(known) if known else None
            line[column + "_each"] = known
        line["regret_range"] = _regret_range(groups[model])
        line["share_interval"] = _share_interval(groups[model])
        own = rows_of(equal, model.variant, model.kl_factor)
        line["rivals"] = {name_of(row): _rival(row) for row in own}
        table.append(line)
    return table


def _rival(row: Row) -> Cell:
    """A rival's share, and by how much reward it is ahead of the policy or behind."""
    share, ahead = number(row["rival_share"]), -(number(row["mean"]) or 0.0)
    low, high = (number(row[end]) for end in ("high", "low"))
    mark = {"ahead": "better", "behind": "worse"}.get(STANDS[row["verdict"]], "undecided")
    by = human(ahead, digits=3, sign=True)
    each = [-float(value) for value in row["each"].split()]
    if low is None or high is None:
        seeds = ", ".join(human(value, digits=3, sign=True) for value in sorted(each))
        by += f" (seeds: {seeds})" if len(each) > 1 else ""
    else:
        by += f" ({human(-low, digits=3, sign=True)} to {human(-high, digits=3, sign=True)})"
    return Cell("–" if share is None else percent(share), f"{STANDS[row['verdict']]}: {by}", mark)


def _regret_range(rows: Sequence[Row]) -> str:
    """Between which ends the regret is estimated, each the mean over seeds."""
    ends = [[number(row[name]) for row in rows] for name in ("regret_low", "regret_high")]
    known = [[value for value in each if value is not None] for each in ends]
    if not all(known):
        return ""
    low, high = (sum(each) / len(each) for each in known)
    if high > 10 * max(low, 0.1):  # a small β divides the error of the best achievable reward
        return f"{human(low, digits=2)} or more"
    return f"{human(low, digits=2)} to {human(high, digits=2)}"


def above_one(table: Sequence[Mapping[str, Any]]) -> str:
    """A sentence where a share is above 100 %; else empty."""
    shares = {line["name"]: line["share_of_attainable_gain_each"] for line in table}
    above = [name for name, each in shares.items() if any(share > 1 for share in each)]
    if not above:
        return ""
    return (
        f"A share above 100{PERCENT} (seeds of {'; '.join(above)}) is an error of estimates, of the reward or the"
        " best achievable one: no policy can pass it."
    )


def _share_interval(rows: Sequence[Row]) -> tuple[float, float] | None:
    """95 % interval of the mean share of some seeds' policies."""
    names = ("share_of_attainable_gain", "share_low", "share_high")
    found = [[number(row[name]) for name in names] for row in rows]
    each = [(a, b, c) for a, b, c in found if a is not None and b is not None and c is not None]
    if len(each) < max(ENOUGH_SEEDS, len(rows)):
        return None
    seeds = t_interval(share for share, _, _ in each)
    shared = [sum(abs(share - (low, high)[end]) for share, low, high in each) / len(each)
              for end in (0, 1)]  # fmt: skip
    below = math.hypot(seeds.mean - seeds.low, shared[0])
    above = math.hypot(seeds.high - seeds.mean, shared[1])
    return seeds.mean - below, seeds.mean + above


def uncertainty(line: Mapping[str, Any]) -> str:
    """A share's interval, or with few seeds their single shares; empty with one."""
    if ends := line["share_interval"]:
        return " to ".join(human(100 * end, digits=0) for end in ends) + "\N{NO-BREAK SPACE}%"
    each = line["share_of_attainable_gain_each"]
    few = 1 < len(each) < ENOUGH_SEEDS
    return f"seeds: {', '.join(map(percent, each))}" if few else ""


def equal_kl_sentence(policy: ModelId, line: Mapping[str, Any], equal: Sequence[Row]) -> str:
    """A policy's share of the possible gain, and its rivals' at the same KL; empty if unknown.

    Args:
        line: the policy's, of :func:`share_table`.
        equal: rows of tables/equal_kl.csv.
    """
    if line["share_of_attainable_gain"] is None:
        return ""
    aside = uncertainty(line)
    text = (
        f"at {human(line['kl_policy_to_base_nats'], digits=2)} nats from the base model the policy has"
        f" {percent(line['share_of_attainable_gain'])}{f' ({aside})' if aside else ''} of the gain in"
        " reward that is possible"
    )
    rivals = rival_phrases(rows_of(equal, policy.variant, policy.kl_factor), percent)
    return f"{text}; at the same KL {join(rivals)}" if rivals else text


def prompting_sentence(equal: Iterable[Row], variants: Sequence[str]) -> str:
    """Prompting at its own KL, beside each variant between its KL factors; empty if unknown."""
    rows = [row for row in equal if row["rival"] == PROMPTING and row["kl_factor"] == ""]
    if not rows or rows[0]["rival_share"] == "":
        return ""
    said = []
    for row in rows:
        who = row["variant"] if len(variants) > 1 else "the policies, between their KL factors,"
        theirs = percent(float(row["share_of_attainable_gain"]))
        said.append(f"{who} {'has' if len(variants) > 1 else 'have'} {theirs} there")
        said[-1] += f" (prompting is {_rival(row).interval})"
    kl, share = (float(rows[0][c]) for c in ("kl_policy_to_base_nats", "rival_share"))
    return (
        f"Prompting all completions has {percent(share)} of the gain that is possible at its KL of"
        f" {human(kl, digits=2)} nats; {join(said)}."
    )


def lead_sentence(
    summary: Iterable[Row],
    shares: Sequence[Mapping[str, Any]],
    a_concept: str,
    policy: ModelId,
    variants: Sequence[str] = (),
    reward: str = "",
    equal: Sequence[Row] = (),
) -> str:
    """The findings in one sentence, from the tables summary, frontier/policies and equal_kl.

    With several variants it is about them at equal KL alone. ``reward`` is the name of a reward that
    is not about the concept; the sentence is then about it.
    """
    found = {(ModelId.from_row(row), row["metric"]): row for row in summary}

    def mean(model: ModelId, metric: str) -> str | None:
        row = found.get((model, metric))
        return None if row is None or number(row["mean"]) is None else cell(row).mean

    free = replace(policy, kl_factor="0")
    parts = []
    who = f"KL factor {policy.kl_factor}"
    if len(variants) > 1:
        who = f"the variant {policy.variant} with {who}"
    start = f"With {who}, "
    counts = [found.get((model, "distinct_completions")) for model in (policy, BASE)]
    if policy == free and all(counts):  # a study of what training without a penalty leads to
        kept, had = (f"{number(row['mean']):.0f}" for row in counts if row)
        start = ""
        parts.append(
            f"Without a KL penalty, {kept} of 1000 completions are distinct (the base model: {had})"
        )
    metric = "completion_reward" if reward else "mentions_concept"
    before, after = mean(BASE, metric), mean(policy, metric)
    if before and after:
        what = f"the mean reward, {reward}, is {after}" if reward else (
            f"{after} of the stories mention {a_concept}"
        )  # fmt: skip
        parts.append(f"{start}{what} (the base model: {before})")
    line = next((line for line in shares if line["key"] == policy.key), None)
    if line and (gain := equal_kl_sentence(policy, line, equal)):
        if len(variants) > 1:
            gain = gain.replace(" the policy", f", {who}", 1)
            parts.insert(0, gain)
        else:
            parts.append(gain)
    ours = mean(policy, "perplexity_under_base")
    theirs, unbound = (mean(m, "perplexity_under_base") for m in (BASE, free))
    if ours and theirs:
        aside = f"; KL factor 0: {unbound}" if unbound and free != policy else ""
        parts.append(
            f"its stories have perplexity {ours} under the base model (base model: {theirs}{aside})"
        )
    if len(variants) > 1 and len(parts) > 1:
        parts = parts[:1]
    if not parts:
        return ""
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."
