"""Splits text into sentences by rule, English and Chinese.

A regular expression finds the places where a sentence may end, in time linear in the text (its
quantifiers are possessive and a run of stops is entered at its first character only); for each of
them the words on both sides decide.
"""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["auto", "en", "zh"]

_CLOSERS = "\"'”’»)\\]}"
_OPENERS = "\"'“‘«(\\[{"
_BLANK_LINE = r"\n[ \t\r]*+\n"
_STOP = rf"(?P<stop>[.!?…](?<![.!?…][.!?…])[.!?…]*+)[{_CLOSERS}]*+\s++"
_CHINESE_STOP = r"[。！？；…](?<![。！？；…][。！？；…])[。！？；…]*+[”’」』）》】〉\"')\]]*+"
_ENGLISH = re.compile(rf"{_STOP}|(?P<blank>{_BLANK_LINE})")
_CHINESE = re.compile(rf"(?P<chinese>{_CHINESE_STOP})|{_STOP}|(?P<blank>{_BLANK_LINE})")
_NEXT_WORD = re.compile(rf"[{_OPENERS}]*+(?P<word>[^\W_]*+)")
_LAST_WORD = re.compile(rf"[^\s{_OPENERS}—–/-]*\Z")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")

_LOOKED_AT = 1000  # characters by which `auto` decides
_CJK_SHARE = 0.2  # an English text that quotes a Chinese name stays below, all Chinese lies above
_LONGEST_LAST_WORD = 24  # characters before a stop that are looked at


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# A full stop after these never ends a sentence: a name, number or example follows.
_NEVER_LAST = _words(
    """
    mr mrs ms mx dr prof st messrs mme mlle mgr fr rev hon gen col maj capt cpt cmdr adm lt sgt cpl
    pvt brig sen rep gov pres supt insp det e.g i.e cf viz vs v al ca approx fig figs eq eqs
    sec secs ch chap vol vols pp no nos art arts ed eds op mt ibid
    """
)
# These may end a sentence: they do where a word follows that seldom stands inside a name.
_SELDOM_LAST = _words(
    """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri sat sun
    inc ltd co corp bros jr sr esq ph.d m.d b.a m.a d.c a.m p.m a.d b.c etc dept univ assn
    ave blvd rd sq est
    """
)
_SENTENCE_STARTERS = _words(
    """
    The This That These Those There Then Thus They Their It Its He His She Her We Our You Your
    In On At By For From With Without As After Before When While Where What Who Why How If Although
    Though Because Since But And Or Nor So Yet Also However Moreover Meanwhile Some Many Most All
    Both Each Every Few Several Another Other Others One Two To An A Under Over During Between
    Among Despite Until Once Not No Nothing Today Now Here Later Other Last Next My
    """
)


def split_sentences(text: str, language: Language = "auto") -> list[str]:
    """Returns the sentences of a text, in order, without the white space around them.

    `auto` takes Chinese rules where a fifth of the text's first characters are Chinese or
    Japanese. A blank line always ends a sentence, a single line break never does.
    """
    chinese = language == "zh" or (language == "auto" and _is_chinese(text))
    sentences = []
    start = 0
    for found in (_CHINESE if chinese else _ENGLISH).finditer(text):
        if _ends_sentence(text, start, found):
            sentence = text[start : found.end()].strip()
            if sentence:
                sentences.append(sentence)
            start = found.end()
    rest = text[start:].strip()
    return [*sentences, rest] if rest else sentences


def _is_chinese(text: str) -> bool:
    if text.isascii():
        return False
    looked_at = text[:_LOOKED_AT].strip()
    return len(_CJK.findall(looked_at)) > _CJK_SHARE * len(looked_at)


def _ends_sentence(text: str, start: int, found: re.Match[str]) -> bool:
    if found["blank"]:
        return True
    if found.lastgroup == "chinese":
        return _chinese_ends(text, found)
    following = _NEXT_WORD.match(text, found.end())
    word = following["word"] if following else ""
    if word[:1].islower():
        return False
    if found["stop"] != ".":
        return True
    return _full_stop_ends(text[start : found.start("stop")], word)


def _chinese_ends(text: str, found: re.Match[str]) -> bool:
    """A stop within a quotation goes on after it; a bare ellipsis is a pause."""
    following = text[found.end() : found.end() + 1]
    return following not in tuple("，、：,:") and not set(found[0]) <= {"…"}


def _full_stop_ends(sentence: str, following: str) -> bool:
    before = _LAST_WORD.search(sentence, max(0, len(sentence) - _LONGEST_LAST_WORD))
    word = before[0] if before else ""
    if len(word) == 1 and word.isalpha():
        return not word.isupper() or word == "I"
    lowered = word.lower()
    if lowered in _NEVER_LAST:
        return lowered == "no" and not following[:1].isdigit()
    if lowered in _SELDOM_LAST or "." in word:
        return following in _SENTENCE_STARTERS
    return not (word.isdigit() and len(word) == len(sentence.strip()))
