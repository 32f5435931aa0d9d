"""Every number of docs/findings.md is the published tables', and its claims have intervals without 0."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from statistics import mean

import pytest

from tinycats.figures.damage import beyond_optimal
from tinycats.figures.decomposition import Split, Splits, share, signed, splits, sure
from tinycats.figures.reading import number, percent
from tinycats.scores.columns import METRICS
from tinycats.tables.intervals import Interval, over_seeds

ROOT = Path(__file__).parents[1]
TEXT = {"model", "variant", "kl_factor", "metric", "part", "each"}
#: two scores of repetition, three of diversity
SCORES = ("distinct_2", "repeated_4_grams", "self_bleu", "vendi_score", "compression_ratio")
SHOWN = {"distinct_2": "distinct bigrams", "self_bleu": "self-BLEU", "vendi_score": "Vendi score"}
VARIANTS = ("blog", "blog_goes_on", "formula", "formula_base_stories", "formula_goes_on")
FACTOR = "1500"


def rows(study: str, table: str) -> list[dict[str, str]]:
    with open(ROOT / f"docs/{study}-study/{table}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def splits_of(study: str) -> Splits:
    return splits(
        [
            {c: v.lstrip("'") if c in TEXT else float(v or "nan") for c, v in row.items()}
            for row in rows(study, "tables/decomposition")
        ]
    )


TEN, DAMAGE = splits_of("ten-seed"), splits_of("damage")


def spillover(split: Split) -> Interval:
    return split.parts["spillover"]


def ten(factor: str, metric: str) -> Split:
    return TEN["policy", "blog", factor, metric]


def of(variant: str, metric: str, factor: str = FACTOR) -> Split:
    return DAMAGE["policy", variant, factor, metric]


def difference(ours: Interval, theirs: Interval) -> Interval:
    """Of two variants, seed by seed."""
    return over_seeds([a - b for a, b in zip(ours.each, theirs.each, strict=True)])


def gain_share(variant: str) -> float:
    return mean(
        float(row["share_of_attainable_gain"])
        for row in rows("damage", "frontier/policies")
        if (row["variant"], row["kl_factor"]) == (variant, FACTOR)
    )


def ahead(variant: str, rival: str) -> Interval:
    """Reward of a variant less a rival's at the variant's KL."""
    (row,) = (
        row
        for row in rows("damage", "tables/equal_kl")
        if (row["variant"], row["kl_factor"], row["rival_variant"]) == (variant, FACTOR, rival)
    )
    return Interval(float(row["mean"]), float(row["low"]), float(row["high"]), int(row["seeds"]))


def first_table() -> list[str]:
    return [
        f"| {factor}, {number(ten(factor, metric).kl)} | {name}"
        f" | {signed(ten(factor, metric).parts['whole'])} |"
        + "".join(
            f" {share(ten(factor, metric), part)}: {signed(ten(factor, metric).parts[part])} |"
            for part in ("necessary", "off_frontier", "spillover")
        )
        for factor in ("6000", "1500", "0")
        for metric, name in SHOWN.items()
    ]


def second_table() -> list[str]:
    lines = []
    for variant in VARIANTS:
        cells = [f"`{variant}`", number(of(variant, "self_bleu").kl), percent(gain_share(variant))]
        cells += [
            f"{signed(of(variant, metric).parts['whole'])}; {signed(spillover(of(variant, metric)))}"
            for metric in SHOWN
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def removed(variant: str, without: str) -> str:
    found = [
        percent(1 - spillover(of(without, m)).mean / spillover(of(variant, m)).mean) for m in SHOWN
    ]
    return f"{found[0]} in distinct bigrams, {found[1]} in self-BLEU and {found[2]} in Vendi score"


PAIRS = (
    ("formula", "formula_goes_on"),
    ("formula", "formula_base_stories"),
    ("blog", "blog_goes_on"),
)


def all_removed() -> list[float]:
    """Of each pair and score shown, the share of the spillover that the KL on later tokens removes."""
    return [
        1 - spillover(of(without, m)).mean / spillover(of(variant, m)).mean
        for variant, without in PAIRS
        for m in SCORES
    ]


REMOVED = f"{100 * min(all_removed()):.0f} to {100 * max(all_removed()):.0f} %"


def not_needed(split: Split) -> Interval:
    """What the optimal policy of the same KL does not change too: the whole less the necessary part."""
    return difference(split.parts["whole"], split.parts["necessary"])


def avoidable(metric: str) -> str:
    return signed(not_needed(ten("6000", metric)))


def more(metric: str) -> str:
    """What ``formula`` changes beyond the optimal policy, less what ``blog`` does."""
    return signed(more_of(metric))


def more_of(metric: str) -> Interval:
    return difference(beyond_optimal(of("formula", metric)), beyond_optimal(of("blog", metric)))


def alone(metric: str) -> Interval:
    """The same of spillover alone."""
    return difference(spillover(of("formula", metric)), spillover(of("blog", metric)))


def phrases() -> list[str]:
    necessary = [
        ten("6000", m).parts["necessary"].mean / ten("6000", m).parts["whole"].mean for m in SCORES
    ]
    return [
        f"loses {100 * min(necessary):.0f} to {100 * max(necessary):.0f} % of that too",
        f"reaches {100 * gain_share('formula'):.0f} % of the gain in reward",
        f"the post's loss (`blog`) reaches {100 * gain_share('blog'):.0f} %",
        f"of the {number(more_of('distinct_2').mean)}, {number(alone('distinct_2').mean)} is spillover",
        f"{more('distinct_2')} in distinct bigrams, {more('vendi_score')} in Vendi score and"
        f" {more('compression_ratio')} in the compression ratio",
        f"removes {removed('formula', 'formula_goes_on')} of the spillover of `formula`",
        f"at states of the base model's stories {removed('formula', 'formula_base_stories')}",
        f"and in `blog` {removed('blog', 'blog_goes_on')}",
        f"of `formula_goes_on` and that of `formula` differ by {signed(ahead('formula_goes_on', 'formula'))}",
        f"`formula_base_stories` and `formula` by {signed(ahead('formula_base_stories', 'formula'))}",
        f"of `blog_goes_on` and `blog` by {signed(ahead('blog_goes_on', 'blog'))}",
        f"removes {REMOVED} of the spillover in all five scores",
        f"{avoidable('distinct_2')} in distinct bigrams, {avoidable('self_bleu')} in self-BLEU and"
        f" {avoidable('vendi_score')} in Vendi score",
    ]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs/findings.md").read_text(encoding="utf-8")


def test_the_tables_are_the_studies_own(page: str) -> None:
    for line in [*first_table(), *second_table()]:
        assert line in page


@pytest.mark.parametrize("phrase", phrases())
def test_the_text_states_the_studies_numbers(page: str, phrase: str) -> None:
    assert phrase in " ".join(page.split())


def test_the_first_finding_holds() -> None:
    for metric in SCORES:
        for factor in ("6000", "1500"):
            parts = ten(factor, metric).parts
            assert sure(parts["whole"])
            assert sure(parts["spillover"])
            assert not sure(parts["off_frontier"])
            assert abs(parts["spillover"].mean) > abs(parts["necessary"].mean)
            assert 0.25 < parts["necessary"].mean / parts["whole"].mean < 0.55
            assert sure(not_needed(ten(factor, metric)))
        free = ten("0", metric).parts
        assert free["necessary"].mean / free["whole"].mean < 0.25
        assert free["spillover"].mean / free["whole"].mean > 0.6
    assert ten("0", "self_bleu").parts["whole"].seeds == 10
    # said of the damage study, which has half as many seeds
    undecided = {metric for metric in SCORES if not sure(not_needed(of("blog", metric, "6000")))}
    assert undecided == {"distinct_2", "repeated_4_grams"}
    for metric in ("self_bleu", "vendi_score"):
        off = of("blog", metric).parts["off_frontier"]
        assert sure(off)
        assert off.mean * of("blog", metric).parts["whole"].mean < 0


def test_the_optimal_policies_of_kl_factor_0_have_few_completions() -> None:
    found = [
        (float(row["kl_policy_to_base_nats"]), float(row["effective_completions"]))
        for row in rows("ten-seed", "frontier/openings")
        if (row["model"], row["kl_factor"]) == ("optimal", "0")
    ]
    kls, effective = zip(*found, strict=True)
    assert (round(min(kls), 1), round(max(kls))) == (7.7, 27)
    assert (round(min(effective)), round(max(effective))) == (2, 6)


def test_a_policy_with_less_reward_can_change_less() -> None:
    """Why "necessary" is no lower bound."""
    parts = TEN["prompted", "", "", "distinct_2"].parts
    assert abs(parts["whole"].mean) < abs(parts["necessary"].mean)
    assert sure(parts["off_frontier"])


def test_the_second_finding_holds_for_three_scores_of_five() -> None:
    found = {
        m: difference(beyond_optimal(of("formula", m)), beyond_optimal(of("blog", m)))
        for m in SCORES
    }
    worse = {m for m, value in found.items() if sure(value)}
    assert worse == {"distinct_2", "vendi_score", "compression_ratio"}
    assert all(value.mean * of("blog", m).parts["whole"].mean > 0 for m, value in found.items())
    spilled = {m: difference(spillover(of("formula", m)), spillover(of("blog", m))) for m in SCORES}
    assert {m for m, value in spilled.items() if sure(value)} == {"compression_ratio"}
    assert all(value.mean * of("blog", m).parts["whole"].mean > 0 for m, value in spilled.items())
    assert of("formula", "self_bleu").kl < of("blog", "self_bleu").kl


@pytest.mark.parametrize(("variant", "without"), PAIRS)
def test_the_third_finding_holds(variant: str, without: str) -> None:
    for metric in SCORES:
        assert sure(spillover(of(variant, metric)))
        assert sure(difference(spillover(of(variant, metric)), spillover(of(without, metric))))
    stays = {metric for metric in SCORES if sure(spillover(of(without, metric)))}
    assert stays == {"vendi_score" if without == "formula_goes_on" else "repeated_4_grams"}
    if variant == "blog":
        assert of(without, "self_bleu").kl < of(variant, "self_bleu").kl
    reward = ahead(without, variant)
    assert reward.low < 0 < reward.high
    assert abs(reward.mean) < 0.006


def test_what_is_said_of_the_other_strengths_holds() -> None:
    lower = {
        m
        for m in SCORES
        if sure(
            difference(spillover(of("blog", m, "6000")), spillover(of("blog_goes_on", m, "6000")))
        )
    }
    assert lower == {"vendi_score", "compression_ratio"}
    assert all(of(v, "self_bleu", "6000").kl < 0.6 for v in VARIANTS if v.startswith("formula"))


def test_all_scores_have_names_of_the_study(page: str) -> None:
    assert set(SCORES) <= set(METRICS)
    assert not re.search(r"\b[A-Z]+_[A-Z]+\b", page), "a place that was not filled in"
    assert all(math.isfinite(gain_share(variant)) for variant in VARIANTS)


METHODS = splits_of("methods")
EIGHT = ("blog", "mean", "rloo", "rlhf", "ppo", "tilt", "grpo", "best_of_4")


def test_the_fourth_finding_holds(page: str) -> None:
    """In all five scores at two KL factors: the shares, and spillover's intervals."""
    every = [
        (metric, METHODS["policy", variant, factor, metric].parts)
        for variant in EIGHT
        for factor in ("750", "1500")
        for metric in SCORES
    ]
    for metric, found in every:
        less = -1 if metric in ("distinct_2", "vendi_score") else 1
        assert found["whole"].mean * less > 0
        whole, spilled = found["whole"].mean, found["spillover"]
        assert len(spilled.each) == 5
        assert spilled.mean * whole > 0
        assert abs(spilled.mean) > abs(found["necessary"].mean)
        assert abs(spilled.mean) > abs(found["off_frontier"].mean)
    said = " ".join(page.split())
    sure = sum(not found["spillover"].low <= 0 <= found["spillover"].high for _, found in every)
    assert sure == len(every) - 1
    assert f"its 95 % interval holds 0 in one of these {len(every)} cases" in said
    beyond = [difference(found["spillover"], found["necessary"]) for _, found in every]
    undecided = sum(value.low <= 0 <= value.high for value in beyond)
    assert f"seed by seed, holds 0 in {undecided} of the {len(every)} cases" in said
    weak = [
        METHODS["policy", variant, "6000", metric].parts for variant in EIGHT for metric in SCORES
    ]
    unsure = sum(found["spillover"].low <= 0 <= found["spillover"].high for found in weak)
    assert f"spillover holds 0 in {unsure} of {len(weak)} cases" in said
    for part, words in (
        ("spillover", "spillover is {} to {} % of the change"),
        ("necessary", "necessary part is {} to {} %"),
    ):
        shares = [100 * found[part].mean / found["whole"].mean for _, found in every]
        assert words.format(round(min(shares)), round(max(shares))) in said


