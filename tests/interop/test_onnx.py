"""Any runtime that takes ONNX gives what `transformers` gives of the same folder."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.model.modern_models import TINY as MODERN
from tests.tiny import tiny_tokenizer

from bertsmith.config import BertConfig
from bertsmith.errors import CheckpointError, ConfigError, MissingInputError
from bertsmith.folder import load_model, save_model
from bertsmith.interop import onnx as writing
from bertsmith.interop.onnx import write_onnx
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.modern import ModernBert
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.published import AnyModel
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForChoice,
    BertForClassification,
    BertForRegression,
    BertForTagging,
)

for library in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(library, reason="pip install 'bertsmith[onnx]'")

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENIZER = tiny_tokenizer(LETTERS)
CONFIG = BertConfig(
    vocab_size=len(TOKENIZER.vocabulary),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=48,
    initializer_range=0.2,
)
LABELS = {"task": "classify", "labels": ["x", "y", "z"]}
# The model, what its folder remembers, and the class of `transformers` that reads it.
MODELS: dict[str, tuple[Callable[[], AnyModel], dict[str, Any], str]] = {
    "encoder": (lambda: Bert(CONFIG), {}, "AutoModel"),
    "pre-training": (lambda: BertForPreTraining(CONFIG), {}, "AutoModelForPreTraining"),
    "masked": (
        lambda: BertForPreTraining(CONFIG, next_sentence=False),
        {},
        "AutoModelForMaskedLM",
    ),
    "classes": (
        lambda: BertForClassification(CONFIG, 3),
        LABELS,
        "AutoModelForSequenceClassification",
    ),
    "number": (
        lambda: BertForRegression(CONFIG),
        {"task": "regress"},
        "AutoModelForSequenceClassification",
    ),
    "tags": (
        lambda: BertForTagging(CONFIG, 3),
        LABELS | {"task": "tag"},
        "AutoModelForTokenClassification",
    ),
    "tags in a chain": (
        lambda: BertForTagging(CONFIG, 3, crf=True),
        LABELS | {"task": "tag", "options": {"crf": True}},
        "AutoModelForTokenClassification",
    ),
    "spans": (
        lambda: BertForAnswering(CONFIG),
        {"task": "answer"},
        "AutoModelForQuestionAnswering",
    ),
    "choices": (lambda: BertForChoice(CONFIG), {"task": "choose"}, "AutoModelForMultipleChoice"),
    "modern encoder": (lambda: ModernBert(MODERN, with_pooler=False), {}, "AutoModel"),
    "modern masked": (lambda: ModernBertForPreTraining(MODERN), {}, "AutoModelForMaskedLM"),
    "modern classes": (
        lambda: BertForClassification(dataclasses.replace(MODERN, classifier_pooling="mean"), 3),
        LABELS,
        "AutoModelForSequenceClassification",
    ),
}


def inputs_of(names: list[str], lengths: list[int], choices: int = 0) -> dict[str, torch.Tensor]:
    """Returns a padded batch of random pieces, of the shape that a model of choices takes too."""
    rng = torch.Generator().manual_seed(4)
    used = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    pieces = torch.randint(5, len(TOKENIZER.vocabulary), used.shape, generator=rng)
    segments = torch.randint(0, 2, used.shape, generator=rng)
    found = {
        "input_ids": pieces * used,
        "attention_mask": used.long(),
        "token_type_ids": segments * used,
    }
    shape = (-1, choices, max(lengths)) if choices else used.shape
    return {name: found[name].reshape(shape) for name in names}


def answers(path: Path, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Returns what onnxruntime makes of a batch, by the names of the outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {name: ids.numpy() for name, ids in inputs.items()})
    return dict(zip(names, values, strict=True))


QUICK = ("classes",)  # a conversion takes seconds, tens of them on a busy machine


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS],
)
def test_every_head_answers_as_in_transformers(kind: str, tmp_path: Path) -> None:
    make, facts, reader = MODELS[kind]
    torch.manual_seed(0)
    save_model(tmp_path / "model", make(), TOKENIZER, facts)
    written = write_onnx(load_model(tmp_path / "model"), tmp_path / "onnx")
    assert written["max_abs_difference"] <= 1e-4
    theirs = getattr(transformers, reader).from_pretrained(tmp_path / "model").eval()
    for lengths in ([7, 31, 1, 12], [1, 1], [20, 20, 3, 5, 9, 14]):
        inputs = inputs_of(written["inputs"], lengths, 2 if kind == "choices" else 0)
        found = answers(tmp_path / "onnx", inputs)
        with torch.inference_mode():
            expected = theirs(**inputs)
        used = inputs["attention_mask"].bool()
        assert list(found) == written["outputs"]
        for name, values in found.items():
            ours, right = torch.from_numpy(values), expected[name]
            if right.shape[:2] == used.shape and kind != "choices":
                ours, right = ours[used], right[used]
            torch.testing.assert_close(ours, right, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("pooling", ["mean", pytest.param("cls", marks=pytest.mark.slow)])
def test_vectors_of_sentences_are_those_of_embed(pooling: Any, tmp_path: Path) -> None:
    from bertsmith.predict import load

    torch.manual_seed(0)
    save_model(tmp_path / "model", Bert(CONFIG), TOKENIZER, {})
    write_onnx(load_model(tmp_path / "model"), tmp_path / "onnx", pooling)
    texts = ["a b c", "q", "z y x w v u t s r q p o n m l"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "onnx")  # its own files
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    found = answers(tmp_path / "onnx", dict(inputs))["sentence_embedding"]
    expected = load(tmp_path / "model").embed(texts, pooling=pooling)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_a_graph_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "FARTHEST", 0.0)
    save_model(tmp_path / "model", Bert(CONFIG), TOKENIZER, {})
    with pytest.raises(CheckpointError, match="so that nothing is written"):
        write_onnx(load_model(tmp_path / "model"), tmp_path / "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_model_with_a_head_is_not_pooled(tmp_path: Path) -> None:
    save_model(tmp_path / "model", BertForClassification(CONFIG, 3), TOKENIZER, LABELS)
    with pytest.raises(ConfigError, match="the model has a head, which gives its own outputs"):
        write_onnx(load_model(tmp_path / "model"), tmp_path / "onnx", "mean")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model", Bert(CONFIG), TOKENIZER, {})
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingInputError, match=r"pip install 'bertsmith\[onnx\]'"):
        write_onnx(load_model(tmp_path / "model"), tmp_path / "onnx")
