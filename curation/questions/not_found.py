"""What to tell somebody who asked for a document that a run does not know."""

from __future__ import annotations

import difflib
import os

from curation import storage
from curation.questions.documents import Documents
from curation.questions.lookup import FinishedRun, Place

_NAMES_COMPARED = 20_000  # file names that a mistyped one is compared with
_NAMED = 3


def hints(run: FinishedRun, documents: Documents, value: str) -> list[str]:
    """What is wrong with the id, from the coarse to the fine; lines for people."""
    parsed = run.parse(value)
    found = []
    if run.run["limit"] is not None:
        found.append(f"the run read only the first {run.run['limit']:,} documents of each source (--limit)")
    if parsed is None or parsed[0] not in run.sources:
        found += _no_source(run, parsed[0] if parsed else value)
    elif (place := run.place(value)) is not None:
        found += _no_record(run, documents, place)
    elif (parsed[0], parsed[1]) in {(file.source, file.relative) for file in run.files}:
        found.append(f"the file is in the input; ids end with @ and the {_unit(parsed[1])} at which a document begins")
    else:
        found += _no_file(run, *parsed[:2])
    return found


def _no_source(run: FinishedRun, name: str) -> list[str]:
    read = list(dict.fromkeys(file.source for file in run.files))
    own = [source for source in read if run.sources[source].id]
    made = [source for source in read if not run.sources[source].id]
    found = []
    if own:
        found.append(f"no document of {', '.join(own[:20])}, whose input has ids of its own, has this id")
    if made:
        near = difflib.get_close_matches(name, made, 1, 0.5)
        meant = f"; did you mean {near[0]}?" if near and near[0] != name else ""
        found.append(f"made-up ids are SOURCE/PATH@OFFSET, SOURCE one of {', '.join(made[:20])}{meant}")
    return found


def _no_file(run: FinishedRun, source: str, relative: str) -> list[str]:
    found = [f"source {source} read no file {relative}"]
    base = storage.fixed_part(run.sources[source].path)
    unmatched = [path for path in run.report.get("unmatched", []) if path.endswith("/" + relative)]
    if unmatched:
        found.append(f"{unmatched[0]} is in the input, but no source of the recipe matched it")
    elsewhere = [file.source for file in run.files if file.relative == relative]
    if elsewhere:
        found.append(f"a file of that name was read as source {elsewhere[0]}: try {elsewhere[0]}/{relative}@…")
    names = [file.relative for file in run.files if file.source == source]
    same_name = [name for name in names if os.path.basename(name) == os.path.basename(relative)]
    near = same_name[:_NAMED] or difflib.get_close_matches(relative, names[:_NAMES_COMPARED], _NAMED, 0.6)
    if near and not elsewhere:
        found.append(f"near names of files that were read: {', '.join(near)}")
    if not near and not elsewhere:
        found.append(f"paths in ids are below {base}")
    return found


def _no_record(run: FinishedRun, documents: Documents, place: Place) -> list[str]:
    """The file was read, but no document begins at that position."""
    file = run.files[place.number]
    unit = _unit(file.relative)
    found = [f"the file was read, but no document has the {unit} {place.position:,} in it"]
    near = documents.work.neighbours(place) if documents.work is not None else []
    if near:
        before = [one for one in near if one.position < place.position]
        after = [one for one in near if one.position > place.position]
        if not after:
            found.append(f"it is past the last of its documents, {run.made_id(before[0])}")
        elif not before:
            found.append(f"the first of its documents is {run.made_id(after[0])}")
        else:
            found.append(f"the documents next to it are {run.made_id(before[0])} and {run.made_id(after[0])}")
    elif documents.work is None:
        found.append("work/ was dropped (`curate clean`), so what stands next to it cannot be told")
    bad = [row for row in run.quarantined(place) if row["offset"] <= place.position][-1:]
    if bad:
        found.append(f"quarantine/ has a record of this file before it, at {bad[0]['offset']:,}: {bad[0]['reason']}")
    return found


def _unit(relative: str) -> str:
    return "row" if relative.endswith(".parquet") else "offset"
