"""Which published studies are older than the code, and that docs/published.md says so."""

from __future__ import annotations

import json
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
