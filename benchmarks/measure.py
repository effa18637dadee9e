"""Time and memory of a command and of every process that it starts, and the machine that it ran on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil
import pyarrow as pa
import zstandard

_INTERVAL_SECONDS = 0.1
_WARM_UP_DOCUMENTS = 200


@dataclass
class Measurement:
    """One run of a command; memory is in bytes, sampled ten times a second, so that shorter peaks may be missed."""

    command: list[str]
    exit_code: int = 0
    seconds: float = 0.0
    load_before: float = 0.0  # the machine's one-minute load average: above 0.5 or so, somebody else is at work
    tree_rss_bytes: int = 0  # the most that all processes together had resident; shared pages count in each
    tree_anonymous_bytes: int = 0  # the most anonymous memory that all processes together had
    process_anonymous_bytes: int = 0  # the most anonymous memory that any one process had
    process_peak_bytes: int = 0  # the most that any one process had resident, as Linux keeps it: between samples too
    peak_by_process: dict[str, int] = field(default_factory=dict)  # the most anonymous memory, by kind of process
    output_tail: str = ""


def run(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Measurement:
    """Run a command to its end with its output in `log`; its exit code is recorded, not acted on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    measurement = Measurement(command, load_before=round(os.getloadavg()[0], 2))
    started = time.perf_counter()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        done = threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, done, measurement))
        sampler.start()
        measurement.exit_code = process.wait()
        measurement.seconds = time.perf_counter() - started
        done.set()
        sampler.join()
    measurement.output_tail = log.read_bytes()[-2000:].decode(errors="replace")
    return measurement


def _sample(pid: int, done: threading.Event, measurement: Measurement) -> None:
    """Follow the tree below `pid` until `done` is set."""
    known: dict[int, psutil.Process] = {}
    while not done.wait(_INTERVAL_SECONDS):
        try:
            root = known.setdefault(pid, psutil.Process(pid))
            for child in root.children(recursive=True):
                known.setdefault(child.pid, child)
        except psutil.Error:
            continue
        resident = anonymous = 0
        for number, process in list(known.items()):
            try:
                # A daemon that has left the tree is still one of ours; one that is gone raises.
                rss, own, name = process.memory_info().rss, anonymous_bytes(process), _kind(process)
            except (psutil.Error, OSError):
                del known[number]
                continue
            resident += rss
            anonymous += own
            measurement.peak_by_process[name] = max(measurement.peak_by_process.get(name, 0), own)
            measurement.process_anonymous_bytes = max(measurement.process_anonymous_bytes, own)
            measurement.process_peak_bytes = max(measurement.process_peak_bytes, rss, high_water_bytes(process))
        measurement.tree_rss_bytes = max(measurement.tree_rss_bytes, resident)
        measurement.tree_anonymous_bytes = max(measurement.tree_anonymous_bytes, anonymous)


def anonymous_bytes(process: psutil.Process) -> int:
    """Anonymous resident memory of a process: what no file stands behind. Not on Linux: unique memory."""
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except FileNotFoundError:
        if Path("/proc/self/status").exists():
            raise psutil.NoSuchProcess(process.pid) from None
    return process.memory_full_info().uss


def high_water_bytes(process: psutil.Process) -> int:
    """The most that a process has had resident since it started its program; 0 where the system does not say."""
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass
    return 0


def _kind(process: psutil.Process) -> str:
    """A name that is the same for all processes that do the same: "ray::first_pass", "raylet", "python curate"."""
    words = process.cmdline()
    if not words:
        return process.name()
    if words[0].startswith("ray::"):
        return words[0].split("(")[0].split()[0]
    names = [os.path.basename(word) for word in words[:3] if not word.startswith("-") or word == "-m"]
    return " ".join(names[:2])


def machine() -> str:
    """The machine in one line."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, Python {platform.python_version()}"


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add one raw result to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def corpus_files(corpus: Path) -> list[Path]:
    """The files of a corpus, sorted; exits when there are none."""
    files = sorted(corpus.rglob("*.jsonl.zst"))
    if not files:
        sys.exit(f"{corpus} holds no .jsonl.zst file; benchmarks/make_corpus.py makes such a corpus")
    return files


def corpus_size(corpus: Path) -> dict[str, int]:
    """{"documents", "raw_bytes" (decompressed JSON lines), "text_bytes" (UTF-8 of the texts)} of a corpus."""
    size = {"documents": 0, "raw_bytes": 0, "text_bytes": 0}
    for path in corpus_files(corpus):
        with pa.input_stream(str(path), compression="zstd") as stream:
            data = stream.read()
        size["raw_bytes"] += len(data)
        for line in data.splitlines():
            size["documents"] += 1
            size["text_bytes"] += len(orjson.loads(line)["text"].encode())
    return size


def small_corpus(corpus: Path, directory: Path) -> Path:
    """The first documents of a corpus, in two files: for a run that only warms up."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with pa.input_stream(str(corpus_files(corpus)[0]), compression="zstd") as stream:
        *lines, _ = stream.read(20_000_000).split(b"\n")
    for number in range(2):
        chosen = b"".join(line + b"\n" for line in lines[number:_WARM_UP_DOCUMENTS:2])
        (directory / f"{number}.jsonl.zst").write_bytes(zstandard.compress(chosen))
    return directory


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: the first column left, the others right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 1) + (":" if number else "-") for number, width in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def spread(values: list[float], digits: int = 1) -> str:
    """The median, and the range when there are several values.

    >>> spread([3.0, 1.0, 2.0]), spread([1.0])
    ('2.0 (1.0-3.0)', '1.0')
    """
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"
