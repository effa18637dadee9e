"""One line of JSON read slowly: what the fast scan refuses is either good after all, or gets a reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from curation.kernels.json_members import MAXIMUM_DEPTH

# Numbers stay text: an integer of more than 4,300 digits would be an error, and none is needed as a number.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=float)
_KINDS = {
    "{": "an object",
    "[": "an array",
    '"': "a string",
    "t": "a boolean",
    "f": "a boolean",
    "n": "null",
}  # by first character
_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Line:
    """A good line: its text, its members as JSON text (the last of each name), and an object of all but text and id."""

    text: str
    members: dict[str, bytes]
    rest: str


def read_line(
    line: bytes, text_name: str, id_name: str | None, maximum_line_bytes: int, maximum_text_bytes: int
) -> Line | str:
    """The line (without its newline), or the reason why it cannot be used."""
    if len(line) > maximum_line_bytes:
        return long_line_reason(maximum_line_bytes)
    try:
        source = line.decode()
    except UnicodeDecodeError as error:
        return f"invalid UTF-8 at byte {error.start} of the line"
    if "\0" in source:
        return f"a NUL byte at byte {line.index(0)} of the line"
    try:
        value = _DECODER.decode(source)
        if _depth(value) > MAXIMUM_DEPTH:
            raise RecursionError
        if not isinstance(value, dict):
            return f"the line is {_kind(source.lstrip())}, not an object"
        members, rest = _members(source, text_name, id_name)
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg.removesuffix(' at')} at character {error.pos}"
    except RecursionError:
        return f"nested more than {MAXIMUM_DEPTH} deep"
    return _checked(value, members, rest, text_name, maximum_text_bytes)


def long_line_reason(maximum_line_bytes: int) -> str:
    """The reason of a line that is too long to be looked at."""
    return f"a line of more than {maximum_line_bytes} bytes (twice max_document_bytes and 1 MB)"


def long_text_reason(text_bytes: int, maximum_text_bytes: int) -> str:
    """The reason of a document that is too long."""
    return f"a text of {text_bytes} bytes is longer than max_document_bytes ({maximum_text_bytes})"


def missing_reason(name: str) -> str:
    """The reason of a record without a text."""
    return f"no member {name!r}"


def kind_reason(name: str, kind: str) -> str:
    """The reason of a text that is something else."""
    return f"{name!r} is {kind}, not a string"


def _checked(
    value: dict[str, Any], members: dict[str, bytes], rest: str, text_name: str, maximum_text_bytes: int
) -> Line | str:
    if text_name not in value:
        return missing_reason(text_name)
    text = value[text_name]
    if not members[text_name].startswith(b'"'):
        return kind_reason(text_name, _kind(members[text_name].decode()))
    try:
        text_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        return f"{text_name!r} holds the lone surrogate \\u{ord(text[error.start]):04x}, which UTF-8 cannot hold"
    if text_bytes > maximum_text_bytes:
        return long_text_reason(text_bytes, maximum_text_bytes)
    return Line(text, members, rest)


def _kind(source: str) -> str:
    return _KINDS.get(source[0], "a number")


def _depth(value: Any) -> int:
    """How deep containers are nested."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _members(source: str, text_name: str, id_name: str | None) -> tuple[dict[str, bytes], str]:
    """The members of a valid object as they are written: values by name, and the object of all but text and id."""
    members: dict[str, bytes] = {}
    rest = []
    at = _after_space(source, source.index("{") + 1)
    while source[at] == '"':
        name, key_end = scanstring(source, at + 1, True)
        value_start = _after_space(source, _after_space(source, key_end) + 1)
        _, value_end = _DECODER.raw_decode(source, value_start)
        members[name] = source[value_start:value_end].encode()
        if name not in (text_name, id_name):
            rest.append(f"{source[at:key_end]}:{source[value_start:value_end]}")
        at = _after_space(source, value_end)
        if source[at] == ",":
            at = _after_space(source, at + 1)
    return members, "{" + ",".join(rest) + "}"


def _after_space(source: str, at: int) -> int:
    while source[at] in _SPACE:
        at += 1
    return at
