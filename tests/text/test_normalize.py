from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text import reference

from bertsmith.config import CasingConfig
from bertsmith.text.normalize import Normalizer

# Marks that decomposing puts in order, the ones that stand between them, and what undoes both.
MARKS = (
    "\u1b44\u302e\ua9c0\U0001d165\U0001d16d\U0001d15e\U0001e944\U0001e94a\u0301\u0901\u00ad\u034fa "
)
casings = st.sampled_from(reference.CASINGS)


@pytest.mark.parametrize("casing", reference.CASINGS)
def test_every_character_is_treated_as_published(casing: CasingConfig) -> None:
    ours = Normalizer(casing)
    points = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]
    points += range(0x20000, 0x110000, 61)  # ideographs, and planes that hold nothing
    characters = [chr(point) for point in points]
    for start in range(0, len(characters), 4096):
        text = "".join(f"a{character}b " for character in characters[start : start + 4096])
        assert ours.normalize(text) == reference.normalizer(casing).normalize_str(text)
        assert ours.words(text) == reference.words(text, casing)


@settings(max_examples=1000, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])), casing=casings)
def test_any_text_is_treated_as_published(text: str, casing: CasingConfig) -> None:
    ours = Normalizer(casing)
    assert ours.normalize(text) == reference.normalizer(casing).normalize_str(text)
    assert ours.words(text) == reference.words(text, casing)


@settings(max_examples=500, deadline=None)
@given(text=st.text(MARKS), casing=casings)
def test_marks_stand_in_canonical_order(text: str, casing: CasingConfig) -> None:
    assert Normalizer(casing).normalize(text) == reference.normalizer(casing).normalize_str(text)


@settings(max_examples=500, deadline=None)
@given(text=st.text(st.characters() | st.sampled_from(MARKS)), casing=casings)
def test_origins_lie_in_the_text_and_never_go_back(text: str, casing: CasingConfig) -> None:
    found = Normalizer(casing).words_with_offsets(text)
    assert [word.text for word in found] == Normalizer(casing).words(text)
    for word in found:
        assert len(word.origins) == len(word.text)
        assert all(0 <= origin < len(text) for origin in word.origins)
    ends = [(min(word.origins), max(word.origins)) for word in found]
    assert all(before[1] <= after[0] for before, after in zip(ends, ends[1:], strict=False))


def test_origins_name_the_characters_of_the_original() -> None:
    found = Normalizer(CasingConfig()).words_with_offsets("\u00c0 x\u0301\x00y, \ud55c!")
    assert [(word.text, word.origins) for word in found] == [
        ("a", (0,)),
        ("xy", (2, 5)),
        (",", (6,)),
        ("\u1112\u1161\u11ab", (8, 8, 8)),
        ("!", (9,)),
    ]


@given(text=st.text(st.characters(categories=["Cs"]) | st.sampled_from("ab ")))
def test_half_characters_vanish(text: str) -> None:
    kept = text.encode("utf-8", "ignore").decode("utf-8")
    assert Normalizer(CasingConfig()).words(text) == kept.split()


def test_words_are_the_same_however_they_are_asked_for() -> None:
    normalizer = Normalizer(CasingConfig())
    text = ("A long-winded \u4e2d\u6587 text\x00. " * 999) + "no" * 5000
    words = normalizer.words(text)
    assert list(normalizer.iterate_words(text, len(text))) == words
    assert [word.text for word in normalizer.words_with_offsets(text)] == words
    assert list(normalizer.iterate_words(text, 101))[-1] == ("no" * 51)[:101]


@pytest.mark.parametrize(
    "unit", ["\u1b44\u302e", "a\u0301", "\u4e2d", ".", "x", "\x00", "\U0001d15e"]
)
def test_time_grows_with_the_text_and_no_faster(unit: str) -> None:
    normalizer = Normalizer(CasingConfig())

    def seconds(repeats: int) -> float:
        begun = time.process_time()
        normalizer.words(unit * repeats)
        return time.process_time() - begun

    seconds(10_000)
    assert seconds(100_000) < 20 * max(seconds(10_000), 0.005)
