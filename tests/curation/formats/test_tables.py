"""Parquet and Hugging Face data sets give the records that the same rows as JSON lines give."""

import datetime
import decimal
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from curation import formats, storage
from curation.formats.records import Columns, Piece

ROWS = [
    {
        "text": f"text {i} \U0001f600 é",
        "meta": {"url": f"http://{i}", "language": "en", "stars": i},
        "kind": "ab"[i % 2],
        "n": i,
    }
    for i in range(1000)
]
COLUMNS = Columns(subset="kind", by="kind", lifted=(("stars", "meta.stars"),))


def read(piece, columns=None, **options):
    """(positions, texts, bad, details, reader)"""
    reader = formats.read(piece, columns or Columns(), maximum_document_bytes=2**20, **options)
    batches = list(reader)
    positions = [int(p) for batch in batches for p in batch.positions]
    texts = [text for batch in batches for text in batch.texts.to_pylist()]
    rows = [row for batch in batches if batch.details is not None for row in batch.details.to_pylist()]
    return positions, texts, [record for batch in batches for record in batch.bad], rows, reader


def parquet(tmp_path, table, name="a.parquet", **options):
    path = str(tmp_path / name)
    pq.write_table(table, path, **options)
    return path


def cut(path, form="parquet", unit_bytes=2**40):
    info = formats.dataset_info(path) if form == "huggingface" else storage.list_files(path)[0]
    return formats.pieces(info, form, unit_bytes)


def as_jsonl(tmp_path):
    path = tmp_path / "same.jsonl"
    path.write_bytes(
        b"".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for row in ROWS)
    )
    return Piece(str(path), "jsonl")


@pytest.mark.parametrize("unit_bytes", [1, 2**14, 2**40])
@pytest.mark.parametrize("batch_bytes", [1, 2**14, 2**22])
def test_parquet_gives_what_json_lines_give_however_it_is_cut(tmp_path, unit_bytes, batch_bytes):
    path = parquet(tmp_path, pa.Table.from_pylist(ROWS), row_group_size=100)
    found = [read(p, COLUMNS, with_details=True, batch_bytes=batch_bytes) for p in cut(path, unit_bytes=unit_bytes)]
    expected = read(as_jsonl(tmp_path), COLUMNS, with_details=True)
    assert len(found) == {1: 10, 2**40: 1}.get(unit_bytes, len(found))
    assert [p for f in found for p in f[0]] == list(range(1000))
    assert [t for f in found for t in f[1]] == expected[1]
    assert [row for f in found for row in f[3]] == expected[3]


def test_parquet_pieces_hash_each_byte_of_the_file_once(tmp_path):
    path = parquet(tmp_path, pa.Table.from_pylist(ROWS), row_group_size=100)
    data = Path(path).read_bytes()
    whole = read(cut(path)[0])[4]
    assert whole.digest == xxhash.xxh3_128_hexdigest(data)
    digests = [read(piece)[4].digest for piece in cut(path, unit_bytes=1)]
    offset = pq.read_metadata(path).row_group(1).column(0).dictionary_page_offset
    assert digests[0] == xxhash.xxh3_128_hexdigest(data[:offset])
    assert len(set(digests)) == 10


def test_wanted_rows_are_read_from_their_row_groups(tmp_path):
    path = parquet(tmp_path, pa.Table.from_pylist(ROWS), row_group_size=100)
    wanted = np.array([0, 1, 99, 100, 555, 999], np.uint64)
    positions, texts, _, rows, _ = read(cut(path)[0], COLUMNS, wanted=wanted, with_details=True)
    assert positions == wanted.tolist()
    assert texts == [ROWS[i]["text"] for i in positions]
    assert [row["stars"] for row in rows] == positions
    assert read(cut(path, unit_bytes=1)[5], wanted=np.array([555], np.uint64))[0] == [555]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_a_text_column_of_strings_or_bytes_is_read_and_bad_rows_are_quarantined(tmp_path, kind):
    long = "x" * (2**20 + 1)
    path = parquet(tmp_path, pa.table({"text": pa.array(["a", None, "é", long]).cast(kind), "n": [1, 2, 3, 4]}))
    positions, texts, bad, rows, _ = read(cut(path)[0], with_details=True)
    assert (positions, texts) == ([0, 2], ["a", "é"])
    assert [row["meta"] for row in rows] == ['{"n":1}', '{"n":3}']
    assert [(record.position, len(record.raw)) for record in bad] == [(1, 0), (3, 65536)]
    assert "null" in bad[0].reason and "max_document_bytes" in bad[1].reason


