"""Do the recipes find what they say they find? .venv/bin/python benchmarks/accuracy.py PLANTED_DIR

PLANTED_DIR holds docs.jsonl.zst ("id" and "text" a line) and pairs.jsonl (ids "a" and "b"): documents that are known to
resemble each other. The similarity of a pair is computed here, from Python sets of the character 13-grams of the normalised
and cleaned text; no code of the product takes part in that, and a similarity in pairs.jsonl is not looked at, since it may
be one of other sets. Each recipe runs on the documents, and

  - the share of pairs whose band records meet is compared, by Jaccard, with 1 - (1 - s^rows)^bands: 9 bands of 13 rows
    for `slimpajama` and `slimpajama-released`, 18 of 6 for `slimpajama-verified`. A bin counts one pair of each family
    (documents that pairs connect), so that its pairs are independent; the last row counts one pair of each family, the
    one whose outcome is least certain. A row is off when the number of pairs that meet, a sum of independent draws with
    each pair's own probability, is so far out on one side that twice the probability of that side is below 6.3e-5,
    which is what a normal variable has beyond 4 standard deviations.
  - for `slimpajama-verified` every removed document must have Jaccard >= 0.8 with the document that it is said to
    duplicate, the recorded similarity must be that number, and of at least 99 % of the pairs with Jaccard >= 0.8 one
    document must be gone. The other recipes' precision and recall are shown for comparison.

Exits with 1 when a row is off or one of these fails.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shutil
import string
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pyarrow as pa
import pyarrow.dataset
from measure import table

from curation.engine.array_file import ArrayFile
from curation.engine.progress import Progress
from curation.engine.recipe import load_recipe
from curation.engine.run import RunOptions, run_recipe
from curation.stages.minhash import MinHash, MinHashSettings

CURVES = {"slimpajama": (9, 13), "slimpajama-released": (9, 13), "slimpajama-verified": (18, 6)}  # bands, rows
VERIFIED, NGRAM = "slimpajama-verified", 13
BOUNDS = [0.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
FALSE_ALARM = 6.334e-5  # what lies beyond 4 standard deviations, both sides together
MINIMUM_RECALL = 0.99
_SETS_HELD = 64  # n-gram sets in memory: a pair's documents stand near each other in pairs.jsonl
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Planted:
    """Documents by their position in bytes, cleaned, and pairs of positions."""

    cleaned: dict[int, str]
    pairs: list[tuple[int, int]]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("planted", type=Path, metavar="PLANTED_DIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="curate-accuracy-") as work:
        failures = compare(options.planted, Path(work), lambda text: print(text, flush=True))
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures else 0)


def compare(planted: Path, work: Path, show: Callable[[str], None]) -> list[str]:
    """Run the three recipes and check them; what failed."""
    known = read_planted(planted)
    show(f"{len(known.cleaned):,} documents, {len(known.pairs):,} pairs")
    folder = work / "input"
    folder.mkdir(parents=True)
    shutil.copy(planted / "docs.jsonl.zst", folder)
    similarity = Similarity(known.cleaned, NGRAM)
    values = [similarity(*pair) for pair in known.pairs]
    failures: list[str] = []
    for name, (bands, rows) in CURVES.items():
        minhash, stages, output = run(name, folder, work / name)
        table_rows = check_bands(known.pairs, values, band_keys(output / "work"), rows=rows, bands=bands)
        show(f"\n{name}: pairs that share a band\n\n{render(table_rows)}\n")
        failures += [f"{name}: {row.share} of the pairs at {row.label} share a band" for row in table_rows if row.is_off]
        removals = Removals(output, stages)
        found = [*removals.check(similarity, minhash.threshold), *removals.recall(known.pairs, values, minhash.threshold)]
        show("\n".join(f"{name}: {text}" for text, _ in found))
        if name == VERIFIED:
            failures += [f"{name}: {text}" for text, is_good in found if not is_good]
    return failures


def read_planted(folder: Path) -> Planted:
    """Read PLANTED_DIR; exits when it is none."""
    if not (folder / "docs.jsonl.zst").is_file() or not (folder / "pairs.jsonl").is_file():
        sys.exit(f"{folder} does not hold docs.jsonl.zst and pairs.jsonl; name the folder of a planted corpus")
    with pa.input_stream(str(folder / "docs.jsonl.zst"), compression="zstd") as stream:
        lines = stream.read().splitlines(keepends=True)
    cleaned, position_of, position = {}, {}, 0
    for line in lines:
        record = json.loads(line)
        position_of[record["id"]] = position
        cleaned[position] = clean(record["text"])
        position += len(line)
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    return Planted(cleaned, [(position_of[pair["a"]], position_of[pair["b"]]) for pair in pairs])


def clean(text: str) -> str:
    """SlimPajama's normalised and cleaned text, as its released code words it."""
    lowered = ftfy.fix_text(text, normalization="NFC").lower()
    return re.sub(r"\s+", " ", lowered.translate(_PUNCTUATION).strip())


