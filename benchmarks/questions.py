"""What a question to a large run costs: .venv/bin/python benchmarks/questions.py build/questions

Makes a corpus of ten million short documents (synthetic.py; --documents for another number), runs `slimpajama` on it
twice, the second time with other settings, and asks: `explain`, `similar`, `diff`, `report`, each as a whole process,
from start to exit. Corpus and runs stay in the folder for the next time (--fresh runs again). Exit code 1 when an answer
is wrong, slower than 5 s (`diff`: 60 s), or takes more than 1 GB of memory (`diff`: 2 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from measure import Measurement, append_row, machine, run, spread, table
from synthetic import Maker, Settings, write_corpus

from curation.documents import document_id

ROOT = Path(__file__).resolve().parent.parent
CURATE = ROOT / ".venv" / "bin" / "curate"
# Of a document, on disk: measured 160 bytes and 330, and a run holds more while it shuffles.
_CORPUS_BYTES, _RUN_BYTES = 180, 510
_RUNS = ("run-a", "run-b")
# Other decisions of both kinds of stage: more documents are too short, and pairs need to be less alike.
_OTHER_SETTINGS = ("length.minimum_characters=230", "minhash.bands=12", "minhash.rows=10")

_HOPELESS = 5  # times its limit: such an answer is not asked for again


@dataclass(frozen=True)
class Limit:
    """What an answer may take."""

    seconds: float
    memory_bytes: float


_LOOK_UP, _COMPARE = Limit(5, 1e9), Limit(60, 2e9)


@dataclass(frozen=True)
class Question:
    """A command, and what its output has to hold for the time to mean anything; `limit` None: measured only."""

    name: str
    arguments: tuple[str, ...]
    limit: Limit | None
    wanted: tuple[str, ...] = ()
    exit_codes: tuple[int, ...] = (0,)


def main() -> None:
    """The command."""
    options = parse()
    print(machine())
    settings = Settings(options.documents, options.seed)
    needed = disk_bytes_needed(settings.documents, options.folder, options.fresh)
    free = shutil.disk_usage(options.folder).free
    print(f"up to {needed / 1e9:.1f} GB are still to be written into {options.folder}; {free / 1e9:.1f} GB are free", flush=True)
    if needed > free:
        sys.exit("too little disk: name another folder, or fewer --documents")
    corpus = options.folder / "corpus"
    started = time.perf_counter()
    summary = write_corpus(settings, corpus)
    print(
        f"corpus: {summary['raw_bytes'] / 1e9:.2f} GB of JSON lines in {summary['files']:,} files, "
        f"{summary['file_bytes'] / 1e9:.2f} GB on disk, {time.perf_counter() - started:.0f} s; {summary['planted_documents']}",
        flush=True,
    )
    changed = ((), options.settings or _OTHER_SETTINGS)
    runs = [make_run(options, corpus, options.folder / name, some) for name, some in zip(_RUNS, changed, strict=True)]
    results = options.results or ROOT / "benchmarks" / "results" / "questions.jsonl"
    rows = []
    for question in questions(runs[0], runs[1], Maker(settings), options.folder):
        if options.only and not any(question.name.startswith(name) for name in options.only):
            continue
        row = ask(question, runs, options)
        append_row(results, {"machine": machine(), "documents": settings.documents, **row})
        print(f"  {question.name}: {', '.join(row['faults']) or 'fine'}", flush=True)
        rows.append(row)
    print("\n" + render(rows))
    print(f"\nraw rows: {results}")
    sys.exit(any(row["faults"] for row in rows))


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the corpus and the runs; kept")
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", dest="settings", action="append", help="of the second run, instead of the default ones")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="ray", choices=("ray", "inline"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="make the runs again, not the corpus")
    parser.add_argument("--only", action="append", default=[], help="questions whose names start so; repeatable")
    parser.add_argument("--results", type=Path, help="file of JSON lines to append to")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


def disk_bytes_needed(n_documents: int, folder: Path, fresh: bool) -> int:
    """What is still to be written, at most."""
    corpus = 0 if (folder / "corpus").exists() else _CORPUS_BYTES
    runs = sum(_RUN_BYTES for name in _RUNS if fresh or not (folder / name / "report.json").exists())
    return n_documents * (corpus + runs)


def make_run(options: argparse.Namespace, corpus: Path, output: Path, settings: tuple[str, ...]) -> Path:
    """Run the recipe into `output`, unless a finished run stands there; prints what it took and left."""
    if options.fresh:
        shutil.rmtree(output, ignore_errors=True)
    took = "from before"
    if not (output / "report.json").exists():
        command = [str(CURATE), "run", "slimpajama", "--input", str(corpus), "--output", str(output)]
        command += ["--executor", options.executor, *(["--workers", str(options.workers)] if options.executor == "ray" else [])]
        command += [word for one in settings for word in ("--set", one)]
        measured = run(command, options.folder / f"{output.name}.log")
        if measured.exit_code:
            sys.exit(f"{' '.join(command)} failed with exit code {measured.exit_code}:\n{measured.output_tail}")
        took = f"{measured.seconds:.0f} s, {measured.tree_rss_bytes / 1e9:.2f} GB of memory"
    report = json.loads((output / "report.json").read_text())
    files = [file for file in output.rglob("*") if file.is_file()]
    counts = ", ".join(f"{name} {number:,}" for name, number in report["documents"].items())
    parts = len(list((output / "work" / "first").glob("*.arrays")))
    print(
        f"{output.name}: {took}; documents: {counts}; {parts:,} parts, {len(files):,} files, "
        f"{sum(file.stat().st_size for file in files) / 1e9:.2f} GB",
        flush=True,
    )
    return output


def questions(first: Path, second: Path, maker: Maker, folder: Path) -> list[Question]:
    """What is asked, about documents from the middle of what the first run left."""
    copy, original = removed_document(first, "minhash")
    exact_copy, exact_original = removed_document(first, "exact")
    most_copied, n_copies = most_copied_document(first)
    kept = kept_document(first)
    never_seen = kept["id"] + "1"  # an offset at which no record starts
    # Made by the same rules, from a number that the corpus does not reach.
    foreign = maker.text(2 * maker.settings.documents // 8 * 8 + 8)

    def explain(name: str, about: str, *wanted: str, exit_codes: tuple[int, ...] = (0,)) -> Question:
        return Question(f"explain: {name}", ("explain", str(first), about), _LOOK_UP, wanted, exit_codes)

    def similar(name: str, text: str, *wanted: str) -> Question:
        path = folder / "texts" / f"{name.replace(' ', '-')}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return Question(f"similar: {name}", ("similar", str(first), str(path)), _LOOK_UP, wanted)

    return [
        explain("kept", kept["id"], "kept: ", "stands for no other"),
        explain("kept, with copies", original, "kept: ", "stands for"),
        explain(f"kept, with {n_copies:,} copies", most_copied, "kept: ", "stands for"),
        explain("removed by minhash", copy, "removed by minhash", original),
        explain("removed by exact", exact_copy, "removed by exact", exact_original),
        explain("removed by length", removed_document(first, "length")[0], "removed by length"),
        explain("quarantined", quarantined_id(first), "quarantined"),
        explain("never seen", never_seen, "not found", exit_codes=(1,)),
        similar("text of a kept document", kept["text"], f"kept  {kept['id']}"),
        similar("text with most copies", text_of(first, most_copied), f"kept  {most_copied}"),
        similar("text of no document", foreign, "nothing resembles it"),
        Question("diff", ("diff", str(first), str(second)), _COMPARE, ("minhash.rows", "removed by minhash", "removed by length")),
        Question("report", ("report", str(first)), None, ("report.html",)),
    ]


def removed_document(folder: Path, stage: str) -> tuple[str, str]:
    """(id, duplicate_of or "") of a document that a stage removed, from the middle of a file of removed/."""
    for path in sorted((folder / "removed").glob("*.parquet")):
        found = pq.read_table(path, columns=["id", "duplicate_of"], filters=pc.field("stage") == stage)
        if len(found):
            row = found.slice(len(found) // 2, 1).to_pylist()[0]
            return row["id"], row["duplicate_of"] or ""
    sys.exit(f"{folder}/removed has no document that {stage} removed: give the corpus more --documents")


def most_copied_document(folder: Path) -> tuple[str, int]:
    """The id of the kept document that most others are duplicates of, and how many."""
    counts = pc.value_counts(pq.read_table(folder / "duplicates", columns=["duplicate_of"])["duplicate_of"])
    at = int(np.argmax(counts.field("counts").to_numpy()))
    return counts.field("values")[at].as_py(), counts.field("counts")[at].as_py()


def kept_document(folder: Path) -> dict[str, Any]:
    """A kept document without duplicates, from the middle of the training split."""
    files = sorted((folder / "documents" / "train").glob("*.parquet"))
    file = pq.ParquetFile(files[len(files) // 2])
    rows = file.read_row_group(file.num_row_groups // 2, columns=["id", "text", "n_duplicates"])
    alone = rows.filter(pc.equal(rows["n_duplicates"], 0))
    return alone.slice(len(alone) // 2, 1).to_pylist()[0]


def text_of(folder: Path, wanted: str) -> str:
    """The text of a kept document."""
    return pq.read_table(folder / "documents", columns=["text"], filters=pc.field("id") == wanted)["text"][0].as_py()


def quarantined_id(folder: Path) -> str:
    """The id that the middle record in quarantine would have had."""
    rows = pq.read_table(folder / "quarantine", columns=["source", "path", "offset"])
    if not len(rows):
        sys.exit(f"{folder}/quarantine is empty: give the corpus more --documents")
    row = rows.slice(len(rows) // 2, 1).to_pylist()[0]
    return document_id(row["source"], row["path"], row["offset"])


def ask(question: Question, runs: list[Path], options: argparse.Namespace) -> dict[str, Any]:
    """Ask a question: once with the runs' files dropped from memory, then `repeats` times unless that went wrong."""
    command = [str(CURATE), *question.arguments]
    log = options.folder / "question.log"
    for folder in runs:
        drop_from_memory(folder)
    measured = [run(command, log)]
    is_hopeless = question.limit is not None and measured[0].seconds > _HOPELESS * question.limit.seconds
    if measured[0].exit_code in question.exit_codes and not is_hopeless:
        measured += [run(command, log) for _ in range(options.repeats)]
    memory = max(max(one.tree_rss_bytes, one.process_peak_bytes) for one in measured)
    first, *others = (round(one.seconds, 3) for one in measured)
    others = others or [first]
    return {
        "question": question.name,
        "command": command,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "load_before": measured[0].load_before,
        "first_seconds": first,
        "seconds": others,
        "memory_bytes": memory,
        "anonymous_bytes": max(one.tree_anonymous_bytes for one in measured),
        "limit": asdict(question.limit) if question.limit else None,
        "exit_code": measured[0].exit_code,
        "faults": faults(question, measured, log.read_text(errors="replace"), [first, statistics.median(others)], memory),
    }


