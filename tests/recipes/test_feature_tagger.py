"""A tagger learns from frozen states, which are those of the encoder."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from bertsmith.config import (
    BertConfig,
    CasingConfig,
    ColumnsConfig,
    FeatureTaggerConfig,
    FinetuneConfig,
    OptimizerConfig,
    TaskConfig,
)
from bertsmith.data.packing import pack_texts
from bertsmith.errors import ConfigError
from bertsmith.model.bert import Bert
from bertsmith.model.bilstm import Combination
from bertsmith.recipes.feature_tagger import (
    FrozenRows,
    evaluate_tagger,
    freeze,
    train_feature_tagger,
)
from bertsmith.recipes.finetuning.rows import LabelledData, read_labelled
from bertsmith.tasks.tag import Tag
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = Vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS])
CONFIG = FinetuneConfig(epochs=4, batch_size=8, max_length=12)
SMALL = FeatureTaggerConfig(lstm_size=16, lstm_dropout=0.0)
FAST = OptimizerConfig(learning_rate=1e-2)


@pytest.fixture(scope="module")
def encoder() -> Bert:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    return Bert(config).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledData:
    """Returns sentences in which `a` begins an entity that `b` goes on with; some in windows."""
    rng = Random(0)
    lines = []
    for _ in range(120):
        words = rng.choices("abcdef", k=rng.choice([3, 5, 18]))
        tags = [
            "B-X" if word == "a" else "I-X" if word == "b" and before in "ab" else "O"
            for before, word in zip("o" + "".join(words), words, strict=False)
        ]
        tags = ["O" if tag == "I-X" and tags[i - 1] == "O" else tag for i, tag in enumerate(tags)]
        lines += [f"{word} {tag}" for word, tag in zip(words, tags, strict=True)] + [""]
    path = tmp_path_factory.mktemp("tagged") / "train.conll"
    path.write_text("\n".join(lines))
    tokenizer = Tokenizer(VOCABULARY, CasingConfig())
    return read_labelled(
        Tag, path, None, tokenizer, CONFIG, TaskConfig(), ColumnsConfig(), lambda line: None
    )


@pytest.fixture(scope="module")
def frozen(
    tmp_path_factory: pytest.TempPathFactory, data: LabelledData, encoder: Bert
) -> tuple[FrozenRows, FrozenRows]:
    return freeze(data, encoder, tmp_path_factory.mktemp("frozen"))


def test_frozen_states_are_the_encoders(
    data: LabelledData, encoder: Bert, frozen: tuple[FrozenRows, FrozenRows]
) -> None:
    rows = frozen[0]
    assert isinstance(rows.states, np.memmap)
    assert any(len(row.sequences) > 1 for row in rows.rows.features)
    assert isinstance(data.task, Tag)
    for place in (0, 7, 50):
        batch = rows.batch(data.task, [place], [4, 0])
        packed = pack_texts(data.train.features[place].sequences)
        with torch.no_grad():
            layers = encoder.layers(
                packed.piece_ids, packed.segment_ids, packed.position_ids, packed.sequence_starts
            )
        assert torch.allclose(batch["states"], torch.stack([layers[4], layers[0]], 1), atol=1e-5)
        assert torch.equal(batch["sequence_starts"], packed.sequence_starts)


@pytest.mark.parametrize(("layers", "combine"), [("-4:-1", "concat"), ("1:", "mix"), ("0", "mix")])
def test_a_tagger_learns_from_them(
    data: LabelledData, frozen: tuple[FrozenRows, FrozenRows], layers: str, combine: Combination
) -> None:
    assert isinstance(data.task, Tag)
    tagger = replace(SMALL, layers=layers, combine=combine)
    said: list[str] = []
    config = replace(CONFIG, epochs=8)
    model, result = train_feature_tagger(data.task, *frozen, config, tagger, FAST, say=said.append)
    assert result["scores"]["f1"] > 0.8
    assert len(said) == 8
    if combine == "mix":
        assert sum(result["shares"].values()) == pytest.approx(1)
    read = {"-4:-1": (1, 2, 3, 4), "1:": (1, 2, 3, 4), "0": (0,)}[layers]
    assert evaluate_tagger(model, data.task, frozen[1], read) == result["scores"]


def test_equal_runs_are_equal(data: LabelledData, frozen: tuple[FrozenRows, FrozenRows]) -> None:
    assert isinstance(data.task, Tag)
    config = replace(CONFIG, epochs=1)
    tagger = replace(SMALL, lstm_dropout=0.3)
    taggers = [
        train_feature_tagger(data.task, *frozen, config, tagger, FAST, say=lambda line: None)[0]
        for _ in range(2)
    ]
    first, second = (model.state_dict() for model in taggers)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_layers_that_are_not_there_are_refused(
    data: LabelledData, frozen: tuple[FrozenRows, FrozenRows]
) -> None:
    assert isinstance(data.task, Tag)
    tagger = replace(SMALL, layers="5")
    with pytest.raises(ConfigError, match="the model has 4 blocks"):
        train_feature_tagger(data.task, *frozen, CONFIG, tagger, say=lambda line: None)