@pytest.mark.parametrize("kind", [pa.binary(), pa.string()])
def test_invalid_utf8_in_the_text_is_quarantined_and_elsewhere_replaced(tmp_path, kind):
    values = pa.array([b"good", b"bad \xff"], pa.binary())
    texts = pa.Array.from_buffers(kind, 2, values.buffers())
    path = parquet(
        tmp_path, pa.table({"text": texts, "other": pa.Array.from_buffers(pa.string(), 2, values.buffers())})
    )
    positions, found, bad, _, _ = read(cut(path)[0])
    assert (positions, found) == ([0], ["good"])
    assert [(record.reason, record.raw) for record in bad] == [("invalid UTF-8 at byte 4 of the text", b"bad \xff")]
    rows = read(cut(path)[0], Columns(text="n"), with_details=True)[2]
    assert "no column 'n'; the columns are text, other" in rows[0].reason
    swapped = parquet(
        tmp_path, pa.table({"text": ["a", "b"], "other": pa.Array.from_buffers(pa.string(), 2, values.buffers())})
    )
    assert [row["meta"] for row in read(cut(swapped)[0], with_details=True)[3]] == [
        '{"other":"good"}',
        '{"other":"bad \ufffd"}',
    ]


@pytest.mark.parametrize("table", [pa.table({"body": ["a"]}), pa.table({"text": [1, 2]})])
def test_a_table_without_a_text_column_is_one_bad_record(tmp_path, table):
    path = parquet(tmp_path, table)
    positions, _, bad, _, _ = read(cut(path)[0])
    assert positions == []
    assert len(bad) == 1
    assert bad[0].lost_bytes == os.path.getsize(path)
    assert "body" in bad[0].reason or "int64" in bad[0].reason


def test_other_columns_become_json_in_their_order(tmp_path):
    moment = datetime.datetime(2023, 1, 2, 3, 4, 5, 678901)
    table = pa.table(
        {
            "when": pa.array([moment], pa.timestamp("us")),
            "nanoseconds": pa.array([1672628645678901234], pa.timestamp("ns", "UTC")),
            "day": pa.array([moment.date()]),
            "text": ["a"],
            "price": pa.array([decimal.Decimal("1.50")]),
            "raw": pa.array([b"\x00\xff"]),
            "nan": [float("nan")],
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "big": pa.array([2**64 - 1], pa.uint64()),
            "nested": [[{"at": moment, "none": None}]],
        }
    )
    path = parquet(tmp_path, table)
    assert read(cut(path)[0], with_details=True)[3][0]["meta"] == (
        '{"when":"2023-01-02T03:04:05.678901","nanoseconds":"2023-01-02T03:04:05.678901+00:00","day":"2023-01-02",'
        '"price":"1.50","raw":"AP8=","nan":null,"map":[["k",1]],"big":18446744073709551615,'
        '"nested":[{"at":"2023-01-02T03:04:05.678901","none":null}]}'
    )


def test_ids_come_from_strings_or_integers(tmp_path):
    path = parquet(tmp_path, pa.table({"text": ["a", "b", "c"], "key": [7, None, 9], "n": [1, 2, 3]}))
    reader = formats.read(cut(path)[0], Columns(id="key"), maximum_document_bytes=100, with_details=True)
    batch = next(iter(reader))
    assert batch.ids.to_pylist() == ["7", "9"]
    assert batch.details["meta"].to_pylist() == ['{"n":1}', '{"n":3}']
    assert [record.reason for record in batch.bad] == ["the id 'key' is null"]


def test_damaged_parquet_is_one_bad_record(tmp_path):
    rng = np.random.default_rng(0)
    table = pa.table({"text": [rng.bytes(300).hex() for _ in range(1000)]})
    path = parquet(tmp_path, table, row_group_size=100, use_dictionary=False)
    data = Path(path).read_bytes()
    for name, content in [("cut", data[:-500]), ("empty", b""), ("text", b"hello" * 100), ("short", b"PAR1")]:
        bad_path = str(tmp_path / f"{name}.parquet")
        with open(bad_path, "wb") as file:
            file.write(content)
        piece = cut(bad_path)
        assert piece == [Piece(bad_path, "parquet", 0, -1)]
        positions, _, bad, _, _ = read(piece[0])
        assert (positions, [record.lost_bytes for record in bad]) == ([], [max(1, len(content))])
    offset = pq.read_metadata(path).row_group(5).column(0).data_page_offset
    torn = str(tmp_path / "torn.parquet")
    with open(torn, "wb") as file:
        file.write(data[:offset] + b"\xff" * 1000 + data[offset + 1000 :])
    positions, texts, bad, _, _ = read(cut(torn)[0])
    assert texts == table["text"].to_pylist()[:500]
    assert [record.position for record in bad] == [500]
    assert bad[0].lost_bytes > len(data) * 0.4


