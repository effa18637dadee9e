"""What a person should look into before using the result of a run."""

from __future__ import annotations

from typing import Any

from curation.engine.plan import Plan

_LARGE_COMPONENT_SHARE = 0.001
_LARGE_COMPONENT_DOCUMENTS = 100
_LARGE_LOSS_SHARE = 0.9


def find_warnings(
    plan: Plan, stages: dict[str, dict[str, Any]], sources: dict[str, dict[str, Any]], totals: dict[str, int]
) -> list[str]:
    """Warnings from the counts of stages, of sources, and of all sources together."""
    found = []
    for name, stage in stages.items():
        sizes = [int(size) for size in stage.get("component_sizes", {})]
        limit = max(_LARGE_COMPONENT_DOCUMENTS, _LARGE_COMPONENT_SHARE * totals["documents_in"])
        if sizes and max(sizes) > limit:
            found.append(
                f"{name}: a component of {max(sizes):,} documents; chains of near-duplicates can join unlike texts: "
                "look at it, or use `verify: exact`"
            )
        if stage.get("past_limit"):
            found.append(f"{name}: {stage['past_limit']:,} documents kept without comparing them with all candidates")
    for name, entry in sources.items():
        good = entry["documents_in"] - entry["quarantined_records"]
        if good and entry["removed_documents"] > _LARGE_LOSS_SHARE * good:
            found.append(f"source {name} loses {entry['removed_documents'] / good:.1%} of its documents")
    empty = [name for name, entry in sources.items() if not entry["documents_in"]]
    with_files = {file.source for file in plan.files}
    found += [f"source {name} has no documents" for name in empty if name in with_files and not plan.sources[name].by]
    missing = [name for name in empty if name not in with_files]
    if missing:
        found.append(f"no file for {', '.join(missing)}")
    if totals["quarantined_records"]:
        found.append(f"bad records: {totals['quarantined_records']:,}; they are in quarantine/")
    if plan.unmatched:
        found.append(f"files of the input that match no source: {len(plan.unmatched):,}, the first {plan.unmatched[0]}")
    return found
