"""Fine-tuning on rows given in memory, as a data frame or a list: the recipe, and no files left."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bertsmith.config import FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.data.tagged import TaggedSentence
from bertsmith.errors import DataError
from bertsmith.folder import Loaded, load_model
from bertsmith.progress import ProgressLine
from bertsmith.recipes.finetuning.finetune import finetune_rows
from bertsmith.recipes.finetuning.rows import LabelledData, label_rows
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.task import Task
from bertsmith.text.wordpiece import Tokenizer

Text = str | tuple[str, str]  # a text, or a pair of texts


def texts_of(given: Any, name: str) -> list[Text]:
    """Returns the texts, or pairs of texts, of a list, an array, a series or a data frame.

    Rows of an array or a frame of two columns are pairs, and so are tuples and lists of two texts.
    `name` is what messages call it.

    Raises:
        DataError: it is one text alone, or a row is no text, or some are pairs and some are not.
    """
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise DataError(
            f"{name} is {type(given).__name__} {str(given)[:40]!r}; expected many texts, "
            f"as in ['good', 'bad']"
        )
    rows = given.to_numpy() if hasattr(given, "to_numpy") else given
    texts = [_text(row, f"{name}[{number}]") for number, row in enumerate(rows)]
    for number, text in enumerate(texts):
        if isinstance(text, str) != isinstance(texts[0], str):
            found = "a text" if isinstance(text, str) else "a pair"
            raise DataError(f"{name}[{number}] is {found}, unlike {name}[0]; expected all alike")
    return texts


def example_of(text: Text, label: str, where: str) -> Example:
    """Returns a row as a file would hold it.

    Raises:
        DataError: a text is empty, from which nothing can be learnt.
    """
    first, second = (text, None) if isinstance(text, str) else text
    if not first.strip() or (second is not None and not second.strip()):
        raise DataError(f"{where} is empty; expected a text: fill it or drop the row")
    return Example(where, first, second, label)


def sentences_of(given: Any, name: str) -> list[tuple[str, ...]]:
    """Returns the words of many sentences.

    Raises:
        DataError: it is no list of sentences, or a sentence is no list of words.
    """
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise DataError(
            f"{name} is {type(given).__name__} {str(given)[:40]!r}; expected many sentences, "
            f"as in [['Paris', 'sleeps']]"
        )
    sentences = []
    for number, row in enumerate(given):
        is_row = isinstance(row, Iterable) and not isinstance(row, str | bytes | Mapping)
        words = list(row) if is_row else [None]
        if not all(isinstance(word, str) for word in words):
            raise DataError(
                f"{name}[{number}] is {row!r:.40}; expected a list of words, "
                f"as in ['Paris', 'sleeps']"
            )
        sentences.append(tuple(map(str, words)))
    return sentences


def tagged_of(given: Any, tags: Any, name: str, tags_name: str) -> list[TaggedSentence]:
    """Returns sentences as a file would hold them, with their tags as text.

    Raises:
        DataError: a sentence has no words, or not as many as tags; or see `sentences_of`.
    """
    sentences, rows = sentences_of(given, name), list(tags)
    if len(sentences) != len(rows):
        raise DataError(
            f"{name} has {len(sentences)} sentences and {tags_name} {len(rows)}; "
            f"expected the tags of each sentence"
        )
    for number, (words, row) in enumerate(zip(sentences, rows, strict=True)):
        if not words:
            raise DataError(f"{name}[{number}] has no words; expected some: drop the sentence")
        if isinstance(row, str) or len(row) != len(words):
            raise DataError(
                f"{tags_name}[{number}] is {row!r:.40}; expected a list of {len(words)} tags, "
                f"one for each word of {name}[{number}]"
            )
    return [
        TaggedSentence(name, number, words, tuple(map(str, row)))
        for number, (words, row) in enumerate(zip(sentences, rows, strict=True))
    ]


def columns_of(texts: Sequence[Text]) -> dict[str, str | None]:
    """Returns the columns that a file for such a model has: what its folder remembers of them."""
    if texts and not isinstance(texts[0], str):
        return {"text": "sentence1", "pair": "sentence2", "label": "label"}
    return {"text": "text", "pair": None, "label": "label"}


def finetune_given(
    task: Task,
    train: Sequence[Any],
    dev: Sequence[Any] | None,
    model: Path,
    config: FinetuneConfig,
    optimizer: OptimizerConfig,
    options: TaskConfig,
    facts: Mapping[str, Any],
    *,
    verbose: bool,
) -> tuple[Loaded, dict[str, Any]]:
    """Fine-tunes on examples; returns the model of the best epoch, and the recipe's result.

    The run is written to a temporary folder, which is gone at the end. Torch's generator and its
    number of threads are left as they were found.

    Args:
        task: with the labels of the training rows.
        train, dev: examples of the task; without `dev` a share of `train` is split off.
        model: folder of the encoder.
        config, optimizer, options: of the run.
        facts: what the model shall remember besides.
        verbose: whether the run shows on standard error how far it is.

    Raises:
        BertsmithError: see `finetune_rows`.
    """

    def read(tokenizer: Tokenizer, say: Any) -> LabelledData:
        rows = list(train), None if dev is None else list(dev)
        return label_rows(task, dict(facts), *rows, tokenizer, config, say)

    settings = config.to_mapping() | optimizer.to_mapping() | options.to_mapping()
    settings |= {"task": task.name}
    threads = torch.get_num_threads()
    with TemporaryDirectory(prefix="bertsmith-") as place, torch.random.fork_rng(devices=[]):
        run = Path(place) / "run"
        try:
            result = finetune_rows(
                read,
                model,
                run,
                config,
                optimizer,
                settings,
                files={"model": str(model)},
                progress=ProgressLine(None if verbose else io.StringIO()),
                with_report=False,
            )
        finally:
            torch.set_num_threads(threads)
        return load_model(run / "best"), result


def _text(row: Any, where: str) -> Text:
    """Returns a row's text or pair; a row of one column is a text."""
    parts = [row] if isinstance(row, str) else row
    if not isinstance(parts, Iterable) or isinstance(parts, bytes | Mapping):
        raise DataError(f"{where} is {row!r:.40}; expected a text, or a pair of texts")
    parts = list(parts)
    if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
        raise DataError(f"{where} is {row!r:.40}; expected a text, or a pair of texts")
    return str(parts[0]) if len(parts) == 1 else (str(parts[0]), str(parts[1]))
