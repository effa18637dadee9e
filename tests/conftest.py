"""A small RedPajama-like corpus, made anew for each test that asks for it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

_WORDS = [
    "river", "stone", "harbour", "copper", "lantern", "orchard", "winter", "merchant", "gravel", "violin",
    "meadow", "cipher", "saddle", "timber", "quarry", "beacon", "linen", "furnace", "pepper", "canal",
    "gable", "thistle", "anchor", "marble", "sparrow", "ledger", "tunnel", "velvet", "walnut", "zephyr",
]  # fmt: skip


def sentence(random_source: random.Random, n_words: int = 12) -> str:
    """A sentence of made-up order, rarely met twice."""
    words = [random_source.choice(_WORDS) + str(random_source.randrange(1000)) for _ in range(n_words)]
    return " ".join(words).capitalize() + "."


def document(random_source: random.Random, n_sentences: int = 12) -> str:
    """A document of several sentences."""
    return " ".join(sentence(random_source) for _ in range(n_sentences))


def near_copy(random_source: random.Random, text: str, n_changes: int = 1) -> str:
    """The text with some words replaced."""
    words = text.split(" ")
    for _ in range(n_changes):
        words[random_source.randrange(len(words))] = "replaced" + str(random_source.randrange(10**6))
    return " ".join(words)


def corpus_records(seed: int = 0, n_documents: int = 60) -> dict[str, list[dict[str, object]]]:
    """Records by relative path: originals, exact and near copies within and across sources, short ones, other scripts."""
    source = random.Random(seed)
    originals = [document(source, source.randrange(4, 20)) for _ in range(n_documents)]
    others = ["Съешь же ещё этих мягких французских булок, да выпей чаю. " * 6, "天地玄黃宇宙洪荒日月盈昃辰宿列張" * 20]
    crawl: list[dict[str, object]] = []
    c4: list[dict[str, object]] = []
    github: list[dict[str, object]] = []
    wiki: list[dict[str, object]] = []
    for index, text in enumerate(originals):
        target = (crawl, c4, github, wiki)[index % 4]
        target.append({"text": text, "meta": {"number": index}})
        if index % 5 == 0:
            c4.append({"text": text, "meta": {"copy of": index}})
        if index % 3 == 0:
            crawl.append({"text": near_copy(source, text), "meta": {"near": index}})
        if index % 7 == 0:
            wiki.append({"text": f"Too short, number {index}.", "meta": {}})
    wiki += [{"text": text, "meta": {"language": "other"}} for text in others]
    github.append({"text": others[0].replace("же", "жe"), "meta": {"language": "ru"}})
    c4.append({"text": "The café’s “quoted” ﬁnal word — naïve. " + originals[0], "meta": {"url": "http://example.org/ä"}})
    for record in crawl:
        record |= {"pred_label": "__label__wiki", "source": "cc/2023-06/en_head", "wiki_prob": 0.75}
    return {
        "common_crawl/2023-06/part-0.jsonl.zst": crawl[: len(crawl) // 2],
        "common_crawl/2023-06/part-1.jsonl.zst": crawl[len(crawl) // 2 :],
        "c4/c4-train.00000.jsonl": c4,
        "github/filtered_01.jsonl": github,
        "wikipedia/wiki.jsonl": wiki,
    }


def write_records(path: Path, records: list[dict[str, object]]) -> None:
    """JSON lines, compressed as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    if path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The folder of a small corpus in RedPajama-1T's layout."""
    for relative, records in corpus_records().items():
        write_records(tmp_path / "input" / relative, records)
    return tmp_path / "input"


SOURCES = """\
  - {name: a, path: "{input}/a/**", priority: 1}
  - {name: b, path: "{input}/b/**"}
  - {name: c, path: "{input}/c/**", priority: 1}
"""
STAGES = """\
  - normalize: {scheme: nfc}
  - length: {minimum_characters: 60}
  - exact
  - minhash
"""


def family(random_source: random.Random, n_numbers: int = 0) -> list[str]:
    """A text, followed by some numbers, with exact copies, near copies, and copies of near copies."""
    numbers = "".join(f" {random_source.getrandbits(32):08x}" for _ in range(n_numbers))
    texts = [document(random_source, random_source.randrange(1, 6)) + numbers]
    for _ in range(random_source.choice([0, 0, 0, 1, 2, 4])):
        text = random_source.choice(texts)
        texts.append(text if random_source.random() < 0.3 else near_copy(random_source, text, random_source.randrange(1, 4)))
    return texts


def mixed_texts(seed: int, n_families: int, n_numbers: int = 0) -> list[str]:
    """Families of texts and lone ones in random order, short and empty ones among them; numbers hardly compress."""
    source = random.Random(seed)
    texts = [text for _ in range(n_families) for text in family(source, n_numbers)]
    texts += ["", "short", "e\u0301" * 80, "é" * 80, "天地玄黃宇宙洪荒日月盈昃" * 12, "天地玄黃宇宙洪荒日月盈昃" * 12]
    source.shuffle(texts)
    return texts