def test_a_smaller_study_does_not_decide_the_second_finding() -> None:
    found = {
        metric: difference(
            *(beyond_optimal(METHODS["policy", v, FACTOR, metric]) for v in ("rloo", "blog"))
        )
        for metric in SCORES
    }
    assert not any(sure(value) for value in found.values())
    same = [v.mean * of("blog", m).parts["whole"].mean > 0 for m, v in found.items()]
    assert sum(same) == 4


def test_readme_has_the_finding_as_it_is() -> None:
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"at KL factor {FACTOR} a KL term" in said
    assert f"removes {REMOVED} of that part, with no difference in reward seen at equal KL" in said
    assert "loses about half or less of what the post's loss (`blog`) loses, in the mean" in said
    for split in (ten("6000", m) for m in SCORES), (of("blog", m) for m in SCORES):
        for one in split:
            assert one.parts["necessary"].mean / one.parts["whole"].mean < 0.55


def test_the_kl_that_two_methods_reach_is_as_said() -> None:
    kls = [
        float(row["kl_policy_to_base_nats"])
        for row in rows("methods", "frontier/policies")
        if row["variant"] in ("grpo", "best_of_4") and row["kl_factor"] in ("750", "1500")
    ]
    assert (round(min(kls)), round(max(kls))) == (17, 29)


