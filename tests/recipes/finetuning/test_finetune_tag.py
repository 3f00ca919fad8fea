"""Taggers learn from files in every form, are scored, and answer in the form of their files."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from seqeval.metrics import f1_score
from tests.report.reading import read_page
from tests.tiny import write_tiny_encoder

from bertsmith.config import FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.errors import ConfigError, DataError
from bertsmith.predict import load
from bertsmith.predictions import predict_file
from bertsmith.recipes.doctor import doctor
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.finetune import finetune
from bertsmith.tasks import answers
from bertsmith.tasks.schemes import respelt
from bertsmith.tasks.tag import Tag

NAMES = ["ann", "bob", "eve"]
PLACES = ["rome", "oslo", "lima"]
OTHERS = ["in", "and", "goes", "to", "sees", "from"]
WORDS = [*NAMES, *PLACES, *OTHERS, "##s", "."]
FAST = OptimizerConfig(learning_rate=3e-3)
SHORT = FinetuneConfig(epochs=4, batch_size=16, max_length=12, threads=1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    return write_tiny_encoder(folder, WORDS, seed=1, with_pooler=False)


def rows_of(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Returns words, some longer than the model together, and their tags in IOB1."""
    rng = Random(seed)
    rows = []
    for _ in range(count):
        words = rng.choices([*NAMES, *PLACES, *OTHERS, "tos", "\u200b"], k=rng.randrange(2, 20))
        kinds = ["PER" if w in NAMES else "LOC" if w in PLACES else "" for w in words]
        tags = [f"B-{kind}" if kind else "O" for kind in kinds]
        rows.append((words, respelt(tags, "iob1")))
    return rows


def write_conll(path: Path, rows: list[tuple[list[str], list[str]]]) -> Path:
    lines = []
    for number, (words, tags) in enumerate(rows):
        lines += ["-DOCSTART- -X- O", ""] if number % 10 == 0 else []
        lines += [f"{word} NN {tag}" for word, tag in zip(words, tags, strict=True)] + [""]
    path.write_text("\n".join(lines))
    return path


def write_folder(path: Path, rows: list[tuple[list[str], list[str]]]) -> Path:
    """Writes three parallel files; the intent is told by the first word."""
    path.mkdir()
    for name, number in (("seq.in", 0), ("seq.out", 1)):
        (path / name).write_text("".join(" ".join(row[number]) + "\n" for row in rows))
    intents = ["meet" if words[0] in NAMES else "travel" for words, _ in rows]
    (path / "label").write_text("\n".join(intents))
    return path


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    train = write_conll(folder / "train.txt", rows_of(300, 0))
    dev = write_conll(folder / "dev.txt", rows_of(60, 1))
    result = finetune("tag", train, encoder, folder / "run", SHORT, FAST, dev=dev)
    assert result["scores"]["f1"] > 0.95
    assert result["scores"]["words_without_pieces"] > 0
    return folder


def test_a_tagger_learns_and_is_scored_as_seqeval_does(tagger: Path) -> None:
    scores = evaluate_task(tagger / "run/best", tagger / "dev.txt")
    model = load(tagger / "run/best")
    rows = rows_of(60, 1)
    found = [list(row.answer) for row in model.tag([words for words, _ in rows])]
    assert [len(tags) for tags in found] == [len(words) for words, _ in rows]
    assert scores["f1"] == f1_score([tags for _, tags in rows], found)
    assert scores["f1"] > 0.95
    assert set(scores["types"]) == {"LOC", "PER"}
    assert model.facts["scheme"] == "iob1" and model.facts["learnt_scheme"] == "iob2"
    # IOB1 has a B only behind a word of the same type.
    assert found[0] == respelt(found[0], "iob1")


def test_the_report_has_the_scores_of_every_type(tagger: Path) -> None:
    page = read_page((tagger / "run/report.html").read_text("utf-8"))
    assert "Type by type" in page.headings


