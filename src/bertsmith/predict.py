"""A model folder and text in; labels, numbers, filled masks or vectors out.

Rows of like length go through the model together, packed without padding under a token budget, and
come out in the order they were given. Files are read and answered a window at a time, so that
memory does not grow with their length.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.config import ColumnsConfig, InferenceConfig
from bertsmith.data.batches import PackedBatch, pack_texts
from bertsmith.data.choices import choice_of
from bertsmith.data.columns import Columns, choose_columns
from bertsmith.data.framing import Framed, group_by_length
from bertsmith.data.outputs import (
    check_suffix,
    write_vectors,
)
from bertsmith.data.questions import Question
from bertsmith.data.tables import open_table
from bertsmith.data.tagged import TaggedSentence
from bertsmith.engines.choose import Chosen
from bertsmith.engines.sample import Text, choose_for
from bertsmith.errors import ConfigError, DataError
from bertsmith.folder import Loaded, load_model
from bertsmith.model.kinds import Encoder, PretrainingModel
from bertsmith.model.published import encoder_in
from bertsmith.model.task_heads import TaskModel
from bertsmith.tasks.answer import Answer
from bertsmith.tasks.answers import answer
from bertsmith.tasks.choose import Choose
from bertsmith.tasks.forms import Prediction
from bertsmith.tasks.labelled import Example, read_examples
from bertsmith.tasks.pieces import TOKENS_PER_BATCH, encode, windows
from bertsmith.tasks.tag import Tag
from bertsmith.tasks.task import Task, task_of

Pooling = Literal["mean", "cls"]


def load(
    path: str | Path,
    engine: str = InferenceConfig.engine,
    precision: str = InferenceConfig.precision,
    *,
    int8_bound: float = InferenceConfig.int8_bound,
    sample: Iterable[Text] | Path = (),
    columns: ColumnsConfig | None = None,
) -> Model:
    """Returns the model of a folder that bertsmith or `transformers` wrote, ready for use.

    Args:
        path: the folder.
        engine: who computes the encoder: torch, onnxruntime, ctranslate2, or auto for the fastest
            of those that are installed and agree.
        precision: float32, or int8, which is refused where it is not near enough.
        int8_bound: what is near enough; see `InferenceConfig`.
        sample: some of your texts, or the file of them, on which auto and int8 are measured.
        columns: of that file.

    Raises:
        MissingInputError: there is no such folder, or the engine is not installed.
        CheckpointError: it is damaged, or holds another kind of model.
        ConfigError: the engine cannot compute the model, or not well enough in int8.
    """
    values = {"engine": engine, "precision": precision, "int8_bound": int8_bound}
    config = InferenceConfig.from_mapping(values, where="load")
    loaded = load_model(Path(path))
    return Model(loaded, str(path), choose_for(loaded, config, sample, columns, str(path)))


class Model:
    """A loaded model; which of its methods it has a head for depends on what it was trained for."""

    def __init__(self, loaded: Loaded, where: str, chosen: Chosen | None = None) -> None:
        self.loaded = loaded
        self.config = loaded.config
        self.tokenizer = loaded.tokenizer
        self.facts = loaded.facts
        chosen = chosen or Chosen(loaded.model)
        self._model, self.engine_said = chosen.model, chosen.said
        self.where = where
        self.max_length = int(loaded.facts.get("max_length", loaded.config.max_position_embeddings))

    @property
    def encoder(self) -> Encoder:
        """Returns the encoder, whatever stands on it."""
        return encoder_in(self._model)

    # ------------------------------------------------------------------------------ fill-mask

    def fill_mask(self, text: str, top: int = 5) -> list[list[dict[str, Any]]]:
        """Returns for each `[MASK]` of the text the `top` likeliest pieces with probabilities.

        Raises:
            ConfigError: the model has no head for masked pieces, or reads left to right.
            DataError: the text has no [MASK], or has one beyond the longest length.
        """
        if not isinstance(self._model, PretrainingModel):
            raise ConfigError(
                f"{self.where}: has no head for masked pieces; expected a model that "
                f"`bertsmith pretrain` wrote"
            )
        if self.config.is_decoder:
            raise ConfigError(
                f"{self.where}: reads left to right and has learnt no [MASK]; expected a model "
                f"that was pre-trained with --objective mlm"
            )
        vocabulary = self.tokenizer.vocabulary
        if not 1 <= top <= len(vocabulary.pieces):
            raise ConfigError(f"top is {top}; expected 1 to {len(vocabulary.pieces)}")
        row = encode(Example("text", text), self.tokenizer, self.max_length, with_special=True)
        places = np.flatnonzero(row.piece_ids == vocabulary.mask_id)
        if len(places) < max(1, text.count("[MASK]")):
            found = f"has no [MASK] in its first {self.max_length} pieces"
            if len(places):
                found = f"has a [MASK] after its first {self.max_length} pieces"
            raise DataError(f"the text {found}; expected one or more there")
        batch = pack_texts([row]).to(self._device)
        with torch.inference_mode():
            logits = self._model.logits(  # [M, V]
                batch.piece_ids,
                batch.segment_ids,
                batch.position_ids,
                batch.sequence_starts,
                torch.from_numpy(places).to(self._device),
            )
            shares = logits.float()[:, : len(vocabulary.pieces)].softmax(dim=1)  # [M, V]
            best = shares.topk(top)  # [M, top] twice
        return [
            [
                {"piece": vocabulary.pieces[piece], "probability": share}
                for share, piece in zip(row_shares, pieces, strict=True)
            ]
            for row_shares, pieces in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    # -------------------------------------------------------------------------------- vectors

    def embed(
        self,
        texts: Iterable[str],
        pooling: Pooling = "mean",
        layers: int = -1,
        normalize: bool = False,
    ) -> NDArray[np.float32]:
        """Returns one vector for each text, in their order. [N, H]

        Args:
            texts: any number of them.
            pooling: the mean over all pieces of a text, or the state of its first, [CLS].
            layers: which layer is read: -1 is the last one, 0 the embeddings.
            normalize: whether every vector is made one unit long.
        """
        examples = (Example("text", text) for text in texts)
        blocks = [block for block, _ in self._vectors(examples, pooling, layers, normalize)]
        return np.concatenate(blocks or [np.empty((0, self.config.hidden_size), np.float32)])

    def embed_file(
        self,
        data: Path,
        out: Path,
        columns: ColumnsConfig | None = None,
        *,
        pooling: Pooling = "mean",
        layers: int = -1,
        normalize: bool = False,
    ) -> dict[str, Any]:
        """Writes one vector for each text of a file to `out`, as an array of numpy.

        The file is plain text, one text a line, or a table with a column of texts. Returns `rows`,
        `dimensions`, `seconds` and `tokens_per_second`.
        """
        check_suffix(out, ".npy")
        started = time.monotonic()
        columns = columns or ColumnsConfig()
        if columns.glue:
            raise ConfigError("glue is for tasks; to embed texts, give a file and --text-column")
        table = open_table(data, columns)
        chosen = choose_columns(table, columns, label_names=None, known=self._trained_on())
        examples = read_examples(table, replace(chosen, pair=None))
        tokens = 0

        def blocks() -> Iterator[NDArray[np.float32]]:
            nonlocal tokens
            for block, block_tokens in self._vectors(examples, pooling, layers, normalize):
                tokens += block_tokens
                yield block

        rows = write_vectors(out, blocks(), self.config.hidden_size)
        seconds = time.monotonic() - started
        return {
            "rows": rows,
            "dimensions": self.config.hidden_size,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "columns": chosen.said(),
            **self.engine_said,
        }

    def _vectors(
        self, examples: Iterable[Example], pooling: Pooling, layers: int, normalize: bool
    ) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Yields the vectors of a window of texts, [N, H], and how many pieces these have."""
        depth = self.config.num_hidden_layers
        if not -depth - 1 <= layers <= depth:
            raise ConfigError(f"layers is {layers}; expected {-depth - 1} to {depth}")
        if pooling not in get_args(Pooling):
            raise ConfigError(f"pooling is {pooling!r}; expected mean or cls")
        if pooling == "cls" and self.config.is_decoder:
            raise ConfigError(
                f"{self.where}: reads left to right, so that its [CLS] has read nothing; "
                f"expected pooling mean"
            )
        for window in windows(examples):
            rows = [encode(example, self.tokenizer, self.max_length) for example in window]
            vectors = torch.empty(len(rows), self.config.hidden_size)  # [N, H]
            for group, batch in self._batches(rows):
                with torch.inference_mode():
                    states = self._states(batch, layers)  # [T, H]
                    pooled = _pooled(states, batch.sequence_starts, pooling)  # [S, H]
                    vectors[group] = pooled.float().cpu()
            if normalize:
                vectors = torch.nn.functional.normalize(vectors)  # [N, H]
            yield vectors.numpy(), sum(map(len, rows))

    def _states(self, batch: PackedBatch, layer: int) -> Tensor:
        inputs = (batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts)
        if layer in (-1, self.config.num_hidden_layers):
            return self.encoder(*inputs)  # [T, H]
        return self.encoder.layers(*inputs)[layer]  # [T, H]

    def _batches(self, rows: list[Framed]) -> Iterator[tuple[NDArray[np.int64], PackedBatch]]:
        budget = max([TOKENS_PER_BATCH, *map(len, rows)])
        for group in group_by_length([len(row) for row in rows], tokens_per_batch=budget):
            yield group, pack_texts([rows[place] for place in group]).to(self._device)

    # ---------------------------------------------------------------------------- predictions

    def predict(self, texts: Iterable[Text]) -> list[Prediction]:
        """Returns a label with the probability of each, or a number, for each text or pair.

        Raises:
            CheckpointError: the model was not trained for such a task.
            DataError: it was trained on pairs and gets a single text, or the other way round.
        """
        task = self.task
        if isinstance(task, Answer):
            raise ConfigError(f"{self.where}: answers questions; call answer(question, context)")
        if isinstance(task, Tag):
            raise ConfigError(f"{self.where}: tags words; call tag(sentences)")
        if isinstance(task, Choose):
            raise ConfigError(f"{self.where}: chooses among endings; call choose with these")
        examples = (self._example(number, text) for number, text in enumerate(texts, start=1))
        return [found for _, found in self.answers(task, examples)]

    def tag(self, sentences: Iterable[Sequence[str]]) -> list[Prediction]:
        """Returns for each sentence, given as its words, the tag of each word.

        The tags are the `answer`; `more` holds the probability of each and, of a model that tells
        intents, the intent.

        Raises:
            ConfigError: the model was trained for something else.
            DataError: a sentence is a text and not a list of words.
        """
        task = self.task
        if not isinstance(task, Tag):
            raise ConfigError(
                f"{self.where}: its task is {task.name}; expected a model that "
                f"`bertsmith finetune tag` wrote"
            )
        examples = (_tagged(number, words) for number, words in enumerate(sentences, start=1))
        return [found for _, found in self.answers(task, examples)]

    def answer(self, question: str, context: str) -> dict[str, Any]:
        """Returns the words of the context that answer the question.

        `text` is empty where the model finds no answer; `probability` is its own among `n_best`,
        the likeliest answers; `start` and `end` are its characters in the context.

        Raises:
            ConfigError: the model was trained for something else.
        """
        task = self.task
        if not isinstance(task, Answer):
            raise ConfigError(
                f"{self.where}: its task is {task.name}; expected a model that "
                f"`bertsmith finetune answer` wrote"
            )
        asked = Question("the question", "question", question, context)
        [(_, found)] = self.answers(task, [asked])
        return {"text": found.answer, **found.more}

    def choose(self, rows: Iterable[tuple[str, Sequence[str]]]) -> list[Prediction]:
        """Returns for each stem with its endings the likeliest of them.

        `more` holds its number, from 0, as `index`, and its text as `ending`.

        Raises:
            ConfigError: the model was trained for something else.
            DataError: there are fewer than two endings.
        """
        task = self.task
        if not isinstance(task, Choose):
            raise ConfigError(
                f"{self.where}: its task is {task.name}; expected a model that "
                f"`bertsmith finetune choose` wrote"
            )
        spelling = self.facts.get("choice_columns", {}).get("spelling", "number")
        examples = (
            choice_of(stem, endings, spelling, f"row {number}")
            for number, (stem, endings) in enumerate(rows, start=1)
        )
        return [found for _, found in self.answers(task, examples)]

    @property
    def task(self) -> Task:
        """Returns the task that it was trained for.

        Raises:
            CheckpointError: it was trained for none.
        """
        return task_of(self.facts, self.where)

    def answers(self, task: Task, examples: Iterable[Any]) -> Iterator[tuple[Any, Prediction]]:
        """Yields each of a task's own examples with its prediction, in their order."""
        model = cast(TaskModel, self._model)  # a folder with a task holds its head
        return answer(task, model, self.tokenizer, examples, self.max_length)

    def _example(self, number: int, text: Text) -> Example:
        where = f"text {number}"
        self._check_pair(not isinstance(text, str), where)
        return Example(where, text) if isinstance(text, str) else Example(where, *text)

    def _check_pair(self, is_pair: bool, where: str) -> None:
        trained = self._trained_on()
        if trained and is_pair != (trained.pair is not None):
            wanted, found = ("single texts", "a pair") if is_pair else ("pairs", "a single text")
            raise DataError(
                f"{where}: holds {found}, but {self.where} was trained on {wanted}; expected those"
            )

    def _trained_on(self) -> Columns | None:
        """Returns the columns that the model was trained on, where its folder remembers them."""
        found = self.facts.get("columns")
        if not found:
            return None
        return Columns(found["text"], found.get("pair"), found.get("label"))

    @property
    def _device(self) -> torch.device:
        return self.encoder.embeddings.pieces.weight.device


def _tagged(number: int, words: Sequence[str]) -> TaggedSentence:
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise DataError(
            f"sentence {number}: holds {str(words)[:40]!r}; expected a list of words, "
            f"as in ['Paris', 'sleeps']"
        )
    return TaggedSentence("sentence", number, tuple(words))


def _pooled(states: Tensor, sequence_starts: Tensor, pooling: Pooling) -> Tensor:
    """Returns one vector for each sequence of states. [T, H] -> [S, H]"""
    starts = sequence_starts.to(device=states.device, dtype=torch.int64)  # [S + 1]
    if pooling == "cls":
        return states[starts[:-1]]  # [S, H]
    lengths = starts.diff()  # [S]
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    sums = states.new_zeros(len(lengths), states.shape[1])  # [S, H]
    return sums.index_add_(0, owners, states) / lengths[:, None]  # [S, H]