def faults(question: Question, measured: list[Measurement], answer: str, seconds: list[float], memory_bytes: int) -> list[str]:
    """What is wrong with an answer: none when it is right, and within its limit both from disk and from memory."""
    found = []
    codes = {one.exit_code for one in measured}
    if not codes <= set(question.exit_codes) or "Traceback" in answer:
        found.append(f"exit code {min(codes)}: {answer.strip()[-200:]}")
    found += [f"{wanted} is not in the answer" for wanted in question.wanted if wanted not in answer]
    if question.limit and max(seconds) > question.limit.seconds:
        found.append(f"{max(seconds):.1f} s")
    if question.limit and memory_bytes > question.limit.memory_bytes:
        found.append(f"{memory_bytes / 1e9:.2f} GB")
    return found


def drop_from_memory(folder: Path) -> None:
    """Ask the system to forget what it holds of these files, so that the next reader goes to the disk. Linux only."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()  # a page that is not yet written stays
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def render(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = []
    for row in rows:
        limit = row["limit"]
        lines.append(
            [
                row["question"],
                f"{row['first_seconds']:.2f}",
                spread(row["seconds"], 2),
                f"{row['memory_bytes'] / 1e6:,.0f}",
                f"{row['anonymous_bytes'] / 1e6:,.0f}",
                f"{limit['seconds']:g} s, {limit['memory_bytes'] / 1e9:g} GB" if limit else "none",
                "no" if row["faults"] else "yes",
            ]
        )
    header = ["question", "s, from disk", "s, median (range)", "peak MB", "of it anonymous", "limit", "right and within"]
    return table(header, lines)


if __name__ == "__main__":
    main()