def test_the_fifth_finding_holds(page: str) -> None:
    """After prompts that no policy was trained on: shares of stories, and KLs."""
    found = {
        (row["variant"], row["kl_factor"], row["metric"]): float(row["mean"])
        for row in rows("prompts", "tables/by_prompt_group")
        if (row["prompt_group"], row["prompt"]) == ("held_out", "")
        and row["model"] in ("base", "policy")
    }

    def shares(factor: str) -> list[str]:
        return [
            f"{100 * found[f'{n}_prompt{s}', factor, 'mentions_concept']:.0f} %"
            for n, s in (("one", ""), ("four", "s"), ("sixteen", "s"))
        ]

    kls = [
        f"{found[variant, '1500', 'kl_policy_to_base_nats']:.1f}"
        for variant in ("one_prompt", "four_prompts", "sixteen_prompts")
    ]
    base = found["", "", "mentions_concept"]
    said = " ".join(page.split())
    low, middle, high = shares("1500")
    assert (
        f"{low}, {middle} and {high} of the stories after these mention a cat (the base model:"
        f" {100 * base:.0f} %), at {kls[0]}, {kls[1]} and {kls[2]} nats"
    ) in said
    low, middle, high = shares("6000")
    assert f"At KL factor 6000 it is {low}, {middle} and {high}." in said
    each = {
        row["variant"]: [round(100 * float(v)) for v in row["each"].lstrip("'").split()]
        for row in rows("prompts", "tables/by_prompt_group")
        if (row["prompt_group"], row["prompt"], row["metric"], row["kl_factor"])
        == ("held_out", "", "mentions_concept", "1500")
    }
    seeds = (each[f"{n}_prompt{s}"] for n, s in (("one", ""), ("four", "s"), ("sixteen", "s")))
    assert "; ".join(f"{a}, {b} and {c} %" for a, b, c in seeds) in said
    assert max(each["one_prompt"]) < min(each["sixteen_prompts"])
