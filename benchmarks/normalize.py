"""The normalisation stage against plain ftfy: `python benchmarks/normalize.py CORPUS...` (JSONL, .zst, Parquet).

Prints a line a file: MB/s of the stage over the whole file and of ftfy over a sample from all of it, the share of bytes
by the path that they take, and the documents of the sample where the two differ (0, or it is a bug). Paths: `ascii`
documents pass the plain gate, `clean` lines pass the tables, `mapped` lines are rewritten by the kernel, and `rounds`
lines need ftfy's own functions.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.documents import DocumentBatch
from curation.kernels import normalization
from curation.stages.normalize import Normalize, NormalizeSettings, fix_text, gate

SAMPLE_BYTES = 2_000_000  # ftfy takes about half a second for so much
_COLUMNS = ("text", "content")


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a file: its `text` or `content`; records without one, or with lone surrogates, are left out."""
    records: Any
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        column = next((name for name in _COLUMNS if name in table.column_names), None)
        records = ({"text": text} for text in table[column].to_pylist()) if column else []
    else:
        stream = pa.input_stream(path, compression="zstd" if path.suffix == ".zst" else None)
        records = map(_record, io.BufferedReader(stream))
    for record in records:
        text = next((record[name] for name in _COLUMNS if isinstance(record.get(name), str)), None)
        if text is not None and text.encode(errors="ignore").decode() == text:
            yield text


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def shares(batch: DocumentBatch) -> dict[str, float]:
    """The share of bytes by path."""
    tables = gate().tables
    assert tables is not None, gate().closed_because
    data, offsets = batch.utf8
    plain = normalization.plain(data, offsets)
    edits, _ = normalization.find_edits(data, offsets, np.flatnonzero(~plain), tables)
    sizes, undecided = edits[:, 1] - edits[:, 0], edits[:, 2] < 0
    counted = {
        "ascii": int(batch.text_bytes[plain].sum()),
        "mapped": int(sizes[~undecided].sum()),
        "rounds": int(sizes[undecided].sum()),
    }
    counted["clean"] = len(data) - sum(counted.values())
    return {name: counted[name] / max(1, len(data)) for name in ("ascii", "clean", "mapped", "rounds")}


def sample(texts: list[str]) -> list[int]:
    """Documents of all parts of the file, of about SAMPLE_BYTES in sum."""
    step = max(1, sum(map(len, texts)) // SAMPLE_BYTES)
    return list(range(0, len(texts), step))


def main(paths: list[str]) -> None:
    stage = Normalize("normalize", NormalizeSettings())
    normalization.compile_kernels()
    gate()
    total_bytes, total_seconds, mismatches = 0, 0.0, 0
    for path in map(Path, paths):
        texts = list(texts_of(path))
        batch = DocumentBatch(np.arange(len(texts), dtype=np.uint64), pa.array(texts, pa.large_string()))
        started = time.perf_counter()
        repaired = batch.after(stage.apply(batch).texts).texts
        seconds = time.perf_counter() - started
        chosen = sample(texts)
        started = time.perf_counter()
        expected = [fix_text(texts[row]) for row in chosen]
        ftfy_seconds = time.perf_counter() - started
        different = sum(repaired[row].as_py() != text for row, text in zip(chosen, expected, strict=True))
        size, sampled = len(batch.utf8[0]), int(batch.text_bytes[chosen].sum())
        by_path = "  ".join(f"{name} {share:6.1%}" for name, share in shares(batch).items())
        print(
            f"{path.name:40} {size / 1e6:7.2f} MB  stage {size / seconds / 1e6:7.1f} MB/s"
            f"  ftfy {sampled / ftfy_seconds / 1e6:5.2f} MB/s  {by_path}  different {different} of {len(chosen)}",
            flush=True,
        )
        total_bytes, total_seconds, mismatches = total_bytes + size, total_seconds + seconds, mismatches + different
    print(f"all: {total_bytes / 1e6:.1f} MB, {total_seconds / total_bytes * 1e9:.1f} ns a byte, {mismatches} different")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
