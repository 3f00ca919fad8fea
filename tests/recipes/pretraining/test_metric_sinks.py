"""Rows go on to other programs, which are asked for before training and never stop it."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.toy_runs import metrics_of, settings_with

from bertsmith.cli import main
from bertsmith.config import WatchConfig
from bertsmith.errors import MissingInputError
from bertsmith.recipes.pretraining.metric_sinks import OPENERS, Mirror
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.recipes.pretraining.settings import PretrainSettings

ROWS: list[dict[str, Any]] = [
    {"step": 0, "split": "start", "mlm_loss": 3.5, "tokens": 0, "seconds": 0.1, "time": "now"},
    {"step": 3, "split": "train", "mlm_loss": 3.0, "tokens": 90, "seconds": 0.5, "time": "now"},
    {"step": 3, "split": "filled", "filled": [{"text": "a"}], "tokens": 90},
]
SENT = [
    ({"start/mlm_loss": 3.5, "start/seconds": 0.1}, 0),
    ({"train/mlm_loss": 3.0, "train/seconds": 0.5}, 3),
]

# What each package is asked for, as its documentation has it; a call is kept as (name, arguments).
STAND_INS = {
    "wandb": """
calls = []
class Run:
    def log(self, data, step): calls.append(("log", data, step))
    def finish(self): calls.append(("finish",))
def init(project, group, name, dir, config):
    calls.append(("init", name, config))
    return Run()
""",
    "mlflow": """
calls = []
def set_experiment(experiment_name): pass
def start_run(run_name): calls.append(("init", run_name))
def log_params(params): calls[-1] += (params,)
def log_metrics(metrics, step): calls.append(("log", metrics, step))
def end_run(): calls.append(("finish",))
""",
    "trackio": """
calls = []
def init(project, name, config, resume): calls.append(("init", name, config))
def log(metrics, step): calls.append(("log", metrics, step))
def finish(): calls.append(("finish",))
""",
}


def stand_in(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, name, module)


def watched(log_to: Any, **run: Any) -> PretrainSettings:
    settings = settings_with(steps=4, **run)
    return PretrainSettings(**(vars(settings) | {"watch": WatchConfig(log_to=log_to)}))


@pytest.mark.parametrize("name", STAND_INS)
def test_rows_are_sent_on_as_figures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(name, STAND_INS[name], tmp_path, monkeypatch)
    with Mirror(name, tmp_path / "run", {"seed": 3}, pytest.fail) as mirror:
        for row in ROWS:
            mirror.log(row)
    first, *logged, last = sys.modules[name].calls
    assert first[:2] == ("init", "run")
    assert {key: str(value) for key, value in first[2].items()} == {"seed": "3"}
    assert [call[1:] for call in logged] == SENT
    assert last == ("finish",)


@pytest.mark.parametrize("name", OPENERS)
def test_what_is_not_installed_is_said_before_anything_is_done(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    assert main(["pretrain", "nowhere.txt", "--out", str(tmp_path / "run"), "--log-to", name]) == 66
    said = capsys.readouterr().err
    assert f"log_to is {name}, but the package {name} is not installed" in said
    assert f"pip install 'bertsmith[{name}]'" in said
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_opened_is_an_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("trackio", "def init(**_): raise ConnectionError('no way')", tmp_path, monkeypatch)
    with pytest.raises(MissingInputError, match=r"cannot be opened \(ConnectionError: no way\)"):
        Mirror("trackio", tmp_path, {}, pytest.fail)


def test_a_sink_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path,
    toy_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = STAND_INS["trackio"].replace(
        'calls.append(("log", metrics, step))', "raise TimeoutError('gone')"
    )
    stand_in("trackio", failing, tmp_path, monkeypatch)
    out = tmp_path / "run"
    result = pretrain([str(toy_corpus)], out, watched("trackio", log_every=1))
    assert result["steps"] == 4
    assert capsys.readouterr().err.count("warning: trackio fails (TimeoutError: gone)") == 1
    assert [row["step"] for row in metrics_of(out) if row["split"] == "train"] == [1, 2, 3, 4]


def test_tensorboard_shows_the_rows(tmp_path: Path, toy_corpus: Path) -> None:
    if find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    pretrain([str(toy_corpus)], out, watched("tensorboard", log_every=1))
    for step in (3, 4):  # as if it had been killed after step 2, and what follows is logged again
        shutil.rmtree(out / f"checkpoints/step-{step:08d}")
    pretrain([str(toy_corpus)], out, watched("tensorboard", log_every=1), resume=True)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    expected = [row for row in metrics_of(out) if row["split"] == "train"]
    found = events.Scalars("train/mlm_loss")
    assert [event.step for event in found] == [row["step"] for row in expected]
    assert [event.value for event in found] == pytest.approx([row["mlm_loss"] for row in expected])
