"""A model folder and text in; labels, numbers, filled masks or vectors out.

Rows of like length go through the model together, packed without padding under a token budget, and
come out in the order they were given. Files are read and answered a window at a time, so that
memory does not grow with their length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import ColumnsConfig, InferenceConfig
from bertsmith.data.choices import choice_of
from bertsmith.data.columns import Columns
from bertsmith.data.questions import Question
from bertsmith.data.tagged import TaggedSentence
from bertsmith.engines.choose import Chosen, choose
from bertsmith.engines.sample import Text, choose_for
from bertsmith.errors import ConfigError, DataError
from bertsmith.folder import Loaded, load_model
from bertsmith.interop.sentence_transformers import pooling_facts, vector_defaults
from bertsmith.interop.sources import model_folder
from bertsmith.model.kinds import Encoder, PretrainingModel
from bertsmith.model.published import encoder_in
from bertsmith.model.task_heads import TaskModel
from bertsmith.tasks import masks
from bertsmith.tasks.answer import Answer
from bertsmith.tasks.answers import answer
from bertsmith.tasks.choose import Choose
from bertsmith.tasks.forms import Prediction
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.pieces import encode, encoded_ahead
from bertsmith.tasks.tag import Tag
from bertsmith.tasks.task import Task, task_of
from bertsmith.tasks.vectors import Pooling, Reading, vectors_of
from bertsmith.tasks.whitening import Whitening, finished


def load(
    path: str | Path,
    engine: str = InferenceConfig.engine,
    precision: str = InferenceConfig.precision,
    *,
    int8_bound: float = InferenceConfig.int8_bound,
    sample: Iterable[Text] | Path = (),
    columns: ColumnsConfig | None = None,
) -> Model:
    """Returns a model, ready for use.

    Args:
        path: its folder, or whatever else `interop.sources` tells of.
        engine: who computes the encoder: torch, onnxruntime, ctranslate2, or auto for the fastest
            of those that are installed and agree.
        precision: float32, or int8, which is refused where it is not near enough.
        int8_bound: what is near enough; see `InferenceConfig`.
        sample: some of your texts, or the file of them, on which auto and int8 are measured.
        columns: of that file.

    Raises:
        MissingInputError: there is no such folder, the hub gives no model of that name, or the
            engine is not installed.
        CheckpointError: it is damaged, or holds another kind of model.
        ConfigError: the engine cannot compute the model, or not well enough in int8.
    """
    values = {"engine": engine, "precision": precision, "int8_bound": int8_bound}
    config = InferenceConfig.from_mapping(values, where="load")
    folder = model_folder(path, say=_say)
    loaded = load_model(folder)
    loaded = replace(loaded, facts=pooling_facts(folder) | loaded.facts)
    return Model(loaded, str(path), choose_for(loaded, config, sample, columns, str(path)))


class Model:
    """A loaded model; which of its methods it has a head for depends on what it was trained for."""

    def __init__(self, loaded: Loaded, where: str, chosen: Chosen | None = None) -> None:
        self.loaded = loaded
        self.config = loaded.config
        self.tokenizer = loaded.tokenizer
        self.facts = loaded.facts
        chosen = chosen or choose(loaded.model, InferenceConfig(), ())
        self._model, self.engine_said = chosen.model, chosen.said
        self.where = where
        self.max_length = int(loaded.facts.get("max_length", loaded.config.max_position_embeddings))

    @property
    def encoder(self) -> Encoder:
        """Returns the encoder, whatever stands on it."""
        return encoder_in(self._model)

    # ------------------------------------------------------------------------------ fill-mask

    def fill_mask(self, text: str, top: int = 5) -> list[masks.Filling]:
        """Returns for each `[MASK]` of the text the `top` likeliest pieces with probabilities.

        Raises:
            ConfigError: the model has no head for masked pieces, or reads left to right.
            DataError: the text has no [MASK], or has one beyond the longest length.
        """
        return next(self._fillings([Example("the text", text)], top))

    def iter_fill_mask(self, texts: Iterable[str], top: int = 5) -> Iterator[list[masks.Filling]]:
        """Yields for each text, in their order, what `fill_mask` returns for it."""
        return self._fillings(_examples(texts), top)

    def _fillings(self, examples: Iterable[Example], top: int) -> Iterator[list[masks.Filling]]:
        if not isinstance(self._model, PretrainingModel):
            raise ConfigError(
                f"{self.where}: has no head for masked pieces{self.loaded.left_out}; expected a "
                f"model that `bertsmith pretrain --objective mlm` wrote"
            )
        if self.config.is_decoder:
            raise ConfigError(
                f"{self.where}: reads left to right and has learnt no [MASK]; expected a model "
                f"that was pre-trained with --objective mlm"
            )
        return masks.fill(self._model, self.tokenizer, examples, self.max_length, top)

    # -------------------------------------------------------------------------------- vectors

    def embed(
        self,
        texts: Iterable[str],
        pooling: Pooling | None = None,
        layers: int | str = -1,
        normalize: bool | None = None,
        *,
        max_length: int | None = None,
        whitening: Whitening | None = None,
    ) -> NDArray[np.float32]:
        """Returns one vector for each text, in their order. [N, H]

        Args:
            texts: any number of them.
            pooling: "mean" over all pieces of a text, or "cls", the state of its first; by default
                as the model's folder says, else the mean.
            layers: which layers' mean is read: -1 is the last one, 0 the embeddings; several as
                in '0,6' or '-4:-1', the last four.
            normalize: whether every vector is made one unit long; by default as the model's folder
                says, else not.
            max_length: pieces of a text that are read; by default as many as in training.
            whitening: one that was fitted on vectors that were made in the same way; it is applied
                before they are normalised, and may leave fewer dimensions. [N, K]

        Raises:
            ConfigError: the model has no such layers, cannot read so many pieces, or its folder
                asks for vectors of a kind that is not known here.
        """
        pooling, normalize = self.vector_defaults(pooling, normalize)
        blocks = [
            block for _, block, _ in self.blocks(_examples(texts), pooling, layers, max_length)
        ]
        found = np.concatenate(blocks or [np.empty((0, self.config.hidden_size), np.float32)])
        return finished(found, whitening, normalize)

    def iter_embed(
        self,
        texts: Iterable[str],
        pooling: Pooling | None = None,
        layers: int | str = -1,
        normalize: bool | None = None,
        *,
        max_length: int | None = None,
        whitening: Whitening | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Yields one vector for each text, in their order; see `embed`. [H]

        Texts are read some thousands ahead, and their number takes no memory.
        """
        pooling, normalize = self.vector_defaults(pooling, normalize)
        for _, block, _ in self.blocks(_examples(texts), pooling, layers, max_length):
            yield from finished(block, whitening, normalize)

    def blocks(
        self,
        examples: Iterable[Example],
        pooling: Pooling,
        layers: int | str = -1,
        max_length: int | None = None,
    ) -> Iterator[tuple[list[Example], NDArray[np.float32], int]]:
        """Yields some rows with their vectors, [N, H], and how many pieces these have together.

        Raises:
            ConfigError: the model has no such layers, or cannot read so many pieces.
        """
        reading = Reading.of(self.config, pooling, layers, self.where)
        longest = self._length(max_length)
        encoded = encoded_ahead(
            examples, self.tokenizer, lambda example, prepared: encode(example, prepared, longest)
        )
        for window, rows in encoded:
            yield window, vectors_of(self.encoder, rows, reading), sum(map(len, rows))

    def vector_defaults(
        self, pooling: Pooling | None, normalize: bool | None
    ) -> tuple[Pooling, bool]:
        """Returns the pooling, and whether vectors are normalised: what is said, else as learnt.

        Raises:
            ConfigError: no pooling is said, and the model's folder has one that is not known here.
        """
        usual = bool(self.facts.get("normalize", False))
        if pooling is None:
            pooling, usual = vector_defaults(self.facts)
        return pooling, usual if normalize is None else normalize

    def _length(self, max_length: int | None) -> int:
        if max_length is None:
            return self.max_length
        most = self.config.max_position_embeddings
        if not 3 <= max_length <= most:
            raise ConfigError(
                f"max_length is {max_length}; expected 3 to {most}, as many pieces as the model "
                f"has positions for"
            )
        return max_length

    # ---------------------------------------------------------------------------- predictions

    def predict(self, texts: Iterable[Text]) -> list[Prediction]:
        """Returns a label with the probability of each, or a number, for each text or pair.

        Raises:
            CheckpointError: the model was not trained for such a task.
            DataError: it was trained on pairs and gets a single text, or the other way round.
        """
        return list(self.iter_predict(texts))

    def iter_predict(self, texts: Iterable[Text]) -> Iterator[Prediction]:
        """Yields what `predict` returns, in the order of the texts, which take no memory."""
        task = self.task
        if isinstance(task, Answer):
            raise ConfigError(f"{self.where}: answers questions; call answer(question, context)")
        if isinstance(task, Tag):
            raise ConfigError(f"{self.where}: tags words; call tag(sentences)")
        if isinstance(task, Choose):
            raise ConfigError(f"{self.where}: chooses among endings; call choose with these")
        _check_several(texts)
        examples = (self._example(number, text) for number, text in enumerate(texts, start=1))
        return (found for _, found in self.answers(task, examples))

    def tag(self, sentences: Iterable[Sequence[str]]) -> list[Prediction]:
        """Returns for each sentence, given as its words, the tag of each word.

        The tags are the `answer`; `more` holds the probability of each and, of a model that tells
        intents, the intent.

        Raises:
            ConfigError: the model was trained for something else.
            DataError: a sentence is a text and not a list of words.
        """
        return list(self.iter_tag(sentences))

    def iter_tag(self, sentences: Iterable[Sequence[str]]) -> Iterator[Prediction]:
        """Yields what `tag` returns, in the order of the sentences; they take no memory."""
        task = self.task
        if not isinstance(task, Tag):
            raise ConfigError(
                f"{self.where}: its task is {task.name}; expected a model that "
                f"`bertsmith finetune tag` wrote"
            )
        examples = (_tagged(number, words) for number, words in enumerate(sentences, start=1))
        return (found for _, found in self.answers(task, examples))

    def answer(self, question: str, context: str) -> dict[str, Any]:
        """Returns the words of the context that answer the question.

        `text` is empty where the model finds no answer; `probability` is its own among `n_best`,
        the likeliest answers; `start` and `end` are its characters in the context.

        Raises:
            ConfigError: the model was trained for something else.
        """
        return next(self.iter_answer([(question, context)]))

    def iter_answer(self, questions: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """Yields what `answer` returns for each question and its context, in their order."""
        task = self.task
        if not isinstance(task, Answer):
            raise ConfigError(
                f"{self.where}: its task is {task.name}; expected a model that "
                f"`bertsmith finetune answer` wrote"
            )
        asked = (
            Question(f"question {number}", "question", question, context)
            for number, (question, context) in enumerate(questions, start=1)
        )
        found = (prediction for _, prediction in self.answers(task, asked))
        return ({"text": prediction.answer, **prediction.more} for prediction in found)

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
        trained = self.trained_on()
        if trained and is_pair != (trained.pair is not None):
            wanted, found = ("single texts", "a pair") if is_pair else ("pairs", "a single text")
            raise DataError(
                f"{where}: holds {found}, but {self.where} was trained on {wanted}; expected those"
            )

    def trained_on(self) -> Columns | None:
        """Returns the columns that the model was trained on, where its folder remembers them."""
        found = self.facts.get("columns")
        if not found:
            return None
        return Columns(found["text"], found.get("pair"), found.get("label"))


def _say(line: str) -> None:
    from bertsmith.progress import ProgressLine  # takes a while to load: not where nothing is said

    ProgressLine().say(line)


def _examples(texts: Iterable[str]) -> Iterator[Example]:
    """Returns texts as rows; one that is none is refused when it is its turn."""
    _check_several(texts)
    return (Example(f"text {number}", _text(text, number)) for number, text in enumerate(texts, 1))


def _text(text: str, number: int) -> str:
    if not isinstance(text, str):
        raise DataError(f"text {number}: holds {str(text)[:40]!r}; expected a text")
    return text


def _check_several(texts: Iterable[Any]) -> None:
    if isinstance(texts, str):
        raise DataError(
            f"texts is the one text {texts[:40]!r}; expected several: put it into a list"
        )


def _tagged(number: int, words: Sequence[str]) -> TaggedSentence:
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise DataError(
            f"sentence {number}: holds {str(words)[:40]!r}; expected a list of words, "
            f"as in ['Paris', 'sleeps']"
        )
    return TaggedSentence("sentence", number, tuple(words))
