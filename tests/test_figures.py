"""Figures: drawn by the program from small hand-made tables, the same to the byte, with words."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot
from warm_start import interpreter

from tinycats.columns import COLUMNS
from tinycats.figures import (
    by_prompt,
    completion_mass,
    damage,
    decomposition,
    fonts,
    reading,
    sample_efficiency,
    style,
)
from tinycats.figures import registry as figures
from tinycats.figures.equal_kl import rival_phrases
from tinycats.figures.reading import percent
from tinycats.files.tables import Row, write_lines, write_table
from tinycats.layout import BASE, PROMPTED, ModelId
from tinycats.program import UserError
from tinycats.scores.columns import METRICS
from tinycats.stories.columns import STORY_FIELDS
from tinycats.tables.intervals import Interval, over_seeds, t_interval

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "workflow" / "resources" / "published_curves.csv"
KLS = ("kl_policy_to_base_nats", "kl_base_to_policy_nats")
#: rewards at the end by KL factor, unlike any published number
REWARD = {"0": 0.731, "0.5": 0.62, "6000": 0.512, "24000": 0.33}


def interval(mean: float, seeds: int) -> dict[str, object]:
    known = seeds > 1
    each = [mean + 0.02 * (2 * i / (seeds - 1) - 1) for i in range(seeds)] if known else [mean]
    return {
        "mean": mean,
        "low": mean - 0.02 if known else math.nan,
        "high": mean + 0.02 if known else math.nan,
        "seeds": seeds,
        "each": " ".join(f"{value:.6g}" for value in each),
    }


def study(
    folder: Path,
    factors: tuple[str, ...] = ("0", "6000"),
    seeds: tuple[str, ...] = ("3", "7"),
    variants: tuple[str, ...] = ("blog",),
    frontier: bool = True,
    concept: str = "cat",
) -> Path:
    """Every table that a figure reads, small."""
    n = len(seeds)
    tellers = [
        {"model": "base", "variant": "", "kl_factor": ""},
        {"model": "prompted", "variant": "", "kl_factor": ""},
        *({"model": "policy", "variant": v, "kl_factor": f} for v in variants for f in factors),
    ]
    training, trajectories, top, policies = [], [], [], []
    for variant in variants:
        for factor in factors:
            own = {"variant": variant, "kl_factor": factor}
            for step in (1, 2, 3):
                reward = 0.15 + (REWARD[factor] - 0.15) * (step - 1) / 2
                measured = {
                    "loss": -reward,
                    "reward_mean": reward,
                    KLS[0]: 1.5 * (step - 1),
                    KLS[1]: 2.0 * (step - 1),
                    "entropy_nats": 5.0 - step,
                    "distinct_completions": 600 / step,
                    "gradient_snr": 0.2 * step,
                }
                for metric, mean in measured.items():
                    training.append({**own, "step": step, "metric": metric, **interval(mean, n)})
                for seed in seeds:
                    run = {**own, "seed": seed, "step": step}
                    kls = {kl: measured[kl] for kl in KLS}
                    before = {"completions_drawn": 1000 * (step - 1)}
                    trajectories.append({**run, **before, "reward": reward, **kls})
                    for text, share in ((f" a {concept}", 0.1 * step), (" <b>&\n", 0.02)):
                        top.append(
                            {**run, "prompt": "p", "text": text, "share": share, "reward": 0.5}
                        )
            for seed in seeds:
                policies.append(
                    {
                        **own, "seed": seed, "reward": REWARD[factor], KLS[0]: 3.0, KLS[1]: 4.0,
                        "limit": 0.8, "limit_low": 0.79, "limit_high": 0.81, "gap": 0.1,
                        "limit_certified": 0.78, "share_low": 0.3, "share_high": 0.4,
                        "share_of_attainable_gain": 0.37,
                    }
                )  # fmt: skip
    summary, groups, positions, first, scores, judges = [], [], [], [], [], []
    for rank, teller in enumerate(tellers):
        for metric in METRICS:
            mean = 0.2 + 0.1 * rank
            summary.append({**teller, "kl_coefficient_per_nat": "", "metric": metric,
                            **interval(mean, n)})  # fmt: skip
        for group in ("training", "other_subjects"):
            share = 0.11 * (rank + 1) * (0.5 if group == "other_subjects" else 1)
            where = {**teller, "prompt_group": group}
            groups.append({**where, "metric": "mentions_concept", **interval(share, n)})
            prompt = "Once there was" if group == "training" else f"There are no {concept}s here."
            if teller["model"] != "prompted":
                groups.append({**groups[-1], "prompt": prompt})
            for begin, end in ((0, 4), (4, 8), (8, 20)):
                for metric in ("mentions_per_100_tokens", f"{KLS[0]}_per_token"):
                    place = {"position_from": begin, "position_to": end, "metric": metric}
                    positions.append({**where, **place, **interval(rank + 4 / end, n)})
        for token, chance in ((" a", 0.9 - 0.1 * rank), ("\n", 0.01), ("<|endoftext|>", 0.0)):
            first.append({**teller, "after": "", "token": token, "probability": chance})
        for token, chance in ((" cat", 0.05 * 4**rank), (" dog", 0.9 - 0.2 * rank)):
            first.append({**teller, "after": " a", "token": token, "probability": chance})
        for seed in seeds:
            for story in (0, 1):
                row: Row = dict.fromkeys(COLUMNS["scores/stories.csv"], 1.0)
                row |= {**teller, "seed": seed, "prompt_group": "training", "prompt": "There was"}
                row |= {"story": story, "completion_reward": 0.1 + 0.1 * rank}
                scores.append({**row, "mentions_concept": float(story < rank)})
            for texts in ("completions", "stories"):
                judged = {"judge": "letters", "texts": texts, "count": 9, "reward": 0.1 * rank}
                judges.append({**teller, "seed": seed, **judged, "score": 0.5 - 0.1 * rank})
    worse = ("distinct_2", "vendi_score")
    paired = [
        {
            "minuend": factor, "subtrahend": "base", "variant": variant, "metric": metric,
            "verdict": "worse" if metric in worse and factor == "6000" else "undecided",
        }
        for variant in variants for factor in factors for metric in METRICS
    ]  # fmt: skip
    equal: list[Row] = []
    for variant in variants:
        rivals = [("best_of_n", "", "worse", 0.42), ("prompted", "", "better", 0.3)]
        rivals += [("variant", other, "worse", 0.45) for other in variants if other != variant]
        for factor in factors:
            for rival, other, verdict, share in rivals:
                row = dict.fromkeys(COLUMNS["tables/equal_kl.csv"], 0.1)
                row |= {"variant": variant, "kl_factor": factor, KLS[0]: 3.0, "seeds": n}
                row |= {"rival": rival, "rival_variant": other, "verdict": verdict}
                equal.append({**row, "share_of_attainable_gain": 0.37, "rival_share": share})
    limit = [
        {
            "beta": 1 / k, "log_z": 0.1, KLS[0]: k, "reward": 0.2 * math.sqrt(k) + 0.15,
            "low": 0.2 * math.sqrt(k) + 0.14, "high": 0.2 * math.sqrt(k) + 0.16,
            "certified": 0.2 * math.sqrt(k) + 0.13, "exact_share": 0.8,
        }
        for k in (0.1, 1.0, 4.0, 9.0)
    ]  # fmt: skip
    best = [
        {
            "n": n,
            "reward": 0.15 + 0.05 * math.log(n),
            "reward_low": 0.14 + 0.05 * math.log(n),
            "reward_high": 0.16 + 0.05 * math.log(n),
            KLS[0]: math.log(n),
            "kl_bound_nats": 1.0,
        }
        for n in (1, 4, 64)
    ]
    prompted = [{"text": f" a {concept}", "reward": 0.59, KLS[0]: 5.5}]
    split: list[Row] = []
    for teller in [*tellers[1:], *({**t, "model": "best_of_n"} for t in tellers[2:])]:
        spilled = 0.04 if teller["model"] == "policy" else 0.0
        kl = {"0": 6.0, "0.5": 5.0, "6000": 3.0, "24000": 1.0}.get(teller["kl_factor"], 5.5)
        changes = {"necessary": -0.05, "off_frontier": -0.01, "spillover": -spilled}
        for metric in METRICS:
            for part, mean in {**changes, "whole": sum(changes.values())}.items():
                split.append({**teller, KLS[0]: kl, "metric": metric, "part": part})
                split[-1] |= interval(mean, n)
    tables: dict[str, list[Row]] = {
        "tables/training.csv": training,
        "tables/trajectories.csv": trajectories,
        "tables/top_completions.csv": top,
        "tables/summary.csv": summary,
        "tables/by_prompt_group.csv": groups,
        "tables/by_position.csv": positions,
        "tables/first_token.csv": first,
        "tables/decomposition.csv": split if frontier else [],
        "tables/paired_differences.csv": paired,
        "tables/equal_kl.csv": equal if frontier else [],
        "scores/stories.csv": scores,
        "scores/judges.csv": judges,
        "frontier/limit.csv": limit if frontier else [],
        "frontier/best_of_n.csv": best if frontier else [],
        "frontier/policies.csv": policies if frontier else [],
        "frontier/prompted.csv": prompted if frontier else [],
    }
    for name, rows in tables.items():
        # columns that no figure reads are empty
        known = [{column: row.get(column, "") for column in COLUMNS[name]} for row in rows]
        write_table(folder / name, known, COLUMNS[name])
    paths = ["base", "prompted", *(f"{v}/kl={f}" for v in variants for f in factors)]
    for path in paths:
        text = (
            f" a {concept} and $5 of <script>alert(1)</script>. The {concept}s' party.\n\n$x$ end"
        )
        told: Row = {field: [0.0] for field in STORY_FIELDS}
        told |= {
            "prompt_group": "training",
            "prompt": "Once there was",
            "forced": "",
            "text": text,
        }
        told |= {"ended": True, "sample_seed": 1}
        write_lines(folder / f"stories/{path}/seed={seeds[0]}.jsonl", [told], STORY_FIELDS)
    return folder


def run_program(name: str, results: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            interpreter(), str(ROOT / "workflow/scripts/draw_figure.py"), "--name", name,
            "--results", str(results), "--out", str(out), *(more or ("--concept", "cat")),
        ],
        capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        check=False,
    )  # fmt: skip


def draw(name: str, results: Path, out: Path, concept: str = "cat", **settings) -> dict:
    """Draw in this process, as the program does; returns the JSON."""
    from tinycats.figures import writing

    figure, _ = figures.find(name)
    style.apply(name)
    settings = {"published": PUBLISHED, "seed": "3", "kl_factors": ["0", "6000"], **settings}
    tables = reading.Tables.read(name, results, concept, **settings)
    drawing = writing.draw(name, tables)
    writing.write(drawing, out / name, {"source": list(tables.inputs), "section": figure.section})
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


ALL = figures.figure_names(["0", "6000"], ["blog", "other"], judges=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("study"), variants=("blog", "other"))


def test_the_program_writes_the_same_bytes_twice(results: Path, tmp_path: Path) -> None:
    for attempt in ("a", "b"):
        done = run_program(
            "frontier", results, tmp_path / attempt, "--concept", "cat",
            "--kl-factors", "0", "6000", "--seed", "3", "--published", str(PUBLISHED),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for kind in ("svg", "png", "json"):
        first, second = (tmp_path / a / f"frontier.{kind}" for a in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    words = json.loads((tmp_path / "a/frontier.json").read_text(encoding="utf-8"))
    assert set(words) == {"title", "finding", "alt", "source", "kl_factor", "order", "section",
                          "variant"}  # fmt: skip
    assert words["source"] == list(figures.FIGURES["frontier"].inputs)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_program_needs_no_heavy_library(results: Path, tmp_path: Path) -> None:
    check = (
        "import sys, runpy; sys.argv[1:] = ['--name', 'training_all', '--results', sys.argv[1],"
        " '--concept', 'cat', '--out', sys.argv[2]];"
        f"runpy.run_path({str(ROOT / 'workflow/scripts/draw_figure.py')!r}, run_name='__main__');"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check, str(results), str(tmp_path)],
        capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ALL)
def test_every_figure_fits_a_page_and_is_redrawn_alike(
    name: str, results: Path, tmp_path: Path
) -> None:
    words = draw(name, results, tmp_path)
    assert words["finding"].endswith(".")
    assert words["finding"] not in words["alt"]
    assert len(words["alt"]) > 40
    assert words["section"] in figures.SECTIONS
    assert set(words["source"]) <= {
        *figures.figure_inputs(name, ["0", "6000"], "blog", "3"),
    }
    svg = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    tree = ElementTree.fromstring(svg)
    assert tree.attrib["viewBox"].startswith(f"0 0 {72 * style.WIDTH:g} ")
    ids = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert style.INK in svg
    assert svg.count(figures.SHEET) == 1
    assert "<style" not in svg
    assert "<script" not in svg
    assert (tmp_path / f"{name}.png").read_bytes()[1:4] == b"PNG"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 5  # SVG and JSON have a checksum
    draw(name, results, tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after


def assert_numbers_are_beside_their_own_panel(figure: style.Figure) -> None:
    for ax in figure.axes:
        low, high = sorted(ax.yaxis.get_view_interval())
        ticks = [t for t in ax.yaxis.get_major_ticks() if low <= t.get_loc() <= high]
        for label in (tick.label1 for tick in ticks if tick.label1.get_visible()):
            for other in {*figure.axes} - {ax}:
                assert not label.get_window_extent().overlaps(other.get_window_extent()), label


def test_long_numbers_reach_into_no_other_panel(results: Path) -> None:
    """Shares that hardly differ."""
    from tinycats.figures import writing

    style.apply("what_broke_more")
    tables = reading.Tables.read("what_broke_more", results, "cat", kl_factors=["0", "6000"])
    shares = iter(np.linspace(0.93, 0.975, 10))
    for row in tables.contents["tables/summary.csv"]:
        if row["metric"] == "distinct_2":
            row |= {"mean": next(shares), "low": math.nan, "high": math.nan, "each": ""}
    figure = writing.draw("what_broke_more", tables).figure
    figure.draw_without_rendering()
    assert_numbers_are_beside_their_own_panel(figure)
    pyplot.close(figure)


@pytest.mark.parametrize("name", sorted({*ALL} - {"stories"}))  # whose text is broken to fit
def test_no_text_is_cut_off(name: str, results: Path) -> None:
    from tinycats.figures import writing

    style.apply(name)
    tables = reading.Tables.read(
        name, results, "cat", kl_factors=["0", "6000"], seed="3", published=PUBLISHED
    )
    figure = writing.draw(name, tables).figure
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    texts = list(figure.texts)
    for ax in figure.axes:
        texts += [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [
                tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high
            ]
    for text in texts:
        box = text.get_window_extent()
        if text.get_visible() and text.get_text():
            inside = box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2
            assert inside, f"{text.get_text()!r} at {box.bounds} of {width:.0f} × {height:.0f}"
    assert_numbers_are_beside_their_own_panel(figure)
    pyplot.close(figure)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "frontier",
            [
                "blog reaches a reward of 0.51 at 3.0 nats, 37% of the possible gain",
                "At the 3.0 nats of blog with KL factor 6000, blog has 37% of the possible gain in",
                "best-of-n has 42% (ahead), prompting 30% (behind) and other 45% (ahead)",
            ],
        ),
        (
            "published",
            ["at KL factor 0 (published: 0.61 at 16)", "at KL factor 6000 (published: 0.44"],
        ),
        (
            "training_metrics_6000",
            [
                "from 0.15 to 0.51 (95% interval 0.49 to 0.53)",
                "4.0 nats",
                "at step 3 it is 0.51",
                "KLs at the end and the order of KL factors were not fitted.",
            ],
        ),
        ("training_all", ["KL factor 0 ends at a reward of 0.73", "200 distinct", "from 600"]),
        ("sample_efficiency", ["at KL factor 6000 a reward of 0.51, which all reach, takes 2,000"]),
        ("scores_by_kl", ["20% of the base's", "40% of KL factor 0's", "50% of KL factor 6000's"]),
        (
            "what_broke",
            [
                "KL factor 6000 against the base model: worse in distinct bigrams within a story and"
                " diversity by 1 of 4 measures (distinct bigrams within a story 20% → 50%; Vendi",
                "KL factor 0 against the base model: neither better nor worse in any metric",
            ],
        ),
        (
            "by_prompt",
            [
                "“Once there was” 44% (11%)",
                "“There are no cats here.” 22% (6%): a",
                "cannot be shown",
            ],
        ),
        ("by_position", ["tokens 0–3 to tokens 8–19", "1.0 to 0.20 for the base", "3.0 to 2.2"]),
        (
            "first_token",
            [
                "“ a” (90%) for the base",
                "“ a” (70%) for KL factor 0",
                "at KL factor 0, “ cat” rises from 5% to 80%, mostly in place of “ dog” (90% to 50%)",
            ],
        ),
        ("completion_mass", ["“a cat” is 30% of the last batch at KL factor 0", "seed 3"]),
        (
            "judge_vs_reward",
            ["From the base to KL factor 0", "from 0.10 to 0.30", "from 0% to 100%: the word list"],
        ),
        (
            "judges",
            ["the base to KL factor 6000", "from 0.0 to 0.30", "and letters from 0.50 to 0.20"],
        ),
        ("stories", ["twice (the base)", "twice (KL factor 6000)"]),
        ("variants", ["0.73 at 3.0 nats (blog)", "0.73 at 3.0 nats (other)"]),
        (
            "decomposition",
            [
                "distinct bigrams within a story −0.10 (−0.12 to −0.080): 50% necessary, 10% off the",
                "frontier and 40% spillover, −0.040 (−0.060 to −0.020); self-BLEU",
            ],
        ),
        # 0.10 of which 0.05 is off the frontier or spillover
        (
            "damage",
            [
                "bigrams within a story: blog −0.10 (−0.12 to −0.080) at 6.0 nats, of which −0.050 (",
                "beyond the optimal policy; other −0.10",
            ],
        ),
        (
            "decomposition_variants",
            ["within a story: blog −0.10", "; other −0.10", "across stories: blog"],
        ),
    ],
)
def test_findings_state_the_numbers_of_the_tables(
    name: str, parts: list[str], results: Path, tmp_path: Path
) -> None:
    finding = draw(name, results, tmp_path)["finding"]
    for part in parts:
        assert part in finding


def test_the_figure_of_variants_names_who_is_ahead_at_equal_kl(
    results: Path, tmp_path: Path
) -> None:
    for name in ("variants", "frontier"):
        title = draw(name, results, tmp_path)["title"]
        assert title == "At 3.0 nats, other has 45% of the possible gain in reward, blog 37%"


def test_the_key_of_the_first_figure_covers_no_mark() -> None:
    """A policy that is far from the base and poor lies where the key usually is."""
    from matplotlib import pyplot

    from tinycats.figures import frontier

    for mark, place in (((0.1, 0.9), "lower right"), ((0.8, 0.1), "upper left")):
        _, ax = pyplot.subplots()
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax.plot([0, 0.4], [0, 0.5], label="best achievable reward")
        ax.plot(*mark, "o")
        frontier._draw_key(ax)
        legend = ax.get_legend()
        assert legend is not None
        box = legend.get_window_extent()
        assert not box.contains(*ax.transData.transform(mark))
        middle = ax.transAxes.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
        assert (middle[0] > 0.5, middle[1] > 0.5) == ("right" in place, "upper" in place)
        pyplot.close()


def test_rivals_without_a_clear_difference_come_last_and_say_so_once() -> None:
    def row(rival: str, name: str, share: float, verdict: str) -> dict[str, str]:
        return {
            "rival": rival, "rival_variant": name, "rival_share": str(share), "verdict": verdict,
        }  # fmt: skip

    rows = [row("best_of_n", "", 0.88, "undecided"), row("prompted", "", 0.75, "better")]
    two = ["best-of-n has 88% (undecided)", "prompting 75% (behind)"]
    assert rival_phrases(rows, percent) == two
    rows += [row("variant", "ppo", 0.96, "undecided"), row("variant", "tilt", 0.97, "undecided")]
    rows += [row("variant", "mean", math.nan, "undecided")]
    assert rival_phrases(rows, percent) == [
        "prompting has 75% (behind)",
        "best-of-n 88%",
        "ppo 96%",
        "tilt 97% (undecided for all of these 3)",
    ]


def test_with_one_variant_the_first_figure_is_about_kl_factors(tmp_path: Path) -> None:
    words = draw("frontier", study(tmp_path / "study"), tmp_path)
    for part in ("0.73 at 3.0 nats", "0.51 at 3.0 nats", "37%", "“ a cat” gives 0.59"):
        assert part in words["finding"]
    assert words["title"] == (
        "At 3.0 nats, KL factor 6000 has 37% of the possible gain in reward, best-of-n has 42% (ahead)"
    )
    assert "prompting 30% (behind)" in words["finding"]


@pytest.mark.parametrize("name", figures.figure_names(["0.5"], ["blog"], judges=True))
def test_one_seed_one_factor_and_no_frontier(name: str, tmp_path: Path) -> None:
    results = study(tmp_path / "study", factors=("0.5",), seeds=("3",), frontier=False)
    words = draw(name, results, tmp_path / "figures", kl_factors=["0.5"])
    assert "nan" not in words["alt"]
    assert "interval 0" not in words["finding"]


def test_sample_efficiency_is_of_completions_and_of_the_limit() -> None:
    """By hand: at 1 nat the limit is 0.35, so 0.25 is half of the gain over 0.15."""
    kl = sample_efficiency.KL
    limit = [{kl: 0.0, "reward": 0.15}, {kl: 1.0, "reward": 0.35}, {kl: 4.0, "reward": 0.55}]
    steps = [(0, 0.15, 0.0), (50, 0.25, 1.0), (100, 0.35, 2.25), (150, 0.4, 9.0)]
    rows = [
        {"completions_drawn": drawn, "reward": reward + more, kl: nats}
        for drawn, reward, nats in steps
        for more in (-0.02, 0.02)  # two seeds
    ]
    found = sample_efficiency.curve(rows, limit, base=0.15)
    assert found.drawn == [0, 50, 100, 150]
    assert [value.mean for value in found.reward] == pytest.approx([0.15, 0.25, 0.35, 0.4])
    shares = [value.mean for value in found.share]
    assert shares[1:3] == pytest.approx([0.5, 0.2 / 0.3])  # the limit is linear in the root
    assert math.isnan(shares[0]), "nothing can be gained at KL 0"
    assert math.isnan(shares[3]), "the limit's curve ends at 4 nats"
    assert found.reaches(0.3) == 100
    assert math.isnan(found.reaches(0.5))


def test_a_split_of_no_change_has_no_shares(results: Path) -> None:
    """Two seeds of few stories, none of which mentions the concept: no interval, and a mean of 0."""
    whole = Interval(0.0, math.nan, math.nan, 2, (0.1, -0.1))
    parts = {"whole": whole} | {
        part: whole._replace(mean=mean)
        for part, mean in zip(decomposition.PARTS, (0.2, 0.0, -0.2), strict=True)
    }
    found = {("policy", "blog", "6000", "self_bleu"): decomposition.Split(1.0, parts)}
    tables = reading.Tables.read("decomposition", results, "cat", kl_factors=["6000"])
    finding = decomposition.words(tables, found, ["blog"], ["self_bleu"])[1]
    assert "self-BLEU across stories 0.0 (seeds: −0.10, 0.10)" in finding


def test_what_lies_beyond_the_optimal_policy_is_summed_seed_by_seed() -> None:
    """Parts that vary against each other leave a narrow sum."""
    parts = {
        "off_frontier": over_seeds([0.3, 0.2, 0.1, 0.0]),
        "spillover": over_seeds([0.11, 0.2, 0.305, 0.402]),
    }
    found = damage.beyond_optimal(decomposition.Split(1.0, parts))
    sums = [0.41, 0.4, 0.405, 0.402]
    assert found.each == pytest.approx(sums)
    # t(3) · s/√4
    assert found.high - found.mean == pytest.approx(3.1824 * statistics.stdev(sums) / 2, rel=1e-3)


def test_the_fewest_completions_are_those_of_one_variant_alone() -> None:
    def curve(*rewards: float) -> sample_efficiency.Curve:
        several = [Interval(reward, math.nan, math.nan, 2) for reward in rewards]
        return sample_efficiency.Curve([0, 50, 100], several, several)

    def found(*curves: sample_efficiency.Curve) -> tuple[str, str]:
        names = "one_prompt", "b", "c"
        both = {(name, "6000"): own for name, own in zip(names, curves, strict=False)}
        return sample_efficiency._between_variants(names, ["6000"], both)

    slow, fast = curve(0.15, 0.2, 0.3), curve(0.15, 0.3, 0.4)
    title, finding = found(fast, slow, slow)
    assert (
        title == "At KL factor 6000, one prompt needs the fewest completions for a reward of 0.30"
    )
    assert finding.endswith("takes 50 (one_prompt), 100 (b) and 100 (c) completions.")
    neutral = "Reward against completions drawn, by variant"
    assert found(fast, fast, slow)[0] == neutral, "two need as many"
    worse = curve(0.15, 0.14, 0.13)
    assert found(fast, worse) == (neutral, "At KL factor 6000 not all gain reward.")


def test_empty_tables_are_said_to_be_empty(tmp_path: Path) -> None:
    for name in ("tables/trajectories.csv", "tables/equal_kl.csv", *(f"frontier/{t}.csv" for t in
                 ("limit", "best_of_n", "policies", "prompted")), "tables/summary.csv",
                 "tables/paired_differences.csv"):  # fmt: skip
        write_table(tmp_path / name, [], COLUMNS[name])
    assert "no policies" in draw("frontier", tmp_path, tmp_path)["finding"]
    assert "no scores" in draw("what_broke", tmp_path, tmp_path)["finding"]


def test_another_concept_is_named_and_has_no_published_curve(tmp_path: Path) -> None:
    results = study(tmp_path / "study", concept="dragon")
    for name in ("by_prompt", "frontier", "training_metrics_0", "stories"):
        words = draw(name, results, tmp_path, concept="dragon")
        assert "cat" not in words["alt"].replace("indicat", "")
        assert reading.PUBLISHED_LABEL not in words["alt"]
    assert "twice (the base)" in words["finding"]


@pytest.mark.parametrize(
    ("fallback", "concept", "noted"),
    [
        ((), "dragon", ""),
        ((), "猫 🐈", "猫 🐈"),
        ((), "قطة", "ق"),  # DejaVu Serif, of the stories, lacks it; DejaVu Sans does not
        ((fonts.SANS,), "قطة", ""),
    ],
)
def test_characters_that_no_font_has_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fallback: tuple[str, ...],
    concept: str,
    noted: str,
) -> None:
    monkeypatch.setattr(fonts, "FALLBACK", fallback)
    results = study(tmp_path / "study", concept=concept)
    finding = draw("stories", results, tmp_path, concept=concept)["finding"]
    named = finding.partition("Boxes stand for characters that no font here has:")[2]
    assert set(noted) <= set(named)
    assert bool(named) == bool(noted)


def test_a_description_is_well_formed(results: Path, tmp_path: Path) -> None:
    from tinycats.figures import writing

    style.apply("frontier")
    drawing = writing.draw("frontier", reading.Tables.read("frontier", results, "cat"))
    drawing.alt = 'a \x07\x1b\ufffe<b> & "c" \U0001f408'
    writing.write(drawing, tmp_path / "frontier", {})
    root = ElementTree.parse(tmp_path / "frontier.svg").getroot()
    assert root[0].text is not None
    assert root[0].text.endswith('a \ufffd\ufffd\ufffd<b> & "c" \U0001f408')


def test_published_points_belong_to_two_factors(results: Path, tmp_path: Path) -> None:
    tables = reading.Tables.read("frontier", results, "cat", published=PUBLISHED)
    rows = tables.published_rows()
    assert len(rows) == 160
    ends = {row["kl_factor"]: row["reward"] for row in rows if row["step"] == 80}
    assert ends == {"0": 0.6076, "6000": 0.4445}


def test_names_of_a_study() -> None:
    names = figures.figure_names(["6000", "0", "24000"], ["blog"])
    assert names[0] == "frontier"
    assert [n for n in names if n.startswith("training_metrics")] == [
        "training_metrics_0", "training_metrics_6000", "training_metrics_24000",
    ]  # fmt: skip
    assert "variants" not in names
    many = [str(100 * i) for i in range(30)]
    assert sum(n.startswith("training_metrics") for n in figures.figure_names(many, ["blog"])) == 12
    assert figures.find("training_metrics_0.5") == (figures.FIGURES["training_metrics"], "0.5")
    for wrong in ("frontire", "training_metrics", "training_metrics_x", "frontier_0"):
        with pytest.raises(UserError, match="there is no figure"):
            figures.find(wrong)


def test_errors_are_one_line(results: Path, tmp_path: Path) -> None:
    for name, folder in (("frontire", results), ("training_metrics_9", results),
                         ("frontier", tmp_path)):  # fmt: skip
        done = run_program(name, folder, tmp_path / "out" / name)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_not_given_is_read_from_the_tables(tmp_path: Path) -> None:
    from tinycats.figures import writing

    results = study(tmp_path / "study", factors=("6000", "0.5"), variants=("zeta", "alpha"))
    tables = reading.Tables.read("frontier", results, "cat")
    assert (tables.variant, tables.kl_factors) == ("zeta", ["0.5", "6000"])
    before = repr(tables)
    writing.draw("frontier", tables)
    assert repr(tables) == before
    for name, told in (("training_all", True), ("variants", False)):
        assert run_program(name, results, tmp_path).returncode == 0
        words = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert words["finding"].endswith(" Shown is the variant zeta.") == told
        assert words["source"] == list(figures.FIGURES[name].inputs)
    # stories are no table, so nothing in them says how many variants the study has
    words = ("--concept", "cat", "--kl-factors", "0.5", "6000", "--seed", "3", "--variant", "zeta")
    for variants, told in ((("zeta", "alpha"), True), (("zeta",), False)):
        done = run_program("stories", results, tmp_path, *words, "--variants", *variants)
        assert done.returncode == 0, done.stderr
        about = json.loads((tmp_path / "stories.json").read_text(encoding="utf-8"))
        assert (about["variant"] == "zeta") == told
        assert about["finding"].endswith(" Shown is the variant zeta.") == told


def test_the_workflow_asks_for_names_without_heavy_libraries() -> None:
    check = (
        "import sys; from tinycats.figures import registry;"
        "sys.exit(bool({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", check], env=environment).returncode == 0


def test_colours_are_one_a_factor() -> None:
    for count in range(1, 9):
        factors = [str(1000 * i) for i in range(count)]
        whos = [BASE, PROMPTED, *(ModelId("policy", "blog", f) for f in factors)]
        assert len({style.colour(who) for who in whos}) == count + 2
        assert len({style.marker(who, factors) for who in whos}) == count + 2


def test_a_kl_factor_has_one_colour_in_every_study() -> None:
    colours = [style.colour(ModelId("policy", v, "6000")) for v in ("blog", "other")]
    assert set(colours) == {"#a237fc"}
    marks = [style.marker(ModelId("policy", "blog", "6000"), f) for f in (["6000"], ["0", "6000"])]
    assert marks == ["D", "D"]
    near = style.colour(ModelId("policy", "blog", "5999"))
    assert near[1:3] == "a2" or near[1:3] == "a3"  # the ramp goes through the fixed colours


def test_spread_keeps_labels_apart_and_near() -> None:
    placed = style.spread([5.0, 5.2, 5.1, 50.0], gap=10, low=0, high=60)
    assert placed[3] == 50.0
    assert sorted(placed) == [placed[0], placed[2], placed[1], placed[3]]
    gaps = [b - a for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False)]
    assert min(gaps) >= 10 - 1e-9
    assert min(placed) >= 0
    assert max(placed) <= 60


def test_leaders_of_frequent_completions_pass_through_no_words() -> None:
    def label(x: float, width: float) -> completion_mass.Label:
        return completion_mass.Label(x, 0.5, "words", width)

    for labels, crossed in (
        ([label(12, 38), label(21, 38), label(60, 42)], False),  # room to the right
        ([label(75, 82), label(86, 68), label(95, 70)], False),  # room to the left
        ([label(11, 80), label(40, 80), label(82, 80)], True),  # wherever the words are
    ):
        placed = completion_mass.arranged(labels, 0, 100)
        assert sorted(level for *_, level in placed) == [0, 1, 2]
        through = 0
        for own, begin, level in placed:
            assert 0 <= begin <= 100 - own.width
            pieces = completion_mass.pieces(own, level, placed, 0.2)
            assert pieces[0][0] == own.y
            for other, start, line in placed:
                if other is not own and start < own.x < start + other.width and line < level:
                    through += 1
                    words = 1.07 + 0.2 * line, 1.07 + 0.2 * line + 0.1
                    assert not [p for p in pieces if p[0] < words[1] and words[0] < p[1]]
        assert bool(through) == crossed


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, "0.12"), (13.4, "13"), (162.4, "162"), (1.96, "2.0"), (-0.5, "−0.50"), (0.0, "0.0")],
)
def test_numbers_for_sentences(value: float, text: str) -> None:
    assert reading.number(value) == text


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ([0.2, 0.21, 0.22], "follows the reward"),
        ([-0.2, -0.21, -0.22], "over-optimisation"),
        ([0.2, -0.1], "does not follow beyond"),
        ([0.2], "undecided"),
    ],
)
def test_the_second_judge_is_believed_only_beyond_its_noise(values: list[float], part: str) -> None:
    from tinycats.figures import judge_vs_reward

    assert part in judge_vs_reward._verdict(t_interval(values))


def test_marks_of_many_variants_stand_closer(tmp_path: Path) -> None:
    factors, many = tuple(REWARD), tuple("abcdefgh")
    heights = {}
    for variants in (many[:4], many):
        results = study(tmp_path / variants[-1] / "study", factors=factors, variants=variants)
        draw("variants", results, tmp_path / variants[-1], kl_factors=list(factors), variant="a")
        heights[len(variants)] = len(pyplot.imread(tmp_path / variants[-1] / "variants.png"))
    assert heights[4] < heights[8] < 1.6 * heights[4]


def test_of_many_training_prompts_a_few_are_drawn_beside_the_others() -> None:
    trained = [("training", f"t{i}") for i in range(16)]
    others = [("held_out", f"h{i}") for i in range(11)]
    assert by_prompt._shown(trained + others) == [*trained[:2], *others[:8]]
    assert by_prompt._shown(trained + others[:3]) == [*trained[:7], *others[:3]]
    assert by_prompt._shown([*trained[:1], *others[:4]]) == [*trained[:1], *others[:4]]


def test_bold_prompts_stay_within_their_column() -> None:
    prompt = "In a small house there lived a very happy old cat"
    for weight in ("normal", "bold"):
        lines = style.wrap(prompt, 2.3, weight).split("\n")
        assert max(style.text_width(line, style.FONT, weight) for line in lines) <= 72 * 2.3
