"""Records that could not be read: how many are too many, and where they are kept."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import storage
from curation.engine.ipc_file import read_ipc
from curation.engine.part_writer import BAD_SCHEMA
from curation.engine.parts import Part

_NEVER_TOO_MANY = 10  # fewer bad records than this never fail a run
_NAMED = 3
_DOCUMENT_BYTES = 3000  # a guess, where no document could be read


class TooManyBadRecordsError(RuntimeError):
    """More bad records than `max_bad_fraction` allows."""


def check_bad_fraction(units: list[dict[str, Any]], maximum_fraction: float, output: str) -> None:
    """Raise TooManyBadRecordsError when too much of the input could not be read, or nothing of it.

    A bad record counts as one, however long. The unread rest of a file counts in full: as its rows where the format tells
    their number, else as the records that its bytes would have held, at the mean size of the good ones. What was cut off
    before the file came here counts only where a zstd frame says its length: nothing else tells how much it was.
    """
    parts = [part for unit in units for part in unit["parts"]]
    good, bad, raw_bytes, bad_record_bytes, unread_bytes, unread_records = (
        sum(part[name] for part in parts)
        for name in (
            "n_documents",
            "bad_records",
            "raw_bytes",
            "bad_record_bytes",
            "unread_bytes",
            "unread_records",
        )
    )
    mean_bytes = max(1.0, (raw_bytes - bad_record_bytes) / good) if good else _DOCUMENT_BYTES
    lost = bad + unread_records + unread_bytes / mean_bytes
    fraction = lost / (good + lost) if bad else 0.0
    if fraction <= maximum_fraction or (good and lost < _NEVER_TOO_MANY):
        return
    named = [line for part in parts for line in part["first_bad"]][:_NAMED]
    rests = " and the unread rest of files" if unread_bytes or unread_records else ""
    records = f"{bad:,} bad record{'s' if bad > 1 else ''}{rests}"
    share = f"about {fraction:.2%} of the input is lost" if good else "nothing of the input can be used"
    failing = sorted({stage for part in parts for stage in part["failed"]})
    mend = f"the code of {', '.join(failing)}, or the input," if failing else "the input"
    raise TooManyBadRecordsError(
        f"{share}, more than max_bad_fraction allows ({maximum_fraction:.2%}): {records}. "
        f"{'The first: ' if bad > len(named) else ''}{'; '.join(named)}. "
        f"{'All are' if bad > 1 else 'It is'} listed in {storage.join(output, 'quarantine')}. "
        f"Mend {mend} and start the same command again, or allow more with --set max_bad_fraction=SHARE"
    )


def write_quarantine(parts: list[Part], path: str) -> dict[str, str]:
    """Commit all bad records of `parts` as one Parquet file, {"path", "sha256"}.

    With none it is a file without rows, so that readers find the columns.
    """
    with storage.commit(path) as temporary:
        with pq.ParquetWriter(temporary, BAD_SCHEMA, compression="zstd") as writer:
            for part in parts:
                if "bad" in part.arrays().meta["beside"]:
                    reader = read_ipc(f"{part.path}.bad")
                    batches = map(reader.get_batch, range(reader.num_record_batches))
                    writer.write_table(pa.Table.from_batches(batches, BAD_SCHEMA))
        sha256 = storage.sha256(temporary)
    return {"path": path, "sha256": sha256}
