"""Fingerprints of what a run read and of what it left, so that two runs can be told apart, or known to be the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation.engine.plan import Unit

# What a run decides; samples/ and what is derived from the report are no part of it.
_FINGERPRINTED = ("documents/", "removed/", "duplicates/", "edited/", "quarantine/")


def input_fingerprint(units: Iterable[Unit], results: Iterable[dict[str, Any]], limit: int | None) -> str | None:
    """SHA-256 over every file's source, relative path, size and the digests of its pieces; None under a limit.

    The digests are those that the first pass took while it read (XXH3-128 of the file's bytes; the store's etag where a store
    holds Parquet, the data set's own fingerprint for a hub data set; null for a piece that could not be read), so that the
    input is not read again. Where the files lie, and in which order, does not matter, nor do workers and executor. A file is
    cut into pieces by the size of the whole input (from 64 GB on), and an input that grew keeps its first cut: only then may
    the same files have another fingerprint. A limited run reads no file to its end, so there is none.
    """
    if limit is not None:
        return None
    files: dict[tuple[str, str], tuple[int, list[str | None]]] = {}
    for unit, result in zip(units, results, strict=True):
        for number, file in enumerate(unit.files):
            digest = result["digests"].get(str(number))
            _, digests = files.setdefault((file.source, file.relative), (file.info.size, []))
            digests.append(file.info.etag if digest == "" else digest)
    hashed = hashlib.sha256()
    for (source, relative), (size, digests) in sorted(files.items()):
        hashed.update(json.dumps([source, relative, size, digests]).encode() + b"\n")
    return hashed.hexdigest()


def output_fingerprint(outputs: Iterable[dict[str, Any]]) -> str:
    """SHA-256 over the sorted lines "PATH SHA256" of the files that a run decides, each line ended by a newline.

    >>> output_fingerprint([{"path": "removed/a", "sha256": "0f"}, {"path": "samples/b", "sha256": "1f"}])[:8]
    'f3c7197b'
    """
    chosen = [entry for entry in outputs if entry["path"].startswith(_FINGERPRINTED)]
    lines = sorted(f"{entry['path']} {entry['sha256']}\n" for entry in chosen)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_report(report: dict[str, Any], run: dict[str, Any], place: str) -> None:
    """Raise ValueError when `report` (report.json) is not of the run that `run` (run.json) describes, both in `place`."""
    if "outputs" in run and report.get("fingerprints", {}).get("output") != output_fingerprint(run["outputs"]):
        raise ValueError(f"report.json and run.json in {place} are of different runs; bring the folder back whole, or run again")
