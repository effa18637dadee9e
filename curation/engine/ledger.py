"""The ledger: one append-only log of committed tasks, which makes a run resumable.

A line a task: {"key", "step", "result"}; the result lists the task's outputs. A torn last line (the process was killed while
writing it) is ignored. The file is synced every 50 tasks and at the end of a step: what a power failure loses is redone.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from curation import storage

_SYNC_EVERY = 50


def task_key(*parts: Any) -> str:
    """A 128-bit key of JSON-able values, as hex."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


class Ledger:
    """Committed tasks of the run whose intermediates are under `work`; the log itself is on local disk."""

    def __init__(self, path: str) -> None:
        self._results: dict[str, dict[str, Any]] = {}
        self._unsynced = 0
        kept = b""
        if Path(path).exists():
            kept = Path(path).read_bytes()
            kept = kept[: kept.rfind(b"\n") + 1]  # a torn last line
            for line in kept.splitlines():
                entry = json.loads(line)
                self._results[entry["key"]] = entry["result"]
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115 - open as long as the run
        self._file.truncate(len(kept))
        self._file.seek(0, os.SEEK_END)

    def find(self, key: str) -> dict[str, Any] | None:
        """The result of the task `key`, if it was committed and its outputs are still there."""
        result = self._results.get(key)
        if result is None or not all(storage.exists(output) for output in result.get("outputs", [])):
            return None
        return result

    def recorded(self, key: str) -> dict[str, Any] | None:
        """The result as recorded, whether or not its outputs are there."""
        return self._results.get(key)

    def commit(self, key: str, step: str, result: dict[str, Any]) -> None:
        """Record a finished task."""
        self._results[key] = result
        self._file.write(json.dumps({"key": key, "step": step, "result": result}).encode() + b"\n")
        self._unsynced += 1
        if self._unsynced >= _SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """Force what was written to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()
