"""The same input, recipe and seed give the same bytes, whoever does the work, and however the input is cut."""

from __future__ import annotations

import functools
import json
import random
import time

import psutil
import pyarrow.parquet as pq
import pytest
import zstandard

from curation import formats
from curation.engine.document_files import DocumentFile

REST = "output: {split: {validation: 0.05, test: 0.05}, file_bytes: 1048576}\n"
VERIFIED = """\
  - normalize: {scheme: ftfy_nfc}
  - length: {minimum_characters: 60}
  - exact
  - minhash: {bands: 18, rows: 6, verify: exact, threshold: 0.7}
"""
# Enough work in the first pass of a small corpus for a worker to be met at it.
SLOW = "  - length\n  - minhash: {permutations: 2048, bands: 32, rows: 64}\n"
FOLDERS = [f"{source}/{folder}" for source in "bac" for folder in "pqrstuvw"]


@pytest.fixture(scope="module")
def large(tmp_path_factory, make_bench, mixed_texts):
    """Some 6 MB in 24 units of two files each."""
    bench = make_bench(tmp_path_factory.mktemp("large"))
    bench.write_files(mixed_texts(17, 2000, 150), sorted(f"{folder}/{n}.jsonl" for folder in FOLDERS for n in range(2)))
    (bench.input / "a/p/0.jsonl").open("ab").write(b'{"text": 3}\n{"no text": 1}\n')
    return bench


@pytest.fixture(scope="module")
def inline_hashes(large):
    """The hashes of the results of a run in this process."""
    report = large.run("inline", large.recipe(VERIFIED, rest=REST))
    assert report["documents"]["quarantined"] == 2
    hashes = large.hashes("inline", samples=True)
    assert len([name for name in hashes if name.startswith("documents/train/")]) > 1
    return hashes


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_ray_workers_give_the_bytes_of_the_inline_executor(large, inline_hashes, workers):
    report = large.run(f"ray-{workers}", large.recipe(VERIFIED, rest=REST), executor="ray", workers=workers)
    assert report["workers"] == workers
    assert large.hashes(f"ray-{workers}", samples=True) == inline_hashes


def test_a_killed_worker_changes_nothing(large):
    recipe = large.recipe(SLOW, rest=REST)
    process = large.start("killed", recipe, "--workers", "2")
    killed = None
    try:
        while killed is None and process.poll() is None:
            done = [entry for entry in large.ledger("killed") if entry["step"] == "first pass"]
            assert len(done) < len(FOLDERS), "the first pass was over before a worker was met at work"
            busy = [child for child in psutil.Process(process.pid).children(recursive=True) if is_at_work(child)]
            if done and busy:
                busy[0].kill()
                killed = busy[0].pid
            time.sleep(0.005)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert killed is not None
    assert process.returncode == 0, errors
    large.run("whole", recipe)
    assert large.hashes("killed", samples=True) == large.hashes("whole", samples=True)
    assert len({entry["key"] for entry in large.ledger("killed")}) == len(large.ledger("killed"))


def is_at_work(process):
    try:
        return process.cmdline()[0].startswith("ray::_call")
    except (psutil.Error, IndexError):
        return False


def outcome(bench, output):
    """Documents and decisions without ids, ranks and files: what must not depend on how the input is cut."""
    documents = [
        (row["text"], row["source"], row["split"], row["meta"], row["n_duplicates"]) for row in bench.rows(output, "documents")
    ]
    removed = [
        (row["source"], row["stage"], row["reason"], row["detail"], row["text_bytes"], row["similarity"])
        for row in bench.rows(output, "removed")
    ]
    return documents, sorted(removed, key=repr)


@pytest.mark.parametrize("stages", [VERIFIED, "  - exact\n  - minhash: {keep: longest}\n"])
def test_files_cut_differently_in_the_same_order_give_the_same_documents_and_decisions(small, make_bench, stages):
    recipe = small.recipe(stages, rest=REST)
    small.run("as it is", recipe)
    for number, seed in enumerate((1, 2)):
        source = random.Random(seed)
        other = make_bench(small.folder / f"cut-{number}")
        for name in "abc":
            records = [
                json.loads(line)
                for path in sorted((small.input / name).rglob("*.jsonl"))
                for line in path.read_text().splitlines()
            ]
            start, part = 0, 0
            while start < len(records):
                stop = start + source.choice([1, 5, 40, 300])
                suffix = source.choice([".jsonl", ".jsonl.zst"])
                folder = f"{part // 5:02d}/" if seed == 2 else ""
                some = records[start:stop]
                relative = f"{name}/{folder}{part:03d}{suffix}"
                other.write(relative, [r["text"] for r in some], [{"meta": r["meta"]} for r in some])
                start, part = stop, part + 1
        other.run("out", recipe)
        assert outcome(other, "out") == outcome(small, "as it is")


