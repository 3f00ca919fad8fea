"""Scores of tags, sentence by sentence: entities as conlleval counts them, and intents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bertsmith.data.tagged import TaggedSentence
from bertsmith.tasks.forms import Prediction
from bertsmith.tasks.schemes import OUTSIDE, Scheme, spans_of
from bertsmith.tasks.tag_rows import intent_in, kind_of, spelt


class EntityScorer:
    """Counts entities that are right, found and wanted; an entity is right as a whole or not.

    It keeps a few numbers for each type, whatever the number of sentences.

    Source: conlleval.pl of the CoNLL shared tasks; it agrees with seqeval's default mode.
    """

    def __init__(self, *, has_entities: bool = True) -> None:
        """Makes a scorer without sentences; tags that name no entities have an accuracy alone."""
        self._has_entities = has_entities
        self._right: Counter[str] = Counter()
        self._found: Counter[str] = Counter()
        self._wanted: Counter[str] = Counter()
        self._right_tags = 0
        self._tags = 0

    def add(self, wanted: Sequence[str], found: Sequence[str]) -> None:
        """Takes in the right and the predicted tags of one sentence.

        Raises:
            ValueError: a tag is of no scheme, where tags name entities.
        """
        self._tags += len(wanted)
        self._right_tags += sum(one == other for one, other in zip(wanted, found, strict=True))
        if self._has_entities:
            right, ours = spans_of(wanted), spans_of(found)
            self._wanted.update(span.type for span in right)
            self._found.update(span.type for span in ours)
            self._right.update(span.type for span in set(right) & set(ours))

    def scores(self) -> dict[str, float]:
        """Returns `precision`, `recall` and `f1` of all entities, and `accuracy` of the tags.

        What is divided by nothing is 0.
        """
        accuracy = {"accuracy": self._right_tags / max(1, self._tags)}
        if not self._has_entities:
            return accuracy
        counts = (self._right.total(), self._found.total(), self._wanted.total())
        return _shares(*counts) | accuracy

    def by_type(self) -> dict[str, dict[str, float]]:
        """Returns for each type of entity `precision`, `recall`, `f1`, and those `wanted`."""
        return {
            kind: _shares(self._right[kind], self._found[kind], self._wanted[kind])
            | {"wanted": self._wanted[kind]}
            for kind in sorted(self._wanted.keys() | self._found.keys())
        }


class TagScorer:
    """Scores of predicted tags and intents; it keeps counts alone."""

    def __init__(
        self, scheme: Scheme | None, labels: Sequence[str], intents: Sequence[str] = ()
    ) -> None:
        """Makes a scorer without sentences.

        Args:
            scheme: in which tags are compared; None where they name no entities.
            labels: tags that the model knows, in any scheme.
            intents: that it knows; none where it tells none.
        """
        self._scheme = scheme
        self._known = {kind_of(label, scheme) for label in labels}
        self._intents = frozenset(intents)
        self._entities = EntityScorer(has_entities=scheme is not None)
        self._sentences = self._right_intents = self._right_sentences = 0
        self._rare: Counter[str] = Counter()

    def add(self, example: TaggedSentence, prediction: Prediction) -> None:
        """Takes in the prediction of a tagged sentence.

        Raises:
            DataError: a tag of the sentence is of no scheme, where tags name entities.
        """
        wanted = spelt(example, self._scheme)
        self._entities.add(wanted, prediction.answer)
        self._rare["words_without_pieces"] += prediction.more["words_without_pieces"]
        self._rare["words_of_unseen_tags"] += sum(
            tag != OUTSIDE and kind_of(tag, self._scheme) not in self._known for tag in wanted
        )
        if self._intents:
            intent = intent_in(example)
            is_right = prediction.more["intent"] == intent
            self._sentences += 1
            self._right_intents += is_right
            self._right_sentences += is_right and list(wanted) == list(prediction.answer)
            self._rare["unseen_intents"] += intent not in self._intents

    def scores(self) -> dict[str, float]:
        """Returns `precision`, `recall`, `f1` of entities and the tags' `accuracy`.

        With intents also `intent_accuracy`, and `sentence_accuracy`: that of intent and all tags
        together. Where there are any, `words_without_pieces` are counted, and what did not occur
        in training and so was missed: `words_of_unseen_tags`, `unseen_intents`.
        """
        scores = self._entities.scores()
        if self._intents:
            rows = max(1, self._sentences)
            scores["intent_accuracy"] = self._right_intents / rows
            scores["sentence_accuracy"] = self._right_sentences / rows
        return scores | {name: count for name, count in self._rare.items() if count}

    def by_type(self) -> dict[str, dict[str, float]]:
        """Returns the scores of each type of entity; see `EntityScorer.by_type`."""
        return self._entities.by_type()


def _shares(right: int, found: int, wanted: int) -> dict[str, float]:
    precision = right / (found or 1)
    recall = right / (wanted or 1)
    f1 = 2 * precision * recall / (precision + recall or 1)
    return {"precision": precision, "recall": recall, "f1": f1}
