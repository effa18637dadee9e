"""Which parts become one output file: contiguous ranges, cut on kept bytes alone, so that workers have no say in it."""

from __future__ import annotations

import numpy as np

_SMALLEST_FILE_BYTES = 16 * 2**20
FILES_OF_A_SMALL_OUTPUT = 4
_LARGEST_RAW_BYTES = 2 * 2**30


def group_parts(kept_bytes: np.ndarray, raw_bytes: np.ndarray, file_bytes: int) -> list[tuple[int, int]]:
    """Ranges [first, last) of parts, each close to an equal share of the estimated compressed `kept_bytes` (float64[n]).

    As many files as make the share come close to `file_bytes`; an output smaller than two such files is cut in up to four (of
    16 MB or more), so that several workers write it. Where little is kept, a range ends after 2 GB of `raw_bytes` (int64[n]).

    >>> group_parts(np.full(8, 50e6), np.full(8, 64e6), 200_000_000)
    [(0, 4), (4, 8)]
    >>> group_parts(np.full(4, 20e6), np.full(4, 64e6), 200_000_000)
    [(0, 1), (1, 2), (2, 3), (3, 4)]
    """
    if not len(kept_bytes):
        return []
    total = float(kept_bytes.sum())
    n_files = max(1, round(total / file_bytes))
    if total < 2 * file_bytes:
        n_files = max(n_files, min(FILES_OF_A_SMALL_OUTPUT, int(total // _SMALLEST_FILE_BYTES)))
    # A part belongs to the file in whose share its middle lies.
    middles = np.cumsum(kept_bytes) - kept_bytes / 2
    number = np.minimum((middles / max(total, 1.0) * n_files).astype(np.int64), n_files - 1)
    stretch = np.cumsum(raw_bytes) // _LARGEST_RAW_BYTES
    ends = (number[1:] != number[:-1]) | (stretch[1:] != stretch[:-1])
    starts = [0, *(np.flatnonzero(ends) + 1).tolist()]
    return list(zip(starts, [*starts[1:], len(kept_bytes)], strict=True))


def tasks_of(groups: list[tuple[int, int]], units: list[str]) -> list[list[tuple[int, int]]]:
    """Groups that one task has to write together, because a border between them lies inside a unit (`units`: one a part).

    A unit is read from its start, so two tasks would read it twice, and a large compressed file as often as it has groups.

    >>> tasks_of([(0, 2), (2, 4), (4, 5)], ["a", "a", "b", "c", "c"])
    [[(0, 2)], [(2, 4), (4, 5)]]
    """
    tasks: list[list[tuple[int, int]]] = []
    for first, last in groups:
        if tasks and units[first] == units[first - 1]:
            tasks[-1].append((first, last))
        else:
            tasks.append([(first, last)])
    return tasks


def join_ranges(n_bytes: list[int], file_bytes: int) -> list[tuple[int, int]]:
    """Ranges of consecutive small files to join: as many as stay within `file_bytes` together.

    >>> join_ranges([3, 3, 3, 9, 1], 8)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    ranges: list[tuple[int, int]] = []
    start, held = 0, 0
    for index, size in enumerate(n_bytes):
        if index > start and held + size > file_bytes:
            ranges.append((start, index))
            start, held = index, 0
        held += size
    if len(n_bytes) > start:
        ranges.append((start, len(n_bytes)))
    return ranges
