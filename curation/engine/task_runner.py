"""What every step of a run shares: the ledger, the workers, the tally of tasks, and the work folder's paths."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from curation import storage
from curation.engine.executor import Executor, make_executor
from curation.engine.ledger import Ledger
from curation.engine.progress import Progress
from curation.engine.run_folder import RunFolder


class TaskRunner:
    """Runs the tasks of a step that the ledger does not hold, and records them."""

    def __init__(
        self, folder: RunFolder, progress: Progress, executor: str, address: str | None, workers: int | None
    ) -> None:
        self.folder, self.progress = folder, progress
        self.ledger = Ledger(folder.ledger, folder.output)
        self.tasks = {"planned": 0, "run": 0, "reused": 0}
        self.steps: dict[str, dict[str, Any]] = {}
        self.raw_bytes_read = 0  # decompressed bytes that the first pass of this very run read
        self._how = executor, address, workers
        self._executor: Executor | None = None

    @property
    def executor(self) -> Executor:
        """Started when first needed: a run that re-uses everything needs no workers."""
        if self._executor is None:
            started = time.monotonic()
            self._prepare_kernels()
            kind, address, _ = self._how
            address = address or os.environ.get("RAY_ADDRESS")
            if kind == "ray" and address:
                self.progress.note(f"joining the Ray cluster at {address}")
            self._executor = make_executor(*self._how)
            self._count("start", time.monotonic() - started)
        return self._executor

    def _prepare_kernels(self) -> None:
        from curation import kernels

        if not kernels.is_compiled():
            self.progress.note("compiling kernels, once on this machine")
            kernels.ensure_compiled()

    @property
    def workers(self) -> int:
        """Workers that were started."""
        return self._executor.workers if self._executor else 0

    def close(self) -> None:
        """Stop workers, close the ledger."""
        if self._executor is not None:
            self._executor.close()
        self.ledger.close()

    def path(self, *names: str) -> str:
        """A path in the work folder."""
        return storage.join(self.folder.work, *names)

    def staged(self, name: str) -> str:
        """Where a result is built before it is published."""
        return storage.join(self.folder.staging, name)

    def run(
        self,
        step: str,
        function: Callable[[Any], dict[str, Any]],
        tasks: list[tuple[str, Any]],
        raw_bytes: list[int] | None = None,
    ) -> list[dict[str, Any]]:
        """Run what the ledger does not hold; results in the order of `tasks` ((key, argument))."""
        results: list[dict[str, Any] | None] = [self.ledger.find(key) for key, _ in tasks]
        todo = [index for index, result in enumerate(results) if result is None]
        self.tasks["planned"] += len(tasks)
        self.tasks["run"] += len(todo)
        self.tasks["reused"] += len(tasks) - len(todo)
        executor = self.executor if todo else None
        clock, step_bytes = time.monotonic(), 0
        with self.progress.step(step, len(tasks), sum(raw_bytes) if raw_bytes else None):
            for index, result in enumerate(results):
                if result is not None:
                    self._advance(result, raw_bytes[index] if raw_bytes else 0, reused=True)
            arguments = (tasks[index][1] for index in todo)
            for position, result in executor.map(function, arguments) if executor else ():
                index = todo[position]
                self.ledger.commit(tasks[index][0], step, result)
                results[index] = result
                self._advance(result, raw_bytes[index] if raw_bytes else 0)
                read = sum(part["raw_bytes"] for part in result.get("parts", ()))
                self.raw_bytes_read += read
                step_bytes += read or (raw_bytes[index] if raw_bytes else 0)
        self.ledger.sync()
        self._count(step, time.monotonic() - clock, len(tasks), len(tasks) - len(todo), step_bytes)
        return [result for result in results if result is not None]

    def _count(self, step: str, seconds: float, tasks: int = 0, reused: int = 0, raw_bytes: int = 0) -> None:
        """Add to what report.json says of a step; `raw_bytes` are those of the tasks that ran, not of the re-used ones."""
        nothing = {"seconds": 0.0, "tasks": 0, "reused": 0, "raw_bytes": 0, "peak_memory_bytes": 0}
        entry = self.steps.setdefault(step, nothing)
        entry["seconds"] = round(entry["seconds"] + seconds, 3)
        for name, n in (("tasks", tasks), ("reused", reused), ("raw_bytes", raw_bytes)):
            entry[name] += n
        entry["peak_memory_bytes"] = max(self.peak_memory().values())

    def _advance(self, result: dict[str, Any], raw_bytes: int, reused: bool = False) -> None:
        documents = sum(part["n_documents"] for part in result.get("parts", ()))
        self.progress.advance(1, documents, raw_bytes, reused=reused)

    def peak_memory(self) -> dict[str, int]:
        """Most resident bytes of this process and of any worker."""
        unit = 1 if sys.platform == "darwin" else 1024
        driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"driver": driver, "worker": self._executor.worker_peak_bytes if self._executor else 0}
