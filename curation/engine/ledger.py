"""The ledger: one append-only log of committed tasks, which makes a run resumable.

A line a task: {"key", "step", "result"}; the result lists the task's outputs. A first line {"root"} says where the work folder
was, so that a folder that was moved as a whole is still known. A torn last line (the process was killed while writing it) is
ignored. The file is synced every 50 tasks and at the end of a step: what a power failure loses is redone.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from curation import storage

_SYNC_EVERY = 50
# Raised when what tasks leave in the work folder changes its form or meaning.
_ENGINE_VERSION = 2


def task_key(*parts: Any) -> str:
    """A 128-bit key of JSON-able values, as hex."""
    plain = json.dumps([_ENGINE_VERSION, *parts], sort_keys=True)
    return hashlib.blake2b(plain.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def ledger_root(path: str) -> str | None:
    """The folder of the run that the log at `path` is of; None when there is no log."""
    if not Path(path).exists():
        return None
    with open(path, "rb") as file:
        try:
            return str(json.loads(file.readline())["root"])
        except (ValueError, KeyError, TypeError):
            return None


class Ledger:
    """Committed tasks of the run in the folder `root` (DIR); the log itself is on local disk."""

    def __init__(self, path: str, root: str) -> None:
        self._results: dict[str, dict[str, Any]] = {}
        self._unsynced = 0
        kept = Path(path).read_bytes() if Path(path).exists() else b""
        before, good_bytes = self._load(kept, root)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if before is not None and before != root:
            self._file = open(f"{path}.new", "wb", buffering=0)  # noqa: SIM115 - see below
            self._write({"root": root})
            for key, result in self._results.items():
                self._write({"key": key, "step": "moved", "result": result})
            self.close()
            os.replace(f"{path}.new", path)
            good_bytes = os.path.getsize(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run; a kill must lose no line
        self._file.truncate(good_bytes)
        if not good_bytes:
            self._write({"root": root})

    def _load(self, kept: bytes, root: str) -> tuple[str | None, int]:
        """(the root that the log was written under, bytes of it that are good): what follows a torn line is not trusted."""
        before, good_bytes = None, 0
        for raw in kept.splitlines(keepends=True):
            try:
                line = raw.decode()
                if before is not None and before != root:
                    line = line.replace(json.dumps(before)[:-1] + "/", json.dumps(root)[:-1] + "/")
                entry = json.loads(line)
            except ValueError:
                break
            if not raw.endswith(b"\n"):
                break
            good_bytes += len(raw)
            if "root" in entry:
                before = entry["root"]
            elif entry["result"] is None:
                self._results.pop(entry["key"], None)
            else:
                self._results[entry["key"]] = entry["result"]
        return before, good_bytes

    def _write(self, entry: dict[str, Any]) -> None:
        data = memoryview(json.dumps(entry).encode() + b"\n")
        while data:
            data = data[self._file.write(data) :]

    def find(self, key: str) -> dict[str, Any] | None:
        """The result of the task `key`, if it was committed and its outputs are still there."""
        result = self._results.get(key)
        if result is None or not all(storage.exists(output) for output in result.get("outputs", [])):
            return None
        return result

    def commit(self, key: str, step: str, result: dict[str, Any]) -> None:
        """Record a finished task."""
        self._results[key] = result
        self._write({"key": key, "step": step, "result": result})
        self._unsynced += 1
        if self._unsynced >= _SYNC_EVERY:
            self.sync()

    def forget(self, key: str) -> None:
        """The task has to be run again."""
        self._results.pop(key, None)
        self._write({"key": key, "step": "forgotten", "result": None})

    def sync(self) -> None:
        """Force what was written to disk."""
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()
