"""What would make a result wrong is found, with its place and a mend, before training."""

from __future__ import annotations

import csv
import json
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.finetuning.test_finetune import FAST, opinions, write_encoder, write_rows

from bertsmith.config import ColumnsConfig, FinetuneConfig, TaskConfig
from bertsmith.errors import ConfigError, DataError, MissingInputError
from bertsmith.recipes.doctor import doctor
from bertsmith.recipes.finetuning.finetune import finetune
from bertsmith.recipes.finetuning.rows_seen import MOJIBAKE

LABELS = ("praise", "blame")


def write(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    return write_rows(path, [{"text": text, "label": label} for text, label in rows])


def sound_rows(count: int = 40) -> list[tuple[str, str]]:
    return [(f"text number {number}", LABELS[number % 2]) for number in range(count)]


def findings(result: dict[str, Any], *severities: str) -> list[str]:
    return [
        f"{Path(one['where']).name}: {one['what']}; {one['mend']}"
        for one in result["findings"]
        if one["severity"] in (severities or ("error", "warning", "note"))
    ]


def test_sound_rows_have_notes_alone(tmp_path: Path) -> None:
    result = doctor(write(tmp_path / "train.csv", sound_rows()))
    assert (result["rows"], result["ok"]) == (40, True)
    assert findings(result, "error", "warning") == []
    assert findings(result) == [
        "train.csv: text from column 'text' (guessed), label from column 'label' (guessed); ",
        "train.csv: 2 labels: praise (20), blame (20); ",
    ]


@pytest.mark.parametrize(
    ("rows", "severity", "expected"),
    [
        ([("a", "x")] * 3 + [("b", "x")], "error", "every row has the label 'x'; name the right"),
        (sound_rows() + [("  ", "praise")], "error", "train.csv:42: 1 row has no text; fill"),
        (sound_rows() + [("odd", "")], "error", "train.csv:42: 1 row has no label; fill"),
        (sound_rows() + [("odd", "rare")], "warning", "train.csv:42: 1 label ('rare') has a sin"),
        (
            sound_rows() + [("one", "Praise"), ("two", "Praise")],
            "warning",
            "train.csv:42: labels that differ by capitals or spaces alone: 'praise' (20), 'Praise",
        ),
        (
            [(f"text {number}", "a") for number in range(500)] + [("x", "b"), ("y", "b")],
            "warning",
            "saying the first everywhere is right for 99.6% of the rows; give --class-weights",
        ),
        (sound_rows() + sound_rows(1), "note", "train.csv:2 and 42: 1 row has a text that stands"),
        (sound_rows() + sound_rows(30), "warning", "30 rows have a text that stands in an earl"),
        (
            sound_rows() + [("text number 3", "praise")],
            "warning",
            "train.csv:5 and 42: 2 rows have a text that other rows give another label; settle",
        ),
        (sound_rows() + [("cafÃ©", "blame")], "warning", "train.csv:42: 1 row has characters such"),
        (sound_rows() + [("caf\ufffd", "blame")], "warning", "train.csv:42: 1 row has U+FFFD"),
        (sound_rows() + [("a\0b", "blame")], "error", "train.csv:42: 'text' holds a NUL character"),
        (
            [(f"text {number}", f"{number / 7:.3f}") for number in range(40)],
            "error",
            "use the task regress",
        ),
    ],
)
def test_each_fault_is_found_with_its_place_and_its_mend(
    tmp_path: Path, rows: list[tuple[str, str]], severity: str, expected: str
) -> None:
    result = doctor(write(tmp_path / "train.csv", rows))
    assert any(expected in one for one in findings(result, severity))
    assert result["ok"] == (severity != "error")


def test_a_row_that_cannot_be_read_is_found_and_the_rest_is_still_looked_through(
    tmp_path: Path,
) -> None:
    path = tmp_path / "train.csv"
    path.write_text('text,label\nfine,a\ntoo,many,cells\n"fine too",b\n')
    result = doctor(path)
    assert findings(result, "error")[0].startswith("train.csv:3: found 3 columns, expected 2")
    assert not result["ok"]


@pytest.mark.parametrize(("shared", "severity"), [(19, "warning"), (21, "error")])
def test_dev_rows_that_are_training_rows_are_an_error_where_they_are_the_most(
    tmp_path: Path, shared: int, severity: str
) -> None:
    train = sound_rows(100)
    dev = train[:shared] + [
        (f"unseen {number}", LABELS[number % 2]) for number in range(40 - shared)
    ]
    result = doctor(write(tmp_path / "train.csv", train), dev=write(tmp_path / "dev.csv", dev))
    (found,) = findings(result, severity)
    assert f"{shared} of 40 dev rows" in found
    assert str(tmp_path / "train.csv:2") in result["findings"][0]["where"]


def test_a_label_that_training_lacks_is_an_error(tmp_path: Path) -> None:
    dev = write(tmp_path / "dev.csv", [("new", "prise"), ("newer", "praise")])
    result = doctor(write(tmp_path / "train.csv", sound_rows()), dev=dev)
    assert findings(result, "error")[0].startswith("dev.csv:2: 1 label of the dev rows ('prise')")


def test_a_kind_of_tag_that_training_lacks_is_an_error(tmp_path: Path) -> None:
    train, dev = tmp_path / "train.txt", tmp_path / "dev.txt"
    train.write_text("ann B-PER\ngoes O\n\noslo B-LOC\n")
    dev.write_text("ann I-PER\n\nto O\noslo B-LOK\n")
    result = doctor(train, "tag", dev=dev)
    assert not result["ok"]
    assert findings(result, "error")[0].startswith(
        "dev.txt:3: 1 kind of tag of the dev rows ('LOK')"
    )


def test_sentences_that_nothing_parts_are_told(tmp_path: Path) -> None:
    train = tmp_path / "train.txt"
    train.write_text("ann B-PER\n\n" + "ann B-PER\ngoes O\n" * 600)
    assert (
        "train.txt:3: a sentence of 1,200 words: are they several that nothing parts?; put a "
        "blank line between sentences"
    ) in findings(doctor(train, "tag"), "warning")


def test_lengths_are_those_of_the_whole_texts(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    rows = [(f"{'film ' * length}one", LABELS[length % 2]) for length in range(1, 41)]
    path = write(tmp_path / "train.csv", rows)
    (found,) = findings(doctor(path, model=encoder, max_length=32), "warning")
    assert "half of the rows have up to 24 pieces, 95% up to 42" in found  # [CLS], [SEP] and one
    assert "11 of 40 rows (27.5%) are longer than 32" in found
    assert "raise --max-length (to 48 keeps 95% whole) or give --long-texts windows" in found
    longest = [(f"{'film ' * 200}{n}", LABELS[n % 2]) for n in range(40)]
    path = write(tmp_path / "long.csv", longest)
    (found,) = findings(doctor(path, model=encoder, max_length=32), "warning")
    assert "raise --max-length to 64, the most that the model reads, or give" in found
    (found,) = findings(doctor(path, model=encoder, max_length=64), "warning")
    assert "if that matters, give --long-texts windows" in found
    path = write(tmp_path / "train.csv", rows)
    windows = TaskConfig(long_texts="windows")
    assert not findings(doctor(path, options=windows, model=encoder, max_length=32), "warning")


@pytest.mark.parametrize("max_length", [0, -1, 3])
def test_a_length_of_nothing_is_refused(tmp_path: Path, max_length: int) -> None:
    with pytest.raises(ConfigError, match=f"max_length is {max_length}; expected 4 or more"):
        doctor(write(tmp_path / "train.csv", sound_rows()), max_length=max_length)


def test_many_labels_of_few_rows_and_few_rows_are_told(tmp_path: Path) -> None:
    many = [(f"text {n}", f"kind {n % 600}") for n in range(3000)]
    (found,) = findings(doctor(write(tmp_path / "train.csv", many)), "warning")
    assert "600 labels for 3,000 rows, 5.0 rows for each; if they are classes" in found
    few = write(tmp_path / "few.csv", sound_rows()[:12])
    (found,) = findings(doctor(few), "warning")
    assert "12 rows to learn from: scores will be mostly chance; add rows" in found


def test_words_that_the_vocabulary_does_not_know_are_told(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    path = write(tmp_path / "train.csv", [(f"слово {n}", LABELS[n % 2]) for n in range(40)])
    assert any("are [UNK]" in one for one in findings(doctor(path, model=encoder), "warning"))


def test_several_labels_are_counted_each(tmp_path: Path) -> None:
    rows = [(f"text {number}", "red;blue" if number % 2 else "") for number in range(20)]
    options = TaskConfig(multi_label=True, label_separator=";")
    result = doctor(write(tmp_path / "train.csv", rows), options=options)
    assert result["ok"]
    assert "train.csv: 2 labels: red (10), blue (10); " in findings(result)


def test_numbers_are_no_labels_but_must_be_numbers(tmp_path: Path) -> None:
    rows = [(f"text {number}", str(number / 3)) for number in range(30)]
    result = doctor(write(tmp_path / "train.csv", rows), "regress")
    assert len(result["findings"]) == 1
    result = doctor(write(tmp_path / "train.csv", [*rows, ("odd", "many")]), "regress")
    assert "train.csv:32: the label 'many' is no number" in findings(result, "error")[0]


def test_a_file_without_known_columns_or_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("one,two\n1,2\n")
    (found,) = findings(doctor(path), "error")
    assert "name it with --text-column" in found
    with pytest.raises(MissingInputError, match="no such file"):
        doctor(tmp_path / "missing.csv")
    with pytest.raises(MissingInputError, match="'txt', which is not there"):
        doctor(path, columns=ColumnsConfig(text_column="txt"))


def test_a_row_takes_a_few_bytes_whatever_its_text(tmp_path: Path) -> None:
    taken = []
    for length in (10, 10_000):  # 20 MB, read in chunks of one
        path = tmp_path / "train.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(
                [("text", "label"), *((f"{n} {'x' * length}", str(n % 2)) for n in range(2000))]
            )
        tracemalloc.start()
        doctor(path)
        taken.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert taken[1] < taken[0] + 6_000_000


@pytest.mark.parametrize(
    ("text", "is_garbled"),
    [
        ("cafÃ©", True),
        ("itâ€™s", True),
        ("naÃ¯ve", True),
        ("Â£5", True),
        ("ðŸ˜€", True),
        ("\x89Û_ we", True),
        ("café, naïve, À la carte, São Paulo, Âge, crème brûlée", False),
        ("it’s “quoted” – £5 … 10 °C", False),
        ("ÃO, PÃO, Ângela, ÛMIT", False),
        ("日本語 текст 😀", False),
    ],
)
def test_text_of_a_wrong_encoding_is_told_from_text_with_accents(
    text: str, is_garbled: bool
) -> None:
    assert bool(MOJIBAKE.search(text)) == is_garbled


def test_doubles_of_the_disaster_tweets_are_those_that_pandas_counts(shared_data: Path) -> None:
    result = doctor(shared_data / "disaster-tweets/train.csv")
    assert result["rows"] == 7613
    found = findings(result)
    assert any("110 rows have a text that stands in an earlier row" in one for one in found)
    assert any("55 rows have a text that other rows give another label" in one for one in found)
    assert "train.csv: 2 labels: 0 (4,342), 1 (3,271); " in found


# ------------------------------------------------------------------------------ before training


def test_training_stops_where_the_dev_rows_are_those_of_training(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    path = write_rows(tmp_path / "train.csv", opinions(40, 0))
    config = FinetuneConfig(epochs=1, max_length=24, threads=1)
    with pytest.raises(DataError, match="40 of 40 dev rows .* --train-anyway"):
        finetune("classify", path, encoder, tmp_path / "run", config, FAST, dev=path)


# --------------------------------------------------------------------------------- run folders


def test_a_finished_run_is_whole_and_has_learnt(finished_run: Path) -> None:
    result = doctor(finished_run)
    assert result["ok"]
    assert result["rows"] > 40
    assert findings(result, "error", "warning") == []
    assert any("whole and unaltered: model, best" in one for one in findings(result))
    assert any("the training loss began at 0.6" in one for one in findings(result))


def test_an_altered_model_and_a_cut_short_row_are_found(tmp_path: Path, finished_run: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    with (run / "best/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')
    result = doctor(run)
    assert "SHA-256 is not the one" in findings(result, "error")[0]
    assert any("it was cut short" in one for one in findings(result, "note"))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.69 + 0.01 * (step % 3) for step in range(60)], "sits on a plateau and has learnt noth"),
        ([0.7, *[float("nan")] * 59], "a figure of step 2 is not finite"),
        ([0.9 - 0.01 * step for step in range(60)], "it was still falling"),
        ([max(0.2, 0.9 - 0.05 * step) for step in range(60)], "where it no longer falls"),
    ],
)
def test_the_course_of_the_loss_is_told(
    tmp_path: Path, finished_run: Path, losses: list[float], expected: str
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    rows = [
        {"step": step, "epoch": step / 15, "loss": loss}
        for step, loss in enumerate(losses, start=1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert any(expected in one for one in findings(doctor(run)))


def test_a_run_that_was_stopped_is_not_finished(tmp_path: Path, finished_run: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:20]))
    assert any("is not finished: it stands at step" in one for one in findings(doctor(run)))
    with pytest.raises(ConfigError, match="dev and model are for labelled files"):
        doctor(run, dev=run)


def test_a_run_that_says_one_thing_has_collapsed(tmp_path: Path, finished_run: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    row = {"step": 48, "epoch": 4, "dev": {"accuracy": 0.6, "mcc": 0.0}}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert any("has collapsed" in one for one in findings(doctor(run), "warning"))
