"""The corpus of a pre-training run: one that is prepared, or that is made of raw text first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bertsmith.config import PretrainConfig, VocabConfig, bert_of_size
from bertsmith.data.mixture import Mixture
from bertsmith.data.shards import MANIFEST, Corpus
from bertsmith.errors import ConfigError
from bertsmith.progress import ProgressLine
from bertsmith.recipes.prepare import prepare
from bertsmith.recipes.pretraining.corpora import (
    are_prepared,
    describe,
    local_places,
    open_prepared,
    refuse_weights,
)
from bertsmith.recipes.pretraining.settings import PretrainSettings
from bertsmith.recipes.vocabulary import learn
from bertsmith.text.tokenizer_files import read_tokenizer
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.run_folder import RunFolder


def find_corpus(
    sources: Sequence[str],
    settings: PretrainSettings,
    vocab: Path | None,
    folder: RunFolder,
    progress: ProgressLine,
) -> tuple[Corpus | Mixture, Tokenizer]:
    """Returns the corpus that was given, or that is made of the raw text, and its tokenizer.

    Args:
        sources: prepared corpora, or raw text.
        settings: of the run.
        vocab: the folder of a vocabulary, if one is given.
        folder: of the run, where what is made or fetched is kept.
        progress: where a waiting person sees it.

    Raises:
        ConfigError: settings do not fit what is there.
        DataError: the text, a corpus or the vocabulary does not hold what it must.
        MissingInputError: a corpus is not there.
    """
    if are_prepared(sources):
        places = local_places(sources, folder.path / "fetched", progress.say)
        if settings.run.vocab_size is not None:
            raise ConfigError(
                f"vocab_size is given, but {places[0]} was prepared with a vocabulary of its own; "
                f"give raw text, or leave vocab_size out"
            )
    else:
        refuse_weights(settings.run, "raw text becomes a single corpus")
        places = [folder.path / "corpus"]
        if not (places[0] / MANIFEST).is_file():
            _make_corpus(sources, settings, vocab, places[0], progress)
    corpus = open_prepared(places, settings.run, progress.say)
    if vocab is not None:
        corpus.require_tokenizer(read_tokenizer(vocab).fingerprint, f"that of {vocab}")
    tokenizer = corpus.read_tokenizer()
    _check_case(settings.run, tokenizer, places[0])
    for line in describe(corpus):
        progress.say(line)
    return corpus, tokenizer


def _make_corpus(
    sources: Sequence[str],
    settings: PretrainSettings,
    vocab: Path | None,
    place: Path,
    progress: ProgressLine,
) -> None:
    if vocab is not None:
        _check_case(settings.run, read_tokenizer(vocab), vocab)
    else:
        vocab = place.with_name("vocab")
        size = settings.run.vocab_size or _usual_vocab_size(settings.run)
        progress.say(f"learns a vocabulary of {size:,} pieces")
        learn(
            sources,
            vocab,
            VocabConfig(size=size, cased=bool(settings.run.cased)),
            settings.corpus,
            settings.prepare.workers,
            on_progress=lambda line: progress.show(None, line),
        )
    progress.say("prepares the corpus")
    prepare(
        sources,
        read_tokenizer(vocab),
        place,
        settings.corpus,
        settings.prepare,
        on_progress=lambda done: progress.show(None, f"{done / 1e6:,.0f} MB prepared"),
    )


def _check_case(config: PretrainConfig, tokenizer: Tokenizer, where: Path) -> None:
    """Raises ConfigError where the vocabulary that is there has another case than was asked for."""
    is_cased = not tokenizer.casing.do_lower_case
    if config.cased is not None and config.cased != is_cased:
        kinds = {True: "cased", False: "uncased"}
        raise ConfigError(
            f"cased is {config.cased}, but the vocabulary of {where} is {kinds[is_cased]}; leave "
            f"cased out, or give raw text alone and a vocabulary is learnt that is "
            f"{kinds[config.cased]}"
        )


def _usual_vocab_size(config: PretrainConfig) -> int:
    """Returns the published size for wide encoders and a smaller one for narrow ones.

    Up to a width of 512, half the parameters or more would go into vectors of 30,522 pieces.
    """
    return 30_522 if bert_of_size(config.size).hidden_size > 512 else 8_192
