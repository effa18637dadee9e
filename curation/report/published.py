"""Figures that others published for the same job beside ours, where the input is comparable."""

from __future__ import annotations

from typing import Any

_MOST_DIFFERENCE = 0.01  # of a source's documents: RedPajama-1T's files as published, with what cannot be read


def compare(
    published: dict[str, Any] | None,
    sources: dict[str, dict[str, Any]],
    stages: dict[str, dict[str, Any]],
    deduplications: list[str],
) -> dict[str, Any] | None:
    """The report's "published": a recipe's figures, and ours when the input has about the published number of documents.

    `sources` and `stages` are the report's; `deduplications` names the stages whose removals count as duplicates. Ours are
    bytes that these remove among the bytes that were read.
    """
    if published is None:
        return None
    theirs = published["sources"]
    difference = _difference({name: documents for name, (documents, _) in theirs.items()}, sources)
    ours = {} if difference else {name: _share([name], sources, stages, deduplications) for name in theirs}
    return {
        "what": published["what"],
        "comparable": difference is None,
        "why": difference or f"every source has the published number of documents, within {_MOST_DIFFERENCE:.0%}",
        "sources": {
            name: {"removed_bytes_share": share, "our_removed_bytes_share": ours.get(name)} for name, (_, share) in theirs.items()
        },
        "overall": {
            "removed_bytes_share": published["overall"],
            "our_removed_bytes_share": None if difference else _share(list(ours), sources, stages, deduplications),
        },
    }


def _difference(documents: dict[str, int], sources: dict[str, dict[str, Any]]) -> str | None:
    """What makes the input another one than the published; None when nothing does."""
    for name, expected in documents.items():
        found = sources[name]["documents_in"] if name in sources else 0
        if abs(found - expected) > _MOST_DIFFERENCE * expected:
            return f"{name} has {found:,} documents here, {expected:,} in the published input"
    return None


def _share(
    names: list[str], sources: dict[str, dict[str, Any]], stages: dict[str, dict[str, Any]], deduplications: list[str]
) -> float | None:
    read = sum(sources[name]["bytes_in"] for name in names)
    removed = sum(stages[stage]["by_source"][name]["removed_bytes"] for stage in deduplications for name in names)
    return removed / read if read else None
