"""The numbers of report.json are those of the tables beside it, and what it offers to run is safe to paste."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.report import build
from curation.report.build import open_command
from curation.stages.length import Length, LengthSettings


def test_the_command_that_opens_a_result_survives_quotes_in_the_folder(tmp_path):
    folder = tmp_path / "it's \"{odd}\" $(touch made)"
    (folder / "documents/train").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["seen"]}), folder / "documents/train/train-00000.parquet")
    command = open_command(str(folder), "parquet")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "seen" in done.stdout
    assert sys.executable in open_command("x", "parquet")
    assert not (tmp_path / "made").exists()


STAGES = """\
  - normalize: {scheme: nfc}
  - python: {file: mine.py, function: look}
  - length: {minimum_characters: 60}
  - exact
  - minhash: {bands: 40, rows: 3}
"""
MINE = """\
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.stages import MapResult


def look(batch):
    texts = batch.column("text")
    lengths = np.asarray(pc.utf8_length(texts))
    reason = ["odd" if n % 2 else None for n in lengths.tolist()]
    edited = pc.replace_substring(texts, "river", "stream")
    return MapResult(lengths % 5 == 0, reason, edited, measure=lengths % 5, threshold=1, unit="left over")
"""


@pytest.fixture
def reported(small):
    (small.folder / "mine.py").write_text(MINE)
    recipe = small.recipe(STAGES, rest="max_bad_fraction: 0.5\n")
    with (small.input / "a/1.jsonl").open("a") as file:
        file.write("not json\n")
    return small, recipe, small.run("out", recipe)


def test_reasons_are_those_of_removed_and_add_up_to_what_each_stage_removed(reported):
    small, _, report = reported
    expected = {name: {} for name in report["stages"]}
    for row in small.rows("out", "removed"):
        entry = expected[row["stage"]].setdefault(row["reason"], {"documents": 0, "bytes": 0})
        entry["documents"] += 1
        entry["bytes"] += row["text_bytes"]
    for name, stage in report["stages"].items():
        assert stage["reasons"] == expected[name]
        assert sum(reason["documents"] for reason in stage["reasons"].values()) == stage["removed_documents"]
        assert sum(reason["bytes"] for reason in stage["reasons"].values()) == stage["removed_bytes"]
    assert len(report["stages"]["python"]["reasons"]) == 2 and "odd" in report["stages"]["python"]["reasons"]


def test_many_reasons_of_a_stage_are_counted_together_past_a_limit():
    counts = {f"python\t{n}": [n + 1, 10 * n] for n in range(500)}
    more = {"python\t0": [1, 1], "exact\t1": [5, 5]}
    found = build._reasons(Length("python", LengthSettings()), [{"reasons": counts}, {"reasons": more}])
    first, *_, last = found
    assert (len(found), first, last) == (201, "499", "other reasons")
    assert sum(entry["documents"] for entry in found.values()) == sum(range(1, 501)) + 1


def test_documents_that_came_are_those_kept_removed_and_quarantined_at_every_stage_and_source(reported):
    _, _, report = reported
    for entry in report["sources"].values():
        assert entry["documents_in"] == entry["kept_documents"] + entry["removed_documents"] + entry["quarantined_records"]
    documents = report["documents"]
    assert documents["in"] == documents["kept"] + documents["removed"] + documents["quarantined"]
    assert documents["quarantined"] == 1
    left = documents["in"] - documents["quarantined"] + sum(stage["quarantined_documents"] for stage in report["stages"].values())
    for stage in report["stages"].values():
        assert stage["documents_in"] == left
        left -= stage["removed_documents"] + stage["quarantined_documents"]
    assert left == documents["kept"]


def test_edits_are_counted_by_stage_and_by_document(reported):
    small, _, report = reported
    edited = small.rows("out", "edited")
    assert len(edited) > 10
    assert report["edited"] == {"documents": len({row["id"] for row in edited})}
    assert report["stages"]["python"]["edited_documents"] == len(edited)
    assert report["stages"]["normalize"]["edited_documents"] == 0


def test_stages_tell_their_kind_and_what_they_measured(reported):
    _, _, report = reported
    kinds = {name: stage["stage"] for name, stage in report["stages"].items()}
    assert kinds == {name: name for name in ("normalize", "python", "length", "exact", "minhash")}
    measures = {name: stage["measure"] for name, stage in report["stages"].items() if "measure" in stage}
    assert measures == {
        "python": {"unit": "left over", "threshold": 1},
        "length": {"unit": "characters", "threshold": 60},
    }
    assert {name for name, stage in report["stages"].items() if "nearest" in stage} == set(measures)
    assert [near["measure"] for near in report["stages"]["python"]["nearest"]] == [1.0] * 5 + [0.0] * 5


def test_steps_tell_seconds_tasks_bytes_and_memory_and_what_was_reused(reported):
    small, recipe, report = reported
    steps = report["steps"]
    assert list(steps)[:2] == ["start", "first pass"]
    late = ["second pass", "samples", "index removed"]
    assert [name for name in steps if name in late] == late
    assert sum(step["tasks"] for step in steps.values()) == report["tasks"]["planned"]
    assert sum(step["reused"] for step in steps.values()) == report["tasks"]["reused"] == 0
    assert steps["first pass"]["raw_bytes"] == report["raw_bytes"] == sum(p.stat().st_size for p in small.input.rglob("*.jsonl"))
    assert steps["minhash: components"]["raw_bytes"] == 0
    peaks = [step["peak_memory_bytes"] for step in steps.values()]
    assert peaks == sorted(peaks) and 0 < peaks[-1] <= report["peak_memory_bytes"]
    assert sum(step["seconds"] for step in steps.values()) <= report["total_seconds"] + 0.01 * len(steps)
    again = small.run("out", recipe, {"minhash.keep": "longest"})["steps"]
    assert again["first pass"]["reused"] == again["first pass"]["tasks"] > 0
    assert again["first pass"]["raw_bytes"] == 0
    assert again["second pass"]["reused"] == 0


def test_samples_are_listed_with_the_run_but_are_no_part_of_its_output(reported):
    small, _, report = reported
    outputs = json.loads((small.folder / "out/run.json").read_text())["outputs"]
    listed = {entry["path"]: entry["sha256"] for entry in outputs}
    assert listed == small.hashes("out", samples=True)
    results = [entry for entry in outputs if not entry["path"].startswith("samples/")]
    assert len(outputs) == len(results) + 3
    assert (report["output_files"], report["output_bytes"]) == (len(results), sum(entry["bytes"] for entry in results))
