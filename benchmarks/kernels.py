"""Signatures on one core: ours beside datasketch and beside the bare permutation loop, in one run.

    python benchmarks/kernels.py [CORPUS]

CORPUS is a file or a folder of JSONL (plain, .gz or .zst; the member "text") or of plain text. What it lacks of plain
ASCII, Cyrillic or Chinese text is made by seeded recombination of a few sentences. Every number is the best of
several repetitions; the slow ones run on a smaller part of the same text. MB/s counts bytes of the raw text, cleaning
included, except for the bare loop.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
import zstandard
from datasketch import MinHash

from curation.kernels import compile_all, is_compiled, kernel
from curation.kernels.minhash import lower_minimum, permutations, sign
from curation.kernels.text import clean, clean_text

NGRAM, N_PERMUTATIONS = 13, 128
REPEAT = 15
TEXT_BYTES = 2_000_000
SAMPLE_BYTES = {"update_batch": 300_000, "published": 50_000, "legacy": 500_000}

SENTENCES = {
    "ASCII": [
        "The harbour lay quiet under a thin layer of fog, and only the ferry's engine could be heard.",
        "Nobody at the meeting remembered who had first proposed the new timetable; it passed anyway.",
        "If the temperature falls below 4 degrees, the valve closes (slowly) and the lamp turns red.",
        "She packed two maps, a compass, her grandfather's knife, and more bread than she could carry.",
        "In 1987 the council voted, 14 to 9, to keep the old bridge open for bicycles and pedestrians.",
        "A good index makes a slow question fast; a bad one makes a fast question slow.",
    ],
    "Cyrillic": [
        "Над рекой стоял густой туман, и только шум парома нарушал утреннюю тишину.",
        "На собрании никто не помнил, кто первым предложил новое расписание; его всё равно приняли.",
        "Если температура падает ниже четырёх градусов, клапан медленно закрывается.",
        "Она взяла две карты, компас, дедушкин нож и больше хлеба, чем могла унести.",
        "Город проголосовал за то, чтобы старый мост остался открытым для велосипедов.",
        "Хороший указатель делает медленный вопрос быстрым, а плохой делает быстрый медленным.",
    ],
    "Chinese": [
        "清晨的河面上笼罩着一层薄雾,只有渡船的马达声打破了宁静。",
        "会议上没有人记得是谁最先提出了新的时间表,但它还是通过了。",
        "如果温度降到四度以下,阀门就会慢慢关闭,指示灯也会变红。",
        "她带了两张地图、一个指南针、祖父的小刀,还有多得拿不动的面包。",
        "市议会投票决定,让旧桥继续向自行车和行人开放。",
        "好的索引让慢的问题变快,坏的索引让快的问题变慢。",
    ],
}


def made_texts(script: str, n_bytes: int) -> list[str]:
    """Texts of the script's phrases in random order, so that long n-grams seldom repeat exactly."""
    generator = random.Random(7)
    words = [word for sentence in SENTENCES[script] for word in sentence.split()]
    if script == "Chinese":
        words = [sentence[i : i + 3] for sentence in SENTENCES[script] for i in range(0, len(sentence), 3)]
    texts, total = [], 0
    while total < n_bytes:
        pieces = [generator.choice(words) for _ in range(generator.randint(100, 1200))]
        text = ("" if script == "Chinese" else " ").join(pieces)
        texts.append(text)
        total += len(text.encode())
    return texts


def corpus_texts(path: Path) -> Iterator[str]:
    """The texts of a file, or of every file of a folder."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield from corpus_texts(file)
        return
    raw = path.read_bytes()
    if path.suffix == ".zst":
        raw = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read()
    elif path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if ".json" not in path.name:
        yield raw.decode(errors="replace")
        return
    for line in raw.splitlines():
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(text, str) and not any(0xD800 <= ord(c) < 0xE000 for c in text if c > "\ud7ff"):
            yield text


def script_of(text: str) -> str | None:
    """The script of most of the text's letters, if it is one of ours."""
    if text.isascii():
        return "ASCII"
    sample = text[:2000]
    if sum("\u0400" <= c <= "\u04ff" for c in sample) > len(sample) / 2:
        return "Cyrillic"
    return "Chinese" if sum("\u4e00" <= c <= "\u9fff" for c in sample) > len(sample) / 2 else None


