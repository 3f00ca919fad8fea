"""Reads a page as a browser does: its elements, their attributes and the text between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br"}


@dataclass
class Page(HTMLParser):
    """The elements of a page; parsing fails where one is not closed in its turn."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)  # the titles of sections
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def read_page(content: str) -> Page:
    page = Page()
    page.feed(content)
    page.close()
    assert not page.open
    return page


def is_inert(page: Page) -> bool:
    """Returns whether a page neither runs a script nor asks for anything from elsewhere."""
    fetched = {"src", "href", "srcset", "action", "data", "xlink:href"}
    return not any(
        tag in ("script", "img", "iframe", "object", "embed", "link", "base")
        or any(name in fetched or name.startswith("on") for name in attributes)
        for tag, attributes in page.elements
        if not _leads_beside_it(tag, attributes)
    )


def _leads_beside_it(tag: str, attributes: dict[str, str | None]) -> bool:
    """Returns whether this is a link to a file below the page, which is opened when clicked on."""
    return tag == "a" and list(attributes) == ["href"] and str(attributes["href"]).startswith("./")
