"""The summary of a run, and of a plan, on a terminal or in a log: readable at 80 columns.

Texts, file names and source names come from strangers: they are shown without control characters, cut to the width, and
never read as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from curation.engine.progress import duration, printable

# What a table may hold so that it fits 80 columns: cells of names and of headers, and columns for stages.
_NAME_CELLS, _HEADER_CELLS, _STAGE_COLUMNS = 20, 9, 3
_LARGEST_MATRIX, _MATRIX_CELLS = 8, 7  # sources, more are shown as a list of the largest pairs; cells of a column
PIPE_WIDTH = 120
_MOST_ROWS = 20
_MEMBERS_SHOWN = 3
_EXAMPLES_SHOWN = 3


def print_summary(report: dict[str, Any], console: Console | None = None) -> None:
    """Print what a finished run did; `report` is what report.json holds."""
    console = console or Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    for part in summary(report, console.width):
        console.print(part)
    if not report.get("already_complete"):
        console.print(Text(_verdict(report), style="bold"))  # again: the first line has scrolled away
    for purpose, command in report.get("commands", {}).items():
        # Not folded: a command must survive being copied.
        console.print(Text(f"{_COMMANDS.get(purpose, purpose)}:\n  {printable(command)}"), soft_wrap=True)


_COMMANDS = {"page": "Read the report", "open": "Open the result", "resume": "Run it again, or after adding files"}


def summary(report: dict[str, Any], width: int = 80) -> Iterator[RenderableType]:
    """The parts of the summary, in order, all but the commands."""
    yield Text(_verdict(report), style="bold")
    if report.get("already_complete"):
        return
    for what in ("documents", "bytes"):
        yield Text()
        yield from _funnel(report, what)
    for name, stage in report["stages"].items():
        if "component_sizes" in stage:
            yield from _duplicates(name, stage, width)
    yield Text()
    if report.get("splits"):
        splits = (f"{name} {count(s['documents'])} ({size(s['bytes'])})" for name, s in report["splits"].items())
        yield _line("Documents by split: " + ", ".join(splits))
    yield from _quarantine(report.get("quarantine", {}), width)
    yield from _list("Files that no source matched", report.get("unmatched", []), width, fit=clip_path)
    yield from _list("Warnings", report.get("warnings", []), width, "yellow")
    yield from _list("Deviations from what the recipe reproduces", report.get("deviations", []), width)
    yield from _cost(report)


def count(n: int, exact_below: int = 10**9) -> str:
    """A number of things.

    >>> count(1234567), count(931361530, 10**6), count(123456, 10**5)
    ('1,234,567', '931.4 M', '123.5 k')
    """
    return f"{n:,}" if n < exact_below else _scaled(n, ("", "k", "M", "G"))


def plural(n: int, noun: str) -> str:
    """
    >>> plural(1, "task"), plural(2000, "task")
    ('1 task', '2,000 tasks')
    """
    return f"{count(n)} {noun}" if n == 1 else f"{count(n)} {noun}s"


def _cell(n: int) -> str:
    return count(n, 1_000_000)


def size(n_bytes: float) -> str:
    """Bytes in decimal units.

    >>> size(999), size(12_345_678), size(2.567e12)
    ('999 B', '12.3 MB', '2.6 TB')
    """
    return f"{n_bytes:.0f} B" if n_bytes < 1000 else _scaled(n_bytes, ("", "kB", "MB", "GB", "TB", "PB"))


def _scaled(n: float, units: tuple[str, ...]) -> str:
    index = 0
    while n >= 999.95 and index + 1 < len(units):
        n /= 1000
        index += 1
    return f"{n:,.1f} {units[index]}"


def share(part: float, whole: float) -> str:
    """A percentage, or a dash where there is no whole.

    >>> share(1, 3), share(0, 0)
    ('33.3 %', '-')
    """
    return f"{100 * part / whole:.1f} %" if whole else "-"


def clip(text: str, width: int) -> str:
    r"""One line of at most `width` terminal cells, an ellipsis where something was cut.

    >>> clip("one\n two\x1b[0m three", 9)
    'one two[…'
    """
    text = " ".join(printable(text[: 8 * width]).split())
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


def clip_path(path: str, width: int) -> str:
    """One line of at most `width` terminal cells that keeps the end, where the name is.

    >>> clip_path("/data/redpajama/c4/notes.txt", 12)
    '…4/notes.txt'
    """
    backwards = clip(printable(path)[::-1], width)
    return backwards[::-1]


def labelled(names: list[str], width: int) -> dict[str, str]:
    """A label of at most `width` cells for each name; where one is too long, what all begin with is left out.

    >>> labelled(["RedPajamaC4", "RedPajamaCommonCrawl"], 11)
    {'RedPajamaC4': 'C4', 'RedPajamaCommonCrawl': 'CommonCrawl'}
    """
    start = 0
    if any(cell_len(name) > width for name in names):
        for at in range(1, min(map(len, names)) if len(set(names)) > 1 else 0):
            if len({name[:at] for name in names}) > 1:
                break
            start = at if all(_begins_a_word(name, at) for name in names) else start
    return {name: clip(name[start:], width) for name in names}


def _begins_a_word(name: str, at: int) -> bool:
    return not name[at - 1].isalnum() or (name[at - 1].islower() and name[at : at + 1].isupper())


def _verdict(report: dict[str, Any]) -> str:
    documents, n_bytes = report["documents"], report["bytes"]
    state = "was complete already; nothing was done" if report.get("already_complete") else report["status"]
    return (
        f"\n{clip(report['name'], 40)}: {state}. Kept {count(documents['kept'])} of {count(documents['in'])} documents "
        f"({share(documents['kept'], documents['in'])}) and {size(n_bytes['kept'])} of {size(n_bytes['in'])} of text "
        f"({share(n_bytes['kept'], n_bytes['in'])})."
    )


def _funnel(report: dict[str, Any], what: str) -> Iterator[RenderableType]:
    """A row a source: what went in, what each stage removed, what stayed; `what` is documents or bytes."""
    shown = _cell if what == "documents" else size
    removing = [name for name, stage in report["stages"].items() if stage["removed_documents"]]
    columns = removing if len(removing) <= _STAGE_COLUMNS else []
    unread = what == "documents" and report["documents"].get("quarantined", 0) > 0
    headers = ["in", *(columns or ["removed"]), *(["unread"] if unread else []), "kept", ""]
    table = _table("Documents" if what == "documents" else "Text", headers)

    def row(name: str, total: dict[str, int], by_stage: list[int]) -> None:
        came, kept = total[f"{what}_in"], total[f"kept_{what}"]
        numbers = [came, *(by_stage or [total[f"removed_{what}"]])]
        lost = [_cell(total["quarantined_records"])] if unread else []
        table.add_row(Text(name), *map(shown, numbers), *lost, shown(kept), share(kept, came))

    present = [item for item in report["sources"].items() if item[1]["documents_in"]]
    sources = sorted(present or report["sources"].items(), key=lambda item: -item[1]["bytes_in"])
    labels = labelled([name for name, _ in sources], _NAME_CELLS)
    stages = [report["stages"][name] for name in columns]
    for name, total in sources[:_MOST_ROWS]:
        row(labels[name], total, [stage["by_source"].get(name, {}).get(f"removed_{what}", 0) for stage in stages])
    if len(sources) > 1:
        everything = {key: sum(total[key] for _, total in sources) for key in sources[0][1]}
        title = f"all {len(sources)}" if len(sources) > _MOST_ROWS else "all"
        row(title, everything, [stage[f"removed_{what}"] for stage in stages])
    yield table
    if len(removing) > _STAGE_COLUMNS:
        by_stage = _table("by stage", ["in", "removed", ""])
        for name in removing:
            gone, came = report["stages"][name][f"removed_{what}"], report["stages"][name][f"{what}_in"]
            by_stage.add_row(Text(clip(name, _NAME_CELLS)), shown(came), shown(gone), share(gone, came))
        yield by_stage


def _duplicates(name: str, stage: dict[str, Any], width: int) -> Iterator[RenderableType]:
    """Component sizes, who duplicated whom, and the largest components with their first lines."""
    sizes = {int(n): number for n, number in stage["component_sizes"].items()}
    if not sizes:
        yield _line(f"{name}: no duplicates")
        return
    verified = f" (verify: {stage['verify']})" if stage.get("verify") else ""
    yield Text()
    yield _line(f"{name}{verified}: {plural(sum(sizes.values()), 'component')}, by size {_histogram(sizes)}")
    if stage.get("annotated_documents"):
        yield _line(f"{name}: {count(stage['annotated_documents'])} documents annotated as duplicates, none removed")
    if stage.get("past_limit"):
        yield _line(
            f"{name}: {count(stage['past_limit'])} documents needed too many comparisons and were kept", "yellow"
        )
    if stage.get("matrix"):
        yield _matrix(name, stage["matrix"])
    for component in stage.get("largest_components", []):
        yield Text(f"  {name}, a component of {count(component['documents'])} documents:", style="dim")
        # Copies look the same: each line is shown once.
        lines = dict.fromkeys((member["source"], member["text"]) for member in component["first_lines"])
        labels = labelled([source for source, _ in lines], _NAME_CELLS)
        for source, text in list(lines)[:_MEMBERS_SHOWN]:
            label = set_cell_size(labels[source], _NAME_CELLS)
            yield Text(f"    {label} {clip(text, max(width - _NAME_CELLS - 6, 10))}")


def _histogram(sizes: dict[int, int]) -> str:
    """Numbers of components by size, in ranges that double."""
    ranges: dict[int, int] = {}
    for n, number in sizes.items():
        ranges[n.bit_length()] = ranges.get(n.bit_length(), 0) + number
    largest = max(sizes)
    parts = []
    for bits, number in sorted(ranges.items()):
        low, high = 1 << (bits - 1), min((1 << bits) - 1, largest)
        parts.append(f"{low:,}-{high:,}: {count(number)}" if high > low else f"{low:,}: {count(number)}")
    return ", ".join(parts)


def _matrix(name: str, entries: list[list[Any]]) -> RenderableType:
    """Documents removed from the row's source because of a copy in the column's."""
    pairs = {(gone, kept): documents for gone, kept, documents, _ in entries}
    rows, columns = sorted({gone for gone, _ in pairs}), sorted({kept for _, kept in pairs})
    if max(len(rows), len(columns)) > _LARGEST_MATRIX:
        table = _table(f"{name}: from", ["kept in", "removed"])
        for (gone, kept), documents in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_MOST_ROWS]:
            table.add_row(Text(clip(gone, 30)), Text(clip(kept, 30)), count(documents))
        return table
    labels = labelled(columns, _MATRIX_CELLS)
    table = _table("from / kept in", [labels[column] for column in columns])
    labels = labelled(rows, _NAME_CELLS)
    for gone in rows:
        cells = (count(pairs[gone, kept], 100_000) if (gone, kept) in pairs else "" for kept in columns)
        table.add_row(Text(labels[gone]), *cells)
    return table


def _quarantine(quarantine: dict[str, Any], width: int) -> Iterator[RenderableType]:
    if not quarantine.get("records"):
        return
    lost = f", {size(quarantine['lost_bytes'])} lost" if quarantine.get("lost_bytes") else ""
    yield _line(f"Quarantine: {plural(quarantine['records'], 'record')}{lost}", "yellow")
    reasons = [f"{count(n)} x {reason}" for reason, n in quarantine.get("by_reason", {}).items()]
    yield from _items(reasons, width, clip)
    yield from _items(quarantine.get("first", [])[:_EXAMPLES_SHOWN], width, None)


def _cost(report: dict[str, Any]) -> Iterator[RenderableType]:
    tasks, seconds = report["tasks"], report.get("total_seconds", 0.0)
    yield Text()
    parts = [f"{duration(seconds)} for {size(report.get('raw_bytes', 0))} of input"]
    parts.append(f"{report.get('mb_per_second', 0.0):,.1f} MB/s")
    memory = report.get("peak_memory", {})
    detail = " (" + ", ".join(f"{name} {size(n)}" for name, n in memory.items()) + ")" if memory else ""
    parts.append(f"peak memory {size(report.get('peak_memory_bytes', 0))}{detail}")
    yield _line(", ".join(parts))
    yield _line(f"{plural(tasks['planned'], 'task')}: {count(tasks['run'])} run, {count(tasks['reused'])} from before")


def _table(first: str, headers: list[str], header_cells: int = _HEADER_CELLS) -> Table:
    """A plain table whose first column is text and whose others are numbers, which are never cut."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    table.add_column(Text(first), no_wrap=True)
    for header in headers:
        table.add_column(Text(clip(header, header_cells)), justify="right", no_wrap=True)
    return table


