"""Things are found in a finished run by few reads, and by no other way of counting than a full read."""

import json
import pickle
import random
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.engine.array_file import ArrayFile
from curation.engine.removal_log import id_partitions
from curation.questions.diff import compare
from curation.questions.documents import Documents
from curation.questions.explain import explain
from curation.questions.lookup import FinishedRun, Place
from curation.questions.result_files import IdTable
from curation.questions.similar import similar
from curation.questions.work_tables import WorkTables
from curation.report import render


@pytest.fixture(scope="module")
def run(asked):
    return FinishedRun.open(asked.directory)


def test_a_folder_without_a_finished_run_is_refused_with_what_to_do(tmp_path, asked):
    with pytest.raises(ValueError, match="holds no run"):
        FinishedRun.open(str(tmp_path))
    shutil.copytree(asked.directory, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "status": "running"}))
    with pytest.raises(ValueError, match="not finished"):
        FinishedRun.open(str(tmp_path / "run"))
    path.write_text(json.dumps({**description, "format_version": 1}))
    with pytest.raises(ValueError, match="format version 1, this is version 2; give the command of the run again"):
        FinishedRun.open(str(tmp_path / "run"))
    path.write_text(json.dumps({**description, "format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        FinishedRun.open(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a/1.jsonl@0", Place(0, 0)),
        ("a/ü @ [b]/\u202e@7.jsonl@12", Place(1, 12)),
        ("a/1.jsonl", None),
        ("a/1.jsonl@", None),
        ("a/1.jsonl@-1", None),
        ("a/1.jsonl@00", None),
        ("a/1.jsonl@٣", None),
        ("a/1.jsonl@99999999999999999999999", None),
        ("a/2.jsonl@0", None),
        ("b/1.jsonl@0", None),
        ("@", None),
        ("", None),
    ],
)
def test_made_up_ids_are_read_from_the_right_and_only_for_files_that_were_read(run, value, expected):
    assert run.place(value) == expected


def test_every_row_of_a_partitioned_table_is_found_and_nothing_else_is(tmp_path):
    generator = np.random.default_rng(1)
    ids = [f"source/{n:x}.jsonl@{n % 7}" for n in generator.integers(0, 2**40, 400).tolist()] + ["\U0001f600", "z" * 5000, "a"]
    rows = [{"id": value, "number": number} for value in ids for number in range(1 + len(value) % 5)]
    paths = []
    for partition in range(3):
        mine = [row for row in rows if id_partitions([row["id"]], 3)[0] == partition]
        table = pa.Table.from_pylist(mine, pa.schema([("id", pa.string()), ("number", pa.int64())])).sort_by("id")
        paths.append(str(tmp_path / f"{partition}.parquet"))
        pq.write_table(table, paths[-1], row_group_size=7)
    found = IdTable(paths, "id").find([*ids, "none", "source/zzz"], most_rows=2)
    assert set(found) == set(ids)
    for value, (count, some) in found.items():
        expected = [row for row in rows if row["id"] == value]
        assert count == len(expected)
        assert [row["id"] for row in some] == [value] * min(2, len(expected))


def test_documents_are_found_by_rank_with_and_without_the_ranks_in_run_json(asked):
    rows = {row["rank"]: row for row in asked.bench.rows("out", "documents")}
    run = FinishedRun.open(asked.directory)
    bare = FinishedRun.open(asked.directory)
    for entry in bare.run["outputs"]:
        entry.pop("first_rank", None), entry.pop("last_rank", None)
    wanted = [*rows, 0, 1, 2**40 - 1, max(rows) + 1]
    for one in (run, bare):
        found = one.documents(wanted)
        assert {rank: (row["id"], part.split) for rank, (row, part) in found.items()} == {
            rank: (row["id"], row["split"]) for rank, row in rows.items()
        }


def test_every_document_is_at_its_place_in_the_parts_and_the_gaps_between_are_empty(asked, run):
    work = WorkTables.open(run)
    places = {}
    for index, part in enumerate(work.parts):
        ids, mine = work.ids(index, np.arange(part.n_documents))
        places |= dict(zip(ids, mine, strict=True))
    good = {value for name, value in asked.ids.items() if name != "broken"}
    assert set(places) == good
    assert len(work.parts) > 5
    located = work.locate(list(places.values()))
    assert set(located) == set(places.values())
    assert work.locate([Place(place.number, place.position + 1) for place in places.values()]).keys() <= set(places.values())
    own = [value for name, value in asked.ids.items() if name.startswith("own ")]
    assert {value: work.place(row) for value, row in work.find_own_ids([*own, "k9"]).items()} == {v: places[v] for v in own}


def test_texts_are_those_of_the_run_whether_kept_or_removed(asked, run):
    documents = Documents(run, 10**9)
    kept = {row["id"]: row["text"] for row in asked.bench.rows("out", "documents")}
    good = [value for name, value in asked.ids.items() if name != "broken"]
    documents.read_texts(good)
    for name, value in asked.ids.items():
        if name != "broken":
            assert documents.text(value).text == unicodedata.normalize("NFC", asked.texts[name])
            assert kept.get(value, documents.text(value).text) == documents.text(value).text


