"""What may be wrong with labelled rows: found before training, with a mend for each.

An `error` would make the result wrong, a `warning` may, a `note` is good to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bertsmith.errors import DataError
from bertsmith.recipes.finetuning.rows import LabelledData, Rows
from bertsmith.recipes.finetuning.rows_seen import COUNTED, Lengths, Seen
from bertsmith.recipes.finetuning.views import EYES

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
NEVER_CUT = ("answer", "tag")  # tasks that read what is long in windows, whatever the options

FEWEST_OF_A_LABEL = 2  # with fewer, a split leaves none to learn from, or none to score on
FEW_ROWS = 20  # to learn from; fewer hardly tell a model from chance
MANY_LABELS, FEW_OF_EACH = 100, 20  # labels, and rows for each of them: are they classes at all?
GREATEST_IMBALANCE = 100  # rows of the most frequent label for one of the rarest
MOST_WORDS = 1000  # of a sentence; more are several that nothing parts
MUCH_CUT = 0.05  # share of rows that lose their end
MANY_TWICE = 0.05  # share of rows whose text an earlier row has
MANY_UNKNOWN = 0.05  # share of pieces that are [UNK]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, where, and what to do about it."""

    severity: Severity
    what: str
    where: str
    mend: str

    def said(self) -> str:
        """Returns the finding in one line."""
        return f"{self.where}: {self.what}; {self.mend}" if self.mend else self.what


def check_labelled(
    data: LabelledData, settings: Mapping[str, Any], files: Mapping[str, str | None], unk_id: int
) -> list[Finding]:
    """Returns what was found in rows as fine-tuning has read them.

    Args:
        data: the rows.
        settings: of the run; of these `max_length`, `multi_label` and so on are looked at.
        files: of these `dev`, where the dev rows come from a file of their own.
        unk_id: of the piece that stands for words that the vocabulary does not know.
    """
    name = data.task.name
    separator = settings.get("label_separator") if settings.get("multi_label") else None

    def see(rows: Rows) -> Seen:
        file = rows.examples[0].where.rpartition(":")[0] if rows.examples else ""
        seen = Seen(file or "the rows", name, separator)
        for example in rows.examples:
            seen.add(example.where, EYES[name].view(example))
        return seen

    train, dev = see(data.train), see(data.dev)
    dev_is_a_file = files.get("dev") is not None or train.name != dev.name
    found = find(train, dev, dev_is_a_file=dev_is_a_file)
    lengths = Lengths(int(settings["max_length"]))
    for row in data.train.features:
        lengths.add(row, unk_id)
    in_windows = name in NEVER_CUT or settings.get("long_texts") == "windows"
    return by_severity([*found, *find_in_lengths(lengths, train.name, in_windows=in_windows)])


def check_before_training(
    data: LabelledData,
    settings: Mapping[str, Any],
    files: Mapping[str, str | None],
    unk_id: int,
    say: Callable[[str], None],
) -> list[Finding]:
    """Returns what `check_labelled` finds; warnings are told through `say`.

    Raises:
        DataError: there is an error among them, and `train_anyway` is not set.
    """
    found = check_labelled(data, settings, files, unk_id)
    for one in found:
        if one.severity == "error" and not settings.get("train_anyway"):
            raise DataError(f"{one.said()} (or train on it as it is, with --train-anyway)")
        if one.severity != "note":
            say(f"{one.severity}: {one.said()}")
    return found


def find(train: Seen, dev: Seen | None, *, dev_is_a_file: bool = True) -> list[Finding]:
    """Returns what was found in training rows and, if there are any, dev rows, the worst first.

    Args:
        train, dev: the rows.
        dev_is_a_file: of its own; not so where dev rows were split off.
    """
    found = [*_rows(train), *_few(train), *_labels(train), *_doubles(train), *_encoding(train)]
    found += _sentences(train)
    if dev is not None:
        if dev_is_a_file:
            found += [*_rows(dev), *_encoding(dev)]
        found += [*_unseen_labels(train, dev), *_shared(train, dev, dev_is_a_file)]
    return by_severity(found)