def texts_by_script(corpus: Path | None) -> dict[str, tuple[list[str], str]]:
    """(texts, where they are from) of each script, about 2 MB each."""
    found: dict[str, list[str]] = {script: [] for script in SENTENCES}
    sizes = dict.fromkeys(found, 0)
    for text in corpus_texts(corpus) if corpus else ():
        script = script_of(text)
        if script and sizes[script] < TEXT_BYTES:
            found[script].append(text)
            sizes[script] += len(text.encode())
    enough = TEXT_BYTES // 4
    return {
        script: (texts, "corpus") if sizes[script] >= enough else (made_texts(script, TEXT_BYTES), "made")
        for script, texts in found.items()
    }


def encoded(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The texts as Arrow would hold them."""
    pieces = [text.encode() for text in texts]
    return np.frombuffer(b"".join(pieces), np.uint8), np.cumsum([0, *map(len, pieces)], dtype=np.int64)


def part(texts: list[str], n_bytes: int) -> list[str]:
    """The first texts, until they hold `n_bytes` together."""
    chosen, total = [], 0
    for text in texts:
        chosen.append(text)
        total += len(text.encode())
        if total >= n_bytes:
            break
    return chosen


@dataclass
class Rate:
    """The best time of a way to sign: n bytes of raw text and n-grams in so many seconds."""

    seconds: float
    n_bytes: int
    n_grams: int

    @property
    def megabytes_per_second(self) -> float:
        """Millions of raw bytes a second."""
        return self.n_bytes / self.seconds / 1e6

    @property
    def nanoseconds_per_gram(self) -> float:
        """Nanoseconds for each n-gram."""
        return self.seconds / self.n_grams * 1e9


@dataclass
class Way:
    """One way to do it: what to run, and how many bytes of raw text and n-grams that handles."""

    name: str
    run: Callable[[], object]
    n_bytes: int
    n_grams: int


def measure(ways: list[Way], repeat: int) -> dict[str, Rate]:
    """The shortest of `repeat` runs of each, in turn, so that a busy moment does not fall on one way alone."""
    seconds = {way.name: float("inf") for way in ways}
    for _ in range(repeat):
        for way in ways:
            start = time.perf_counter()
            way.run()
            seconds[way.name] = min(seconds[way.name], time.perf_counter() - start)
    return {way.name: Rate(seconds[way.name], way.n_bytes, way.n_grams) for way in ways}


def published_loop(texts: list[str]) -> None:
    """What SlimPajama's to_hash.py does with each document: datasketch's legacy scheme, one update an n-gram."""
    for text in texts:
        sketch = MinHash(num_perm=N_PERMUTATIONS, scheme="legacy")
        cleaned = clean_text(text)
        for gram in zip(*(cleaned[i:] for i in range(NGRAM)), strict=False):
            sketch.update("".join(gram).encode("utf8"))


def datasketch_batch(texts: list[str]) -> None:
    """datasketch's fastest documented way: one update_batch a document, xxHash, the affine32 scheme."""
    for text in texts:
        sketch = MinHash(num_perm=N_PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
        cleaned = clean_text(text)
        if len(cleaned) >= NGRAM:
            sketch.update_batch([cleaned[i : i + NGRAM].encode() for i in range(len(cleaned) - NGRAM + 1)])


@kernel
def bare_loop(hashes, rounds, multipliers, offsets, minima):  # type: ignore[no-untyped-def]
    """The permutation loop alone, over hashes that stay in the first-level cache."""
    for _ in range(rounds):
        lower_minimum(hashes, len(hashes), multipliers, offsets, minima)


def bare(used: int, bytes_per_gram: float) -> Way:
    """The bare loop, as if it signed text."""
    drawn = permutations(N_PERMUTATIONS, 1, "affine32", used=N_PERMUTATIONS)
    padded = -(-used // 16) * 16
    hashes = np.random.default_rng(1).integers(0, 2**32, 1024, dtype=np.uint32)
    minima, rounds = np.full(padded, 2**32 - 1, np.uint32), 1000
    n_grams = rounds * len(hashes)

    def run() -> None:
        bare_loop(hashes, rounds, drawn.multipliers[:padded], drawn.offsets[:padded], minima)

    return Way(f"bare loop, {used} permutations", run, int(n_grams * bytes_per_gram), n_grams)


def ours(texts: list[str], scheme: str, used: int) -> Way:
    """Cleaning and signing, as a run does it."""
    data, offsets = encoded(texts)
    drawn = permutations(N_PERMUTATIONS, 1, scheme, used=used)

    def run() -> int:
        cleaned, ends, _ = clean(data, offsets)
        return int(sign(cleaned, ends, unit="character", ngram=NGRAM, permutations=drawn)[1].sum())

    return Way(f"clean + sign, {scheme}, {used}", run, len(data), run())


def rates(texts: list[str]) -> dict[str, Rate]:
    """Every way on the same text."""
    signed = ours(texts, "affine32", N_PERMUTATIONS)
    grams_per_byte = signed.n_grams / signed.n_bytes
    data, offsets = encoded(texts)

    def theirs(name: str, run: Callable[[list[str]], None], n_bytes: int) -> Way:
        some = part(texts, n_bytes)
        size = len(encoded(some)[0])
        return Way(name, lambda: run(some), size, int(size * grams_per_byte))

    ways = [
        bare(128, 1 / grams_per_byte),
        bare(117, 1 / grams_per_byte),
        Way("clean", lambda: clean(data, offsets), len(data), signed.n_grams),
        signed,
        ours(texts, "affine32", 117),
        ours(part(texts, SAMPLE_BYTES["legacy"]), "legacy", N_PERMUTATIONS),
        theirs("datasketch update_batch", datasketch_batch, SAMPLE_BYTES["update_batch"]),
        theirs("published loop", published_loop, SAMPLE_BYTES["published"]),
    ]
    return measure(ways, REPEAT)


def main() -> None:
    """Print the table of each script and the ratios."""
    corpus = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if not is_compiled():
        print("compiling the kernels (once) ...", flush=True)
    compile_all()
    ascii_rate = 0.0
    for script, (texts, origin) in texts_by_script(corpus).items():
        measured = rates(texts)
        print(f"\n{script} text ({origin}, {sum(len(t.encode()) for t in texts) / 1e6:.1f} MB in {len(texts)} documents)")
        for name, rate in measured.items():
            print(f"  {name:<36}{rate.megabytes_per_second:>10.2f} MB/s{rate.nanoseconds_per_gram:>10.1f} ns a 13-gram")
        signed, legacy = measured["clean + sign, affine32, 128"], measured["clean + sign, legacy, 128"]
        fastest, published = measured["bare loop, 128 permutations"], measured["published loop"]
        batch = measured["datasketch update_batch"]
        ascii_rate = ascii_rate or signed.megabytes_per_second
        ratios = [
            ("share of the bare loop", fastest.nanoseconds_per_gram / signed.nanoseconds_per_gram, "0.6 on ASCII"),
            ("of the rate on ASCII", signed.megabytes_per_second / ascii_rate, "0.5"),
            ("x datasketch update_batch", signed.megabytes_per_second / batch.megabytes_per_second, "20"),
            ("x published loop", signed.megabytes_per_second / published.megabytes_per_second, "100"),
            ("legacy x published loop", legacy.megabytes_per_second / published.megabytes_per_second, "20"),
        ]
        for name, ratio, wanted in ratios:
            print(f"  {name:<36}{ratio:>10.2f}   (at least {wanted})")


if __name__ == "__main__":
    main()
