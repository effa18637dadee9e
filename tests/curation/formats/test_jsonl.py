"""JSON lines: what is a record, what is bad and why, where a line belongs, and what damage costs."""

import gzip
import io
import json
import random
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import formats, storage
from curation.formats import jsonl
from curation.formats.records import Columns, Piece

MAXIMUM = 2**20


def read(path, columns=None, start=0, end=-1, **options):
    """The batches' contents, joined: (positions, texts, bad, reader, batches)."""
    options.setdefault("maximum_document_bytes", MAXIMUM)
    reader = formats.read(Piece(str(path), "jsonl", start, end), columns or Columns(), **options)
    batches = list(reader)
    positions = [int(p) for batch in batches for p in batch.positions]
    texts = [text for batch in batches for text in batch.texts.to_pylist()]
    return positions, texts, [record for batch in batches for record in batch.bad], reader, batches


def details(batches):
    return [row for batch in batches for row in batch.details.to_pylist()]


def write(tmp_path, data, name="a.jsonl"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def lines(n, seed=0):
    rng = random.Random(seed)
    words = ["plain", "Ärger", "слово", "文字", 'quote"', "back\\slash", "tab\t", "\U0001f600", "\x00"]
    texts = [" ".join(rng.choices(words, k=rng.randrange(60))) for _ in range(n)]
    return texts, [json.dumps({"text": t, "n": i}, ensure_ascii=bool(i % 2)).encode() for i, t in enumerate(texts)]


def test_positions_are_offsets_of_lines_and_texts_are_decoded(tmp_path):
    texts, encoded = lines(200)
    path = write(tmp_path, b"\n".join(encoded) + b"\n")
    positions, found, bad, reader, batches = read(path)
    assert found == texts
    assert not bad
    assert positions == np.cumsum([0, *(len(line) + 1 for line in encoded[:-1])]).tolist()
    assert sum(batch.bytes_read for batch in batches) == path.stat().st_size
    assert reader.digest == xxhash.xxh3_128_hexdigest(path.read_bytes())


@pytest.mark.parametrize("batch_bytes", [1, 7, 100, 10**6])
def test_the_size_of_batches_changes_no_record(tmp_path, batch_bytes):
    texts, encoded = lines(50)
    path = write(tmp_path, b"\r\n".join(encoded))
    expected = read(path)[:2]
    assert expected[1] == texts
    assert read(path, batch_bytes=batch_bytes)[:2] == expected


def test_a_last_line_without_a_newline_is_a_record_and_blank_lines_are_none(tmp_path):
    positions, texts, bad, _, _ = read(write(tmp_path, b'\n \t\r\n{"text": "a"}\r\n\n{"text": "b"}'))
    assert (positions, texts, bad) == ([5, 21], ["a", "b"], [])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.ndjson", "a.json"])
def test_an_empty_file_has_no_records_and_is_no_error(tmp_path, name):
    assert read(write(tmp_path, b"", name))[:3] == ([], [], [])


def test_a_byte_order_mark_at_the_start_is_passed_over(tmp_path):
    positions, texts, bad, _, _ = read(write(tmp_path, b'\xef\xbb\xbf{"text": "a"}\n{"text": "b"}\n'))
    assert (positions, texts, bad) == ([0, 17], ["a", "b"], [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1]", "an array, not an object"),
        (b'"text"', "a string, not an object"),
        (b" -1.5", "a number, not an object"),
        (b"null", "null, not an object"),
        (b"{}", "no member 'text'"),
        (b'{"txt": "a"}', "no member 'text'"),
        (b'{"text": null}', "'text' is null, not a string"),
        (b'{"text": 7}', "'text' is a number, not a string"),
        (b'{"text": ["a"]}', "'text' is an array, not a string"),
        (b'{"text": "a"', "not valid JSON"),
        (b'{"text": "a",}', "not valid JSON"),
        (b'{"text": "a"} x', "not valid JSON"),
        (b'{"text": "a", "n": 01}', "not valid JSON"),
        (b'{"text": "\\x"}', "not valid JSON"),
        (b'{"text": "a\x01"}', "not valid JSON"),
        (b'{"text": "a\xff"}', "invalid UTF-8 at byte 11"),
        (b'{"text": "a", "m": "\xed\xa0\x80"}', "invalid UTF-8 at byte 20"),
        (b'{"text": "a\x00"}', "a NUL byte at byte 11"),
        (b'{"text": "\\ud800 a"}', "lone surrogate \\ud800"),
        (b'{"text": "a\\udc00"}', "lone surrogate \\udc00"),
        (b'{"text": "a", "m": ' + b"[" * 600 + b"]" * 600 + b"}", "nested more than 512 deep"),
        (b'{"text": "a", "m": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than 512 deep"),
        (b'\xef\xbb\xbf{"text": "a"}', "not valid JSON"),
    ],
)
def test_each_kind_of_bad_line_is_quarantined_with_its_own_reason(tmp_path, line, reason):
    before = b'{"text": "before"}\n'
    positions, texts, bad, _, _ = read(write(tmp_path, before + line + b'\n{"text": "after"}\n'))
    assert texts == ["before", "after"]
    assert positions == [0, len(before) + len(line) + 1]
    assert [(record.position, record.raw, record.lost_bytes) for record in bad] == [
        (len(before), line[:65536], len(line))
    ]
    assert reason in bad[0].reason


@pytest.mark.parametrize(
    "member",
    [
        '"m": "\\ud800"',
        '"m": NaN',
        '"m": -Infinity',
        '"m": 1E400',
        '"m": 123456789012345678901234567890',
        '"m": ' + "7" * 5000,
        '"m": ' + "[" * 500 + "]" * 500,
        '"m\\u0041": 1',
        '"m": {"text": "inner"}',
        '"": 1',
    ],
)
def test_what_strict_parsers_refuse_outside_the_text_is_kept_as_it_is_written(tmp_path, member):
    line = f'{{{member}, "text": "a\\u0000b"}}\n'.encode()
    _, texts, bad, _, batches = read(write(tmp_path, line), with_details=True)
    assert (texts, bad) == (["a\0b"], [])
    assert details(batches)[0]["meta"] == "{" + member.replace(": ", ":", 1) + "}"


def test_the_last_of_equal_members_counts_and_the_text_is_never_in_meta(tmp_path):
    data = b'{"text": 1, "a": 1, "text": "x", "a": 2}\n{"te\\u0078t": "y", "b": [1, 2]}\n'
    data += b'{"text": "z", "te\\u0078t": null}\n'
    _, texts, bad, _, batches = read(write(tmp_path, data), with_details=True)
    assert texts == ["x", "y"]
    assert [row["meta"] for row in details(batches)] == ['{"a":1,"a":2}', '{"b":[1, 2]}']
    assert "null" in bad[0].reason


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(st.text(max_size=5), values, max_size=4).flatmap(
    lambda members: st.text().map(lambda text: {**members, "text": text})
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(records, st.booleans(), st.sampled_from([None, (", ", ": "), (" ,\t", " :  ")])), max_size=5))
def test_every_line_that_json_writes_is_read_back(tmp_path_factory, given_lines):
    encoded = [json.dumps(record, ensure_ascii=ascii_only, separators=how) for record, ascii_only, how in given_lines]
    path = write(tmp_path_factory.mktemp("lines"), "\n".join(encoded).encode("utf-8", "surrogatepass"))
    _, texts, bad, _, batches = read(path, with_details=True)
    assert not bad
    assert texts == [record["text"] for record, _, _ in given_lines]
    for row, (record, _, _) in zip(details(batches), given_lines, strict=True):
        rest = {name: value for name, value in record.items() if name != "text"}
        assert repr(json.loads(row["meta"])) == repr(rest)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), st.integers(0, 40), st.integers(0, 3))
