"""Exact duplicates: documents whose texts, as earlier stages left them, are the same bytes.

A 128-bit hash stands for the text: at 25 billion documents a 64-bit one would give about 17 false pairs, a 128-bit one
about 1e-18. The copy with the lowest rank stays. SlimPajama's released code has no such stage; before MinHash with
`keep: first` it changes no decision, because equal texts share every band.
"""

from __future__ import annotations

import numpy as np
import xxhash

from curation.documents import DocumentBatch
from curation.stages import GlobalStage, Settings


class ExactSettings(Settings):
    """Settings of `exact`: none."""


class Exact(GlobalStage):
    """Removes every document but the first of those with the same text."""

    settings_class = ExactSettings
    reason = "exact duplicate"

    def observe(self, documents: DocumentBatch, alive: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.flatnonzero(alive)
        return {**text_hashes(documents, rows, seed=0), "row": rows.astype(np.uint32)}


def text_hashes(documents: DocumentBatch, rows: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """128-bit XXH3 of the texts of `rows` (int64[k]) under `seed`, as "key" (high) and "low" halves, uint64[k]."""
    data, offsets = documents.utf8
    view = memoryview(data)  # type: ignore[arg-type]
    hashed = b"".join(
        xxhash.xxh3_128_digest(view[start:end], seed)
        for start, end in zip(offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)
    )
    halves = np.frombuffer(hashed, ">u8").reshape(-1, 2).astype(np.uint64)
    return {"key": np.ascontiguousarray(halves[:, 0]), "low": np.ascontiguousarray(halves[:, 1])}
