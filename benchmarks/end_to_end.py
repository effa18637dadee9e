"""Where our job's time goes, and what it costs by size: .venv/bin/python benchmarks/end_to_end.py CORPUS [CORPUS …]

For each corpus: wall seconds from start to exit, MB/s of raw JSON lines, seconds by step as the run reports them, the
rate as a multiple of a bare loop over the same bytes on one core (bare_loop.py, in turn with the job), and the most
anonymous memory that any process had. With several corpora, time and memory against size too, start-up fitted out.
A run on a few documents comes first and is not counted; kernels are compiled in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import append_row, corpus_files, corpus_size, machine, run, small_corpus, spread, table

ROOT = Path(__file__).resolve().parent.parent
CURATE = ROOT / ".venv" / "bin" / "curate"


def main() -> None:
    """The command."""
    options = parse()
    results = options.results or ROOT / "benchmarks" / "results" / "end_to_end.jsonl"
    print(machine())
    if options.warm_up:
        small = small_corpus(options.corpus[0], options.work.resolve() / "warm-up")
        print(f"warm-up: {measure(small, options)['seconds']:.1f} s", flush=True)
    rows = []
    for corpus in options.corpus:
        size = corpus_size(corpus)
        for repeat in range(options.repeats):
            measured = {"repeat": repeat, **size, **measure(corpus, options)}
            append_row(results, {"machine": machine(), **measured})
            rows.append(measured)
        print(render([row for row in rows if row["corpus"] == corpus.name]), flush=True)
    if len(options.corpus) > 1:
        print(render_sizes(rows))
    print(f"\nraw rows: {results}")


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="+", help="directories of .jsonl.zst files, see make_corpus.py")
    parser.add_argument("--recipe", default="slimpajama")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="passed on, repeatable")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", help="for outputs, then removed")
    parser.add_argument("--results", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false", help="count the compiling of kernels too")
    options = parser.parse_args()
    options.corpus = [corpus.resolve() for corpus in options.corpus]
    for corpus in options.corpus:
        corpus_files(corpus)
    return options


def measure(corpus: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run of the bare loop and one of the job."""
    command = [sys.executable, str(ROOT / "benchmarks" / "bare_loop.py"), str(corpus)]
    bare = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    output = options.work.resolve() / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [str(CURATE), "run", options.recipe, "--input", str(corpus), "--output", str(output)]
    command += ["--workers", str(options.workers), *(word for one in options.settings for word in ("--set", one))]
    measured = run(command, options.work.resolve() / "end_to_end.log")
    if measured.exit_code:
        sys.exit(f"{' '.join(command)} failed with exit code {measured.exit_code}:\n{measured.output_tail}")
    report = json.loads((output / "report.json").read_text())
    shutil.rmtree(output)
    return {
        "corpus": corpus.name,
        "command": command,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "seconds": round(measured.seconds, 3),
        "load_before": measured.load_before,
        "bare_seconds": bare["seconds"],
        "steps": {name: step["seconds"] for name, step in report["steps"].items()},
        "inside_seconds": report["total_seconds"],
        "kept": report["documents"]["kept"],
        "process_anonymous_bytes": measured.process_anonymous_bytes,
        "tree_anonymous_bytes": measured.tree_anonymous_bytes,
        "anonymous_bytes_by_process": measured.peak_by_process,
    }


def render(rows: list[dict[str, Any]]) -> str:
    """What the runs on one corpus took."""
    first, seconds = rows[0], [row["seconds"] for row in rows]
    rates = [row["raw_bytes"] / 1e6 / row["seconds"] for row in rows]
    bare = [row["raw_bytes"] / 1e6 / row["bare_seconds"] for row in rows]
    lines = [
        ["wall seconds", spread(seconds)],
        ["MB/s of raw JSON lines", spread(rates)],
        ["MB/s of the bare loop on one core", spread(bare)],
        ["job / bare loop", spread([rate / one for rate, one in zip(rates, bare, strict=True)], 2)],
    ]
    steps = dict.fromkeys(step for row in rows for step in row["steps"])
    for step in steps:
        lines.append([f"seconds: {step}", spread([row["steps"].get(step, 0.0) for row in rows], 2)])
    # Steps may overlap (workers start while files are listed), so that their sum is not what the run took.
    outside = [row["seconds"] - row["inside_seconds"] for row in rows]
    lines.append(["seconds: outside the run (imports, exit)", spread(outside, 2)])
    peaks: dict[str, int] = {}
    for row in rows:
        for name, n_bytes in row["anonymous_bytes_by_process"].items():
            peaks[name] = max(n_bytes, peaks.get(name, 0))
    for name, n_bytes in sorted(peaks.items(), key=lambda item: -item[1])[:5]:
        lines.append([f"anonymous MB, most of any `{name}`", f"{n_bytes / 1e6:,.0f}"])
    head = f"\n{first['corpus']}: {first['documents']:,} documents, {first['raw_bytes'] / 1e6:,.0f} MB of JSON lines"
    return f"{head}, {first['kept']:,} kept\n" + table(["what", "median (range)"], lines)


def fit_startup(raw_bytes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """(start-up seconds, seconds a byte) of the line with the least relative error through float64[n] points, n >= 2.

    >>> fit_startup(np.array([1e9, 4e9]), np.array([25.0, 85.0]))
    (5.0, 2e-08)
    """
    scaled = np.stack([1 / seconds, raw_bytes / 1e9 / seconds], axis=1)
    (start, per_gigabyte), *_ = np.linalg.lstsq(scaled, np.ones(len(seconds)), rcond=None)
    return round(float(start), 6), round(float(per_gigabyte) / 1e9, 15)


def render_sizes(rows: list[dict[str, Any]]) -> str:
    """Time and memory against input size."""
    names = list(dict.fromkeys(row["corpus"] for row in rows))
    groups = sorted(([row for row in rows if row["corpus"] == name] for name in names), key=lambda g: g[0]["raw_bytes"])
    sizes = np.array([group[0]["raw_bytes"] for group in groups], np.float64)
    seconds = np.array([statistics.median(row["seconds"] for row in group) for group in groups])
    start, per_byte = fit_startup(sizes, seconds)
    lines = []
    for group, size, taken in zip(groups, sizes.tolist(), seconds.tolist(), strict=True):
        one, tree = (max(row[key] for row in group) for key in ("process_anonymous_bytes", "tree_anonymous_bytes"))
        cost = (taken - start) / size * 1e9
        cells = [f"{size / 1e6:,.0f}", f"{taken:.1f}", f"{cost:.1f}", f"{cost / per_byte / 1e9:.2f}"]
        lines.append([group[0]["corpus"], *cells, f"{one / 1e6:,.0f}", f"{tree / 1e6:,.0f}"])
    header = ["corpus", "MB", "seconds", "ns a byte", "of the fit", "anonymous MB, any process", "all processes"]
    return f"\nstart-up {start:.1f} s, then {per_byte * 1e9:.1f} ns a byte (fitted)\n" + table(header, lines)


if __name__ == "__main__":
    main()
