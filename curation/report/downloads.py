"""Tables as CSV that a page carries in itself."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from markupsafe import Markup

_FORMULA = ("=", "+", "-", "@")
_MOST_CHARACTERS = 500  # of a name


class Downloads:
    """Links to CSV files, up to a number of bytes in all; a table beyond it gets none."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    def link(self, name: str, rows: Iterable[Iterable[object]]) -> Markup:
        """A link that saves the rows as the file `name`."""
        data = ""
        for row in rows:
            data += quote(_line(row), safe=",;:/.'()_-", errors="replace")
            if len(data) > self._left:
                return Markup('<span class="download">too large to download from here</span>')
        self._left -= len(data)
        return Markup('<a class="download" download="{}" href="data:text/csv;charset=utf-8,{}">CSV</a>').format(name, Markup(data))


def _line(cells: Iterable[object]) -> str:
    """A line of CSV.

    >>> _line(["a,b", 1, "=1+1", None])
    '"a,b",1,\\'=1+1,\\n'
    """
    return ",".join(map(_cell, cells)) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return str(value)
    text = "" if value is None else str(value)[:_MOST_CHARACTERS]
    if text.lstrip().startswith(_FORMULA):
        text = f"'{text}"  # spreadsheets would run it as a formula
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text