def find_in_lengths(
    lengths: Lengths, name: str, *, in_windows: bool, most: int | None = None
) -> list[Finding]:
    """Returns what was found in the lengths of a file's rows; `most` is what the model can read."""
    if not len(lengths):
        return []
    found = []
    middle, high = lengths.at(0.5), lengths.at(0.95)
    share = lengths.cut / len(lengths)
    what = f"half of the rows have up to {middle} pieces, 95% up to {high}"
    if in_windows:
        found.append(Finding("note", f"{what}; longer ones are read in windows", name, ""))
    elif not lengths.cut:
        found.append(Finding("note", f"{what}; none is longer than {lengths.limit}", name, ""))
    else:
        found.append(
            Finding(
                "warning" if share > MUCH_CUT else "note",
                f"{what}; {lengths.cut:,} of {len(lengths):,} rows ({share:.1%}) are longer "
                f"than {lengths.limit} and lose their end",
                name,
                f"if that matters, {_longer(lengths, most)}give --long-texts windows",
            )
        )
    if lengths.unknown_share > MANY_UNKNOWN:
        found.append(
            Finding(
                "warning",
                f"{lengths.unknown_share:.0%} of the pieces are [UNK]: words that the vocabulary "
                f"does not know",
                name,
                "use an encoder of the texts' language and script",
            )
        )
    return found


def _longer(lengths: Lengths, most: int | None) -> str:
    """Returns the advice to read more of each row, as far as the model can."""
    if most is not None and most <= lengths.limit:
        return ""
    if not lengths.are_whole:
        return "raise --max-length or "
    kept = next(kept for kept in (0.95, 0.99, 1.0) if lengths.at(kept) > lengths.limit)
    size = -8 * (-lengths.at(kept) // 8)
    if most is not None and size > most:
        return f"raise --max-length to {most}, the most that the model reads, or "
    return f"raise --max-length (to {size} keeps {kept:.0%} whole) or "


def by_severity(found: Iterable[Finding]) -> list[Finding]:
    """Returns the findings, errors first, otherwise in their order."""
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))


def has_error(found: Iterable[Finding]) -> bool:
    """Returns whether an error is among the findings."""
    return any(one.severity == "error" for one in found)


# ------------------------------------------------------------------------------ single findings


def _rows(seen: Seen) -> Iterable[Finding]:
    if not len(seen):
        yield Finding("error", "holds no rows", seen.name, "give labelled rows")
    for rows, what in ((seen.empty, "text"), (seen.unlabelled, "label")):
        if rows.count:
            yield Finding(
                "error",
                f"{_rows_in_words(rows.count)} no {what}",
                seen.place(*rows.first),
                f"fill the {what} or drop the row{_s(rows.count)}",
            )


def _few(train: Seen) -> Iterable[Finding]:
    if 0 < len(train) < FEW_ROWS:
        yield Finding(
            "warning",
            f"{len(train)} row{_s(len(train))} to learn from: scores will be mostly chance",
            train.name,
            "add rows, and look at the mean of several --seeds",
        )


def _labels(seen: Seen) -> Iterable[Finding]:
    if not seen.labels or seen.counted != "label":
        return
    ranked = seen.labels.most_common()
    shown = ", ".join(f"{label[:40]} ({count:,})" for label, count in ranked[:20])
    more = f" and {len(ranked) - 20:,} more" if len(ranked) > 20 else ""
    yield Finding("note", f"{len(ranked):,} labels: {shown}{more}", seen.name, "")
    if len(ranked) == 1 and not seen.has_several:
        yield Finding(
            "error",
            f"every row has the label {ranked[0][0][:40]!r}",
            seen.name,
            "name the right column with --label-column, or add rows of other labels",
        )
        return
    each = len(seen) / len(ranked)
    if len(ranked) > MANY_LABELS and each < FEW_OF_EACH and not seen.has_several:
        yield Finding(
            "warning",
            f"{len(ranked):,} labels for {len(seen):,} rows, {each:.1f} rows for each",
            seen.name,
            "if they are classes, expect little; if they are ids or numbers, name the right "
            "column with --label-column, or use the task regress",
        )
    rare = [label for label, count in ranked if count < FEWEST_OF_A_LABEL]
    if rare:
        shown = ", ".join(f"{label[:40]!r}" for label in rare[:5])
        yield Finding(
            "warning",
            f"{len(rare):,} label{_s(len(rare))} ({shown}{', ..' if len(rare) > 5 else ''}) "
            f"{'have' if len(rare) > 1 else 'has'} a single row, too few to learn or to score",
            seen.first_of[rare[0]],
            "add rows, or join rare labels into one",
        )
    yield from _spellings(seen)
    (most, many), (least, few) = ranked[0], ranked[-1]
    if many > GREATEST_IMBALANCE * few:
        yield Finding(
            "warning",
            f"{most[:40]!r} has {many:,} rows and {least[:40]!r} {few:,}: "
            f"saying the first everywhere is right for {many / len(seen):.1%} of the rows",
            seen.name,
            "give --class-weights balanced, and look at f1_macro rather than accuracy",
        )


