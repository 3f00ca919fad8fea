from __future__ import annotations

import re
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.text.sentences import split_sentences

ENGLISH = [
    ["Mr. Smith met Dr. J. R. Jones at 3.30 p.m. on Tuesday.", "She left."],
    ["He lives in the U.S. Army barracks.", "They moved to the U.S.", "The house was sold."],
    ['"Why?" he asked.', '"I don\'t know."', "(Nobody did.)", "Then it ended."],
    ["Pieces, e.g. Words, cost $3.50 or more.", "See Fig. 3 and No. 5.", "He said no.", "Why?"],
    ["Wait... what is it?", "The end...", "And so on… and on!", "What?!", "Yes."],
    ["Acme Inc. Chairman Lee bought Widget Corp. in Jan. 1999.", "In 2001.", "It failed."],
    ["1. First comes this.", "Then that."],
    ["A line\nbroken by hand.", "Another\r\none."],
    ["It went on . . . and then stopped.", "So it was."],
]
CHINESE = [
    ["今天天气很好。", "我们去公园吧！", "你去吗？", "好；", "走。"],
    ["他说：“你好！”", "然后走了。", "真的吗？！", "「是的。」", "他答道。"],
    ["嗯……我不知道。", "“好！”，他说，“走。”", "价格是3.5元。"],
    ["第一段\n没有句号", "第二段。"],
]


@pytest.mark.parametrize("sentences", ENGLISH)
@pytest.mark.parametrize("language", ["en", "auto"])
def test_english_is_split_where_sentences_end(sentences: list[str], language: str) -> None:
    assert split_sentences(" ".join(sentences), language) == sentences  # type: ignore[arg-type]


@pytest.mark.parametrize("sentences", CHINESE)
@pytest.mark.parametrize("language", ["zh", "auto"])
def test_chinese_is_split_after_its_stops(sentences: list[str], language: str) -> None:
    joined = "".join(sentences) if "\n" not in sentences[0] else "\n\n".join(sentences)
    assert split_sentences(joined, language) == sentences  # type: ignore[arg-type]


def test_a_blank_line_ends_a_sentence_and_a_line_break_does_not() -> None:
    assert split_sentences("A heading\n \nand text\nof it") == ["A heading", "and text\nof it"]
    assert split_sentences("It ends.\n\nbut goes on") == ["It ends.", "but goes on"]


def test_an_english_text_that_quotes_chinese_stays_english() -> None:
    text = "The name 北京。 means northern capital, and e.g. Nanjing is the southern one. Good."
    assert len(split_sentences(text)) == 2


@pytest.mark.parametrize("text", ["", " ", "\n\n\n", "\u3000"])
def test_blank_text_holds_no_sentence(text: str) -> None:
    assert split_sentences(text) == []


@settings(max_examples=500, deadline=None)
@given(
    text=st.text(st.sampled_from('abA .!?…。！？；"”()\n\t中U.S') | st.characters()),
    language=st.sampled_from(["auto", "en", "zh"]),
)
def test_sentences_hold_all_of_the_text_in_order(text: str, language: str) -> None:
    sentences = split_sentences(text, language)  # type: ignore[arg-type]
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)
    assert "".join("".join(sentences).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "unit", [".", ". ", ".\n", "\n", "\n ", '."', '.")', "a.", "A. ", "。", "…", "!?", "。”", '. "']
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_time_grows_with_the_text_and_no_faster(unit: str, language: str) -> None:
    def seconds(repeats: int) -> float:
        begun = time.process_time()
        split_sentences(unit * repeats + "x", language)  # type: ignore[arg-type]
        return time.process_time() - begun

    assert seconds(100_000) < 20 * max(seconds(10_000), 0.005)


def test_boundaries_are_mostly_those_of_the_brown_corpus(shared_data: Path) -> None:
    found = right = marked = 0
    with zipfile.ZipFile(shared_data / "nltk" / "brown.zip") as corpus:
        for name in sorted(corpus.namelist())[::10]:
            if not re.fullmatch(r"brown/c[a-r]\d\d", name):
                continue
            lines = corpus.read(name).decode("latin-1").split("\n")
            sentences = [_plain(line) for line in lines if line.strip()]
            ours = _ends(split_sentences(" ".join(sentences), "en"))
            # Headings and parts of lists count as sentences there; rules see none in running text.
            theirs = _ends(sentences)
            stopped = {end for end, last in theirs.items() if last in ".!?"}
            found += len(ours)
            right += len(ours.keys() & theirs.keys())
            marked += len(stopped & ours.keys()) / max(1, len(stopped)) > 0.95
    assert right / found > 0.99
    assert marked > 40  # of 50 texts


def _plain(line: str) -> str:
    """Returns a sentence of `word/tag` as running text."""
    text = " ".join(word.rsplit("/", 1)[0] for word in line.split())
    text = text.replace("`` ", '"').replace(" ''", '"')
    return re.sub(r" ([.,;:!?)\]])(?= |$)", r"\1", re.sub(r"([(\[]) ", r"\1", text))


def _ends(sentences: list[str]) -> dict[int, str]:
    """Returns the last character of each sentence, by how many characters precede its end."""
    ends, position = {}, 0
    for sentence in sentences:
        bare = "".join(sentence.split())
        position += len(bare)
        ends[position] = bare.rstrip("\"')")[-1:]
    return ends
