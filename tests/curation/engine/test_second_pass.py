"""What a run counts against what it wrote: in = kept + removed + quarantined, for every stage and source."""

import json
import random
from collections import Counter, defaultdict

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curation.documents import SCHEMA
from curation.engine import output_steps
from curation.engine.removal_log import REMOVED_SCHEMA, id_partitions

STARS = '  - {name: b, path: "{input}/b/**", columns: {stars: meta.stars}}\n'
BY = '  - {name: web, path: "{input}/*/**", by: meta.set, subset: meta.part}\n'
SUBSET = """\
  - {name: a, path: "{input}/a/**", priority: 1, subset: meta.part, text: content}
  - {name: b, path: "{input}/b/**", text: content}
"""
OWN_IDS = """\
  - {name: a, path: "{input}/a/**", id: key, subset: meta.part}
  - {name: b, path: "{input}/b/**", id: key}
  - {name: c, path: "{input}/c/**"}
"""
HOLDOUT = "output: {split: {validation: 0.1, test: 0.1}, file_bytes: 1048576}\nmax_bad_fraction: 1.0\n"
RECIPES = {
    "published stages": ("  - normalize\n  - length: {minimum_characters: 60}\n  - minhash\n", None),
    "exact and minhash": ("  - length: {minimum_characters: 60}\n  - exact\n  - minhash\n", None),
    "map stages last": ("  - minhash: {bands: 40, rows: 3}\n  - normalize\n  - length: {minimum_characters: 200}\n", None),
    "annotate": ("  - exact\n  - minhash: {action: annotate}\n  - length: {minimum_characters: 60}\n", None),
    "annotate verified": ("  - minhash: {action: annotate, verify: exact, threshold: 0.6, bands: 30, rows: 4}\n", None),
    "longest": ("  - exact\n  - minhash: {keep: [longest, first], bands: 40, rows: 3}\n", None),
    "highest": ("  - minhash: {keep: [{highest: stars}, first], bands: 40, rows: 3}\n", STARS),
    "two minhash stages": ("  - minhash: {as: strict}\n  - exact\n  - minhash: {as: loose, bands: 40, rows: 3}\n", None),
    "verified": ("  - exact\n  - minhash: {bands: 18, rows: 6, verify: exact, threshold: 0.7}\n", None),
    "bridging": ("  - length: {minimum_characters: 200}\n  - minhash: {bands: 40, rows: 3, bridge_removed: true}\n", None),
    "by a member": ("  - length: {minimum_characters: 60}\n  - exact\n  - minhash\n", BY),
    "subset": ("  - length: {minimum_characters: 60}\n  - exact\n  - minhash\n", SUBSET),
    "own ids": ("  - length: {minimum_characters: 60}\n  - exact\n  - minhash\n", OWN_IDS),
    "no stage": ("  []\n", None),
}


