"""JSON lines, plain or compressed: blocks of whole lines, scanned by a kernel, in memory that does not grow with files.

A position is the offset of a line in the decompressed stream, so it does not depend on how a file is cut or compressed.
Plain files are cut anywhere, and zstd files that end with a seek table at their frames; the other ones are one piece.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curation import storage
from curation.formats import members
from curation.formats.decompression import ByteSource, DamagedError, Decompressed, seekable_frames
from curation.formats.lines import Line, long_line_reason, read_line
from curation.formats.records import RAW_BYTES, BadRecord, Batch, Columns, Piece, bad_record
from curation.kernels.json_members import ScannedLines, scan_lines

CODECS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_SLACK_BYTES = 2**20


def line_limit(maximum_document_bytes: int) -> int:
    """Bytes of the longest line that is looked at.

    Escapes make a line longer than its text: six bytes for one at worst, two for one of Chinese as \\uXXXX. A limit
    that allows the worst would cost that much memory for lines that are no documents: twice the text and 1 MB it is.
    """
    return 2 * maximum_document_bytes + _LINE_SLACK_BYTES


def codec(path: str) -> str | None:
    """How a file is compressed, from its suffix."""
    return CODECS.get(os.path.splitext(path.lower())[1])


def pieces(info: storage.FileInfo, unit_bytes: int) -> list[Piece]:
    """Cut a file into pieces of about `unit_bytes` of raw text, where it can be cut."""
    if codec(info.path) is None:
        bounds = list(range(0, info.size, unit_bytes))
    elif codec(info.path) == "zstd" and info.size > unit_bytes // 64:
        bounds = _frame_bounds(seekable_frames(info.path, info.size), unit_bytes)
    else:
        bounds = [0]
    if len(bounds) <= 1:
        return [Piece(info.path, "jsonl", 0, -1)]
    return [Piece(info.path, "jsonl", start, end) for start, end in zip(bounds, [*bounds[1:], -1], strict=True)]


def _frame_bounds(frames: list[tuple[int, int]], unit_bytes: int) -> list[int]:
    """Piece starts, one byte after a frame's start: whether a line starts there is seen from the byte before."""
    bounds = [0]
    for _, decompressed in frames[1:-1]:
        if decompressed - bounds[-1] >= unit_bytes:
            bounds.append(decompressed + 1)
    return bounds


class _Raw:
    """A file from `position` on; the bytes in [hash_start, hash_end) (-1: all that follow) are hashed on their way."""

    def __init__(self, path: str, position: int, hash_start: int, hash_end: int, digest: xxhash.xxh3_128) -> None:
        self._path, self._file = path, storage.open_stream(path, position)
        self._position, self._range, self._digest = position, (hash_start, hash_end), digest

    def read(self, n_bytes: int, /) -> bytes:
        """Exactly `n_bytes`, fewer at the end."""
        parts = []
        try:
            while n_bytes and (part := self._file.read(n_bytes)):
                parts.append(part)
                n_bytes -= len(part)
        except OSError as error:
            if error.filename is not None:
                raise
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), self._path) from error
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        start, end = self._range
        first = max(0, start - self._position)
        last = len(data) if end < 0 else max(first, min(len(data), end - self._position))
        self._digest.update(memoryview(data)[first:last])
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass
class _Block:
    """Whole lines, from `position` on, and records that were bad before they could be looked at."""

    position: int
    data: bytes
    bad: list[BadRecord] = field(default_factory=list)
    damage: DamagedError | None = None  # what ended the stream in the midst of the last line


