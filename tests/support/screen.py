"""A terminal of one's own, and what a person would see on it."""

import os
import pty
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

WIDTH = 100
PARTS = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|\r|\n|\x1b|[^\x1b\r\n]+")


class Screen:
    """Follows what is written to a terminal.

    Attributes:
        rows: of the screen, as long as nothing scrolls off.
        cursor: whether the cursor is shown.
        history: all rows whenever something has been written.
    """

    def __init__(self, written: str) -> None:
        self.rows, self.row, self.column, self.cursor = [""], 0, 0, True
        self.history: list[list[str]] = []
        for part in PARTS.finditer(written):
            self._read(part[0], part[1], part[2])
            self.history.append(list(self.rows))

    def _read(self, text: str, number: str | None, letter: str | None) -> None:
        if letter is not None:
            assert letter == "m" or (number, letter) in {("", "K"), ("2", "K"), ("1", "A"), ("?25", "l"), ("?25", "h")}
            if letter == "K":
                self.rows[self.row] = "" if number == "2" else self.rows[self.row][: self.column]
            elif letter == "A":
                self.row -= 1
            elif letter in "lh":
                self.cursor = letter == "h"
        elif text == "\r":
            self.column = 0
        elif text == "\n":
            self._down()
        else:
            assert text != "\x1b"
            for letter in text:
                if self.column == WIDTH:
                    self._down()
                    self.column = 0
                before = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = before[: self.column] + letter + before[self.column + 1 :]
                self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")


@contextmanager
def terminal(
    monkeypatch: pytest.MonkeyPatch, watch: Callable[[bytes], None] = lambda _: None
) -> Iterator[Callable[[], str]]:
    """Put a terminal in the place of both outputs; ``watch`` gets all that was written whenever there is more.

    Yields what gives it in the end, once the terminal is closed.
    """
    ours, its = pty.openpty()
    written = bytearray()

    def read() -> None:
        while True:
            try:
                found = os.read(ours, 2**16)
            except OSError:
                return  # so a terminal ends on Linux
            if not found:
                return
            written.extend(found)
            watch(bytes(written))

    reader = threading.Thread(target=read)
    reader.start()
    for name, value in {"COLUMNS": str(WIDTH), "LINES": "500", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patched, open(os.dup(its), "w") as out, open(its, "w", buffering=1) as err:
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", err)
        yield lambda: written.decode()
    reader.join(30)
    os.close(ours)
