"""Numba functions over NumPy arrays: no input or output, no Ray, no Arrow. This module itself does not import Numba.

Numba keeps compiled code on disk, but notices a change only in the file of the function itself, not in the files of
what it calls: results would go stale. So the directory is named by a hash of all files here, and a change of any of
them starts a new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PREFIX = "kernels-"
_UNUSED_SECONDS = 30 * 86400  # after which another version's directory, 4 MB, is deleted


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` with Numba at its first call, without the interpreter lock, and keep the result on disk.

    Only our own functions are cached there: Numba's setting is put back afterwards, so a user's own kernels are left
    alone.
    """
    import numba

    config: Any = numba.config
    directory = cache_directory()
    if directory is None:
        return numba.njit(nogil=True)(function)
    before = config.CACHE_DIR
    config.CACHE_DIR = directory
    try:
        return numba.njit(nogil=True, cache=True)(function)
    finally:
        config.CACHE_DIR = before


@functools.cache
def cache_directory() -> str | None:
    """The directory of compiled kernels, made if need be: the user's cache, a private temporary directory, or None.

    `NUMBA_CACHE_DIR`, where the user has set it, comes first.
    """
    import numba

    config: Any = numba.config
    user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    bases = [
        os.path.join(user_cache, "moxin-curation"),
        os.path.join(tempfile.gettempdir(), f"moxin-curation-{os.getuid()}"),
    ]
    if config.CACHE_DIR:
        bases.insert(0, os.path.join(config.CACHE_DIR, "moxin-curation"))
    name = f"{_PREFIX}{_fingerprint()}"
    return next((directory for base in bases if (directory := _private_directory(base, name)) is not None), None)


def _private_directory(base: str, name: str) -> str | None:
    """`base`/`name` if it can be made, is ours and can be written. Whoever writes there can run code as us."""
    directory = os.path.join(base, name)
    try:
        os.makedirs(base, mode=0o700, exist_ok=True)
        if os.stat(base).st_uid != os.getuid():
            return None
        is_new = not os.path.isdir(directory)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            os.utime(directory)  # says that this version is in use
    except OSError:
        return None
    if is_new:
        _delete_unused(base)
    return directory


def _delete_unused(base: str) -> None:
    """Delete the directories of versions that no process has used for 30 days."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(base):
            if entry.name.startswith(_PREFIX) and time.time() - entry.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)


def _fingerprint() -> str:
    """A hash of every file of this package and of the versions that compile it."""
    digest = hashlib.blake2b(digest_size=12)
    versions = [sys.version, version("numba"), version("llvmlite"), version("numpy")]
    digest.update(repr(versions).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _marker() -> str | None:
    """The file that says that everything was compiled for this processor."""
    from llvmlite.binding import get_host_cpu_features, get_host_cpu_name

    directory = cache_directory()
    if directory is None:
        return None
    host = f"{get_host_cpu_name()} {get_host_cpu_features().flatten()}"
    return os.path.join(directory, f"compiled-{hashlib.blake2b(host.encode(), digest_size=8).hexdigest()}")


def is_compiled() -> bool:
    """Whether `compile_all` would only load what an earlier run left; otherwise it takes half a minute of one core."""
    marker = _marker()
    return marker is not None and os.path.exists(marker)


def compile_all() -> None:
    """Compile every kernel, or load it: each module that has kernels does it in its `compile_kernels`.

    One process at a time: Numba numbers the files of its cache without looking whether another process took the number.
    """
    directory = cache_directory()
    with nullcontext() if directory is None else open(os.path.join(directory, "lock"), "ab") as file:
        if file is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        _compile_modules()


def ensure_compiled() -> None:
    """Compile what is not compiled yet on this machine: before any kernel runs, in every process that runs some."""
    if not is_compiled():
        compile_all()


def _compile_modules() -> None:
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        compile_kernels = getattr(importlib.import_module(module.name), "compile_kernels", None)
        if compile_kernels is not None:
            compile_kernels()
    marker = _marker()
    if marker is not None:
        Path(marker).touch()


def read_only(array: Any, dtype: Any) -> Any:
    """A contiguous view (a copy only if needed) that cannot be written.

    Numba compiles anew for each combination of writable and read-only arguments: all inputs are made read-only instead.
    """
    import numpy as np

    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view
