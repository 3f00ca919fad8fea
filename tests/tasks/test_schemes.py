"""Every scheme of tags is read by conlleval's rules and written by its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from bertsmith.tasks.schemes import (
    LETTERS,
    SCHEMES,
    Scheme,
    Span,
    labels_of,
    recognise,
    respelt,
    spans_of,
    tags_of,
)

ENTITIES = [Span(0, 1, "PER"), Span(1, 4, "PER"), Span(5, 7, "LOC"), Span(7, 8, "B-X.y")]
# The same entities as each scheme has them; written by hand from the schemes' definitions.
SPELT: dict[Scheme, str] = {
    "iob1": "I-PER B-PER I-PER I-PER O I-LOC I-LOC I-B-X.y O",
    "iob2": "B-PER B-PER I-PER I-PER O B-LOC I-LOC B-B-X.y O",
    "bioes": "S-PER B-PER I-PER E-PER O B-LOC E-LOC S-B-X.y O",
    "bmes": "S-PER B-PER M-PER E-PER O B-LOC E-LOC S-B-X.y O",
    "bilou": "U-PER B-PER I-PER L-PER O B-LOC L-LOC U-B-X.y O",
}


@st.composite
def entities(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Returns spans that do not overlap, some of which touch, and a number of words."""
    spans, place = [], 0
    for _ in range(draw(st.integers(0, 5))):
        start = place + draw(st.integers(0, 2))
        place = start + draw(st.integers(1, 4))
        spans.append(Span(start, place, draw(st.sampled_from(["PER", "LOC"]))))
    return spans, place + draw(st.integers(0, 2))


any_tags = st.lists(
    st.sampled_from(["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in ("PER", "LOC"))])
)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_are_spelt_as_the_scheme_is_defined(scheme: Scheme) -> None:
    assert tags_of(ENTITIES, 9, scheme) == SPELT[scheme].split()
    assert spans_of(SPELT[scheme].split()) == ENTITIES


@given(entities(), st.sampled_from(SCHEMES))
def test_entities_survive_every_scheme(found: tuple[list[Span], int], scheme: Scheme) -> None:
    spans, num_words = found
    tags = tags_of(spans, num_words, scheme)
    assert len(tags) == num_words
    assert spans_of(tags) == spans
    assert respelt(tags, scheme) == tags
    assert set(tags) <= set(labels_of({"PER", "LOC"}, scheme))


@given(any_tags)
def test_any_tags_spell_the_entities_that_seqeval_finds(tags: list[str]) -> None:
    expected = [Span(start, end + 1, kind) for kind, start, end in get_entities(tags)]
    assert spans_of(tags) == expected
    for scheme in SCHEMES:
        assert spans_of(respelt(tags, scheme)) == expected


def test_an_inside_without_a_beginning_begins_an_entity() -> None:
    assert spans_of(["O", "I-LOC", "I-LOC", "I-PER", "O", "I-PER"]) == [
        Span(1, 3, "LOC"),
        Span(3, 4, "PER"),
        Span(5, 6, "PER"),
    ]


def test_bare_letters_part_words() -> None:
    tags = ["B", "E", "S", "B", "M", "E"]
    assert spans_of(tags) == [Span(0, 2, ""), Span(2, 3, ""), Span(3, 6, "")]
    assert recognise([tags]).scheme == "bmes"
    assert respelt(tags, "iob2") == ["B", "I", "B", "B", "I", "I"]
    assert labels_of([""], "bmes") == ["O", "B", "E", "M", "S"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_recognised_by_its_tags(scheme: Scheme) -> None:
    found = recognise([SPELT[scheme].split(), ["O", "O"]])
    assert (found.scheme, found.num_irregular) == (scheme, 0)
    assert set(LETTERS[scheme]) >= {tag[0] for tag in SPELT[scheme].split()} - {"O"}


@pytest.mark.parametrize(
    ("rows", "scheme", "num_irregular"),
    [
        (["B-X I-X", "I-X I-X", "O B-X"], "iob2", 1),
        (["I-X I-X", "I-X B-X", "O B-X"], "iob1", 1),
        (["I-X I-X O I-Y"], "iob1", 0),
        (["B-X M-X O", "B-X M-X E-X"], "bmes", 1),
        (["DT NN VB", "PRP$ -LRB-"], None, 0),
        (["v n S", "B n"], None, 0),
        (["O O"], None, 0),
    ],
)
def test_what_does_not_fit_its_scheme_is_counted(
    rows: list[str], scheme: Scheme | None, num_irregular: int
) -> None:
    found = recognise([row.split() for row in rows])
    assert (found.scheme, found.num_irregular) == (scheme, num_irregular)


def test_tags_of_a_scheme_and_of_none_do_not_mix() -> None:
    with pytest.raises(ValueError, match="B_LOC"):
        recognise([["B-LOC", "O"], ["B_LOC", "I-LOC"]])