class _Blocks:
    """Cuts a stream into blocks of whole lines that start in [start, end); the stream begins at max(0, start - 1)."""

    def __init__(self, source: ByteSource, start: int, end: int, block_bytes: int, maximum_line_bytes: int) -> None:
        self._source, self._end, self._block_bytes, self._maximum = source, end, block_bytes, maximum_line_bytes
        self._position = max(0, start - 1)  # of the first byte that is not yet in a block
        self._pending: list[bytes] = []  # the beginning of a line
        self._pending_bytes = 0
        self._dropping = start > 0  # the line is passed over: it belongs to the piece before, or is too long
        self._head: bytes | None = None  # the beginning of the line that is passed over, when it is ours
        self._bad: list[BadRecord] = []

    def __iter__(self) -> Iterator[_Block]:
        while not self._is_past_end():
            try:
                chunk = self._source.read(self._block_bytes)
            except DamagedError as damage:
                yield self._last(damage)
                return
            if not chunk:
                yield self._last(None)
                return
            block = self._add(chunk)
            if block is not None:
                yield block
        if self._bad:
            yield _Block(self._position, b"", self._bad)

    def _is_past_end(self) -> bool:
        """Whether every line that starts in the piece has been given (or passed over)."""
        reached = self._position + (self._pending_bytes if self._dropping and self._head is None else 0)
        return self._end >= 0 and reached >= self._end

    def _add(self, chunk: bytes) -> _Block | None:
        if self._dropping:
            chunk = self._drop(chunk)
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            self._hold(chunk)
            return None
        block = _Block(self._position, b"".join([*self._pending, memoryview(chunk)[:cut]]), self._bad)
        self._pending, self._pending_bytes, self._bad = [], 0, []
        self._position += len(block.data)
        if self._end >= 0 and self._position >= self._end:
            block.data = block.data[: block.data.find(b"\n", max(0, self._end - 1 - block.position)) + 1]
        else:
            self._hold(chunk[cut:])
        return block

    def _hold(self, part: bytes) -> None:
        """Keep the beginning of a line, unless the line turns out too long."""
        self._pending_bytes += len(part)
        if self._dropping:
            return
        self._pending.append(part)
        if self._pending_bytes > self._maximum:
            self._head = b"".join(self._pending)[:RAW_BYTES]
            self._pending, self._dropping = [], True

    def _drop(self, chunk: bytes) -> bytes:
        """Pass over the rest of a line; what of the chunk follows it."""
        cut = chunk.find(b"\n") + 1
        if not cut:
            return chunk
        self._report(self._pending_bytes + cut - 1)
        self._position += self._pending_bytes + cut
        self._pending_bytes, self._dropping = 0, False
        return chunk[cut:] if not self._is_past_end() else b""

    def _report(self, line_bytes: int) -> None:
        if self._head is not None:
            self._bad.append(BadRecord(self._position, long_line_reason(self._maximum), self._head, line_bytes))
            self._head = None

    def _last(self, damage: DamagedError | None) -> _Block:
        """The last line, which has no newline."""
        if self._dropping:
            self._report(self._pending_bytes)
            self._position += self._pending_bytes
        return _Block(self._position, b"".join(self._pending), self._bad, damage)


