"""`explain` says what the tables say, follows chains to their end, and reads little."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

import curation
from curation import storage
from curation.engine.run_folder import clean
from curation.questions.explain import explain
from curation.questions.lookup import FinishedRun
from curation.questions.similar import similar
from curation.questions.work_tables import WorkTables
from pipelines.main import app

SOURCES = """\
  - {name: a, path: "{input}/a/**"}
  - {name: b, path: "{input}/b/**", by: meta.set}
  - {name: own, path: "{input}/own/*.parquet", id: key}
"""
STAGES = "  - normalize: {scheme: nfc}\n  - length: {minimum_characters: 60}\n  - exact\n  - minhash\n"
PUNCTUATION = str.maketrans("", "", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def grams(text, n=13):
    cleaned = " ".join(text.lower().translate(PUNCTUATION).split())
    return {cleaned[i : i + n] for i in range(len(cleaned) - n + 1)}


def true_jaccard(one, other):
    a, b = grams(one), grams(other)
    return len(a & b) / len(a | b)


def fates(asked):
    return {name: explain(asked.directory, value) for name, value in asked.ids.items()}


@pytest.fixture(scope="module", params=["parquet", "lines"])
def answers(request, asked, asked_lines):
    run = {"parquet": asked, "lines": asked_lines}[request.param]
    return run, fates(run)


EXPECTED = {
    "original": "kept",
    "lone": "kept",
    "near": "minhash",
    "short": "length",
    "of own": "kept",
    "broken": "quarantined",
    "hostile": "kept",
    "crossing": "kept",
    "copy of near": "exact",
    "accents": "kept",
    "in set": "kept",
    "far": "kept",
    "second copy": "exact",
    "other": "kept",
    "own kept": "kept",
    "own copy": "exact",
    "own near": "minhash",
    "own hostile": "kept",
}


def test_every_document_has_the_fate_that_the_tables_give_it(answers):
    asked, found = answers
    assert {name: it.stage or it.fate for name, it in found.items()} == EXPECTED
    removed = asked.removed()
    for name, it in found.items():
        row = removed.get(asked.ids[name])
        assert (it.fate == "removed") == (row is not None)
        if row is not None:
            assert [it.reason, it.duplicate_of, it.source, it.detail, it.text_bytes] == [
                row[key] for key in ("reason", "duplicate_of", "source", "detail", "text_bytes")
            ]


def test_a_kept_document_comes_with_its_split_source_file_and_text(answers):
    asked, found = answers
    for it in found.values():
        if it.fate == "kept":
            assert it.file.startswith(f"documents/{it.split}/")
            assert (asked.bench.folder / "out" / it.file).is_file()
    assert found["in set"].source == "Set [b]"  # a source made by `by`, while the id keeps the outer name
    assert found["in set"].id.startswith("b/")
    assert found["lone"].text == asked.texts["lone"][:2000]


def test_splits_and_counts_of_duplicates_are_those_of_the_rows(asked):
    for row in asked.bench.rows("out", "documents"):
        it = explain(asked.directory, row["id"])
        assert (it.split, it.rank, it.n_duplicates, it.url) == (row["split"], row["rank"], row["n_duplicates"], row["url"])
        assert len(it.duplicates) == row["n_duplicates"]


def test_a_chain_is_followed_to_the_document_that_was_kept(answers):
    asked, found = answers
    it, ids = found["copy of near"], asked.ids
    assert [(step.id, step.fate, step.stage) for step in it.chain] == [
        (ids["near"], "removed", "minhash"),
        (ids["original"], "kept", None),
    ]
    assert it.similarity.how == "same text"
    assert it.chain[1].similarity.how == "measured"


def test_a_kept_document_lists_what_reached_it_through_another(answers):
    asked, found = answers
    listed = {one.id: (one.duplicate_of, one.stage) for one in found["original"].duplicates}
    ids = asked.ids
    assert listed == {
        ids["near"]: (ids["original"], "minhash"),
        ids["copy of near"]: (ids["near"], "exact"),
        ids["second copy"]: (ids["near"], "exact"),
    }
    assert found["original"].n_direct_duplicates == 1
    assert found["near"].n_direct_duplicates == 2


def test_a_similarity_measured_now_is_the_jaccard_of_the_ngrams(answers):
    asked, found = answers
    for one, other in (("near", "original"), ("own near", "crossing")):
        measured = found[one].similarity
        assert measured.how == "measured"
        assert measured.value == pytest.approx(true_jaccard(asked.texts[one], asked.texts[other]))
        (back,) = [d for d in found[other].duplicates if d.id == asked.ids[one]]
        assert back.similarity == measured


def test_a_quarantined_record_is_shown_with_its_reason_and_bytes(answers):
    asked, found = answers
    (row,) = asked.bench.rows("out", "quarantine")
    assert (found["broken"].reason, found["broken"].raw) == (row["reason"], row["bytes"].decode())


def test_an_id_of_the_inputs_own_is_also_found_by_its_place(asked):
    it = explain(asked.directory, "own/3.parquet@2")
    assert (it.id, it.stage) == ("k3", "minhash")
    assert "own/3.parquet@2" in it.notes[0]


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("a/1.jsonl@1", "the documents next to it are a/1.jsonl@0 and"),
        ("a/1.jsonl@999999", "past the last of its documents"),
        ("a/1.jsonl", "ids end with @ and the offset"),
        ("a/one.jsonl@0", "source a read no file one.jsonl"),
        ("b/1.jsonl@0", "was read as source a: try a/1.jsonl@…"),
        ("b/shallow/2.jsonl.zst@0", "deep/2.jsonl.zst"),
        ("own/3.parquet@77", "no document has the row 77"),
        ("k99", "whose input has ids of its own"),
        ("c/1.jsonl@0", "SOURCE one of a, b"),
        ("", "SOURCE one of a, b"),
        ("a/1.jsonl@\udcff", "not valid UTF-8"),
    ],
)
def test_an_unknown_id_is_met_with_the_nearest_help(asked, value, hint):
    it = explain(asked.directory, value)
    assert not it.found
    assert any(hint in line for line in it.hints), it.hints


def test_a_file_that_no_source_matched_is_named(make_asked, tmp_path):
    sources = '  - {name: a, path: "{input}/a/*.jsonl"}\n'
    asked = make_asked(tmp_path, sources=sources)
    it = explain(asked.directory, "a/deep/2.jsonl.zst@0")
    assert any("no source of the recipe matched it" in line for line in it.hints)


def test_a_limited_run_says_that_it_read_only_the_first_documents(make_asked, tmp_path):
    asked = make_asked(tmp_path, limit=2)
    assert explain(asked.directory, asked.ids["original"]).found
    it = explain(asked.directory, asked.ids["of own"])
    assert it.fate == "not found"
    assert "only the first 2 documents of each source" in it.hints[0]


def test_after_clean_all_is_told_but_what_only_work_knew(asked, tmp_path):
    before = fates(asked)
    shutil.copytree(asked.directory, tmp_path / "out")
    clean(str(tmp_path / "out"))
    for name, value in asked.ids.items():
        it, was = explain(str(tmp_path / "out"), value), before[name]
        assert (it.fate, it.stage, it.split, it.file) == (was.fate, was.stage, was.split, was.file)
        assert [step.id for step in it.chain] == [step.id for step in was.chain]
        assert [one.id for one in it.duplicates] == [one.id for one in was.duplicates]
        assert bool(it.notes) == (name in ("own kept", "own hostile"))  # a scan, and it says so
        if not name.startswith("own"):
            assert (it.text, it.similarity) == (was.text, was.similarity)
    assert explain(str(tmp_path / "out"), asked.ids["own near"]).similarity.why_not.startswith("without work/")
    assert any("clean" in line for line in explain(str(tmp_path / "out"), "a/1.jsonl@1").hints)


@pytest.mark.parametrize("change", ["deleted", "touched"])
def test_without_the_input_shared_bands_stand_for_the_similarity(make_asked, tmp_path, change):
    from datasketch import MinHash
    from xxhash import xxh32_intdigest

    asked = make_asked(tmp_path)
    for path in (tmp_path / "input").rglob("*.*"):
        if path.is_file() and change == "deleted":
            path.unlink()
        elif path.is_file():
            path.write_bytes(path.read_bytes() + b"\n")
    it = explain(asked.directory, asked.ids["near"])
    assert it.text is None and it.similarity.value is None
    assert {"deleted": "no longer there", "touched": "changed since"}[change] in it.similarity.why_not

    def slots(text):
        sketch = MinHash(128, 1, hashfunc=xxh32_intdigest)
        sketch.update_batch([gram.encode() for gram in grams(text)])
        return sketch.hashvalues

    one, other = slots(asked.texts["near"]), slots(asked.texts["original"])
    shared = sum((one[b * 13 : b * 13 + 13] == other[b * 13 : b * 13 + 13]).all() for b in range(9))
    assert (it.similarity.shared_bands, it.similarity.bands) == (shared, 9)
    assert f"they share {shared} of 9 bands" in str(it)
    assert explain(asked.directory, asked.ids["original"]).text == asked.texts["original"][:2000]  # kept texts need no input


def test_a_verified_run_tells_the_similarity_that_it_recorded(make_asked, tmp_path):
    stages = "  - minhash: {bands: 42, rows: 3, verify: exact, threshold: 0.8}\n"
    asked = make_asked(tmp_path, stages=stages)
    row = asked.removed()[asked.ids["near"]]
    it = explain(asked.directory, asked.ids["near"])
    assert it.similarity.how == "recorded"
    assert it.similarity.value == pytest.approx(row["similarity"], abs=1e-6)
    assert it.similarity.value == pytest.approx(true_jaccard(asked.texts["near"], asked.texts["original"]), abs=1e-6)
    assert "as the run measured it" in str(it)


def test_json_lines_whose_own_members_include_an_id_are_found_by_work_or_by_the_input(make_bench, document, tmp_path):
    bench, source = make_bench(tmp_path), random.Random(2)
    texts = [document(source, 6) for _ in range(3)]
    bench.write("a/1.jsonl", [*texts, texts[0]], [{"id": f"theirs {n}"} for n in range(4)])
    rest = "output: {format: jsonl.zst}\n"
    bench.run("out", bench.recipe("  - exact\n", '  - {name: a, path: "{input}/a/*"}\n', rest))
    second = f"a/1.jsonl@{len((bench.input / 'a/1.jsonl').read_bytes().splitlines()[0]) + 1}"
    for _ in range(2):
        it = explain(str(tmp_path / "out"), second)
        assert (it.fate, it.text) == ("kept", texts[1])
        assert explain(str(tmp_path / "out"), second + "1").fate == "not found"
        clean(str(tmp_path / "out"))


def test_an_annotated_document_is_kept_and_names_what_it_duplicates(make_asked, tmp_path):
    asked = make_asked(tmp_path, stages="  - length: {minimum_characters: 60}\n  - minhash: {action: annotate}\n")
    it = explain(asked.directory, asked.ids["near"])
    assert (it.fate, it.is_kept, it.component) == ("kept", False, asked.ids["original"])
    assert f"annotated as a duplicate of {asked.ids['original']}" in str(it)


def test_what_is_printed_holds_no_control_characters_and_no_markup_is_read(answers):
    asked, _ = answers
    for name in ("hostile", "own hostile", "crossing", "own near"):
        result = CliRunner().invoke(app, ["explain", asked.directory, asked.ids[name]])
        assert result.exit_code == 0
        assert re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", result.stdout) is None
    printed = CliRunner().invoke(app, ["explain", asked.directory, asked.ids["hostile"]]).stdout
    assert "[bold]<script>alert(1)</script>" in printed


def test_json_holds_every_field_and_an_unknown_id_exits_with_1(asked):
    result = CliRunner().invoke(app, ["explain", asked.directory, asked.ids["own hostile"], "--json"])
    assert (result.exit_code, result.stdout.isascii()) == (0, True)
    assert json.loads(result.stdout) == explain(asked.directory, asked.ids["own hostile"]).to_dict()
    result = CliRunner().invoke(app, ["explain", asked.directory, "a/1.jsonl@1", "--json"])
    assert (result.exit_code, json.loads(result.stdout)["fate"]) == (1, "not found")
    result = CliRunner().invoke(app, ["explain", str(asked.bench.input), "a/1.jsonl@1"])
    assert (result.exit_code, "holds no run" in result.stderr) == (2, True)


PYTHON_STAGE = """
import pyarrow.compute as pc
from curation.stages import MapResult