def test_a_damaged_line_is_read_exactly_when_json_reads_it(tmp_path_factory, noise, at, drop):
    line = b'{"m": [1.5e3, {"a": "\\u00e9"}], "text": "t\xc3\xa9\\n"}'
    line = line[:at] + noise[: at % 4] + line[at + drop :]
    _, texts, bad, _, _ = read(write(tmp_path_factory.mktemp("noise"), line))
    if not line.strip(b" \t\r"):
        assert not texts and not bad
        return
    try:
        record = json.loads(line.decode())
        text = record["text"] if isinstance(record, dict) else None
        expected = [text] if isinstance(text, str) and text.encode() is not None else []
    except (ValueError, KeyError):
        expected = []
    assert texts == expected
    assert len(bad) == 1 - len(expected)


def test_a_text_past_the_limit_is_quarantined_and_one_at_the_limit_is_kept(tmp_path):
    data = b"".join(json.dumps({"text": "é" * n}, ensure_ascii=False).encode() + b"\n" for n in (512, 513))
    _, texts, bad, _, _ = read(write(tmp_path, data), maximum_document_bytes=1024)
    assert texts == ["é" * 512]
    assert "a text of 1026 bytes is longer than max_document_bytes (1024)" in bad[0].reason


@pytest.mark.parametrize("batch_bytes", [4096, 2**16, 2**26])
def test_a_line_past_the_limit_is_quarantined_wherever_blocks_end(tmp_path, batch_bytes):
    limit = jsonl.line_limit(1024)
    long = [b'{"text": "a", "m": "' + b"x" * (limit + extra - 22) + b'"}' for extra in (0, 1, 200_000)]
    assert [len(line) - limit for line in long] == [0, 1, 200_000]
    data = b'{"text": "b"}\n' + b"\n".join(long) + b'\n{"text": "c"}\n'
    path = write(tmp_path, data)
    positions, texts, bad, _, batches = read(path, maximum_document_bytes=1024, batch_bytes=batch_bytes)
    assert texts == ["b", "a", "c"]
    assert positions[2] == len(data) - 14
    starts = [14 + limit + 1, 14 + 2 * limit + 3]
    assert [(r.position, r.lost_bytes, len(r.raw)) for r in bad] == [
        (s, len(b), 65536) for s, b in zip(starts, long[1:], strict=True)
    ]
    assert all(f"more than {limit} bytes" in record.reason for record in bad)
    if batch_bytes == 2**26:
        assert sum(batch.bytes_read for batch in batches) == len(data)