class Similarity:
    """The Jaccard similarity of two documents' sets of n-grams."""

    def __init__(self, cleaned: dict[int, str], ngram: int) -> None:
        def grams(position: int) -> frozenset[str]:
            text = cleaned[position]
            return frozenset(text[at : at + ngram] for at in range(len(text) - ngram + 1))

        self._grams = functools.lru_cache(_SETS_HELD)(grams)

    def __call__(self, one: int, other: int) -> float:
        a, b = self._grams(one), self._grams(other)
        common = len(a & b)
        return common / (len(a) + len(b) - common) if a and b else 0.0


def run(name: str, folder: Path, output: Path, settings: dict[str, Any] | None = None) -> tuple[MinHashSettings, list[str], Path]:
    """Run a recipe in this process: (its MinHash settings, its stages' names, where the result lies)."""
    recipe = load_recipe(name, str(folder), settings or {})
    run_recipe(recipe, str(folder), str(output), RunOptions(executor="inline"), Progress(quiet=True))
    (minhash,) = (stage.settings for stage in recipe.built if isinstance(stage, MinHash))
    return minhash, [stage.name for stage in recipe.built], output


def band_keys(work: Path) -> dict[int, set[int]]:
    """The band records of the run's only input file: {position of a document: its keys}."""
    found: dict[int, set[int]] = defaultdict(set)
    for path in (work / "first").glob("*.arrays"):
        part = ArrayFile(str(path))
        positions = part.read("position")[part.read("minhash.row")]
        for position, key in zip(positions.tolist(), part.read("minhash.key").tolist(), strict=True):
            found[position].add(key)
    return found


@dataclass(frozen=True)
class Row:
    """Pairs of some range of similarity: how many share a band, and how likely each was to."""

    label: str
    n_pairs: int
    n_shared: int
    expected: float  # mean probability
    deviation: float  # standard deviation of the share
    tail: float  # probability of an outcome at least as far out, both sides

    @property
    def share(self) -> str:
        """Observed against expected, with the deviation."""
        return f"{self.n_shared / self.n_pairs:.3f} (expected {self.expected:.3f} ± {self.deviation:.3f})"

    @property
    def is_off(self) -> bool:
        """Whether chance does not explain the outcome."""
        return self.tail < FALSE_ALARM


def check_bands(
    pairs: list[tuple[int, int]], similarities: list[float], keys: dict[int, set[int]], rows: int, bands: int
) -> list[Row]:
    """One row a range of similarity, and one for all; pairs of documents without band records are left out."""
    hashed = [index for index, (a, b) in enumerate(pairs) if a in keys and b in keys]
    shared = {index: not keys[pairs[index][0]].isdisjoint(keys[pairs[index][1]]) for index in hashed}
    chance = {index: 1 - (1 - similarities[index] ** rows) ** bands for index in hashed}
    family = families(pairs)
    bins: dict[str, dict[int, int]] = {}
    for low, high in zip(BOUNDS, [*BOUNDS[1:], 2.0], strict=True):
        label = f"{low:.2f}-{high:.2f}" if high <= 1 else "1"
        # Which pair of a family is counted does not depend on what the run found.
        bins[label] = {family[index]: index for index in reversed(hashed) if low <= similarities[index] < high}
    doubtful = sorted(hashed, key=lambda index: chance[index] * (1 - chance[index]))
    bins["all"] = {family[index]: index for index in doubtful}
    counted = {label: list(chosen.values()) for label, chosen in bins.items() if chosen}
    return [
        make_row(label, np.array([chance[i] for i in chosen]), sum(shared[i] for i in chosen)) for label, chosen in counted.items()
    ]


