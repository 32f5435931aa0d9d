"""Which published studies are older than the code, and that docs/published.md says so."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tinycats import published
from tinycats.program import UserError

ROOT = Path(__file__).parents[1]


def listed() -> dict[str, set[str]]:
    """Study → the stages that docs/published.md says have changed."""
    text = (ROOT / "docs/published.md").read_text(encoding="utf-8")
    cells = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("| ")]
    named = {study: stages.removesuffix(" (no record)") for study, stages in cells[1:]}
    return {study: set(stages.split(", ")) - {"none"} for study, stages in named.items()}


def test_the_page_names_every_stage_that_has_changed() -> None:
    """It may name more: a change that was taken back is no reason to fail."""
    found = {folder.name: published.changed(folder) for folder in published.studies(ROOT / "docs")}
    missing = {
        study: sorted(set(stages) - listed().get(study, set())) for study, stages in found.items()
    }
    assert not any(missing.values()), (
        f"code that changed since: {missing}; run: python -m tinycats.published > docs/published.md"
    )
    assert set(listed()) == set(found)


def test_a_record_is_of_the_stages_code(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    for name in ("a-study", "b-study"):
        (docs / name).mkdir(parents=True)
    assert published.changed(docs / "a-study") == list(published.STAGES)
    record = docs / "a-study" / published.RECORD
    published.record(record)
    assert published.changed(docs / "a-study") == []
    record.write_text(json.dumps({**published.digests(), "scores": "0"}))
    assert published.changed(docs / "a-study") == ["scores"]
    page = published.markdown(docs)
    assert "| a-study | scores |" in page
    assert (
        "| b-study | policies, completions, frontier, stories, scores, judge, tables, figures, report (no record) |"
        in page
    )
    record.write_text("[1]")
    with pytest.raises(UserError, match=r"code\.json: not a record of a published study"):
        published.changed(docs / "a-study")


def test_every_stage_that_measures_has_its_programs_in_the_record() -> None:
    """A new program of the workflow is a stage's, or is known to make no number of a study."""
    named = {name for names in published.STAGES.values() for name in names}
    others = {"obtain_models", "make_playground", "write_config", "model_card"}
    others |= {"pretrain", "pretrain_corpus", "pretrain_figure"}
    programs = {path.stem for path in (ROOT / "workflow/scripts").glob("*.py")}
    assert programs == (named - {"tinycats.figures.*"}) | others


#: what README says of KL factor 6000 → who it is compared with, metrics, and verdicts that bear it out, of
#: which the first must be among them
CLAIMS = {
    "better than the base model at the reward it was trained on": (
        "base", ("completion_reward",), ["better"],
    ),
    "worse in diversity": (
        "base", ("self_bleu", "vendi_score", "compression_ratio", "distinct_completions"), ["worse", "undecided"],
    ),
    "prompting every story has more reward": ("prompted", ("completion_reward",), ["worse"]),
    "at a higher KL": ("prompted", ("kl_policy_to_base_nats",), ["lower"]),
}  # fmt: skip
EQUAL_KL = {
    "At the same KL it is ahead of prompting a part of the stories": ("prompted", {"better"}),
    "narrowly, behind best-of-n, which trains nothing": ("best_of_n", {"worse"}),
}


def readme_claims(text: str, folder: Path) -> list[str]:
    """What README says of the published ten-seed study and its tables do not bear out."""
    said = " ".join(text.split())

    def rows(name: str) -> list[dict[str, str]]:
        with open(folder / f"tables/{name}.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    found = {
        (row["subtrahend"], row["metric"]): row["verdict"].replace("better", "lower")
        if row["metric"].startswith("kl_")  # a lower KL was called better when this was published
        else row["verdict"]
        for row in rows("paired_differences")
        if row["minuend"] == "6000"
    }
    wrong = [
        claim
        for claim, (rival, metrics, verdicts) in CLAIMS.items()
        if claim not in said
        or not {verdicts[0]} <= {found[rival, metric] for metric in metrics} <= {*verdicts}
    ]
    if not (folder / "tables/equal_kl.csv").exists():  # published before there was such a table
        return wrong + [claim for claim in EQUAL_KL if claim not in said]
    equal = {row["rival"]: row["verdict"] for row in rows("equal_kl") if row["kl_factor"] == "6000"}
    return wrong + [
        claim
        for claim, (rival, verdicts) in EQUAL_KL.items()
        if claim not in said or equal[rival] not in verdicts
    ]


def test_the_tables_bear_out_what_readme_says(tmp_path: Path) -> None:
    text = (published.ROOT / "README.md").read_text(encoding="utf-8")
    study = published.ROOT / "docs/ten-seed-study"
    assert readme_claims(text, study) == []
    (tmp_path / "tables").mkdir()
    shutil.copy(study / "tables/paired_differences.csv", tmp_path / "tables")
    lines = ["rival,kl_factor,verdict", "best_of_n,6000,better", "prompted,6000,better"]
    (tmp_path / "tables/equal_kl.csv").write_text("\n".join(lines))
    assert readme_claims(text, tmp_path) == ["narrowly, behind best-of-n, which trains nothing"]
    assert "worse in diversity" in readme_claims(text.replace("worse in", "as good in"), study)
