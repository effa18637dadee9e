"""The corpus maker: shares, sizes, planted copies, determinism, and how little unrelated documents have in common."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def importable_benchmarks():
    """Benchmarks are scripts that import each other from their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def recombine(importable_benchmarks):
    return importlib.import_module("recombine")


@pytest.fixture(scope="module")
def make_corpus(importable_benchmarks):
    return importlib.import_module("make_corpus")


def prose(rng, n_words):
    """Sentences of made-up words with English small words between them."""
    small = ("the", "of", "and", "to", "a", "in", "is", "it")
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = []
    for number in range(n_words):
        long = "".join(rng.choice(letters, rng.integers(3, 9)))
        words.append(small[rng.integers(len(small))] if number % 2 else long + ("." if number % 24 == 22 else ""))
    return " ".join(words) + "."


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """English prose with and without curly quotes, Russian, and code, in RedPajama's layout and as Parquet."""
    rng = np.random.default_rng(5)
    top = tmp_path_factory.mktemp("inputs")
    english = [prose(rng, 400) for _ in range(120)]
    english[::3] = [text.replace("the", "the ‘") for text in english[::3]]
    code = [
        "".join(f"def f_{i}_{j}(x):\n    return x[{rng.integers(10**9)}] * {j}\n" for j in range(40)) for i in range(60)
    ]
    russian = [prose(rng, 200).translate({97 + i: 0x430 + i for i in range(26)}) for _ in range(60)]
    (top / "c4").mkdir()
    (top / "github").mkdir()
    lines = [json.dumps({"text": text, "meta": {"language": "en"}}) for text in english]
    (top / "c4/c4-train.jsonl").write_text("\n".join([*lines, "not json", '{"text": null}']))
    code_lines = "\n".join(json.dumps({"text": text}) for text in code)
    (top / "github/code.jsonl.zst").write_bytes(pa.Codec("zstd").compress(code_lines.encode(), asbytes=True))
    meta = [json.dumps({"redpajama_set_name": "RedPajamaWikipedia", "language": "ru"})] * len(russian)
    pq.write_table(pa.table({"text": russian, "meta": meta}), top / "wiki.parquet")
    return top