@pytest.mark.parametrize("name", ["answers.conll", "answers.jsonl"])
def test_predictions_of_a_file_are_scored_as_its_answers(name: str, tagger: Path) -> None:
    model = load(tagger / "run/best")
    result = predict_file(model, tagger / "dev.txt", tagger / name)
    assert result["rows"] == 60
    num_bare = sum(words.count("\u200b") for words, _ in rows_of(60, 1))
    assert result["words_without_pieces"] == num_bare
    # What the model wrote, read as right answers, agrees with the model in every tag.
    scores = evaluate_task(tagger / "run/best", tagger / name)
    assert scores["accuracy"] == scores["f1"] == 1.0


def test_plain_text_is_tagged_word_by_word(tagger: Path) -> None:
    (tagger / "new.txt").write_text("bob goes to oslo\n\nann sees eve\n")
    predict_file(load(tagger / "run/best"), tagger / "new.txt", tagger / "new.jsonl")
    rows = [json.loads(line) for line in (tagger / "new.jsonl").read_text().splitlines()]
    assert [row["words"] for row in rows] == [["bob", "goes", "to", "oslo"], ["ann", "sees", "eve"]]
    assert rows[0]["tags"] == ["I-PER", "O", "O", "I-LOC"]


def test_a_sentence_is_tagged_alone_as_among_others(tagger: Path) -> None:
    model = load(tagger / "run/best")
    words = [words for words, _ in rows_of(30, 2)]
    for together, row in zip(model.tag(words), words, strict=True):
        (alone,) = model.tag([row])
        assert alone.answer == together.answer
        assert alone.more["probabilities"] == pytest.approx(
            together.more["probabilities"], abs=1e-5
        )


def test_a_tagger_refuses_texts(tagger: Path) -> None:
    model = load(tagger / "run/best")
    with pytest.raises(DataError, match="sentence 2: holds 'bob sees ann'; expected a list of"):
        model.tag([["bob"], "bob sees ann"])
    with pytest.raises(ConfigError, match=r"tags words; call tag\(sentences\)"):
        model.predict(["bob sees ann"])
    with pytest.raises(ConfigError, match="out is .*expected a name that ends in .conll"):
        predict_file(model, tagger / "dev.txt", tagger / "answers.csv")


def test_slots_and_intents_are_learnt_together(tmp_path: Path, encoder: Path) -> None:
    train = write_folder(tmp_path / "train", rows_of(400, 3))
    dev = write_folder(tmp_path / "dev", rows_of(80, 4))
    config = FinetuneConfig(epochs=6, batch_size=16, max_length=24, threads=1)
    result = finetune("tag", train, encoder, tmp_path / "run", config, FAST, dev=dev)
    scores = result["scores"]
    assert scores["intent_accuracy"] > 0.9 and scores["f1"] > 0.95
    assert scores["sentence_accuracy"] > 0.8
    model = load(tmp_path / "run/best")
    predict_file(model, dev, tmp_path / "answers.conll")
    again = evaluate_task(tmp_path / "run/best", tmp_path / "answers.conll")
    assert again["sentence_accuracy"] == 1.0
    (found,) = model.tag([["bob", "sees", "rome"]])
    assert found.more["intent"] == "meet" and found.answer == ("I-PER", "O", "I-LOC")


def test_what_only_the_document_tells_is_learnt_with_its_context(
    tmp_path: Path, encoder: Path
) -> None:
    """A word is a name or not as the sentence before it says; it alone tells nothing."""
    rng = Random(0)
    lines = []
    for _ in range(300):
        kind = rng.choice(["PER", "LOC"])
        before = rng.choice(NAMES if kind == "PER" else PLACES)
        lines += ["-DOCSTART- O", "", f"{before} O", "", f"goes B-{kind}", ""]
    path = tmp_path / "train.txt"
    path.write_text("\n".join(lines))
    scores = {}
    for amid in (True, False):
        result = finetune(
            "tag",
            path,
            encoder,
            tmp_path / f"run-{amid}",
            FinetuneConfig(epochs=3, batch_size=16, max_length=12, threads=1),
            FAST,
            options=TaskConfig(document_context=amid),
        )
        scores[amid] = result["scores"]["f1"]
    assert scores[True] > 0.9 and scores[False] < 0.75
    # A folder remembers the option: words alone have no document, and rows of a file have one.
    model = load(tmp_path / "run-True/best")
    predict_file(model, path, tmp_path / "out.conll")
    assert evaluate_task(tmp_path / "run-True/best", tmp_path / "out.conll")["f1"] == 1.0


