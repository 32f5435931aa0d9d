"""Thousands of damaged configurations: each is a study or one line, and the schema agrees."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tinycats import settings
from tinycats.completions.settings import CompletionsSettings
from tinycats.frontier.settings import FrontierSettings
from tinycats.lengths import check_lengths
from tinycats.policies.settings import TrainingSettings
from tinycats.program import UserError
from tinycats.stories.settings import StoriesSettings
from tinycats.study import Study

ROOT = Path(__file__).parents[1]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
NANO = ROOT / "workflow/resources/nano"


def _strict(schema: dict[str, Any]) -> Any:
    """A validator with the types of Python: 2.0 is no whole number, infinity no number."""
    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine("integer", lambda _, found: type(found) is int)
    types = types.redefine(
        "number",
        lambda _, found: type(found) is int or (type(found) is float and math.isfinite(found)),
    )
    return jsonschema.validators.extend(base, type_checker=types)(schema)


SCHEMA = _strict(
    yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
)


def places(found: Any, above: tuple = ()) -> Iterator[tuple]:
    """Where a value can be changed: each key and index, and a new key in each block."""
    if above:
        yield above
    if isinstance(found, dict):
        yield (*above, "new")
        for key, value in found.items():
            yield from places(value, (*above, key))
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from places(value, (*above, number))


#: what YAML can hold, dates and binary data too, and what has been trouble
SCALARS = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, 0, 1, 2, -1, 0.5, 1.0, 1e308, math.inf, math.nan, 10**400),
            *("nano", "auto", "cat", "none", "mean", "leave_one_out", "base_to_policy", "a/b"),
            *("2e-6", "1e3", "", " ", "\n", "a\nb", "a\0b", "\ud800", "é" * 200, "x" * 5000),
            *("x/" * 400, "..", "猫 😀", "{seed}", "$(x)", "--help", "cuda:1"),
        ]
    ),
    st.just(5000).map(lambda digits: 16**digits),  # more digits than Python writes
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=()), max_size=20),  # surrogates too
    st.binary(max_size=3),
    st.dates(),
    st.datetimes(),
)
KEYS = st.one_of(
    st.sampled_from(["training", "other", "advantage", "kl", "steps", "a b", "a\n", "x" * 300]),
    st.text(max_size=5),
    st.integers(),
    st.none(),
    st.booleans(),
    st.dates(),
    st.tuples(st.integers()),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(st.integers(), max_size=2),
    ),
    max_leaves=6,
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(sorted(places(DEFAULT), key=str)), VALUES), min_size=1, max_size=3
)


def put(config: Any, place: tuple, value: Any) -> None:
    """Set or append a value, as long as what is above it is still there."""
    *above, last = place
    for key in above:
        try:
            config = config[key]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(config, dict):
        config[last] = value
    elif isinstance(config, list) and isinstance(last, int):
        config[last : last + 1] = [value]


def use(study: Study) -> None:
    """What the rules do with a study: names of files, arguments of programs."""
    names = [study.name, *study.variants, *study.factors, f"{study.concept_slug}.safetensors"]
    assert all("/" not in name and "\0" not in name and len(name.encode()) < 255 for name in names)
    assert list(study.policies())
    for cls in (CompletionsSettings, StoriesSettings, FrontierSettings):
        as_text = settings.as_json(study.stage(cls))
        assert settings.check(cls, json.loads(as_text)) == study.stage(cls)
        as_text.encode()
    for variant in study.variants.values():
        study.stage(TrainingSettings, kl_factor=1.0, seed=0, **vars(variant))
    json.dumps(study.record, ensure_ascii=False).encode()
    short = (study.concept, study.base_model, study.tokenizer or "", *study.reward_encoder_sources)
    assert all(len(text.encode()) < 2**17 for text in short)  # a word of a command
    assert len(json.dumps(study.concept_words).encode()) < 2**17


def outcome(config: Any, given: Any = None) -> Study | str:
    """A study, or the line that refuses it."""
    try:
        study = Study.check(config, given)
        use(study)
        check_lengths(study, NANO)
    except UserError as error:
        line = str(error)
        assert line.startswith("config: "), line
        assert line.isprintable(), line
        assert len(line) < 1000
        return line
    return study


def well_formed(config: Any) -> bool:
    """Whether the fields take a configuration, without what concerns two of them at once."""
    try:
        settings.check(Study, config)
    except UserError:
        return False
    return True


def beyond_a_schema(found: Any) -> bool:
    """Whether a value holds what JSON cannot have or a schema cannot say."""
    if isinstance(found, dict):
        nothing = bool(found) and all(value is None for value in found.values())
        keys = any(not isinstance(key, str) or beyond_a_schema(key) for key in found)
        return nothing or keys or any(map(beyond_a_schema, found.values()))
    if isinstance(found, list):
        return any(map(beyond_a_schema, found))
    if isinstance(found, str):
        return "\0" in found or not found.isprintable()
    if type(found) is int:
        return abs(found) > sys.float_info.max  # infinite as a float, which a schema cannot say
    return not isinstance(found, int | float | None)


FUZZ = examples(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(changes=CHANGES)
def test_every_configuration_is_a_study_or_one_line(changes: list[tuple[tuple, Any]]) -> None:
    config = copy.deepcopy(DEFAULT)
    for place, value in changes:
        put(config, place, value)
    outcome(config)
    taken = well_formed(config)
    if taken or not beyond_a_schema(config):
        assert SCHEMA.is_valid(config) == taken


def texts(found: Any) -> Any:
    """Nested values as Snakemake's ``--config`` hands them over."""
    if isinstance(found, dict):
        return {key: texts(value) for key, value in found.items()}
    return [texts(v) for v in found] if isinstance(found, list) else str(found)


@examples(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(sorted(places(DEFAULT), key=str)), value=VALUES)
def test_the_same_from_the_command_line(place: tuple, value: Any) -> None:
    names = [key for key in place if isinstance(key, str)]
    for name in reversed(names):
        value = {name: value}
    try:
        given = texts(value)
    except ValueError:  # a number of more digits than Python writes cannot be a text
        return
    outcome(DEFAULT, given)


def test_a_block_within_itself_is_one_line() -> None:
    """YAML can write it: ``training: &a {prompts: *a}``."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config["training"]["prompts"] = config["training"]
    line = str(outcome(config))
    assert line.startswith("config: training.prompts: a value that cannot be shown found")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("evaluation", "prompts", "other_openings"), ["y" * 200_000]),  # longer than a command
        (("concept_words",), ["cat", *(f"cat{n}" for n in range(1000))]),
        (("training", "checkpoint_seconds"), 1e308),
        (("training", "kl_factors"), [1e12, 1e-300]),
    ],
)
def test_large_but_possible(place: tuple, value: Any) -> None:
    config = copy.deepcopy(DEFAULT)
    put(config, place, value)
    study = Study.check(config)
    use(study)
    assert SCHEMA.is_valid(config)
