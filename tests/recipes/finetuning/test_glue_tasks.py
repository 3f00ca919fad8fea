"""A GLUE task by its name: fine-tuned, evaluated and predicted for the leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from tests.recipes.finetuning.test_finetune import SHORT, small_tokenizer, write_encoder

from bertsmith.cli import main
from bertsmith.config import ColumnsConfig, OptimizerConfig, TaskConfig
from bertsmith.data.glue import GLUE
from bertsmith.embeddings import embed_file
from bertsmith.errors import ConfigError, DataError
from bertsmith.folder import load_model, save_model
from bertsmith.model.task_heads import BertForClassification, BertForRegression
from bertsmith.predict import load
from bertsmith.predictions import predict_file
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.finetune import finetune
from bertsmith.tasks.task import find_task

FAST = OptimizerConfig(learning_rate=2e-3)
NLI = GLUE["MNLI"].labels


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "model")


def texts(count: int, seed: int) -> list[str]:
    rng = Random(seed)
    return [" ".join(rng.choices(["good", "bad", "film", "plot", "so"], k=5)) for _ in range(count)]


def write_tsv(path: Path, header: str, rows: list[tuple[Any, ...]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(map(str, row)) for row in rows]
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n")
    return path


def write_cola(folder: Path) -> Path:
    for name, count in (("train", 120), ("dev", 40)):
        rows = [("x", int("good" in text), "", text) for text in texts(count, count)]
        write_tsv(folder / "CoLA" / f"{name}.tsv", "", rows)
    write_tsv(folder / "CoLA/test.tsv", "index\tsentence", list(enumerate(texts(7, 7))))
    return folder


def model_for(folder: Path, name: str) -> Path:
    """Returns a folder with random weights and the labels of a GLUE task."""
    glue = GLUE[name]
    config = load_model(write_encoder(folder / "encoder")).config
    torch.manual_seed(0)
    model = BertForClassification(config, len(glue.labels)) if glue.labels else None
    facts = {"task": glue.kind, "labels": list(glue.labels), "max_length": 24}
    save_model(folder / "model", model or BertForRegression(config), small_tokenizer(), facts)
    return folder / "model"


def test_cola_is_learnt_by_its_name_and_its_metric_chooses_the_epoch(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_cola(tmp_path / "glue")
    words = ["finetune", "classify", folder, "--glue", "cola", "--model", encoder, "--json"]
    words += ["--out", tmp_path / "run", "--epochs", 3, "--max-length", 24, "--learning-rate", 2e-3]
    assert main([*map(str, words)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["train_rows"], result["dev_rows"]) == (120, 40)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert result["scores"]["mcc"] == max(row["dev"]["mcc"] for row in rows if "dev" in row)
    assert load_model(tmp_path / "run/best").facts["glue"] == "CoLA"

    best = str(tmp_path / "run/best")
    assert main(["evaluate", best, str(folder / "CoLA"), "--glue", "CoLA", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert next(iter(scores)) == "mcc"
    assert {name: scores[name] for name in result["scores"]} == pytest.approx(
        result["scores"], abs=1e-6
    )
    assert scores["rows"] == 40

    out = tmp_path / "CoLA.tsv"
    assert main(["predict", best, str(folder), "--glue", "CoLA", "--out", str(out)]) == 0
    header, *lines = out.read_text().splitlines()
    assert header == "index\tprediction"
    assert [line.split("\t")[0] for line in lines] == [str(n) for n in range(7)]
    assert {line.split("\t")[1] for line in lines} <= {"0", "1"}


def test_a_best_epoch_is_chosen_by_the_official_metric(tmp_path: Path, encoder: Path) -> None:
    for name, file, glue in (("regress", "STS-B", "spearman"), ("classify", "MRPC", "f1")):
        task = GLUE[file]
        header = "\t".join((task.text, task.pair or "", task.label))
        for part, count in (("train", 60), ("dev", 30)):
            rows = [
                (one, two, one.count("good") if task.kind == "regress" else int("good" in one))
                for one, two in zip(texts(count, count), texts(count, count + 1), strict=True)
            ]
            write_tsv(tmp_path / file / f"{part}.tsv", header, rows)
        result = finetune(
            name, tmp_path, encoder, tmp_path / f"run-{file}", SHORT, FAST, ColumnsConfig(glue=file)
        )
        lines = (tmp_path / f"run-{file}/metrics.jsonl").read_text().splitlines()
        scores = [row["dev"][glue] for row in map(json.loads, lines) if "dev" in row]
        assert len(scores) == SHORT.epochs
        assert result["scores"][glue] == max(scores)


def test_a_wrong_kind_of_task_is_refused_before_training(tmp_path: Path, encoder: Path) -> None:
    with pytest.raises(ConfigError, match="expected the task regress, not classify"):
        finetune(
            "classify",
            tmp_path,
            encoder,
            tmp_path / "run",
            SHORT,
            columns=ColumnsConfig(glue="STS-B"),
        )
    folder = write_cola(tmp_path / "glue")
    with pytest.raises(ConfigError, match="multi_label is set, but every row of CoLA has one"):
        finetune(
            "classify",
            folder,
            encoder,
            tmp_path / "several",
            SHORT,
            columns=ColumnsConfig(glue="CoLA"),
            options=TaskConfig(multi_label=True),
        )


def test_a_label_that_is_none_of_the_tasks_is_named(tmp_path: Path) -> None:
    path = write_tsv(
        tmp_path / "dev_matched.tsv",
        "index\tsentence1\tsentence2\tgold_label",
        [(0, "a", "b", "neutral"), (1, "a", "b", "-")],
    )
    source = find_task("classify").read(path, ColumnsConfig(glue="MNLI"), None, labelled=True)
    with pytest.raises(DataError, match=r"dev_matched\.tsv:3: the label '-' is none of MNLI's"):
        list(source.examples)


def test_glue_and_columns_of_choices_are_refused_where_they_mean_nothing(
    tmp_path: Path, encoder: Path
) -> None:
    with pytest.raises(ConfigError, match="glue is for tasks; to embed texts"):
        embed_file(load(encoder), tmp_path, tmp_path / "a.npy", ColumnsConfig(glue="CoLA"))
    with pytest.raises(ConfigError, match="stem_column is for the task choose"):
        find_task("classify").read(tmp_path, ColumnsConfig(stem_column="a"), None, labelled=True)


def test_columns_of_glue_are_not_named_by_flags() -> None:
    with pytest.raises(ConfigError, match="glue is 'CoLA' and text_column is 'text'; expected one"):
        ColumnsConfig(glue="CoLA", text_column="text")


def test_mnli_is_evaluated_on_both_parts_and_each_is_predicted_by_its_name(tmp_path: Path) -> None:
    header = "index\tsentence1\tsentence2"
    for number, part in enumerate(("matched", "mismatched")):
        rows = [(n, one, "film") for n, one in enumerate(texts(30 + number, number))]
        labelled = [(*row, NLI[row[0] % 3]) for row in rows]
        write_tsv(tmp_path / f"MNLI/dev_{part}.tsv", f"{header}\tgold_label", labelled)
        write_tsv(tmp_path / f"MNLI/test_{part}.tsv", header, rows)
    write_tsv(tmp_path / "AX/diagnostic.tsv", header, [(0, "good", "bad"), (1, "bad", "so")])
    folder = model_for(tmp_path, "MNLI")
    scores = evaluate_task(folder, tmp_path, ColumnsConfig(glue="MNLI"))
    assert (scores["rows"], scores["rows_mm"]) == (30, 31)
    alone = evaluate_task(folder, tmp_path, ColumnsConfig(glue="MNLI-mm"))
    assert alone["accuracy"] == scores["accuracy_mm"]

    model = load(folder)
    for name, count in (("MNLI-m", 30), ("MNLI-mm", 31), ("AX", 2)):
        out = tmp_path / f"{name}.tsv"
        result = predict_file(model, tmp_path, out, ColumnsConfig(glue=name))
        assert result["rows"] == count
        answers = [line.split("\t")[1] for line in out.read_text().splitlines()[1:]]
        assert set(answers) <= set(NLI) and len(answers) == count
    with pytest.raises(ConfigError, match="which has 2 test files; .* --glue MNLI-m, then"):
        predict_file(model, tmp_path, tmp_path / "MNLI.tsv", ColumnsConfig(glue="MNLI"))


def test_a_model_with_other_labels_is_refused(tmp_path: Path) -> None:
    model = load(model_for(tmp_path, "RTE"))
    with pytest.raises(ConfigError, match="answers entailment, not_entailment; .* AX asks: contra"):
        predict_file(model, tmp_path, tmp_path / "AX.tsv", ColumnsConfig(glue="AX"))
    with pytest.raises(
        ConfigError, match=r"out is .*RTE\.csv'; expected a name that ends in \.tsv"
    ):
        predict_file(model, tmp_path, tmp_path / "RTE.csv", ColumnsConfig(glue="RTE"))


@pytest.mark.parametrize("name", ["CoLA", "STS-B", "AX"])
def test_real_test_files_become_submissions(shared_data: Path, tmp_path: Path, name: str) -> None:
    model = load(model_for(tmp_path, "MNLI" if name == "AX" else name))
    out = tmp_path / f"{name}.tsv"
    rows = predict_file(model, shared_data / "glue", out, ColumnsConfig(glue=name))["rows"]
    assert rows in GLUE[name].rows.values()
    found = [line.split("\t") for line in out.read_text().splitlines()]
    assert [int(index) for index, _ in found[1:]] == list(range(rows))
    answers = {answer for _, answer in found[1:]}
    if name == "STS-B":
        assert all(0 <= float(answer) <= 5 and len(answer) == 5 for answer in answers)
    else:
        assert answers <= set(GLUE[name].labels)


def test_official_metrics_are_those_of_scikit_learn_and_scipy() -> None:
    rng = np.random.default_rng(0)
    theirs: dict[str, Any] = {
        "mcc": metrics.matthews_corrcoef,
        "accuracy": metrics.accuracy_score,
        "f1": metrics.f1_score,  # of the label 1
        "pearson": lambda wanted, found: stats.pearsonr(wanted, found).statistic,
        "spearman": lambda wanted, found: stats.spearmanr(wanted, found).statistic,
    }
    for glue in GLUE.values():
        scorer, wanted, found = _scored(glue.kind, glue.labels, rng)
        scores = scorer.scores()
        for metric in glue.metrics:
            assert scores[metric] == pytest.approx(theirs[metric](wanted, found), rel=1e-12)


def _scored(
    kind: str, labels: tuple[str, ...], rng: np.random.Generator
) -> tuple[Any, list[Any], list[Any]]:
    """Returns a scorer that has taken in random answers, and these."""
    from bertsmith.tasks.classify import Classify
    from bertsmith.tasks.forms import Prediction
    from bertsmith.tasks.labelled import Example
    from bertsmith.tasks.regress import Regress

    task = Regress() if kind == "regress" else Classify(labels)
    scorer = task.scorer()
    wanted, found = [], []
    for _ in range(200):
        number, answer = rng.integers(0, len(labels) or 6, size=2).tolist()
        if kind == "regress":
            answer += rng.normal()
        shares = {label: float(place == answer) for place, label in enumerate(labels)}
        scorer.add(
            Example("dev.tsv:1", "a", None, labels[number] if labels else str(number)),
            Prediction(labels[answer] if labels else answer, shares),
        )
        wanted.append(number)
        found.append(answer)
    return scorer, wanted, found
