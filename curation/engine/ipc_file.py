"""Files of Arrow record batches in work/, compressed with LZ4."""

from __future__ import annotations

import pyarrow as pa

from curation import storage


def write_ipc(path: str, schema: pa.Schema, batches: list[pa.RecordBatch]) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with storage.commit(path) as temporary, pa.ipc.new_file(temporary, schema, options=options) as file:
        for batch in batches:
            file.write_batch(batch)


def read_ipc(path: str) -> pa.ipc.RecordBatchFileReader:
    """Open a file that `write_ipc` left."""
    return pa.ipc.open_file(pa.memory_map(path) if not storage.is_remote(path) else storage.open_read(path))
