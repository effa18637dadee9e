"""What a run will need, computed from the plan before anything runs: tasks, memory, disk, storage requests."""

from __future__ import annotations

from typing import Any

import psutil

from curation import storage
from curation.engine.plan import Plan
from curation.engine.run_folder import RunFolder
from curation.stages import GlobalStage
from curation.stages.minhash import MinHash

WORKER_BYTES = 1_500_000_000  # what a worker needs at most with the default part size, measured
MINIMUM_WORKER_BYTES = 750_000_000
UNION_FIND_BYTES = 110  # measured, for each document that shares a key with another
_DOCUMENT_BYTES = 3000  # raw bytes a document, to guess their number: RedPajama-1T has 5 kB on average, C4 2 kB
_ROW_BYTES = 8 + 4 + 4 + 1 + 1 + 2  # position, file, text bytes, removed by, split, source
_RECORD_BYTES = 12  # a key and a row, in the first pass's files
_OUTPUT_SHARE = 0.45  # output bytes a raw byte: Parquet with zstd of English text, nothing removed
_TEXT_SHARE = 0.10  # texts that normalisation changed, as a share of raw (2 % on English, 10 % on many languages)
MERGED_SEGMENT_RECORDS = 8 * 2**20
MOST_RANGE_READS = 10_000_000


def records_per_document(plan: Plan) -> int:
    """Side-table records that a document leaves for all global stages together."""
    stages = [stage for stage in plan.recipe.built if isinstance(stage, GlobalStage)]
    return sum(stage.settings.bands if isinstance(stage, MinHash) else 2 for stage in stages)


def partitions_for(records: int, worker_bytes: int) -> int:
    """Partitions of a stage's records: a power of two up to 4,096, so that sorting one stays within half of a worker's memory.

    It does not depend on the number of workers, so that a run goes on under another number without sorting anew.

    >>> partitions_for(1_000_000, 1_500_000_000), partitions_for(10**12, 1_500_000_000)
    (8, 4096)
    """
    wanted = max(-(-records * 64 // (worker_bytes // 2)), min(8, -(-records // 100_000)), 1)
    return min(4096, 1 << (wanted - 1).bit_length())


def estimate(plan: Plan, folder: RunFolder, workers: int, worker_bytes: int) -> dict[str, Any]:
    """What `curate plan` shows; bytes and counts follow from file sizes alone, so they are estimates."""
    raw = plan.raw_bytes
    documents = raw // _DOCUMENT_BYTES
    records = documents * records_per_document(plan)
    partitions = partitions_for(records, worker_bytes)
    reads = len(plan.units) * partitions
    by_source: dict[str, dict[str, int]] = {name: {"files": 0, "bytes": 0, "raw_bytes": 0} for name in plan.sources}
    for file in plan.files:
        entry = by_source[file.source]
        entry["files"] += 1
        entry["bytes"] += file.info.size
        entry["raw_bytes"] += file.raw_bytes
    return {
        "recipe": plan.recipe.name,
        "sources": by_source,
        "unmatched": plan.unmatched,
        "warnings": [f"source {name} is streamed: it is counted once it was copied" for name in plan.streamed],
        "raw_bytes": raw,
        "documents": documents,
        "tasks": {"first pass": len(plan.units), "shuffle": partitions, "range reads": min(reads, MOST_RANGE_READS)},
        "workers": workers,
        "memory_bytes": {
            "worker": worker_bytes,
            "driver": 300 * 2**20 + 2000 * len(plan.files),
            "union_find": UNION_FIND_BYTES * documents,
            "union_find_per_document": UNION_FIND_BYTES,
        },
        "disk_bytes": {
            "work": int(raw * _TEXT_SHARE) + documents * _ROW_BYTES + records * _RECORD_BYTES,
            "output": int(raw * _OUTPUT_SHARE),
        },
        "disk_free_bytes": {"work": storage.free_bytes(folder.work), "output": storage.free_bytes(folder.output)},
        "storage_requests": 2 * len(plan.files) + 4 * len(plan.units) + min(reads, MOST_RANGE_READS),
    }


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 10**9 else f"{n_bytes / 1e6:.1f} MB"


def check(needed: dict[str, Any], folder: RunFolder) -> list[str]:
    """Warnings about what is scarce. Raises ValueError when disk or memory clearly cannot suffice."""
    warnings = []
    disk, free = needed["disk_bytes"], dict(needed["disk_free_bytes"])
    wanted = dict(disk)
    if free["work"] is not None and free["output"] is not None and storage.on_same_disk(folder.work, folder.output):
        wanted = {"output": disk["work"] + disk["output"]}
    goes_on = storage.exists(folder.ledger)  # part of what is needed is there already: only warn
    for place, n_bytes in wanted.items():
        have = free[place]
        path = folder.work if place == "work" else folder.output
        if have is not None and have < n_bytes // 2 and not goes_on:
            raise ValueError(
                f"not enough disk: the run needs about {_size(n_bytes)} at {path}, which has {_size(have)} free; "
                "free some, or give another --output or --work"
            )
        if have is not None and have < n_bytes:
            warnings.append(f"disk may be short: about {_size(n_bytes)} needed at {path}, {_size(have)} free")
    memory = needed["memory_bytes"]
    if memory["worker"] < MINIMUM_WORKER_BYTES:
        raise ValueError(
            f"--memory-per-worker {memory['worker'] / 1e9:.2f} GB is too little; "
            f"a worker needs at least {MINIMUM_WORKER_BYTES / 1e9:.2f} GB"
        )
    available = psutil.virtual_memory().available
    total = needed["workers"] * memory["worker"] + memory["driver"]
    if total > available:
        warnings.append(
            f"memory may be short: {needed['workers']} workers of {memory['worker'] / 1e9:.1f} GB each, "
            f"{available / 1e9:.1f} GB available here; lower --workers if tasks are killed"
        )
    return warnings
