"""Storage: listing, ranges, and writes that publish all or nothing, locally, in memory and on an S3 server."""

import gzip
import json
import os
import subprocess
import sys
import threading
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import formats, storage
from curation.formats.records import Columns


@pytest.fixture(scope="module")
def s3_server():
    """A local S3 server, with the environment that leads there."""
    pytest.importorskip("s3fs", minversion="2025.2")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def place(request, tmp_path):
    """An empty directory of each kind."""
    if request.param == "local":
        return str(tmp_path / "place")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('s3_server')}/{uuid.uuid4().hex}"


def put(place, *names):
    for name in names:
        storage.write_bytes(storage.join(place, name), name.encode())


def relatives(place, pattern=""):
    path = f"{place}/{pattern}" if pattern else place
    return [storage.relative(info.path, place) for info in storage.list_files(path)]


def test_what_is_written_is_read_back_whole_and_in_ranges(place):
    path = storage.join(place, "a", "b.bin")
    data = bytes(range(256)) * 40
    assert not storage.exists(path)
    storage.write_bytes(path, data)
    assert storage.exists(path)
    assert storage.read_bytes(path) == data
    assert storage.file_size(path) == len(data)
    assert storage.read_range(path, 100, 50) == data[100:150]
    assert storage.read_range(path, len(data) - 5, 50) == data[-5:]
    assert storage.read_range(path, 3, 0) == b""
    with storage.open_stream(path, 77) as file:
        assert b"".join(iter(lambda: file.read(1000), b"")) == data[77:]
    with storage.open_read(path) as file:
        assert isinstance(file, pa.NativeFile)
        assert (file.size(), file.read_at(10, 5000)) == (len(data), data[5000:5010])


def test_listing_is_sorted_recursive_and_leaves_hidden_names_out(place):
    put(place, "b.txt", "a/z.txt", "a/y/x.txt", ".hidden", "a/.git/config", "a-b.txt", "c/.x.txt")
    assert relatives(place) == sorted(["a-b.txt", "a/y/x.txt", "a/z.txt", "b.txt"])
    assert relatives(place, "a/") == ["a/y/x.txt", "a/z.txt"]
    assert relatives(place, "b.txt") == ["b.txt"]
    assert relatives(place, "nothing") == []
    assert relatives(place, "nothing/*.txt") == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.gz", ["top.gz"]),
        ("**/*.gz", ["a/b/c.gz", "a/d.gz", "a/e1.gz", "top.gz"]),
        ("a/**/*.gz", ["a/b/c.gz", "a/d.gz", "a/e1.gz"]),
        ("a/?.gz", ["a/d.gz"]),
        ("a/[de]*.gz", ["a/d.gz", "a/e1.gz"]),
        ("*/[!d]*.gz", ["a/e1.gz"]),
        ("a/**", ["a/b/c.gz", "a/d.gz", "a/e1.gz", "a/f.txt"]),
        ("?", ["a/b/c.gz", "a/d.gz", "a/e1.gz", "a/f.txt"]),
        ("*b*/*", []),
    ],
)
def test_patterns_mean_the_same_in_every_place(place, pattern, expected):
    put(place, "a/b/c.gz", "a/d.gz", "a/e1.gz", "a/f.txt", "top.gz")
    assert relatives(place, pattern) == expected


def test_a_listing_tells_size_and_what_changes_with_the_content(place):
    path = storage.join(place, "a")
    storage.write_bytes(path, b"one")
    (first,) = storage.list_files(path)
    assert first == storage.file_info(path)
    assert (first.path, first.size) == (path, 3)
    storage.write_bytes(path, b"two")
    (second,) = storage.list_files(path)
    assert (first.etag, first.mtime_ns) != (second.etag, second.mtime_ns)
    assert bool(first.etag) == place.startswith("s3")


def test_a_local_name_with_brackets_is_a_file_when_it_is_there(tmp_path):
    put(str(tmp_path), "a[1].txt", "a1.txt")
    assert relatives(str(tmp_path), "a[1].txt") == ["a[1].txt"]
    assert relatives(str(tmp_path), "a[12].txt") == ["a1.txt"]
    assert storage.fixed_part(f"{tmp_path}/a[1].txt") == f"{tmp_path}/a[1].txt"


def test_create_exclusive_writes_only_where_nothing_is(place):
    path = storage.join(place, ".lock")
    assert storage.create_exclusive(path, b"first")
    assert not storage.create_exclusive(path, b"second")
    assert storage.read_bytes(path) == b"first"
    storage.delete(path)
    storage.delete(path)
    assert storage.create_exclusive(path, b"third")


