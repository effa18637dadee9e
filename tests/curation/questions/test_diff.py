"""What two runs treat differently, against a comparison of dictionaries of all their documents."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner

from curation.questions import diff
from curation.questions.diff import Fate, compare
from curation.questions.diff_inputs import setting_changes
from pipelines.main import app

SOURCES = """\
  - {name: a, path: "{input}/a/**", by: meta.set}
  - {name: b, path: "{input}/b/**"}
  - {name: own, path: "{input}/own/**", id: key}
"""
MADE_IDS = """\
  - {name: a, path: "{input}/a/**", by: meta.set}
  - {name: b, path: "{input}/b/**"}
"""
STAGES = """\
  - normalize: {scheme: nfc}
  - length: {minimum_characters: 60}
  - exact
  - minhash
"""
REST = "max_bad_fraction: 0.9\noutput: {split: {validation: 0.2}}\n"


def fates(bench, output):
    """{id: (fate, stage, reason, duplicate_of, source, text_bytes)} of all that a run names."""
    found = {}
    for row in bench.rows(output, "quarantine"):
        reason = re.sub("[0-9]+", "N", row["reason"].split(":")[0])
        found[f"{row['source']}/{row['path']}@{row['offset']}"] = ("quarantined", None, reason, None, row["source"], None)
    for row in bench.rows(output, "removed"):
        decided = (row["stage"], row["reason"], row["duplicate_of"])
        assert row["id"] not in found
        found[row["id"]] = ("removed", *decided, row["source"], row["text_bytes"])
    kept = [(row["id"], row["source"]) for row in bench.rows(output, "documents")]
    for path in sorted((bench.folder / output / "documents").rglob("*.zst")):
        lines = zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True).read().splitlines()
        for record in map(json.loads, lines):
            kept.append((record.get("key", record.get("id")), record["meta"].get("set") or "b"))
    for value, source in kept:
        assert value not in found
        found[value] = ("kept", None, None, None, source, None)
    return found


def expected(a, b):
    """Documents and text bytes by (fate in A, fate in B) and source; a record of the quarantine has the source of its file."""
    documents, text_bytes = Counter(), Counter()
    absent = ("absent", None, None, None, None, None)
    for value in a.keys() | b.keys():
        in_a, in_b = a.get(value, absent), b.get(value, absent)
        if in_a[:4] != in_b[:4]:
            read = [fate for fate in (in_a, in_b) if fate[0] in ("kept", "removed")]
            source = (read or [fate for fate in (in_a, in_b) if fate[0] == "quarantined"])[0][4]
            key = Fate(*in_a[:3]), Fate(*in_b[:3]), source
            documents[key] += 1
            text_bytes[key] += in_a[5] or in_b[5] or 0
    return documents, text_bytes


def check(bench, one, other):
    """`compare` finds what the dictionaries show; the result."""
    a, b = fates(bench, one), fates(bench, other)
    documents, text_bytes = expected(a, b)
    output = bench.folder / f"{one}-{other}.parquet"
    found = compare(str(bench.folder / one), str(bench.folder / other), str(output))
    changes = [*found.changes, *found.other_copies]
    assert {(c.a, c.b, source): tally.documents for c in changes for source, tally in c.by_source.items()} == documents
    assert all((tally.text_bytes or 0) == text_bytes[c.a, c.b, s] for c in changes for s, tally in c.by_source.items())
    assert found.documents == documents.total()
    for change in changes:
        assert change.total.documents == sum(tally.documents for tally in change.by_source.values())
        assert (change.total.text_bytes or 0) == sum(tally.text_bytes or 0 for tally in change.by_source.values())
        assert len(change.examples) == min(5, change.total.documents)
        for example in change.examples:
            in_a, in_b = a.get(example.id), b.get(example.id)
            assert (in_a or ["absent"])[0] == change.a.fate and (in_b or ["absent"])[0] == change.b.fate
            assert example.duplicate_of_a == (in_a and in_a[3]) and example.duplicate_of_b == (in_b and in_b[3])
    rows = pq.read_table(output).to_pylist()
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    fates_of_rows = [[Fate(*(row[f"{name}_{side}"] for name in ("fate", "stage", "reason"))) for side in "ab"] for row in rows]
    assert Counter((*pair, row["source"]) for pair, row in zip(fates_of_rows, rows, strict=True)) == documents
    return found


def write_input(bench, mixed_texts, seed):
    """Three sources, one with ids of its own, one split by a value; some records are bad."""
    texts = [text * (5 if number % 20 == 3 else 1) for number, text in enumerate(mixed_texts(seed, 60))]
    third = len(texts) // 3
    sets = [{"meta": {"set": f"set {n % 3}"}} for n in range(third)]
    bench.write("a/1.jsonl", texts[: third // 2], sets[: third // 2])
    bench.write("a/2.jsonl", texts[third // 2 : third], sets[third // 2 : third])
    bench.write_files(texts[third : 2 * third], ["b/1.jsonl", "b/x/2.jsonl", "b/3.jsonl.zst"])
    own = texts[2 * third :]
    bench.write("own/1.jsonl", own, [{"key": f"k{n * 7 % 1000}@{n}", "meta": {"set": "own"}} for n in range(len(own))])
    with (bench.input / "b" / "1.jsonl").open("a") as file:
        file.write('{"text": "never closed\n{"no text": 1}\n')


VARIATIONS = {
    "other threshold": {"settings": {"minhash.verify": "exact", "minhash.threshold": 0.97}},
    "other bands": {"settings": {"minhash.bands": 30, "minhash.rows": 4}},
    "other length": {"settings": {"length.minimum_characters": 400}},
    "other keep": {"settings": {"minhash.keep": ["longest", "first"]}},
    "a stage less": {"stages": STAGES.replace("  - exact\n", "")},
    "a stage of another name": {"stages": STAGES.replace("- exact", "- exact: {as: copies}")},
    "short documents allowed": {"settings": {"max_document_bytes": 1024}},
    "a limit": {"limit": 15},
    "JSON lines": {"settings": {"output.format": "jsonl.zst", "length.minimum_characters": 300}},
}


@pytest.mark.parametrize("sources", [SOURCES, MADE_IDS], ids=["own ids too", "made ids"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_counts_of_every_change_are_those_of_a_comparison_of_dictionaries(bench, mixed_texts, seed, sources):
    write_input(bench, mixed_texts, seed)
    bench.run("plain", bench.recipe(STAGES, sources, REST))
    differing = {}
    for name, options in VARIATIONS.items():
        recipe = bench.recipe(options.get("stages", STAGES), sources, REST)
        bench.run(name, recipe, options.get("settings"), limit=options.get("limit"))
        differing[name] = check(bench, "plain", name).documents
        assert check(bench, name, "plain").documents == differing[name]
    assert all(differing.values())
    check(bench, "JSON lines", "a limit")
    assert check(bench, "plain", "plain").documents == 0


@pytest.mark.parametrize("sources", [SOURCES, MADE_IDS], ids=["own ids too", "made ids"])
@pytest.mark.parametrize("file_format", ["parquet", "jsonl.zst"])
def test_documents_of_files_that_only_one_run_read_are_not_in_the_input_of_the_other(bench, mixed_texts, sources, file_format):
    write_input(bench, mixed_texts, 3)
    recipe = bench.recipe(STAGES, sources, REST)
    settings = {"output.format": file_format}
    bench.run("plain", recipe, settings)
    bench.write("b/0.jsonl", mixed_texts(8, 15))
    bench.run("added", recipe, settings)
    (bench.input / "a" / "2.jsonl").unlink()
    bench.run("removed", recipe, {**settings, "length.minimum_characters": 200})
    bench.write("b/x/2.jsonl", mixed_texts(9, 10))
    bench.run("changed", recipe, settings)
    for path in bench.input.rglob("*.jsonl"):
        os.utime(path, ns=(1, 1))
    bench.run("touched", recipe, settings)
    pairs = [("plain", "added"), ("added", "removed"), ("removed", "changed"), ("plain", "changed"), ("changed", "touched")]
    for one, other in pairs:
        found = check(bench, one, other)
        assert bool(found.documents) == (other != "touched")
    found = compare(str(bench.folder / "added"), str(bench.folder / "removed"))
    assert (found.input.only_in_a.files, found.input.only_in_a.first) == (1, ["a/2.jsonl"])
    assert {Fate("absent")} < {change.b for change in found.changes}
    assert [(value.name, value.a, value.b) for value in found.settings] == [("length.minimum_characters", 60, 200)]


def test_what_both_runs_keep_is_not_read_where_they_read_the_same_files(bench, mixed_texts):
    write_input(bench, mixed_texts, 4)
    recipe = bench.recipe(STAGES, MADE_IDS, REST)
    bench.run("one", recipe)
    bench.run("other", recipe, {"length.minimum_characters": 300})
    documents = check(bench, "one", "other").documents
    for path in bench.folder.rglob("documents/**/*.parquet"):
        path.write_bytes(b"x" * path.stat().st_size)
    for name in ("one", "other"):
        path = bench.folder / name / "run.json"
        content = json.loads(path.read_text())
        content["recipe"]["output"]["format"] = "jsonl.zst"  # so that no beginnings of texts are read
        path.write_text(json.dumps(content))
    assert compare(str(bench.folder / "one"), str(bench.folder / "other")).documents == documents > 0


def test_examples_are_the_same_every_time_and_show_how_kept_texts_begin(bench, mixed_texts):
    write_input(bench, mixed_texts, 5)
    recipe = bench.recipe(STAGES, MADE_IDS, REST)
    bench.run("one", recipe)
    bench.run("other", recipe, {"length.minimum_characters": 400})
    found = compare(str(bench.folder / "one"), str(bench.folder / "other"))
    assert found.to_dict() == compare(str(bench.folder / "one"), str(bench.folder / "other")).to_dict()
    change = next(change for change in found.changes if change.a.fate == "kept")
    texts = {row["id"]: row["text"] for row in bench.rows("one", "documents")}
    assert all(example.text == texts[example.id][:200] for example in change.examples)


def test_removal_as_a_duplicate_of_another_copy_is_told_from_a_change_of_fate(bench, document):
    import random

    text = document(random.Random(1), 8)
    bench.write("a/1.jsonl", [text + " first", document(random.Random(2), 8)])
    bench.write("b/1.jsonl", [text + " then a longer one by some words", text + " first"])
    stages = "  - minhash: {keep: %s}\n"
    bench.run("first", bench.recipe(stages % "first", MADE_IDS, REST))
    bench.run("longest", bench.recipe(stages % "[longest, first]", MADE_IDS, REST))
    found = check(bench, "first", "longest")
    (other,) = found.other_copies
    assert (other.a, other.total.documents) == (Fate("removed", "minhash", "near duplicate"), 1)
    assert (other.examples[0].duplicate_of_a, other.examples[0].duplicate_of_b) == ("a/1.jsonl@0", "b/1.jsonl@0")
    assert {(change.a.fate, change.b.fate): change.total.documents for change in found.changes} == {
        ("kept", "removed"): 1,
        ("removed", "kept"): 1,
    }


def test_a_record_that_only_one_run_can_read_goes_from_the_quarantine_to_its_fate(bench, document):
    import random

    texts = [document(random.Random(n), 8) for n in range(30)]
    bench.write("b/1.jsonl", [*texts[:20], "long " * 500, *texts[20:]])
    recipe = bench.recipe(STAGES, MADE_IDS, REST)
    bench.run("all", recipe)
    bench.run("capped", recipe, {"max_document_bytes": 2048})
    found = check(bench, "all", "capped")
    (change,) = found.changes
    assert (change.a.fate, change.b.fate, change.total.documents) == ("kept", "quarantined", 1)
    assert "N bytes" in change.b.reason


HOSTILE = "\x1b[31m\u202e[bold]<b>'; DROP TABLE"


@pytest.fixture
def hostile(bench, document):
    """Two runs with hostile ids, texts, file names and sources, in folders whose names look like patterns."""
    import random

    members = [{"key": f"{HOSTILE}{n}", "meta": {"set": HOSTILE}} for n in range(10)]
    bench.write("own/'[x]*.jsonl", [f"{HOSTILE} {document(random.Random(n), n + 1)}" for n in range(10)], members)
    sources = '  - {name: own, path: "{input}/own/**", id: key, by: meta.set}\n'
    recipe = bench.recipe(STAGES, sources, REST)
    bench.run("it's [one]?", recipe)
    bench.run("*other", recipe, {"length.minimum_characters": 500})
    return bench


def test_hostile_ids_and_texts_reach_the_terminal_without_control_characters(hostile):
    folders = [str(hostile.folder / name) for name in ("it's [one]?", "*other")]
    for arguments in ([], ["--json"]):
        result = CliRunner().invoke(app, ["diff", *folders, *arguments])
        assert result.exit_code == 0, result.output
        assert all(character.isprintable() or character == "\n" for character in result.stdout)
    assert json.loads(result.stdout)["documents"] > 0
    assert HOSTILE in json.loads(result.stdout)["changes"][0]["by_source"]


def test_the_command_says_first_what_explains_the_rest(hostile, tmp_path):
    output = tmp_path / "differing.parquet"
    folders = [str(hostile.folder / name) for name in ("it's [one]?", "*other")]
    result = CliRunner().invoke(app, ["diff", *folders, "--output", str(output)])
    setting = result.stdout.index("length.minimum_characters: 60 in A, 500 in B")
    assert setting < result.stdout.index("treated differently") < result.stdout.index("kept in A, removed by length")
    assert pq.read_table(output).num_rows == compare(*folders).documents


@pytest.mark.parametrize("content", [None, '{"format_version": 2, "status": "running", "outputs": []}', '{"format_version": 99}'])
def test_a_folder_without_a_finished_run_is_a_usage_error(hostile, tmp_path, content):
    folder = tmp_path / "empty"
    folder.mkdir()
    if content:
        (folder / "run.json").write_text(content)
    result = CliRunner().invoke(app, ["diff", str(hostile.folder / "*other"), str(folder)])
    assert result.exit_code == 2
    assert str(folder) in result.stderr.replace("\n", "")


def test_runs_in_an_object_store_are_compared_like_local_ones(bench, mixed_texts):
    import fsspec

    write_input(bench, mixed_texts, 6)
    recipe = bench.recipe(STAGES, MADE_IDS, REST)
    bench.run("one", recipe)
    bench.run("other", recipe, {"minhash.bands": 30, "minhash.rows": 4})
    store = fsspec.filesystem("memory")
    for name in ("one", "other"):
        for path in (bench.folder / name).rglob("*"):
            if path.is_file() and "work" not in path.parts:
                store.pipe_file(f"/diffed/{path.relative_to(bench.folder)}", path.read_bytes())
    try:
        there = compare("memory://diffed/one", "memory://diffed/other", "memory://diffed/out.parquet")
        here = compare(str(bench.folder / "one"), str(bench.folder / "other"))
        assert there.changes == here.changes and there.documents > 0
        with store.open("/diffed/out.parquet") as file:
            assert pq.read_table(file).num_rows == there.documents
    finally:
        store.rm("/diffed", recursive=True)


def test_settings_are_named_as_the_command_takes_them_and_other_stages_are_listed():
    def run(*stages, **others):
        return {"recipe": {"sources": [], "stages": list(stages), **others}, "limit": None}

    a = run({"name": "mine", "file": "m.py", "settings": {"limit": 3}}, {"name": "exact"}, seed=1)
    b = run({"name": "mine", "file": "m.py", "settings": {"limit": 4}}, seed=1)
    found = {change.name: (change.a, change.b) for change in setting_changes(a, b)}
    assert found == {"stages": (["mine", "exact"], ["mine"]), "mine.settings.limit": (3, 4)}


def test_comparing_leaves_no_file_behind(hostile, tmp_path):
    folders = [str(hostile.folder / name) for name in ("it's [one]?", "*other")]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = f"from curation.questions.diff import compare; print(compare(*{folders!r}).documents)"
    environment = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=Path.cwd())
    assert int(done.stdout) > 0
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("place", ["run.json", "removed/mine.parquet", "work/mine.parquet", "folder.parquet", "differing.csv"])
def test_the_file_of_differences_never_replaces_what_a_run_left(hostile, place):
    folder = hostile.folder / "*other"
    (folder / "folder.parquet").mkdir()
    before = (folder / "run.json").read_bytes()
    result = CliRunner().invoke(app, ["diff", str(hostile.folder / "it's [one]?"), str(folder), "--output", str(folder / place)])
    assert result.exit_code == 2
    assert "the output" in result.stderr
    assert (folder / "run.json").read_bytes() == before


def test_a_file_of_differences_that_cannot_be_written_is_a_failure_in_a_line(hostile):
    folders = [str(hostile.folder / name) for name in ("it's [one]?", "*other")]
    result = CliRunner().invoke(app, ["diff", *folders, "--output", "/proc/differing.parquet"])
    assert result.exit_code == 1
    assert "/proc/" in result.stderr and "unexpected" not in result.stderr


def test_an_interrupt_stops_a_query_and_stays_an_interrupt():
    with pytest.raises(KeyboardInterrupt), diff._database() as (database, _):
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
        diff._rows(database, "SELECT sum(hash(range) % 7) FROM range(5000000000)")


def test_a_difference_shows_itself_in_a_notebook_as_on_the_terminal(hostile):
    found = compare(str(hostile.folder / "*other"), str(hostile.folder / "it's [one]?"))
    assert repr(found) == str(found)