def test_a_row_is_named_before_training(tmp_path: Path, encoder: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("ann B-PER\ngoes\n")
    with pytest.raises(DataError, match=r"train\.txt:2: 'goes' has no tag"):
        finetune("tag", path, encoder, tmp_path / "run", SHORT, FAST)
    assert not (tmp_path / "run/model").exists()


def test_a_dev_tag_unseen_in_training_is_named_before_training(
    tmp_path: Path, encoder: Path
) -> None:
    train = write_conll(tmp_path / "train.txt", rows_of(20, 0))
    dev = tmp_path / "dev.txt"
    dev.write_text("ann B-PER\ngoes O\n\nto O\noslo B-LOK\n")
    message = r"dev\.txt:5: the type of the tag 'B-LOK' of 'oslo' .* known: 'LOC', 'PER': spell"
    with pytest.raises(DataError, match=message):
        finetune("tag", train, encoder, tmp_path / "run", SHORT, FAST, dev=dev)
    assert not (tmp_path / "run/model").exists()


def test_a_tagger_that_says_o_everywhere_is_begun_again_and_called_out(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One word in twenty is an entity, and nothing tells which."""
    rng = Random(0)
    rows = []
    for _ in range(80):
        words = rng.choices(OTHERS, k=10)
        rows.append((words, ["B-PER" if rng.random() < 0.05 else "O" for _ in words]))
    train = write_conll(tmp_path / "train.txt", rows[:40])
    dev = write_conll(tmp_path / "dev.txt", rows[40:])
    config = FinetuneConfig(epochs=2, batch_size=8, max_length=16, threads=1, restarts=1)
    result = finetune("tag", train, encoder, tmp_path / "run", config, FAST, dev=dev)
    assert result["collapsed"] and result["restarts"] == 1 and result["scores"]["recall"] == 0
    said = capsys.readouterr().err
    assert "every dev word gets the same answer: the run has learnt nothing and is begun" in said
    assert "the best model gives every dev word the same answer" in said
    (found,) = (one for one in doctor(tmp_path / "run")["findings"] if "collapsed" in one["what"])
    assert "dev recall is 0 throughout" in found["what"]


def test_outputs_of_tokens_are_not_held_for_all_dev_rows(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    decode = Tag.decode

    def watched(self: Tag, example: Any, features: Any, outputs: Any) -> Any:
        seen.extend(map(weakref.ref, outputs))
        alive.append(sum(output() is not None for output in seen))
        return decode(self, example, features, outputs)

    monkeypatch.setattr(Tag, "decode", watched)
    monkeypatch.setattr(answers, "TOKENS_HELD", 64)
    train = write_conll(tmp_path / "train.txt", rows_of(40, 0))
    most = {}
    for count in (20, 100):
        dev = write_conll(tmp_path / f"dev-{count}.txt", rows_of(count, 1))
        config = FinetuneConfig(epochs=1, batch_size=40, max_length=12, threads=1, restarts=0)
        seen.clear()
        alive.clear()
        finetune("tag", train, encoder, tmp_path / f"run-{count}", config, FAST, dev=dev)
        most[count] = max(alive)
    # Every sequence has three pieces at least, and one group may be there while the next comes.
    assert 1 < most[20] <= most[100] <= 2 * 64 / 3