def mine(batch):
    texts = pc.replace_substring(batch["text"], "lone", "alone")
    return MapResult(removed=pc.starts_with(texts, "Secret").to_numpy(zero_copy_only=False), reason="a secret",
                     texts=pc.utf8_upper(texts))
"""


def test_what_a_stage_of_the_users_did_is_told_and_its_code_is_run_again_only_when_allowed(make_asked, tmp_path):
    (tmp_path / "mine.py").write_text(PYTHON_STAGE + f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    stages = f"  - python: {{as: mine, file: {tmp_path / 'mine.py'}, function: mine}}\n  - minhash\n"
    asked = make_asked(tmp_path, stages=stages)
    (tmp_path / "ran").unlink()
    it = explain(asked.directory, asked.ids["near"])
    assert [(edit.stage, edit.characters_before, edit.characters_after) for edit in it.edits] == [
        ("mine", len(asked.texts["near"]), len(asked.texts["near"]))
    ]
    assert "edited by mine" in str(it)
    assert it.text is None and "--run-code" in it.text_why_not
    with pytest.raises(ValueError, match="--run-code"):
        similar(asked.directory, asked.texts["near"])
    assert not (tmp_path / "ran").exists()
    (tmp_path / "mine.py").unlink()  # the run recorded the code
    it = explain(asked.directory, asked.ids["near"], run_code=True)
    assert (it.stage, it.text) == ("minhash", asked.texts["near"].upper()[:2000])


def test_the_results_may_lie_in_an_object_store(asked):
    out = f"memory://{uuid.uuid4().hex}/out"
    recipe = asked.bench.recipe(STAGES, SOURCES, "max_bad_fraction: 0.5\n")
    call = ["run", str(recipe), "--input", str(asked.bench.input), "--output", out, "--executor", "inline"]
    assert CliRunner().invoke(app, call).exit_code == 0
    for name, value in asked.ids.items():
        it = explain(out, value)
        assert (it.stage or it.fate) == EXPECTED[name]
        assert it.text is not None or name == "broken"
    assert similar(out, asked.texts["near"]).candidates == similar(asked.directory, asked.texts["near"]).candidates


@pytest.fixture
def opened(monkeypatch):
    """Counts how often each file is read."""
    counted: Counter[str] = Counter()
    for name in ("open_read", "read_range", "open_stream", "read_bytes"):
        function = getattr(storage, name)

        def counting(path, *arguments, function=function, **options):
            counted[path] += 1
            return function(path, *arguments, **options)

        monkeypatch.setattr(storage, name, counting)
    return counted


def test_a_run_of_many_parts_is_asked_with_few_reads(make_bench, document, tmp_path, monkeypatch, opened):
    bench, source = make_bench(tmp_path), random.Random(1)
    originals = [document(source, 3) for _ in range(300)]
    bench.write("a/1.jsonl", originals)
    bench.write("b/2.jsonl", [*originals[:40], *(document(source, 3) for _ in range(200))])
    sources = '  - {name: a, path: "{input}/a/*"}\n  - {name: b, path: "{input}/b/*"}\n'
    bench.cut_small(monkeypatch, 1000)
    bench.run("out", bench.recipe("  - length: {minimum_characters: 60}\n  - exact\n  - minhash\n", sources))
    out = str(tmp_path / "out")
    assert len(WorkTables.open(FinishedRun.open(out)).parts) > 100
    removed = bench.rows("out", "removed")
    kept = next(row for row in bench.rows("out", "documents") if row["n_duplicates"])
    assert len(removed) == 40
    for value, fate in ((removed[0]["id"], "removed"), (kept["id"], "kept"), ("a/1.jsonl@1", "not found")):
        opened.clear()
        assert explain(out, value).fate == fate
        assert len(opened) < 20, opened
        assert sum(opened.values()) < 50, opened


def test_what_is_no_string_is_no_id(asked):
    with pytest.raises(ValueError, match="7 is no id of a document; give a string"):
        curation.open_run(asked.directory).explain(7)


@pytest.mark.parametrize("form", ["asked", "asked_lines"])
def test_an_offset_with_leading_zeros_is_not_taken_for_the_document_there(form, request):
    run = request.getfixturevalue(form)
    for name in ("original", "near", "broken"):
        source, _, offset = run.ids[name].rpartition("@")
        assert not explain(run.directory, f"{source}@0{offset}").found


def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word(asked):
    command = [str(Path(sys.executable).with_name("curate")), "explain", asked.directory, asked.ids["original"]]
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, text=True)
    os.close(written)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_without_unicode_shows_numbers_of_characters(asked):
    command = [str(Path(sys.executable).with_name("curate")), "explain", asked.directory, asked.ids["hostile"]]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"a/\\xfc @ [b]/")