class JsonlReader:
    """The batches of a piece; `digest` is known once they have all been read."""

    def __init__(
        self,
        piece: Piece,
        columns: Columns,
        *,
        maximum_document_bytes: int,
        batch_bytes: int,
        wanted: np.ndarray | None = None,
        with_details: bool = False,
    ) -> None:
        self.digest = ""
        self._piece, self._columns, self._with_details = piece, columns, with_details
        self._maximum_text_bytes, self._batch_bytes, self._wanted = maximum_document_bytes, batch_bytes, wanted
        self._maximum_line_bytes = line_limit(maximum_document_bytes)
        names = [columns.text, columns.id or "", *members.roots(columns, with_details)]
        self._names = list(dict.fromkeys(names))

    def __iter__(self) -> Iterator[Batch]:
        if self._wanted is not None:
            for start, end in self._wanted_ranges(self._wanted):
                yield from self._range(start, end, xxhash.xxh3_128())
            return
        digest = xxhash.xxh3_128()
        yield from self._range(self._piece.start, self._piece.end, digest)
        self.digest = digest.hexdigest()

    def _wanted_ranges(self, wanted: np.ndarray) -> list[tuple[int, int]]:
        """What to read for the wanted positions: far apart in a plain file they are read one by one."""
        if not len(wanted):
            return []
        if codec(self._piece.path) is not None:
            return [(self._piece.start, int(wanted[-1]) + 1)]
        gaps = np.flatnonzero(np.diff(wanted.astype(np.int64)) > 2 * self._batch_bytes) + 1
        runs = np.split(wanted.astype(np.int64), gaps)
        return [(int(run[0]), int(run[-1]) + 1) for run in runs]

    def _range(self, start: int, end: int, digest: xxhash.xxh3_128) -> Iterator[Batch]:
        raw, source = self._open(start, end, digest)
        try:
            for block in _Blocks(source, start, end, self._batch_bytes, self._maximum_line_bytes):
                batch = self._batch(block)
                if len(batch.positions) or batch.bad or batch.bytes_read:
                    yield batch
        finally:
            raw.close()

    def _open(self, start: int, end: int, digest: xxhash.xxh3_128) -> tuple[_Raw, ByteSource]:
        path, how = self._piece.path, codec(self._piece.path)
        if how is None:
            raw = _Raw(path, max(0, start - 1), start, end, digest)
            return raw, raw
        size = storage.file_size(path)
        first, last = 0, -1
        if self._piece.start > 0 or self._piece.end >= 0:
            compressed = {decompressed: offset for offset, decompressed in seekable_frames(path, size)}
            try:
                first = compressed[max(0, self._piece.start - 1)]
                last = -1 if self._piece.end < 0 else compressed[self._piece.end - 1]
            except KeyError:
                raise OSError(f"{path} changed while it was being processed; run the command again") from None
        raw = _Raw(path, first, first, last, digest)
        return raw, Decompressed(raw, how, size - first)

    def _batch(self, block: _Block) -> Batch:
        data, starts = block.data, None
        if block.position == 0 and data.startswith(_BYTE_ORDER_MARK):
            data = b"   " + data[3:]
        if self._wanted is not None:
            starts = _line_starts(data, block.position, self._wanted)
        lines = scan_lines(
            data,
            [name.encode() for name in self._names],
            maximum_line_bytes=self._maximum_line_bytes,
            maximum_text_bytes=self._maximum_text_bytes,
            starts=starts,
            with_rest=self._with_details,
        )
        return _Assembly(self, block, data, lines).batch()

    def slow_line(self, line: bytes) -> Line | str:
        """The line as the slow reader sees it, or its reason."""
        return read_line(line, self._columns.text, self._columns.id, self._maximum_line_bytes, self._maximum_text_bytes)

    @property
    def columns(self) -> Columns:
        """Which members mean what."""
        return self._columns

    @property
    def names(self) -> list[str]:
        """The members that are looked for; the text's first."""
        return self._names

    @property
    def with_details(self) -> bool:
        """Whether batches have details."""
        return self._with_details


def _line_starts(data: bytes, position: int, wanted: np.ndarray) -> np.ndarray:
    """Offsets in the block of the wanted lines, int64; a wanted position where no line starts is left out."""
    first, last = np.searchsorted(wanted, np.array([position, position + len(data)], np.uint64)).tolist()
    starts = (wanted[first:last] - np.uint64(position)).astype(np.int64)
    before = np.frombuffer(data, np.uint8)[starts - 1] if len(starts) else np.zeros(0, np.uint8)
    return starts[(starts == 0) | (before == 0x0A)]


