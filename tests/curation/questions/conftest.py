"""A small run to ask questions of: every fate, ids made up and the input's own, sources split by a value, hostile names."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

HOSTILE_ID = "x/y@7 \x1b[31m\u202e[bold]<b>"
HOSTILE_FILE = "ü @ [b]/\u202e@7.jsonl"
SOURCES = """\
  - {name: a, path: "{input}/a/**"}
  - {name: b, path: "{input}/b/**", by: meta.set}
  - {name: own, path: "{input}/own/*.parquet", id: key}
"""
STAGES = """\
  - normalize: {scheme: nfc}
  - length: {minimum_characters: 60}
  - exact
  - minhash
"""
SPLIT = "output: {split: {validation: 0.2, test: 0.1}%s}\nmax_bad_fraction: 0.5\n"


@dataclass
class Asked:
    """A run's folder, and the ids and texts of its documents by what they are for."""

    bench: Any
    directory: str
    ids: dict[str, str]
    texts: dict[str, str]

    def removed(self) -> dict[str, dict[str, Any]]:
        """removed/ by id."""
        return {row["id"]: row for row in self.bench.rows(self.directory, "removed")}


def write_lines(path: Path, lines: list[bytes]) -> list[int]:
    """Write JSON lines, compressed as the suffix says; their offsets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(line + b"\n" for line in lines)
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if path.suffix == ".zst" else data)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line) + 1)
    return offsets[:-1]


def write_asked_input(bench: Any, near_copy: Any, document: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Fill the bench's input; (ids, texts) by name. Files are read in the order a, b, own."""
    source = random.Random(5)
    texts = {name: document(source, 12) for name in ("original", "lone", "other", "of own", "crossing")}
    texts["near"] = near_copy(source, texts["original"])
    texts["copy of near"] = texts["near"]
    texts["second copy"] = texts["near"]
    texts["far"] = near_copy(source, texts["original"], 12)
    texts["short"] = "Too short."
    texts["accents"] = "e\u0301 " + document(source, 8)
    texts["hostile"] = "\x1b[31m\u202e[bold]<script>alert(1)</script> " + document(source, 8)
    texts["in set"] = document(source, 8)
    texts["own kept"] = document(source, 8)
    texts["own copy"] = texts["of own"]
    texts["own near"] = near_copy(source, texts["crossing"])
    texts["own hostile"] = document(source, 8)
    layout = {
        "a/1.jsonl": ["original", "lone", "near", "short", "of own"],
        f"a/{HOSTILE_FILE}": ["hostile", "crossing"],
        "b/deep/2.jsonl.zst": ["copy of near", "accents", "in set", "far", "second copy", "other"],
    }
    ids = {}
    for relative, names in layout.items():
        meta = {"set": "Set [b]"} if relative.startswith("b/") else {"number": 1}
        lines = [json.dumps({"text": texts[name], "meta": meta, "url": "http://example.org/"}).encode() for name in names]
        if relative == "a/1.jsonl":
            lines.append(b'{"text": "never closed')
        offsets = write_lines(bench.input / relative, lines)
        ids |= {name: f"{relative}@{offset}" for name, offset in zip([*names, "broken"], offsets, strict=False)}
    keys = {"own kept": "k1", "own copy": "k2", "own near": "k3", "own hostile": HOSTILE_ID}
    (bench.input / "own").mkdir(parents=True)
    table = pa.table({"key": list(keys.values()), "text": [texts[name] for name in keys], "extra": [1, 2, 3, 4]})
    pq.write_table(table, bench.input / "own" / "3.parquet", row_group_size=2)
    return {**ids, **keys}, texts


@pytest.fixture(scope="session")
def make_asked(make_bench, document):
    """Runs a recipe over such an input, in a folder of one's own: make_asked(folder, stages, rest, part_bytes, **options)."""

    def near_copy(random_source: random.Random, text: str, n_changes: int = 1) -> str:
        words = text.split(" ")
        for place in random_source.sample(range(len(words)), n_changes):
            words[place] = f"replaced{random_source.randrange(10**6)}"
        return " ".join(words)

    def make(
        folder: Path, stages: str = STAGES, rest: str = SPLIT % "", sources: str = SOURCES, part_bytes: int = 2000, **options: Any
    ) -> Asked:
        bench = make_bench(folder)
        ids, texts = write_asked_input(bench, near_copy, document)
        with pytest.MonkeyPatch.context() as patch:
            make_bench.cut_small(patch, part_bytes)
            bench.run("out", bench.recipe(stages, sources, rest), **options)
        return Asked(bench, str(folder / "out"), ids, texts)

    return make


@pytest.fixture(scope="module")
def asked(make_asked, tmp_path_factory) -> Asked:
    """The run of the recipe above; tests of one module share it and change nothing in it."""
    return make_asked(tmp_path_factory.mktemp("asked"))


@pytest.fixture(scope="module")
def asked_lines(make_asked, tmp_path_factory) -> Asked:
    """The same with JSON lines as output."""
    return make_asked(tmp_path_factory.mktemp("lines"), rest=SPLIT % ", format: jsonl.zst")