def test_a_text_beyond_the_budget_is_a_reason_and_no_text(asked, run):
    documents = Documents(run, 1000)
    documents.read_texts([asked.ids["original"], asked.ids["near"]])
    for name in ("original", "near"):
        assert documents.text(asked.ids[name]).text is None
        assert "would take long" in documents.text(asked.ids[name]).why_not


def test_a_run_that_was_moved_as_a_whole_still_finds_its_work(asked, tmp_path):
    shutil.copytree(asked.directory, tmp_path / "moved")
    work = WorkTables.open(FinishedRun.open(str(tmp_path / "moved")))
    assert all(part.path.startswith(str(tmp_path / "moved")) for part in work.parts)
    assert sum(ArrayFile(f"{part.path}.arrays").length("position") for part in work.parts) == len(asked.ids) - 1


def test_a_pickle_in_a_folder_that_somebody_sent_cannot_run_code(asked, tmp_path):
    shutil.copytree(asked.directory, tmp_path / "sent")
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (marker,)

    (tmp_path / "sent" / "work" / "parts.pickle").write_bytes(pickle.dumps([Hostile()]))
    assert WorkTables.open(FinishedRun.open(str(tmp_path / "sent"))) is None
    assert not marker.exists()


def test_work_of_another_input_is_not_taken_for_this_runs(asked, tmp_path):
    shutil.copytree(asked.directory, tmp_path / "run")
    parts = tmp_path / "run" / "work" / "parts.pickle"
    fewer = pickle.loads(parts.read_bytes())[:-1]
    parts.write_bytes(pickle.dumps(fewer))
    assert WorkTables.open(FinishedRun.open(str(tmp_path / "run"))) is None


@pytest.mark.parametrize("folder", ["removed", "documents/train"])
def test_a_lost_file_is_named_by_every_question(asked, tmp_path, folder):
    shutil.copytree(asked.directory, tmp_path / "run")
    lost = sorted((tmp_path / "run" / folder).iterdir())[0]
    lost.unlink()
    run = str(tmp_path / "run")
    questions = [lambda: explain(run, asked.ids["lone"])]
    if folder == "removed":
        questions.append(lambda: compare(asked.directory, run))
    for question in questions:
        with pytest.raises(ValueError, match=f"{lost} is gone; bring the folder back whole"):
            question()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scrambled(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(byte ^ 0x5A for byte in data[len(data) // 4 : len(data) // 2])
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, scrambled, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("folder", ["removed", "documents/validation", "edited", "quarantine", "lines"])
def test_a_damaged_file_is_named_and_what_helps(asked, asked_lines, tmp_path, folder, damage):
    shutil.copytree(asked_lines.directory if folder == "lines" else asked.directory, tmp_path / "run")
    damaged = next((tmp_path / "run" / ("documents/validation" if folder == "lines" else folder)).iterdir())
    damage(damaged)
    value = asked.ids["broken" if folder == "quarantine" else "original"]
    with pytest.raises(ValueError, match=f"{damaged} is damaged.*run again with --fresh"):
        explain(str(tmp_path / "run"), value)


def test_a_table_of_something_else_is_damage(asked, tmp_path):
    shutil.copytree(asked.directory, tmp_path / "run")
    (table,) = (tmp_path / "run" / "removed").iterdir()
    pq.write_table(pa.table({"other": [1]}), table)
    with pytest.raises(ValueError, match=f"{table} is damaged"):
        explain(str(tmp_path / "run"), asked.ids["short"])


def test_reports_that_are_gone_of_another_run_or_lack_a_part_are_refused(asked, asked_lines, tmp_path):
    shutil.copytree(asked.directory, tmp_path / "run")
    report, description = tmp_path / "run" / "report.json", tmp_path / "run" / "run.json"
    shutil.copy(Path(asked_lines.directory) / "report.json", report)
    for question in (lambda: similar(str(tmp_path / "run"), asked.texts["lone"]), lambda: render(str(tmp_path / "run"))):
        with pytest.raises(ValueError, match="are of different runs"):
            question()
    report.unlink()
    with pytest.raises(ValueError, match=r"report\.json is gone"):
        similar(str(tmp_path / "run"), asked.texts["lone"])
    described = json.loads(description.read_text())
    del described["input"]
    description.write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"run\.json is damaged \(it has no input\)"):
        FinishedRun.open(str(tmp_path / "run"))


def test_the_same_command_makes_a_run_of_an_earlier_format_anew(make_bench, document, tmp_path):
    bench = make_bench(tmp_path)
    bench.write("a/1.jsonl", [document(random.Random(1), 3)])
    recipe = bench.recipe("  - exact\n", '  - {name: a, path: "{input}/a/*"}\n')
    bench.run("out", recipe)
    for name in ("run.json", "report.json"):
        path = tmp_path / "out" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 1}))
    assert not bench.run("out", recipe)["already_complete"]
    assert FinishedRun.open(str(tmp_path / "out")).report["documents"]["kept"] == 1
