"""The report of a run holds what its metrics hold, and is made of them alone."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.toy_runs import STEPS, environment, metrics_of, settings_with
from tests.report.reading import Page, is_inert, read_page

from bertsmith.cli import main
from bertsmith.errors import DataError, MissingInputError
from bertsmith.recipes.pretraining.report import leave_report, write_report

EVIL = "<img src=x onerror=alert(1)>"


def page_of(run: Path) -> Page:
    return read_page((run / "report.html").read_text("utf-8"))


def write_rows(run: Path, rows: list[dict[str, Any]]) -> Path:
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_finished_run_leaves_a_report_with_all_its_sections(unbroken_run: Path) -> None:
    page = page_of(unbroken_run)
    assert is_inert(page)
    assert [title for title in page.headings if title != "What it was warned of"] == [
        "Where it stands",
        "How it learned",
        "What it puts behind a mask",
        "Before the first step",
        "The settings",
        "The commands",
    ]
    drawn = [str(have["aria-label"]) for tag, have in page.elements if tag == "svg"]
    assert drawn == [
        "masked pieces: loss (nats)",
        "masked pieces: accuracy",
        "next sentence: loss (nats)",
        "next sentence: accuracy",
        "learning rate",
        "gradient norm, before clipping",
        "tokens a second",
        "share of the batch that is tokens",
    ]
    last = [row for row in metrics_of(unbroken_run) if row["split"] == "held_out"][-1]
    assert f"{last['mlm_loss']:.4g}" in page.texts
    assert f"{last['mlm_accuracy']:.1%}" in page.texts


def test_the_share_of_real_tokens_is_that_of_the_budget(unbroken_run: Path) -> None:
    rows = [row for row in metrics_of(unbroken_run) if row["split"] == "train"]
    tokens, step = 0, 0
    for row in rows:
        share = (row["tokens"] - tokens) / (240 * (row["step"] - step))
        assert row["real_token_share"] == pytest.approx(share)
        assert 0.7 < share <= 1.0
        tokens, step = row["tokens"], row["step"]


def test_the_guesses_of_every_evaluation_are_shown(unbroken_run: Path) -> None:
    page = page_of(unbroken_run)
    for row in metrics_of(unbroken_run):
        for one in row.get("filled", ()):
            assert f"{one['text']}  (hidden: {one['word']})" in page.texts
            assert any(text.startswith(one["pieces"][0]) for text in page.texts)


def test_it_is_made_of_the_metrics_alone(tmp_path: Path, unbroken_run: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(unbroken_run / "metrics.jsonl", tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    page = page_of(tmp_path / "run")
    assert "The settings" not in page.headings
    assert page.count("svg") == page_of(unbroken_run).count("svg")


def test_of_a_run_without_next_sentences_there_is_no_curve_of_them(tmp_path: Path) -> None:
    rows = [
        {"step": step, "split": split, "mlm_loss": 5.0 / step, "mlm_accuracy": 0.1 * step}
        for step in range(1, 6)
        for split in ("train", "held_out")
    ]
    run = write_rows(tmp_path / "run", rows)
    write_report(run)
    page = page_of(run)
    assert page.count("svg") == 2
    assert "next sentence" not in page.text


def test_the_first_rows_of_a_run_at_work_suffice(tmp_path: Path) -> None:
    run = write_rows(tmp_path / "run", [{"step": 0, "split": "start", "mlm_loss": 3.5}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "split": "tr')
    write_report(run)
    assert "No step is logged yet." in page_of(run).texts


def test_texts_are_shown_and_not_run(tmp_path: Path) -> None:
    filled = {"text": f"{EVIL} [MASK]", "word": EVIL, "pieces": [EVIL], "shares": [1.0]}
    rows: list[dict[str, Any]] = [
        {"step": 1, "split": "train", f"{EVIL}_loss": 1.0},
        {"step": 1, "split": "filled", "filled": [filled]},
        {"step": 1, "split": "alarm", "alarm": "plateau", "message": EVIL},
    ]
    run = write_rows(tmp_path / "run", rows)
    (run / "settings.json").write_text(json.dumps({"size": EVIL, EVIL: [EVIL]}))
    write_report(run)
    assert is_inert(page_of(run))
    assert f"{EVIL} [MASK]  (hidden: {EVIL})" in page_of(run).texts


def test_of_many_evaluations_the_first_and_the_last_are_shown(tmp_path: Path) -> None:
    rows = [
        {
            "step": step,
            "split": "filled",
            "filled": [{"text": "a [MASK]", "word": "b", "pieces": [f"p{step}"], "shares": [1.0]}],
        }
        for step in range(1, 101)
    ]
    run = write_rows(tmp_path / "run", rows)
    write_report(run)
    shown = [text for text in page_of(run).texts if text.startswith("p") and "100%" in text]
    assert len(shown) == 12
    assert (shown[0], shown[-1]) == ("p1 100%", "p100 100%")


def test_a_folder_without_such_metrics_is_refused(tmp_path: Path) -> None:
    for rows in ([], [{"step": 3, "epoch": 1.0, "loss": 0.3}]):
        run = write_rows(tmp_path / f"run{len(rows)}", rows)
        with pytest.raises(MissingInputError, match="holds no metrics of a pre-training run"):
            write_report(run)


def test_a_report_that_cannot_be_written_is_said_and_no_error(tmp_path: Path) -> None:
    said: list[str] = []
    run = write_rows(tmp_path / "run", [{"step": 1, "split": "train", "mlm_loss": 3.0}])
    (run / "report.html").mkdir()
    leave_report(run, said.append)
    assert len(said) == 1
    assert "there is no report of this run" in said[0]
    (run / "metrics.jsonl").write_text("nonsense\n")
    leave_report(run, said.append)
    assert "metrics.jsonl:1: is no row" in said[1]
    with pytest.raises(DataError):
        write_report(run)


def test_the_commands_can_be_typed(unbroken_run: Path) -> None:
    page = page_of(unbroken_run)
    (lines,) = (text for text in page.texts if "--resume" in text and "--config" in text)
    again, anew = (shlex.split(line, comments=True) for line in lines.split("\n"))
    assert again == [
        *("bertsmith", "pretrain", "--config", f"{unbroken_run}/settings.json"),
        *("--out", str(unbroken_run), "--resume"),
    ]
    assert anew[:-1] == again[:-2]


def test_a_run_that_is_stopped_leaves_a_report(tmp_path: Path, toy_corpus: Path) -> None:
    """Its terminal is closed: the signal comes, and standard error has nobody to read it."""
    out, config = tmp_path / "run", tmp_path / "settings.json"
    settings = settings_with(steps=1_000_000, checkpoint_every=1_000_000, log_every=1)
    config.write_text(json.dumps(settings.to_mapping()))
    command = [sys.executable, "-m", "bertsmith", "pretrain", str(toy_corpus)]
    child = subprocess.Popen(
        [*command, "--out", str(out), "--config", str(config)],
        env=environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stderr is not None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        if (out / "metrics.jsonl").is_file() and len(metrics_of_now(out)) > 5:
            break
        time.sleep(0.05)
    child.stderr.close()
    child.send_signal(signal.SIGHUP)
    assert child.wait(60) == 75
    assert f"{metrics_of(out)[-1]['step']:,} steps, " in page_of(out).text
    assert (out / "checkpoints/latest").is_file()


def metrics_of_now(run: Path) -> list[str]:
    """Returns the whole lines of the metrics of a run at work."""
    return (run / "metrics.jsonl").read_text().split("\n")[:-1]


def test_a_finished_run_that_is_resumed_says_the_same(unbroken_run: Path) -> None:
    assert f"{STEPS} steps, " in page_of(unbroken_run).text
