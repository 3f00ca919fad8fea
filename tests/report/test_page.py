"""A page holds what it is given as text, is well-formed, and runs and loads nothing."""

from __future__ import annotations

import pytest
from tests.report.reading import is_inert, read_page

from bertsmith.report.page import (
    Bar,
    Link,
    Markup,
    Section,
    cards,
    figure,
    page,
    paragraph,
    preformatted,
    side_by_side,
    table,
    text,
)

EVIL = [
    "<img src=x onerror=alert(1)>",
    "</title></style></pre></table><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "&lt;script&gt; &amp; &#60;",
    "<!-- ]]> -->",
]


@pytest.mark.parametrize("evil", EVIL)
def test_whatever_is_given_is_shown_as_it_is_and_does_nothing(evil: str) -> None:
    parts = [
        paragraph(evil),
        preformatted(evil),
        cards([(evil, evil)], best=evil),
        table((evil, evil), [(evil, 1), (evil, Bar(0.5))], kinds=("error", "note")),
        table((), [(Link(evil, evil),)]),
        side_by_side([figure(evil, text(evil), text(evil))]),
    ]
    found = read_page(page(evil, [Section(evil, parts)], lead=paragraph(evil)))
    assert is_inert(found)
    shown = 2 + 1 + 1 + 1 + 1 + 2 + 4 + 1 + 3  # title twice, lead, section, parts in their order
    assert found.text.count(evil) == shown


def test_a_browser_is_told_to_load_and_run_nothing() -> None:
    policies = [
        attributes["content"]
        for tag, attributes in read_page(page("title", [])).elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_a_link_leads_to_a_file_beside_the_page_whatever_its_name() -> None:
    for name, target in (("seed-1/report.html", "./seed-1/report.html"), ("a:b", "./a%3Ab")):
        assert f'<a href="{target}">run</a>' in table((), [(Link("run", name),)])
    with pytest.raises(AssertionError, match="what stands beside it"):
        table((), [(Link("run", "/etc/passwd"),)])


def test_figures_stand_to_the_right_and_bars_stay_within_their_cell() -> None:
    content = table(("name", "rows"), [("a", 12345), ("b", 0.123456)])
    assert '<td class="number">12,345</td>' in content
    assert '<td class="number">0.1235</td>' in content
    assert '<th class="number">rows</th>' in content
    assert 'style="width:100.0%"' in table((), [(Bar(7.0),)])


def test_a_page_is_light_or_dark_as_the_reader_has_it() -> None:
    content = page("title", [Section("empty", [Markup("")])])
    assert "prefers-color-scheme: dark" in content
    assert 'name="viewport"' in content