def test_pieces_of_a_file_give_what_the_whole_file_gives(bench, mixed_texts, monkeypatch):
    """One file read as one unit and one part, as many parts, and as many units of many parts."""
    bench.write("a/1.jsonl", mixed_texts(5, 100))
    recipe = bench.recipe(VERIFIED, rest=REST)
    bench.run("whole", recipe)
    assert len(bench.ledger("whole")) > 0
    with monkeypatch.context() as patched:
        patched.setattr(formats, "read", functools.partial(formats.read, batch_bytes=3000))
        bench.run("batches", recipe)
    assert bench.hashes("batches", samples=True) == bench.hashes("whole", samples=True)
    bench.cut_small(monkeypatch, 5000)
    bench.run("parts", recipe)
    monkeypatch.setattr("curation.engine.plan._UNIT_BYTES", (20_000, 20_000))
    bench.run("units", recipe)
    assert len(list((bench.folder / "parts/work/first").glob("*.arrays"))) > 5
    assert len({path.name.split("-")[0] for path in (bench.folder / "units/work/first").glob("*.arrays")}) > 3
    for output in ("parts", "units"):
        for name in ("documents", "removed", "duplicates", "quarantine"):
            assert bench.rows(output, name) == bench.rows("whole", name)


def test_output_files_are_cut_by_kept_bytes_alone(large, inline_hashes, monkeypatch):
    """Neither the size of a batch nor the memory of a worker moves a border; parts may, and then no document changes."""
    recipe = large.recipe(VERIFIED, rest=REST)
    large.run("memory", recipe, memory_per_worker_bytes=6 * 2**30)
    assert large.hashes("memory", samples=True) == inline_hashes
    large.cut_small(monkeypatch, 50_000)
    large.run("small parts", recipe)
    train = sorted((large.folder / "small parts/documents/train").iterdir())
    assert len(train) > 1
    for name in ("documents", "removed", "duplicates", "quarantine"):
        assert large.rows("small parts", name) == large.rows("inline", name)
    ranks = [pq.read_table(path, columns=["rank"])["rank"].to_pylist() for path in train]
    assert [rank for some in ranks for rank in some] == sorted(rank for some in ranks for rank in some)


def test_equal_texts_fall_into_the_same_split_and_the_seed_chooses_which(bench, mixed_texts):
    bench.write("a/1.jsonl", mixed_texts(1, 150) * 2)
    rest = "output: {split: {validation: 0.2, test: 0.1}}\n"
    recipe = bench.recipe("  - length: {minimum_characters: 1}\n", rest=rest)
    splits = []
    for seed in (42, 43):
        bench.run(f"out-{seed}", recipe, {"seed": seed})
        rows = bench.rows(f"out-{seed}", "documents")
        chosen: dict[str, str] = {}
        for row in rows:
            assert chosen.setdefault(row["text"], row["split"]) == row["split"]
        splits.append(chosen)
        shares = {split: sum(value == split for value in chosen.values()) / len(chosen) for split in ("validation", "test")}
        assert 0.1 < shares["validation"] < 0.3
        assert 0.03 < shares["test"] < 0.2
    assert splits[0] != splits[1]


def test_json_lines_read_back_as_input_give_the_same_texts_and_nothing_to_remove(small, make_bench):
    rest = "output: {format: jsonl.zst, split: {validation: 0.1}}\n"
    small.run("out", small.recipe(rest=rest))
    small.run("parquet", small.recipe(rest="output: {split: {validation: 0.1}}\n"))
    expected = [(row["id"], row["text"], row["split"], row["meta"]) for row in small.rows("parquet", "documents")]
    read = []
    for path in sorted((small.folder / "out/documents").rglob("*.jsonl.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                read.append((record.pop("id"), record.pop("text"), path.parent.name, record))
    assert read == [(own_id, text, split, json.loads(meta)) for own_id, text, split, meta in expected]
    everything = small.recipe(sources='  - {name: d, path: "{input}/**"}\n')
    again = small.run("again", everything, input_path=small.folder / "out/documents")
    assert again["documents"]["removed"] == 0
    assert sorted(row["text"] for row in small.rows("again", "documents")) == sorted(text for _, text, _, _ in read)


def test_the_same_documents_written_in_other_batches_give_the_same_file(tmp_path, large, inline_hashes):
    path = large.folder / "inline/documents/train/train-00000.parquet"
    table = pq.read_table(path)
    written = []
    for size in (1, 7, 100_000):
        file = DocumentFile(str(tmp_path / f"{size}.parquet"), "parquet")
        for batch in table.to_batches(max_chunksize=size):
            file.write(batch)
        file.close()
        written.append((tmp_path / f"{size}.parquet").read_bytes())
    assert written[0] == written[1] == written[2] == path.read_bytes()
