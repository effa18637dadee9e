"""`slimpajama-released` against the published scripts' procedure: hash every document, pair, join, drop short, keep one.

The reference below is the procedure alone, on datasketch and Python's own dictionaries: for each band the first document
with a key is remembered and every later one is paired with it; pairs make components. Of a component the long document
that comes first stays, which is where the recipe says that it deviates.
"""

import json
import random
import re
import string
from collections import defaultdict

import ftfy
import pyarrow.dataset as ds
import pytest
import zstandard
from datasketch import MinHash

from curation.engine.progress import Progress
from curation.engine.recipe import load_recipe
from curation.engine.run import RunOptions, run_recipe

BANDS, ROWS, NGRAM, SHORT = 9, 13, 13, 200
FILES = [  # in the order of ranks
    "common_crawl/2019-30/a.jsonl.zst",
    "common_crawl/2023-06/b.jsonl",
    "c4/c4-train.00000.jsonl",
    "wikipedia/wiki.jsonl",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def letters(source, n_characters):
    return "".join(source.choice(LETTERS) for _ in range(n_characters))


def edited(source, text, n_edits):
    """The text with some letters replaced."""
    characters = list(text)
    for place in source.sample(range(len(text)), n_edits):
        characters[place] = source.choice(LETTERS)
    return "".join(characters)


def chain(source):
    """Each text a few edits from the one before it, so that the ends have little in common."""
    texts = [letters(source, source.randrange(250, 500))]
    for _ in range(source.randrange(2, 7)):
        texts.append(edited(source, texts[-1], source.randrange(1, 3)))
    return texts


def star(source):
    """Copies of one text with more and more edits."""
    first = letters(source, source.randrange(230, 900))
    return [first, *(edited(source, first, n_edits) for n_edits in (0, 1, 1, 2, 3, 4))]


def bridge(source):
    """Long texts that begin alike, and their short beginning."""
    common = letters(source, 172)
    return [common] + [common + letters(source, 32) for _ in range(source.randrange(2, 4))]


def dressed(source, text):
    """The text as a page might hold it: what cleaning and ftfy undo."""
    drawn = [(c, source.random()) for c in text]
    text = "".join(c.upper() if p < 0.1 else c + source.choice(".,!#") if p < 0.15 else c for c, p in drawn)
    replaced = {"ff": "ﬀ", "fi": "ﬁ", " ": source.choice([" ", "  ", "\n", "\u3000"]), "!": source.choice(["!", "&amp;"])}
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def corpus_texts(seed):
    """Texts in random order: families as above, lone ones, and texts without an n-gram."""
    source = random.Random(seed)
    texts = []
    for _ in range(7):
        texts += chain(source) + star(source)
    for _ in range(24):
        texts += bridge(source)
    for n_characters in (13, 13, 14, 60, 187, 199, 200, 201, 400):
        text = letters(source, n_characters).replace(" ", "x")
        texts += [text, text]
    texts += ["", "", "short", "twelve chars", "?!., -- !!" * 40, "\n\t .", "?!., -- !!" * 40, "İ" * 12, "e\u0301" * 12]
    texts += ["İstanbul’da “bir” gün — ﬁnal " + letters(source, 200)] * 2
    texts += ["Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5] * 2 + ["天地玄黃宇宙洪荒" * 30] * 2
    texts = [dressed(source, text) if source.random() < 0.3 else text for text in texts]
    source.shuffle(texts)
    return texts


def write_corpus(folder, texts):
    """Spread the texts over FILES; {id: text} in the order of ranks."""
    documents = {}
    share = -(-len(texts) // len(FILES))
    names = {"common_crawl": "commoncrawl", "c4": "c4", "wikipedia": "wikipedia"}
    for number, relative in enumerate(FILES):
        top, below = relative.split("/", 1)
        data = b""
        for text in texts[number * share : (number + 1) * share]:
            documents[f"{names[top]}/{below}@{len(data)}"] = text
            data += json.dumps({"text": text, "meta": {}}, ensure_ascii=number % 2 == 0).encode() + b"\n"
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zstandard.compress(data) if path.suffix == ".zst" else data)
    return documents


def clean(text):
    lowered = ftfy.fix_text(text, normalization="NFC").lower()
    return re.sub(r"\s+", " ", lowered.translate(str.maketrans("", "", string.punctuation)).strip())


class Reference:
    """Components and kept documents of {id: text}, ids in the order of ranks."""

    def __init__(self, documents):
        cleaned = {name: clean(text) for name, text in documents.items()}
        self.short = {name for name, text in cleaned.items() if len(text) < SHORT}
        self.order = list(documents)
        self.pairs = published_pairs({name: text for name, text in cleaned.items() if len(text) >= NGRAM})
        self.components = connected(self.order, self.pairs)

    def kept_for(self):
        """{long document: the one that stays in its place}."""
        kept = {}
        for component in self.components:
            long_ones = [name for name in component if name not in self.short]
            kept.update(dict.fromkeys(long_ones, long_ones[0] if long_ones else None))
        return kept


def published_pairs(cleaned):
    first_seen = [{} for _ in range(BANDS)]
    pairs = set()
    for name, text in cleaned.items():
        signature = MinHash(num_perm=128, seed=1, scheme="legacy")
        signature.update_batch([text[at : at + NGRAM].encode() for at in range(len(text) - NGRAM + 1)])
        for band, seen in enumerate(first_seen):
            key = signature.hashvalues[band * ROWS : (band + 1) * ROWS].byteswap().tobytes()
            if key in seen:
                pairs.add((name, seen[key]))
            else:
                seen[key] = name
    return pairs


def connected(order, pairs):
    """Components, each a list in the given order; lone ones are components too."""
    parent = {name: name for name in order}

    def root(name):
        while parent[name] != name:
            name = parent[name]
        return name

    for one, other in pairs:
        parent[root(one)] = root(other)
    components = defaultdict(list)
    for name in order:
        components[root(name)].append(name)
    return list(components.values())


def released(folder, output, **settings):
    """Run the recipe; {id: row} of documents and of removed."""
    recipe = load_recipe("slimpajama-released", str(folder), {key.replace("__", "."): v for key, v in settings.items()})
    run_recipe(recipe, str(folder), str(output), RunOptions(executor="inline"), Progress(quiet=True))
    tables = [ds.dataset(output / name, format="parquet").to_table() for name in ("documents", "removed")]
    return [{row["id"]: row for row in table.to_pylist()} for table in tables]


@pytest.fixture(scope="module", params=range(5))
def case(request, tmp_path_factory):
    """A corpus on disk and what the reference makes of it."""
    folder = tmp_path_factory.mktemp("released")
    documents = write_corpus(folder / "input", corpus_texts(request.param))
    return folder, Reference(documents)


def test_the_corpus_holds_what_makes_the_released_decisions_peculiar(case):
    _, reference = case
    largest = max(map(len, reference.components))
    headed_by_short = [c for c in reference.components if c[0] in reference.short and set(c) - reference.short]
    without_short = connected(
        [name for name in reference.order if name not in reference.short],
        [pair for pair in reference.pairs if not reference.short & set(pair)],
    )
    bridged = len(without_short) - sum(1 for c in reference.components if set(c) - reference.short)
    assert largest >= 6 and len(headed_by_short) >= 3 and bridged >= 3


def test_the_kept_set_is_that_of_the_published_scripts_with_the_first_long_copy_kept(case):
    folder, reference = case
    documents, removed = released(folder / "input", folder / "removed")
    kept_for = reference.kept_for()
    assert set(documents) == set(kept_for.values()) - {None}
    assert {name for name, row in removed.items() if row["stage"] == "length"} == reference.short
    duplicates = {name: row["duplicate_of"] for name, row in removed.items() if row["stage"] == "minhash"}
    assert duplicates == {name: kept for name, kept in kept_for.items() if kept != name}


def test_components_of_long_documents_are_joined_by_short_ones(case):
    folder, reference = case
    documents, removed = released(folder / "input", folder / "annotated", minhash__action="annotate")
    assert set(removed) == reference.short
    assert components_in(documents) == {frozenset(c) - reference.short for c in reference.components} - {frozenset()}
    assert {name for name, row in documents.items() if row["is_kept"]} == set(reference.kept_for().values()) - {None}


def test_components_of_all_documents_are_those_of_the_published_scripts(case):
    folder, reference = case
    documents, removed = released(folder / "input", folder / "all", minhash__action="annotate", length__minimum_characters=0)
    assert not removed and set(documents) == set(reference.order)
    assert components_in(documents) == {frozenset(c) for c in reference.components}


def components_in(documents):
    found = defaultdict(set)
    for name, row in documents.items():
        found[row["component"]].add(name)
    return {frozenset(component) for component in found.values()}
