"""What a data check keeps of labelled rows: a few numbers of each, never its text."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bertsmith.recipes.finetuning.views import View
from bertsmith.tasks.forms import Features

# UTF-8 that was read as cp1252 or Latin-1 (Ã© for é, â€™ for a quote); cp1252 read as Mac Roman.
MOJIBAKE = re.compile(
    "[\u00c2\u00c3][\u0080-\u00bf\u0192\u02c6\u02dc\u2013-\u201e\u2020-\u2022\u2026\u2030\u20ac]"
    "|\u00e2[\u0080\u20ac][\u0080-\u00bf\u0153\u0161\u017e\u02c6\u02dc\u201c-\u201e\u2020-\u2022"
    "\u2026\u2122]"
    "|\u00f0[\u009f\u0178]"
    "|\u00db[\u00aa\u00cf\u00d2\u00d3\u00f7_]"
)
REPLACED = "\ufffd"
# What is counted of the rows of a task, where what is wanted are labels, of which there are few.
COUNTED = {"classify": "label", "tag": "kind of tag"}


@dataclass
class Some:
    """Rows that have something in common: their number, and the first few."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, row: int) -> None:
        """Takes in a row."""
        self.count += 1
        if self.count <= 3:
            self.first.append(row)


class Seen:
    """What is kept of the rows of one file: some 20 bytes a row."""

    def __init__(self, name: str, task: str, separator: str | None = None) -> None:
        """Begins without rows.

        Args:
            name: of the file, for messages.
            task: what is to be learnt from the rows.
            separator: between labels, where a row may have several.
        """
        self.name = name
        self.counted = COUNTED.get(task)
        self._separator = separator
        self._texts = array("Q")  # a hash of each row's texts
        self._wanted = array("Q")  # a hash of what is wanted
        self._lines = array("L")  # of the file; 0 where the place is told otherwise
        self.labels: Counter[str] = Counter()
        self.first_of: dict[str, str] = {}  # where each label was met first
        self.empty = Some()
        self.unlabelled = Some()
        self.mojibake = Some()
        self.first_mojibake = ""
        self.replaced = Some()
        self.most_words, self.longest = 0, 0  # of a row, and which

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, where: str, view: View) -> None:
        """Takes in a row."""
        row = len(self._texts)
        self._texts.append(_hash("\0".join(view.texts)))
        self._wanted.append(_hash(view.wanted))
        line = where.rpartition(":")[2]
        self._lines.append(int(line) if line.isascii() and line.isdigit() else 0)
        if self.counted:
            self._count_labels(row, where, view)
        words = sum(len(text.split()) for text in view.texts)
        if words > self.most_words:
            self.most_words, self.longest = words, row
        if not all(text.strip() for text in view.texts):
            self.empty.add(row)
        garbled = next(filter(None, map(MOJIBAKE.search, view.texts)), None)
        if garbled:
            self.mojibake.add(row)
            self.first_mojibake = self.first_mojibake or garbled[0]
        if any(REPLACED in text for text in view.texts):
            self.replaced.add(row)

    @property
    def has_several(self) -> bool:
        """Returns whether a row may have several labels."""
        return self._separator is not None

    def place(self, *rows: int) -> str:
        """Returns where rows are, as `file:line`, several as `file:line, line and line`."""
        lines = [self._lines[row] for row in rows]
        if not all(lines):
            shown = [f"{row + 1:,}" for row in rows]
            return f"{self.name}, row {_listed(shown)}"
        return f"{self.name}:{_listed([str(line) for line in lines])}"

    def texts(self) -> NDArray[np.uint64]:
        """Returns a hash of each row's texts. [N]"""
        return np.frombuffer(self._texts, np.uint64) if self._texts else np.empty(0, np.uint64)

    def wanted(self) -> NDArray[np.uint64]:
        """Returns a hash of what is wanted of each row. [N]"""
        return np.frombuffer(self._wanted, np.uint64) if self._wanted else np.empty(0, np.uint64)

    def _count_labels(self, row: int, where: str, view: View) -> None:
        labels = [view.wanted.strip()]
        if view.labels is not None:
            labels = list(view.labels)
        elif self._separator:
            labels = [part.strip() for part in view.wanted.split(self._separator)]
        elif not labels[0]:
            self.unlabelled.add(row)
        for label in filter(None, labels):
            self.labels[label] += 1
            self.first_of.setdefault(label, where)


class Lengths:
    """How long rows are as the model reads them: 4 bytes a row."""

    def __init__(self, limit: int, *, are_whole: bool = False) -> None:
        """Begins without rows.

        Args:
            limit: the pieces that the model will read of each.
            are_whole: whether rows are added as long as they are, whatever the limit.
        """
        self.limit = limit
        self.are_whole = are_whole
        self.cut = 0
        self.unknown_share = 0.0  # of the pieces, those that are [UNK]
        self._sizes = array("I")
        self._pieces = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, row: Features, unk_id: int) -> None:
        """Takes in a row; of several sequences the longest counts."""
        size = max(map(len, row.sequences))
        self._sizes.append(size)
        self.cut += row.was_cut or size > self.limit
        unknown = sum(int(np.count_nonzero(part.piece_ids == unk_id)) for part in row.sequences)
        before = self.unknown_share * self._pieces
        self._pieces += row.num_tokens
        self.unknown_share = (before + unknown) / self._pieces

    def at(self, share: float) -> int:
        """Returns the length up to which this share of the rows is."""
        return int(np.quantile(np.array(self._sizes), share, method="higher"))


def _hash(text: str) -> int:
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
