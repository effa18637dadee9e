"""The folder of a run opens in the tools that people have: datasets, DuckDB, Polars, pyarrow."""

import json
import re

import duckdb
import polars
import pyarrow.dataset
import pytest

SPLIT = "output: {split: {validation: 0.2}}\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`datasets.load_dataset` of a folder, its caches below tmp_path, the network never asked."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield lambda folder: datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    datasets.enable_progress_bars()


def finished(bench, output="out", **options):
    """The folder of a run, and its report."""
    folder = bench.folder / output
    bench.run(output, **options)
    return folder, json.loads((folder / "report.json").read_text())


def counted(report):
    return {name: counts["documents"] for name, counts in report["splits"].items() if counts["documents"]}


@pytest.mark.parametrize("output_format", ["parquet", "jsonl.zst"])
def test_datasets_finds_the_splits_with_all_their_rows(small, load, output_format):
    folder, report = finished(small, recipe=small.recipe(rest=SPLIT), settings={"output.format": output_format})
    loaded = load(folder)
    assert {name: split.num_rows for name, split in loaded.items()} == counted(report)
    assert set(counted(report)) == {"train", "validation"}
    texts = small.texts()
    rows = [row for split in loaded.values() for row in split]
    assert len(rows) == report["documents"]["kept"]
    assert all(row["text"] == texts[row["id"]] for row in rows if texts[row["id"]].isascii())


def test_datasets_loads_json_lines_whose_members_differ_by_source(bench, load, document, monkeypatch):
    import random

    from datasets.packaged_modules.json.json import JsonConfig

    monkeypatch.setattr(JsonConfig, "chunksize", 4096)  # the first records say little of the later ones
    source = random.Random(1)
    texts = [document(source, 6) for _ in range(60)]
    crawl = [{"pred_label": "x", "wiki_prob": number / 3, "score": number} for number in range(20)]
    c4 = [{"meta": {"url": "http://example.org", "number": number}, "score": number + 0.5} for number in range(20)]
    wiki = [{"meta": {"title": ["T"]}, "wiki_prob": None, "odd name: x": {"a": []}} for _ in range(20)]
    for number, (place, members) in enumerate([("b/1.jsonl", crawl), ("a/1.jsonl", c4), ("c/1.jsonl", wiki)]):
        bench.write(place, texts[20 * number : 20 * number + 20], members)
    folder, report = finished(bench, settings={"output.format": "jsonl.zst"})
    rows = {row["id"].partition("/")[0]: row for row in load(folder)["train"]}
    assert report["documents"]["kept"] == 60
    assert (rows["b"]["pred_label"], rows["b"]["meta"], rows["b"]["score"]) == ("x", None, 19.0)
    assert (rows["a"]["meta"], rows["a"]["score"]) == ({"url": "http://example.org", "number": 19}, 19.5)
    assert (rows["c"]["meta"], rows["c"]["wiki_prob"], rows["c"]["odd name: x"]) == ({"title": ["T"]}, None, {"a": []})


@pytest.mark.parametrize("output_format", ["parquet", "jsonl.zst"])
def test_without_documents_datasets_says_so_and_takes_nothing_else_for_them(small, load, output_format):
    settings = {"output.format": output_format, "length.minimum_characters": 10**6}
    folder, report = finished(small, settings=settings)
    assert report["documents"]["kept"] == 0
    assert report["documents"]["removed"] > 0
    with pytest.raises(FileNotFoundError, match=r"No \(supported\) data files"):
        load(folder)


def test_duckdb_polars_and_pyarrow_read_documents_and_what_was_removed(small):
    folder, report = finished(small, recipe=small.recipe(rest=SPLIT))
    kept, removed = report["documents"]["kept"], report["documents"]["removed"]
    assert duckdb.sql(f"SELECT count(*) FROM '{folder}/documents/*/*.parquet'").fetchall() == [(kept,)]
    assert duckdb.sql(f"SELECT count(*), count(DISTINCT id) FROM '{folder}/removed/*.parquet'").fetchall() == [(removed, removed)]
    assert polars.read_parquet(f"{folder}/documents/*/*.parquet").height == kept
    assert polars.read_parquet(f"{folder}/removed/*.parquet").height == removed
    assert pyarrow.dataset.dataset(folder / "documents").count_rows() == kept


@pytest.mark.parametrize("output_format", ["parquet", "jsonl.zst"])
def test_the_lines_of_the_card_run_in_the_folder(small, tmp_path, monkeypatch, output_format):
    import datasets

    folder, report = finished(small, settings={"output.format": output_format})
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names = {}
    lines = code.splitlines()
    results = [eval(line, names) if "import" not in line else exec(line, names) for line in lines if line]
    assert [len(result["train"]) for result in results if isinstance(result, datasets.DatasetDict)] == [counted(report)["train"]]
    rows = [result.collect().height for result in results if isinstance(result, polars.LazyFrame)]
    assert rows[-1] == report["documents"]["removed"]


def test_run_json_lists_checksums_and_the_ranks_that_each_file_spans(small):
    folder, _ = finished(small, recipe=small.recipe(rest=SPLIT))
    outputs = json.loads((folder / "run.json").read_text())["outputs"]
    hashes = small.hashes("out")
    assert {one["path"]: one["sha256"] for one in outputs if one["path"] in hashes} == hashes
    for one in (one for one in outputs if one["path"].startswith("documents/")):
        ranks = polars.read_parquet(folder / one["path"])["rank"].to_list()
        assert (one["documents"], one["first_rank"], one["last_rank"]) == (len(ranks), ranks[0], ranks[-1])
        assert ranks == sorted(ranks)
