"""Compare whole jobs: .venv/bin/python benchmarks/slimpajama_peers.py CORPUS [--repeats 3] [--tools curate,datatrove,…]

Runs, in turn and each as a new process from its start to its exit, our slimpajama recipe, datatrove and text-dedup with
their documented defaults, and our recipe with each peer's unit, n-gram, permutations, bands and rows, all with two
workers. Prints medians, ranges, ratios, memory, and how many documents each keeps; appends every run to a file in
benchmarks/results/. Before that each tool runs once on a few documents, uncounted, which compiles kernels.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from install_peers import PEERS, ROOT, python_of
from measure import Measurement, append_row, corpus_size, machine, run, small_corpus, spread, table

CURATE = ROOT / ".venv" / "bin" / "curate"


@dataclass(frozen=True)
class Tool:
    """A way to deduplicate a corpus: its command, and how to count what it kept."""

    name: str
    command: Callable[[Path, Path, int], list[str]]  # corpus, output, workers
    kept: Callable[[Path], int]
    compared_with: str | None  # the tool of ours that its time is divided by
    environment: Callable[[Path], dict[str, str]] = field(default=lambda output: {})


def ours(name: str, *settings: str) -> Tool:
    """Our recipe, with settings."""

    def command(corpus: Path, output: Path, workers: int) -> list[str]:
        base = [str(CURATE), "run", "slimpajama", "--input", str(corpus), "--output", str(output)]
        return [*base, "--workers", str(workers), *(word for setting in settings for word in ("--set", setting))]

    return Tool(name, command, lambda output: ds.dataset(output / "documents", format="parquet").count_rows(), None)


def like_a_peer(name: str, permutations: int, bands: int, rows: int) -> Tool:
    """Our recipe on word 5-grams with a peer's permutations, bands and rows."""
    values = {"unit": "word", "ngram": 5, "permutations": permutations, "bands": bands, "rows": rows}
    return ours(name, *(f"minhash.{key}={value}" for key, value in values.items()))


def _datatrove(corpus: Path, output: Path, workers: int) -> list[str]:
    script = str(ROOT / "benchmarks" / "peer_datatrove.py")
    return [str(python_of("datatrove")), script, str(corpus), str(output), "--workers", str(workers)]


def _datatrove_kept(output: Path) -> int:
    count = 0
    for path in (output / "deduplicated_output").glob("*.jsonl.gz"):
        with gzip.open(path) as file:
            count += sum(1 for _ in file)
    return count


def _text_dedup(corpus: Path, output: Path, workers: int) -> list[str]:
    # The command of text-dedup's page on PyPI with a local data set; 25 bands of 10 rows follow from its defaults, 250
    # permutations and a threshold of 0.7; word 5-grams and SHA-1 are its defaults too.
    return [
        *(str(python_of("text-dedup")), "-m", "text_dedup.minhash"),
        *("--path", "json", "--data_files", f"{corpus}/**/*.jsonl.zst", "--split", "train"),
        *("--cache_dir", str(output / "cache"), "--output", str(output / "deduplicated")),
        *("--column", "text", "--batch_size", "10000", "--num_proc", str(workers)),
    ]


def _text_dedup_kept(output: Path) -> int:
    count = 0
    for path in (output / "deduplicated").glob("*.arrow"):
        with pa.memory_map(str(path)) as source:
            count += sum(batch.num_rows for batch in pa.ipc.open_stream(source))
    return count


def _text_dedup_environment(output: Path) -> dict[str, str]:
    # Caches of an earlier run would spare it work; the network is not needed.
    return {"HF_HOME": str(output / "huggingface"), "HF_HUB_OFFLINE": "1"}


TOOLS = [
    ours("curate"),
    Tool("datatrove", _datatrove, _datatrove_kept, "curate"),
    Tool("text-dedup", _text_dedup, _text_dedup_kept, "curate", _text_dedup_environment),
    like_a_peer("curate as datatrove", 112, 14, 8),
    like_a_peer("curate as text-dedup", 250, 25, 10),
]
_PAIRS = [
    ("datatrove", "curate"),
    ("text-dedup", "curate"),
    ("datatrove", "curate as datatrove"),
    ("text-dedup", "curate as text-dedup"),
]


