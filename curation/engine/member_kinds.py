"""What members JSON lines have, and of which kind: readers that want one table of them have to know before they start."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import orjson

_MOST_MEMBERS = 1000  # records with members named at random have no columns
_KINDS: dict[type, str] = {str: "string", bool: "bool", int: "int64", float: "double", type(None): "null"}


class MemberKinds:
    """Gathers {member: kind}; a kind is string, bool, int64, double, null, or json for all else and for what differs."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}

    def add(self, members: dict[str, Any]) -> None:
        """Take a record into account."""
        for name, value in members.items():
            kind = _KINDS.get(type(value), "json")
            if kind == "int64" and not -(2**63) <= value < 2**63:
                kind = "json"
            known = self.kinds.get(name)
            if known != kind:
                self.kinds[name] = kind if known is None else _common(known, kind)

    def add_text(self, members: str | None) -> None:
        """Take a JSON object into account."""
        if members and members != "{}":
            try:
                self.add(orjson.loads(members))
            except ValueError:  # lone surrogates, NaN
                self.add(json.loads(members))


def merged(kinds: Iterable[dict[str, str]]) -> dict[str, str]:
    """The kinds of members over several files; none when there are more than 1,000 of them.

    >>> merged([{"meta": "null", "n": "int64"}, {"meta": "json", "n": "double"}])
    {'meta': 'json', 'n': 'double'}
    """
    found: dict[str, str] = {}
    for one in kinds:
        for name, kind in one.items():
            found[name] = _common(found.get(name, kind), kind)
    return found if len(found) <= _MOST_MEMBERS else {}


def _common(one: str, other: str) -> str:
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    return "double" if {one, other} == {"int64", "double"} else "json"
