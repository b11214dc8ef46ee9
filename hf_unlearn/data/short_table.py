"""A short table with a few sentences around it, as text, Markdown and HTML."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest

from ..errors import in_one_line

SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~"})


@dataclass(frozen=True)
class ShortTable:
    """What one wants to see of a result at first.

    Attributes:
        title: one sentence above the table.
        headings: of the columns after the first; empty where the table has no head.
        rows: the name of a row, and its cells.
        lines: sentences below the table.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[tuple[str, ...]]
    lines: Sequence[str] = ()

    def text(self) -> str:
        """For a terminal: columns of equal width, names on the left and numbers on the right."""
        table = [("", *self.headings), *self.rows] if self.headings else list(self.rows)
        widths = [max(map(len, column)) for column in zip_longest(*table, fillvalue="")]
        shown = []
        for name, *cells in table:
            numbers = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=False))
            shown.append(f"{name:<{widths[0]}}{numbers}".rstrip())
        return "\n".join(map(in_one_line, [self.title, *shown, *self.lines]))

    def markdown(self) -> str:
        """For a page: the title, a table and a list of the sentences."""
        head = self.headings or [""] * max((len(row) - 1 for row in self.rows), default=1)
        table = [("", *head), ("---", *("---:" for _ in head)), *(tuple(map(_escaped, row)) for row in self.rows)]
        lines = [f"| {' | '.join(row)} |" for row in table] if self.rows else []
        below = ["", *(f"- {_escaped(line)}" for line in self.lines)] if self.lines else []
        return "\n".join([f"**{_escaped(self.title)}**", "", *lines, *below]) + "\n"

    def html(self) -> str:
        """For a notebook; nothing in it acts as markup that came from outside."""

        def row(cells: Sequence[str], kind: str) -> str:
            inner = "".join(f"<{kind}>{escape(in_one_line(cell))}</{kind}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        head = f"<thead>{row(('', *self.headings), 'th')}</thead>" if self.headings else ""
        body = "".join(row(cells, "td") for cells in self.rows)
        below = "".join(f"<li>{escape(in_one_line(line))}</li>" for line in self.lines)
        title = f"<p><b>{escape(in_one_line(self.title))}</b></p>"
        table = f"<table>{head}<tbody>{body}</tbody></table>" if self.rows else ""
        return title + table + (f"<ul>{below}</ul>" if below else "")


def _escaped(text: str) -> str:
    return in_one_line(text).translate(SPECIAL)


class Shown(ABC):
    """Shows itself as its short table: printed, as Markdown, and in a notebook."""

    @abstractmethod
    def short_table(self) -> ShortTable:
        """What is shown; it holds no record and no id."""

    def __str__(self) -> str:
        return self.short_table().text()

    def to_markdown(self) -> str:
        """The short table as Markdown."""
        return self.short_table().markdown()

    def _repr_html_(self) -> str:
        return self.short_table().html()
