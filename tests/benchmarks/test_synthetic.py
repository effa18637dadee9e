"""The made-up corpus: deterministic, with the copies, short documents and bad records that it says it has."""

import importlib
import json
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.engine.plan import make_plan
from curation.engine.recipe import load_recipe

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
N_DOCUMENTS = 20_000


@pytest.fixture(scope="module", autouse=True)
def importable_benchmarks():
    """Benchmarks are scripts that import each other from their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def synthetic(importable_benchmarks):
    return importlib.import_module("synthetic")


@pytest.fixture(scope="module")
def jaccard(importable_benchmarks):
    return importlib.import_module("recombine").jaccard


@pytest.fixture(scope="module")
def maker(synthetic):
    return synthetic.Maker(synthetic.Settings(N_DOCUMENTS, bad_share=0.001))


@pytest.fixture(scope="module")
def corpus(synthetic, maker, tmp_path_factory):
    """(folder, summary, kind of each document, its original)."""
    folder = tmp_path_factory.mktemp("corpora") / "corpus"
    summary = synthetic.write_corpus(maker.settings, folder)
    return folder, summary, *maker.kinds(np.arange(N_DOCUMENTS))


@pytest.fixture(scope="module")
def lines(synthetic, corpus, maker):
    """All lines of the corpus in the order of its documents, as they are read from the files."""
    read = []
    for file in synthetic.corpus_files_of(maker.settings):
        with pa.input_stream(str(corpus[0] / file.relative), compression="zstd") as stream:
            read += stream.read().splitlines()
    return read


def text(line):
    return json.loads(line)["text"]


def test_every_number_is_a_document_of_one_file(synthetic):
    for n_documents in (1, 7, 12_345, 1_000_000):
        files = synthetic.corpus_files_of(synthetic.Settings(n_documents))
        numbers = [number for file in files for number in (file.start, file.end)]
        assert numbers[0] == 0 and numbers[-1] == n_documents and numbers[1:-1:2] == numbers[2::2]


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(synthetic, tmp_path):
    def content(name, seed):
        synthetic.write_corpus(synthetic.Settings(3000, seed), tmp_path / name)
        return {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.zst")}

    first, again, other = content("first", 1), content("again", 1), content("other", 2)
    assert first == again
    assert first.keys() == other.keys() and not any(first[name] == other[name] for name in first)


def test_a_document_does_not_depend_on_those_made_with_it(maker, lines):
    for number in (0, 8, 4321, N_DOCUMENTS - 1):
        assert maker.lines(np.array([number])).rstrip(b"\n") == lines[number]


def test_the_files_hold_what_the_summary_says(corpus, lines):
    folder, summary, kinds, _ = corpus
    assert len(lines) == sum(summary["planted_documents"].values()) == N_DOCUMENTS
    assert sum(len(line) + 1 for line in lines) == summary["raw_bytes"]
    assert len(list(folder.rglob("*.zst"))) == summary["files"]
    unreadable = []
    for number, line in enumerate(lines):
        try:
            json.loads(line)
        except ValueError:
            unreadable.append(number)
    assert unreadable == np.flatnonzero(kinds == 4).tolist()
    assert len(unreadable) == summary["planted_documents"]["bad record"]


def test_the_planted_shares_are_those_asked_for(corpus):
    planted = {kind: n / N_DOCUMENTS for kind, n in corpus[1]["planted_documents"].items()}
    assert planted["exact copy"] == pytest.approx(0.05, rel=0.1)
    assert planted["near copy"] == pytest.approx(0.10, rel=0.1)
    # Short documents are drawn among those that are no copies of others.
    assert planted["short"] == pytest.approx(0.03, rel=0.1)
    assert planted["bad record"] == pytest.approx(0.001, rel=0.6)


def test_a_copy_stands_after_its_original_which_is_no_copy(corpus, synthetic):
    _, _, kinds, originals = corpus
    copies = np.flatnonzero((kinds == synthetic.EXACT) | (kinds == synthetic.NEAR))
    assert (originals[copies] < copies).all()
    assert np.isin(kinds[originals[copies]], (synthetic.FRESH, synthetic.SHORT)).all()


def test_exact_copies_are_equal_and_nothing_else_is(corpus, synthetic, lines):
    _, _, kinds, originals = corpus
    exact = np.flatnonzero(kinds == synthetic.EXACT)
    assert all(text(lines[number]) == text(lines[originals[number]]) for number in exact.tolist())
    others = [text(lines[n]) for n in np.flatnonzero((kinds == synthetic.FRESH) | (kinds == synthetic.SHORT)).tolist()]
    assert len(set(others)) == len(others)


def test_near_copies_are_alike_but_not_equal_and_other_documents_are_not_alike(corpus, synthetic, lines, jaccard):
    _, _, kinds, originals = corpus
    is_long = kinds[originals] != synthetic.SHORT
    near = np.flatnonzero((kinds == synthetic.NEAR) & is_long)[:300].tolist()
    similarities = [jaccard(text(lines[number]), text(lines[originals[number]])) for number in near]
    assert min(similarities) > 0.6 and max(similarities) < 1 and np.median(similarities) > 0.8
    fresh = np.flatnonzero(kinds == synthetic.FRESH)[:300].tolist()
    unlike = [jaccard(text(lines[first]), text(lines[second])) for first, second in pairwise(fresh)]
    assert max(unlike) < 0.1


def test_some_clusters_are_far_larger_than_most(corpus, synthetic):
    _, _, kinds, originals = corpus
    copies = (kinds == synthetic.EXACT) | (kinds == synthetic.NEAR)
    sizes = sorted(Counter(originals[copies].tolist()).values())
    assert sizes[len(sizes) // 2] <= 2 and sizes[-1] > 20


def test_documents_are_short_and_short_ones_are_under_two_hundred_characters(corpus, synthetic, lines):
    _, _, kinds, _ = corpus
    lengths = np.array([len(text(line)) if kind != synthetic.BAD else 0 for line, kind in zip(lines, kinds, strict=True)])
    fresh = lengths[kinds == synthetic.FRESH]
    assert ((fresh >= 200) & (fresh <= 400)).mean() > 0.95
    assert np.quantile(lengths[kinds == synthetic.SHORT], 0.9) < 200
    assert 200 < np.mean([len(line) for line in lines]) < 400


def test_some_documents_have_letters_beyond_ascii(lines):
    assert 0.01 < np.mean([not line.isascii() for line in lines]) < 0.2


def test_the_recipe_finds_every_file_in_the_order_of_the_documents(synthetic, corpus, maker):
    plan = make_plan(load_recipe("slimpajama", str(corpus[0]), {}), str(corpus[0]))
    files = synthetic.corpus_files_of(maker.settings)
    assert [file.source for file in plan.files] == [file.source for file in files]
    assert [Path(file.relative).name for file in plan.files] == [Path(file.relative).name for file in files]
    assert not plan.unmatched


def test_a_corpus_of_one_document_is_a_readable_one(synthetic, tmp_path):
    synthetic.write_corpus(synthetic.Settings(1), tmp_path / "one")
    (path,) = (tmp_path / "one").rglob("*.zst")
    with pa.input_stream(str(path), compression="zstd") as stream:
        assert len(text(stream.read())) > 150


def test_a_corpus_that_is_there_is_not_made_again_and_another_is_not_overwritten(synthetic, tmp_path):
    first = synthetic.write_corpus(synthetic.Settings(50), tmp_path / "corpus")
    (path, *_) = (tmp_path / "corpus").rglob("*.zst")
    path.write_bytes(b"untouched")
    assert synthetic.write_corpus(synthetic.Settings(50), tmp_path / "corpus") == first
    assert path.read_bytes() == b"untouched"
    with pytest.raises(ValueError, match="name another folder, or remove it"):
        synthetic.write_corpus(synthetic.Settings(51), tmp_path / "corpus")


@pytest.mark.parametrize("settings", [{"documents": 0}, {"documents": 9, "exact_share": 0.5, "near_share": 0.5}])
def test_impossible_settings_are_refused(synthetic, settings):
    with pytest.raises(ValueError, match=r"at least one|in sum"):
        synthetic.Settings(**settings)