def make(inputs, output, *options):
    command = [sys.executable, str(BENCHMARKS / "make_corpus.py"), *options, str(inputs), str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rows_of(corpus):
    rows = []
    for path in sorted(corpus.glob("*.jsonl.zst")):
        with pa.input_stream(str(path), compression="zstd") as stream:
            rows += [json.loads(line) for line in stream.read().splitlines()]
    return rows


@pytest.fixture(scope="module")
def mixture(inputs, tmp_path_factory):
    output = tmp_path_factory.mktemp("corpora") / "mixture"
    shares = ("--exact-share", "0.05", "--near-share", "0.1")
    result = make(inputs, output, "--megabytes", "2", "--kind", "mixture", *shares)
    assert result.returncode == 0, result.stderr
    return output, json.loads((output / ".corpus.json").read_text())


def test_a_mixture_keeps_the_shares_of_sources_and_of_typography(mixture):
    _, summary = mixture
    assert summary["text_bytes"] == pytest.approx(2e6, rel=0.05)
    assert set(summary["share_by_source"]) == {"RedPajamaC4", "RedPajamaGithub", "RedPajamaWikipedia"}
    for kind in ("share_by_source", "share_in_documents"):
        for name, share in summary["input"][kind].items():
            assert summary[kind][name] == pytest.approx(share, abs=0.05), (kind, name)


def test_what_is_printed_is_what_the_files_hold(mixture):
    corpus, summary = mixture
    rows = rows_of(corpus)
    assert len(rows) == summary["documents"]
    assert sum(len(row["text"].encode()) for row in rows) == summary["text_bytes"]
    assert {path.name.split("-")[0] for path in corpus.glob("*.zst")} == {r["meta"]["redpajama_set_name"] for r in rows}


def test_the_number_of_exact_copies_is_the_printed_one(mixture):
    corpus, summary = mixture
    texts = [row["text"] for row in rows_of(corpus)]
    assert len(texts) - len(set(texts)) == summary["documents_equal_to_an_earlier_one"]
    assert summary["planted_documents"]["exact"] <= summary["documents_equal_to_an_earlier_one"]
    assert summary["planted_documents"]["exact"] / len(texts) == pytest.approx(0.05, abs=0.03)
    assert summary["planted_share_of_documents"] == pytest.approx(0.15, abs=0.05)


def test_copies_are_alike_and_other_documents_are_not(mixture):
    _, summary = mixture
    assert summary["jaccard_of_near_pairs"]["median"] > 0.8
    assert summary["jaccard_of_unrelated_pairs"]["maximum"] < 0.2


def test_languages_are_not_mixed_within_a_document(mixture, recombine):
    corpus, _ = mixture
    russian = [row["text"] for row in rows_of(corpus) if row["meta"]["redpajama_set_name"] == "RedPajamaWikipedia"]
    assert sum(recombine.script(text) == "CYRILLIC" for text in russian) / len(russian) > 0.9


def test_the_same_arguments_give_the_same_corpus_and_another_seed_another(inputs, tmp_path):
    for name, seed in (("one", "3"), ("two", "3"), ("three", "4")):
        assert make(inputs, tmp_path / name, "--megabytes", "0.3", "--seed", seed).returncode == 0
    one, two, three = (rows_of(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three


def test_english_leaves_out_code_and_other_scripts(inputs, tmp_path):
    assert make(inputs, tmp_path / "english", "--megabytes", "0.5", "--kind", "english").returncode == 0
    assert {row["meta"]["redpajama_set_name"] for row in rows_of(tmp_path / "english")} == {"RedPajamaC4"}
    summary = json.loads((tmp_path / "english/.corpus.json").read_text())
    assert 0.1 < summary["share_in_documents"]["non-ASCII"] < 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--megabytes", "0"], "must be above 0"),
        (["--megabytes", "1", "--exact-share", "0.5", "--near-share", "0.5"], "below 1"),
    ],
)
def test_impossible_options_are_refused(inputs, tmp_path, options, message):
    result = make(inputs, tmp_path / "out", *options)
    assert result.returncode == 2 and message in result.stderr


def test_an_existing_directory_is_refused(inputs, tmp_path):
    result = make(inputs, tmp_path, "--megabytes", "1")
    assert result.returncode == 1 and "exists: name another directory" in result.stderr


@given(st.text(alphabet=st.sampled_from("ab .!?\n。é\"'\t"), max_size=2000))
def test_segments_joined_are_the_text(recombine, text):
    segments = recombine.split_segments(text)
    assert "".join(segments) == text
    assert all(0 < len(segment) <= recombine.MAXIMUM_SEGMENT_CHARACTERS for segment in segments)


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_drawn_documents_have_a_segment_each_and_about_the_lengths_asked_for(recombine, seed, n_documents):
    rng = np.random.default_rng(seed)
    segments = [f"{number:050d}\n" for number in range(100)]
    pool = recombine.Pool(segments, np.full(100, 51), np.array([1, 200, 700]))
    drawn = pool.draw(rng, n_documents)
    assert len(drawn) == n_documents
    assert all(1 <= len(document) <= 700 // 51 + 2 for document in drawn)


def test_short_documents_seldom_repeat_although_their_pool_is_small(recombine):
    segments = [f"{number} is the number of this sentence, the {number + 1}th of all.\n" for number in range(200)]
    pool = recombine.Pool(segments, np.array([len(segment) for segment in segments]), np.array([40]))
    drawn = ["".join(document) for document in pool.draw(np.random.default_rng(2), 2000)]
    assert len(set(drawn)) > 1900


@pytest.mark.parametrize("seed", range(20))
def test_an_edited_copy_differs_from_its_original(recombine, seed):
    rng = np.random.default_rng(seed)
    segments = [f"Sentence {number} of the text, which differs from others. " for number in range(20)]
    pool = recombine.Pool([f"Another {number} sentence altogether." for number in range(9)], np.full(9, 31), np.ones(1))
    text, kind = recombine.edit(segments, pool, rng)
    assert text != "".join(segments)
    assert kind in ("words", "dropped", "appended")


def test_documents_are_capped_at_a_share_of_their_pool(recombine):
    documents = [recombine.Document(f"Nothing but sentence number {n}, once.\n" * 50, "s", "en") for n in range(40)]
    ((pool, n_documents),) = recombine.make_pools(documents)["s"]
    assert n_documents == 40 and len(pool.segments) == 40
    assert pool.document_bytes.max() <= pool.segment_bytes.sum() / 8


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [("same text, same grams", "Same  TEXT,\nsame grams", 1.0), ("one thing entirely", "another matter of facts", 0.0)],
)
def test_jaccard_ignores_case_and_white_space_only(recombine, first, second, wanted):
    assert recombine.jaccard(first, second) == wanted
