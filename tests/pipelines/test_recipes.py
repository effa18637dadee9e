"""The recipes that ship, each run on a small corpus in RedPajama's layout."""

import json
import random

import pyarrow.dataset as ds
import pytest
from typer.testing import CliRunner

from curation.engine.recipe import shipped_recipes
from pipelines.main import app

SOURCES = ("common_crawl/2023-06", "c4", "github", "book", "arxiv", "wikipedia", "stackexchange")


def document(generator, n_words=150):
    return " ".join("".join(generator.choices("abcdefghijklmnop", k=6)) for _ in range(n_words))


@pytest.fixture(scope="module")
def redpajama(tmp_path_factory):
    """60 documents; some are copied or edited into other sources, some are short."""
    generator = random.Random(5)
    root = tmp_path_factory.mktemp("redpajama")
    texts = [document(generator) for _ in range(60)]
    texts += texts[:10]
    texts += [text.replace(text.split()[70], "changed") for text in texts[5:20]]  # Jaccard about 0.96
    texts += [text.replace(text.split()[70], "changed") for text in texts[:3]]  # of documents that have exact copies
    texts += [document(generator, 5) for _ in range(8)]
    generator.shuffle(texts)
    for number, folder in enumerate(SOURCES):
        (root / folder).mkdir(parents=True)
        lines = [json.dumps({"text": text, "meta": {}}) + "\n" for text in texts[number :: len(SOURCES)]]
        (root / folder / "part.jsonl").write_text("".join(lines))
    return root


def run(recipe, redpajama, out):
    arguments = ["run", str(recipe), "--input", str(redpajama), "--output", str(out), "--executor", "inline"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    kept = ds.dataset(out / "documents").to_table(columns=["id", "source"]).to_pydict()
    removed = ds.dataset(out / "removed").to_table().to_pylist()
    return kept, removed, json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_recipe_keeps_one_of_each_and_says_why_the_others_went(name, redpajama, tmp_path):
    kept, removed, report = run(name, redpajama, tmp_path / "out")
    reasons = [row["reason"] for row in removed]
    assert report["documents"] == {"in": 96, "kept": 60, "removed": 36, "quarantined": 0}
    assert reasons.count("short") == 8
    assert set(kept["source"]) == {"commoncrawl", "c4", "github", "book", "arxiv", "wikipedia", "stackexchange"}
    assert all(row["duplicate_of"] for row in removed if row["reason"] != "short")
    if name == "slimpajama-verified":
        near = [row["similarity"] for row in removed if row["reason"] == "near duplicate"]
        assert near
        assert min(near) >= 0.8


@pytest.mark.parametrize("name", ["slimpajama", "slimpajama-verified"])
def test_the_exact_stage_changes_no_decision(name, redpajama, tmp_path):
    text = shipped_recipes()[name]
    without = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("  - exact:"))
    assert without != text
    (tmp_path / "without.yaml").write_text(without)
    kept, removed, _ = run(name, redpajama, tmp_path / "with")
    also_kept, also_removed, _ = run(tmp_path / "without.yaml", redpajama, tmp_path / "without")
    assert sorted(kept["id"]) == sorted(also_kept["id"])
    assert "exact duplicate" in {row["reason"] for row in removed}
    assert "exact duplicate" not in {row["reason"] for row in also_removed}
