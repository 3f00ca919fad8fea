"""Settings are checked when made; a mistake names where it stands and what was meant."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.config import (
    SIZES,
    BertConfig,
    ExamplesConfig,
    OptimizerConfig,
    PretrainConfig,
    bert_of_size,
    read_settings_file,
    seconds_of,
    setting_names,
)
from bertsmith.errors import BertsmithError, ConfigError, DataError, MissingInputError


def test_defaults_are_bert_base() -> None:
    assert BertConfig() == bert_of_size("base")


@pytest.mark.parametrize(
    ("size", "layers", "hidden", "heads"),
    [("tiny", 2, 128, 2), ("mini", 4, 256, 4), ("large", 24, 1024, 16)],
)
def test_published_sizes(size: str, layers: int, hidden: int, heads: int) -> None:
    config = bert_of_size(size)
    assert (config.num_hidden_layers, config.hidden_size) == (layers, hidden)
    assert (config.num_attention_heads, config.intermediate_size) == (heads, 4 * hidden)


def test_any_size_can_be_spelt_out() -> None:
    assert bert_of_size("L6-H384-A12").num_attention_heads == 12
    assert bert_of_size("l6-h384", vocab_size=99).vocab_size == 99


@pytest.mark.parametrize("size", ["bas", "", "L6", "L6-H384-A", "L-1-H3", "L6-H384-A12 "])
def test_unknown_size_names_the_nearest(size: str) -> None:
    with pytest.raises(ConfigError, match="there is no size"):
        bert_of_size(size)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"hidden_size": "768"},
        {"hidden_size": 768.0},
        {"num_attention_heads": 0},
        {"num_attention_heads": 7},
        {"vocab_size": 10**12},
        {"vocab_size": True},
        {"hidden_dropout_prob": 1.0},
        {"hidden_dropout_prob": math.nan},
        {"hidden_act": "swish"},
    ],
)
def test_impossible_shape_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        BertConfig(**change)  # type: ignore[arg-type]


def test_unknown_setting_names_the_nearest_known_one() -> None:
    with pytest.raises(
        ConfigError,
        match=r"run\.json: BertConfig has no setting 'hiden_size'; did you mean 'hidden_s",
    ):
        BertConfig.from_mapping({"hiden_size": 3}, where="run.json")


def test_settings_survive_json() -> None:
    settings = replace(ExamplesConfig(), masking="static", max_predictions_per_seq=7)
    plain = json.loads(json.dumps(settings.to_mapping()))
    assert ExamplesConfig.from_mapping(plain, where="here") == settings


def test_steps_and_budget_contradict() -> None:
    with pytest.raises(ConfigError, match="choose one"):
        PretrainConfig(steps=3, budget="3m")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("30m", 1800.0), ("1.5h", 5400.0), ("2d", 172800.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "3 m", "-3m", "0s", "3w", "1e3s", "٣m"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a duration"):
        seconds_of(text)


@given(
    st.dictionaries(
        st.text(max_size=12),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none()),
        max_size=4,
    )
)
def test_any_mapping_gives_settings_or_a_clear_error(values: dict[str, object]) -> None:
    try:
        BertConfig.from_mapping(values, where="config.json")
    except BertsmithError as error:
        assert str(error).startswith("config.json: ")


def test_settings_files(tmp_path: Path) -> None:
    toml, damaged = tmp_path / "run.toml", tmp_path / "damaged.toml"
    toml.write_text("learning-rate = 1e-4\nsteps = 3\n")
    damaged.write_text("steps = \n")
    assert read_settings_file(toml) == {"learning-rate": 1e-4, "steps": 3}
    with pytest.raises(DataError, match="damaged.toml"):
        read_settings_file(damaged)
    with pytest.raises(MissingInputError, match="nowhere.toml"):
        read_settings_file(tmp_path / "nowhere.toml")


def test_every_size_is_a_shape() -> None:
    assert all(bert_of_size(size) for size in SIZES)


def test_the_settings_of_the_examples_are_settings() -> None:
    path = Path(__file__).parent.parent / "examples/an_hour.toml"
    values = read_settings_file(path)
    stages = (PretrainConfig, ExamplesConfig, OptimizerConfig)
    for stage in stages:
        known = {name: values[name] for name in setting_names(stage) if name in values}
        assert stage.from_mapping(known, where=str(path)) != stage()
    assert set(values) <= {name for stage in stages for name in setting_names(stage)}
