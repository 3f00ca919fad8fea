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
_OPENERS = "\"'“‘«([{"
_BLANK_LINE = r"(?<=\n)(?P<blank>[ \t\r]*+\n)"
_ENGLISH_STOP = (
    rf"(?<![.!?…][.!?…])[.!?…]*+[{_CLOSERS}]*+\s++"
    rf"(?=[{re.escape(_OPENERS)}]*+(?P<next>\.|\w*+))"
)
_CHINESE_STOP = r"(?<![。！？；…][。！？；…])[。！？；…]*+[”’」』）》】〉\"')\]]*+(?=(?P<after>.?))"
_ENGLISH = re.compile(rf"[.!?…\n](?:{_BLANK_LINE}|(?<=[.!?…]){_ENGLISH_STOP})")
_CHINESE = re.compile(
    rf"[.!?…。！？；\n](?:{_BLANK_LINE}|(?<=[.!?]){_ENGLISH_STOP}|(?<=[。！？；…]){_CHINESE_STOP})"
)
_BEFORE_WORD = re.compile(rf".*[{re.escape(_OPENERS)}—–/-]")
_GOING_ON = ("，", "、", "：", ",", ":")
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
    chinese = language == "zh" or (language == "auto" and is_chinese(text))
    sentences = []
    start = 0
    for found in (_CHINESE if chinese else _ENGLISH).finditer(text):
        end = found.end()
        kind = found.lastgroup
        if kind == "next":
            ends = _stop_ends(text, start, found)
        else:
            ends = kind == "blank" or _chinese_stop_ends(found)
        if ends:
            sentence = text[start:end].strip()
            if sentence:
                sentences.append(sentence)
            start = end
    rest = text[start:].strip()
    return [*sentences, rest] if rest else sentences


def is_chinese(text: str) -> bool:
    """Returns whether a fifth of the text's first characters are Chinese or Japanese."""
    if text.isascii():
        return False
    looked_at = text[:_LOOKED_AT].strip()
    return len(_CJK.findall(looked_at)) > _CJK_SHARE * len(looked_at)


def _stop_ends(text: str, start: int, found: re.Match[str]) -> bool:
    following = found["next"]
    stop = found.start()
    if following == "." or following[:1].islower():  # a spaced ellipsis, or the sentence goes on
        return "\n" in found[0] and re.search(_BLANK_LINE, found[0]) is not None
    if text[stop] != "." or text[stop + 1] in ".!?…":
        return True
    return _full_stop_ends(text, start, stop, following)


def _full_stop_ends(text: str, start: int, stop: int, following: str) -> bool:
    """Decides by the words on both sides of a single full stop."""
    begin = max(start, stop - _LONGEST_LAST_WORD)
    word = text[begin:stop].rsplit(None, 1)[-1:]
    bare = _BEFORE_WORD.sub("", word[0]) if word else ""
    if len(bare) == 1 and bare.isalpha():  # an initial
        return bare.islower() or bare == "I"
    lowered = bare.lower()
    if lowered in _NEVER_LAST:
        return lowered == "no" and not following[:1].isdigit()
    if lowered in _SELDOM_LAST or "." in bare:
        return following in _SENTENCE_STARTERS
    return not (bare.isdigit() and not text[start : stop - len(bare)].strip())  # "1. First"


def _chinese_stop_ends(found: re.Match[str]) -> bool:
    """A stop in a quotation that goes on ends nothing, and a bare ellipsis is a pause."""
    return found["after"] not in _GOING_ON and not set(found[0]) <= {"…"}
