"""The sentences shown are held out, always the same, and filled as `fill` would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.recipes.toy_runs import STEPS, metrics_of

from bertsmith.data.shards import open_corpus
from bertsmith.folder import load_model
from bertsmith.model.heads import BertForPreTraining
from bertsmith.predict import load
from bertsmith.recipes.pretraining.filled_masks import SENTENCES, fill, hidden_words, readable


def sentences_of(corpus: Path, split: str) -> set[str]:
    opened = open_corpus(corpus)
    tokenizer = opened.read_tokenizer()
    found = set()
    for number in range(len(opened.shards(split))):  # type: ignore[arg-type]
        shard = opened.open_shard(split, number)  # type: ignore[arg-type]
        borders = shard.sentence_starts.tolist()
        for start, end in zip(borders, borders[1:], strict=False):
            found.add(tokenizer.decode(shard.pieces[start:end].tolist()))
    return found


def test_the_sentences_are_held_out_and_hide_a_whole_word(toy_corpus: Path) -> None:
    opened = open_corpus(toy_corpus)
    tokenizer = opened.read_tokenizer()
    hidden = hidden_words(opened, tokenizer, 20)
    documents = opened.total("held_out").documents
    assert len(hidden) == min(SENTENCES, documents) > 1
    sources = sentences_of(toy_corpus, "held_out")
    for one in hidden:
        assert one.text.replace("[MASK]", one.word) in sources
        assert one.batch.piece_ids[one.place] == tokenizer.vocabulary.mask_id
        assert one.word.isalpha()
    again = hidden_words(opened, tokenizer, 20)
    assert [(one.text, one.place) for one in again] == [(one.text, one.place) for one in hidden]
    assert hidden_words(opened, tokenizer, 8) == []  # none is as short


def test_they_are_filled_as_fill_does(unbroken_run: Path, toy_corpus: Path) -> None:
    opened = open_corpus(toy_corpus)
    tokenizer = opened.read_tokenizer()
    hidden = hidden_words(opened, tokenizer, 20)
    model = load_model(unbroken_run / "model").model
    assert isinstance(model, BertForPreTraining)
    model.train()
    state = torch.get_rng_state()
    filled = fill(model, hidden, tokenizer)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    for one, found in zip(hidden, filled, strict=True):
        (expected,) = load(unbroken_run / "model").fill_mask(one.text, top=5)
        assert found["pieces"] == [guess["piece"] for guess in expected]
        assert found["shares"] == pytest.approx(
            [guess["probability"] for guess in expected], abs=1e-4
        )


def test_every_evaluation_of_a_run_shows_them(unbroken_run: Path) -> None:
    rows = [row for row in metrics_of(unbroken_run) if row["split"] == "filled"]
    assert [row["step"] for row in rows] == [4, 8, STEPS]
    texts = [[one["text"] for one in row["filled"]] for row in rows]
    assert texts[0] == texts[1] == texts[2]


def test_a_filled_mask_is_read_in_a_line() -> None:
    filled = {"text": "a [MASK] .", "word": "cat", "pieces": ["dog", "cat"], "shares": [0.5, 0.25]}
    assert readable(filled) == "a [MASK] .  (cat): dog 50%, cat 25%"
