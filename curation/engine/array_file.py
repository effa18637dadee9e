"""One file of named NumPy arrays that can be read by name and by range, locally or from an object store.

Tasks leave such files beside each other: a reduce task reads its slice of each. Layout: the arrays' bytes, each aligned to
64 bytes; a JSON footer {"arrays": {name: [dtype, length, offset]}, "meta": {...}}; the footer's length as 8 bytes; a magic.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from curation import storage

MAGIC = b"CURARR01"
_ALIGNMENT = 64
_TAIL_BYTES = 65_536  # one read usually gets the footer


def write_arrays(path: str, arrays: dict[str, np.ndarray], meta: dict[str, Any] | None = None) -> None:
    """Commit `arrays` (one-dimensional) and `meta` (JSON) as one file; a failure leaves nothing behind."""
    with storage.commit(path) as temporary, open(temporary, "wb") as file:
        index = {}
        for name, array in arrays.items():
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            index[name] = [array.dtype.str, len(array), file.tell()]
            file.write(np.ascontiguousarray(array).data)
        footer = json.dumps({"arrays": index, "meta": meta or {}}).encode()
        file.write(footer + len(footer).to_bytes(8, "little") + MAGIC)


class ArrayFile:
    """Read access to one file; opening costs one read of its tail."""

    def __init__(self, path: str) -> None:
        self.path = path
        size = storage.file_size(path)
        tail_bytes = min(_TAIL_BYTES, size)
        tail = storage.read_range(path, size - tail_bytes, tail_bytes)
        if tail[-8:] != MAGIC:
            raise OSError(f"{path} is not an array file, or is cut short")
        length = int.from_bytes(tail[-16:-8], "little")
        if length + 16 > len(tail):
            tail = storage.read_range(path, size - length - 16, length + 16)
        footer = json.loads(tail[-16 - length : -16])
        self.meta: dict[str, Any] = footer["meta"]
        self._index: dict[str, list[Any]] = footer["arrays"]
        self._whole: dict[str, np.ndarray] = {}
        self.beside: dict[str, Any] = {}  # what was read of the files that stand beside this one

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def length(self, name: str) -> int:
        """Elements of the array `name`."""
        return self._index[name][1]

    def whole(self, name: str) -> np.ndarray:
        """The array `name`, held for as long as this object."""
        if name not in self._whole:
            self._whole[name] = self.read(name)
        return self._whole[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Elements [start, stop) of the array `name`; a copy, so the file may go."""
        kind, length, offset = self._index[name]
        dtype = np.dtype(kind)
        stop = length if stop is None else min(stop, length)
        n_bytes = max(0, stop - start) * dtype.itemsize
        if not n_bytes:
            return np.zeros(0, dtype)
        return np.frombuffer(storage.read_range(self.path, offset + start * dtype.itemsize, n_bytes), dtype)