@pytest.fixture
def marked(bench, mixed_texts):
    """Records with members of all kinds, bad records among them, in nine files of three sources."""
    source = random.Random(9)
    texts = mixed_texts(29, 130)
    each = -(-len(texts) // 9)
    number = 0
    for index, relative in enumerate(f"{s}/{d}/1.jsonl" for s in "abc" for d in ("x", "y", "z")):
        members = []
        for _ in texts[index * each : (index + 1) * each]:
            meta = {"part": f"part {source.randrange(3)}", "stars": source.choice([None, 1, 2.5, 7]), "set": source.choice("PQ")}
            meta = {key: value for key, value in meta.items() if value is not None and source.random() < 0.9}
            members.append({"meta": meta, "key": f"key-{number}", "content": texts[number], "url": f"http://e.org/{number}"})
            number += 1
        path = bench.write(relative, texts[index * each : (index + 1) * each], members)
        if index % 2:
            with path.open("ab") as file:
                file.write(b'{"text": null, "content": null}\nnot json\n')
    return bench


def counted(bench, output):
    """{(source, what): (rows, bytes)} by DuckDB; what is "kept" or a stage."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    where = bench.folder / output
    if list((where / "documents").rglob("*.parquet")):
        query = f"SELECT source, count(*), sum(strlen(text)) FROM read_parquet('{where}/documents/*/*.parquet') GROUP BY source"
        found |= {(source, "kept"): (rows, n_bytes) for source, rows, n_bytes in duckdb.execute(query).fetchall()}
    query = f"SELECT source, stage, count(*), sum(text_bytes) FROM read_parquet('{where}/removed/*.parquet') GROUP BY source, stage"
    found |= {(source, stage): (rows, n_bytes) for source, stage, rows, n_bytes in duckdb.execute(query).fetchall()}
    query = f"SELECT source, count(*) FROM read_parquet('{where}/quarantine/*.parquet') GROUP BY source"
    return found | {(source, "bad"): (rows, 0) for source, rows in duckdb.execute(query).fetchall()}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("small_parts", [False, True])
def test_documents_in_are_those_kept_removed_and_quarantined_for_every_stage_and_source(marked, name, small_parts, monkeypatch):
    if small_parts:
        marked.cut_small(monkeypatch, 3000)
        monkeypatch.setattr(output_steps, "_REMOVED_ROWS", 10)
    stages, sources = RECIPES[name]
    report = marked.run("out", marked.recipe(stages, **({"sources": sources} if sources else {}), rest=HOLDOUT))
    assert any((marked.folder / "out/work/first").glob("*-0001.arrays")) == small_parts
    found = counted(marked, "out")
    for source, entry in report["sources"].items():
        kept, bad = found.get((source, "kept"), (0, 0)), found.get((source, "bad"), (0, 0))
        removed = [found.get((source, stage), (0, 0)) for stage in report["stages"]]
        assert entry["kept_documents"] == kept[0]
        assert entry["kept_bytes"] == kept[1]
        assert entry["removed_documents"] == sum(n for n, _ in removed)
        assert entry["removed_bytes"] == sum(n for _, n in removed)
        assert entry["quarantined_records"] == bad[0]
        assert entry["documents_in"] == entry["kept_documents"] + entry["removed_documents"] + entry["quarantined_records"]
        assert entry["bytes_in"] == entry["kept_bytes"] + entry["removed_bytes"]
        left = [entry["documents_in"] - entry["quarantined_records"], entry["bytes_in"]]
        for stage, gone in zip(report["stages"], removed, strict=True):
            counts = report["stages"][stage]["by_source"][source]
            assert [counts["documents_in"], counts["bytes_in"]] == left
            assert (counts["removed_documents"], counts["removed_bytes"]) == gone
            left = [left[0] - gone[0], left[1] - gone[1]]
        assert left == list(kept)
    assert {source for source, _ in found} <= set(report["sources"])
    for stage in report["stages"].values():
        for key in ("documents_in", "bytes_in", "removed_documents", "removed_bytes"):
            assert stage[key] == sum(counts[key] for counts in stage["by_source"].values())
        for _, _, documents, _ in stage.get("matrix", []):
            assert documents > 0
    totals = report["documents"]
    assert totals["in"] == totals["kept"] + totals["removed"] + totals["quarantined"]
    lines = sum(len(path.read_bytes().splitlines()) for path in marked.input.rglob("*.jsonl"))
    planned = [s for s in "abc" if f"{{input}}/{s}/" in (sources or "{input}/a/ {input}/b/ {input}/c/")]
    if sources != BY:
        lines = sum(len(path.read_bytes().splitlines()) for s in planned for path in (marked.input / s).rglob("*.jsonl"))
    assert totals["in"] == lines
    assert sum(split["documents"] for split in report["splits"].values()) == totals["kept"]
    removed = marked.rows("out", "removed")
    ids = [row["id"] for row in removed + marked.rows("out", "documents")]
    assert len(set(ids)) == len(ids) == totals["kept"] + totals["removed"]


def test_the_matrix_counts_who_duplicated_whom(marked):
    report = marked.run("out", marked.recipe(RECIPES["exact and minhash"][0], rest=HOLDOUT))
    source_of = {row["id"]: row["source"] for name in ("documents", "removed") for row in marked.rows("out", name)}
    expected: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for row in marked.rows("out", "removed"):
        if row["duplicate_of"]:
            expected[row["stage"]][row["source"], source_of[row["duplicate_of"]]] += 1
    for stage in ("exact", "minhash"):
        assert {(gone, kept): n for gone, kept, n, _ in report["stages"][stage]["matrix"]} == expected[stage]


def test_documents_carry_their_columns_and_are_sorted_by_rank(marked):
    marked.run("out", marked.recipe(RECIPES["own ids"][0], OWN_IDS, HOLDOUT))
    for path in (marked.folder / "out/documents").rglob("*.parquet"):
        table = pq.read_table(path)
        assert table.schema.names == [*SCHEMA.names, "n_duplicates"]
        assert table.schema.field("text").type == pa.large_string()
        assert table["rank"].to_pylist() == sorted(table["rank"].to_pylist())
    for row in marked.rows("out", "documents"):
        meta = json.loads(row["meta"])
        if row["source"] == "c":
            assert row["id"].startswith("c/")
            assert "key" in meta
        else:
            assert row["id"].startswith("key-")
        assert row["url"].startswith("http://e.org/")
        assert row["subset"] == (meta.get("meta", {}).get("part") if row["source"] == "a" else None)
        assert meta["content"] is not None


def test_removed_rows_carry_their_subset_and_measure(marked):
    marked.run("out", marked.recipe("  - length: {minimum_characters: 250}\n  - minhash: {bands: 40, rows: 3}\n", SUBSET, HOLDOUT))
    rows = marked.rows("out", "removed")
    assert {row["stage"] for row in rows} == {"length", "minhash"}
    for row in rows:
        position = int(row["id"].split("@")[1])
        record = json.loads((marked.input / row["id"].split("@")[0]).read_bytes()[position:].splitlines()[0])
        assert row["subset"] == (record["meta"].get("part") if row["source"] == "a" else None)
        assert row["text_bytes"] == len(record["content"].encode())
        if row["stage"] == "length":
            assert int(row["detail"].split(" ")[0]) < 250
            assert row["reason"] == "short"
        else:
            assert row["similarity"] is None
    found = {row["subset"] for row in rows}
    assert {"part 0", "part 1", "part 2", None} <= found


@pytest.mark.parametrize("small_parts", [False, True])
def test_a_removed_document_is_found_in_the_partition_of_its_id(marked, monkeypatch, small_parts):
    monkeypatch.setattr(output_steps, "_REMOVED_ROWS", 7)
    if small_parts:
        marked.cut_small(monkeypatch, 2000)
    marked.run("out", marked.recipe(RECIPES["exact and minhash"][0], rest=HOLDOUT))
    files = sorted((marked.folder / "out/removed").iterdir())
    assert len(files) > 3
    for name, key in (("removed", "id"), ("duplicates", "duplicate_of")):
        for number, path in enumerate(sorted((marked.folder / "out" / name).iterdir())):
            table = pq.read_table(path)
            keys = table[key].to_pylist()
            assert keys == sorted(keys)
            assert set(id_partitions(keys, len(files)).tolist()) <= {number}
    assert pq.read_schema(files[0]).names == REMOVED_SCHEMA.names


def test_json_lines_keep_the_members_of_the_input_and_its_own_names(marked):
    rest = "output: {format: jsonl.zst}\nmax_bad_fraction: 1.0\n"
    sources = '  - {name: a, path: "{input}/a/**", text: content, id: key}\n'
    marked.run("out", marked.recipe("  - exact\n", sources, rest))
    inputs = {}
    for path in sorted((marked.input / "a").rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            if line.startswith("{") and json.loads(line)["content"] is not None:
                record = json.loads(line)
                inputs[record["key"]] = record
    (path,) = (marked.folder / "out/documents/train").iterdir()
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    assert len(records) == len({record["content"] for record in inputs.values()})
    for record in records:
        assert record == inputs[record["key"]]


def test_json_lines_of_an_annotating_run_hold_its_columns(marked):
    rest = "output: {format: jsonl.zst}\nmax_bad_fraction: 1.0\n"
    marked.run("out", marked.recipe("  - minhash: {action: annotate}\n", rest=rest))
    marked.run("parquet", marked.recipe("  - minhash: {action: annotate}\n", rest="max_bad_fraction: 1.0\n"))
    expected = [(row["text"], row["component"], row["is_kept"]) for row in marked.rows("parquet", "documents")]
    found = []
    for path in sorted((marked.folder / "out/documents/train").iterdir()):
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            found += [(record["text"], record["component"], record["is_kept"]) for record in map(json.loads, lines)]
    assert found == expected
    assert {is_kept for _, _, is_kept in found} == {True, False}


@pytest.mark.parametrize("output_format", ["parquet", "jsonl.zst"])
def test_an_input_without_documents_gives_an_empty_result(bench, output_format):
    (bench.input / "a").mkdir(parents=True)
    (bench.input / "a/empty.jsonl").write_bytes(b"")
    recipe = bench.recipe(rest=f"output: {{format: {output_format}, split: {{validation: 0.1}}}}\n")
    report = bench.run("out", recipe)
    assert report["documents"] == {"in": 0, "kept": 0, "removed": 0, "quarantined": 0}
    assert sorted(bench.hashes("out")) == [
        "duplicates/duplicates-00000-of-00001.parquet",
        "edited/edited-00000-of-00001.parquet",
        "quarantine/quarantine-00000.parquet",
        "removed/removed-00000-of-00001.parquet",
    ]
    assert bench.run("out", recipe)["already_complete"]


def test_an_input_of_bad_records_alone_is_quarantined_and_counted(bench):
    (bench.input / "a").mkdir(parents=True)
    (bench.input / "a/bad.jsonl").write_bytes(b"[]\n" * 5)
    report = bench.run("out", bench.recipe(), {"max_bad_fraction": 1})
    assert report["documents"] == {"in": 5, "kept": 0, "removed": 0, "quarantined": 5}
    rows = bench.rows("out", "quarantine")
    assert [(row["source"], row["path"], row["offset"], row["bytes"]) for row in rows] == [
        ("a", "bad.jsonl", 3 * n, b"[]") for n in range(5)
    ]


def test_a_file_that_changes_between_the_passes_is_an_error_and_the_next_run_mends_it(small, monkeypatch):
    recipe = small.recipe()
    second_pass = output_steps.second_pass
    path = small.input / "a/1.jsonl"

    def late(task):
        path.write_text(path.read_text().replace("a", "e", 1))
        return second_pass(task)

    monkeypatch.setattr(output_steps, "second_pass", late)
    with pytest.raises(OSError, match=r"a/1\.jsonl changed while it was being processed; run the command again"):
        small.run("out", recipe)
    assert small.hashes("out") == {}
    monkeypatch.setattr(output_steps, "second_pass", second_pass)
    small.run("out", recipe)
    small.run("fresh", recipe)
    assert small.hashes("out") == small.hashes("fresh")
