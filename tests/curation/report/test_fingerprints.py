"""Fingerprints change with what was read or left, and with nothing else."""

import hashlib
import json
import shutil

import pytest


def fingerprints(bench, output):
    return json.loads((bench.folder / output / "report.json").read_text())["fingerprints"]


def test_the_output_fingerprint_is_that_of_the_files(small):
    small.run("out")
    lines = "".join(f"{path} {sha256}\n" for path, sha256 in sorted(small.hashes("out").items()))
    assert fingerprints(small, "out")["output"] == hashlib.sha256(lines.encode()).hexdigest()


def test_neither_place_nor_age_of_the_input_nor_size_of_parts_matter(small, monkeypatch):
    small.run("out")
    shutil.copytree(small.input, small.folder / "moved" / "input")
    small.run("elsewhere", input_path=small.folder / "moved" / "input")
    small.cut_small(monkeypatch, 3000)
    small.run("small parts")
    assert fingerprints(small, "elsewhere") == fingerprints(small, "out")
    assert fingerprints(small, "small parts")["input"] == fingerprints(small, "out")["input"]


@pytest.mark.parametrize("change", ["a byte", "a name", "a file"])
def test_any_change_of_the_input_shows(small, change):
    small.run("out")
    path = small.input / "a" / "2.jsonl"
    if change == "a byte":
        path.write_bytes(path.read_bytes().replace(b"number", b"numbEr", 1))
    elif change == "a name":
        path.rename(path.with_name("3.jsonl"))
    else:
        path.unlink()
    small.run("changed")
    assert fingerprints(small, "changed")["input"] != fingerprints(small, "out")["input"]


def test_other_settings_leave_the_fingerprint_of_the_input(small):
    small.run("out")
    small.run("other", settings={"length.minimum_characters": 300})
    assert fingerprints(small, "other")["input"] == fingerprints(small, "out")["input"]
    assert fingerprints(small, "other")["output"] != fingerprints(small, "out")["output"]


def test_a_licence_changes_no_task_and_no_fingerprint(small):
    small.run("out")
    sources = "".join(
        f'  - {{name: {name}, path: "{{input}}/{name}/**", priority: {priority}, license: mit}}\n'
        for name, priority in (("a", 1), ("b", 0), ("c", 1))
    )
    before = fingerprints(small, "out")
    steps = [entry["key"] for entry in small.ledger("out") if entry["step"] == "first pass"]
    small.run("out", small.recipe(sources=sources))
    assert fingerprints(small, "out") == before
    assert [entry["key"] for entry in small.ledger("out") if entry["step"] == "first pass"] == steps


def test_a_limited_run_has_no_fingerprint_of_its_input(small):
    small.run("out", limit=5)
    assert fingerprints(small, "out")["input"] is None
