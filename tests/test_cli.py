"""The user's way: each command of the README on a small corpus, and what each fault ends with."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith.cli import COMMANDS, main
from bertsmith.show import show

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a corpus, a labelled file and a model pre-trained for a few steps."""
    from pydoc_data import topics

    folder = tmp_path_factory.mktemp("workshop")
    pages = [" ".join(page.split()) for page in list(topics.topics.values())[:40]]
    (folder / "corpus.txt").write_text("\n\n".join(pages), encoding="utf-8")
    rows = [
        (page[i : i + 80], ["even", "odd"][n % 2]) for n, page in enumerate(pages) for i in (0, 80)
    ]
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    assert (
        main(
            ["pretrain", str(folder / "corpus.txt"), "--out", str(folder / "run")]
            + ["--vocab-size", "600", "--size", "L2-H32-A2", "--steps", "12", "--held-out", "0.1"]
            + ["--tokens-per-batch", "512", "--sequence-length", "32", "--workers", "1"]
            + ["--long-sequence-length", "64", "--checkpoint-every", "5", "--json"]
        )
        == 0
    )
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Returns a function that runs a command, checks that it succeeded, and returns its result."""

    def runs(*words: object) -> dict[str, Any]:
        assert main([*map(str, words), "--json"]) == 0
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return runs


def test_help_answers_without_torch() -> None:
    script = (
        "import sys; from bertsmith.cli import main; main(['pretrain', '--help']); "
        "assert not {'torch', 'numpy', 'pydantic'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("command", [function.__name__ for function, _ in COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_filters_are_counted_steps_of_prepare(workshop: Path, tmp_path: Path, run: Run) -> None:
    command = ("prepare", workshop / "corpus.txt", "--vocab", workshop / "run/vocab")
    result = run(
        *command,
        *("--out", tmp_path / "out", "--language", "en"),
        *("--filters", "near-empty,repeated,wrong-language", "--min-document-words", 50),
    )
    assert list(result["filtered"]) == ["near-empty", "repeated", "wrong-language"]
    assert result["filtered"]["near-empty"].keys() == {"lines", "documents", "bytes"}
    words = [*map(str, command), "--out", str(tmp_path / "other")]
    assert main([*words, "--filters", "near-emtpy"]) == 2
    assert main([*words, "--filters", "wrong-language"]) == 2


def test_several_corpora_are_mixed_by_weight(
    workshop: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = workshop / "run/corpus"
    result = run(
        *("pretrain", corpus, corpus, "--weights", "0.7,0.3", "--out", tmp_path / "run"),
        *("--size", "L1-H16-A1", "--steps", 2, "--tokens-per-batch", 256),
        *("--sequence-length", 32, "--long-sequence-share", 0),
    )
    assert result["steps"] == 2
    words = ["pretrain", str(corpus), "--vocab", str(workshop / "run/vocab"), "--vocab-size", "600"]
    assert main([*words, "--out", str(tmp_path / "other")]) == 2
    assert "vocab and vocab_size is 600; expected one of them" in capsys.readouterr().err


def test_a_damaged_shard_ends_with_its_status_unless_skipped(
    workshop: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    words = ("--shard-pieces", 1000, "--workers", 1, "--out", corpus)
    run("prepare", workshop / "corpus.txt", "--vocab", workshop / "run/vocab", *words)
    shard = corpus / "train-00001.pieces.npy"
    content = bytearray(shard.read_bytes())
    content[-7] ^= 1
    shard.write_bytes(content)
    command = ["pretrain", corpus, "--out", tmp_path / "run", "--size", "L1-H16-A1"]
    command += ["--steps", 2, "--tokens-per-batch", 256, "--long-sequence-share", 0]
    command += ["--sequence-length", 32]
    assert main([*map(str, command)]) == 65
    assert "train-00001.pieces.npy" in capsys.readouterr().err
    result = run(*command, "--resume", "--skip-bad-shards")
    assert result["lost_shards"] == 1
    assert result["lost_pieces"] > 0


def test_vocab_then_prepare(workshop: Path, tmp_path: Path, run: Run) -> None:
    corpus = workshop / "corpus.txt"
    vocabulary = run("vocab", corpus, "--out", tmp_path / "v", "--size", 600, "--workers", 1)
    assert vocabulary.keys() >= {"vocab_size", "seconds", "sha256", "out"}
    assert vocabulary["vocab_size"] == 600
    prepared = run("prepare", corpus, "--vocab", tmp_path / "v", "--out", tmp_path / "s")
    assert prepared.keys() >= {"documents", "sentences", "tokens", "bytes", "seconds", "out"}
    assert prepared["peak_rss_mb"] > 0


def test_a_run_leaves_what_the_design_names(workshop: Path) -> None:
    folder = workshop / "run"
    assert (folder / "metrics.jsonl").is_file()
    assert {path.name for path in (folder / "checkpoints").glob("step-*")} >= {"step-00000012"}
    assert (folder / "model" / "bertsmith.json").is_file()


def test_evaluate_a_pretrained_model(workshop: Path, run: Run) -> None:
    result = run("evaluate", workshop / "run/model", workshop / "corpus.txt")
    assert result.keys() >= {"mlm_loss", "perplexity", "mlm_accuracy", "nsp_accuracy"}


def test_fill(workshop: Path, run: Run) -> None:
    result = run("fill", workshop / "run/model", "The [MASK] statement is a [MASK].", "--top", 3)
    assert [len(guesses) for guesses in result["predictions"]] == [3, 3]
    assert result["predictions"][0][0].keys() == {"piece", "probability"}


def test_embed(workshop: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "texts.txt").write_text("a first text\nand a second\n")
    result = run(
        "embed", workshop / "run/model", tmp_path / "texts.txt", "--out", tmp_path / "v.npy"
    )
    assert result.keys() >= {"rows", "dimensions", "seconds", "tokens_per_second"}
    assert np.load(tmp_path / "v.npy", allow_pickle=False).shape == (2, 32)


def test_finetune_evaluate_and_predict(workshop: Path, tmp_path: Path, run: Run) -> None:
    rows, model = workshop / "train.csv", workshop / "run/model"
    result = run(
        "finetune", "classify", rows, "--model", model, "--out", tmp_path / "c", "--epochs", 1
    )
    assert result.keys() >= {"scores", "best_epoch", "seconds", "tokens_per_second", "out"}
    best = tmp_path / "c" / "best"
    assert run("evaluate", best, rows).keys() >= {"accuracy", "f1", "mcc"}
    sample = tmp_path / "sample.csv"
    sample.write_text("text,label\n")
    predicted = run("predict", best, rows, "--out", tmp_path / "answers.csv")
    assert predicted["rows"] == 80
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 80


def test_inspect_a_size_and_a_model(workshop: Path, run: Run) -> None:
    for subject in ("base", workshop / "run/model"):
        result = run("inspect", subject)
        assert result.keys() >= {"parameters", "flops_per_token", "memory_bytes"}


def test_env(run: Run) -> None:
    assert run("env")["cores"] >= 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["vocab", "nowhere.txt", "--out", "v"], 66, "nowhere.txt"),
        (["pretrain", "--out", "r"], 2, "DATA is missing"),
        (["pretrain", "x", "--out", "r", "--steps", "0"], 2, "steps is 0"),
        (["fill", "nowhere", "a [MASK]"], 66, "nowhere"),
        (["inspect", "bass"], 2, "base"),
        (["inspect", "bert" * 100], 66, "bertbert...: no file system here takes so long a name"),
        (["doctor", "x" * 300 + ".csv"], 66, "xxx...: no file system here takes so long a name"),
    ],
)
def test_faults_end_with_their_status(
    words: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == status
    assert message in capsys.readouterr().err


def test_a_second_run_in_the_same_folder_is_refused(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", str(workshop / "corpus.txt"), "--out", str(workshop / "run")]
    assert main([*words, "--vocab-size", "600"]) == 73
    assert "--resume" in capsys.readouterr().err


def test_the_doctor_prints_what_it_found_and_ends_with_65_for_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = "text,label\n" + "".join(f"row {n} is here,{'ab'[n % 2]}\n" for n in range(20))
    for text, status in ((sound, 0), (sound + "one more row,\n", 65)):
        (tmp_path / "train.csv").write_text(text)
        assert main(["doctor", str(tmp_path / "train.csv"), "--json"]) == status
        found = json.loads(capsys.readouterr().out)
        assert found["ok"] == (status == 0)
        assert any(one["severity"] == "error" for one in found["findings"]) == (status == 65)


def test_findings_are_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.csv"
    path.write_text(
        "text,label\n" + "".join(f"row {n},{'ab'[n % 2]}\n" for n in range(20)) + "x,\n"
    )
    main(["doctor", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert (
        f"findings 1  error | 1 row has no label | {path}:22 | fill the label or drop" in lines[2]
    )


def test_what_is_deep_in_a_result_shares_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show({"scores": {"f1": 0.5}, "types": {"LOC": {"precision": 0.25, "wanted": 3}}}, False)
    assert capsys.readouterr().out.split("\n") == [
        "scores.f1  0.5",
        "types.LOC  precision 0.25, wanted 3",
        "",
    ]


def test_a_rate_has_a_short_name_and_says_where_it_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["finetune", "classify", "x.csv", "--model", "nowhere", "--out", "y", "--lr", "-1"]
    assert main(words) == 66  # the model is looked for first
    assert main(["finetune", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "[default: by the recipe and the encoder's width]" in told
    assert "[default: 128; for answer 384]" in told


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("place", ["gone", "full", "closed"])
def test_a_result_that_nobody_can_read_ends_quietly(place: str, as_json: bool) -> None:
    """As in `| head -0`, `> /dev/full`, and with nobody at standard error either."""
    command = [sys.executable, "-m", "bertsmith", "inspect", "tiny", *["--json"] * as_json]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as gone, open("/dev/full", "wb") as full:
        output = gone if place == "gone" else full
        error = gone if place == "closed" else subprocess.PIPE
        done = subprocess.run(command, stdout=output, stderr=error, text=True)
    assert done.returncode == (0 if place == "gone" else 74)
    if place == "gone":
        assert done.stderr == ""
    elif place == "full":
        assert done.stderr == (
            "bertsmith: standard output: the result cannot be written (No space left on device); "
            "what the command was to do is done\n"
        )


def test_convert_goes_to_googles_format_and_back(workshop: Path, tmp_path: Path, run: Run) -> None:
    model = workshop / "run/model"
    there = run("convert", model, "--to", "tf1", "--out", tmp_path / "google")
    back = run("convert", tmp_path / "google", "--to", "hf", "--out", tmp_path / "back")
    assert there["max_abs_difference"] == back["max_abs_difference"] == 0.0
    weights = [folder / "model.safetensors" for folder in (model, tmp_path / "back")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_convert_says_why_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path), "--to", "tf1", "--out", str(tmp_path / "out")]) == 66
    assert "config.json: there is no such file" in capsys.readouterr().err
