"""Which labels are taken for which: as a coloured table or, of many labels, as a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bertsmith.report.page import Cell, Markup, table, text

MOST_LABELS = 30  # that a table of all by all has
MOST_PAIRS = 30  # of labels that are listed instead
STRONG = 0.8  # share from which letters are white on the cell's colour
FITTING = 4  # letters over a column; longer labels stand upright
COLOR = "37,99,168"  # --c0 of the light page; see-through, so that it suits both


def confusion_matrix(labels: Sequence[str], counts: Mapping[tuple[int, int], int]) -> Markup:
    """Returns how often each label (a row) was called what (a column).

    A cell's colour is its share of the row. Of more than `MOST_LABELS` labels, the pairs that are
    confused most often are listed.

    Args:
        labels: their names.
        counts: by the numbers of the right label and the predicted one; what is not there is 0.
    """
    if len(labels) > MOST_LABELS:
        return most_confused(labels, counts)
    kind = "top" if max(map(len, labels), default=0) > FITTING else "number"
    head = "".join(f'<th class="{kind}">{text(_short(label))}</th>' for label in labels)
    rows = [f"<tr><th></th>{head}</tr>"]
    for right, label in enumerate(labels):
        found = [counts.get((right, predicted), 0) for predicted in range(len(labels))]
        total = sum(found)
        cells = "".join(
            _cell(count, count / max(1, total), f"{label} called {labels[predicted]}: {count:,}")
            for predicted, count in enumerate(found)
        )
        rows.append(f"<tr><th>{text(_short(label))}</th>{cells}</tr>")
    return Markup(f'<div class="wide"><table class="matrix">{"".join(rows)}</table></div>')


def most_confused(labels: Sequence[str], counts: Mapping[tuple[int, int], int]) -> Markup:
    """Returns the pairs of labels of which one was most often called the other."""
    totals: dict[int, int] = {}
    for (right, _), count in counts.items():
        totals[right] = totals.get(right, 0) + count
    wrong = sorted(
        ((count, pair) for pair, count in counts.items() if pair[0] != pair[1] and count),
        key=lambda entry: (-entry[0], entry[1]),
    )
    rows: list[tuple[Cell, ...]] = [
        (labels[right], labels[predicted], count, f"{count / totals[right]:.1%}")
        for count, (right, predicted) in wrong[:MOST_PAIRS]
    ]
    return table(("right", "called", "rows", "of all with that label"), rows)


def _cell(count: int, share: float, told: str) -> str:
    strong = ' class="strong"' if share > STRONG else ""
    color = f' style="background:rgba({COLOR},{0.08 + 0.92 * share:.2f})"' if count else ""
    return f'<td{strong}{color} title="{text(told)}">{f"{count:,}" if count else "·"}</td>'


def _short(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:22]}…"
