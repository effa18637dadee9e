"""report.json: every number of a run, from what its tasks counted."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from curation import storage
from curation.engine.plan import Plan
from curation.report import PAGE
from curation.report.fingerprints import input_fingerprint, output_fingerprint
from curation.report.published import compare
from curation.report.warnings import find_warnings
from curation.stages import GlobalStage, Stage
from curation.stages.minhash import MinHash

_MOST_REASONS = 200  # of a stage: those of user stages may hold values
_EXAMPLES = 5
_OPEN = {
    "parquet": 'import pyarrow.dataset as d; print(d.dataset({!r} + "/documents/train").head(5).to_pandas())',
    "jsonl.zst": 'import datasets as d; print(d.load_dataset({!r}))',
}


def build_report(
    *,
    plan: Plan,
    units: list[dict[str, Any]],
    decided: list[tuple[Stage, dict[str, Any]]],
    written: list[dict[str, Any]],
    samples: dict[str, Any],
    input_path: str | None,
    output: str,
    outputs: list[dict[str, Any]],
    warnings: list[str],
    tasks: dict[str, int],
    steps: dict[str, dict[str, Any]],
    raw_bytes_read: int,
    total_seconds: float,
    peak_memory: dict[str, int],
    workers: int,
    limit: int | None,
    format_version: int,
) -> dict[str, Any]:
    """Join the counts of all tasks."""
    parts = [part for unit in units for part in unit["parts"]]
    sources = _sources(plan, parts, written)
    stages = _stages(plan.recipe.built, sources)
    for stage in plan.recipe.built:
        stages[stage.name] |= _stage_details(stage, parts, written, samples)
    for stage, result in decided:
        stages[stage.name] |= _global_details(stage, result, samples)
    for entry in sources.values():
        del entry["removed_by_stage"], entry["failed_by_stage"]
    totals = {key: sum(entry[key] for entry in sources.values()) for key in next(iter(sources.values()), _EMPTY_SOURCE)}
    raw_bytes = sum(part["raw_bytes"] for part in parts)
    results = [entry for entry in outputs if not entry["path"].startswith("samples/")]
    return {
        "format_version": format_version,
        "name": plan.recipe.name,
        "input": input_path,
        "output": output,
        "status": "complete",
        "already_complete": False,
        "limit": limit,
        "documents": {
            "in": totals["documents_in"],
            "kept": totals["kept_documents"],
            "removed": totals["removed_documents"],
            "quarantined": totals["quarantined_records"],
        },
        "bytes": {"in": totals["bytes_in"], "kept": totals["kept_bytes"], "removed": totals["removed_bytes"]},
        "stages": stages,
        "sources": sources,
        "splits": _splits(written),
        "edited": {"documents": sum(result["edited"] for result in written)},
        "sample": samples["sample"],
        "quarantine": _quarantine(parts),
        "unmatched": plan.unmatched,
        "tasks": tasks,
        "workers": workers,
        "peak_memory_bytes": max(peak_memory.values()),
        "peak_memory": peak_memory,
        "warnings": [*warnings, *find_warnings(plan, stages, sources, totals)],
        "deviations": list(plan.recipe.deviations),
        "steps": steps,
        "total_seconds": round(total_seconds, 3),
        "raw_bytes": raw_bytes,
        "mb_per_second": round(raw_bytes_read / 1e6 / total_seconds, 2) if total_seconds else 0.0,
        "output_files": len(results),
        "output_bytes": sum(entry["bytes"] for entry in results),
        "fingerprints": {
            "input": input_fingerprint(plan.units, units, limit),
            "output": output_fingerprint(outputs),
        },
        "published": compare(
            plan.recipe.resolved()["published"],
            sources,
            stages,
            [stage.name for stage in plan.recipe.built if isinstance(stage, GlobalStage)],
        ),
        "commands": {
            **page_command(output),
            "open": open_command(output, plan.recipe.output.format),
        },
    }


def page_command(output: str) -> dict[str, str]:
    """{"page": a shell command that shows the page in a browser}; none for a folder in an object store."""
    if storage.is_remote(output):
        return {}
    address = Path(storage.absolute(output), PAGE).as_uri()
    return {"page": f"{shlex.quote(sys.executable)} -m webbrowser -t {shlex.quote(address)}"}


def open_command(output: str, file_format: str) -> str:
    """A shell command that shows the first documents; the folder's name may hold quotes and braces."""
    code = _OPEN[file_format].format(output)
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


_EMPTY_SOURCE = {
    "documents_in": 0,
    "bytes_in": 0,
    "kept_documents": 0,
    "kept_bytes": 0,
    "removed_documents": 0,
    "removed_bytes": 0,
    "quarantined_records": 0,
}


