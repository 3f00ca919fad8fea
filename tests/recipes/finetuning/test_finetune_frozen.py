"""A tagger on frozen features is trained by a command, kept in a folder, and used like others."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tests.recipes.finetuning.test_finetune_tag import WORDS, rows_of, write_conll
from tests.report.reading import read_page
from tests.tiny import write_tiny_encoder

from bertsmith.cli import main
from bertsmith.config import PAPERS_FEATURES, FeatureTaggerConfig, FinetuneConfig, OptimizerConfig
from bertsmith.errors import CheckpointError, ConfigError
from bertsmith.folder import load_encoder, load_model
from bertsmith.interop.conversion import convert
from bertsmith.model.bilstm import BertForFeatureTagging
from bertsmith.predict import load
from bertsmith.predictions import predict_file
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.frozen import finetune_frozen

SHORT = FinetuneConfig(epochs=4, batch_size=16, max_length=12, threads=1)
SMALL = ["--epochs", "4", "--batch-size", "16", "--max-length", "12", "--threads", "1"]
SMALL += ["--lstm-size", "16", "--lstm-layers", "1", "--lstm-dropout", "0"]
SMALL += ["--learning-rate", "0.02"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with an encoder of two blocks, train.conll and dev.conll."""
    place = tmp_path_factory.mktemp("frozen")
    write_tiny_encoder(place / "encoder", WORDS, seed=1)
    write_conll(place / "train.conll", rows_of(120, 0))
    write_conll(place / "dev.conll", rows_of(40, 1))
    return place


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        *("finetune", "tag", str(folder / "train.conll"), "--model", str(folder / "encoder")),
        *("--out", str(out), "--dev", str(folder / "dev.conll"), *SMALL, *more),
    ]


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    out = folder / "run"
    assert main(command(folder, out, "--feature-based", "all-summed", "--json")) == 0
    return out


def test_the_names_are_those_of_table_7() -> None:
    taggers = {name: FeatureTaggerConfig(**of) for name, of in PAPERS_FEATURES.items()}  # type: ignore[arg-type]
    assert {name: (one.layers, one.combine) for name, one in taggers.items()} == {
        "embeddings": ("0", "concat"),
        "second-to-last": ("-2", "concat"),
        "last": ("-1", "concat"),
        "last-four-summed": ("-4:-1", "mix"),
        "last-four-concatenated": ("-4:-1", "concat"),
        "all-summed": ("1:", "mix"),
    }


def test_a_run_learns_and_is_kept_without_the_states(run: Path) -> None:
    model = load_model(run / "best")
    assert isinstance(model.model, BertForFeatureTagging)
    assert model.model.layers == (1, 2)
    assert model.facts["scores"]["f1"] > 0.8
    assert not (run / "states").exists()
    assert (run / "model/bertsmith.json").is_file()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in row for row in rows) == 4 * 8
    assert [row["epoch"] for row in rows if "dev" in row] == [1, 2, 3, 4]
    page = read_page((run / "report.html").read_text("utf-8"))
    assert "--feature-based all-summed" in page.text


def test_scores_of_the_best_epoch_are_those_of_evaluate(run: Path, folder: Path) -> None:
    """Training reads states from disk; the folder's model computes them anew."""
    found = evaluate_task(run / "best", folder / "dev.conll")
    scores = load_model(run / "best").facts["scores"]
    assert {name: found[name] for name in scores} == pytest.approx(scores)


def test_the_encoder_is_the_one_that_was_given(run: Path, folder: Path) -> None:
    given = load_encoder(folder / "encoder").model.state_dict()
    kept = load_encoder(run / "best").model.state_dict()
    assert kept.keys() == {name for name in given if not name.startswith("pooler.")}
    assert all(torch.equal(kept[name], given[name]) for name in kept)


def test_files_and_lists_of_words_are_tagged(run: Path, folder: Path, tmp_path: Path) -> None:
    said = predict_file(load(run / "best"), folder / "dev.conll", tmp_path / "answers.conll")
    assert said["rows"] == 40
    words = [line.split("\t")[0] for line in (tmp_path / "answers.conll").read_text().splitlines()]
    assert "ann" in words
    found = load(run / "best", engine="auto", sample=["ann"])
    assert found.engine_said == {"engine": "torch", "precision": "float32"}


def test_the_result_has_the_keys_of_finetune_tag(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results: list[dict[str, Any]] = []
    few = ["--json", "--epochs", "1", "--max-length", "12"]
    for number, more in enumerate(([], ["--feature-based", "last", "--lstm-size", "8"])):
        words = command(folder, tmp_path / str(number))
        words = [*words[: words.index("--epochs")], *more, *few]
        assert main(words) == 0
        results.append(json.loads(capsys.readouterr().out))
    plain, frozen = results
    assert frozen.keys() - plain.keys() == {"layers"}
    assert plain.keys() <= frozen.keys()
    assert frozen["layers"] == [2]


def test_intents_are_left_out_and_that_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = Random(0)
    rows = [
        {"words": words, "tags": tags, "intent": rng.choice(["go", "stay"])}
        for words, tags in rows_of(40, 3)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tagger = FeatureTaggerConfig(layers="-1", lstm_size=8, lstm_layers=1)
    finetune_frozen(path, folder / "encoder", tmp_path / "run", SHORT, tagger)
    assert "intents are not learnt on frozen features" in capsys.readouterr().err
    assert load_model(tmp_path / "run/best").facts["intents"] == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--feature-based", "last", "--seeds", "3"], "seeds is given with feature_based"),
        (["--feature-based", "last", "--crf"], "crf is True, which is for fine-tuning"),
        (["--feature-based", "last", "--layer-decay", "0.9"], "layer_decay is 0.9, which is"),
        (["--feature-based", "last", "--layers", "9"], "the model has 2 blocks"),
        ([], "lstm_dropout is of a tagger on frozen features; expected feature_based"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path,
    tmp_path: Path,
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(folder, tmp_path / "run", *more)) == 2
    assert message in capsys.readouterr().err


def test_other_engines_and_formats_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torch alone gives"):
        load(run / "best", engine="onnxruntime")
    for to in ("onnx", "tf1"):
        with pytest.raises(ConfigError):
            convert(run / "best", to, tmp_path / to)
    assert convert(run / "best", "hf", tmp_path / "hf")["max_abs_difference"] == 0


def test_a_config_that_describes_no_tagger_is_refused(run: Path, tmp_path: Path) -> None:
    from bertsmith.model.published import config_of, model_of

    published = json.loads((run / "best/config.json").read_text())
    assert published["model_type"] == "bert-features"  # which transformers does not open by mistake
    config = config_of(published, "config.json")
    for shape in (None, {"layers": "9"}, {"layers": "x"}, {"depth": 3}):
        with pytest.raises(CheckpointError, match=r"config\.json: feature_tagger"):
            model_of(published | {"feature_tagger": shape}, config, {}, "config.json")


def test_muon_is_not_for_a_bilstm(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="optimizer is 'muon'"):
        finetune_frozen(
            folder / "train.conll",
            folder / "encoder",
            tmp_path / "run",
            SHORT,
            FeatureTaggerConfig(),
            OptimizerConfig(optimizer="muon"),
        )
