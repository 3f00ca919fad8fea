"""Drawings are well-formed, within their frame, and true to the values."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.reading import Page, is_inert, read_page

from bertsmith.report.charts import (
    HEIGHT,
    MOST_POINTS,
    WIDTH,
    Series,
    line_chart,
    line_file,
    reliability_plot,
    scatter,
    thinned,
    ticks,
)
from bertsmith.report.matrix import MOST_LABELS, confusion_matrix
from bertsmith.report.page import Markup

EVIL = "</text></svg><script>alert(1)</script>"


def drawn_points(page: Page) -> list[tuple[float, float]]:
    found = []
    for tag, attributes in page.elements:
        if tag == "polyline":
            pairs = str(attributes["points"]).split()
            found += [(float(x), float(y)) for x, y in (pair.split(",") for pair in pairs)]
        elif tag == "circle":
            found.append((float(str(attributes["cx"])), float(str(attributes["cy"]))))
    return found


@pytest.mark.parametrize(
    "points",
    [
        [(0.0, 1.0)],
        [(1.0, 5.0), (2.0, 5.0)],
        [(0.0, -3.0), (1.0, 0.0), (2.0, 1e9)],
        [(0.0, math.nan), (1.0, 1e-9), (2.0, math.inf), (3.0, 2e-9)],
        [(float(step), math.sin(step)) for step in range(10_000)],
    ],
)
def test_curves_stay_within_their_frame(points: list[tuple[float, float]]) -> None:
    page = read_page(line_chart("loss", [Series("one", points, True)], x_label="step"))
    found = drawn_points(page)
    assert found
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in found)


def test_a_curve_rises_where_its_values_do() -> None:
    page = read_page(line_chart("loss", [Series("one", [(0, 1), (1, 3), (2, 2)])], x_label="step"))
    (x0, y0), (x1, y1), (x2, y2) = drawn_points(page)
    assert x0 < x1 < x2
    assert y1 < y2 < y0  # downwards, as SVG counts


def test_several_curves_have_a_legend_and_nothing_is_said_when_there_is_nothing() -> None:
    two = [Series("train", [(0, 1), (1, 2)]), Series("dev", [(0, 2), (1, 1)])]
    assert "train" in read_page(line_chart("loss", two, x_label="step")).texts
    empty = [Series("train", [(0, math.nan)])]
    assert "nothing to draw" in read_page(line_chart("loss", empty, x_label="step")).text
    assert "nothing to draw" in read_page(scatter("all", [], x_label="x", y_label="y")).text


def test_a_chart_is_a_file_of_its_own_with_all_names_and_points() -> None:
    two = [Series(EVIL, [(0, 1), (1, 2)], True), Series("b & c", [(0, 2), (1, 1)])]
    drawn = line_file("loss", two, x_label="minutes")
    root = ElementTree.fromstring(drawn)  # well-formed, or it raises
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert {"loss", EVIL, "b & c", "minutes"} <= {part.text for part in root.iter()}
    inside = read_page(line_chart("loss", two, x_label="minutes"))
    assert drawn_points(read_page(Markup(drawn))) == drawn_points(inside)


def test_labels_of_any_text_do_nothing() -> None:
    drawings = [
        line_chart(EVIL, [Series(EVIL, [(0, 1)], True), Series("b", [(1, 2)])], x_label=EVIL),
        scatter(EVIL, [(1, 2)], x_label=EVIL, y_label=EVIL),
        reliability_plot(EVIL, [(0.0, 0.1, 3, 0.05, 0.1)]),
        confusion_matrix([EVIL, "b"], {(0, 1): 3}),
        confusion_matrix([EVIL, *map(str, range(40))], {(0, 1): 3}),
    ]
    for drawing in drawings:
        page = read_page(drawing)
        assert is_inert(page)
        shown = page.text + " ".join(
            str(value) for _, found in page.elements for value in found.values()
        )
        assert EVIL in shown or EVIL[:22] in shown


def test_a_long_curve_is_drawn_by_its_means() -> None:
    points = [(float(step), float(step % 7)) for step in range(100_000)]
    found = thinned(points)
    assert len(found) <= MOST_POINTS
    assert np.mean([y for _, y in found]) == pytest.approx(3, abs=0.01)
    assert thinned(points[:5]) == points[:5]


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12))
def test_ticks_are_few_round_and_inside(low: float, size: float) -> None:
    high = low + size
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    found = ticks(low, high)
    slack = (high - low) * 1e-6
    assert 1 <= len(found) <= 8
    assert all(low - slack <= value <= high + slack for value in found)


def test_points_of_a_scatter_have_one_scale_on_both_axes() -> None:
    page = read_page(scatter("all", [(0, 0), (10, 10), (2, 8)], x_label="x", y_label="y"))
    (left, bottom), (right, top), _ = drawn_points(page)
    guide = next(str(found["d"]) for _, found in page.elements if found.get("class") == "guide")
    assert [float(number) for number in re.findall(r"[\d.]+", guide)] == pytest.approx(
        [left, bottom, right, top]
    )


def test_a_bar_of_reliability_is_as_high_as_the_share_that_came_true() -> None:
    page = read_page(
        reliability_plot(
            "all", [(0.0, 0.5, 4, 0.3, 0.25), (0.5, 1.0, 8, 0.9, 0.5), (1, 1, 0, 0, 0)]
        )
    )
    heights = [float(str(found["height"])) for tag, found in page.elements if tag == "rect"]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert "8 predictions, 90.0% sure, 50.0% right" in page.text


def test_a_matrix_has_every_count_in_its_place() -> None:
    page = read_page(confusion_matrix(["cat", "dog"], {(0, 0): 5, (0, 1): 2, (1, 1): 1234}))
    told = [str(found["title"]) for tag, found in page.elements if tag == "td"]
    assert told == [
        "cat called cat: 5",
        "cat called dog: 2",
        "dog called cat: 0",
        "dog called dog: 1,234",
    ]


def test_of_many_labels_the_pairs_that_are_confused_most_are_listed() -> None:
    labels = [f"label {number}" for number in range(MOST_LABELS + 1)]
    counts = {(0, 0): 50, (0, 1): 50, (2, 3): 7, (4, 5): 9}
    page = read_page(confusion_matrix(labels, counts))
    order = [word for word in page.texts if word.startswith("label ")]
    assert order == ["label 0", "label 1", "label 4", "label 5", "label 2", "label 3"]
    assert "50.0%" in page.texts
