"""What stands on a page: numbers that say where in report.json they come from, and text by strangers, shown as text.

A number is `<data value="0.5" data-part="/a" data-whole="/b">50.0 %</data>`: `data-path` names where it stands, or `data-part` and
`data-whole` of what it is a quotient. A place is a JSON pointer, with some things more:

  /sources/c4/documents_in             a number
  #/warnings                           how many members a list or object has
  +/stages/minhash/matrix/[0,4]/2      the sum over the members named; `*` means all, `(4..7)` those whose keys are in that range

In a key, `~0` stands for a tilde, `~1` for a slash, and `~n12` is the key at position 12, for keys that are long or odd.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

from curation.engine.progress import duration
from curation.report.terminal import size

Key = str | int
NAME_BYTES = 240  # of a name or an id, as it stands on the page
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_. -]{1,40}")


class Figures:
    """The numbers of a report, each as an element that names its place."""

    def __init__(self, report: dict[str, Any]) -> None:
        self._report = report

    def at(self, *keys: Key) -> Any:
        """The value at a place; None where there is none."""
        value: Any = self._report
        for key in keys:
            inside = key in value if isinstance(value, dict) else isinstance(value, list) and int(key) < len(value)
            if not inside:
                return None
            value = value[key]
        return value

    def pointer(self, *keys: Key) -> str:
        """The place that `keys` lead to.

        >>> Figures({"sources": {"a/b": 1, "c" * 99: 2}}).pointer("sources", "c" * 99)
        '/sources/~n1'
        """
        found: list[str] = []
        value: Any = self._report
        for key in keys:
            if isinstance(value, list) or _PLAIN_KEY.fullmatch(str(key)):
                found.append(str(key))
            elif len(str(key)) <= 40 and str(key).isprintable() and str(key).isascii() and not set("*[(") & set(str(key)):
                found.append(str(key).replace("~", "~0").replace("/", "~1"))
            else:
                found.append(f"~n{list(value).index(key)}")
            value = value[key]
        return "".join(f"/{part}" for part in found)

    def count(self, *keys: Key) -> Markup:
        """A number of things."""
        return self._element(self.at(*keys), count, self.pointer(*keys))

    def size(self, *keys: Key) -> Markup:
        """A number of bytes."""
        return self._element(self.at(*keys), size, self.pointer(*keys))

    def seconds(self, *keys: Key) -> Markup:
        """A time."""
        return self._element(self.at(*keys), time_of, self.pointer(*keys))

    def decimal(self, *keys: Key) -> Markup:
        """A similarity or a measure."""
        return self._element(self.at(*keys), decimal, self.pointer(*keys))

    def setting(self, *keys: Key) -> Markup:
        """A number as a person wrote it."""
        return self._element(self.at(*keys), as_written, self.pointer(*keys))

    def length(self, *keys: Key) -> Markup:
        """How many members a list or object has."""
        return self._element(len(self.at(*keys)), count, "#" + self.pointer(*keys))

    def total(self, value: int, keys: Sequence[Key], members: Sequence[int] | tuple[int, int] | str, *inner: Key) -> Markup:
        """`value`, the sum over the members of what stands at `keys`: a list of positions, a range of keys, or "*"."""
        return self._element(value, count, self.sum_place(keys, members, *inner))

    def sum_place(self, keys: Sequence[Key], members: Sequence[int] | tuple[int, int] | str, *inner: Key) -> str:
        """The place that `total` gives."""
        if isinstance(members, tuple):
            named = f"({members[0]}..{members[1]})"
        else:
            named = members if isinstance(members, str) else f"[{','.join(map(str, members))}]"
        return f"+{self.pointer(*keys)}/{named}" + "".join(f"/{key}" for key in inner)

    def share(self, part: Sequence[Key], whole: Sequence[Key], whole_sum: tuple[float, str] | None = None) -> Markup:
        """A percentage; `whole_sum` gives the whole where it is a sum: its value and its place."""
        return self._quotient(part, whole, percentage, whole_sum)

    def rate(self, part: Sequence[Key], whole: Sequence[Key]) -> Markup:
        """Bytes a second."""
        return self._quotient(part, whole, lambda value: f"{size(value)}/s")

    def percent(self, *keys: Key) -> Markup:
        """A share that stands in the report as one."""
        return self._element(self.at(*keys), percentage, self.pointer(*keys))

    def _element(self, value: Any, shown: Callable[[Any], str], place: str) -> Markup:
        if value is None:
            return Markup('<span class="none">–</span>')
        zero = Markup(' class="zero"') if not value else ""
        return Markup('<data value="{}" data-path="{}"{}>{}</data>').format(value, place, zero, shown(value))

    def _quotient(
        self,
        part: Sequence[Key],
        whole: Sequence[Key],
        shown: Callable[[float], str],
        whole_sum: tuple[float, str] | None = None,
    ) -> Markup:
        divisor, place = whole_sum or (self.at(*whole), self.pointer(*whole) if self.at(*whole) is not None else "")
        if self.at(*part) is None or not divisor:
            return Markup('<span class="none">–</span>')
        value = self.at(*part) / divisor
        zero = Markup(' class="zero"') if not value else ""
        return Markup('<data value="{}" data-part="{}" data-whole="{}"{}>{}</data>').format(
            value, self.pointer(*part), place, zero, shown(value)
        )


def count(n: int) -> str:
    """
    >>> count(25_000_000_000)
    '25,000,000,000'
    """
    return f"{n:,}"


def percentage(value: float) -> str:
    """
    >>> percentage(0.5), percentage(0.0004), percentage(0), percentage(0.999996)
    ('50.0 %', '0.04 %', '0 %', '99.9996 %')
    """
    if value in (0, 1):
        return f"{100 * value:.0f} %"
    # Neither nothing nor everything unless it is.
    shown = (f"{100 * value:.{digits}f}" for digits in range(1, 13))
    return next((one for one in shown if float(one) not in (0, 100)), f"{100 * value:.1f}") + " %"


def decimal(value: float) -> str:
    """A measured number; whole numbers as counts.

    >>> decimal(1234.0), decimal(0.79649), decimal(12.345), decimal(float("nan"))
    ('1,234', '0.796', '12.3', '–')
    """
    if value != value:
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def as_written(value: float) -> str:
    """
    >>> as_written(200), as_written(0.8), as_written(1234567.0)
    ('200', '0.8', '1,234,567')
    """
    return decimal(value) if value == int(value) else f"{value:,.6g}"


def time_of(seconds: float) -> str:
    """
    >>> time_of(0.01234), time_of(2.84), time_of(75.2)
    ('0.01 s', '2.8 s', '1:15')
    """
    if seconds >= 60:
        return duration(seconds)
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"


# Seen as nothing, as another place on the line, or as another order of letters: shown by name instead. Joiners (U+200C and U+200D)
# stay, since scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e00ff]"
    # The fifth mark above one letter and those after it, which would cover the lines around.
    "|(?<=[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
)
_LINES = re.compile("[\t\n]")
_WORD_ENDS = re.compile(r"(?<=[a-z])(?=[A-Z]\w{3})|(?<=[/_.:@-])(?=\w)")
_STEP = 64  # characters


def given(text: object, most_bytes: int = NAME_BYTES) -> Markup:
    """A name, an id, a reason: text by strangers on one line, cut in its middle.

    >>> given("a<b>\\n\\u202e")
    Markup('<bdi>a&lt;b&gt;␊<i class="u">U+202E</i></bdi>')
    """
    text = str(text)
    found, whole = _visible(text, most_bytes, one_line=True)
    if not whole:
        half = most_bytes * 2 // 5
        start, _ = _visible(text[:most_bytes], half, one_line=True)
        end, _ = _visible(text[-most_bytes:][::-1], half, one_line=True, backwards=True)
        found = f'{start}<span class="cut">…</span>{end}'
    return Markup(f"<bdi>{found}</bdi>")


def passage(text: str, most_bytes: int, most_lines: int | None = None) -> Markup:
    """The start of a text of several lines, as the inside of an element."""
    start = text if most_lines is None else "\n".join(text.split("\n", most_lines)[:most_lines])
    found, whole = _visible(start, most_bytes, one_line=False)
    whole = whole and len(start) == len(text)
    return Markup(found if whole else f'{found}<span class="cut">…</span>')


def _visible(text: str, most_bytes: int, one_line: bool, backwards: bool = False) -> tuple[str, bool]:
    """Escaped, with marks for what cannot be seen, at most `most_bytes`; and whether that is all of it.

    Backwards, `text` is the reverse of what is to be shown.
    """
    parts: list[str] = []
    left, whole = most_bytes, True
    for start in range(0, len(text), _STEP):
        piece = text[start : start + _STEP]
        if _INVISIBLE.search(piece) or (one_line and _LINES.search(piece)):
            shown = _characters(piece, one_line)
        else:
            shown = [_escaped(piece[::-1] if backwards else piece, one_line)]
        if len("".join(shown).encode()) > left:
            shown, whole = _first(_characters(piece, one_line), left), False
        parts += shown
        left -= len("".join(shown).encode())
        if not whole:
            break
    return "".join(parts[::-1] if backwards else parts), whole


def _escaped(piece: str, one_line: bool) -> str:
    """Escaped; in names, with places to break a line where a new word begins."""
    return "<wbr>".join(str(escape(word)) for word in _WORD_ENDS.split(piece)) if one_line else str(escape(piece))


def _first(shown: list[str], most_bytes: int) -> list[str]:
    """As many as fit."""
    for index, one in enumerate(shown):
        most_bytes -= len(one.encode())
        if most_bytes < 0:
            return shown[:index]
    return shown


def _characters(piece: str, one_line: bool) -> list[str]:
    """Each character as it is shown."""
    invisible = {match.start() for match in _INVISIBLE.finditer(piece)}
    lines = {match.start() for match in _LINES.finditer(piece)} if one_line else set()
    return [_name(c) if at in invisible or at in lines else str(escape(c)) for at, c in enumerate(piece)]


def _name(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f'<i class="u">U+{code:04X}</i>'
