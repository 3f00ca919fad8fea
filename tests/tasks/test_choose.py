"""An ending is chosen as `transformers` chooses it, and what is chosen is written with its text."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers
from tests.recipes.finetuning.test_finetune import small_tokenizer, write_encoder, write_rows

from bertsmith.cli import main
from bertsmith.config import ColumnsConfig, TaskConfig
from bertsmith.data.choices import Choice
from bertsmith.errors import CheckpointError, ConfigError, DataError
from bertsmith.folder import load_model, save_model
from bertsmith.model.task_heads import BertForChoice
from bertsmith.predict import load
from bertsmith.tasks.answers import answer
from bertsmith.tasks.choose import Choose
from bertsmith.tasks.forms import Features, Prediction

WORDS = ["film", "plot", "is", "it", "so", "very"]


def choices(count: int, num_endings: int = 4, seed: int = 0) -> list[Choice]:
    """Rows whose right ending is the one that tells praise, among others that tell nothing."""
    rng = Random(seed)
    rows = []
    for number in range(count):
        endings = [" ".join(rng.choices(WORDS, k=rng.randrange(1, 5))) for _ in range(num_endings)]
        right = rng.randrange(num_endings)
        endings[right] += " good"
        names = tuple(map(str, range(num_endings)))
        where = f"train.csv:{number + 2}"
        rows.append(Choice(where, "the film", "it is", tuple(endings), names, right, str(number)))
    return rows


def saved(folder: Path, facts: dict[str, Any]) -> Path:
    config = load_model(write_encoder(folder / "encoder", initializer_range=0.5)).config
    torch.manual_seed(0)
    save_model(folder / "model", BertForChoice(config), small_tokenizer(), facts)
    return folder / "model"


@pytest.mark.parametrize("num_endings", [2, 4])
def test_probabilities_are_those_of_transformers(tmp_path: Path, num_endings: int) -> None:
    folder = saved(tmp_path, {"task": "choose", "labels": [], "max_length": 32})
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert isinstance(theirs, transformers.BertForMultipleChoice)
    loaded = load_model(folder)
    assert isinstance(loaded.model, BertForChoice)
    rows = choices(6, num_endings)
    found = answer(Choose(), loaded.model, loaded.tokenizer, rows, 32)
    for row, prediction in found:
        inputs = tokenizer(
            [row.stem] * num_endings,
            [f"{row.second} {ending}" for ending in row.endings],  # as in section 4.4 of the paper
            padding=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits = theirs(**{name: part[None] for name, part in inputs.items()}).logits[0]
        shares = list(prediction.probabilities.values())
        assert shares == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
        assert sum(shares) == pytest.approx(1)
        assert prediction.more["index"] == int(logits.argmax())


def test_a_batch_has_the_loss_of_transformers(tmp_path: Path) -> None:
    folder = saved(tmp_path, {"task": "choose", "labels": []})
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    ours = load_model(folder).model
    tokenizer = small_tokenizer()
    task, rows = Choose(), choices(5)
    features = [task.features(row, tokenizer, 32) for row in rows]
    batch = task.collate(
        features, [task.target(row, part) for row, part in zip(rows, features, strict=True)]
    )
    longest = max(len(part) for row in features for part in row.sequences)
    ids, mask, segments = (torch.zeros(5, 4, longest, dtype=torch.int64) for _ in range(3))
    for place, row in enumerate(features):
        for ending, part in enumerate(row.sequences):
            ids[place, ending, : len(part)] = torch.from_numpy(part.piece_ids).long()
            segments[place, ending, : len(part)] = torch.from_numpy(part.segment_ids).long()
            mask[place, ending, : len(part)] = 1
    with torch.inference_mode():
        expected = theirs(
            input_ids=ids, attention_mask=mask, token_type_ids=segments, labels=batch["labels"]
        )
        sums = ours(**batch)
    assert sums["loss"].item() / 5 == pytest.approx(expected.loss.item(), rel=1e-5)
    right = (expected.logits.argmax(1) == batch["labels"]).sum().item()
    assert sums["accuracy"].item() == right


def test_names_of_endings_are_kept_where_all_rows_have_the_same() -> None:
    rows = choices(3)
    task = Choose.learn(rows, TaskConfig())
    assert Choose.from_facts(task.facts()) == task
    assert task.labels == ("0", "1", "2", "3")
    other = Choice("a:1", "s", "", ("x", "y", "z", "w"), ("x", "y", "z", "w"), 0)
    assert Choose.learn([*rows, other], TaskConfig()).labels == ()
    assert task.said(rows).startswith("4 endings, right: 0 (")
    with pytest.raises(CheckpointError, match="the model's labels are 3"):
        Choose.from_facts({"labels": 3})


@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": "balanced"},
        {"multi_label": True},
        {"label_smoothing": 0.1},
        {"long_texts": "windows"},
    ],
)
def test_options_of_other_tasks_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Choose.learn(choices(2), TaskConfig(**options))
    with pytest.raises(DataError, match="no rows"):
        Choose.learn([], TaskConfig())


def test_accuracy_is_the_share_of_right_choices() -> None:
    scorer = Choose().scorer()
    for row, chosen in zip(choices(4), (0, 1, 2, 3), strict=True):
        scorer.add(row, Prediction(str(chosen), more={"index": chosen}))
    right = sum(row.label == chosen for row, chosen in zip(choices(4), range(4), strict=True))
    assert scorer.scores() == {"accuracy": right / 4}


def test_a_long_stem_is_cut_and_that_is_told() -> None:
    row = Choice("a:1", "film " * 50, "", ("good", "bad"), ("A", "B"), 0)
    task = Choose(("A", "B"))
    features = task.features(row, small_tokenizer(), 16)
    assert [len(part) for part in features.sequences] == [16, 16]
    found = task.decode(row, features, [torch.tensor([0.0]), torch.tensor([1.0])])
    assert found.was_cut and found.answer == "B"
    assert found.more == {"index": 1, "ending": "bad"}
    assert not task.features(row, small_tokenizer(), 64).was_cut
    assert Features(()).num_tokens == 0


def write_choices(path: Path, rows: list[Choice], *, labelled: bool = True) -> Path:
    letters = "ABCD"
    cells = [
        {"id": row.id, "sent1": row.stem, "sent2": row.second}
        | {f"ending{n}": ending for n, ending in enumerate(row.endings)}
        | ({"label": letters[row.label or 0]} if labelled else {})
        for row in rows
    ]
    return write_rows(path, cells)


def test_choices_are_learnt_evaluated_and_predicted_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    train = write_choices(tmp_path / "train.csv", choices(200))
    dev = write_choices(tmp_path / "dev.csv", choices(40, seed=1))
    test = write_choices(tmp_path / "test.csv", choices(40, seed=1), labelled=False)
    words = ["finetune", "choose", train, "--dev", dev, "--model", encoder, "--json"]
    words += ["--out", tmp_path / "run", "--epochs", 3, "--max-length", 24, "--learning-rate", 2e-3]
    assert main([*map(str, words), "--batch-size", "16"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["scores"]["accuracy"] > 0.9
    assert "label as a letter from A from 'label' (guessed)" in captured.err

    best = str(tmp_path / "run/best")
    assert main(["evaluate", best, str(dev), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == result["scores"]["accuracy"]
    for name in ("answers.csv", "answers.jsonl"):
        assert main(["predict", best, str(test), "--out", str(tmp_path / name)]) == 0
    with (tmp_path / "answers.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    right = 0
    for row, cells, line in zip(choices(40, seed=1), answers, lines, strict=True):
        chosen = int(cells["index"])
        assert cells["id"] == line["id"] == row.id
        assert cells["prediction"] == line["prediction"] == "ABCD"[chosen]
        assert cells["ending"] == line["ending"] == row.endings[chosen]
        assert float(cells[f"probability_{'ABCD'[chosen]}"]) == pytest.approx(
            max(line["probabilities"].values())
        )
        right += chosen == row.label
    assert right / 40 == result["scores"]["accuracy"]

    (tmp_path / "sample.csv").write_text("id,label\n" + "".join(f"{n},A\n" for n in range(40)))
    like = ["--like", str(tmp_path / "sample.csv"), "--out", str(tmp_path / "submission.csv")]
    assert main(["predict", best, str(test), *like]) == 0
    with (tmp_path / "submission.csv").open(newline="") as file:
        submitted = [row["label"] for row in csv.DictReader(file)]
    assert submitted == [cells["prediction"] for cells in answers]


def test_choices_are_answered_in_python(tmp_path: Path) -> None:
    facts = {"task": "choose", "labels": ["A", "B"], "choice_columns": {"spelling": "letter"}}
    model = load(saved(tmp_path, facts))
    rows = [("the film", ["is good", "is bad"]), ("so", ["very", "it is", "bad"])]
    found = model.choose(rows)
    for (_, endings), one in zip(rows, found, strict=True):
        assert one.answer == "ABC"[one.more["index"]]
        assert one.more["ending"] == endings[one.more["index"]]
        assert len(one.probabilities) == len(endings)
    with pytest.raises(DataError, match=r"row 1: has \['good'\]; expected two endings or more"):
        model.choose([("the film", ["good"])])
    with pytest.raises(ConfigError, match="chooses among endings; call choose"):
        model.predict(["the film"])
    with pytest.raises(ConfigError, match="its task is regress; expected a model that"):
        load(saved(tmp_path, {"task": "regress"})).choose(rows)


def test_a_later_file_has_as_many_endings_as_training(tmp_path: Path) -> None:
    train = write_choices(tmp_path / "train.csv", choices(3))
    facts = Choose.read(train, ColumnsConfig(), None, labelled=True).facts
    dev = write_choices(tmp_path / "dev.csv", choices(3, 2))
    source = Choose.read(dev, ColumnsConfig(), facts, labelled=True)
    with pytest.raises(DataError, match=r"dev\.csv:2: has 2 endings; expected 4"):
        list(source.examples)
