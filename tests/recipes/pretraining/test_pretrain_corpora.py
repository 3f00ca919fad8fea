"""Pre-training on several corpora, on damaged ones, and what of them is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from tests.recipes.toy_runs import (
    PREPARE,
    SETTINGS,
    STEPS,
    as_killed_after,
    metrics_of,
    settings_with,
    state_of,
    weights_of,
)
from tests.recipes.toy_text import write_text, write_vocabulary

from bertsmith.config import CorpusConfig, ExamplesConfig
from bertsmith.data.mixture import Mixture
from bertsmith.data.packing import PackedBatch
from bertsmith.data.shards import Corpus, open_corpus
from bertsmith.errors import ConfigError, DataError, FolderInUseError
from bertsmith.recipes.prepare import prepare
from bertsmith.recipes.pretraining.corpora import open_prepared
from bertsmith.recipes.pretraining.data import held_out_batches, unigram_loss
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.text.tokenizer_files import read_tokenizer

MIXED = settings_with(weights="0.3,0.7")


@pytest.fixture(scope="module")
def second_corpus(tmp_path_factory: pytest.TempPathFactory, toy_vocabulary: Path) -> Path:
    folder = tmp_path_factory.mktemp("second")
    text = write_text(folder / "text.txt", 12, seed=5)
    tokenizer = read_tokenizer(toy_vocabulary)
    prepare([str(text)], tokenizer, folder / "corpus", CorpusConfig(), PREPARE)
    return folder / "corpus"


@pytest.fixture(scope="module")
def mixed_run(
    tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path, second_corpus: Path
) -> Path:
    out = tmp_path_factory.mktemp("mixed") / "run"
    result = pretrain([str(toy_corpus), str(second_corpus)], out, MIXED)
    assert result["split"] == "held_out"
    assert "lost_shards" not in result
    return out


# ---------------------------------------------------------------------------------- several


@pytest.mark.parametrize("step", [0, 1, 4, 7, 10, STEPS - 1])
def test_resumed_after_any_step_a_mixed_run_ends_as_the_unbroken_one(
    step: int, tmp_path: Path, mixed_run: Path, toy_corpus: Path, second_corpus: Path
) -> None:
    out = as_killed_after(mixed_run, step, tmp_path / "run")
    pretrain([str(toy_corpus), str(second_corpus)], out, MIXED, resume=True)
    assert weights_of(out) == weights_of(mixed_run)
    assert metrics_of(out) == metrics_of(mixed_run)
    assert state_of(out) == state_of(mixed_run)


def test_the_weights_decide_what_is_read(
    tmp_path: Path, mixed_run: Path, toy_corpus: Path, second_corpus: Path
) -> None:
    pretrain(
        [str(toy_corpus), str(second_corpus)], tmp_path / "run", settings_with(weights="0.5,0.5")
    )
    assert weights_of(tmp_path / "run") != weights_of(mixed_run)
    settings = json.loads((mixed_run / "settings.json").read_text())
    assert settings["weights"] == "0.3,0.7"
    assert settings["data"] == [str(toy_corpus), str(second_corpus)]


def test_another_mixture_is_no_continuation(
    tmp_path: Path, mixed_run: Path, toy_corpus: Path, second_corpus: Path
) -> None:
    out = as_killed_after(mixed_run, 4, tmp_path / "run")
    sources = [str(toy_corpus), str(second_corpus)]
    with pytest.raises(ConfigError, match=r"weights: '0\.3,0\.7' -> '0\.4,0\.6'"):
        pretrain(sources, out, settings_with(weights="0.4,0.6"), resume=True)
    with pytest.raises(ConfigError, match="data: "):
        pretrain(sources[::-1], out, MIXED, resume=True)


def test_corpora_are_drawn_as_their_sizes_unless_weighed(
    toy_corpus: Path, second_corpus: Path
) -> None:
    mixture = open_prepared([toy_corpus, second_corpus], SETTINGS.run, print)
    assert isinstance(mixture, Mixture)
    sizes = [open_corpus(path).total("train").pieces for path in (toy_corpus, second_corpus)]
    assert mixture.shares == tuple(size / sum(sizes) for size in sizes)


def test_held_out_batches_come_from_all_corpora(toy_corpus: Path, second_corpus: Path) -> None:
    mixture = open_prepared([toy_corpus, second_corpus], MIXED.run, print)
    vocabulary = mixture.read_tokenizer().vocabulary

    def batches(corpus: Corpus | Mixture, most: int) -> list[PackedBatch]:
        return held_out_batches(
            corpus,
            vocabulary,
            ExamplesConfig(sequence_length=20),
            most_examples=most,
            tokens_per_batch=40,
        )

    assert isinstance(mixture, Mixture)
    expected = [*batches(mixture.corpora[0], 3), *batches(mixture.corpora[1], 7)]
    found = batches(mixture, 10)
    assert len(found) == len(expected) >= 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.piece_ids.tolist() == theirs.piece_ids.tolist()


def test_the_unigram_model_of_a_mixture_knows_its_weights(
    toy_corpus: Path, second_corpus: Path
) -> None:
    """Against frequencies that are counted by repeating each corpus as its weight asks."""
    mixture = open_prepared([toy_corpus, second_corpus], MIXED.run, print)
    assert isinstance(mixture, Mixture)
    vocabulary = mixture.read_tokenizer().vocabulary
    batches = held_out_batches(
        mixture, vocabulary, SETTINGS.examples, most_examples=10, tokens_per_batch=100
    )
    shares = np.zeros(len(vocabulary.pieces))
    for corpus, share in zip(mixture.corpora, (0.3, 0.7), strict=True):
        pieces = np.concatenate(
            [corpus.open_shard("train", at).pieces for at in range(len(corpus.shards("train")))]
        )
        shares += share * np.bincount(pieces, minlength=len(shares)) / len(pieces)
    total = mixture.total("train").pieces
    frequencies = (shares * total + 1) / (total + len(shares))
    labels = np.concatenate(
        [batch.masked_labels.numpy() for batch in batches if batch.masked_labels is not None]
    )
    expected = -np.log(frequencies[labels]).mean()
    assert unigram_loss(mixture, batches) == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------------------------- refused


def test_corpora_of_two_tokenizers_are_refused_with_both_fingerprints(
    tmp_path: Path, toy_corpus: Path
) -> None:
    other = read_tokenizer(write_vocabulary(tmp_path / "vocab", "zebra"))
    text = write_text(tmp_path / "text.txt", 12)
    prepare([str(text)], other, tmp_path / "other", CorpusConfig(), PREPARE)
    ours = open_corpus(toy_corpus).tokenizer_fingerprint[:16]
    message = rf"other: made with tokenizer {other.fingerprint[:16]}, but that of .* is {ours}"
    with pytest.raises(DataError, match=message):
        pretrain([str(toy_corpus), str(tmp_path / "other")], tmp_path / "run", SETTINGS)


def test_what_cannot_be_mixed_is_refused(
    tmp_path: Path, toy_corpus: Path, second_corpus: Path, toy_vocabulary: Path
) -> None:
    text = write_text(tmp_path / "text.txt", 12)
    two = [str(toy_corpus), str(second_corpus)]
    for number, (sources, weights, message) in enumerate(
        (
            ([str(toy_corpus), str(text)], None, "corpus is a prepared corpus and .*text.txt is"),
            (two, "0.2,0.3,0.5", "3 weights for 2 corpora"),
            (two[:1], "1.0", "is the only corpus; give several prepared corpora"),
            ([str(text)], "1.0", "raw text becomes a single corpus"),
        )
    ):
        with pytest.raises(ConfigError, match=message):
            pretrain(
                sources,
                tmp_path / f"run{number}",
                settings_with(weights=weights),
                vocab=toy_vocabulary,
            )
    for weights in ("0.7;0.3", "1,0", "1,-1", "1,", "nan,1", "1e3,1"):
        with pytest.raises(ConfigError, match="expected a number above zero for each corpus"):
            settings_with(weights=weights)


def test_a_vocabulary_and_the_size_of_one_are_refused_together(
    tmp_path: Path, toy_vocabulary: Path
) -> None:
    text = write_text(tmp_path / "text.txt", 12)
    with pytest.raises(ConfigError, match=r"vocab is .*vocab and vocab_size is 100; expected one"):
        pretrain([str(text)], tmp_path / "run", settings_with(vocab_size=100), vocab=toy_vocabulary)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------- damaged


def test_a_damaged_shard_stops_a_run_unless_it_may_be_skipped(
    tmp_path: Path, toy_vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, damaged = write_text(tmp_path / "text.txt", 60), tmp_path / "corpus"
    prepare([str(text)], read_tokenizer(toy_vocabulary), damaged, CorpusConfig(), PREPARE)
    facts = open_corpus(damaged).shards("train")
    assert len(facts) > 1
    shard = damaged / "train-00000.pieces.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    with pytest.raises(DataError, match=rf"{shard.name}: ends at offset {len(content) - 10:,}"):
        pretrain([str(damaged)], tmp_path / "stopped", SETTINGS)
    skipping = settings_with(skip_bad_shards=True)
    result = pretrain([str(damaged)], tmp_path / "run", skipping)
    assert result["steps"] == STEPS
    assert (result["lost_shards"], result["lost_pieces"]) == (1, facts[0].pieces)
    assert result["lost_documents"] == facts[0].documents
    said = capsys.readouterr().err
    assert f"passed over a damaged shard: {shard}" in said
    assert f"lost: {facts[0].documents:,} documents, {facts[0].pieces:,} pieces" in said
    shard.write_bytes(content)  # whole again: another text than the run was begun with
    out = as_killed_after(tmp_path / "run", 4, tmp_path / "again")
    with pytest.raises(DataError, match="was trained on corpus"):
        pretrain([str(damaged)], out, skipping, resume=True)
    assert pretrain([str(damaged)], tmp_path / "whole", skipping)["lost_shards"] == 0


def test_a_run_that_may_skip_is_the_same_where_nothing_is_damaged(
    tmp_path: Path, toy_corpus: Path, unbroken_run: Path
) -> None:
    skipping = replace(SETTINGS, run=replace(SETTINGS.run, skip_bad_shards=True))
    pretrain([str(toy_corpus)], tmp_path / "run", skipping)
    assert weights_of(tmp_path / "run") == weights_of(unbroken_run)


# ---------------------------------------------------------------------------------- remote


def test_a_corpus_at_a_url_is_written_fetched_once_and_read(
    tmp_path: Path, toy_vocabulary: Path, toy_corpus: Path
) -> None:
    storage = fsspec.filesystem("memory")
    storage.store.clear()
    text = write_text(tmp_path / "text.txt", 20)
    url, tokenizer = "memory://corpora/toy", read_tokenizer(toy_vocabulary)
    result = prepare([str(text)], tokenizer, url, CorpusConfig(), PREPARE)
    assert result["out"] == url
    assert storage.cat("/corpora/toy/train-00000.pieces.npy") == (
        (toy_corpus / "train-00000.pieces.npy").read_bytes()
    )
    with pytest.raises(FolderInUseError, match="memory://corpora/toy: holds files"):
        prepare([str(text)], tokenizer, url, CorpusConfig(), PREPARE)
    pretrain([url], tmp_path / "run", settings_with(steps=4))
    storage.store.pop("/corpora/toy/train-00000.pieces.npy")
    pretrain([url], tmp_path / "run", SETTINGS, resume=True)
    assert metrics_of(tmp_path / "run")[-1]["step"] == STEPS
    storage.store.clear()
