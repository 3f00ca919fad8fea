"""Flags win over the settings file, the file over the defaults; mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from cyclopts import App, CycloptsError

from bertsmith.config import ColumnsConfig, ExamplesConfig, Help, OptimizerConfig
from bertsmith.errors import ConfigError
from bertsmith.flags import Given, add_command


def smith(
    given: Given,
    text: Annotated[list[str], Help("texts")],
    *,
    out: Annotated[Path, Help("folder")],
    top: Annotated[int, Help("how many")] = 5,
) -> dict[str, Any]:
    """Smiths."""
    return {
        "text": text,
        "out": out,
        "top": top,
        "examples": given.stage(ExamplesConfig),
        "optimizer": given.stage(OptimizerConfig, learning_rate=0.5),
        "columns": given.stage(ColumnsConfig),
    }


def run(*words: str) -> tuple[dict[str, Any], bool]:
    shown: list[tuple[dict[str, Any], bool]] = []
    app = App(name="t")
    stages = (ExamplesConfig, OptimizerConfig, ColumnsConfig)
    add_command(app, smith, stages, lambda *args: shown.append(args))
    app(["smith", *words], exit_on_error=False, print_error=False, result_action="return_value")
    return shown[0]


def test_flags_become_settings() -> None:
    result, as_json = run("a", "b", "--out", "x", "--sequence-length", "64", "--json")
    assert as_json
    assert result["text"] == ["a", "b"]
    assert result["out"] == Path("x")
    assert result["top"] == 5
    assert result["examples"].sequence_length == 64
    assert result["optimizer"].learning_rate == 0.5


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('out = "y"\nsequence-length = 32\nbias_correction = true\ntext = ["c"]\n')
    result, _ = run("--config", str(path), "--sequence-length", "16", "--no-bias-correction")
    assert result["out"] == Path("y")
    assert result["text"] == ["c"]
    assert result["examples"].sequence_length == 16
    assert result["optimizer"].bias_correction is False


def test_a_flag_that_says_no_is_taken_back_without_a_second_no(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("no_header = true\n")
    given = ("a", "--out", "x", "--config", str(path))
    assert run(*given)[0]["columns"].no_header
    assert not run(*given, "--header")[0]["columns"].no_header


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sequence_lenth = 3", r"no setting 'sequence_lenth' here; did you mean 'sequence_length'"),
        ("sequence_length = 3", r"sequence_length is 3; expected greater than or equal to 8"),
        ('sequence_length = "x"', r"sequence_length is 'x'; expected a valid integer"),
        ('top = "x"', r"top is 'x'; expected"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(line)
    with pytest.raises(ConfigError, match=message) as caught:
        run("a", "--out", "x", "--config", str(path))
    assert str(caught.value).startswith(str(path))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="--out is missing"):
        run("a")
    with pytest.raises(ConfigError, match="TEXT is missing"):
        run("--out", "x")


def test_unknown_flags_are_refused() -> None:
    with pytest.raises(CycloptsError, match="--sequence-length"):
        run("a", "--out", "x", "--sequence-lenght", "3")
