"""How good a model is: a pre-trained one on raw text, a fine-tuned one on labelled rows.

bertsmith evaluate run/model TEXT...
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from torch import Tensor

from bertsmith.config import (
    ColumnsConfig,
    CorpusConfig,
    ExamplesConfig,
    InferenceConfig,
    PrepareConfig,
)
from bertsmith.data.batches import read_epoch
from bertsmith.data.examples import PretrainingExamples
from bertsmith.data.packing import PackedBatch
from bertsmith.data.shards import open_corpus
from bertsmith.engines.sample import choose_for
from bertsmith.errors import ConfigError, DataError
from bertsmith.folder import Loaded, load_model
from bertsmith.model.kinds import PretrainingModel
from bertsmith.model.task_heads import TaskModel
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.prepare import prepare
from bertsmith.recipes.pretraining.data import as_measured
from bertsmith.train.loop import evaluate as measure

_TOKENS_PER_BATCH = 4096
_SEED = 0


def evaluate(
    model: Path,
    data: Sequence[str],
    corpus: CorpusConfig | None = None,
    columns: ColumnsConfig | None = None,
    examples: ExamplesConfig | None = None,
    inference: InferenceConfig | None = None,
) -> dict[str, Any]:
    """Returns the losses of a pre-trained model on raw text, or a fine-tuned one's scores on rows.

    Raises:
        ConfigError: a fine-tuned model is given more than one labelled file.
        DataError: the model was trained for neither, or the data does not hold what it must.
    """
    loaded = load_model(model)
    if isinstance(loaded.model, PretrainingModel):
        return evaluate_text(model, data, corpus, examples, inference)
    if isinstance(loaded.model, TaskModel):
        if len(data) != 1:
            raise ConfigError(f"data: {len(data)} files are given; expected one labelled file")
        return evaluate_task(model, Path(data[0]), columns, inference)
    raise DataError(
        f"{model}: holds an encoder without a head{loaded.left_out}; expected a pre-trained model "
        f"with its heads, or a fine-tuned one"
    )


def evaluate_text(
    model: Path,
    sources: Sequence[str],
    corpus: CorpusConfig | None = None,
    examples: ExamplesConfig | None = None,
    inference: InferenceConfig | None = None,
) -> dict[str, Any]:
    """Returns how well a pre-trained model predicts the masked pieces of raw text.

    The text is cut into examples as for pre-training, all of it, with the same pairs and masks each
    time, and every piece to predict is hidden; examples are as long as the model allows, at most
    128 pieces by default. A model that reads left to right predicts every next piece instead, and
    one that has learnt the order of sentences is asked for that.

    Returns:
        `mlm_loss`, `perplexity`, `mlm_accuracy`, or left to right `lm_loss`, `perplexity`,
        `lm_accuracy`; `nsp_loss` and `nsp_accuracy`, of next sentences or of their order, where the
        model has that head; `examples`, `tokens` and `seconds`.

    Raises:
        MissingInputError, DataError: the text cannot be read, or there is none.
    """
    started = time.monotonic()
    loaded = load_model(model)
    if inference and inference.needs_sample:
        raise ConfigError(
            f"{model}: engine {inference.engine} with precision {inference.precision} is measured "
            f"on texts or labelled rows, not on a corpus; expected an engine by name, in float32"
        )
    chosen = choose_for(loaded, inference or InferenceConfig())
    config = examples or _usual_examples(loaded)
    everything = PrepareConfig(held_out=0.0)
    with TemporaryDirectory(prefix="bertsmith-") as place:
        prepare(
            sources, loaded.tokenizer, Path(place) / "corpus", corpus or CorpusConfig(), everything
        )
        text = open_corpus(Path(place) / "corpus", verify=False)
        read = PretrainingExamples(text, loaded.tokenizer.vocabulary, config, seed=_SEED)
        budget = max(_TOKENS_PER_BATCH, config.sequence_length)
        count = Counter[str]()
        vocabulary = loaded.tokenizer.vocabulary
        batches = (
            as_measured(batch, config, vocabulary)
            for batch in read_epoch(read, tokens_per_batch=budget)
        )
        figures = measure(chosen.model, _counted(batches, count))
    if not count["examples"]:
        raise DataError(
            f"{', '.join(sources)}: holds no text of two pieces or more; expected text to cut into "
            f"examples"
        )
    loss = "lm_loss" if loaded.config.is_decoder else "mlm_loss"
    return {
        loss: figures[loss],
        "perplexity": math.exp(figures[loss]),
        **{name: value for name, value in figures.items() if name != loss},
        **count,
        "seconds": round(time.monotonic() - started, 3),
        **chosen.said,
    }


def _usual_examples(loaded: Loaded) -> ExamplesConfig:
    """Returns the paper's examples, asking for what the model was made to tell."""
    length = min(ExamplesConfig.sequence_length, loaded.config.max_position_embeddings)
    if loaded.config.is_decoder:
        return ExamplesConfig(sequence_length=length, objective="lm", sentence_task="none")
    learnt = loaded.facts.get("settings", {}).get("sentence_task")
    task: Literal["nsp", "sop"] = "sop" if learnt == "sop" else "nsp"
    return ExamplesConfig(sequence_length=length, sentence_task=task)


def _counted(batches: Iterator[PackedBatch], count: Counter[str]) -> Iterator[dict[str, Tensor]]:
    """Yields the tensors of each batch, counting examples and tokens as they pass."""
    for batch in batches:
        count.update(examples=batch.num_sequences, tokens=batch.num_tokens)
        yield batch.tensors()