def test_a_parquet_file_that_cannot_be_read_raises_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="missing"):
        read(Piece(str(tmp_path / "missing.parquet"), "parquet"))


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    module.disable_progress_bars()
    return module


def test_a_saved_data_set_gives_what_json_lines_give(tmp_path, datasets):
    saved = str(tmp_path / "saved")
    datasets.Dataset.from_list(ROWS).save_to_disk(saved)
    assert formats.is_dataset_directory(saved)
    assert not formats.is_dataset_directory(str(tmp_path))
    expected = read(as_jsonl(tmp_path), COLUMNS, with_details=True)
    for unit_bytes in (10_000, 2**40):
        found = [read(p, COLUMNS, with_details=True, batch_bytes=5000) for p in cut(saved, "huggingface", unit_bytes)]
        assert (len(found) > 1) == (unit_bytes == 10_000)
        assert [p for f in found for p in f[0]] == list(range(1000))
        assert [t for f in found for t in f[1]] == expected[1]
        assert [row for f in found for row in f[3]] == expected[3]
    wanted = np.array([3, 500, 999], np.uint64)
    assert read(cut(saved, "huggingface")[0], wanted=wanted)[:2] == (
        [3, 500, 999],
        [ROWS[i]["text"] for i in (3, 500, 999)],
    )
    assert formats.dataset_info(saved).etag
    with pytest.raises(ValueError, match="without splits"):
        formats.dataset_info(saved, "train")


def test_splits_are_chosen_by_name_and_an_error_lists_them(tmp_path, datasets):
    saved = str(tmp_path / "splits")
    halves = {"train": datasets.Dataset.from_list(ROWS[:600]), "test": datasets.Dataset.from_list(ROWS[600:])}
    datasets.DatasetDict(halves).save_to_disk(saved)
    assert formats.is_dataset_directory(saved)
    with pytest.raises(ValueError, match="has the splits train, test"):
        formats.dataset_info(saved)
    with pytest.raises(ValueError, match="no split 'dev'; its splits are train, test"):
        formats.dataset_info(saved, "dev")
    info = formats.dataset_info(saved, "test")
    assert info.path == f"{saved}/test"
    assert read(formats.pieces(info, "huggingface", 2**40)[0])[1] == [row["text"] for row in ROWS[600:]]


def test_a_directory_that_load_dataset_understands_is_read_by_split(tmp_path, datasets):
    folder = tmp_path / "folder"
    folder.mkdir()
    parquet(folder, pa.Table.from_pylist(ROWS), "train-0.parquet")
    info = formats.dataset_info(str(folder))
    assert info.path == f"{folder}/train"
    assert read(formats.pieces(info, "huggingface", 2**40)[0])[1] == [row["text"] for row in ROWS]


def test_what_is_no_data_set_is_the_users_mistake(tmp_path, datasets):
    with pytest.raises(ValueError, match=r"cannot be opened as a Hugging Face data set"):
        formats.dataset_info(str(tmp_path / "nothing"))


@pytest.mark.parametrize("saved", [True, False])
def test_a_streamed_data_set_is_copied_once_into_files_of_bounded_size(tmp_path, datasets, saved):
    source, directory = tmp_path / "source", str(tmp_path / "spool")
    if saved:
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(source))
    else:
        source.mkdir()
        parquet(source, pa.Table.from_pylist(ROWS), "train-0.parquet")
    os.makedirs(directory)
    with open(f"{directory}/part-00007.parquet", "wb") as file:
        file.write(b"left by a run that was killed")
    paths = formats.spool(str(source), None, directory, 300)
    assert [pq.read_metadata(path).num_rows for path in paths] == [300, 300, 300, 100]
    assert sorted(os.listdir(directory)) == ["complete.json", *(os.path.basename(path) for path in paths)]
    found = [read(cut(path)[0], COLUMNS, with_details=True) for path in paths]
    expected = read(as_jsonl(tmp_path), COLUMNS, with_details=True)
    assert [t for f in found for t in f[1]] == expected[1]
    assert [row for f in found for row in f[3]] == expected[3]
    before = os.stat(paths[0]).st_mtime_ns
    assert formats.spool(str(source), None, directory, 300) == paths
    assert os.stat(paths[0]).st_mtime_ns == before