def make_row(label: str, chances: np.ndarray, n_shared: int) -> Row:
    """Compare a count with the sum of independent draws of the given probabilities, float64[n]."""
    distribution = np.ones(1)
    for chance in chances.tolist():
        distribution = np.convolve(distribution, [1 - chance, chance])
    tail = 2 * min(distribution[: n_shared + 1].sum(), distribution[n_shared:].sum())
    deviation = float(np.sqrt((chances * (1 - chances)).sum())) / len(chances)
    return Row(label, len(chances), n_shared, float(chances.mean()), deviation, min(1.0, float(tail)))


def families(pairs: Iterable[tuple[int, int]]) -> list[int]:
    """A number for each pair, the same for pairs that a chain of shared documents connects.

    >>> families([(1, 2), (5, 6), (2, 3)])
    [3, 6, 3]
    """
    parent: dict[int, int] = {}

    def root(document: int) -> int:
        while parent.setdefault(document, document) != document:
            document = parent[document]
        return document

    pairs = list(pairs)
    for a, b in pairs:
        parent[root(a)] = root(b)
    return [root(a) for a, _ in pairs]


def render(rows: list[Row]) -> str:
    """The rows as a table."""
    header = ["Jaccard", "pairs", "share a band", "expected", "± one deviation", "probability", ""]
    cells = [
        [
            row.label,
            str(row.n_pairs),
            f"{row.n_shared / row.n_pairs:.3f}",
            f"{row.expected:.3f}",
            f"{row.deviation:.3f}",
            f"{row.tail:.2g}",
            "OFF" if row.is_off else "",
        ]
        for row in rows
    ]
    return table(header, cells)


class Removals:
    """What a run removed, by position."""

    def __init__(self, output: Path, stages: list[str]) -> None:
        columns = ["id", "stage", "duplicate_of", "similarity"]
        rows = pyarrow.dataset.dataset(output / "removed", format="parquet").to_table(columns).to_pylist()
        self.stage = {_position(row["id"]): stages.index(row["stage"]) for row in rows}
        self.short = {_position(row["id"]) for row in rows if row["duplicate_of"] is None}
        self.duplicates = {
            _position(row["id"]): (_position(row["duplicate_of"]), row["similarity"])
            for row in rows
            if row["duplicate_of"] is not None
        }

    def check(self, similarity: Similarity, threshold: float) -> list[tuple[str, bool]]:
        """Statements about what was removed as a duplicate, and whether they are good."""
        true = {position: similarity(position, kept) for position, (kept, _) in sorted(self.duplicates.items())}
        n_right = sum(value >= threshold for value in true.values())
        # A later stage may remove what an earlier one kept.
        n_gone = sum(self.stage.get(kept, 99) <= self.stage[p] for p, (kept, _) in self.duplicates.items())
        measured = {p: value for p, (_, value) in self.duplicates.items() if value is not None}
        n_equal = sum(value == np.float32(true[p]) for p, value in measured.items())
        share = f"{n_right / len(true):.4f} ({n_right:,} of {len(true):,})" if true else "none was removed"
        found = [
            (f"precision {share}: removed documents with Jaccard >= {threshold} to the one kept for them", n_right == len(true)),
            (f"{n_gone} were kept for others though the same or an earlier stage removes them", n_gone == 0),
        ]
        if measured:
            text = f"{n_equal:,} of {len(measured):,} recorded similarities are the true ones"
            found.append((text, n_equal == len(measured)))
        return found

    def recall(self, pairs: list[tuple[int, int]], similarities: list[float], threshold: float) -> list[tuple[str, bool]]:
        """Of the pairs at or above the threshold, how many do not remain both; short documents apart."""
        alike = [p for p, s in zip(pairs, similarities, strict=True) if s >= threshold and self.short.isdisjoint(p)]
        if not alike:
            return [(f"no pair has Jaccard >= {threshold}", True)]
        n_found = sum(a in self.duplicates or b in self.duplicates for a, b in alike)
        text = f"recall {n_found / len(alike):.4f} ({n_found:,} of {len(alike):,}): pairs with Jaccard >= {threshold}"
        return [(f"{text} of which one is gone", n_found >= MINIMUM_RECALL * len(alike))]


def _position(document_id: str) -> int:
    return int(document_id.rsplit("@", 1)[1])


if __name__ == "__main__":
    main()
