"""Text that strangers wrote, shown in Markdown as what it is: no markup, no links, no HTML."""

from __future__ import annotations

import re
from typing import Any

_MOST_CHARACTERS = 500
# Letters and digits with punctuation that means nothing inside a line; anything else is escaped.
_HARMLESS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ,;.()%'/+-]|_(?=[A-Za-z0-9])|:(?=[0-9 ]))*")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")  # what CommonMark lets a backslash escape


class Markdown(str):
    """Text that is Markdown already."""


def visible(text: str) -> str:
    r"""One line of `text`, at most 500 characters, with control, format and surrogate characters written as escapes.

    >>> visible("a\n b\u202e\x00")
    'a b\\u202e\\x00'
    """
    shown = text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"
    line = " ".join(shown.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def escaped(value: Any) -> str:
    r"""`value` as text in a line or a table's cell of Markdown.

    >>> escaped("common_crawl"), escaped("<b>|[x](y)"), escaped("see www.example.org"), escaped(1234)
    ('common_crawl', '&lt;b&gt;\\|\\[x\\]\\(y\\)', 'see www\\.example\\.org', '1,234')
    """
    if isinstance(value, Markdown):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    line = visible(str(value))
    if _HARMLESS.fullmatch(line) and "www." not in line.lower():
        return line
    # A backslash before every mark also keeps addresses from becoming links.
    return _PUNCTUATION.sub(lambda mark: _ENTITIES.get(mark[0], "\\" + mark[0]), line)


def code_block(text: str, language: str) -> Markdown:
    """`text` in a fence that nothing in it can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    kept = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return Markdown(f"{fence}{language}\n{kept.rstrip()}\n{fence}")