def test_of_many_that_create_one_wins(place):
    if place.startswith("memory"):
        pytest.skip("fsspec's memory files are no place for threads")
    path, won = storage.join(place, "lock"), []

    def attempt(number):
        if storage.create_exclusive(path, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes(path) == str(won[0]).encode()


@pytest.mark.parametrize("how", ["error", "partial parquet", "interrupt"])
def test_a_commit_that_fails_publishes_nothing_and_keeps_what_was_there(place, how):
    path = storage.join(place, "out.parquet")
    storage.write_bytes(path, b"old")
    table = pa.table({"a": [1]})
    with pytest.raises((ZeroDivisionError, KeyboardInterrupt)), storage.commit(path) as temporary:
        if how == "partial parquet":
            with pq.ParquetWriter(temporary, table.schema) as writer:
                writer.write_table(table)
                raise ZeroDivisionError
        with open(temporary, "wb") as file:
            file.write(b"new")
            if how == "interrupt":
                raise KeyboardInterrupt
            raise ZeroDivisionError
    assert storage.read_bytes(path) == b"old"
    assert [storage.relative(info.path, place) for info in storage.list_files(place)] == ["out.parquet"]
    if not storage.is_remote(place):
        assert os.listdir(place) == ["out.parquet"]


def test_a_commit_replaces_the_file_in_one_step_and_is_hidden_until_then(place):
    path = storage.join(place, "deep", "er", "out")
    with storage.commit(path) as temporary:
        assert not storage.is_remote(temporary)
        with open(temporary, "wb") as file:
            file.write(b"data")
        assert storage.list_files(place) == []
        assert not storage.exists(path)
    assert storage.read_bytes(path) == b"data"


def test_temporaries_of_a_killed_process_are_found_and_removed(tmp_path):
    program = f"""
import os
from curation import storage
with storage.commit({str(tmp_path / "a" / "out")!r}) as temporary:
    open(temporary, "wb").write(b"data")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    put(str(tmp_path), "a/kept", "a/.kept")
    assert len(os.listdir(tmp_path / "a")) == 3
    assert storage.remove_temporaries(str(tmp_path)) == 1
    assert sorted(os.listdir(tmp_path / "a")) == [".kept", "kept"]


def test_a_moved_file_replaces_what_was_there(place, tmp_path):
    put(place, "a/b", "c")
    storage.move(storage.join(place, "a/b"), storage.join(place, "c"))
    storage.move(storage.join(place, "c"), storage.join(place, "d/e"))
    assert relatives(place) == ["d/e"]
    assert storage.read_bytes(storage.join(place, "d/e")) == b"a/b"
    storage.move(storage.join(place, "d/e"), str(tmp_path / "here"))
    storage.move(str(tmp_path / "here"), storage.join(place, "f"))
    assert relatives(place) == ["f"]
    assert storage.is_file(storage.join(place, "f")) and not storage.is_file(storage.join(place, "g"))


def test_trees_are_deleted_whole_and_a_missing_one_is_no_error(place):
    put(place, "a/b", "a/c/d", "ab")
    storage.delete_tree(storage.join(place, "a"))
    storage.delete_tree(storage.join(place, "a"))
    assert relatives(place) == ["ab"]


def test_errors_of_missing_files_name_them(place):
    for read in (
        storage.read_bytes,
        storage.file_size,
        lambda path: storage.open_stream(path).read(1),
        storage.open_read,
    ):
        with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
            read(storage.join(place, "nothing.txt"))


def test_free_space_is_known_locally_for_a_directory_that_is_not_there_yet(tmp_path):
    assert storage.free_bytes(str(tmp_path / "not" / "yet")) > 0
    assert storage.free_bytes("memory://a") is None


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    import fsspec

    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[s3\]'"):
        storage.list_files("s3://bucket/a")
    with pytest.raises(ValueError, match=r"pip install -e '\.\[gcs\]'"):
        storage.exists("gs://bucket/a")


def test_an_unknown_scheme_is_the_users_mistake():
    with pytest.raises(ValueError, match="nosuch://"):
        storage.list_files("nosuch://bucket/a")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_records_are_the_same_from_every_place(place, tmp_path, name):
    rows = [{"text": f"text {i} é" * (i % 7), "n": i} for i in range(2000)]
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x", row_group_size=250)
        data = (tmp_path / "x").read_bytes()
    else:
        data = "\n".join(json.dumps(row) for row in rows).encode()
        data = gzip.compress(data) if name.endswith("gz") else data
    storage.write_bytes(storage.join(place, name), data)
    (info,) = storage.list_files(place)
    pieces = formats.pieces(info, formats.format_of(name), 20_000)
    assert (len(pieces) > 2) == (not name.endswith("gz"))
    texts, positions = [], []
    for piece in pieces:
        for batch in formats.read(piece, Columns(), maximum_document_bytes=2**20, with_details=True):
            texts += batch.texts.to_pylist()
            positions += batch.positions.tolist()
            assert not batch.bad
            assert [json.loads(meta)["n"] for meta in batch.details["meta"].to_pylist()] == list(
                range(len(texts) - len(batch.texts), len(texts))
            )
    assert texts == [row["text"] for row in rows]
    wanted = np.array(positions[::100], np.uint64)
    whole = formats.pieces(info, formats.format_of(name), 2**40)[0]
    found = formats.read(whole, Columns(), maximum_document_bytes=2**20, wanted=wanted)
    assert [text for batch in found for text in batch.texts.to_pylist()] == texts[::100]


def test_a_missing_object_raises_an_error_that_names_it(place):
    from curation.formats.records import Piece

    for name in ("no.jsonl", "no.parquet", "no.jsonl.gz"):
        piece = Piece(storage.join(place, name), formats.format_of(name))
        with pytest.raises(OSError, match=r"no\."):
            list(formats.read(piece, Columns(), maximum_document_bytes=2**20))


def test_a_walk_ends_although_a_link_leads_back_up(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/1.jsonl").write_text("{}")
    (tmp_path / "d/up").symlink_to("..")
    (tmp_path / "self.jsonl").symlink_to("self.jsonl")
    found = [storage.relative(info.path, str(tmp_path)) for info in storage.list_files(str(tmp_path))]
    assert found == ["d/1.jsonl", "self.jsonl"]
