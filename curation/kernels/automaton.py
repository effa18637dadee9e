"""A regular expression as tables that a kernel can run: whether it matches anywhere in a text.

Only what a bounded pattern without look-around needs is understood: literals, character sets, `.`, alternatives,
groups, counted repeats and `^`. Anything else is refused, so tables that exist are right.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import numpy as np

CODE_POINTS = sys.maxunicode + 1
MATCHED = 0  # the state after a match; no character leaves it
_CATEGORIES = {ops.CATEGORY_SPACE: r"\s", ops.CATEGORY_WORD: r"\w", ops.CATEGORY_DIGIT: r"\d"}
_MAXIMUM_REPEATS = 32
_MAXIMUM_STATES = 1 << 14
_AFTER_ANY, _AT_BEGINNING = 0, 1  # the two states of the non-deterministic automaton that nothing leads to


class UnsupportedPatternError(ValueError):
    """The pattern uses something that these tables cannot express."""


class Automaton(NamedTuple):
    """Classes of code points, the next state by state and class (0 once matched), and the state at a text's beginning.

    >>> found = compile_search(re.compile("ab|^b"))
    >>> def search(text):
    ...     state = found.start
    ...     for character in text:
    ...         state = found.transitions[state, found.class_of[ord(character)]]
    ...     return bool(state == MATCHED)
    >>> search("xab"), search("b"), search("xb"), search("ax b")
    (True, True, False, False)
    """

    class_of: np.ndarray  # uint8[0x110000]
    transitions: np.ndarray  # uint16[states, classes]
    start: int


def compile_search(pattern: re.Pattern[str]) -> Automaton:
    """The search automaton of `pattern`; raises UnsupportedPatternError for what it cannot express exactly."""
    if pattern.flags & ~(re.VERBOSE | re.UNICODE):
        raise UnsupportedPatternError(f"a regular expression with {re.RegexFlag(pattern.flags)!r} is not supported")
    steps = _Steps()
    last = steps.walk(parser.parse(pattern.pattern, pattern.flags), frozenset([_AFTER_ANY]))
    if last & {_AFTER_ANY, _AT_BEGINNING}:
        raise UnsupportedPatternError("a regular expression that matches the empty string is not supported")
    class_of, members = _classes([np.array(bounds) for bounds in steps.sets])
    return Automaton(class_of, *_determinize(steps.edges, members, last))


class _Steps:
    """The non-deterministic automaton: edges are (set number, next state); character sets are bounds.

    Bounds [2, 5, 9] are the code points 2, 3, 4 and all from 9 on.
    """

    def __init__(self) -> None:
        self.edges: list[list[tuple[int, int]]] = [[], []]
        self.sets: list[tuple[int, ...]] = []

    def walk(self, items: Any, sources: frozenset[int]) -> frozenset[int]:
        """Add `items` (a parsed pattern) after the states `sources`; the states in which they have been read."""
        for operation, argument in items:
            if operation in (ops.LITERAL, ops.NOT_LITERAL, ops.IN, ops.ANY):
                sources = self._step(_bounds(operation, argument), sources)
            elif operation is ops.BRANCH:
                sources = frozenset().union(*(self.walk(branch, sources) for branch in argument[1]))
            elif operation is ops.SUBPATTERN and not argument[1] and not argument[2]:
                sources = self.walk(argument[3], sources)
            elif operation in (ops.MAX_REPEAT, ops.MIN_REPEAT):
                sources = self._repeat(argument, sources)
            elif operation is ops.AT and argument is ops.AT_BEGINNING and sources == {_AFTER_ANY}:
                sources = frozenset([_AT_BEGINNING])
            else:
                raise UnsupportedPatternError(f"{operation} {argument!r} in a regular expression is not supported")
        return sources

    def _step(self, bounds: tuple[int, ...], sources: frozenset[int]) -> frozenset[int]:
        if bounds not in self.sets:
            self.sets.append(bounds)
        target = len(self.edges)
        self.edges.append([])
        for source in sources:
            self.edges[source].append((self.sets.index(bounds), target))
        return frozenset([target])

    def _repeat(self, argument: Any, sources: frozenset[int]) -> frozenset[int]:
        least, most, items = argument
        if int(most) > _MAXIMUM_REPEATS:
            raise UnsupportedPatternError(f"up to {most} repeats in a regular expression are not supported")
        reached = sources if least == 0 else frozenset()
        for count in range(1, int(most) + 1):
            sources = self.walk(items, sources)
            if count >= least:
                reached |= sources
        return reached


def _bounds(operation: Any, argument: Any) -> tuple[int, ...]:
    """The character set of one item of a parsed pattern, as bounds."""
    if operation is ops.LITERAL:
        return argument, argument + 1
    if operation is ops.NOT_LITERAL:
        return 0, argument, argument + 1
    if operation is ops.ANY:
        return 0, ord("\n"), ord("\n") + 1
    runs: list[tuple[int, int]] = []
    negated = False
    for kind, value in argument:
        if kind is ops.NEGATE:
            negated = True
        elif kind is ops.LITERAL:
            runs.append((value, value + 1))
        elif kind is ops.RANGE:
            runs.append((value[0], value[1] + 1))
        elif kind is ops.CATEGORY and value in _CATEGORIES:
            runs.extend(_category_runs(_CATEGORIES[value]))
        else:
            raise UnsupportedPatternError(f"{kind} {value!r} in a regular expression's set is not supported")
    bounds: list[int] = []
    for start, end in sorted(runs):
        if bounds and start <= bounds[-1]:
            bounds[-1] = max(bounds[-1], end)
        else:
            bounds += start, end
    if negated:
        bounds = bounds[1:] if bounds[0] == 0 else [0, *bounds]
    return tuple(bounds)


@cache
def _category_runs(name: str) -> list[tuple[int, int]]:
    """The runs of code points in a category such as `\\s`, as the regular expression engine itself sees it."""
    return [match.span() for match in re.finditer(f"{name}+", all_characters())]


@cache
def all_characters() -> str:
    """Every code point, surrogates included, in order; made once a process, since tables are made from it."""
    return np.arange(CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _classes(sets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A class is code points that no set tells apart: uint8[0x110000], and which sets hold it: bool[sets, classes]."""
    edges = np.unique(np.concatenate([*sets, [0]]))
    edges = edges[edges < CODE_POINTS]
    member = np.array([np.searchsorted(bounds, edges, side="right") % 2 == 1 for bounds in sets])
    members, class_of_interval = np.unique(member, axis=1, return_inverse=True)
    if members.shape[1] > 256:
        raise UnsupportedPatternError(f"a regular expression with {members.shape[1]} classes is not supported")
    lengths = np.diff(edges, append=CODE_POINTS)
    return np.repeat(class_of_interval.reshape(-1).astype(np.uint8), lengths), members


