"""Which tag each word of a sentence has and, where the file tells, which intent the sentence."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.config import ColumnsConfig, EncoderConfig, TaskConfig
from bertsmith.data.packing import pack_texts
from bertsmith.data.tagged import TaggedSentence
from bertsmith.data.tagged_forms import columns_of, open_tagged
from bertsmith.data.tagged_outputs import SUFFIXES, TaggedAnswer, write_tagged
from bertsmith.errors import CheckpointError, DataError
from bertsmith.model.bilstm import BertForFeatureTagging
from bertsmith.model.crf import Chain
from bertsmith.model.task_heads import BertForTagging, TaskModel
from bertsmith.tasks.forms import Decisions, Prediction, Source, refuse_label_options
from bertsmith.tasks.schemes import (
    OUTSIDE,
    SCHEMES,
    Scheme,
    labels_of,
    recognise,
    respelt,
    spans_of,
)
from bertsmith.tasks.tag_rows import (
    check_documents,
    check_kinds,
    intent_in,
    intents_of,
    recognised,
    spelt,
    tags_in,
)
from bertsmith.tasks.tag_scores import TagScorer
from bertsmith.tasks.tag_windows import TagFeatures, tag_features
from bertsmith.text.wordpiece import Tokenizer

# More kinds of tag than this are no tags but words or numbers.
MOST_TAGS = 512


class TagTarget(NamedTuple):
    """The numbers of the tags of all decided words, in their order, and that of the intent.

    An intent that does not occur in training has no number and counts as missed: the dev rows
    that are published with ATIS have such. Tags that do not occur are refused.
    """

    labels: tuple[int, ...]
    intent: int | None


@dataclass(frozen=True)
class Tag:
    """The task of tagging words; `labels` and `intents` are in the order of the model's outputs.

    Where tags name entities, the model learns them in the scheme `learnt`, and its answers are
    spelt in `scheme`, that of the user's file. Where both are None, tags are kept as they are.
    With `chain`, the model's, the likeliest row of tags is told, else each word's own tag.
    """

    name: ClassVar[str] = "tag"
    decides: ClassVar[str] = "word"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    labels: tuple[str, ...]
    scheme: Scheme | None = None
    learnt: Scheme | None = None
    intents: tuple[str, ...] = ()
    options: TaskConfig = field(default_factory=TaskConfig)
    num_irregular: int = 0  # training sentences whose tags were not as their scheme has them
    chain: Chain | None = field(default=None, compare=False, repr=False)  # of the model's CRF

    @property
    def chosen_by(self) -> str:
        """Returns the metric of the best epoch: of all that a sentence has, or of its tags."""
        if self.intents:
            return "sentence_accuracy"
        return "f1" if self.scheme else "accuracy"

    @classmethod
    def read(
        cls,
        path: Path,
        columns: ColumnsConfig,
        remembered: Mapping[str, Any] | None,
        *,
        labelled: bool,
    ) -> Source:
        """Opens a file of tagged words in any of the forms of `data/tagged.py`."""
        known = (remembered or {}).get("tag_columns")
        file = open_tagged(path, columns, known, labelled=labelled)
        facts = {"tag_columns": columns_of(columns)}
        return Source(file.sentences(), file.said(), facts)

    @classmethod
    def learn(cls, examples: Sequence[TaggedSentence], options: TaskConfig) -> Self:
        """Returns the task with the tags, their scheme and the intents of the training sentences.

        Raises:
            DataError: there is no sentence, no two tags or intents, or tags are of mixed schemes.
            ConfigError: an option is for other tasks, or asks for documents where none are marked.
        """
        refuse_label_options(options, "tags do not know it")
        if not examples:
            raise DataError("the training file holds no sentences; expected tagged words")
        if options.document_context:
            check_documents(examples)
        found = recognised(examples, options)
        if found.scheme:
            learnt = found.scheme if options.tag_scheme else "iob2"
            spans = (span for example in examples for span in spans_of(tags_in(example)))
            labels = labels_of({span.type for span in spans}, learnt)
        else:
            learnt = None
            labels = sorted({tag for example in examples for tag in tags_in(example)})
        if len(labels) < 2:
            raise DataError(
                f"all words of {len(examples)} training sentences have the tag {labels[0]!r}; "
                f"expected two tags or more: name the right column with --label-column"
            )
        if len(labels) > MOST_TAGS:
            raise DataError(
                f"the training file has {len(labels)} different tags, as {labels[1]!r}; expected "
                f"at most {MOST_TAGS}: name the right column with --label-column"
            )
        intents = intents_of(examples)
        return cls(tuple(labels), found.scheme, learnt, intents, options, found.num_irregular)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the task that a model folder remembers; where it has no scheme, labels tell it.

        Raises:
            CheckpointError: it remembers no labels, or a scheme that there is not.
        """
        labels, intents = facts.get("labels"), facts.get("intents", [])
        for names in (labels, intents):
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise CheckpointError(f"the model's tags are {names!r}; expected a list of texts")
        assert labels is not None, "it was just found to be a list"
        if "scheme" in facts:
            scheme, learnt = facts["scheme"], facts.get("learnt_scheme")
        else:
            try:
                scheme = learnt = recognise([[label] for label in labels]).scheme
            except ValueError:
                scheme = learnt = None
        if not {scheme, learnt} <= {None, *SCHEMES} or (scheme is None) != (learnt is None):
            raise CheckpointError(
                f"the model's scheme of tags is {scheme!r}, learnt as {learnt!r}; "
                f"expected two of {', '.join(SCHEMES)}, or none"
            )
        options = TaskConfig.from_mapping(facts.get("options", {}), where="facts")
        return cls(tuple(labels), scheme, learnt, tuple(intents), options)

    def facts(self) -> dict[str, Any]:
        """Returns the labels as the model gives them, the schemes and the intents."""
        return {
            "task": self.name,
            "labels": list(self.labels),
            "scheme": self.scheme,
            "learnt_scheme": self.learnt,
            "intents": list(self.intents),
            "options": self.options.to_mapping(),
        }

    def said(self, examples: Sequence[TaggedSentence]) -> str:
        """Returns the scheme, the entities by type, and the sizes in words."""
        num_words = sum(len(example.words) for example in examples)
        parts = [f"{len(examples):,} sentences of {num_words:,} words"]
        documents = {example.document for example in examples}
        if len(documents) > 1:
            parts.append(f"{len(documents):,} documents")
        num_empty = sum(not word.strip() for example in examples for word in example.words)
        if num_empty:
            parts.append(f"{num_empty:,} words are empty")
        if self.scheme:
            spans = Counter(span.type for row in examples for span in spans_of(tags_in(row)))
            learnt = "" if self.learnt == self.scheme else f", learnt as {self.learnt}"
            parts.append(
                f"tags in the scheme {self.scheme}{learnt}: {spans.total():,} entities of "
                f"{len(spans)} types, {_listed(spans)}"
            )
        else:
            tags = Counter(tag for example in examples for tag in tags_in(example))
            parts.append(f"{len(self.labels)} tags that name no entities, {_listed(tags)}")
        if self.num_irregular:
            parts.append(
                f"{self.num_irregular:,} sentences have tags that {self.scheme} would not allow "
                f"there, read as conlleval does"
            )
        if self.intents:
            intents = Counter(str(example.intent) for example in examples)
            parts.append(f"{len(self.intents)} intents, {_listed(intents)}")
        return "; ".join(parts)

    def stratum(self, example: TaggedSentence) -> str | None:
        """Returns the sentence's intent, if it has one."""
        return example.intent

    def features(
        self, example: TaggedSentence, tokenizer: Tokenizer, max_length: int
    ) -> TagFeatures:
        """Returns the sentence's pieces; see `tag_windows.tag_features`."""
        in_document = self.options.document_context
        return tag_features(example, tokenizer, max_length, document_context=in_document)

    def target(self, example: TaggedSentence, features: TagFeatures) -> TagTarget:
        """Returns the numbers of the tags and of the intent; see `TagTarget`.

        Raises:
            DataError: a tag does not occur in training, or is of no scheme where tags name
                entities; its word is named.
        """
        tags = spelt(example, self.learnt)
        check_kinds(example, tags, self.learnt, self._numbers.keys())
        decided = np.concatenate([*features.words, np.empty(0, np.int64)]).tolist()
        intent = None
        if self.intents:
            intent = self._intent_numbers.get(intent_in(example))
        return TagTarget(tuple(self._numbers[tags[word]] for word in decided), intent)

    def collate(
        self, features: Sequence[TagFeatures], targets: Sequence[TagTarget]
    ) -> dict[str, Tensor]:
        """Returns a batch; tags stand at first pieces alone, and an intent at every window."""
        sequences = [part for row in features for part in row.sequences]
        batch = pack_texts(sequences).tensors()
        starts = batch["sequence_starts"].tolist()
        within = [part for row in features for part in row.positions]
        positions = np.concatenate(
            [part + start for part, start in zip(within, starts, strict=False)]
        )
        batch["label_positions"] = torch.from_numpy(positions)  # [M]
        batch["labels"] = torch.tensor(  # [M]
            [number for target in targets for number in target.labels], dtype=torch.int64
        )
        if self.options.crf:
            batch["sentence_lengths"] = torch.tensor([row.num_decided for row in features])  # [N]
        if self.intents:
            sizes = torch.tensor([len(row.sequences) for row in features])  # [N]
            intents = torch.tensor([target.intent for target in targets])  # [N]
            batch["intent_labels"] = intents.repeat_interleave(sizes)  # [S]
        return batch

    def head(self, config: EncoderConfig) -> BertForTagging:
        """Returns a new model with one output for each tag, and one for each intent."""
        return BertForTagging(
            config, len(self.labels), num_intents=len(self.intents), crf=self.options.crf
        )

    def for_use(self, model: TaskModel) -> TaskModel:
        """Returns `model` itself."""
        return model

    def tuned(
        self, results: Iterable[tuple[TaggedSentence, TagFeatures, Sequence[Tensor]]]
    ) -> Self:
        """Returns the task itself: nothing is fitted on dev rows."""
        return self

    def with_weights_of(self, model: TaskModel) -> Self:
        """Returns the task with the scores of the model's CRF, if it has one."""
        if isinstance(model, BertForFeatureTagging):
            return self
        assert isinstance(model, BertForTagging), "this task's head made the model"
        if model.crf is None:
            return self
        return replace(self, chain=model.crf.chain())

    def decode(
        self, example: TaggedSentence, features: TagFeatures, outputs: Sequence[Tensor]
    ) -> Prediction:
        """Returns the likeliest tag of each word, in the user's scheme; O where it has no piece.

        With a CRF the tags are those of the likeliest path over all words of the sentence that
        have a piece, whatever the windows in which they were read.

        `more` holds the probability of each word's tag as the model gave it (None without a
        piece), how many words have no piece, and the intent with its probability. Of several
        windows the mean of the intents' logits is taken.
        """
        num_words, num_labels = len(example.words), len(self.labels)
        tags = [OUTSIDE] * num_words
        shares: list[float | None] = [None] * num_words
        parts = [
            logits[torch.from_numpy(places), :num_labels]
            for logits, places in zip(outputs, features.positions, strict=True)
        ]
        numbers, found = self._likeliest(torch.cat(parts).double().numpy())
        words = np.concatenate(features.words).tolist()
        for word, number, share in zip(words, numbers.tolist(), found.tolist(), strict=True):
            tags[word], shares[word] = self.labels[number], share
        if self.scheme:
            tags = respelt(tags, self.scheme)
        more: dict[str, Any] = {
            "probabilities": shares,
            "words_without_pieces": num_words - features.num_decided,
        }
        if self.intents:
            logits = torch.stack([part[0, num_labels:] for part in outputs]).double()  # [S, I]
            share, number = logits.mean(0).softmax(0).max(0)
            more |= {"intent": self.intents[int(number)], "intent_probability": float(share)}
        return Prediction(tuple(tags), was_cut=features.was_cut, more=more)

    def decisions(self, target: TagTarget, prediction: Prediction) -> Decisions:
        """Returns the tags of all words, each with the intent: who learns that has learnt.

        A word without a piece is O without being asked.
        """
        shares, intent = prediction.more["probabilities"], prediction.more.get("intent")
        said = (
            (tag, intent)
            for tag, share in zip(prediction.answer, shares, strict=True)
            if share is not None
        )
        return Decisions(frozenset((tag, target.intent) for tag in target.labels), frozenset(said))

    def scorer(self) -> TagScorer:
        """Returns a scorer of entities, tags and intents."""
        return TagScorer(self.scheme, self.labels, self.intents)

    def write(
        self,
        path: Path,
        answered: Iterable[tuple[TaggedSentence, Prediction]],
        id_column: str | None,
        *,
        excel_safe: bool = False,
    ) -> int:
        """Writes words with their tags in columns, or JSON lines; see `write_tagged`."""
        rows = (
            (
                example,
                TaggedAnswer(found.answer, found.more.get("intent"), found.more["probabilities"]),
            )
            for example, found in answered
        )
        return write_tagged(path, rows, excel_safe=excel_safe)

    def _likeliest(
        self, emissions: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns the tag of each word, and its probability. [M, C] -> [M], [M]"""
        if self.chain is None:
            shares = torch.from_numpy(emissions).softmax(1).numpy()  # [M, C]
            numbers = shares.argmax(1)  # [M]
        else:
            shares = self.chain.marginals(emissions)  # [M, C]
            numbers = self.chain.best_path(emissions)  # [M]
        return numbers, shares[np.arange(len(numbers)), numbers]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}

    @functools.cached_property
    def _intent_numbers(self) -> dict[str, int]:
        return {intent: number for number, intent in enumerate(self.intents)}


def _listed(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name or 'unnamed'} ({count:,})" for name, count in counts.most_common(20))
    return shown + (f" and {len(counts) - 20} more" if len(counts) > 20 else "")
