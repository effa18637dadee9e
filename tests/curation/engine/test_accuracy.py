"""The recipes find what they say they find, on pairs of random texts with chosen similarities.

The checks are those of benchmarks/accuracy.py, which computes similarities by itself, from sets of strings.
"""

import importlib
import json
import random
import string
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
N_PAIRS, NGRAM = 3000, 13


@pytest.fixture(scope="module")
def accuracy():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("accuracy")
    sys.path.remove(str(BENCHMARKS))


def pair_of_texts(source, jaccard):
    """Two random texts; each of k replaced letters changes 13 n-grams, so that 13 k of n differ on both sides."""
    n_characters = source.randrange(300, 700)
    text = source.choices(string.ascii_lowercase, k=n_characters)
    n_edits = round((n_characters - NGRAM + 1) * (1 - jaccard) / (1 + jaccard) / NGRAM)
    copy = list(text)
    for place in np.linspace(NGRAM, n_characters - NGRAM - 1, n_edits).astype(int):
        copy[place] = source.choice(string.digits)
    return "".join(text), "".join(copy)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Pairs of similarity 0.6 to 1, and texts that resemble nothing."""
    source = random.Random(8)
    pairs = [pair_of_texts(source, 0.6 + 0.4 * k / N_PAIRS) for k in range(N_PAIRS)]
    texts = {f"{number}{side}": text for number, pair in enumerate(pairs) for side, text in zip("ab", pair, strict=True)}
    names = sorted(texts, key=lambda name: source.random())
    folder = tmp_path_factory.mktemp("planted")
    lines = "".join(json.dumps({"id": name, "text": texts[name]}) + "\n" for name in names)
    (folder / "docs.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    named = [{"a": f"{number}a", "b": f"{number}b", "kind": "substitution"} for number in range(N_PAIRS)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in named))
    return folder


@pytest.fixture(scope="module")
def known(planted, accuracy):
    known = accuracy.read_planted(planted)
    similarity = accuracy.Similarity(known.cleaned, NGRAM)
    return known, [similarity(*pair) for pair in known.pairs]


def test_the_corpus_has_pairs_over_the_whole_range_of_similarity(known):
    counts, _ = np.histogram(known[1], np.linspace(0.6, 1, 9))
    assert counts.min() >= 200


def test_pairs_share_bands_as_often_as_the_curve_says_and_removals_are_true(planted, accuracy, tmp_path):
    shown = []
    assert accuracy.compare(planted, tmp_path, shown.append) == []
    text = "\n".join(shown)
    assert text.count("| all ") == 3 and "slimpajama-verified: precision 1.0000" in text


@pytest.mark.parametrize(
    "settings", [{"minhash.rows": 12}, {"minhash.rows": 14}, {"minhash.bands": 7}, {"minhash.ngram": 17}], ids=str
)
def test_the_band_check_notices_other_constants(planted, accuracy, known, tmp_path, settings):
    _, _, output = accuracy.run("slimpajama", planted / "docs.jsonl.zst", tmp_path, settings)
    pairs, similarities = known[0].pairs, known[1]
    rows = accuracy.check_bands(pairs, similarities, accuracy.band_keys(output / "work"), rows=13, bands=9)
    assert any(row.is_off for row in rows)


def test_the_removal_checks_notice_an_unverified_run(planted, accuracy, known, tmp_path):
    minhash, stages, output = accuracy.run("slimpajama", planted / "docs.jsonl.zst", tmp_path)
    removals, similarity = accuracy.Removals(output, stages), accuracy.Similarity(known[0].cleaned, NGRAM)
    (precision, is_precise), *_ = removals.check(similarity, minhash.threshold)
    ((recall, is_complete),) = removals.recall(known[0].pairs, known[1], minhash.threshold)
    assert not is_precise and precision.startswith("precision 0.") and not is_complete and recall.startswith("recall 0.")
