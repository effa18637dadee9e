"""A small RedPajama-like corpus, made anew for each test that asks for it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import zstandard

_WORDS = (
    "river stone harbour copper lantern orchard winter merchant gravel violin meadow cipher saddle timber quarry beacon "
    "linen furnace pepper canal gable thistle anchor marble sparrow ledger tunnel velvet walnut zephyr"
).split()


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
    crawl, c4, github, wiki = [], [], [], []
    for index, text in enumerate(originals):
        target = (crawl, c4, github, wiki)[index % 4]
        target.append({"text": text, "meta": {"number": index}})
        if index % 5 == 0:
            c4.append({"text": text, "meta": {"copy of": index}})
        if index % 3 == 0:
            crawl.append({"text": near_copy(source, text), "meta": {"near": index}})
        if index % 7 == 0:
            wiki.append({"text": "Too short, number %d." % index, "meta": {}})
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
