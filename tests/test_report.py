"""The report's words, packing and safety; the page in a real browser is tests/test_report_page.py."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from markupsafe import escape
from report_study import HOSTILE, SVG, make_study
from warm_start import interpreter

from tinycats.columns import STUDY_TABLES
from tinycats.figures.registry import FIGURES, SHEET, FigureEntry
from tinycats.files.atomic import write_sealed
from tinycats.files.tables import read_table, write_table
from tinycats.layout import ModelId
from tinycats.program import UserError
from tinycats.report import gain
from tinycats.report import markdown as markdown_results
from tinycats.report import page as report
from tinycats.report import wording as words
from tinycats.report.reading import embeddable, read_study, stage_of, stage_times
from tinycats.report.story_pack import pack_stories
from tinycats.scores.columns import METRICS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study(made):
    return read_study(*made)


@pytest.fixture(scope="module")
def page(study):
    return report.render(study, "snakemake --cores 1 --configfile config/small.yaml")


def unpack(packed: str):
    """What report.js does, in Python: header, then planes of ids, log π and log p_base."""
    data = zlib.decompress(base64.b64decode(packed))
    size = struct.unpack("<I", data[:4])[0]
    header = json.loads(data[4 : 4 + size])
    total, at, columns = sum(header["length"]), 4 + size, []
    for width in (3, 2, 2):
        planes = [data[at + k * total : at + (k + 1) * total] for k in range(width)]
        columns.append(
            [int.from_bytes(bytes(b), "little", signed=True) for b in zip(*planes, strict=True)]
        )
        at += width * total
    assert at == len(data)
    return header, columns


def test_a_packed_story_is_the_story_to_a_hundredth_of_a_nat(study):
    models = ["base", "prompted", "blog/0", "blog/1500", "blog/6000"]
    header, (ids, policy, reference) = unpack(
        pack_stories(study.stories, models, ["blog"], study.concept_words)
    )
    at = 0
    for number, story in enumerate(study.stories):
        end = at + header["length"][number]
        assert [header["pieces"][i] for i in ids[at:end]] == story.line["tokens"]
        assert header["models"][header["model"][number]] == story.model
        assert header["seed"][number] == story.seed
        for found, log_p in ((policy, "log_prob_policy"), (reference, "log_prob_base")):
            assert [v / 100 for v in found[at:end]] == pytest.approx(story.line[log_p], abs=0.00501)
        at = end
    assert at == len(ids)


def test_a_story_without_scores_is_refused(study, made):
    from tinycats.report.reading import models_of
    from tinycats.report.story_pack import read_stories

    scores = study.tables["scores/stories.csv"][:-1]
    with pytest.raises(UserError, match="has no row in scores"):
        read_stories(made[0], models_of(study.config, made[0]), scores)


def test_no_story_can_inject_markup(page, study):
    text = "".join(study.stories[0].line["tokens"])
    assert HOSTILE in text
    assert "blog" not in study.stories[0].model
    assert "<script>window" not in page
    assert "<img" not in page
    assert "&lt;script&gt;window.broken" in page
    assert len(re.findall(r"<script\b", page)) == len(re.findall(r"</script>", page)) == 4


def test_the_page_names_nothing_to_load(page):
    assert "default-src 'none'" in page
    loads = re.findall(r"(?:src|srcset|data|action)=[\"']?(?!#)([^\"'> ]+)", page)
    assert not [where for where in loads if "//" in where]
    assert re.findall(r"<link\b[^>]*>", page) == re.findall(
        r'<link rel="icon" href="data:[^>]*>', page
    )
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)


def test_ids_are_unique_and_references_resolve(page):
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    pointed = re.findall(r'(?:xlink:)?href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert len(pointed) > 20
    assert not set(pointed) - set(ids)


def test_a_figure_follows_the_theme_and_stays_to_itself():
    svg = embeddable(SVG.format(name="x", height=3), "x.1")
    assert "#1a1a1a" not in svg.lower()
    assert svg.count("currentColor") == 2
    assert 'id="x-1--clip"' in svg
    assert "url(#x-1--clip)" in svg
    assert 'href="#x-1--dot"' in svg
    assert "#svg-x-1 *{" in svg
    assert SHEET not in embeddable(f"<svg>{SHEET}<g/></svg>", "x")
    assert "metadata" not in svg
    assert 'width="600pt"' not in svg
    assert 'width="600"' in svg, "only the root element's size is dropped"


@pytest.mark.parametrize(
    "inside",
    [
        "<script>1</script>",
        '<path onload="1"/>',
        '<image href="http://x.org/a.png"/>',
        "<foreignObject/>",
        "<text><![CDATA[<script>1</script>]]></text>",
        "<text>never closed",
    ],
)
def test_an_active_figure_is_refused(inside):
    with pytest.raises(
        UserError, match=r"^figures/x.svg: (a figure may hold no script|not an SVG)"
    ):
        embeddable(f'<svg viewBox="0 0 1 1">{inside}</svg>', "x", "figures/x.svg")


def test_a_figure_may_show_any_story():
    story = "Tom wrote: one = 1, so href='http://x.org' &lt;script&gt;"
    svg = f'<svg viewBox="0 0 1 1"><desc>{story}</desc><text>{story}</text></svg>'
    assert f"<text>{story}</text>" in embeddable(svg, "x")


def test_a_new_figure_appears_without_touching_the_template(tmp_path, monkeypatch):
    entry = FigureEntry("brand_new", (), "a section of its own", 900)
    monkeypatch.setitem(FIGURES, "brand_new", entry)
    results, models = make_study(tmp_path, seeds=1, per_training_prompt=1, per_other_prompt=1)
    write_sealed(results / "figures/brand_new.svg", SVG.format(name="brand_new", height=9))
    about = json.loads((results / "figures/what_broke.json").read_text())
    about |= {"title": "Brand new", "alt": "Something unseen", "section": "a section of its own"}
    write_sealed(results / "figures/brand_new.json", json.dumps(about))
    (results / "figures/of_an_earlier_study.svg").write_text(SVG.format(name="x", height=9))
    study = read_study(results, models)
    page = report.render(study, "snakemake")
    assert 'id="figure-brand_new"' in page
    assert "of_an_earlier_study" not in page
    assert "Something unseen" in page
    assert "Brand new" in page
    assert "figures/brand_new.svg" in markdown_results.render(study, "x", results / "results.md")


def test_every_figure_has_its_finding_its_alternative_and_its_table(page, study):
    for figure in study.figures:
        block = page.split(f'id="figure-{figure.name}"')[1].split("</figure>")[0]
        assert figure.finding.replace("<", "&lt;") in block
        assert figure.alt in block
        assert f'aria-labelledby="alt-{figure.name}"' in block
        assert figure.sources[0] in block


def test_an_interval_is_shown_with_the_digits_it_supports():
    row = {"metric": "story_reward", "mean": "0.43217", "low": "0.4101", "high": "0.4543"}
    assert words.cell(row) == words.Cell("0.432", "0.410 to 0.454")
    row = {"metric": "mentions_concept", "mean": "0.98", "low": "0.951", "high": "0.999"}
    assert words.cell(row) == words.Cell(
        "98.0\N{NO-BREAK SPACE}%", "95.1 to 99.9\N{NO-BREAK SPACE}%"
    )
    assert words.cell(row, sign=True).interval.endswith("99.9\N{NO-BREAK SPACE}points")
    row = {"metric": "words", "mean": "-1234.5", "low": "-1300", "high": "-1169"}
    assert words.cell(row).mean == "−1,234"
    row = {"metric": "words", "mean": "12", "low": "", "high": ""}
    assert words.cell(row) == words.Cell("12.0", "")
    row |= {"each": "12 9.25"}
    assert words.cell(row) == words.Cell("12.0", "seeds: 9.2, 12.0")
    row = {"metric": "words", "mean": "8.7", "low": "4.6", "high": "12.8"}
    assert words.cell(row) == words.Cell("8.7", "4.6 to 12.8")
    row = {"metric": "ended", "mean": "1", "low": "1", "high": "1"}
    assert words.cell(row).mean == "100\N{NO-BREAK SPACE}%"


def test_paired_differences_in_words():
    def row(metric, verdict, mean="0.1"):
        return {"minuend": "6000", "subtrahend": "0", "variant": "blog", "metric": metric} | {
            "subtrahend_variant": "blog",
            "mean": mean,
            "low": "0.05",
            "high": "0.15",
            "verdict": verdict,
        }

    rows = [
        row("distinct_2", "better"),
        row("story_reward", "worse", "-0.1"),
        row("words", "higher"),
        row("kl_policy_to_base_nats", "higher"),
        row("ended", "undecided"),
        row("self_bleu", "worse"),
        row("vendi_score", "worse", "-0.1"),
        row("compression_ratio", "undecided", ""),
    ]
    (found,) = words.comparisons(rows, ["blog"])
    assert [name for name, _ in found.better] == ["distinct bigrams within a story"]
    assert found.better[0][1].mean == "+10\N{NO-BREAK SPACE}points"
    assert [name for name, _ in found.changed] == ["words per story"]
    assert [name for name, _ in found.costs] == ["KL(policy‖base) per completion"]
    assert found.answer == (
        "KL 6000 against KL 0, seed by seed: better in distinct bigrams within a story; worse in"
        " reward of the whole story and diversity (2 of 4 measures)."
    )
    (nothing,) = words.comparisons([row("ended", "undecided")], ["blog"])
    assert nothing.answer.endswith("neither better nor worse in any score.")
    other = {**rows[0], "subtrahend": "6000", "subtrahend_variant": "a"}
    (between,) = words.comparisons([other], ["blog", "a"])
    assert (between.minuend, between.subtrahend) == ("KL 6000, blog", "KL 6000, a")
    several = words.comparisons(
        [*rows, {**rows[0], "variant": "a", "subtrahend_variant": "a"}], ["blog", "a"]
    )
    assert [c.minuend for c in several] == ["KL 6000, blog", "KL 6000, a"]
    assert words.headline_comparison(several[::-1], "6000", ["blog", "a"]) is several[0]


def test_the_interval_of_a_share_has_the_error_that_seeds_have_in_common(study):
    rows = [dict(row) for row in study.tables["frontier/policies.csv"]]
    assert all(line["share_interval"] is None for line in gain.share_table(rows, ["blog"]))
    one = next(row for row in rows if row["kl_factor"] == "6000")
    shares = (0.70, 0.72, 0.74, 0.76)
    many = [
        {**one, "seed": str(seed), "share_of_attainable_gain": str(share),
         "share_low": str(share - 0.05), "share_high": str(share + 0.03)}
        for seed, share in enumerate(shares)
    ]  # fmt: skip
    (line,) = gain.share_table(many, ["blog"])
    half = 3.1824463 * np.std(shares, ddof=1) / 2  # Student's t with 3 degrees of freedom
    low, high = line["share_interval"]
    assert low == pytest.approx(0.73 - math.hypot(half, 0.05))
    assert high == pytest.approx(0.73 + math.hypot(half, 0.03))
    summary = study.tables["tables/summary.csv"]
    policy = ModelId("policy", "blog", "6000")
    lead = gain.lead_sentence(summary, [line], "a cat", policy)
    assert "the policy has 73\N{NO-BREAK SPACE}% (67 to 78\N{NO-BREAK SPACE}%) of the gain" in lead
    of_another = gain.lead_sentence(summary, [line], "a cat", policy, (), "animals named")
    assert of_another.startswith("With KL factor 6000, the mean reward, animals named, is ")
    assert "mention" not in of_another
    many[0]["share_low"] = ""  # one unknown: no interval
    assert gain.share_table(many, ["blog"])[0]["share_interval"] is None


def test_a_study_of_kl_0_opens_with_the_collapse(study):
    summary = study.tables["tables/summary.csv"]
    policy = ModelId("policy", "blog", "0")
    lead = gain.lead_sentence(summary, [], "a cat", policy, ["blog"])
    assert lead.startswith("Without a KL penalty, ")
    assert re.search(r"y, \d+ of 1000 completions are distinct \(the base model: \d+\)", lead)
    assert "of the stories mention a cat" in lead
    assert "With KL factor" not in lead


def test_lead_and_tables_name_the_rivals_at_equal_kl(study):
    def plain(text: str) -> str:
        return text.replace("\N{NO-BREAK SPACE}", " ")

    equal = study.tables["tables/equal_kl.csv"]
    lead = plain(report.facts(study)["lead"])
    assert "at 2.50 nats from the base model the policy has 71 % (seeds: 70 %, 72 %) of the" in lead
    assert "at the same KL best-of-n has 80 % (ahead) and prompting 57 % (behind)" in lead
    for page in (
        report.render(study, "x"),
        markdown_results.render(study, "x", study.folder / "r.md"),
    ):
        assert "ahead: +0.030" in page
        assert "behind: −0.050" in page
        assert "Prompting all completions has 57 % of the gain" in plain(page)
        assert "have 71 % there (prompting is behind: −0.050 (−0.070 to −0.030))" in plain(page)
    more = [{**row, "rival": "variant", "rival_variant": "a"} for row in equal if row["kl_factor"]]
    rows = study.tables["frontier/policies.csv"]
    shares = gain.share_table(rows, ["blog", "a"], [*equal, *more])
    policy = ModelId("policy", "blog", "6000")
    lead = gain.lead_sentence([], shares, "a cat", policy, ["blog", "a"], "", [*equal, *more])
    start = "At 2.50 nats from the base model, the variant blog with KL factor 6000 has 71 %"
    assert plain(lead).startswith(start)
    many = [{**row, "seeds": "4"} for row in equal]
    (cell,) = {gain.share_table(rows, ["blog"], many)[1]["rivals"]["best-of-n"]}
    assert plain(cell.interval) == "ahead: +0.030 (+0.010 to +0.050)"


def test_a_study_opens_with_what_it_is_about(study):
    assert report.opening(["blog"], ["0", "6000"], "Q?") == ("Q?", "frontier")
    assert report.opening(["blog"], ["0"], "Q?")[1] == "completion_mass"
    assert report.opening(["blog", "rloo"], ["6000"], "Q?")[1] == "frontier"
    page = report.render(study, "snakemake")
    places = [
        page.index(text)
        for text in ("<h1>Can a reward", 'id="finding"', 'id="diagram"', 'id="stories"')
    ]
    later = [page.index(f'id="{name}"') for name in ("training", "broke", "limit", "explorer")]
    assert places + later == sorted(places + later)


def test_the_story_of_another_concept_is_told_with_its_name(tmp_path):
    results, models = make_study(tmp_path, seeds=1, per_training_prompt=1, per_other_prompt=1)
    config = (results / "config.yaml").read_text().replace("concept: cat", "concept: owl")
    (results / "config.yaml").write_text(config)
    page = report.render(read_study(results, models), "snakemake")
    assert "only stories about an owl?" in page
    assert "about a cat?" not in page


def test_methods_name_the_training_prompts(study, page):
    prompts = study.config["training"]["prompts"]
    assert prompts
    shown = "”, “".join(str(escape(prompt)) for prompt in prompts)
    assert f"“{shown}”. Its reward" in page


def test_results_md_shows_what_the_page_shows(study, made):
    text = markdown_results.render(study, "snakemake --cores 1", made[0] / "results.md")
    assert "![A line that rises to 10, drawn for frontier](figures/frontier.svg)" in text
    assert "<script>" not in text
    answer = text.splitlines()[2]
    assert answer.startswith("**With KL factor 6000, ")
    assert "at the same KL best-of-n has" in answer
    for heading in ("At equal KL", "Scores", "KL factor 6000 beside others", "After other prompts"):
        assert heading in text
    lead = report.facts(study)["lead"]
    assert markdown_results.escape(lead) in text
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert widths
    assert min(widths) >= 1


def test_results_md_splits_a_table_of_many_models_by_kl_factor(study, made, monkeypatch):
    """Base and prompted base stand in each, the policies where they belong, with the same cells."""
    pages = {}
    for most in (100, 2):
        monkeypatch.setattr(markdown_results, "MOST_MODELS", most)
        text = markdown_results.render(study, "x", made[0] / "results.md")
        scores = text.split("## Scores")[1].split("\n## ")[0].strip()
        pages[most] = [
            [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
            for part in re.split(r"^### KL factor .*$", scores, flags=re.M)
        ]
    (whole,) = pages[100]
    before, *tables = pages[2]
    assert not before
    names = whole[0][3:]
    assert len(names) > 1
    assert [table[0][1:] for table in tables] == [["base", "prompted", name] for name in names]
    for table in tables:
        place = whole[0].index(table[0][-1])
        for own, of_all in zip(table, whole, strict=True):
            if len(of_all) == len(whole[0]):
                assert own == [*of_all[:3], of_all[place]]


def test_results_md_has_a_grid_of_scores_and_one_of_comparisons(study, made):
    """A mark for each verdict, also where nothing is decided."""
    text = markdown_results.render(study, "x", made[0] / "results.md")
    scores = text.split("## Scores")[1].split("\n## ")[0]
    rows = {line.split(" | ")[0]: line for line in scores.splitlines() if line.startswith("| ")}
    verdicts = ("▲", "▼", "○", "◆", "◆")
    for number, metric in enumerate(m for m in METRICS if m != "vendi_score"):
        (line,) = (row for name, row in rows.items() if words.label(metric) in name)
        cells = line.split(" | ")
        assert verdicts[number % 5] in cells[-1], metric  # KL 6000
        assert not set("▲▼○◆") & set(cells[1]), "the base is not compared with itself"
    beside = text.split("beside others")[1].split("\n## ")[0]
    assert "| score | KL 6000 − KL 0 | KL 6000 − the prompted base |" in beside
    equal = text.split("## At equal KL")[1].split("\n## ")[0]
    assert "ahead: +0.030" in equal
    assert "behind: −0.050" in equal


def test_a_share_above_all_is_explained(study):
    (line,) = gain.share_table(
        [{**study.tables["frontier/policies.csv"][0], "share_of_attainable_gain": "1.05"}], ["blog"]
    )
    assert "no policy can pass it" in gain.above_one([line])
    assert gain.above_one(gain.share_table(study.tables["frontier/policies.csv"], ["blog"])) == ""


def test_figures_are_copied_beside_a_markdown_elsewhere(study, tmp_path):
    docs = tmp_path / "docs"
    text = markdown_results.render(study, "x", docs / "results.md", docs / "figures")
    for path in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (docs / path).read_bytes() == (study.folder / path).read_bytes()
    below = markdown_results.render(study, "x", study.folder / "results.md")
    for name in set(re.findall(r"\]\(((?:tables|frontier)/[^)]+)\)", below)):
        assert (study.folder / name).is_file()
        assert f"]({name})" in text  # beside the copied figures
    assert below.count("](tables/equal_kl.csv)") == 1


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("results/small/benchmarks/policies/kl=0/seed=0.jsonl", "policies"),
        ("benchmarks/small/score.jsonl", "score"),
        ("score.jsonl", "score"),
    ],
)
def test_the_stage_of_a_benchmark_file(path, stage):
    assert stage_of(Path(path), "small") == stage


@pytest.mark.parametrize("text", ['{"s": 1.5', '{"h:m:s": "0:00:01"}', '{"s": "nan"}', "[]"])
def test_a_benchmark_cut_short_is_one_line(tmp_path, text):
    path = tmp_path / "tables.jsonl"
    path.write_text('{"s": 2.5}\n')
    assert stage_times([path], "small") == (("tables", 2.5, 1, 0.0),)
    path.write_text(text)
    with pytest.raises(UserError, match=r"tables\.jsonl: not a benchmark of Snakemake's"):
        stage_times([path], "small")


def test_program_writes_both_files_and_names_what_is_missing(tmp_path):
    results, models = make_study(tmp_path, seeds=1, per_training_prompt=1, per_other_prompt=1)
    command = [interpreter(), "workflow/scripts/render_report.py", "--results", str(results)]
    command += ["--models", str(models)]
    run: dict[str, Any] = {
        "cwd": ROOT,
        "env": {"PYTHONPATH": "src", "PATH": ""},
        "capture_output": True,
        "text": True,
    }
    subprocess.run(command, **run, check=True)
    first = (results / "report.html").read_bytes()
    subprocess.run(command, **run, check=True)
    assert (results / "report.html").read_bytes() == first
    assert (results / "results.md").stat().st_size > 1000
    (results / "tables/summary.csv").unlink()
    failed = subprocess.run(command, **run)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "tables/summary.csv: missing" in failed.stderr


def test_no_heavy_library_is_imported():
    code = (
        "import sys, tinycats.report.page, tinycats.report.markdown;"
        "print({'torch', 'transformers', 'sentence_transformers', 'matplotlib'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "set()"


def test_scores_of_unknown_metrics_are_still_shown(tmp_path):
    results, models = make_study(tmp_path, seeds=1, per_training_prompt=1, per_other_prompt=1)
    path = results / "tables/summary.csv"
    columns = STUDY_TABLES["tables/summary.csv"]
    rows = read_table(path, columns)
    write_table(path, [*rows, {**rows[0], "metric": "purring_hertz"}], columns)
    assert "purring hertz" in report.render(read_study(results, models), "snakemake")


def test_stories_side_by_side_are_of_the_training_prompt_wherever_it_stands(study):
    # the other groups first, as when a config names another group before `training`
    stories = sorted(study.stories, key=lambda story: story.line["prompt_group"] == "training")
    assert stories[0].line["prompt_group"] == "other_subjects"
    facts = report.facts(dataclasses.replace(study, stories=tuple(stories)))
    assert facts["groups"] == ["training", "other_subjects"]
    shown = [story.line["prompt_group"] for _, story in facts["side_by_side"]]
    assert shown == ["training"] * 4


def test_published_curves_are_named_only_where_they_are_drawn(study, tmp_path):
    heading, words_of = "beside the published curves", "Published points"
    page = report.render(study, "x")
    text = markdown_results.render(study, "x", study.folder / "results.md")
    assert heading not in page
    assert words_of not in page
    assert heading not in text
    results, models = make_study(tmp_path, seeds=1, per_training_prompt=1, per_other_prompt=1)
    path = results / "figures/training_metrics_0.json"
    about = json.loads(path.read_text())
    about["alt"] += "; rings show TinyStories-33M, published, one run."
    write_sealed(path, json.dumps(about))
    study = read_study(results, models)
    page = report.render(study, "x")
    assert heading in page
    assert words_of in page
    assert heading in markdown_results.render(study, "x", results / "results.md")


def test_a_study_that_was_made_smaller_shows_only_its_own(tmp_path):
    """A KL factor and a seed are taken out of the config; their files stay in the folder."""
    results, models = make_study(tmp_path, per_training_prompt=2, per_other_prompt=1)
    line = '{"s": 5, "max_rss": 1}\n'
    for stem in ("blog/kl=0/seed=0", "blog/kl=6000/seed=0"):
        path = results / f"benchmarks/policies/{stem}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(line)
    config = yaml.safe_load((results / "config.yaml").read_text())
    config["training"] |= {"kl_factors": [0, 6000.0], "seeds": [1]}
    (results / "config.yaml").write_text(yaml.safe_dump(config))
    study = read_study(results, models)
    assert set(study.runs) == {"blog/kl=0/seed=1", "blog/kl=6000/seed=1"}
    assert {(story.model, story.seed) for story in study.stories} == {
        (model, 1) for model in ("base", "prompted", "blog/0", "blog/6000")
    }
    names = {figure.name for figure in study.figures}
    assert "training_metrics_0" in names
    assert "training_metrics_1500" not in names
    # the two of make_study name no model, and one of seed 0 is not counted
    assert {stage: jobs for stage, _, jobs, _ in study.benchmarks}["policies"] == 2


def test_a_figure_that_was_changed_is_refused(tmp_path):
    results, models = make_study(tmp_path, per_training_prompt=1, per_other_prompt=1)
    for name in ("frontier.json", "frontier.svg"):
        path = results / "figures" / name
        before = path.read_text()
        path.write_text(before.replace("3", "4", 1))
        with pytest.raises(UserError, match=rf"{name}: not as it was written"):
            read_study(results, models)
        path.write_text(before)
    checksum = results / "figures/.sha256/frontier.json.sha256"
    for damaged in ("", "7", None):
        checksum.unlink() if damaged is None else checksum.write_text(damaged)
        with pytest.raises(UserError, match=r"frontier\.json") as error:
            read_study(results, models)
        assert str(error.value).count("\n") == 0


def test_policies_of_different_machines_are_said_to_be(tmp_path):
    results, models = make_study(tmp_path, per_training_prompt=1, per_other_prompt=1)
    for path, threads in zip(sorted(results.rglob("run.json")), (1, 2, 2, 2, 2, 2), strict=True):
        about = json.loads(path.read_text())
        about["computed_on"] = [{"first_step": 1, "threads": threads, "machine": "x86_64"}]
        write_sealed(path, json.dumps(about))
    study = read_study(results, models)
    sentence = "The policies were not all trained alike (threads 1, 2):"
    assert sentence in report.render(study, "x")
    assert sentence in markdown_results.render(study, "x", results / "results.md")
    one = [about for about in study.runs.values() if about["computed_on"][0]["threads"] == 2]
    assert words.different_machines(one) == ""


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"model.safetensors": {"sha256": "cd" * 32}}, "was trained from abab"),
        ({}, "was trained from abab"),
        ({"model.safetensors": {"sha256": 7}}, "not a manifest"),
        ({"model.safetensors": {}}, "not a manifest"),
        (["model.safetensors"], "not a manifest"),
    ],
)
def test_a_manifest_of_another_base_model_is_refused(tmp_path, files, says):
    study, models = make_study(tmp_path, per_training_prompt=1, per_other_prompt=1)
    (models / "nano/manifest.json").write_text(json.dumps({"files": files}))
    with pytest.raises(UserError, match=says) as error:
        read_study(study, models)
    assert "nano/manifest.json" in str(error.value)
