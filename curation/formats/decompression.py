"""Decompressed streams that end well or say how they do not: gzip members and zstd frames, in bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import zstandard

from curation import storage

_RAW_BYTES = 2**20  # of one read of the compressed file
# Compressed bytes given to the decoder at once, least and most. zstd can turn 4 bytes into 128 KB, so the most bounds
# what comes out (64 MB), and after data that expands much the next feed is small.
_FEED_BYTES = (64, 2048)
_OUTPUT_BYTES = 2**20  # what a feed should give at most
_MAXIMUM_WINDOW_BYTES = 2**31  # what `zstd --long=31` needs
_MAXIMUM_HEADER_BYTES = 18  # of a zstd frame
_USUAL_RATIO = 4  # of text, where nothing was decoded that could tell
_SEEK_TABLE_MAGIC = b"\xb1\xea\x92\x8f"
_SKIPPABLE_MAGIC = b"\x5e\x2a\x4d\x18"


class ByteSource(Protocol):
    """What can be read in order: `read(n)` gives at least one byte unless the end is reached."""

    def read(self, n_bytes: int, /) -> bytes:
        """Up to `n_bytes`."""


class DamagedError(Exception):
    """Compressed data that is cut short or not what it should be, after all that could be decoded was read."""

    def __init__(self, reason: str, unread_bytes: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unread_bytes = unread_bytes  # of the compressed file


@dataclass
class _Frame:
    """A gzip member or zstd frame that is being decoded: its offset, its length decompressed, what it gave so far."""

    start: int
    promised: int | None
    given: int = 0

    def unread_bytes(self, size: int, useful: int) -> int:
        """Compressed bytes that a truncated file lost: those there that gave nothing, or more if the frame owes more."""
        owed = max(0, (self.promised or 0) - self.given)
        compressed = owed * (useful - self.start) // self.given if self.given else owed // _USUAL_RATIO
        return max(1, size - useful, compressed)


class Decompressed:
    """The decompressed bytes of `source`, whose file has `size` bytes from here on; `codec` is "gzip" or "zstd"."""

    def __init__(self, source: ByteSource, codec: str, size: int) -> None:
        self._source, self._codec, self._size = source, codec, size
        self._pieces = self._decode()
        self._waiting = b""
        self._damage: DamagedError | None = None

    def read(self, n_bytes: int, /) -> bytes:
        """Exactly `n_bytes` unless the end comes first. Raises DamagedError once all before the damage was given."""
        if self._damage is not None and not self._waiting:
            raise self._damage
        pieces, total = [self._waiting], len(self._waiting)
        try:
            while total < n_bytes and (piece := next(self._pieces, b"")):
                pieces.append(piece)
                total += len(piece)
        except DamagedError as damage:
            if not total:
                raise
            self._damage = damage
        last = pieces.pop()
        cut = len(last) - max(0, total - n_bytes)
        self._waiting = last[cut:]
        return b"".join([*pieces, last[:cut]])

    def _decode(self) -> Iterator[bytes]:
        decoder: Any = None
        frame = _Frame(0, None)
        consumed, feed_bytes, useful = 0, _FEED_BYTES[0], 0  # `useful`: offset behind the last feed that gave something
        while raw := self._source.read(_RAW_BYTES):
            view, start = memoryview(raw), 0
            while start < len(raw):
                if decoder is None:
                    start += self._padding(view[start:])
                    if start == len(raw):
                        break
                    decoder = self._decoder()
                    frame = _Frame(consumed + start, self._promised(view[start:]))
                feed = view[start : start + feed_bytes]
                n_output = 0
                try:
                    for output in self._outputs(decoder, feed):
                        n_output += len(output)
                        yield output
                except (zlib.error, zstandard.ZstdError) as error:
                    unread = max(1, self._size - max(useful, frame.start))
                    reason = f"damaged {self._codec} data: {error}" if useful else f"not {self._codec} data, though named so"
                    raise DamagedError(reason, unread) from error
                frame.given += n_output
                start += len(feed)
                if decoder.eof:
                    start -= len(decoder.unused_data)
                    decoder = None
                useful = consumed + start if n_output else useful
                smallest, largest = _FEED_BYTES
                feed_bytes = min(largest, max(smallest, len(feed) * _OUTPUT_BYTES // max(1, n_output)))
            consumed += len(raw)
        if decoder is not None:
            raise DamagedError(f"truncated {self._codec} data", frame.unread_bytes(self._size, max(useful, frame.start)))

    def _promised(self, beginning: memoryview) -> int | None:
        """What a zstd frame says of its decompressed length; None where it does not."""
        if self._codec != "zstd":
            return None
        try:
            promised: int = zstandard.get_frame_parameters(beginning[:_MAXIMUM_HEADER_BYTES]).content_size
        except zstandard.ZstdError:
            return None
        return None if promised == zstandard.CONTENTSIZE_UNKNOWN else promised

    def _decoder(self) -> Any:
        if self._codec == "gzip":
            return zlib.decompressobj(31)
        return zstandard.ZstdDecompressor(max_window_size=_MAXIMUM_WINDOW_BYTES).decompressobj()

    def _padding(self, view: memoryview) -> int:
        """gzip files may be padded with zeros after a member, as on tapes: how many follow."""
        if self._codec != "gzip" or view[0]:
            return 0
        return len(view) - len(bytes(view).lstrip(b"\0"))

    def _outputs(self, decoder: Any, feed: Any) -> Iterator[bytes]:
        if self._codec == "zstd":
            if output := decoder.decompress(feed):
                yield output
            return
        while len(feed):
            if output := decoder.decompress(feed, _RAW_BYTES):
                yield output
            feed = decoder.unconsumed_tail


def seekable_frames(path: str, size: int) -> list[tuple[int, int]]:
    """(compressed, decompressed) offsets of the frames of a zstd file, and of the end; [] when it has no seek table.

    The table is the last frame of the file (zstd's contrib/seekable_format): 8 bytes of skippable frame header, then
    for each frame its compressed and decompressed bytes (and a checksum), then 9 bytes: their number, a descriptor and
    a magic.
    """
    if size < 17:
        return []
    tail = storage.read_range(path, size - 9, 9)
    if tail[5:] != _SEEK_TABLE_MAGIC:
        return []
    n_frames, entry_bytes = int.from_bytes(tail[:4], "little"), 12 if tail[4] & 0x80 else 8
    table_bytes = 8 + n_frames * entry_bytes + 9
    if table_bytes > size:
        return []
    table = storage.read_range(path, size - table_bytes, table_bytes)
    if table[:4] != _SKIPPABLE_MAGIC or int.from_bytes(table[4:8], "little") != table_bytes - 8:
        return []
    offsets = [(0, 0)]
    for entry in range(8, table_bytes - 9, entry_bytes):
        compressed, decompressed = (int.from_bytes(table[entry + k : entry + k + 4], "little") for k in (0, 4))
        offsets.append((offsets[-1][0] + compressed, offsets[-1][1] + decompressed))
    return offsets if offsets[-1][0] + table_bytes == size else []
