"""Filters take the lines that their rules name, count them, and depend on the text alone."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.config import FilterConfig
from bertsmith.data.blocks import Block, TextBlock
from bertsmith.data.filters import (
    Filters,
    KnownHashes,
    Language,
    Removal,
    count_words,
)
from bertsmith.errors import ConfigError

ENGLISH = "The house stands by the river that has given the town its name."
CHINESE = "他在河边的房子里住了很多年,没有人知道他是谁。"


def filtered(
    block: Block, filters: str, *, language: Language = "auto", **settings: object
) -> tuple[Block, dict[str, Removal]]:
    config = FilterConfig(filters=filters, **settings)  # type: ignore[arg-type]
    done = Filters(config, language)(TextBlock("a.txt:1", block))
    assert done.block.origin == "a.txt:1"
    return done.block.documents, done.removals


# ---------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("near_empty", "there is no filter 'near_empty'; did you mean 'near-empty'"),
        ("repeated,", "there is no filter ''"),
        ("repeated,near-empty,repeated", "expected each name once"),
    ],
)
def test_names_that_are_none_are_refused(filters: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FilterConfig(filters=filters)


def test_a_language_must_be_right_for_another_to_be_wrong() -> None:
    with pytest.raises(ConfigError, match="expected --language en or --language zh"):
        Filters(FilterConfig(filters="wrong-language"), "auto")


def test_without_filters_nothing_changes() -> None:
    block = [["a", "a"], [""]]
    assert Filters(FilterConfig(), "auto")(TextBlock("", block)).block.documents == block


# ---------------------------------------------------------------------------------- near-empty


def test_short_lines_and_documents_left_short_are_taken() -> None:
    block = [
        ["Home", "one two three four five", "one two three four"],
        ["one two three four five six"],
        ["Menu | Login"],
    ]
    left, removals = filtered(block, "near-empty")
    assert left == [["one two three four five"], ["one two three four five six"]]
    taken = len("Home\n") + len("\none two three four") + len("Menu | Login")
    assert removals == {"near-empty": Removal(lines=3, documents=1, bytes=taken)}
    left, removals = filtered(block, "near-empty", min_document_words=6)
    assert left == [["one two three four five six"]]
    assert (removals["near-empty"].lines, removals["near-empty"].documents) == (4, 2)


def test_each_chinese_character_is_a_word() -> None:
    assert count_words("one two  three\t4") == 4
    assert count_words("naïve café") == 2
    assert count_words("他是谁") == 3
    assert count_words("在London住了3年") == 6
    assert count_words("") == 0


# ---------------------------------------------------------------------------------- repeated


def test_the_first_of_repeated_lines_is_kept() -> None:
    block = [["A line.", "Another."], ["a LINE.", "Third."], ["another."]]
    left, removals = filtered(block, "repeated")
    assert left == [["A line.", "Another."], ["Third."]]
    assert removals == {"repeated": Removal(2, 1, len("a LINE.\n") + len("another."))}


def test_repeated_documents_are_taken_whole() -> None:
    block = [["a", "b"], ["a"], ["A", "b"], ["a", "b", "b"]]
    left, removals = filtered(block, "repeated", repeated_unit="document")
    assert left == [["a", "b"], ["a"], ["a", "b", "b"]]
    assert removals == {"repeated": Removal(2, 1, 3)}


@given(
    st.lists(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1), min_size=1), max_size=6)
)
def test_repeats_are_those_of_the_whole_corpus_however_it_is_cut(blocks: list[Block]) -> None:
    filters = Filters(FilterConfig(filters="repeated"), "auto")
    left = [filters(TextBlock("", block)).block.documents for block in blocks]
    lines = [line for block in blocks for document in block for line in document]
    assert [line for block in left for document in block for line in document] == list(
        dict.fromkeys(lines)
    )


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=12))
def test_known_hashes_are_a_set(parts: list[list[int]]) -> None:
    ours, theirs = KnownHashes(), set[int]()
    for part in parts:
        is_new = ours.add_new(np.array(part, dtype=np.uint64)).tolist()
        for number, new in zip(part, is_new, strict=True):
            assert new == (number not in theirs)
            theirs.add(number)
    assert ours.values().tolist() == sorted(theirs)
    assert len(ours) == len(theirs)


def test_known_hashes_take_eight_bytes_each() -> None:
    known = KnownHashes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        known.add_new(rng.integers(1 << 63, size=1000, dtype=np.uint64))
    assert sum(run.nbytes for run in known._runs) == 8 * len(known) == 8 * 200_000
    assert len(known._runs) <= 18  # about the logarithm of what it holds


# ---------------------------------------------------------------------------------- language


@pytest.mark.parametrize(
    "line",
    [
        "Das Haus steht am Fluss, der in der Nacht so laut war wie auf See in einem Sturm.",
        "La maison est au bord de la rivière et les enfants jouent dans le jardin tous les jours.",
        "Het huis staat aan de rivier en in de tuin was het zo stil als op een zondag.",
        CHINESE,
        "Он жил в доме у реки.",
    ],
)
def test_lines_of_other_languages_are_taken_from_english(line: str) -> None:
    left, removals = filtered([[ENGLISH, line]], "wrong-language", language="en")
    assert left == [[ENGLISH]]
    assert removals["wrong-language"].bytes == len(line.encode()) + 1


def test_short_lines_and_names_in_other_scripts_stay_in_english() -> None:
    block = [["Curriculum vitae", "1984", "She was born in Peking (北京) and lives there still."]]
    assert filtered(block, "wrong-language", language="en")[0] == block


def test_an_english_document_holds_two_of_eight_words() -> None:
    names = " ".join(["Smith, John;"] * 4)
    for document, stays in (
        ([names] * 5, True),  # of under fifty words: not judged
        ([names] * 8, False),
        ([*[names] * 8, "and to"], True),
    ):
        left, _ = filtered([document], "wrong-language", language="en")
        assert bool(left) == stays


def test_lines_of_other_languages_are_taken_from_chinese() -> None:
    others = [ENGLISH, "彼は川のそばの家に住んでいました。", "Он жил в доме у реки."]
    stays = [CHINESE, "2008年8月8日", "它們是域(regio)、界(regnum)", "1984"]
    left, removals = filtered([[*others, *stays]], "wrong-language", language="zh")
    assert left == [stays]
    assert removals["wrong-language"].lines == 3


# ---------------------------------------------------------------------------------- in order


def test_filters_are_used_in_the_order_named() -> None:
    block = [["a", "one two three four five"], ["a"], ["One two three four five"]]
    _, first = filtered(block, "near-empty,repeated")
    assert {name: removal.lines for name, removal in first.items()} == {
        "near-empty": 2,
        "repeated": 1,
    }
    _, other = filtered(block, "repeated,near-empty")
    assert list(other) == ["repeated", "near-empty"]
    assert {name: removal.lines for name, removal in other.items()} == {
        "repeated": 2,
        "near-empty": 1,
    }


def test_what_is_left_and_what_was_taken_are_all_there_was() -> None:
    rng = Random(0)
    lines = [ENGLISH, CHINESE, "Home", "a b c d e f g", "von und zu " * 5]
    block = [rng.choices(lines, k=rng.randint(1, 5)) for _ in range(200)]
    names = "repeated,near-empty,wrong-language"
    left, removals = filtered(block, names, language="en")
    total = sum(removals.values(), Removal())
    assert sum(map(len, block)) == sum(map(len, left)) + total.lines
    assert len(block) == len(left) + total.documents
    sizes = [sum(len("\n".join(one).encode()) for one in each) for each in (block, left)]
    assert sizes[0] == sizes[1] + total.bytes
    assert Counter(line for document in left for line in document).most_common(1)[0][1] == 1