def _sources(plan: Plan, parts: list[dict[str, Any]], written: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each source documents and bytes in, kept and removed; what is told by stage is for the stages' table."""
    names = list(plan.sources)
    names += sorted({name for part in parts for name in part["by_source"]} - set(names))
    sources: dict[str, dict[str, Any]] = {
        name: {**_EMPTY_SOURCE, "removed_by_stage": {}, "failed_by_stage": Counter()} for name in names
    }
    for part in parts:
        for name, counts in part["by_source"].items():
            sources[name]["documents_in"] += counts["documents"]
            sources[name]["bytes_in"] += counts["bytes"]
        for name, bad in part["bad_by_source"].items():
            sources[name]["documents_in"] += bad
            sources[name]["quarantined_records"] += bad
            sources[name]["failed_by_stage"].update(part["failed"])
    for result in written:
        for name, (documents, n_bytes) in result["kept"].items():
            sources[name]["kept_documents"] += documents
            sources[name]["kept_bytes"] += n_bytes
        for key, (documents, n_bytes) in result["removed_by"].items():
            stage, name = key.split("\t", 1)
            sources[name]["removed_documents"] += documents
            sources[name]["removed_bytes"] += n_bytes
            entry = sources[name]["removed_by_stage"].setdefault(stage, [0, 0])
            entry[0] += documents
            entry[1] += n_bytes
    return {name: entry for name, entry in sources.items() if entry["documents_in"] or name in plan.sources}


def _stages(stages: list[Stage], sources: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each stage was given, what it removed and what it failed on, by source; what could not be read reaches no stage."""
    table: dict[str, dict[str, Any]] = {}
    left = {}
    for name, entry in sources.items():
        unread = entry["quarantined_records"] - sum(entry["failed_by_stage"].values())
        left[name] = [entry["documents_in"] - unread, entry["bytes_in"]]
    for stage in stages:
        by_source = {}
        for name, entry in sources.items():
            documents, n_bytes = entry["removed_by_stage"].get(stage.name, (0, 0))
            failed = entry["failed_by_stage"][stage.name]
            by_source[name] = {
                "documents_in": left[name][0],
                "bytes_in": left[name][1],
                "removed_documents": documents,
                "removed_bytes": n_bytes,
                "quarantined_documents": failed,
            }
            left[name] = [left[name][0] - documents - failed, left[name][1] - n_bytes]
        keys = ("documents_in", "bytes_in", "removed_documents", "removed_bytes", "quarantined_documents")
        table[stage.name] = {key: sum(entry[key] for entry in by_source.values()) for key in keys}
        table[stage.name]["by_source"] = by_source
    return table


def _stage_details(
    stage: Stage, parts: list[dict[str, Any]], written: list[dict[str, Any]], samples: dict[str, Any]
) -> dict[str, Any]:
    """What every stage reports besides counts by source; a map stage also what it measured."""
    details: dict[str, Any] = {
        "stage": stage.kind,
        "reasons": _reasons(stage, written),
        "edited_documents": sum(result["edited_by"].get(stage.name, 0) for result in written),
    }
    measure = next((result["measures"][stage.name] for result in written if stage.name in result["measures"]), None)
    if measure is not None:
        details |= {"measure": measure, "nearest": samples["nearest"].get(stage.name, [])}
    return details


def _reasons(stage: Stage, written: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Documents and bytes that the stage removed, by reason; those of the rarest reasons under one name, where there are many."""
    found: dict[str, list[int]] = {}
    for result in written:
        for key, counts in result["reasons"].items():
            name, reason = key.split("\t", 1)
            if name == stage.name:
                found[reason] = [a + b for a, b in zip(found.get(reason, (0, 0)), counts, strict=True)]
    order = sorted(found, key=lambda reason: (-found[reason][0], reason))
    shown: dict[str, dict[str, int]] = {}
    for index, reason in enumerate(order):
        entry = shown.setdefault(reason if index < _MOST_REASONS else "other reasons", {"documents": 0, "bytes": 0})
        entry["documents"] += found[reason][0]
        entry["bytes"] += found[reason][1]
    return shown


def _global_details(stage: Stage, result: dict[str, Any], samples: dict[str, Any]) -> dict[str, Any]:
    """What a deduplication stage reports besides counts."""
    assert isinstance(stage, GlobalStage)
    details = {
        "component_sizes": result["component_sizes"],
        "largest_components": samples["largest"][stage.name],
        "matrix": result["matrix"],
    }
    if isinstance(stage, MinHash):
        details["verify"] = stage.settings.verify
        details["clusters"] = samples["clusters"].get(stage.name, [])
        details["sampled_pairs"] = samples["sampled_pairs"][stage.name]
        if "annotated" in result:
            details["annotated_documents"] = sum(documents for documents, _ in result["annotated"].values())
    if "past_limit" in result:
        details["past_limit"] = result["past_limit"]
        details["candidate_component_sizes"] = result["candidates"]
    return details


def _splits(written: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    splits: dict[str, Counter[str]] = {}
    for result in written:
        for name, (documents, n_bytes) in result["splits"].items():
            splits.setdefault(name, Counter()).update(documents=documents, bytes=n_bytes)
    return {name: dict(counter) for name, counter in splits.items()}


def _quarantine(parts: list[dict[str, Any]]) -> dict[str, Any]:
    by_source: Counter[str] = Counter()
    by_reason: Counter[str] = Counter()
    for part in parts:
        by_source.update(part["bad_by_source"])
        by_reason.update(part["bad_by_reason"])
    return {
        "records": sum(part["bad_records"] for part in parts),
        "lost_bytes": sum(part["lost_bytes"] for part in parts),
        "by_source": dict(by_source),
        "by_reason": dict(sorted(by_reason.items())),
        "first": [line for part in parts for line in part["first_bad"]][:_EXAMPLES],
    }