def test_an_endless_line_is_not_held_in_memory(tmp_path):
    path = tmp_path / "long.jsonl.zst"
    with open(path, "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
        out.write(b'{"text": "first"}\n{"text": "')
        for _ in range(200):
            out.write(b"x" * 2**20)
        out.write(b'"}\n{"text": "last"}\n')
    program = f"""
import resource
from curation import formats
from curation.formats.records import Columns, Piece
def run(path):
    return [b for b in formats.read(Piece(path, "jsonl"), Columns(), maximum_document_bytes=2**22)]
from pathlib import Path
small = {str(tmp_path / "small.jsonl")!r}
Path(small).write_text('{{"text": "a"}}\\n')
run(small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
batches = run({str(path)!r})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
print([t for b in batches for t in b.texts.to_pylist()], [r.lost_bytes for b in batches for r in b.bad])
"""
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert output[1] == f"['first', 'last'] [{200 * 2**20 + 12}]"
    assert int(output[0]) < 80


SPLIT_SAMPLE = (
    b'{"text": "one"}\r\n'
    b"\r\n"
    b"\n"
    b'{"text": "\xd1\x81\xd0\xbb\xd0\xbe\xd0\xb2\xd0\xbe"}\n'
    b"not json\n"
    b'{"text": "\xf0\x9f\x98\x80", "m": "\xe6\x96\x87"}\r\n'
    b"{}\n"
    b'{"text": "last"}'
)


@pytest.mark.parametrize("batch_bytes", [3, 2**20])
def test_a_split_at_any_byte_gives_the_same_records(tmp_path, batch_bytes):
    path = write(tmp_path, SPLIT_SAMPLE)
    expected = read(path)
    assert len(expected[1]) == 4 and len(expected[2]) == 2
    for cut in range(1, len(SPLIT_SAMPLE)):
        first = read(path, end=cut, batch_bytes=batch_bytes)
        second = read(path, start=cut, batch_bytes=batch_bytes)
        assert [a + b for a, b in zip(first[:3], second[:3], strict=True)] == list(expected[:3])
        assert first[3].digest == xxhash.xxh3_128_hexdigest(SPLIT_SAMPLE[:cut])
        assert second[3].digest == xxhash.xxh3_128_hexdigest(SPLIT_SAMPLE[cut:])
        assert sum(b.bytes_read for b in first[4] + second[4]) == len(SPLIT_SAMPLE)


def test_a_piece_inside_an_endless_line_has_no_records_and_reports_nothing(tmp_path):
    data = b'{"text": "' + b"x" * 5_000_000 + b'"}\n{"text": "b"}\n'
    path = write(tmp_path, data)
    cuts = [0, 1000, 2_000_000, 4_000_000, -1]
    found = [read(path, start=a, end=b, maximum_document_bytes=1024, batch_bytes=4096) for a, b in pairwise(cuts)]
    assert [f[1] for f in found] == [[], [], [], ["b"]]
    assert [[r.lost_bytes for r in f[2]] for f in found] == [[5_000_012], [], [], []]


def test_plain_files_are_cut_and_compressed_ones_are_not(tmp_path):
    texts, encoded = lines(300)
    data = b"\n".join(encoded)
    path = write(tmp_path, data)
    cut = formats.pieces(storage.list_files(str(path))[0], "jsonl", 5000)
    assert len(cut) == -(-len(data) // 5000)
    assert [(a.end, b.start) for a, b in pairwise(cut)] == [(k, k) for k in range(5000, len(data), 5000)]
    found = [text for piece in cut for text in read(path, start=piece.start, end=piece.end)[1]]
    assert found == texts
    packed = write(tmp_path, gzip.compress(data), "a.jsonl.gz")
    assert formats.pieces(storage.list_files(str(packed))[0], "jsonl", 100) == [Piece(str(packed), "jsonl", 0, -1)]


def compress(how, data):
    if how == "gz":
        return gzip.compress(data)
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_members_and_frames_are_read_across(tmp_path, how):
    texts, encoded = lines(400)
    data = b"\n".join(encoded)
    third = len(data) // 3
    parts = [data[:third], b"", data[third : 2 * third], data[2 * third :]]
    packed = b"".join(compress(how, part) for part in parts)
    path = write(tmp_path, packed, f"a.jsonl.{how}")
    plain = write(tmp_path, data)
    found, expected = read(path), read(plain)
    assert found[1] == texts
    assert found[:3] == expected[:3]
    assert found[3].digest == xxhash.xxh3_128_hexdigest(packed)


def test_skippable_zstd_frames_and_gzip_padding_are_no_data(tmp_path):
    data = b'{"text": "a"}\n'
    skippable = b"\x5e\x2a\x4d\x18\x03\x00\x00\x00abc"
    zst = write(tmp_path, skippable + compress("zst", data) + skippable + compress("zst", data), "a.jsonl.zst")
    gz = write(tmp_path, compress("gz", data) + compress("gz", data) + b"\0" * 5000, "a.jsonl.gz")
    assert read(zst)[:3] == read(gz)[:3] == ([0, 14], ["a", "a"], [])


@pytest.mark.parametrize("how", ["gz", "zst"])
@pytest.mark.parametrize("missing", [1, 100, 3000])
def test_a_truncated_file_gives_what_can_be_decoded_and_one_bad_record(tmp_path, how, missing):
    rng = random.Random(1)
    encoded = [json.dumps({"text": f"{rng.getrandbits(4000):x}"}).encode() for _ in range(500)]
    data = b"\n".join(encoded) + b"\n"
    packed = compress(how, data)[:-missing]
    _, texts, bad, reader, _ = read(write(tmp_path, packed, f"a.jsonl.{how}"))
    assert texts == [json.loads(line)["text"] for line in encoded[: len(texts)]]
    assert len(texts) == 500 if missing == 1 else 100 < len(texts) <= 500
    assert len(bad) == 1
    assert bad[0].reason.startswith("truncated")
    assert bad[0].lost_bytes >= 1
    assert bad[0].position == sum(len(line) + 1 for line in encoded[: len(texts)])
    assert data[bad[0].position :].startswith(bad[0].raw)
    assert reader.digest == xxhash.xxh3_128_hexdigest(packed)


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_damage_in_the_midst_loses_the_rest_and_says_how_many_bytes(tmp_path, how):
    rng = random.Random(2)
    encoded = [json.dumps({"text": f"{rng.getrandbits(4000):x}"}).encode() for _ in range(1000)]
    packed = b"".join(compress(how, line + b"\n") for line in encoded[:900])
    rest = b"\xff" * 20_000
    _, texts, bad, _, _ = read(write(tmp_path, packed + rest, f"a.jsonl.{how}"))
    assert texts == [json.loads(line)["text"] for line in encoded[:900]]
    assert [record.reason.split(":")[0] for record in bad] == [f"damaged {'gzip' if how == 'gz' else 'zstd'} data"]
    assert len(rest) <= bad[0].lost_bytes <= len(rest) + 4096


def test_a_file_that_is_not_compressed_as_named_is_one_bad_record(tmp_path):
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        _, texts, bad, _, _ = read(write(tmp_path, b'{"text": "a"}\n' * 100, name))
        assert (texts, len(bad), bad[0].lost_bytes) == ([], 1, 1400)


def test_long_windows_are_read(tmp_path):
    texts, encoded = lines(1000)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = compressor.compress(b"\n".join(encoded)) + compressor.flush()
    assert zstandard.get_frame_parameters(packed).window_size == 2**31
    assert read(write(tmp_path, packed, "a.jsonl.zst"))[1] == texts


def seekable(parts):
    """A zstd file of a frame for each part with a seek table."""
    frames = [zstandard.ZstdCompressor().compress(part) for part in parts]
    table = b"".join(
        len(f).to_bytes(4, "little") + len(p).to_bytes(4, "little") for f, p in zip(frames, parts, strict=True)
    )
    table += len(frames).to_bytes(4, "little") + b"\0" + b"\xb1\xea\x92\x8f"
    return b"".join(frames) + b"\x5e\x2a\x4d\x18" + len(table).to_bytes(4, "little") + table


def test_zstd_with_a_seek_table_is_cut_at_frames_and_gives_the_same_records(tmp_path):
    texts, encoded = lines(1000)
    data = b"\n".join(encoded)
    packed = seekable([data[k : k + 7777] for k in range(0, len(data), 7777)])
    path = write(tmp_path, packed, "a.jsonl.zst")
    cut = formats.pieces(storage.list_files(str(path))[0], "jsonl", 50_000)
    assert 5 < len(cut) <= len(data) / 50_000 + 1
    found = [read(path, start=piece.start, end=piece.end) for piece in cut]
    whole = read(path)
    assert whole[1] == texts
    assert [p for f in found for p in f[0]] == whole[0]
    assert [t for f in found for t in f[1]] == texts
    assert len({f[3].digest for f in found}) == len(cut)
    third = np.array(found[2][0][::5], np.uint64)
    assert read(path, start=cut[2].start, end=cut[2].end, wanted=third)[1] == found[2][1][::5]
    path.write_bytes(zstandard.ZstdCompressor().compress(data))
    with pytest.raises(OSError, match="changed"):
        read(path, start=cut[2].start, end=cut[2].end)


@pytest.mark.parametrize("how", ["", ".gz", ".zst"])
def test_wanted_positions_give_those_lines_only(tmp_path, how):
    _, encoded = lines(500)
    encoded[10] = b"bad"
    data = b"\n".join(encoded)
    path = write(tmp_path, compress(how[1:], data) if how else data, f"a.jsonl{how}")
    positions, found, bad, _, _ = read(path)
    assert len(bad) == 1
    rng = random.Random(3)
    for k in (0, 1, 5, 100, 499):
        chosen = sorted(rng.sample(range(499), k))
        wanted = np.array([positions[i] for i in chosen], np.uint64)
        got = read(path, wanted=wanted, batch_bytes=1000, with_details=True)
        assert got[0] == wanted.tolist()
        assert got[1] == [found[i] for i in chosen]
        assert [json.loads(row["meta"])["n"] for row in details(got[4])] == [
            int(encoded[i + (i >= 10)].rsplit(b" ", 1)[1][:-1]) for i in chosen
        ]


def test_a_wanted_position_where_no_line_starts_gives_nothing(tmp_path):
    path = write(tmp_path, b'{"text": "a"}\n{"text": "{"}\n')
    assert read(path, wanted=np.array([0, 24], np.uint64))[0] == [0]
    assert read(path, wanted=np.array([3], np.uint64))[0] == []


REDPAJAMA = [
    {"text": "a", "meta": {"redpajama_set_name": "RedPajamaC4"}},
    {"text": "b", "meta": {"url": "http://x", "language": "en", "timestamp": "2020"}, "red_pajama_subset": "c4"},
    {"text": "c", "meta": '{"url": "http://y", "language": "de"}', "red_pajama_subset": "wiki"},
    {"text": "d", "pred_label": "1", "pred_label_prob": 0.5, "wiki_prob": 0.25, "source": "cc/2019-30/x"},
    {"text": "e", "url": "top", "lang": "fr", "meta": {"url": "inner", "language": "es", "stars": 3}},
    {"text": "f", "url": 7, "meta": {"url": "inner"}, "rank": 9, "id": "own"},
    {"text": "g", "meta": [], "language": "\ud800"},
]


def test_details_are_found_where_redpajama_and_the_hub_put_them(tmp_path):
    path = write(tmp_path, b"\n".join(json.dumps(record).encode() for record in REDPAJAMA))
    columns = Columns(subset="red_pajama_subset", lifted=(("prob", "pred_label_prob"), ("stars", "meta.stars")))
    _, texts, bad, _, batches = read(path, columns, with_details=True)
    rows = details(batches)
    assert not bad and texts == list("abcdefg")
    assert [row["url"] for row in rows] == [None, "http://x", "http://y", None, "top", "inner", None]
    assert [row["language"] for row in rows] == [None, "en", "de", None, "fr", None, None]
    assert [row["subset"] for row in rows] == [None, "c4", "wiki", None, None, None, None]
    assert [row["prob"] for row in rows] == [None, None, None, 0.5, None, None, None]
    assert [row["stars"] for row in rows] == [None, None, None, None, 3.0, None, None]
    assert batches[0].details.schema == pa.schema(
        [
            *((name, pa.string()) for name in ("subset", "url", "language", "meta")),
            ("prob", pa.float64()),
            ("stars", pa.float64()),
        ]
    )
    expected = [{name: value for name, value in record.items() if name != "text"} for record in REDPAJAMA]
    assert [json.loads(row["meta"]) for row in rows] == expected


def test_meta_keeps_bytes_and_order(tmp_path):
    line = b'{ "z":1 ,"text": "x", "meta": {"a":1.0e5,  "b" : [ ]}, "n":12345678901234567890}\n'
    _, _, _, _, batches = read(write(tmp_path, line), with_details=True)
    assert details(batches)[0]["meta"] == '{"z":1,"meta":{"a":1.0e5,  "b" : [ ]},"n":12345678901234567890}'


def test_a_source_is_split_by_strings_only(tmp_path):
    records = [{"text": "a", "meta": {"s": value}} for value in ("C4", "C4", 5, None, ["x"])]
    records += [{"text": "a", "meta": '{"s": "inner"}'}, {"text": "a", "meta": "{broken"}, {"text": "a"}]
    path = write(tmp_path, b"\n".join(json.dumps(record).encode() for record in records))
    batches = read(path, Columns(by="meta.s"))[4]
    assert [value for batch in batches for value in batch.by.to_pylist()] == [
        "C4",
        "C4",
        None,
        None,
        None,
        "inner",
        None,
        None,
    ]


def test_ids_are_strings_or_integers_and_records_without_one_are_bad(tmp_path):
    data = (
        b'{"text": "a", "key": "x\\u00e9"}\n{"text": "b"}\n{"text": "c", "key": 12345678901234567890123}\n'
        b'{"text": "d", "key": null}\n{"text": "e", "key": 1.5}\n{"text": "f", "key": "\\ud800"}\n'
        b'{"key": -3, "text": "g", "n": 1}\n'
    )
    _, texts, bad, _, batches = read(write(tmp_path, data), Columns(id="key"), with_details=True)
    assert texts == ["a", "c", "g"]
    assert batches[0].ids.to_pylist() == ["xé", "12345678901234567890123", "-3"]
    assert [row["meta"] for row in details(batches)] == ["{}", "{}", '{"n":1}']
    assert [record.reason for record in bad] == [
        "no member 'key', which is to hold the id",
        *["the id 'key' is neither a string nor an integer"] * 3,
    ]


def test_a_file_that_cannot_be_read_raises_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="missing"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(OSError, match="folder"):
        (tmp_path / "folder.jsonl").mkdir()
        read(tmp_path / "folder.jsonl")


def test_the_format_follows_from_the_suffix_or_is_given():
    assert (
        formats.format_of("a/b.JSONL.ZST") == formats.format_of("x.ndjson") == formats.format_of("x.json.gz") == "jsonl"
    )
    assert formats.format_of("x.parquet") == "parquet"
    assert formats.format_of("x.data", "jsonl") == "jsonl"
    for path in ("x.txt", "x.gz", "x.parquet.gz", "x"):
        with pytest.raises(ValueError, match=path):
            formats.format_of(path)
    with pytest.raises(ValueError, match="arrow"):
        formats.format_of("x.parquet", "arrow")


def test_decompression_streams_in_bounded_pieces(tmp_path):
    bomb = zstandard.ZstdCompressor().compress(b"\n" * 2**27)
    from curation.formats.decompression import Decompressed

    source = Decompressed(io.BytesIO(bomb), "zstd", len(bomb))
    assert len(source.read(1000)) == 1000
    assert 1000 + sum(len(part) for part in iter(lambda: source.read(2**20), b"")) == 2**27


def test_zeros_and_falsehoods_are_values(tmp_path):
    data = b'{"text": "a", "s": 0, "n": {"v": 0}}\n{"text": "b", "s": false, "n": 0}\n'
    batches = read(write(tmp_path, data), Columns(subset="s", lifted=(("v", "n.v"), ("s", "s"))), with_details=True)[4]
    assert [(row["subset"], row["v"], row["s"]) for row in details(batches)] == [("0", 0.0, 0.0), ("false", None, 0.0)]
