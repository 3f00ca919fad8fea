"""Labels that have a column of 0 and 1 each are learnt, scored and written back in such columns."""

from __future__ import annotations

import csv
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.recipes.finetuning.test_finetune import FAST, WORDS, write_encoder, write_rows

from bertsmith.config import ColumnsConfig, FinetuneConfig, TaskConfig
from bertsmith.errors import ConfigError, DataError, MissingInputError
from bertsmith.predict import load
from bertsmith.predictions import predict_file
from bertsmith.recipes.doctor import doctor
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.finetune import finetune

LABELS = ["toxic", "obscene", "threat"]  # no row has the last one
COLUMNS = ColumnsConfig(label_column=",".join(LABELS))
SEVERAL = TaskConfig(multi_label=True)
CONFIG = FinetuneConfig(epochs=8, batch_size=8, max_length=16, threads=1, restarts=0)


def comments(count: int, seed: int, marks: str = "01") -> list[dict[str, Any]]:
    """Returns rows that are toxic where words are 'bad', and obscene where some are 'awful'."""
    rng = Random(seed)
    rows = []
    for number in range(count):
        words = rng.choices(WORDS[6:], k=3)
        words += [word for word in ("bad", "awful") if rng.random() < 0.5] * 3
        has = ["bad" in words, "awful" in words, False]
        rng.shuffle(words)
        spelt = {label: marks[one] for label, one in zip(LABELS, has, strict=True)}
        rows.append({"id": f"c{number}", "comment_text": " ".join(words)} | spelt)
    return rows


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with rows, an encoder and a model that was fine-tuned on them."""
    folder = tmp_path_factory.mktemp("comments")
    write_encoder(folder / "encoder")
    train = write_rows(folder / "train.csv", comments(160, 0))
    dev = write_rows(folder / "dev.csv", comments(60, 1))
    run = folder / "run"
    result = finetune(
        "classify", train, folder / "encoder", run, CONFIG, FAST, COLUMNS, SEVERAL, dev=dev
    )
    # Whoever says the same of every row has 0.67 at best, where that is both labels.
    assert result["scores"]["f1_micro"] > 0.75
    test = [{name: row[name] for name in ("id", "comment_text")} for row in comments(60, 1)]
    write_rows(folder / "test.csv", test)
    return folder


def test_a_model_remembers_the_columns_in_their_order_and_is_scored_on_them(workshop: Path) -> None:
    facts = load(workshop / "run/best").facts
    assert facts["labels"] == facts["columns"]["labels"] == LABELS
    scores = evaluate_task(workshop / "run/best", workshop / "dev.csv")
    assert {name: scores[name] for name in facts["scores"]} == pytest.approx(
        facts["scores"], abs=1e-6
    )
    assert scores["columns"].endswith("labels from columns 'toxic', 'obscene', 'threat'")
    with pytest.raises(MissingInputError, match=r"test\.csv: label_column is 'toxic', which is"):
        evaluate_task(workshop / "run/best", workshop / "test.csv")


def test_predictions_stand_in_the_same_columns_and_can_be_read_again(workshop: Path) -> None:
    model = load(workshop / "run/best")
    predict_file(model, workshop / "test.csv", workshop / "out.csv")
    rows = rows_in(workshop / "out.csv")
    assert list(rows[0]) == [
        "id",
        *LABELS,
        *(f"probability_{label}" for label in LABELS),
        "was_cut",
    ]
    for row in rows:
        for label in LABELS:
            assert row[label] == str(int(float(row[f"probability_{label}"]) > 0.5))
    texts = rows_in(workshop / "test.csv")
    again = [text | row for text, row in zip(texts, rows, strict=True)]
    assert (
        evaluate_task(workshop / "run/best", write_rows(workshop / "again.csv", again), COLUMNS)[
            "accuracy"
        ]
        == 1.0
    )


def test_a_sample_submission_is_filled_with_probabilities(workshop: Path) -> None:
    ids = [row["id"] for row in rows_in(workshop / "test.csv")][::-1]
    empty = dict.fromkeys(LABELS, "0.5")
    sample = write_rows(workshop / "sample.csv", [{"id": name} | empty for name in ids])
    model = load(workshop / "run/best")
    predict_file(model, workshop / "test.csv", workshop / "out.csv")
    predict_file(model, workshop / "test.csv", workshop / "sent.csv", like=sample)
    shares = {row["id"]: row for row in rows_in(workshop / "out.csv")}
    sent = rows_in(workshop / "sent.csv")
    assert [row["id"] for row in sent] == ids and list(sent[0]) == ["id", *LABELS]
    for row in sent:
        assert [row[one] for one in LABELS] == [
            shares[row["id"]][f"probability_{one}"] for one in LABELS
        ]


@pytest.mark.parametrize("marks", [["0.0", "1.0"], ["false", "True"]])
def test_the_doctor_counts_labels_however_they_are_marked(tmp_path: Path, marks: Any) -> None:
    path = write_rows(tmp_path / "train.csv", comments(40, 0, marks))
    rows = comments(40, 0)
    result = doctor(path, columns=COLUMNS, options=SEVERAL)
    toxic, obscene = (sum(row[label] == "1" for row in rows) for label in LABELS[:2])
    said = [one["what"] for one in result["findings"]]
    assert result["ok"]
    assert any(f"toxic ({toxic})" in one and f"obscene ({obscene})" in one for one in said)


def test_what_is_neither_0_nor_1_is_named_with_its_row(tmp_path: Path, workshop: Path) -> None:
    rows = comments(20, 0)
    rows[3]["obscene"] = "2"
    path = write_rows(tmp_path / "train.csv", rows)
    message = r"train\.csv:5: 'obscene' is '2'; expected 0 or 1"
    encoder, run = workshop / "encoder", tmp_path / "run"
    with pytest.raises(DataError, match=message):
        finetune("classify", path, encoder, run, CONFIG, FAST, COLUMNS, SEVERAL)
    (found,) = (one for one in doctor(path, columns=COLUMNS, options=SEVERAL)["findings"][:1])
    assert found["where"] == f"{path}:5" and found["severity"] == "error"


def test_columns_of_labels_ask_for_multi_label_and_must_be_there(
    tmp_path: Path, workshop: Path
) -> None:
    train, encoder, run = workshop / "train.csv", workshop / "encoder", tmp_path / "run"
    with pytest.raises(ConfigError, match="names 3 columns.* add --multi-label"):
        finetune("classify", train, encoder, run, CONFIG, FAST, COLUMNS)
    wrong = ColumnsConfig(label_column="toxic,obscen")
    with pytest.raises(MissingInputError, match="'obscen', which is not there.* 'obscene'"):
        finetune("classify", train, encoder, run, CONFIG, FAST, wrong, SEVERAL)
    with pytest.raises(MissingInputError, match="'toxic,obscene,threat', which is not there"):
        finetune("regress", train, encoder, run, CONFIG, FAST, COLUMNS)