def _determinize(
    edges: list[list[tuple[int, int]]], members: np.ndarray, last: frozenset[int]
) -> tuple[np.ndarray, int]:
    """The subset construction: transitions uint16[states, classes] with MATCHED first, and the start state."""
    n_classes = members.shape[1]
    by_set = [np.flatnonzero(row).tolist() for row in members]
    start = frozenset([_AFTER_ANY, _AT_BEGINNING])
    numbers: dict[frozenset[int], int] = {start: MATCHED + 1}
    waiting = [start]
    rows: list[list[int]] = [[MATCHED] * n_classes]
    for state in waiting:  # grows while it is read
        targets: list[set[int]] = [{_AFTER_ANY} for _ in range(n_classes)]
        for source in state:
            for set_number, target in edges[source]:
                for letter in by_set[set_number]:
                    targets[letter].add(target)
        row = []
        for reached in map(frozenset, targets):
            if reached & last:
                row.append(MATCHED)
                continue
            if reached not in numbers:
                numbers[reached] = len(numbers) + 1
                waiting.append(reached)
            row.append(numbers[reached])
        rows.append(row)
        if len(numbers) > _MAXIMUM_STATES:
            raise UnsupportedPatternError(f"a regular expression of {len(numbers)} states is not supported")
    return np.array(rows, np.uint16), numbers[start]
