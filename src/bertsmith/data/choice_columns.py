"""Decides which columns of a table hold stem, endings and label of a choice.

What a flag names is taken, then what training had; the rest is guessed from the columns' names, or
in a file without a header from its first rows. Every guess is kept, so that it can be said aloud.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from bertsmith.config import ColumnsConfig
from bertsmith.data.choices import LETTERS, SAMPLE_ROWS, ChoiceColumns, find_spelling
from bertsmith.data.columns import ID_NAMES
from bertsmith.data.tables import Table
from bertsmith.errors import ConfigError, DataError, MissingInputError, nearest

# Names in order of preference, as the well-known sets have them; compared without case, with
# spaces, dashes and dots as underscores. Second are the words that stand before each ending.
STEM_NAMES = (
    ("sent1", "sent2"),  # SWAG
    ("ctx_a", "ctx_b"),  # HellaSwag
    ("context", "question"),
    ("article", "question"),  # RACE
    ("question_stem", None),  # OpenBookQA
    ("stem", None),
    ("context", None),
    ("ctx", None),
    ("premise", None),  # COPA
    ("goal", None),  # PIQA
    ("question", None),
    ("prompt", None),
    ("sentence", None),
    ("text", None),
)
ENDING_NAMES = ("endings", "choices", "options", "question_choices", "answers", "candidates")
LABEL_NAMES = ("label", "answerkey", "answer_key", "gold", "answer", "correct", "target")

# ending0, choice_1, answerA, sol2; or the bare letters A, B, C, D.
ONE_ENDING = re.compile(
    r"(ending|choice|option|answer|sol|solution|candidate|alternative|continuation)?_?([0-9]|[a-z])"
)


def choose_choice_columns(
    table: Table,
    config: ColumnsConfig,
    *,
    labelled: bool,
    known: ChoiceColumns | None = None,
) -> ChoiceColumns:
    """Returns the columns that flags name, else that `known` had, else that their names tell.

    Args:
        table: the opened file.
        config: what flags name.
        labelled: whether labels are to be read.
        known: what was read in training, taken where this file has columns of those names.

    Raises:
        ConfigError: a flag is given that is for tasks on texts.
        MissingInputError: a column that a flag names is not there; the nearest one is named.
        DataError: a column cannot be guessed, or the labels name no endings.
    """
    for flag, instead in (("text_column", "stem_column"), ("pair_column", "second_column")):
        if getattr(config, flag):
            raise ConfigError(f"{flag} is for texts and pairs; for choices give {instead}")
    names = _names(table)
    flagged = [name.strip() for name in (config.ending_columns or "").split(",") if name.strip()]
    for flag, given in (
        ("stem_column", config.stem_column),
        ("second_column", config.second_column),
        ("label_column", config.label_column),
        ("id_column", config.id_column),
        *(("ending_columns", name) for name in flagged),
    ):
        if given is not None and given not in names:
            raise MissingInputError(
                f"{table.path}: {flag} is {given!r}, which is not there{nearest(given, names)}"
            )
    found = _guess(table, config, names, tuple(flagged), labelled, known)
    told = {config.stem_column, config.second_column, config.label_column, config.id_column}
    told |= {*flagged}
    if known:
        told |= {*itertools.chain.from_iterable(known.roles().values())}
    guessed = tuple(role for role, columns in found.roles().items() if not {*columns} <= told)
    found = replace(found, guessed=guessed)
    if known:
        return replace(found, spelling=known.spelling)
    return replace(found, spelling=find_spelling(table, found)) if labelled else found


def _guess(
    table: Table,
    config: ColumnsConfig,
    names: Sequence[str],
    endings: tuple[str, ...],
    labelled: bool,
    known: ChoiceColumns | None,
) -> ChoiceColumns:
    stem, second, label = config.stem_column, config.second_column, config.label_column
    if known and {known.stem, *known.endings} <= {*names}:
        second = second or (None if stem else known.second)
        stem, endings = stem or known.stem, endings or known.endings
        label = label or (known.label if known.label in names else None)
    headless = not table.has_header and table.format in ("csv", "tsv")
    if headless and not (stem and endings):
        texts, rest = _by_content(table)
        stem = stem or texts[0]
        endings = endings or tuple(name for name in texts if name not in (stem, second, label))
        label = label or _label_by_content(table, rest, len(endings))
    plain = {_plain(name): name for name in names}
    if not endings:
        endings = _guess_endings(table, plain)
    if stem is None:
        stem, second = _guess_stem(table, plain, second, endings)
    if labelled and label is None:
        taken = {stem, second, *endings}
        label = next((plain[n] for n in LABEL_NAMES if n in plain and plain[n] not in taken), None)
        if label is None:
            _refuse(table, "label", "--label-column")
    identity = config.id_column
    if identity is None and not labelled:
        identity = next((plain[name] for name in ID_NAMES if name in plain), None)
    return ChoiceColumns(stem, second, endings, label if labelled else None, identity)


def _guess_endings(table: Table, plain: Mapping[str, str]) -> tuple[str, ...]:
    for name in ENDING_NAMES:
        if name in plain:
            return (plain[name],)
    groups: dict[str, dict[int, str]] = defaultdict(dict)
    for name, column in plain.items():
        found = ONE_ENDING.fullmatch(name)
        if found and (found[1] or found[2].isalpha()):
            number = int(found[2]) if found[2].isdigit() else LETTERS.index(found[2].upper())
            groups[found[1] or ""][number] = column
    for group in sorted(groups.values(), key=len, reverse=True):
        numbers = sorted(group)
        if len(numbers) > 1 and numbers[0] in (0, 1) and numbers[-1] - numbers[0] < len(numbers):
            return tuple(group[number] for number in numbers)
    _refuse(table, "endings", "--ending-columns, as in a,b,c,d")


def _guess_stem(
    table: Table, plain: Mapping[str, str], second: str | None, endings: Sequence[str]
) -> tuple[str, str | None]:
    for name, after in STEM_NAMES:
        if name in plain and plain[name] not in (second, *endings):
            if after is None:
                return plain[name], second
            if after in plain:
                return plain[name], second or plain[after]
    _refuse(table, "stem", "--stem-column")


def _refuse(table: Table, what: str, flag: str) -> NoReturn:
    shown = ", ".join(repr(name[:30]) for name in table.columns[:12])
    headless = ", or add --no-header if the first row is data" if table.has_header else ""
    raise DataError(
        f"{table.path}: no column is known to hold the {what}; found {shown}: "
        f"name it with {flag}{headless}"
    )


def _plain(name: str) -> str:
    return re.sub("[ .-]", "_", name.strip().casefold())


def _names(table: Table) -> list[str]:
    """Returns the columns, and as `column.key` the keys of the tables that some of them hold."""
    names = list(table.columns)
    if table.format in ("jsonl", "parquet"):
        first = next(table.rows(), None)
        for column, cell in first.cells.items() if first else ():
            if isinstance(cell, Mapping):
                names.extend(f"{column}.{key}" for key in cell)
    return names


def _by_content(table: Table) -> tuple[list[str], list[str]]:
    """Returns the columns whose values seldom repeat, which are texts, and the others."""
    rows = [row.cells for row in itertools.islice(table.rows(), SAMPLE_ROWS)]
    texts: list[str] = []
    rest: list[str] = []
    for name in table.columns:
        kinds = len({cells[name] for cells in rows})
        (texts if 2 * kinds > len(rows) else rest).append(name)
    if len(texts) < 3:
        _refuse(table, "stem and the endings", "--stem-column and --ending-columns")
    return texts, rest


def _label_by_content(table: Table, columns: Iterable[str], num_endings: int) -> str | None:
    """Returns the last column all of whose values are numbers, or letters, of endings."""
    known = {*map(str, range(num_endings))}, {*LETTERS[:num_endings]}
    for name in reversed([*columns]):
        rows = itertools.islice(table.rows(), SAMPLE_ROWS)
        values = {row.cells[name].strip().upper() for row in rows}
        if any(values <= names for names in known):
            return name
    return None
