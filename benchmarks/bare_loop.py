"""What the hot part of the job costs by itself: decompress, parse, clean and sign a corpus on one core.

python benchmarks/bare_loop.py CORPUS prints {"seconds", "raw_bytes", "documents"} as JSON; kernels are compiled before.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from measure import corpus_files

from curation.kernels.minhash import Permutations, band_hashes, permutations, sign
from curation.kernels.text import clean

_CHUNK_BYTES = 4_000_000
# SlimPajama's: 13-grams of characters, 128 permutations of which 9 bands of 13 rows are used.
_NGRAM, _PERMUTATIONS, _BANDS, _ROWS = 13, 128, 9, 13


def main() -> None:
    """The command."""
    drawn = permutations(_PERMUTATIONS, 1, "affine32", used=_BANDS * _ROWS)
    _sign([b"compile the kernels before the clock starts", "übersetzen".encode()], drawn)
    started = time.perf_counter()
    raw_bytes = documents = 0
    for path in corpus_files(Path(sys.argv[1])):
        with pa.input_stream(str(path), compression="zstd") as stream:
            rest = b""
            while chunk := stream.read(_CHUNK_BYTES):
                raw_bytes += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                documents += _sign([orjson.loads(line)["text"].encode() for line in lines], drawn)
            documents += _sign([orjson.loads(rest)["text"].encode()] if rest else [], drawn)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": round(seconds, 3), "raw_bytes": raw_bytes, "documents": documents}))


def _sign(texts: list[bytes], drawn: Permutations) -> int:
    if texts:
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        data, offsets, _ = clean(np.frombuffer(b"".join(texts), np.uint8), offsets)
        signatures, _ = sign(data, offsets, unit="character", ngram=_NGRAM, permutations=drawn)
        band_hashes(signatures, _BANDS, _ROWS)
    return len(texts)


if __name__ == "__main__":
    main()
