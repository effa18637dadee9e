"""One run at a time in a folder: a lock file that names its host and process, and is taken over when that process is dead."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import psutil

from curation import storage

LOCK_NAME = ".lock"


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """Hold the lock on `directory`; ValueError when another live process (or one on another host) holds it."""
    path = storage.join(directory, LOCK_NAME)
    process = psutil.Process()
    mine = json.dumps({"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}).encode()
    with nullcontext() if storage.is_remote(directory) else _guarded(f"{path}.guard"):
        _take(path, mine, directory)
    try:
        yield
    finally:
        if storage.exists(path) and storage.read_bytes(path) == mine:
            storage.delete(path)


def _take(path: str, mine: bytes, directory: str) -> None:
    while not storage.create_exclusive(path, mine):
        try:
            holder = json.loads(storage.read_bytes(path))
        except FileNotFoundError:
            continue
        except ValueError:  # torn by a kill while it was written
            holder = {"host": socket.gethostname(), "pid": -1, "started": 0.0}
        if holder["host"] != socket.gethostname() or _alive(holder["pid"], holder["started"]):
            raise ValueError(
                f"{directory} is in use by process {holder['pid']} on {holder['host']}; if that run is surely gone, delete {path}"
            )
        storage.delete(path)


@contextmanager
def _guarded(path: str) -> Iterator[None]:
    """Only one process at a time looks at the lock and takes it over; the kernel lets go of this when a process dies."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _alive(pid: int, started: float) -> bool:
    try:
        return pid > 0 and abs(psutil.Process(pid).create_time() - started) < 2
    except psutil.Error:
        return False
