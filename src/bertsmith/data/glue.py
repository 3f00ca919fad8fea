"""The GLUE tasks by name: their files as they were published, their metrics, their submissions.

GLUE's files are TSV in which a quote is a plain character. What each has of its own is in the table
`GLUE`, which can be read from top to bottom.

Source: Wang et al. 2019, "GLUE", table 1, with the files and the form of submissions of
gluebenchmark.com.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import Columns
from bertsmith.data.outputs import Answered, new_file
from bertsmith.data.tables import Table, open_table, torn_rows
from bertsmith.errors import ConfigError, DataError, MissingInputError, nearest

Part = Literal["train", "dev", "test"]

TORN_ROWS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """One GLUE task: which of its files holds what in which columns, and how it is scored."""

    name: str
    kind: Literal["classify", "regress"] = "classify"
    text: str = "sentence1"  # columns
    pair: str | None = "sentence2"
    label: str = "label"
    id: str = "index"  # of test files
    labels: tuple[str, ...] = ("0", "1")  # as its files and submissions spell them
    metrics: tuple[str, ...] = ("accuracy",)  # the official ones; the first chooses the best epoch
    train: str | None = "train.tsv"
    dev: tuple[str, ...] = ("dev.tsv",)
    test: tuple[str, ...] = ("test.tsv",)
    folders: tuple[str, ...] = ()  # what its folder is called besides its name
    headless: tuple[str, ...] = ()  # columns of train and dev files that have no header
    train_less: tuple[str, str] | None = None  # where both are there: one's rows less the other's
    may_be_torn: bool = False  # rows of a wrong number of columns are known, and left out
    rows: dict[str, int] = field(default_factory=dict)  # published number of them, by file


_MNLI = GlueTask(
    name="MNLI",
    label="gold_label",
    labels=("contradiction", "entailment", "neutral"),
    dev=("dev_matched.tsv", "dev_mismatched.tsv"),
    test=("test_matched.tsv", "test_mismatched.tsv"),
    folders=("MNLI",),
    rows={
        "train.tsv": 392_702,
        "dev_matched.tsv": 9_815,
        "dev_mismatched.tsv": 9_832,
        "test_matched.tsv": 9_796,
        "test_mismatched.tsv": 9_847,
    },
)

# Of two official metrics the one that Devlin et al. 2019 report, in table 1, stands first.
_TASKS = (
    GlueTask(
        name="CoLA",
        text="sentence",
        pair=None,
        metrics=("mcc",),
        headless=("source", "label", "original_label", "sentence"),
        rows={"train.tsv": 8_551, "dev.tsv": 1_043, "test.tsv": 1_063},
    ),
    GlueTask(
        name="SST-2",
        text="sentence",
        pair=None,
        rows={"train.tsv": 67_349, "dev.tsv": 872, "test.tsv": 1_821},
    ),
    GlueTask(
        name="MRPC",
        text="#1 String",
        pair="#2 String",
        label="Quality",
        metrics=("f1", "accuracy"),
        train_less=("msr_paraphrase_train.txt", "dev_ids.tsv"),
        rows={
            "msr_paraphrase_train.txt": 3_668,
            "train.tsv": 3_668,
            "dev.tsv": 408,
            "test.tsv": 1_725,
        },
    ),
    GlueTask(
        name="QQP",
        text="question1",
        pair="question2",
        label="is_duplicate",
        id="id",
        metrics=("f1", "accuracy"),
        may_be_torn=True,
        rows={"dev.tsv": 40_430, "test.tsv": 390_965},
    ),
    GlueTask(
        name="STS-B",
        kind="regress",
        label="score",
        labels=(),
        metrics=("spearman", "pearson"),
        rows={"train.tsv": 5_749, "dev.tsv": 1_500, "test.tsv": 1_379},
    ),
    _MNLI,
    replace(_MNLI, name="MNLI-m", dev=_MNLI.dev[:1], test=_MNLI.test[:1]),
    replace(_MNLI, name="MNLI-mm", dev=_MNLI.dev[1:], test=_MNLI.test[1:]),
    GlueTask(
        name="QNLI",
        text="question",
        pair="sentence",
        labels=("entailment", "not_entailment"),
        rows={"train.tsv": 104_743, "dev.tsv": 5_463, "test.tsv": 5_463},
    ),
    GlueTask(
        name="RTE",
        labels=("entailment", "not_entailment"),
        rows={"train.tsv": 2_490, "dev.tsv": 277, "test.tsv": 3_000},
    ),
    GlueTask(
        name="WNLI",
        rows={"train.tsv": 635, "dev.tsv": 71, "test.tsv": 146},
    ),
    GlueTask(  # the diagnostic set, for models of MNLI; published without labels
        name="AX",
        labels=_MNLI.labels,
        metrics=("mcc",),
        train=None,
        dev=(),
        test=("diagnostic.tsv",),
        folders=("diagnostic",),
        rows={"diagnostic.tsv": 1_104},
    ),
)

GLUE: dict[str, GlueTask] = {task.name: task for task in _TASKS}


def find_glue(name: str, kind: str) -> GlueTask:
    """Returns the GLUE task of that name, in whatever case and with dashes or without.

    Raises:
        ConfigError: there is none, or it is not of the kind that is asked for.
    """
    found = {_plain(known): task for known, task in GLUE.items()}.get(_plain(name))
    if found is None:
        raise ConfigError(f"glue is {name!r}, which is no GLUE task{nearest(name, GLUE)}")
    if found.kind != kind:
        what = "numbers" if found.kind == "regress" else "labels"
        raise ConfigError(
            f"glue is {found.name!r}, which asks for {what}; "
            f"expected the task {found.kind}, not {kind}"
        )
    return found


def _plain(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


def glue_files(place: Path, task: GlueTask, part: Part) -> tuple[Path, ...]:
    """Returns the files of one part; two of MNLI's dev and test.

    Args:
        place: the task's folder, or the one that this is in; or a file, which is then returned.
        task: the task.
        part: which part.

    Raises:
        ConfigError: the task has no such part.
        MissingInputError: a file is not there.
    """
    if place.is_file():
        return (place,)
    inside = [place / name for name in (task.name, *task.folders)]
    folder = next((path for path in inside if path.is_dir()), place)
    names = {"train": (task.train,) if task.train else (), "dev": task.dev, "test": task.test}[part]
    if not names:
        raise ConfigError(
            f"{task.name} has no {part} file: it is for testing alone; "
            f"predict it with a model that was fine-tuned on MNLI"
        )
    if part == "train" and task.train_less and all((folder / n).is_file() for n in task.train_less):
        names = task.train_less[:1]
    for name in names:
        if not (folder / name).is_file():
            raise MissingInputError(
                f"{folder}: has no {name}; expected the folder of GLUE's {task.name}, "
                f"or the one that holds it"
            )
    return tuple(folder / name for name in names)


def open_glue(
    path: Path, task: GlueTask, *, labelled: bool, id_column: str | None = None
) -> tuple[Table, Columns, str]:
    """Returns a file of a task as a table, its columns, and in words what is read of it.

    Rows are counted once before they are read, to say how many the published file has.

    Raises:
        DataError: the file has other columns than the task's.
    """
    headless = bool(task.headless) and path.name not in task.test
    table = open_table(path, ColumnsConfig(delimiter="tab", no_header=headless))
    if headless and len(table.columns) == len(task.headless):
        table = replace(table, columns=task.headless)
    if id_column is None and not labelled and task.id in table.columns:
        id_column = task.id
    columns = Columns(task.text, task.pair, task.label if labelled else None, id_column)
    lacking = [name for name in columns.names() if name not in table.columns]
    if lacking:
        known_test = " (test files have no labels)" if lacking == [task.label] else ""
        raise DataError(
            f"{path}: has no column {lacking[0]!r}{known_test}; found {', '.join(table.columns)}, "
            f"expected a {'labelled ' if labelled else ''}file of GLUE's {task.name}"
        )
    count, torn = torn_rows(table)
    left_out: set[int] = set()
    said = f"{path.name} of GLUE's {task.name}: {columns.said()}"
    if task.may_be_torn and torn:
        left_out.update(torn)
        shown = ", ".join(map(str, torn[:TORN_ROWS_SHOWN]))
        more = ", .." if len(torn) > TORN_ROWS_SHOWN else ""
        said += (
            f"; {len(torn)} rows of a wrong number of columns are left out (lines {shown}{more})"
        )
    if task.train_less and path.name == task.train_less[0]:
        dev_rows = _rows_named(table, path.with_name(task.train_less[1]))
        left_out |= dev_rows
        count -= len(dev_rows)
        said += f"; {len(dev_rows):,} rows are left out that {task.train_less[1]} names"
    published = task.rows.get(path.name, count)
    if count != published:
        said += f"; {count:,} rows are not the {published:,} of the published file"
    return replace(table, left_out=frozenset(left_out)), columns, said


def _rows_named(table: Table, names: Path) -> frozenset[int]:
    """Returns the lines of the rows whose two ids stand in a row of the file `names`."""
    pairs = open_table(names, ColumnsConfig(delimiter="tab", no_header=True))
    named = {tuple(row.cells.values()) for row in pairs.rows()}
    return frozenset(
        row.number
        for row in table.rows()
        if (row.cells.get("#1 ID"), row.cells.get("#2 ID")) in named
    )


def write_leaderboard(path: Path, rows: Iterable[Answered]) -> int:
    """Writes predictions as the leaderboard takes them: `index`, tab, `prediction`.

    Similarities lie within 0 to 5 and have three decimals; labels are spelt as in the task's files.
    Rows without an id are numbered from 0. Returns their number.
    """
    count = 0
    with new_file(path, "w") as file:
        file.write("index\tprediction\n")
        for row in rows:
            file.write(f"{count if row.id is None else row.id}\t{_spelt(row.answer)}\n")
            count += 1
    return count


def _spelt(answer: str | float) -> str:
    return answer if isinstance(answer, str) else f"{min(5.0, max(0.0, answer)):.3f}"
