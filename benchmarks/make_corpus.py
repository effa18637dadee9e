"""Make a corpus of any size for benchmarks: python benchmarks/make_corpus.py --megabytes 1000 INPUT... OUTPUT_DIR

Reads the documents of JSONL (.zst, .gz or plain) and Parquet files, recombines their sentences (recombine.py says how),
and plants exact and near copies. Writes OUTPUT_DIR/SOURCE-00000.jsonl.zst and so on, with `meta.redpajama_set_name` in
each row, and what it planted into OUTPUT_DIR/.corpus.json. The same arguments and inputs give the same corpus.

  --kind english   only English prose, which keeps its shares of plain ASCII text, of `&`, of curly quotes
  --kind mixture   all of the input: each source keeps its share, and in it each language and script
  --kind auto      english when more than four fifths of the input are English prose, else mixture (the default)
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import zstandard
from recombine import Document, Pool, edit, jaccard, make_pools, typography

# Where RedPajama-1T as published keeps its sources, for rows that do not name theirs.
_SET_NAMES = {
    "arxiv": "RedPajamaArXiv",
    "book": "RedPajamaBook",
    "c4": "RedPajamaC4",
    "common_crawl": "RedPajamaCommonCrawl",
    "github": "RedPajamaGithub",
    "stackexchange": "RedPajamaStackExchange",
    "wikipedia": "RedPajamaWikipedia",
}
_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet")
_ENGLISH = frozenset(("the", "of", "and", "to", "a", "in", "is", "it", "that", "was", "for", "with", "as", "be", "on"))
_WORD = re.compile(r"[a-z]+")
_MARKUP = re.compile(r"[{}()\[\]<>;=|\\_#*/]")
_DOCUMENTS_AT_ONCE = 1000
_RESERVOIR = 50_000  # originals of a source that may still be copied
_COPY_OF_ANOTHER_SOURCE = 0.2
_SAMPLED_PAIRS = 300


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    started = time.perf_counter()
    documents = [document for path in input_files(options.input) for document in read_documents(path)]
    documents, kind = choose(documents, options.kind)
    if not documents:
        sys.exit(f"no documents of kind {kind} in {', '.join(options.input)}")
    output = Path(options.output)
    if output.exists():
        sys.exit(f"{output} exists: name another directory, or remove it first")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    maker = CorpusMaker(documents, options, partial)
    maker.run()
    summary = {"kind": kind, "input": shares(documents), **maker.summary()}
    (partial / ".corpus.json").write_text(json.dumps({"arguments": vars(options), **summary}, indent=1) + "\n")
    partial.rename(output)
    print(json.dumps(summary, indent=1))
    print(f"{output}: {summary['text_bytes'] / 1e6:.0f} MB of text in {time.perf_counter() - started:.0f} s")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, required=True, help="million bytes of text (UTF-8) to write")
    parser.add_argument("--exact-share", type=float, default=0.02, help="share of documents that are exact copies")
    parser.add_argument("--near-share", type=float, default=0.1, help="share of documents that are edited copies")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=("english", "mixture", "auto"), default="auto")
    parser.add_argument("input", nargs="+", help="files, or directories of files")
    parser.add_argument("output", help="a new directory")
    options = parser.parse_args(arguments)
    if options.megabytes <= 0 or min(options.exact_share, options.near_share) < 0:
        parser.error("--megabytes must be above 0, and shares not below 0")
    if options.exact_share + options.near_share >= 1:
        parser.error("--exact-share and --near-share leave no originals to copy: their sum must be below 1")
    return options


def input_files(names: list[str]) -> Iterator[Path]:
    """The files named, and in directories those of a known suffix, sorted."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.name.endswith(_SUFFIXES) and file.is_file())
        elif path.is_file() and path.name.endswith(_SUFFIXES):
            yield path
        else:
            sys.exit(f"{path} is neither a directory nor a file that ends in {', '.join(_SUFFIXES)}")


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a file that have text which is valid Unicode."""
    directories = [part for part in path.parts if part in _SET_NAMES]
    source = _SET_NAMES[directories[-1]] if directories else path.parent.name
    for row in _read_rows(path):
        text = row.get("text", row.get("content"))
        if not isinstance(text, str) or not text.strip():
            continue
        try:
            text.encode()
        except UnicodeEncodeError:
            continue
        meta = row.get("meta")
        if isinstance(meta, str) and meta.startswith("{"):
            meta = json.loads(meta)
        meta = meta if isinstance(meta, dict) else {}
        language = meta.get("language") if isinstance(meta.get("language"), str) else None
        yield Document(text, str(meta.get("redpajama_set_name", source)), language)


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
        return
    compression = {".zst": "zstd", ".gz": "gzip"}.get(path.suffix)
    with pa.input_stream(str(path), compression=compression) as stream:
        for line in stream.read().split(b"\n"):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(row, dict):
                yield row


def is_english_prose(text: str) -> bool:
    """Whether a text reads as English sentences: by its small words, its ASCII letters, and little markup."""
    head = text[:20_000]
    words = _WORD.findall(head.lower())
    if sum(character < "\x80" for character in head) < 0.95 * len(head) or not words:
        return False
    return sum(word in _ENGLISH for word in words) > 0.22 * len(words) and len(_MARKUP.findall(head)) < 0.03 * len(head)


def choose(documents: list[Document], kind: str) -> tuple[list[Document], str]:
    """The documents of the kind asked for, and the kind that `auto` comes to."""
    if kind == "mixture":
        return documents, kind
    english = [document for document in documents if is_english_prose(document.text)]
    n_english, n_all = (sum(len(document.text) for document in chosen) for chosen in (english, documents))
    if kind == "auto" and n_english <= 0.8 * n_all:
        return documents, "mixture"
    return english, "english"


def shares(documents: list[Document]) -> dict[str, Any]:
    """What a list of documents is made of, to compare an input with a corpus."""
    counter = ShareCounter()
    for document in documents:
        counter.add(document.text, document.source)
    return counter.result()


class ShareCounter:
    """Bytes by source and by kind of typography."""

    def __init__(self) -> None:
        self.documents = 0
        self.text_bytes = 0
        self.non_ascii = 0
        self.sources: Counter[str] = Counter()
        self.typography: Counter[str] = Counter()

    def add(self, text: str, source: str) -> None:
        """Count one document."""
        n_bytes = len(text.encode())
        self.documents += 1
        self.text_bytes += n_bytes
        self.sources[source] += n_bytes
        self.typography[typography(text)] += n_bytes
        # Of a character beyond ASCII, all but one byte are missing from the count of characters.
        self.non_ascii += n_bytes - len(text)

    def result(self) -> dict[str, Any]:
        """Counts, and shares of the bytes."""
        total = max(1, self.text_bytes)
        return {
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "share_by_source": {name: round(n / total, 4) for name, n in sorted(self.sources.items())},
            "share_in_documents": {name: round(n / total, 4) for name, n in sorted(self.typography.items())},
            "share_of_continuation_bytes": round(self.non_ascii / total, 5),
        }


class CorpusMaker:
    """Writes the corpus source by source, and counts what it plants."""

    def __init__(self, documents: list[Document], options: argparse.Namespace, directory: Path) -> None:
        self.options = options
        self.directory = directory
        self.pools = make_pools(documents)
        n_bytes: Counter[str] = Counter()
        for document in documents:
            n_bytes[document.source] += len(document.text.encode())
        total = sum(n_bytes.values())
        self.target_bytes = {name: options.megabytes * 1e6 * n / total for name, n in n_bytes.items()}
        # About sixteen files, so that any tool has something to do in parallel; the size of published ones at most.
        self.part_bytes = min(64e6, max(1e6, options.megabytes * 1e6 / 16))
        self.counter = ShareCounter()
        self.planted: Counter[str] = Counter()
        self.planted_bytes: Counter[str] = Counter()
        self.originals: dict[str, list[tuple[Pool, list[str]]]] = {}
        self.seen: set[int] = set()
        self.repeated = 0
        self.near_pairs: list[tuple[str, str]] = []
        self.unrelated_pairs: list[tuple[str, str]] = []

    def run(self) -> None:
        """Write all sources."""
        for number, source in enumerate(sorted(self.pools)):
            rng = np.random.default_rng([self.options.seed, number])
            self.originals[source] = []
            self._write_source(source, rng)

    def _write_source(self, source: str, rng: np.random.Generator) -> None:
        written, part, part_bytes = 0, 0, 0.0
        stream = self._open(source, part)
        while written < self.target_bytes[source]:
            for text in self._documents(source, rng):
                encoded = text.encode()
                n_bytes = len(encoded)
                # Counted rather than taken from what was planted: two edits of one text may come out the same.
                digest = xxhash.xxh3_64_intdigest(encoded)
                self.repeated += digest in self.seen
                self.seen.add(digest)
                stream.write(orjson.dumps({"text": text, "meta": {"redpajama_set_name": source}}) + b"\n")
                self.counter.add(text, source)
                written += n_bytes
                part_bytes += n_bytes
                if written >= self.target_bytes[source]:
                    break
                if part_bytes >= self.part_bytes:
                    stream.close()
                    part, part_bytes = part + 1, 0.0
                    stream = self._open(source, part)
        stream.close()

    def _open(self, source: str, part: int) -> BinaryIO:
        return zstandard.open(self.directory / f"{source}-{part:05d}.jsonl.zst", "wb")  # type: ignore[return-value]

    def _documents(self, source: str, rng: np.random.Generator) -> Iterator[str]:
        """A batch of documents in random order of their pools, with copies among them."""
        weights = np.array([n for _, n in self.pools[source]], np.float64)
        chosen = rng.choice(len(weights), _DOCUMENTS_AT_ONCE, p=weights / weights.sum())
        fates = rng.random(_DOCUMENTS_AT_ONCE)
        fresh: list[Iterator[list[str]]] = []
        for number, (pool, _) in enumerate(self.pools[source]):
            fresh.append(iter(pool.draw(rng, max(1, int((chosen == number).sum())))))
        exact, near = self.options.exact_share, self.options.exact_share + self.options.near_share
        for number, fate in zip(chosen.tolist(), fates.tolist(), strict=True):
            if fate < near and self.originals[source]:
                yield self._copy(source, rng, "exact" if fate < exact else "near")
            else:
                pool = self.pools[source][number][0]
                yield self._original(source, pool, next(fresh[number]), rng)

    def _original(self, source: str, pool: Pool, segments: list[str], rng: np.random.Generator) -> str:
        text = "".join(segments)
        kept = self.originals[source]
        if kept and rng.random() < 0.02 and len(self.unrelated_pairs) < _SAMPLED_PAIRS:
            other_pool, other = kept[int(rng.integers(0, len(kept)))]
            if other_pool is pool:
                self.unrelated_pairs.append((text, "".join(other)))
        if len(kept) < _RESERVOIR:
            kept.append((pool, segments))
        else:
            kept[int(rng.integers(0, _RESERVOIR))] = (pool, segments)
        return text

    def _copy(self, source: str, rng: np.random.Generator, kind: str) -> str:
        """An exact or an edited copy of an earlier original, now and then of another source's."""
        names = [name for name, kept in self.originals.items() if kept and name != source]
        if not names or rng.random() >= _COPY_OF_ANOTHER_SOURCE:
            names = [source]
        kept = self.originals[names[int(rng.integers(0, len(names)))]]
        pool, segments = kept[int(rng.integers(0, len(kept)))]
        text = "".join(segments)
        if kind == "near":
            original, (text, how) = text, edit(segments, pool, rng)
            kind = f"near, {how}"
            if len(self.near_pairs) < _SAMPLED_PAIRS:
                self.near_pairs.append((original, text))
        self.planted[kind] += 1
        self.planted_bytes[kind] += len(text.encode())
        return text

    def summary(self) -> dict[str, Any]:
        """What was written and planted, and how alike sampled pairs are."""
        near = np.array([jaccard(*pair) for pair in self.near_pairs])
        unrelated = np.array([jaccard(*pair) for pair in self.unrelated_pairs])
        return {
            **self.counter.result(),
            "documents_equal_to_an_earlier_one": self.repeated,
            "planted_documents": dict(sorted(self.planted.items())),
            "planted_bytes": dict(sorted(self.planted_bytes.items())),
            "planted_share_of_documents": round(sum(self.planted.values()) / max(1, self.counter.documents), 4),
            "jaccard_of_near_pairs": _quantiles(near),
            "jaccard_of_unrelated_pairs": _quantiles(unrelated),
        }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """Quantiles of a sample, empty for an empty one."""
    if not len(values):
        return {}
    named = {"minimum": 0.0, "tenth": 0.1, "median": 0.5, "ninetieth": 0.9, "maximum": 1.0}
    return {name: round(float(np.quantile(values, quantile)), 4) for name, quantile in named.items()}


if __name__ == "__main__":
    main()
