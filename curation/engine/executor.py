"""Where tasks run: in this process, or on Ray. The only file that imports ray.

Tasks are pure functions of one picklable argument that leave files and return small dictionaries, so they may run twice.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

# How often a task is tried again when its worker dies or its node is lost, and when the node runs out of memory (Ray's own
# default for the latter is for ever).
MAXIMUM_RETRIES = 3
# Tasks in flight for each worker: enough to hide the 0.65 ms that a task costs, bounded so that the driver's state is too.
_WINDOW_PER_WORKER = 8
_OBJECT_STORE_BYTES = 256 * 2**20  # tasks pass file names and counts; documents go through files

Function = Callable[[Any], dict[str, Any]]


class Executor(Protocol):
    """Runs a function over arguments and yields (position, result) in completion order."""

    workers: int
    worker_peak_bytes: int  # most resident memory that a worker process reached

    def map(self, function: Function, arguments: Iterable[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Exceptions of a task propagate; nothing more is started then."""
        ...

    def close(self) -> None:
        """Let go of workers."""
        ...


class InlineExecutor:
    """Runs every task in the calling process, in order: for debugging and for tests."""

    workers = 1

    def __init__(self) -> None:
        self.worker_peak_bytes = 0

    def map(self, function: Function, arguments: Iterable[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, argument in enumerate(arguments):
            result, self.worker_peak_bytes = _call(function, argument)
            yield position, result

    def close(self) -> None:
        return


class RayExecutor:
    """Ray tasks on an embedded Ray (`address` None) or on a cluster."""

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        if address is not None and _has_token():
            # To a cluster that is named by its address, Ray 2.60 shows the user's token only when it is told to.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        import ray

        os.environ.setdefault("RAY_task_oom_retries", str(MAXIMUM_RETRIES))
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        self._ray = ray
        self._owns = not ray.is_initialized()
        if self._owns and address is None:
            workers = workers or available_cpus()
            # A bare init() would join any cluster that it finds, and then refuse num_cpus.
            options |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        if self._owns:
            try:
                ray.init(address=address or "local", **options)
            except Exception as error:  # Ray raises bare exceptions when a node does not come up in time
                place = f"the cluster at {address} cannot be joined" if address else "Ray did not start"
                raise RuntimeError(
                    f"{place} ({error}); try the same command again, or --executor inline to run in one process"
                ) from error
        if threading.current_thread() is threading.main_thread():
            # Ray puts its own handlers in place, which end the process without a word.
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.worker_peak_bytes = 0
        self._remote = ray.remote(_call).options(max_retries=MAXIMUM_RETRIES, num_cpus=1)

    def map(self, function: Function, arguments: Iterable[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        ray = self._ray
        waiting = iter(enumerate(arguments))
        in_flight: dict[Any, int] = {}
        window = max(16, self.workers * _WINDOW_PER_WORKER)
        shared = ray.put(function)
        try:
            while True:
                while len(in_flight) < window and (item := next(waiting, None)) is not None:
                    in_flight[self._remote.remote(shared, item[1])] = item[0]
                if not in_flight:
                    return
                done, _ = ray.wait(list(in_flight), num_returns=1)
                for reference in done:
                    position = in_flight.pop(reference)
                    yield position, self._result(reference)
        finally:
            if not self._owns:  # an embedded Ray ends with this process, and its tasks with it
                for reference in in_flight:
                    ray.cancel(reference)

    def _result(self, reference: Any) -> dict[str, Any]:
        try:
            result, peak = self._ray.get(reference)
            self.worker_peak_bytes = max(self.worker_peak_bytes, peak)
            return result
        except self._ray.exceptions.RayTaskError as error:
            # The task's own exception, not Ray's wrapper: callers tell input errors from failures by its type.
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(
                f"a task was lost {MAXIMUM_RETRIES + 1} times (its worker was killed, or ran out of memory): {error}"
            ) from None

    def close(self) -> None:
        if self._owns:
            with contextlib.suppress(Exception):
                self._ray.shutdown()


def _has_token() -> bool:
    """Whether this user has a token for Ray's authentication, where Ray looks for it."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or os.path.exists(os.path.expanduser("~/.ray/auth_token"))


def _call(function: Function, argument: Any) -> tuple[dict[str, Any], int]:
    """The task's result, and the most resident bytes that this process has had."""
    from curation import kernels

    kernels.ensure_compiled()  # the driver did, but perhaps on another machine
    result = function(argument)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_executor(kind: str, address: str | None = None, workers: int | None = None) -> Executor:
    """`kind` is "ray" or "inline"; `address` None means an embedded Ray, unless RAY_ADDRESS is set."""
    if kind == "inline":
        return InlineExecutor()
    if kind != "ray":
        raise ValueError(f"executor {kind!r} is neither ray nor inline")
    return RayExecutor(address or os.environ.get("RAY_ADDRESS") or None, workers)
