"""The input after the first pass: numbered parts, and what their tasks counted."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation import storage
from curation.engine.decide import write_segments
from curation.engine.ledger import task_key
from curation.engine.part_writer import MOST_REASONS, MOST_SOURCES, too_many_reasons
from curation.engine.parts import Part, write_parts
from curation.engine.plan import Plan
from curation.engine.removal_log import FileTable
from curation.engine.stage_pass import common_type


@dataclass(frozen=True)
class Inputs:
    """All parts; `counts` has what the first pass returned for each."""

    parts: list[Part]
    counts: list[dict[str, Any]]
    key: str  # names the content, and its order
    stage_columns: tuple[tuple[str, str], ...]  # (name, Arrow type) of what user stages made
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
    reasons = {reason for count in counts for reason in count.get("reasons", ())}
    if len(reasons) > MOST_REASONS:
        raise too_many_reasons(max(reasons))
    planned = [name for name in plan.sources if name in named]
    names = (*planned, *sorted(named - set(planned)))
    return Inputs(parts, counts, task_key(content, order), _stage_columns(plan, parts, counts), names)


def _stage_columns(plan: Plan, parts: list[Part], counts: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    """The columns that user stages made, with types that agree. Raises ValueError that names two files where they do not."""
    kinds: dict[str, tuple[str, Part]] = {}
    lifted = {name for source in plan.sources.values() for name in source.columns}
    for part, count in zip(parts, counts, strict=True):
        for name, kind in count["stage_columns"].items():
            if name in lifted:
                raise ValueError(f"a stage makes the column {name!r}, which a source lifts; choose another name")
            known, first = kinds.get(name, ("null", part))
            common = common_type(pa.type_for_alias(known), pa.type_for_alias(kind))
            if common is None:
                raise ValueError(
                    f"the column {name!r} that a stage made is {known} in {first.unit.files[0].info.path} and {kind} in "
                    f"{part.unit.files[0].info.path}; give pa.array(values, TYPE)"
                )
            kinds[name] = (str(common), part if known == "null" else first)
    return tuple((name, "string" if kind == "null" else kind) for name, (kind, _) in sorted(kinds.items()))
