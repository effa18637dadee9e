"""What the sections of the page show, as functions of the report: which rows, in which order, and how much of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Report = dict[str, Any]

# What a page holds at most, so that it stays below two megabytes; the whole is in report.json, the downloads and samples/.
MOST_CELLS = 2_000  # of a table of sources
MOST_SOURCES = 200
MOST_STAGES, MOST_REASONS = 60, 8
MOST_MATRIX_SOURCES, MOST_MATRIX_CELLS = 60, 2_500
MOST_PAIRS = 160
MOST_LINES = 50
LARGEST_PAIRS = 40


def shown_sources(report: Report) -> tuple[list[str], int]:
    """Names in the recipe's order, and how many are left out: those with the least text, when there are very many."""
    names = list(report["sources"])
    columns = 4 + len(removing_stages(report))
    most = min(MOST_SOURCES, max(MOST_CELLS // columns, 20))
    if len(names) > most:
        largest = sorted(names, key=lambda name: -report["sources"][name]["bytes_in"])[:most]
        names = [name for name in names if name in set(largest)]
    return names, len(report["sources"]) - len(names)


def removing_stages(report: Report) -> list[str]:
    """Stages that removed something; the others would be empty columns."""
    return [name for name, stage in report["stages"].items() if stage["removed_documents"]]


def stages_by_loss(report: Report) -> list[str]:
    """Stages that removed something, the one that removed most first."""
    return sorted(removing_stages(report), key=lambda name: -report["stages"][name]["removed_documents"])


def funnel_rows(report: Report) -> Iterator[list[object]]:
    """The funnel by source as a table: counts of each source, and what each stage removed of it."""
    keys = ("documents_in", "bytes_in", "kept_documents", "kept_bytes", "removed_documents", "removed_bytes", "quarantined_records")
    stages = removing_stages(report)
    yield ["source", *keys, *(f"{name} {key}" for name in stages for key in ("removed_documents", "removed_bytes"))]
    for source, entry in report["sources"].items():
        by_stage = (report["stages"][name]["by_source"].get(source, {}) for name in stages)
        yield [
            source,
            *(entry.get(key, 0) for key in keys),
            *(counts.get(key, 0) for counts in by_stage for key in ("removed_documents", "removed_bytes")),
        ]


def stage_rows(report: Report) -> Iterator[list[object]]:
    """The funnel by stage and reason as a table."""
    keys = ("documents_in", "bytes_in", "removed_documents", "removed_bytes", "edited_documents", "quarantined_documents")
    yield ["stage", "kind", "reason", *keys]
    for name, stage in report["stages"].items():
        yield [name, stage["stage"], None, *(stage[key] for key in keys)]
        for reason, counts_of in stage.get("reasons", {}).items():
            yield [name, stage["stage"], reason, None, None, counts_of["documents"], counts_of["bytes"], None, None]


def shown_reasons(stage: Report) -> tuple[list[str], int]:
    """Reasons, the most frequent first, when they say more than the stage's name; and how many are left out."""
    reasons = stage.get("reasons", {})
    if len(reasons) < 2 and stage.get("stage") != "python":
        return [], 0
    names = sorted(reasons, key=lambda reason: -reasons[reason]["documents"])
    return names[:MOST_REASONS], max(len(names) - MOST_REASONS, 0)


@dataclass(frozen=True)
class Matrix:
    """Who duplicated whom in one stage; positions are those of entries in the report's list."""

    stage: str
    sources: list[str]
    cells: dict[tuple[str, str], int]  # (removed from, kept in): position
    depths: dict[tuple[str, str], int]  # how dark, 0 to 4
    by_row: dict[str, list[int]]
    by_column: dict[str, list[int]]
    largest: list[int] = field(default_factory=list)  # positions; where the whole is not shown

    @property
    def upright(self) -> bool:
        """Whether columns need their names written upwards to stay narrow."""
        return len(self.sources) > 8 or any(len(name) > 10 for name in self.sources)

    def documents(self, positions: Iterable[int], entries: list[list[Any]]) -> int:
        """Documents of the entries at `positions`."""
        return sum(entries[position][2] for position in positions)


def matrix(report: Report, stage: str) -> Matrix | None:
    """The matrix of a stage that removes duplicates; None where it removed none.

    A cell is darker the more of what the row's source brought to this stage it is: from a thousandth, a hundredth, a
    twentieth, a fifth on.
    """
    entries = report["stages"][stage].get("matrix", [])
    if not entries:
        return None
    present = {name for entry in entries for name in entry[:2]}
    sources = [name for name in report["sources"] if name in present]
    cells = {(gone, kept): position for position, (gone, kept, *_) in enumerate(entries)}
    by_row: dict[str, list[int]] = {name: [] for name in sources}
    by_column: dict[str, list[int]] = {name: [] for name in sources}
    depths = {}
    for (gone, kept), position in cells.items():
        by_row[gone].append(position)
        by_column[kept].append(position)
        came = report["stages"][stage]["by_source"].get(gone, {}).get("documents_in", 0)
        share = entries[position][2] / came if came else 0
        depths[gone, kept] = sum(share >= limit for limit in (0.001, 0.01, 0.05, 0.2))
    whole = len(sources) <= MOST_MATRIX_SOURCES and len(entries) <= MOST_MATRIX_CELLS
    largest = [] if whole else sorted(range(len(entries)), key=lambda position: -entries[position][2])[:LARGEST_PAIRS]
    return Matrix(stage, sources, cells, depths, by_row, by_column, largest)


def matrix_rows(report: Report, stage: str) -> Iterator[list[object]]:
    """The matrix as a list of pairs, or as a square where that is shorter."""
    entries = report["stages"][stage]["matrix"]
    names = sorted({name for entry in entries for name in entry[:2]})
    if len(entries) * 2 < len(names) ** 2:
        yield ["removed from", "kept in", "documents", "bytes"]
        yield from (list(entry) for entry in entries)
        return
    found = {(gone, kept): documents for gone, kept, documents, *_ in entries}
    yield ["documents removed from (row) for a copy kept in (column)", *names]
    for gone in names:
        yield [gone, *(found.get((gone, kept)) for kept in names)]


def sizes(stage: Report) -> dict[int, int]:
    """Components by their number of documents."""
    return {int(size): number for size, number in stage.get("component_sizes", {}).items() if number}


def size_ranges(stage: Report) -> list[tuple[int, int, int]]:
    """Components by size, in ranges that double: (smallest size, largest size, components), without empty ranges.

    >>> size_ranges({"component_sizes": {"2": 5, "3": 1, "51": 1}})
    [(2, 3, 6), (32, 51, 1)]
    """
    found = sizes(stage)
    ranges: dict[int, int] = {}
    for size, number in found.items():
        ranges[size.bit_length()] = ranges.get(size.bit_length(), 0) + number
    largest = max(found, default=0)
    return [(1 << (bits - 1), min((1 << bits) - 1, largest), number) for bits, number in sorted(ranges.items())]


def first_lines(component: Report) -> list[tuple[str, str]]:
    """Sources and first lines of a component's members; copies look the same, so each is shown once."""
    return list(dict.fromkeys((member["source"], member["text"]) for member in component["first_lines"]))[:3]


def mix_rows(mix: dict[str, dict[str, int]], what: str) -> Iterator[list[object]]:
    """The mix of languages or domains as a table."""
    keys = ("documents_in", "documents_kept", "bytes_in", "bytes_kept")
    yield [what, *keys]
    yield from ([name, *(entry[key] for key in keys)] for name, entry in mix.items())


def step_rows(report: Report) -> Iterator[list[object]]:
    """The cost of each step as a table."""
    keys = ("seconds", "tasks", "reused", "raw_bytes", "peak_memory_bytes")
    yield ["step", *keys]
    yield from ([name, *(step.get(key) for key in keys)] for name, step in report.get("steps", {}).items())


def anchors(names: Iterable[str]) -> dict[str, str]:
    """A fragment for each name: letters, digits and dashes, no two the same.

    >>> anchors(["minhash", "my stage", "my-stage", "<b>"])
    {'minhash': 'minhash', 'my stage': 'my-stage', 'my-stage': 'my-stage-2', '<b>': 'b'}
    """
    found: dict[str, str] = {}
    for name in names:
        plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name[:40]).strip("-").lower() or "stage"
        number, taken = 1, set(found.values())
        while (anchor := plain if number == 1 else f"{plain}-{number}") in taken:
            number += 1
        found[name] = anchor
    return found
