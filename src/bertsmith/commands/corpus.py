"""Commands on raw text: a vocabulary, and a corpus made with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from bertsmith.commands.arguments import Out
from bertsmith.config import (
    CorpusConfig,
    EngineConfig,
    FilterConfig,
    Help,
    PrepareConfig,
    VocabConfig,
)
from bertsmith.flags import Given, Result

Texts = Annotated[list[str], Help("raw text: files, folders, globs or URLs")]


def vocab(
    given: Given,
    text: Texts,
    *,
    out: Out,
    workers: Annotated[int | None, Help("processes; by default one per core")] = None,
) -> Result:
    """Learns a WordPiece vocabulary from raw text."""
    from bertsmith.progress import ProgressLine
    from bertsmith.recipes.vocabulary import learn

    with ProgressLine() as progress:
        return learn(
            text,
            out,
            given.stage(VocabConfig),
            given.stage(CorpusConfig),
            workers,
            engine=given.stage(EngineConfig),
            on_progress=lambda line: progress.show(None, line),
        )


def prepare(
    given: Given,
    text: Texts,
    *,
    vocab: Annotated[Path, Help("folder of the vocabulary")],
    out: Annotated[str, Help("folder to write, or the URL of one")],
) -> Result:
    """Tokenises raw text, once, into shards that pre-training reads."""
    from bertsmith.progress import ProgressLine
    from bertsmith.recipes.prepare import prepare
    from bertsmith.text.tokenizer_files import read_tokenizer

    with ProgressLine() as progress:
        return prepare(
            text,
            read_tokenizer(vocab),
            out,
            given.stage(CorpusConfig),
            given.stage(PrepareConfig),
            filters=given.stage(FilterConfig),
            engine=given.stage(EngineConfig),
            on_progress=lambda done: progress.show(None, f"{done / 1e6:,.0f} MB prepared"),
        )


COMMANDS = (
    (vocab, (VocabConfig, CorpusConfig, EngineConfig)),
    (prepare, (CorpusConfig, PrepareConfig, FilterConfig, EngineConfig)),
)
