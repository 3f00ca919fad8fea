"""Entities are scored as conlleval and seqeval score them, to the last digit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import seqeval.metrics as theirs
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.data.tagged import TaggedSentence
from bertsmith.errors import DataError
from bertsmith.tasks.forms import Prediction
from bertsmith.tasks.tag_scores import EntityScorer, TagScorer


def pairs_of(letters: str, *kinds: str) -> st.SearchStrategy[list[list[tuple[str, str]]]]:
    """Returns sentences of right and predicted tags, most of which are alike."""
    tag = st.sampled_from(["O", "O", *(f"{part}-{kind}" for part in letters for kind in kinds)])
    both = st.one_of(tag.map(lambda one: (one, one)), st.tuples(tag, tag))
    return st.lists(st.lists(both, min_size=1, max_size=8), min_size=1, max_size=5)


def scorer_of(rows: Sequence[Sequence[tuple[str, str]]]) -> EntityScorer:
    scorer = EntityScorer()
    for row in rows:
        scorer.add([one for one, _ in row], [other for _, other in row])
    return scorer


@given(pairs_of("BIES", "PER", "LOC", "MISC"))
def test_scores_are_those_of_seqeval(rows: list[list[tuple[str, str]]]) -> None:
    wanted = [[one for one, _ in row] for row in rows]
    found = [[other for _, other in row] for row in rows]
    scorer = scorer_of(rows)
    assert scorer.scores() == {
        "precision": theirs.precision_score(wanted, found, zero_division=0),
        "recall": theirs.recall_score(wanted, found, zero_division=0),
        "f1": theirs.f1_score(wanted, found, zero_division=0),
        "accuracy": theirs.accuracy_score(wanted, found),
    }
    if not scorer.by_type():
        return
    report = theirs.classification_report(wanted, found, output_dict=True, zero_division=0)
    for kind, scores in scorer.by_type().items():
        names = {"f1": "f1-score", "wanted": "support"}
        assert scores == {name: report[kind][names.get(name, name)] for name in scores}


def conlleval(rows: Sequence[Sequence[tuple[str, str]]]) -> dict[str, float]:
    """Counts as conlleval.pl does: chunks that begin, go on and end together, word by word.

    Source: https://www.clips.uantwerpen.be/conll2000/chunking/conlleval.txt
    """

    def ends(last: tuple[str, str], now: tuple[str, str]) -> bool:
        return (last[0] + now[0]) in ("BB", "BO", "IB", "IO") or (
            last[0] != "O" and last[1] != now[1]
        )

    def starts(last: tuple[str, str], now: tuple[str, str]) -> bool:
        return (last[0] + now[0]) in ("BB", "IB", "OB", "OI") or (
            now[0] != "O" and last[1] != now[1]
        )

    def parted(tag: str) -> tuple[str, str]:
        return (tag[0], tag[2:])

    counts: Counter[str] = Counter()
    is_right = False
    last_wanted = last_found = ("O", "")
    for word in [word for row in rows for word in (*row, None)]:
        wanted, found = (parted(tag) for tag in word or ("O", "O"))
        if is_right:
            wanted_ends, found_ends = ends(last_wanted, wanted), ends(last_found, found)
            if wanted_ends and found_ends and last_wanted[1] == last_found[1]:
                is_right = False
                counts["right"] += 1
            elif wanted_ends != found_ends or wanted[1] != found[1]:
                is_right = False
        wanted_starts, found_starts = starts(last_wanted, wanted), starts(last_found, found)
        is_right |= wanted_starts and found_starts and wanted[1] == found[1]
        counts["wanted"] += wanted_starts
        counts["found"] += found_starts
        counts["words"] += word is not None
        counts["right words"] += word is not None and wanted == found
        last_wanted, last_found = wanted, found
    precision = counts["right"] / counts["found"] if counts["found"] else 0.0
    recall = counts["right"] / counts["wanted"] if counts["wanted"] else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    accuracy = counts["right words"] / counts["words"]
    return {"precision": precision, "recall": recall, "f1": f1, "accuracy": accuracy}


@given(pairs_of("BI", "PER", "LOC"))
def test_scores_are_those_of_conlleval(rows: list[list[tuple[str, str]]]) -> None:
    assert scorer_of(rows).scores() == conlleval(rows)


def test_tags_that_name_no_entities_have_an_accuracy_alone() -> None:
    scorer = EntityScorer(has_entities=False)
    scorer.add(["DT", "NN", "VB"], ["DT", "VB", "VB"])
    assert scorer.scores() == {"accuracy": 2 / 3}
    assert scorer.by_type() == {}


def answered(tags: str, intent: str, bare: int = 0) -> Prediction:
    more = {"intent": intent, "words_without_pieces": bare}
    return Prediction(tuple(tags.split()), more=more)


def row(tags: str, intent: str | None = None) -> TaggedSentence:
    parts = tuple(tags.split())
    return TaggedSentence("dev.txt", 3, parts, parts, intent)


def test_a_sentence_is_right_where_intent_and_all_tags_are() -> None:
    scorer = TagScorer("iob2", ["O", "B-X", "I-X"], ["go", "stop"])
    scorer.add(row("B-X I-X O", "go"), answered("B-X I-X O", "go"))
    scorer.add(row("B-X I-X O", "go"), answered("B-X O O", "go"))
    scorer.add(row("B-X O", "stop"), answered("B-X O", "go", bare=1))
    scorer.add(row("O O", "unseen in training"), answered("O O", "go", bare=2))
    scores = scorer.scores()
    assert scores["intent_accuracy"] == 2 / 4
    assert scores["sentence_accuracy"] == 1 / 4
    assert scores["accuracy"] == 9 / 10
    assert scores["words_without_pieces"] == 3
    assert scores["unseen_intents"] == 1 and "words_of_unseen_tags" not in scores
    with pytest.raises(DataError, match=r"dev\.txt:3: has no intent"):
        scorer.add(row("O"), answered("O", "go"))


def test_tags_of_another_scheme_are_compared_by_their_entities() -> None:
    scorer = TagScorer("iob2", ["O", "S-X", "S-Y"])
    scorer.add(
        row("I-X I-X O S-Y"), Prediction(("B-X", "I-X", "O", "B-Y"), more=answered("", "").more)
    )
    assert set(scorer.scores().values()) == {1.0}
