"""Records that could not be read: how many are too many, and where they are kept."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import storage
from curation.engine.first_pass import BAD_SCHEMA, read_ipc
from curation.engine.parts import Part

_NEVER_TOO_MANY = 10  # fewer bad records than this never fail a run
_NAMED = 3


class TooManyBadRecordsError(RuntimeError):
    """More bad records than `max_bad_fraction` allows."""


def check_bad_fraction(units: list[dict[str, Any]], maximum_fraction: float, output: str) -> None:
    """Raise TooManyBadRecordsError when too much of the input could not be read.

    What is lost of a truncated file counts as the records that its bytes would have held, at the mean size of those read.
    """
    parts = [part for unit in units for part in unit["parts"]]
    good = sum(part["n_documents"] for part in parts)
    bad = sum(part["bad_records"] for part in parts)
    lost = sum(part["lost_bytes"] for part in parts)
    read_bytes = sum(part["raw_bytes"] for part in parts)
    mean = read_bytes / (good + bad) if read_bytes and good + bad else float("inf")
    lost_records = bad + lost / mean
    fraction = lost_records / (good + lost_records) if good + lost_records else 0.0
    if not bad or lost_records < _NEVER_TOO_MANY or fraction <= maximum_fraction:
        return
    first = [line for part in parts for line in part["first_bad"]][:_NAMED]
    raise TooManyBadRecordsError(
        f"{bad:,} bad records, about {fraction:.2%} of the input with what could not be read, "
        f"are more than max_bad_fraction {maximum_fraction:.2%}. The first: {'; '.join(first)}. "
        f"All are in {storage.join(output, 'quarantine')}; mend the input, or allow more with --set max_bad_fraction=SHARE"
    )


def write_quarantine(parts: list[Part], path: str) -> None:
    """Commit all bad records of `parts` as one Parquet file; with none, a file without rows, so that readers find the columns."""
    with storage.commit(path) as temporary, pq.ParquetWriter(temporary, BAD_SCHEMA, compression="zstd") as writer:
        for part in parts:
            if "bad" in part.arrays().meta["beside"]:
                reader = read_ipc(f"{part.path}.bad")
                writer.write_table(pa.Table.from_batches(map(reader.get_batch, range(reader.num_record_batches)), BAD_SCHEMA))