def _line(text: str, style: str = "") -> Text:
    return Text(" ".join(printable(text).split()), style=style)


Fit = Callable[[str, int], str]  # cuts a text to a width


def _list(
    title: str, items: list[str], width: int, style: str = "", fit: Fit | None = None
) -> Iterator[RenderableType]:
    if items:
        yield Text()
        yield _line(f"{title}: {count(len(items))}", style)
        yield from _items(items, width, fit)


def _items(items: list[str], width: int, fit: Fit | None) -> Iterator[RenderableType]:
    """Indented items, each cut by `fit`, or folded without one."""
    for item in items[:_MOST_ROWS]:
        yield Padding(Text(fit(item, width - 2)) if fit else _line(item), (0, 0, 0, 2), expand=False)
    if len(items) > _MOST_ROWS:
        yield Text(f"  and {count(len(items) - _MOST_ROWS)} more", style="dim")


def print_plan(plan: dict[str, Any], console: Console | None = None) -> None:
    """Print what a run would need; `plan` is what `plan_summary` returns."""
    console = console or Console()
    table = _table("source", ["files", "bytes", "decompressed, about"], header_cells=20)
    for name, source in plan["sources"].items():
        table.add_row(Text(clip(name, 24)), count(source["files"]), size(source["bytes"]), size(source["raw_bytes"]))
    console.print(table)
    memory, disk, free = plan["memory_bytes"], plan["disk_bytes"], plan.get("disk_free_bytes", {})
    lines = [
        f"documents: about {count(plan['documents'])}",
        "tasks: " + ", ".join(f"{count(n)} {name}" for name, n in plan["tasks"].items()),
        f"workers: {plan['workers']}",
        f"memory: {size(memory['worker'])} a worker, {size(memory['driver'])} the driver; one process holds "
        f"{memory['union_find_per_document']} bytes for each document that has a duplicate, "
        f"at most about {size(memory['union_find'])}",
        "disk: " + ", ".join(f"{place} {size(n)}" + _free(free.get(place)) for place, n in disk.items()),
        f"storage requests: about {count(plan['storage_requests'])}",
    ]
    for line in lines:
        console.print(_line(line))
    for part in _list("files that no source matches", plan["unmatched"], console.width, "yellow", clip_path):
        console.print(part)
    for part in _list("warnings", plan.get("warnings", []), console.width, "yellow"):
        console.print(part)


def _free(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f" ({size(n_bytes)} free)"
