"""Prepared corpora opened for pre-training: one, or several mixed by weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bertsmith.config import PretrainConfig, weights_of
from bertsmith.data.mixture import Mixture
from bertsmith.data.remote import fetch_corpus, holds_corpus, is_remote
from bertsmith.data.shards import MANIFEST, Corpus, open_corpus, open_sound_shards
from bertsmith.errors import ConfigError


def are_prepared(sources: Sequence[str]) -> bool:
    """Tells whether the sources are folders that `prepare` wrote, and not raw text.

    Raises:
        ConfigError: some are and others are not.
    """
    prepared = [
        holds_corpus(source) if is_remote(source) else (Path(source) / MANIFEST).is_file()
        for source in sources
    ]
    if any(prepared) and not all(prepared):
        raise ConfigError(
            f"{sources[prepared.index(True)]} is a prepared corpus and "
            f"{sources[prepared.index(False)]} is not; give prepared corpora alone, or raw text "
            f"alone"
        )
    return all(prepared)


def local_places(sources: Sequence[str], fetched: Path, say: Callable[[str], None]) -> list[Path]:
    """Returns the folders of prepared corpora; those at URLs are fetched into `fetched` once.

    Raises:
        MissingInputError: a corpus cannot be read where it is.
        StorageError: this disk is full or fails.
    """
    places = []
    for number, source in enumerate(sources):
        place = fetched / f"{number:03}" if is_remote(source) else Path(source)
        if is_remote(source) and not place.is_dir():
            say(f"fetches {source}")
            fetch_corpus(source, place)
        places.append(place)
    return places


def open_prepared(
    places: Sequence[Path], config: PretrainConfig, say: Callable[[str], None]
) -> Corpus | Mixture:
    """Returns the corpus in a folder, or the mixture of several, every file of them checked.

    With `skip_bad_shards` damaged shards are passed over, and what is lost is said. Without
    `weights` each corpus is drawn as its pieces are many.

    Raises:
        ConfigError: there are not as many weights as corpora, or weights for a single one.
        MissingInputError, DataError: as `open_corpus`; or the corpora are of several tokenizers.
    """
    if config.skip_bad_shards:
        corpora = [open_sound_shards(place, say) for place in places]
    else:
        corpora = [open_corpus(place) for place in places]
    if len(corpora) == 1:
        refuse_weights(config, f"{places[0]} is the only corpus")
        return corpora[0]
    if config.weights is not None:
        return Mixture(tuple(corpora), weights_of(config.weights))
    return Mixture(tuple(corpora), tuple(float(corpus.total("train").pieces) for corpus in corpora))


def places_of(corpus: Corpus | Mixture) -> list[Path]:
    """Returns the folder of each corpus, as `open_prepared` takes them."""
    return [part.path for part in (corpus.corpora if isinstance(corpus, Mixture) else (corpus,))]


def refuse_weights(config: PretrainConfig, reason: str) -> None:
    """Raises ConfigError where weights are given and there is nothing to mix."""
    if config.weights is not None:
        raise ConfigError(
            f"weights is {config.weights!r}, but {reason}; give several prepared corpora, or leave "
            f"weights out"
        )


def describe(corpus: Corpus | Mixture) -> list[str]:
    """Returns a line on what each corpus holds, and on how often it is drawn in a mixture."""
    if isinstance(corpus, Mixture):
        return [
            f"{line}; {share:.1%} of the examples"
            for part, share in zip(corpus.corpora, corpus.shares, strict=True)
            for line in describe(part)
        ]
    total = corpus.total("train")
    return [
        f"{corpus.path}: {total.documents:,} documents, {total.pieces:,} pieces to learn from, "
        f"{corpus.total('held_out').pieces:,} held out, {corpus.vocab_size:,} kinds of piece"
    ]


def losses(corpus: Corpus | Mixture, config: PretrainConfig) -> dict[str, Any]:
    """Returns what damaged shards have cost, for the result, where they are passed over."""
    if not config.skip_bad_shards:
        return {}
    corpora = corpus.corpora if isinstance(corpus, Mixture) else (corpus,)
    lost = corpus.lost()
    return {
        "lost_shards": sum(len(part.bad) for part in corpora),
        "lost_documents": lost.documents,
        "lost_pieces": lost.pieces,
    }
