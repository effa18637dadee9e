"""The input after the first pass: numbered parts, and what their tasks counted."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation import storage
from curation.engine.decide import write_segments
from curation.engine.first_pass import MOST_SOURCES
from curation.engine.ledger import task_key
from curation.engine.parts import Part, write_parts
from curation.engine.plan import Plan
from curation.engine.removal_log import FileTable


@dataclass(frozen=True)
class Inputs:
    """All parts; `counts` has what the first pass returned for each."""

    parts: list[Part]
    counts: list[dict[str, Any]]
    key: str  # names the content, and its order
    source_names: tuple[str, ...]  # those that a `by` column made included: the plan's order first, then by name

    @property
    def n_documents(self) -> int:
        """Documents that were read."""
        return sum(part.n_documents for part in self.parts)

    def records(self, stage: str) -> int:
        """Records that the stage left in all parts."""
        return sum(count["records"].get(stage, 0) for count in self.counts)

    def column(self, name: str) -> np.ndarray:
        """A count of every part, float64[n]."""
        return np.array([count[name] for count in self.counts], np.float64)


def number_inputs(plan: Plan, units: list[dict[str, Any]], work: str) -> Inputs:
    """Number the documents of all parts in rank order, and leave the lists in `work` where tasks find them."""
    parts: list[Part] = []
    counts: list[dict[str, Any]] = []
    base = 0
    for unit, result in zip(plan.units, units, strict=True):
        for count in result["parts"]:
            parts.append(Part(count["path"], len(parts), base, count["n_documents"], unit))
            counts.append(count)
            base += count["n_documents"]
    write_parts(storage.join(work, "parts.pickle"), parts)
    write_segments(storage.join(work, "segments.arrays"), [(f"{part.path}.arrays", part.base) for part in parts])
    files = FileTable(tuple(file.source for file in plan.files), tuple(file.relative for file in plan.files))
    storage.write_bytes(storage.join(work, "files.pickle"), pickle.dumps(files))
    content = [[unit.key, result["digests"] or result["modified_ns"]] for unit, result in zip(plan.units, units, strict=True)]
    order = [[file.source, file.relative] for file in plan.files]
    named = {name for count in counts for name in count["sources"]}
    if len(named) > MOST_SOURCES:
        raise ValueError(f"`by` makes {len(named):,} sources, more than {MOST_SOURCES:,}; name a member with few values")
    planned = [name for name in plan.sources if name in named]
    return Inputs(parts, counts, task_key(content, order), (*planned, *sorted(named - set(planned))))
