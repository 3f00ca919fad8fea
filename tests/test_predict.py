"""A model folder answers texts and files, in their order, whatever they are mixed with."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from bertsmith.config import BertConfig, CasingConfig, ColumnsConfig
from bertsmith.embeddings import embed_file
from bertsmith.errors import CheckpointError, ConfigError, DataError
from bertsmith.folder import save_model
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.task_heads import BertForClassification, BertForRegression
from bertsmith.predict import Model, load
from bertsmith.predictions import predict_file
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = Vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS])
TOKENIZER = Tokenizer(VOCABULARY, CasingConfig())
CONFIG = BertConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=40,
    initializer_range=0.5,  # so that answers differ from text to text
)
LABELS = {"task": "classify", "labels": ["0", "1", "2"], "max_length": 32}
SINGLE = {"columns": {"text": "text", "pair": None, "label": "label"}}
PAIR = {"columns": {"text": "sentence1", "pair": "sentence2", "label": "label"}}


def saved(folder: Path, model: object, facts: dict[str, object]) -> Model:
    save_model(folder, model, TOKENIZER, facts)  # type: ignore[arg-type]
    return load(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Model:
    torch.manual_seed(0)
    return saved(folder / "classifier", BertForClassification(CONFIG, 3), LABELS | SINGLE)


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Model:
    torch.manual_seed(0)
    return saved(folder / "pretrained", BertForPreTraining(CONFIG), {})


def random_texts(count: int) -> list[str]:
    rng = Random(count)
    return [" ".join(rng.choices(LETTERS, k=rng.randrange(0, 40))) for _ in range(count)]


def test_each_answer_is_that_of_its_text_alone(classifier: Model) -> None:
    texts = random_texts(300)
    together = classifier.predict(texts)
    for text, found in zip(texts[:40], together, strict=False):
        (alone,) = classifier.predict([text])
        assert found.answer == alone.answer
        assert found.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert len({found.answer for found in together}) > 1


def test_answers_are_those_of_transformers(folder: Path, classifier: Model) -> None:
    import transformers

    theirs = transformers.pipeline(
        "text-classification", str(folder / "classifier"), top_k=None, device="cpu"
    )
    texts = [text for text in random_texts(20) if len(text) < 50]
    for text, found in zip(texts, classifier.predict(texts), strict=True):
        expected = {row["label"]: row["score"] for row in theirs([text])[0]}
        assert found.probabilities == pytest.approx(expected, abs=1e-5)


def test_no_texts_have_no_answers(classifier: Model) -> None:
    assert classifier.predict([]) == []
    assert classifier.embed([]).shape == (0, 16)


def test_pairs_and_single_texts_are_not_confused(folder: Path, classifier: Model) -> None:
    pairs = saved(folder / "pairs", BertForClassification(CONFIG, 3), LABELS | PAIR)
    first, second = pairs.predict([("a b c", "d"), ("a b", "c d")])
    assert first.probabilities != second.probabilities
    with pytest.raises(DataError, match="text 1: holds a single text, .* trained on pairs"):
        pairs.predict(["a"])
    with pytest.raises(DataError, match="text 2: holds a pair, .* trained on single texts"):
        classifier.predict(["a", ("a", "b")])


def test_numbers_are_answered_by_a_regressor(folder: Path) -> None:
    model = saved(folder / "regressor", BertForRegression(CONFIG), {"task": "regress"})
    found = model.predict(["a", "b c"])
    assert all(isinstance(prediction.answer, float) for prediction in found)
    assert all(not prediction.probabilities for prediction in found)


def write_texts(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "note"])
        writer.writerows((f"row{n}", text, "x") for n, text in enumerate(texts))
    return path


def test_a_file_is_answered_row_by_row(
    tmp_path: Path, classifier: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.tasks.pieces.WINDOW_ROWS", 16)
    texts = [*random_texts(99), ""]
    data = write_texts(tmp_path / "data.csv", texts)
    result = predict_file(classifier, data, tmp_path / "out.csv")
    assert result["rows"] == 100
    assert result["empty_texts"] == sum(not text for text in texts)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"row{n}" for n in range(100)]
    for row, found in zip(rows, classifier.predict(texts), strict=True):
        assert row["prediction"] == found.answer
        assert float(row["probability_1"]) == pytest.approx(found.probabilities["1"], abs=1e-6)


def test_a_submission_follows_the_sample(tmp_path: Path, classifier: Model) -> None:
    texts = random_texts(10)
    data = write_texts(tmp_path / "test.csv", texts)
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("id,target\n" + "".join(f"row{n},0\n" for n in reversed(range(10))))
    result = predict_file(classifier, data, tmp_path / "submission.csv", like=sample)
    assert result["rows"] == 10
    header, *lines = (tmp_path / "submission.csv").read_text().split()
    answers = [found.answer for found in classifier.predict(texts)]
    assert header == "id,target"
    assert lines == [f"row{n},{answers[n]}" for n in reversed(range(10))]


def test_another_name_of_the_text_column_is_asked_for_or_guessed(
    tmp_path: Path, classifier: Model
) -> None:
    path = tmp_path / "data.tsv"
    path.write_text("index\tsentence\n0\ta b\n1\tc\n")
    assert (
        "text from column 'sentence' (guessed)"
        in (predict_file(classifier, path, tmp_path / "out.jsonl")["columns"])
    )
    (first, _) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(first).keys() == {"index", "prediction", "probabilities", "was_cut"}
    path.write_text("x\ty\tz\n0\ta b\t1\n")
    with pytest.raises(DataError, match="--text-column"):
        predict_file(classifier, path, tmp_path / "out.csv")
    flags = ColumnsConfig(text_column="y", id_column="x")
    assert predict_file(classifier, path, tmp_path / "out.csv", flags)["rows"] == 1


def test_each_row_says_whether_its_text_was_cut(tmp_path: Path, classifier: Model) -> None:
    longest = classifier.facts["max_length"]
    data = write_texts(tmp_path / "test.csv", ["a b", "a " * (longest + 1), "a " * (longest - 2)])
    result = predict_file(classifier, data, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["was_cut"] for row in csv.DictReader(file)] == ["0", "1", "0"]
    assert result["cut_texts"] == 1
    predict_file(classifier, data, tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["was_cut"] for line in lines] == [False, True, False]


def test_what_a_model_has_no_head_for_is_refused(
    tmp_path: Path, classifier: Model, pretrained: Model
) -> None:
    with pytest.raises(ConfigError, match="has no head for masked pieces"):
        classifier.fill_mask("a [MASK]")
    with pytest.raises(CheckpointError, match="holds no fine-tuned model"):
        pretrained.predict(["a"])
    with pytest.raises(ConfigError, match=r"ends in \.csv or \.jsonl"):
        predict_file(classifier, write_texts(tmp_path / "a.csv", ["a"]), tmp_path / "out.xlsx")


def test_masks_are_filled_as_transformers_fills_them(folder: Path, pretrained: Model) -> None:
    import transformers

    theirs = transformers.pipeline("fill-mask", str(folder / "pretrained"), top_k=4, device="cpu")
    text = "a b [MASK] c, d [MASK]"
    found = pretrained.fill_mask(text, top=4)
    assert len(found) == 2
    for ours, expected in zip(found, theirs(text), strict=True):
        assert [row["piece"] for row in ours] == [row["token_str"] for row in expected]
        assert [row["probability"] for row in ours] == pytest.approx(
            [row["score"] for row in expected], abs=1e-5
        )


def test_masks_of_many_texts_are_filled_in_their_order_as_they_are_asked_for(
    pretrained: Model,
) -> None:
    rng = Random(3)
    texts = [
        " ".join([*rng.choices(LETTERS, k=rng.randrange(1, 9)), "[MASK]"]) for _ in range(9000)
    ]
    texts[5] = "[MASK] a [MASK]"
    read = 0

    def reading() -> Iterator[str]:
        nonlocal read
        for text in texts:
            read += 1
            yield text

    fillings = pretrained.iter_fill_mask(reading(), top=3)
    found = [next(fillings)]
    assert read < len(texts)  # it does not wait for the last text
    found += fillings
    assert [len(one) for one in found] == [text.count("[MASK]") for text in texts]
    for place in (0, 5, 300, 599):
        for ours, alone in zip(found[place], pretrained.fill_mask(texts[place], 3), strict=True):
            assert [row["piece"] for row in ours] == [row["piece"] for row in alone]
            assert [row["probability"] for row in ours] == pytest.approx(
                [row["probability"] for row in alone], abs=1e-5
            )


def test_a_text_without_a_mask_in_reach_is_refused(pretrained: Model) -> None:
    with pytest.raises(DataError, match=r"has no \[MASK\]; expected|has no \[MASK\] in its first"):
        pretrained.fill_mask("a b")
    with pytest.raises(DataError, match="first 40 pieces"):
        pretrained.fill_mask("a " * 50 + "[MASK]")
    with pytest.raises(ConfigError, match="top is 0; expected 1 to 31"):
        pretrained.fill_mask("a [MASK]", top=0)


def test_vectors_are_those_of_sentence_transformers_pooling(
    folder: Path, pretrained: Model
) -> None:
    import transformers

    theirs = transformers.AutoModel.from_pretrained(str(folder / "pretrained"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder / "pretrained"))
    texts = random_texts(30)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=40, return_tensors="pt")
    with torch.no_grad():
        layers = theirs(**inputs, output_hidden_states=True).hidden_states
    visible = inputs["attention_mask"][:, :, None]
    for layer in (-1, 1, 0):
        mean = (layers[layer] * visible).sum(1) / visible.sum(1)
        found = pretrained.embed(texts, layers=layer)
        np.testing.assert_allclose(found, mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(
        pretrained.embed(texts, pooling="cls"), layers[-1][:, 0].numpy(), atol=1e-5
    )
    lengths = np.linalg.norm(pretrained.embed(texts, normalize=True), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    together = pretrained.embed(texts)
    alone = [pretrained.embed([text])[0] for text in texts[:5]]
    np.testing.assert_allclose(alone, together[:5], atol=1e-6)


def test_a_text_file_becomes_an_array_of_vectors(tmp_path: Path, folder: Path) -> None:
    torch.manual_seed(0)
    model = saved(folder / "encoder", Bert(CONFIG), {})
    texts = ["a b", "", "c, d"]
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    result = embed_file(model, tmp_path / "a.txt", tmp_path / "a.npy", normalize=True)
    assert (result["rows"], result["dimensions"]) == (3, 16)
    vectors = np.load(tmp_path / "a.npy")
    np.testing.assert_allclose(vectors, model.embed(texts, normalize=True), atol=1e-6)
    with pytest.raises(ConfigError, match="layers is '3', .* expected -3 to 2"):
        model.embed(texts, layers=3)
    with pytest.raises(ConfigError, match=r"ends in \.npy"):
        embed_file(model, tmp_path / "a.txt", tmp_path / "a.csv")
