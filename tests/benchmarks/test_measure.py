"""What the benchmarks measure and print."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def importable_benchmarks():
    """Benchmarks are scripts that import each other from their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def measure(importable_benchmarks):
    return importlib.import_module("measure")


@pytest.fixture(scope="module")
def end_to_end(importable_benchmarks):
    return importlib.import_module("end_to_end")


@pytest.fixture(scope="module")
def peers(importable_benchmarks):
    return importlib.import_module("slimpajama_peers")


def test_memory_of_a_grandchild_is_counted(measure, tmp_path):
    child = "import time; held = bytearray(b'x') * 80_000_000; time.sleep(1)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    measured = measure.run([sys.executable, "-c", script], tmp_path / "log")
    assert measured.exit_code == 0
    assert 80 * MEGABYTE < measured.process_anonymous_bytes < 160 * MEGABYTE
    assert measured.process_anonymous_bytes < measured.tree_anonymous_bytes
    assert measured.process_anonymous_bytes < measured.tree_rss_bytes


def test_memory_that_was_given_back_between_samples_is_counted(measure, tmp_path):
    script = "import time; bytearray(b'x') * 80_000_000; time.sleep(0.5)"
    measured = measure.run([sys.executable, "-c", script], tmp_path / "log")
    assert 80 * MEGABYTE < measured.process_peak_bytes < 160 * MEGABYTE


def test_a_failing_command_is_recorded_with_what_it_said(measure, tmp_path):
    measured = measure.run([sys.executable, "-c", "import sys; sys.exit('no luck')"], tmp_path / "log")
    assert measured.exit_code == 1 and "no luck" in measured.output_tail


def test_startup_is_fitted_out_of_noisy_times(end_to_end):
    sizes = np.array([0.25e9, 1e9, 4e9])
    start, per_byte = end_to_end.fit_startup(sizes, (6 + sizes * 2e-8) * np.array([1.01, 0.99, 1.0]))
    assert start == pytest.approx(6, abs=0.5)
    assert per_byte == pytest.approx(2e-8, rel=0.03)


def test_ratios_are_of_runs_from_the_same_turn(peers):
    rows = [
        {"tool": tool, "seconds": seconds, "tree_rss_bytes": 5 * MEGABYTE, "kept": 7}
        for tool, times in (("curate", (1.0, 2.0, 4.0)), ("datatrove", (30.0, 40.0, 80.0)))
        for seconds in times
    ]
    facts = {"corpus": "c", "documents": 9, "raw_bytes": 10 * MEGABYTE, "text_bytes": 9 * MEGABYTE, "workers": 2}
    page = peers.render(rows, {**facts, "machine": "m", "versions": {}})
    assert "| datatrove / curate |" in page and "20.0 (20.0-30.0)" in page
    assert "| curate    |" in page and "2.0 (1.0-4.0)" in page


def test_ours_takes_the_settings_of_each_peer(peers, tmp_path):
    commands = {tool.name: tool.command(tmp_path, tmp_path / "out", 2) for tool in peers.TOOLS}
    assert "--set" not in commands["curate"]
    for peer, permutations, bands, rows in (("datatrove", 112, 14, 8), ("text-dedup", 250, 25, 10)):
        settings = commands[f"curate as {peer}"]
        wanted = {"unit": "word", "ngram": 5, "permutations": permutations, "bands": bands, "rows": rows}
        assert {f"minhash.{key}={value}" for key, value in wanted.items()} <= set(settings)


def test_a_small_corpus_holds_whole_documents_of_the_first_file(measure, tmp_path):
    lines = [f'{{"text": "document {number}"}}'.encode() for number in range(300)]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.jsonl.zst").write_bytes(zstandard.compress(b"\n".join(lines) + b"\n"))
    small = measure.small_corpus(tmp_path / "corpus", tmp_path / "small")
    assert len(measure.corpus_files(small)) == 2
    assert measure.corpus_size(small)["documents"] == 200


def test_a_directory_without_a_corpus_ends_with_a_hint(measure, tmp_path):
    with pytest.raises(SystemExit, match=r"make_corpus\.py makes such a corpus"):
        measure.corpus_files(tmp_path)
