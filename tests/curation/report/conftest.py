"""What the page is made from, made up."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.engine.run_folder import FORMAT_VERSION


@dataclass
class MadeRun:
    """What the page is made from, without a run: every number made up from a seed, and all text as the caller wants it."""

    report: dict[str, Any]
    run: dict[str, Any]
    nearest: list[dict[str, Any]]
    clusters: list[dict[str, Any]]

    def write(self, folder: Path) -> Path:
        """As a run leaves it."""
        (folder / "samples").mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(self.report))
        (folder / "run.json").write_text(json.dumps(self.run))
        for name in ("nearest", "clusters"):
            if rows := getattr(self, name):
                pq.write_table(pa.Table.from_pylist(rows), folder / "samples" / f"{name}.parquet")
        return folder


def _clusters(stage: str, n_pairs: int, text: Callable[[str], str], source: random.Random) -> list[dict[str, Any]]:
    chosen = ["largest"] * min(n_pairs, 9) + ["least similar"] * 20 + ["sampled"] * 20
    rows = []
    for number, which in enumerate(chosen[:n_pairs]):
        kept, removed = text(f"kept {number}"), text(f"removed {number}")
        rows.append(
            {
                "stage": stage, "chosen": which, "documents": source.randrange(2, 5000),
                "duplicate_of": text(f"a/{number}.jsonl@1"), "id": text(f"b/{number}.jsonl@2"),
                "source_kept": text("web"), "source_removed": text("books"),
                "similarity": None if number == 1 else source.random(),
                "text_kept": kept[:20_000], "text_removed": removed[:20_000],
                "characters_kept": len(kept), "characters_removed": len(removed),
            }
        )  # fmt: skip
    return rows


def _nearest(stage: str, text: Callable[[str], str], source: random.Random) -> list[dict[str, Any]]:
    rows = []
    for side in ("kept", "removed"):
        for number in range(5):
            measure = float(200 + number) if side == "kept" else float(199 - number)
            whole = text(f"near {number}")
            row = {"stage": stage, "side": side, "measure": measure, "id": text(f"{side}@{number}"), "source": text("web")}
            rows.append({**row, "text": whole[:2000], "characters": len(whole)})
    return rows


def made_run(
    n_sources: int = 3,
    documents: int = 1000,
    stages: tuple[str, ...] = ("normalize", "length", "exact", "minhash"),
    n_pairs: int = 49,
    text: Callable[[str], str] = lambda plain: plain,
    n_duplicate_pairs: int | None = None,
    seed: int = 0,
) -> MadeRun:
    """A run over `n_sources` with `documents` each; `text` makes every text by strangers from a plain one.

    `n_duplicate_pairs` limits the entries of the matrix, which is full otherwise.
    """
    source = random.Random(seed)
    names = [text(f"source {number}" if number else "web") for number in range(n_sources)]
    names = list(dict.fromkeys(name if names.index(name) == at else f"{name} {at}" for at, name in enumerate(names)))
    left = {name: [documents, documents * 3000] for name in names}
    table: dict[str, Any] = {}
    nearest: list[dict[str, Any]] = []
    clusters: list[dict[str, Any]] = []
    for kind in stages:
        name = text(kind) if text("") else kind
        by_source = {}
        for one in names:
            gone = 0 if kind == "normalize" else source.randrange(left[one][0] // 4 + 1)
            counts = {"documents_in": left[one][0], "bytes_in": left[one][1]}
            by_source[one] = {**counts, "removed_documents": gone, "removed_bytes": gone * 3000}
            by_source[one]["quarantined_documents"] = 0
            left[one] = [left[one][0] - gone, left[one][1] - gone * 3000]
        keys = ("documents_in", "bytes_in", "removed_documents", "removed_bytes", "quarantined_documents")
        stage: dict[str, Any] = {key: sum(entry[key] for entry in by_source.values()) for key in keys}
        removed = {"documents": stage["removed_documents"], "bytes": stage["removed_bytes"]}
        stage |= {"by_source": by_source, "stage": kind, "reasons": {}, "edited_documents": 0}
        if stage["removed_documents"]:
            stage["reasons"] = {text("too short"): removed, text("other"): {"documents": 0, "bytes": 0}}
        if kind == "length":
            stage["measure"] = {"unit": "characters", "threshold": 200}
            rows = _nearest(name, text, source) if documents else []
            nearest += rows
            stage["nearest"] = [{key: row[key] for key in ("side", "measure", "id")} for row in rows]
        if kind in ("exact", "minhash"):
            pairs = [(gone, kept) for gone in names for kept in names][:n_duplicate_pairs]
            numbers = [source.randrange(1, 10**6) for _ in pairs] if stage["removed_documents"] else []
            stage["matrix"] = [[*pair, n, n * 3000] for pair, n in zip(pairs, numbers, strict=False)]
            sizes = {str(2 + step * step): max(1, 5000 // (step + 1) ** 3) for step in range(30)}
            stage["component_sizes"] = sizes if stage["matrix"] else {}
            members = [{"id": text("a@1"), "source": names[0], "text": text("begins")}] if names else []
            largest = [{"documents": 844, "first_lines": members}]
            stage["largest_components"] = largest if stage["matrix"] else []
        if kind == "minhash":
            rows = _clusters(name, n_pairs if stage["removed_documents"] else 0, text, source)
            clusters += rows
            keys = ("chosen", "documents", "duplicate_of", "id", "similarity")
            stage["clusters"] = [{key: row[key] for key in keys} for row in rows]
            histogram = [[round(0.05 * n, 2), round(0.05 * (n + 1), 2), n % 7 if rows else 0] for n in range(20)]
            measured = sum(pairs for _, _, pairs in histogram)
            below = sum(pairs for low, _, pairs in histogram if low < 0.8)
            stage["sampled_pairs"] = {
                "pairs": measured, "measured": measured, "threshold": 0.8, "below_threshold": below, "histogram": histogram,
            }  # fmt: skip
            stage["verify"] = "none"
        table[name] = stage
    sources = {
        name: {
            "documents_in": documents, "bytes_in": documents * 3000, "kept_documents": left[name][0], "kept_bytes": left[name][1],
            "removed_documents": documents - left[name][0], "removed_bytes": documents * 3000 - left[name][1],
            "quarantined_records": 0,
        }
        for name in names
    }  # fmt: skip
    total = {key: sum(entry[key] for entry in sources.values()) for key in next(iter(sources.values()), {})}
    mix = {text(name): {"documents_in": n, "documents_kept": n // 2, "bytes_in": 9 * n, "bytes_kept": 5 * n} for name, n in
           (("en", 700), ("de", 90), ("other", 30))}  # fmt: skip
    report = {
        "format_version": FORMAT_VERSION,
        "name": text("made"), "input": text("/data/in"), "output": text("/data/out"), "status": "complete",
        "already_complete": False, "limit": None,
        "documents": {"in": total.get("documents_in", 0), "kept": total.get("kept_documents", 0),
                      "removed": total.get("removed_documents", 0), "quarantined": 0},
        "bytes": {"in": total.get("bytes_in", 0), "kept": total.get("kept_bytes", 0), "removed": total.get("removed_bytes", 0)},
        "stages": table, "sources": sources, "splits": {"train": {"documents": 7, "bytes": 70}},
        "quarantine": {"records": 2, "lost_bytes": 99, "by_source": {}, "by_reason": {text("not valid JSON"): 2},
                       "first": [text("web/1.jsonl at 17: not valid JSON")]},
        "unmatched": [text("notes.txt")], "tasks": {"planned": 12, "run": 9, "reused": 3}, "workers": 2,
        "peak_memory_bytes": 432_100_000, "peak_memory": {"driver": 1, "worker": 432_100_000},
        "warnings": [text("source web loses 95.0% of its documents")], "deviations": [text("in input order")],
        "steps": {text(name): {"seconds": 12.25, "tasks": 4, "reused": 1, "raw_bytes": n, "peak_memory_bytes": 10**8}
                  for name, n in (("first pass", 10**9), ("minhash: shuffle", 0))},
        "total_seconds": 83.2, "raw_bytes": 10**9, "mb_per_second": 12.01, "output_files": 7, "output_bytes": 123456,
        "edited": {"documents": 0}, "fingerprints": {"input": "ab", "output": "cd"},
        "published": {"what": text("SlimPajama"), "comparable": False, "why": text("web has 5 documents"), "sources": {}},
        "sample": {"documents": 820, "share": 0.41, "languages": mix, "domains": mix},
        "commands": {},
    }  # fmt: skip
    recipe = {
        "name": text("made"), "seed": 42, "sources": [{"name": name, "path": text("/data/in/a/*.jsonl")} for name in names[:5]],
        "stages": [
            {"name": name, "stage": stage["stage"], "note": text("x"), "code": text("def f(): ...")}
            for name, stage in table.items()
        ],
        "output": {"format": "parquet"},
    }  # fmt: skip
    run = {"format_version": FORMAT_VERSION, "status": "complete", "recipe": recipe, "limit": None,
           "input": {"path": "/data/in", "files": []}, "finished": "2026-01-02T03:04:05+00:00",
           "versions": {"numpy": text("2.4")}}  # fmt: skip
    return MadeRun(report, run, nearest, clusters)


@pytest.fixture(name="made_run", scope="session")
def made_run_fixture() -> Callable[..., MadeRun]:
    """`made_run`."""
    return made_run