class Bench:
    """Runs recipes, and reads what they leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.input = folder / "input"

    def write(self, relative: str, texts: list[str], members: list[dict[str, Any]] | None = None) -> Path:
        """A file of the input with one record a text; `members` are the records' other members."""
        others = members or [{"meta": {"number": number}} for number in range(len(texts))]
        records = [{"text": text, **other} for text, other in zip(texts, others, strict=True)]
        write_records(self.input / relative, records)
        return self.input / relative

    def write_files(self, texts: list[str], relatives: list[str]) -> None:
        """The texts spread evenly over the files, in order."""
        each = -(-len(texts) // len(relatives))
        for number, relative in enumerate(relatives):
            self.write(relative, texts[number * each : (number + 1) * each])

    def recipe(self, stages: str = STAGES, sources: str = SOURCES, rest: str = "", name: str = "small") -> Path:
        """A recipe's file."""
        path = self.folder / f"{name}-{hashlib.sha256((stages + sources + rest).encode()).hexdigest()[:8]}.yaml"
        path.write_text(f"name: {name}\nsources:\n{sources}stages:\n{stages}{rest}")
        return path

    def run(
        self,
        output: str | Path,
        recipe: str | Path | None = None,
        settings: dict[str, Any] | None = None,
        input_path: Path | None = None,
        executor: str = "inline",
        **options: Any,
    ) -> dict[str, Any]:
        """Run in this process; the report."""
        from rich.console import Console

        from curation.engine.progress import Progress
        from curation.engine.recipe import load_recipe
        from curation.engine.run import RunOptions, run_recipe

        given = str(input_path or self.input)
        loaded = load_recipe(str(recipe or self.recipe()), given, settings)
        progress = Progress(Console(file=io.StringIO()))
        try:
            return run_recipe(loaded, given, str(self.folder / output), RunOptions(executor=executor, **options), progress)
        finally:
            progress.close()

    @staticmethod
    def cut_small(monkeypatch: pytest.MonkeyPatch, part_bytes: int) -> None:
        """Make small batches, and parts of about `part_bytes`, in runs of this process."""
        from curation import formats
        from curation.engine import run

        monkeypatch.setattr(formats, "read", functools.partial(formats.read, batch_bytes=part_bytes // 2))
        monkeypatch.setattr(run, "PART_BYTES", part_bytes)

    def start(self, output: str | Path, recipe: Path, *options: str) -> subprocess.Popen[str]:
        """Run the command as a process group of its own."""
        call = [Path(sys.executable).with_name("curate"), "run", recipe, "--input", self.input]
        return subprocess.Popen(
            [*map(str, call), "--output", str(self.folder / output), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=self.folder,
        )

    def ledger(self, output: str | Path) -> list[dict[str, Any]]:
        """The tasks that a run has committed so far."""
        path = self.folder / output / "work" / "ledger.jsonl"
        whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if path.exists() else []
        return [entry for entry in map(json.loads, whole) if "key" in entry]

    def hashes(self, output: str | Path, samples: bool = False) -> dict[str, str]:
        """SHA-256 of every published file of data, and of samples if asked for."""
        root = self.folder / output
        names = ["documents", "removed", "duplicates", "edited", "quarantine", *(["samples"] if samples else [])]
        folders = [root / name for name in names]
        files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def rows(self, output: str | Path, name: str) -> list[dict[str, Any]]:
        """All rows of documents/ (with the column "split"), removed/, duplicates/ or quarantine/."""
        import pyarrow.parquet as pq

        found = []
        for path in sorted((self.folder / output / name).rglob("*.parquet")):
            split = {"split": path.parent.name} if name == "documents" else {}
            found += [row | split for row in pq.read_table(path).to_pylist()]
        return found

    def texts(self) -> dict[str, str]:
        """{id: text} of the input's plain JSON lines under `SOURCES`, by the ids that a run gives them."""
        found = {}
        for path in sorted(self.input.rglob("*.jsonl")):
            source, _, relative = str(path.relative_to(self.input)).partition("/")
            position = 0
            for line in path.read_bytes().splitlines(keepends=True):
                found[f"{source}/{relative}@{position}"] = json.loads(line)["text"]
                position += len(line)
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench in a folder of its own."""
    return Bench(tmp_path)


@pytest.fixture
def small(bench: Bench) -> Bench:
    """A bench whose input holds some 200 documents in eight files of three sources."""
    bench.write_files(
        mixed_texts(3, 110),
        ["b/x/1.jsonl", "b/y/1.jsonl", "a/1.jsonl", "a/2.jsonl", "a/z/1.jsonl", "c/1.jsonl", "c/q/1.jsonl", "c/q/2.jsonl"],
    )
    return bench


@pytest.fixture(scope="session")
def make_bench() -> type[Bench]:
    """A bench in a folder of one's choice."""
    return Bench


@pytest.fixture(name="mixed_texts", scope="session")
def mixed_texts_fixture() -> Callable[..., list[str]]:
    """`mixed_texts`, for tests that choose their seed."""
    return mixed_texts


@pytest.fixture(name="document", scope="session")
def document_fixture() -> Callable[..., str]:
    """`document`, for tests that build their own texts."""
    return document