class _Assembly:
    """A batch from a scanned block."""

    def __init__(self, reader: JsonlReader, block: _Block, data: bytes, lines: ScannedLines) -> None:
        self.reader, self.block, self.data, self.lines = reader, block, data, lines
        self.bad = list(block.bad)
        self.slow: dict[int, Line] = {}
        self._values: dict[str, list[object]] = {}

    def batch(self) -> Batch:
        """The good lines as arrays, the bad ones with reasons."""
        columns = self.reader.columns
        self._look_again()
        kept = self.lines.is_good.copy()
        kept[list(self.slow)] = True
        self.rows = np.flatnonzero(kept)
        ids = self._ids(columns.id) if columns.id else None
        texts = self._array(
            self.lines.text, self.lines.text_offsets, {row: line.text for row, line in self.slow.items()}
        )
        details = None
        if self.reader.with_details:
            rest = {row: line.rest for row, line in self.slow.items()}
            meta = self._array(self.lines.rest, self.lines.rest_offsets, rest).cast(pa.string())
            details = members.details(columns, self._parsed, meta)
        by = members.strings(self._parsed, columns.by) if columns.by else None
        positions = (self.lines.bounds[self.rows, 0] + self.block.position).astype(np.uint64)
        self.bad.sort(key=lambda record: record.position)
        bytes_read = len(self.data) + sum(record.lost_bytes for record in self.block.bad)
        return Batch(positions, texts, ids, by, details, self.bad, bytes_read)

    def _look_again(self) -> None:
        """Read the refused lines slowly."""
        torn = self.block.damage
        for row in np.flatnonzero(~self.lines.is_good).tolist():
            start, end = self.lines.bounds[row].tolist()
            line = self.data[start:end]
            result = self.reader.slow_line(line)
            if isinstance(result, Line):
                self.slow[row] = result
            elif torn is None or end < len(self.data):
                self.bad.append(bad_record(self.block.position + start, result, line))
        if torn is not None:
            whole = not len(self.lines.is_good) or self.lines.is_good[-1] or len(self.lines.is_good) - 1 in self.slow
            position = self.block.position + (len(self.data) if whole else 0)
            raw = b"" if whole else self.data[:RAW_BYTES]
            self.bad.append(BadRecord(position, torn.reason, raw, torn.unread_bytes, is_rest=True))

    def _array(self, data: np.ndarray, offsets: np.ndarray, slow: dict[int, str]) -> pa.LargeStringArray:
        """The strings of the kept rows; the scan left those of refused lines empty."""
        n = len(offsets) - 1
        strings = pa.LargeStringArray.from_buffers(n, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(data))
        if slow:
            mask = np.zeros(n, bool)
            mask[list(slow)] = True
            strings = pc.replace_with_mask(strings, pa.array(mask), pa.array(list(slow.values()), pa.large_string()))
        return strings if len(self.rows) == n else strings.take(pa.array(self.rows))

    def _raw(self, row: int, name: str) -> bytes | None:
        """The JSON text of a member, None where it is missing."""
        if row in self.slow:
            return self.slow[row].members.get(name)
        start, end = self.lines.spans[row, self.reader.names.index(name)].tolist()
        return self.data[start:end] if start >= 0 else None

    def _parsed(self, name: str) -> list[object]:
        """The values of a member, for the kept rows."""
        if name not in self._values:
            index = self.reader.names.index(name)
            spans = self.lines.spans[self.rows, index]
            if self.slow:
                raws = [self._raw(row, name) for row in self.rows.tolist()]
            elif len(spans) and spans[:, 0].max() < 0:
                raws = [None] * len(spans)
            else:
                raws = [self.data[start:end] if start >= 0 else None for start, end in spans.tolist()]
            self._values[name] = members.parsed_all(raws)
        return self._values[name]

    def _ids(self, name: str) -> pa.Array:
        """The ids of the kept rows; rows without one go to the bad records."""
        ids, rows = [], []
        for row in self.rows.tolist():
            raw = self._raw(row, name)
            value = _id(raw)
            if value is None:
                start, end = self.lines.bounds[row].tolist()
                reason = f"no member {name!r}, which is to hold the id" if raw is None else _id_reason(name)
                self.bad.append(bad_record(self.block.position + start, reason, self.data[start:end]))
            else:
                ids.append(value)
                rows.append(row)
        if len(rows) < len(self.rows):
            self.rows = np.array(rows, np.int64)
        return pa.array(ids, pa.string())


def _id_reason(name: str) -> str:
    return f"the id {name!r} is neither a string nor an integer"


def _id(raw: bytes | None) -> str | None:
    """A string's value, an integer's JSON text."""
    if not raw:
        return None
    if raw[:1] == b'"':
        value = members.parsed(raw)
        return value if members.is_unicode(value) else None
    return raw.decode() if raw.lstrip(b"-").isdigit() else None