def main() -> None:
    """The command."""
    options = parse()
    tools = [tool for tool in TOOLS if tool.name in options.tools]
    size = corpus_size(options.corpus)
    facts = {"corpus": options.corpus.name, **size, "workers": options.workers, "machine": machine()}
    facts["versions"] = versions()
    results = options.results or ROOT / "benchmarks" / "results" / f"slimpajama_peers-{options.corpus.name}.jsonl"
    work = options.work.resolve()
    if options.warm_up:
        small = small_corpus(options.corpus, work / "warm-up")
        for tool in tools:
            measured = _run(tool, small, work, options.workers)
            print(f"{tool.name}: warm-up, {measured.seconds:.1f} s", flush=True)
    rows: list[dict[str, Any]] = []
    for repeat in range(options.repeats):
        for tool in tools:
            measured, kept = _run_and_count(tool, options.corpus, work, options.workers)
            row = {"tool": tool.name, "repeat": repeat, "seconds": round(measured.seconds, 3), "kept": kept}
            row |= {"load_before": measured.load_before, "tree_rss_bytes": measured.tree_rss_bytes}
            row["process_anonymous_bytes"] = measured.process_anonymous_bytes
            rows.append(row)
            finished = time.strftime("%Y-%m-%dT%H:%M:%S")
            append_row(results, {**row, "command": measured.command, "finished": finished, **facts})
            print(f"{tool.name}: {measured.seconds:.1f} s, {kept:,} documents kept", flush=True)
    print(render(rows, facts))
    print(f"\nraw rows: {results}")


def parse() -> argparse.Namespace:
    """The command's options."""
    names = [tool.name for tool in TOOLS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="a directory of .jsonl.zst files, see make_corpus.py")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tools", default=",".join(names), help="names, by commas; default: all")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", help="for outputs, then removed")
    parser.add_argument("--results", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false")
    options = parser.parse_args()
    options.corpus = options.corpus.resolve()
    options.tools = options.tools.split(",")
    unknown = set(options.tools) - set(names)
    if unknown:
        parser.error(f"no tool {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for peer in set(PEERS) & set(options.tools):
        if not python_of(peer).exists():
            parser.error(f"{peer} is not installed: python benchmarks/install_peers.py {peer}")
    return options


def versions() -> dict[str, str]:
    """The version of each tool that is installed."""
    script = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    interpreters = {"moxin-curation": Path(sys.executable), **{peer: python_of(peer) for peer in PEERS}}
    found = {}
    for package, python in interpreters.items():
        if python.exists():
            result = subprocess.run([python, "-c", script, package], capture_output=True, text=True, check=False)
            found[package] = result.stdout.strip() or "unknown"
    return found


def _run(tool: Tool, corpus: Path, work: Path, workers: int) -> Measurement:
    output = work / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    command = tool.command(corpus, output, workers)
    measured = run(command, work / f"{tool.name.replace(' ', '-')}.log", tool.environment(output))
    if measured.exit_code:
        sys.exit(f"{tool.name} failed with exit code {measured.exit_code}:\n{measured.output_tail}")
    return measured


def _run_and_count(tool: Tool, corpus: Path, work: Path, workers: int) -> tuple[Measurement, int]:
    measured = _run(tool, corpus, work, workers)
    kept = tool.kept(work / "output")
    shutil.rmtree(work / "output")
    return measured, kept


def render(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The tables: what each tool took, and the ratios of runs that stood next to each other."""
    by_tool: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_tool.setdefault(row["tool"], []).append(row)
    lines = []
    for name, runs in by_tool.items():
        seconds = [row["seconds"] for row in runs]
        rate = facts["raw_bytes"] / 1e6 / statistics.median(seconds)
        memory = max(row["tree_rss_bytes"] for row in runs) / 1e6
        kept = sorted({row["kept"] for row in runs})
        lines.append([name, spread(seconds), f"{rate:.1f}", f"{memory:,.0f}", " / ".join(f"{n:,}" for n in kept)])
    versions_line = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    header = ["tool", "seconds: median (range)", "MB/s", "peak RSS of all processes, MB", "documents kept"]
    size = f"{facts['raw_bytes'] / 1e6:,.0f} MB of JSON lines, {facts['text_bytes'] / 1e6:,.0f} MB of text"
    return "\n".join(
        [
            f"\n{facts['corpus']}: {facts['documents']:,} documents, {size}; {facts['workers']} workers",
            f"{facts['machine']}; {versions_line}\n",
            table(header, lines),
            "",
            table(["ratio of seconds", "median (range)"], _ratios(by_tool)),
        ]
    )


def _ratios(by_tool: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    lines = []
    for slow, fast in _PAIRS:
        if slow in by_tool and fast in by_tool:
            pairs = zip(by_tool[slow], by_tool[fast], strict=True)
            lines.append([f"{slow} / {fast}", spread([one["seconds"] / other["seconds"] for one, other in pairs])])
    return lines


if __name__ == "__main__":
    main()