def _sentences(seen: Seen) -> Iterable[Finding]:
    if seen.counted == COUNTED["tag"] and seen.most_words > MOST_WORDS:
        yield Finding(
            "warning",
            f"a sentence of {seen.most_words:,} words: are they several that nothing parts?",
            seen.place(seen.longest),
            "put a blank line between sentences",
        )


def _spellings(seen: Seen) -> Iterable[Finding]:
    """Tells of labels that are one to a reader, but two to a model."""
    alike: dict[str, list[str]] = {}
    for label in seen.labels:
        alike.setdefault(" ".join(label.casefold().replace("_", " ").split()), []).append(label)
    for spellings in alike.values():
        if len(spellings) > 1:
            shown = ", ".join(f"{label[:40]!r} ({seen.labels[label]:,})" for label in spellings[:5])
            yield Finding(
                "warning",
                f"labels that differ by capitals or spaces alone: {shown}",
                seen.first_of[min(spellings, key=seen.labels.__getitem__)],
                "spell them alike",
            )


def _doubles(seen: Seen) -> Iterable[Finding]:
    texts, wanted = seen.texts(), seen.wanted()
    order = np.argsort(texts, kind="stable")
    again = np.flatnonzero(texts[order][1:] == texts[order][:-1])  # places in `order`
    if not len(again):
        return
    example = seen.place(*order[again[0] : again[0] + 2].tolist())
    yield Finding(
        "warning" if len(again) > MANY_TWICE * len(seen) else "note",
        f"{_rows_in_words(len(again))} a text that stands in an earlier row too",
        example,
        "drop the doubles, or a split will have them on both sides",
    )
    _, groups = np.unique(texts, return_inverse=True)
    pairs = np.unique(np.stack([groups.astype(np.uint64), wanted]), axis=1)[0]
    kinds = np.bincount(pairs.astype(np.int64))  # of wanted answers, for each text
    torn = kinds[groups] > 1
    if torn.any():
        group = groups[int(np.argmax(torn))]
        here = np.flatnonzero(groups == group)
        other = next(row for row in here if wanted[row] != wanted[here[0]])
        yield Finding(
            "warning",
            f"{_rows_in_words(int(torn.sum()))} a text that other rows give another label",
            seen.place(int(here[0]), int(other)),
            "settle on one label for each text, or drop these rows",
        )


def _encoding(seen: Seen) -> Iterable[Finding]:
    if seen.mojibake.count:
        yield Finding(
            "warning",
            f"{_rows_in_words(seen.mojibake.count)} characters such as "
            f"{seen.first_mojibake!r}: text that was once read in the wrong encoding",
            seen.place(*seen.mojibake.first),
            "write the file anew from its source as UTF-8, or repair it (ftfy does)",
        )
    if seen.replaced.count:
        yield Finding(
            "warning",
            f"{_rows_in_words(seen.replaced.count)} U+FFFD, which stands for bytes that were lost",
            seen.place(*seen.replaced.first),
            "write the file anew from its source in the right encoding",
        )


def _unseen_labels(train: Seen, dev: Seen) -> Iterable[Finding]:
    unseen = [label for label in dev.labels if label not in train.labels and train.labels]
    if unseen:
        shown = ", ".join(f"{label[:40]!r}" for label in unseen[:5])
        yield Finding(
            "error",
            f"{len(unseen):,} {_labels_in_words(dev, len(unseen))} of the dev rows ({shown}"
            f"{', ..' if len(unseen) > 5 else ''}) do not occur in training",
            dev.first_of[unseen[0]],
            f"spell {_labels_in_words(dev, 2)} alike in both files, or drop those rows",
        )


def _shared(train: Seen, dev: Seen, dev_is_a_file: bool) -> Iterable[Finding]:
    shared = np.isin(dev.texts(), train.texts())
    count = int(shared.sum())
    if not count:
        return
    first = int(np.argmax(shared))
    twin = int(np.argmax(train.texts() == dev.texts()[first]))
    share = count / len(dev)
    yield Finding(
        "error" if dev_is_a_file and share > 0.5 else "warning",
        f"{count:,} of {len(dev):,} dev rows ({share:.1%}) have a text that training rows have: "
        f"dev scores will be better than the model is",
        f"{dev.place(first)}, {train.place(twin)}",
        "take those rows out of one of them" if dev_is_a_file else "drop rows that stand twice",
    )


def _rows_in_words(count: int) -> str:
    return f"{count:,} rows have" if count != 1 else "1 row has"


def _labels_in_words(seen: Seen, count: int) -> str:
    what, space, rest = str(seen.counted).partition(" ")
    return f"{what}{_s(count)}{space}{rest}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
