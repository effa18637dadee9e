"""What `curate diff` prints: what differs between two runs, then the documents that they treat differently for it.

Texts, ids and names come from strangers: they are shown without control characters, cut to a width, and never read as markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from curation.engine.progress import printable
from curation.report.terminal import clip, clip_path, count, plural, size

if TYPE_CHECKING:
    from curation.questions.diff import Change, Difference, Fate, RunSummary
    from curation.questions.diff_inputs import ChangedValue, InputChanges

_TEXT_CELLS = 100
_MOST_SOURCES = 4  # of a change, on its line
_SETTING_CELLS = 60
_FILES = {
    "only_in_a": "only in A",
    "only_in_b": "only in B",
    "resized": "of another size",
    "touched": "of another date or tag, perhaps with the same content",
}


def difference_text(found: Difference) -> str:
    """What `curate diff` prints. Lines are not folded, so that ids survive being copied."""
    return "\n".join(_lines(found))


def _lines(found: Difference) -> Iterator[str]:
    yield f"A: {_run(found.a)}"
    yield f"B: {_run(found.b)}"
    yield ""
    yield from _changed("Settings", found.settings)
    yield from _changed("Versions", found.versions)
    yield from _input(found.input)
    yield ""
    yield f"{plural(found.documents, 'document')} treated differently" if found.documents else "No document is treated differently"
    for change in found.changes:
        yield ""
        yield from _change(f"{_fate(change.a)} in A, {_fate(change.b)} in B", change)
    for change in found.other_copies:
        yield ""
        yield from _change(f"{_fate(change.a)} in both, as a duplicate of another copy", change)
    for note in found.notes:
        yield ""
        yield f"Note: {printable(note)}."


def _run(run: RunSummary) -> str:
    documents = run.documents
    kept = f"kept {count(documents.get('kept', 0))} of {count(documents.get('in', 0))} documents"
    return f"{printable(run.directory)}: {clip(run.name, 40)}, {kept}"


def _changed(title: str, values: list[ChangedValue]) -> Iterator[str]:
    yield f"{title} that differ: {count(len(values))}" if values else f"{title}: the same"
    for value in values:
        a, b = (clip(_shown(one), _SETTING_CELLS) for one in (value.a, value.b))
        yield f"  {clip(value.name, _SETTING_CELLS)}: {a} in A, {b} in B"


def _shown(value: Any) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _input(changes: InputChanges) -> Iterator[str]:
    same = f"{plural(changes.same_files, 'file')} the same in both"
    kinds = {title: files for name, title in _FILES.items() if (files := getattr(changes, name)).files}
    yield f"Input: {same}" + ("" if kinds else ", and no other")
    for title, files in kinds.items():
        yield f"  {plural(files.files, 'file')} {title}, {size(files.bytes)}"
        for name in files.first:
            yield f"    {clip_path(name, _TEXT_CELLS)}"


def _fate(fate: Fate) -> str:
    if fate.fate == "absent":
        return "not in the input"
    stage = f" by {fate.stage}" if fate.stage else ""
    reason = f" ({fate.reason})" if fate.reason and fate.reason != fate.stage else ""
    return clip(f"{fate.fate}{stage}{reason}", _TEXT_CELLS)


def _change(title: str, change: Change) -> Iterator[str]:
    total = change.total
    text = f", {size(total.text_bytes)} of text" if total.text_bytes is not None else ""
    yield f"{title}: {plural(total.documents, 'document')}{text}"
    sources = sorted(change.by_source.items(), key=lambda item: -item[1].documents)
    named = [f"{clip(name, 24)} {count(tally.documents)}" for name, tally in sources[:_MOST_SOURCES]]
    named += [plural(len(sources) - _MOST_SOURCES, "other source")] if len(sources) > _MOST_SOURCES else []
    yield f"  {', '.join(named)}"
    for example in change.examples:
        yield f"    {printable(example.id)}"
        copies = {"A": example.duplicate_of_a, "B": example.duplicate_of_b}
        for side, copy in copies.items():
            if copy is not None and copies["A"] != copies["B"]:
                yield f"      in {side} a duplicate of {printable(copy)}"
        if example.text:
            yield f"      {clip(example.text, _TEXT_CELLS)}"
