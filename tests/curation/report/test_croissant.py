"""croissant.json is what mlcroissant takes without a complaint, and its records are the run's."""

import copy
import json
import logging

import mlcroissant
import pytest

from curation.report.croissant import croissant

SPLIT = "output: {split: {validation: 0.2}}\n"


def recorded(bench):
    folder = bench.folder / "out"
    return json.loads((folder / "report.json").read_text()), json.loads((folder / "run.json").read_text())


def described(bench):
    """The run's description as it left it, read by mlcroissant."""
    return mlcroissant.Dataset(jsonld=str(bench.folder / "out" / "croissant.json"))


def complaints(dataset):
    issues = dataset.metadata.ctx.issues
    return issues.errors | issues.warnings


def plain(records):
    """Rows without their record set's name, bytes as text."""
    text = [{k.split("/", 1)[1]: v.decode() if isinstance(v, bytes) else v for k, v in row.items()} for row in records]
    return sorted(text, key=lambda row: row["id"])


def test_the_records_are_the_rows_of_the_tables(small, caplog):
    small.run("out", small.recipe(rest=SPLIT))
    with caplog.at_level(logging.WARNING):
        dataset = described(small)
        documents = plain(dataset.records("documents_rows"))
    assert complaints(dataset) == set()
    assert caplog.records == []
    assert documents == sorted(small.rows("out", "documents"), key=lambda row: row["id"])
    assert {row["split"] for row in documents} == {"train", "validation"}
    removed = plain(dataset.records("removed_rows"))
    assert removed == sorted(small.rows("out", "removed"), key=lambda row: row["id"])


def test_columns_of_every_kind_are_described(bench):
    members = [{"meta": {"stars": number}} for number in range(3)]
    bench.write("a/1.jsonl", ["one " * 40, "two " * 40, "three " * 40], members)
    (bench.folder / "mine.py").write_text(
        "import pyarrow as pa\nfrom curation.stages import MapResult\n"
        "def columns(batch):\n    n = batch.num_rows\n"
        "    return MapResult(columns={'flag': pa.array([True] * n), 'kind': pa.array(['x'] * n), 'score': pa.array([0.5] * n)})\n"
    )
    sources = '  - {name: a, path: "{input}/a/**", columns: {stars: meta.stars}}\n'
    bench.run("out", bench.recipe(sources=sources, stages="  - python: {file: mine.py, function: columns}\n  - exact\n"))
    dataset = described(bench)
    assert complaints(dataset) == set()
    assert plain(dataset.records("documents_rows")) == sorted(bench.rows("out", "documents"), key=lambda row: row["id"])


def test_json_lines_and_results_without_documents_are_described_too(bench, small):
    small.run("out", settings={"output.format": "jsonl.zst"})
    dataset = described(small)
    assert complaints(dataset) == set()
    assert [one.includes for one in dataset.metadata.file_sets if one.id == "documents"] == [["documents/*/*.jsonl.zst"]]
    bench.run("out", settings={"length.minimum_characters": 10**6}, fresh=True)
    dataset = described(bench)
    assert complaints(dataset) == set()
    assert len(list(dataset.records("removed_rows"))) == recorded(bench)[0]["documents"]["removed"]


def test_single_files_carry_the_checksums_that_the_run_recorded(small):
    small.run("out")
    dataset = described(small)
    assert {one.content_url: one.sha256 for one in dataset.metadata.file_objects} == small.hashes("out")


def test_the_description_of_many_files_stays_small(small):
    small.run("out")
    report, run = recorded(small)
    first = run["outputs"][0]
    run["outputs"] += [{**first, "path": f"documents/train/train-{n:05d}.parquet"} for n in range(1, 100_000)]
    assert len(croissant(report, run)) < 20_000


def test_the_same_run_has_the_same_description_apart_from_the_date(small):
    small.run("out")
    first_report, first_run = recorded(small)
    small.run("out", fresh=True)
    report, run = recorded(small)
    assert croissant(first_report, {**first_run, "finished": "x"}) == croissant(report, {**run, "finished": "x"})


@pytest.mark.parametrize("text", ['"}], "@type": "x', "\u202e</script>\n", "a" * 1000])
def test_hostile_licences_are_values_and_nothing_else(small, text):
    small.run("out")
    report, run = recorded(small)
    clean = json.loads(croissant(report, run))
    other = copy.deepcopy(run)
    for source in other["recipe"]["sources"]:
        source["license"] = text
    assert json.loads(croissant(report, other)) == {**clean, "license": [text]}
