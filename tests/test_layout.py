"""Which model a path, a key or a table's row is about, and where a study's files lie."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinycats import layout
from tinycats.columns import STUDY_TABLES
from tinycats.kinds import KINDS
from tinycats.layout import BASE, PROMPTED, ModelId
from tinycats.program import UserError

ROOT = Path(__file__).parents[1]
FILES = [value for value in vars(layout).values() if isinstance(value, layout.ModelFile)]

#: names that the schema allows, odd ones among them
VARIANTS = st.sampled_from(
    [
        "base",
        "prompted",
        "policy",
        "optimal",
        "best_of_n",
        "blog",
        "leave_one_out",
        "a-b",
        "0",
        "kl",
        "seed",
        "seed-0",
    ]
) | st.text("abkls019_-", min_size=1, max_size=9).filter(lambda name: name[0].isalnum())
FACTORS = st.sampled_from([0, 0.5, 1e-05, 6000, 6000.0, 24000]) | st.floats(0, 1e12)
SEEDS = st.integers(0, 10**6)


@st.composite
def models(draw: st.DrawFn) -> ModelId:
    """A model of any kind with a seed."""
    kind = KINDS[draw(st.sampled_from(list(KINDS)))]
    names = (draw(VARIANTS), layout.canonical(draw(FACTORS))) if kind.of_policy else ("", "")
    return ModelId(kind.name, *names, draw(SEEDS))


@given(
    models(), st.sampled_from(FILES), st.sampled_from(["", "/scratch/x", "/base/blog/kl=1/seed=2"])
)
def test_what_is_built_is_read_back(model: ModelId, file: layout.ModelFile, above: str) -> None:
    results = Path(above) / layout.results("base")
    path = results / file.of(model)
    assert ModelId.from_path(path) == ModelId.from_path(str(path)) == model
    assert file.model_of(path, results) == model
    assert ModelId.from_key(model.key) == model.without_seed
    assert ModelId.from_row(model.columns()) == model
    assert ModelId.from_row({k: str(v) for k, v in model.columns().items()}) == model
    assert ModelId.from_short(model.short, model.variant) == model.without_seed
    fields = {"variant": model.variant, "factor": model.kl_factor, "seed": model.seed}
    assert file.pattern(model.kind).format(**fields) == file.of(model)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("results/base/stories/base/seed=3.jsonl", ModelId("base", seed=3)),
        ("stories/prompted/seed=0.jsonl", ModelId("prompted", seed=0)),
        ("stories/optimal/blog/kl=6000/seed=1.jsonl", ModelId("optimal", "blog", "6000", 1)),
        ("stories/optimal/kl=6000/seed=1.jsonl", ModelId("policy", "optimal", "6000", 1)),
        ("stories/optimal_prompted/seed=1.jsonl", ModelId("optimal_prompted", seed=1)),
        ("completions/base.csv", BASE),
        ("completions/prompted.csv", PROMPTED),
        ("stories/blog/kl=6000/seed=12.jsonl", ModelId("policy", "blog", "6000", 12)),
        ("stories/blog/kl=0/seed=0.base.jsonl", ModelId("policy", "blog", "0", 0)),
        ("stories/base/kl=0/seed=0.jsonl", ModelId("policy", "base", "0", 0)),
        ("stories/blog/kl=6e3/seed=1.jsonl", ModelId("policy", "blog", "6000", 1)),
        (
            "policies/leave_one_out/kl=0.5/seed=1/training.csv",
            ModelId("policy", "leave_one_out", "0.5", 1),
        ),
    ],
)
def test_whose_file_it_is(path: str, expected: ModelId) -> None:
    assert ModelId.from_path(path) == expected
    assert ModelId.from_path(Path("/elsewhere") / path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "stories/blog/seed=0.jsonl",
        "stories/blog/kl=much/seed=0.jsonl",
        "stories/blog/kl=nan/seed=0.jsonl",
        "stories/blog/kl=-1/seed=0.jsonl",
        "stories/blog/kl=0/seed=one.jsonl",
        "scores/stories.csv",
        "results/base",
        "stories/based/seed=0.jsonl",
    ],
)
def test_a_path_of_no_model_is_refused(path: str) -> None:
    grammar = (
        "base/seed=<number>, prompted/seed=<number>, <variant>/kl=<factor>/seed=<number>,"
        " optimal/<variant>/kl=<factor>/seed=<number>, best_of_n/<variant>/kl=<factor>/seed=<number>,"
        " opening_only/<variant>/kl=<factor>/seed=<number> or optimal_prompted/seed=<number>"
    )
    with pytest.raises(UserError) as error:
        ModelId.from_path(path)
    assert str(error.value) == f"{path}: the path should end in {grammar}"
    assert ModelId.find(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "stories/old/blog/kl=0/seed=0.jsonl",  # a folder too deep
        "stories/blog/kl=0/seed=0.base.jsonl",  # another file of the model
        "stories/blog/kl=0.0/seed=0.jsonl",  # the factor in another spelling
        "completions/blog/kl=0/seed=0.jsonl",
    ],
)
def test_a_file_out_of_place_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a file of any model; expected stories/base/seed="):
        layout.STORIES.model_of(tmp_path / path, tmp_path)


def test_keys_and_rows_of_no_model_are_refused() -> None:
    for key in ("bass", "blog", "blog/kl=0", "/0", ""):
        with pytest.raises(UserError):
            ModelId.from_key(key)
    row = {"model": "policy", "variant": "blog", "kl_factor": "0", "seed": "1"}
    for column, wrong in (("model", "bass"), ("variant", ""), ("kl_factor", "x"), ("seed", "1.5")):
        with pytest.raises(UserError, match="should"):
            ModelId.from_row({**row, column: wrong})
    with pytest.raises(ValueError, match="should have neither"):
        ModelId("base", "blog", "0")


def test_models_are_ordered_by_kind_variant_number_and_seed() -> None:
    ordered = [
        BASE,
        PROMPTED,
        *(ModelId("policy", "a", factor, 0) for factor in ("0", "0.5", "6000", "24000")),
        ModelId("policy", "b", "0", 2),
        ModelId("policy", "b", "0", 10),
    ]
    backwards = ordered[::-1]
    assert sorted(backwards, key=ModelId.order) == ordered
    blog = ModelId("policy", "blog", "0", 0)
    assert sorted([*backwards, blog], key=ModelId.order) == [*ordered[:2], blog, *ordered[2:]]


@pytest.mark.parametrize("factor", ["inf", "nan", "-1", "much"])
def test_a_factor_is_a_finite_number_of_at_least_0(factor: str) -> None:
    assert ModelId.find(f"policies/blog/kl={factor}/seed=0") is None
    with pytest.raises(UserError, match="number of at least 0"):
        ModelId.from_row({"model": "policy", "variant": "blog", "kl_factor": factor, "seed": 0})


def test_names_for_people() -> None:
    policy = ModelId("policy", "blog", "6000", 3)
    assert [policy.label(), policy.label(["blog"])] == ["KL 6000", "KL 6000"]
    assert policy.label(["blog", "mean"]) == "KL 6000, blog"
    assert BASE.label(["blog", "mean"]) == "base"
    assert [m.phrase for m in (BASE, PROMPTED, policy)] == [
        "the base", "the prompted base", "KL factor 6000",
    ]  # fmt: skip
    assert policy.key == "blog/6000"


def test_the_workflow_may_import_it_before_anything_is_installed() -> None:
    check = "import sys, tinycats.layout; print(sorted(m for m in sys.modules if 'tinycats' in m))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", check],
        capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")}, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [
        "['tinycats',", "'tinycats.kinds',", "'tinycats.layout',", "'tinycats.program']",
    ]  # fmt: skip


def test_the_layout_and_the_documented_columns_list_the_same_tables():
    paths = {*layout.TABLES.values(), *layout.SCORES.values(), *layout.FRONTIER.values()}
    assert paths | {layout.FIRST_TOKEN} == set(STUDY_TABLES)
