"""Global decisions against a brute-force oracle, and what must hold between the stages of a chain."""

from __future__ import annotations

import random
import string
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest
import xxhash
from datasketch import MinHash

from curation.engine import preflight, verify
from curation.engine.array_file import ArrayFile, write_arrays
from curation.engine.decide import EdgesTask, Members, MergeTask, edges, keep_order, merge_segments, write_segments
from curation.engine.part_writer import sorted_segment

BANDS, ROWS = 9, 13
ORDER = {"b": 0, "a": 1, "c": 2}  # of the sources of the test recipe, by priority
MINHASH_AFTER_EXACT = """\
  - normalize: {scheme: nfc}
  - length: {minimum_characters: 60}
  - exact
  - minhash
"""
THREE_STAGES = """\
  - exact
  - minhash: {as: strict}
  - minhash: {as: loose, bands: 40, rows: 3}
"""


def cleaned(text):
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(kept.split())


def grams_of(text):
    text = cleaned(text)
    return {text[i : i + 13] for i in range(len(text) - 12)}


def band_keys(text, bands=BANDS, rows=ROWS):
    grams = [gram.encode() for gram in grams_of(text)]
    if not grams:
        return []
    signature = MinHash(num_perm=128, seed=1, hashfunc=xxhash.xxh32_intdigest)
    signature.update_batch(grams)
    values = signature.hashvalues
    return [(band, values[band * rows : (band + 1) * rows].tobytes()) for band in range(bands)]


def in_rank_order(texts):
    def place(item):
        name, position = item[0].rsplit("@", 1)
        source, relative = name.split("/", 1)
        return ORDER[source], relative, int(position)

    return dict(sorted(texts.items(), key=place))


def oracle(texts, minimum_characters=60):
    """{id: (stage, kept id)} of what MINHASH_AFTER_EXACT removes, by the definitions alone; `texts` in rank order."""
    texts = {key: unicodedata.normalize("NFC", text) for key, text in texts.items()}
    removed: dict[str, tuple[str, str | None]] = {
        key: ("length", None) for key, text in texts.items() if len(cleaned(text)) < minimum_characters
    }
    first: dict[str, str] = {}
    for key, text in texts.items():
        if key not in removed and first.setdefault(text, key) != key:
            removed[key] = ("exact", first[text])
    neighbours = defaultdict(set)
    holder: dict[tuple[int, bytes], str] = {}
    left = [key for key in texts if key not in removed]
    for key in left:
        for band in band_keys(texts[key]):
            other = holder.setdefault(band, key)
            neighbours[key].add(other)
            neighbours[other].add(key)
    seen = set()
    for root in left:
        waiting = [] if root in seen else [root]
        while waiting:
            key = waiting.pop()
            if key in seen:
                continue
            seen.add(key)
            if key != root:
                removed[key] = ("minhash", root)
            waiting += neighbours[key]
    return removed


@pytest.mark.parametrize("seed", range(6))
def test_decisions_equal_those_of_a_brute_force_oracle(bench, mixed_texts, seed):
    texts = mixed_texts(seed, 60 + 30 * seed)
    source = random.Random(seed)
    names = [f"{s}/{d}/{n}.jsonl" for s in "bac" for d in "xyz" for n in range(source.randrange(1, 3))]
    bench.write_files(texts, names)
    bench.run("out", bench.recipe(MINHASH_AFTER_EXACT))
    expected = oracle(in_rank_order(bench.texts()))
    removed = {row["id"]: (row["stage"], row["duplicate_of"]) for row in bench.rows("out", "removed")}
    assert removed == expected
    assert {stage for stage, _ in expected.values()} == {"length", "exact", "minhash"}
    kept = [row["id"] for row in bench.rows("out", "documents")]
    assert kept == [key for key in in_rank_order(bench.texts()) if key not in expected]


@pytest.mark.parametrize(("seed", "keep"), [(0, "first"), (1, "first"), (2, "longest")])
def test_verified_decisions_equal_those_of_a_brute_force_cover(bench, mixed_texts, monkeypatch, seed, keep):
    """In keep order, a document goes when its true similarity to a retained one that shares a band is high enough."""
    bench.write_files(mixed_texts(40 + seed, 90), [f"{s}/{d}/1.jsonl" for s in "bac" for d in "xyz"])
    bench.cut_small(monkeypatch, 5000)
    monkeypatch.setattr(verify, "PARTITION_TEXT_BYTES", 10_000)
    stage = f"  - minhash: {{bands: 25, rows: 5, verify: exact, threshold: 0.7, keep: {keep}}}\n"
    bench.run("out", bench.recipe(stage))
    texts = in_rank_order(bench.texts())
    order = sorted(texts, key=lambda key: -len(texts[key].encode())) if keep == "longest" else list(texts)
    bands = {key: set(band_keys(text, 25, 5)) for key, text in texts.items()}
    grams = {key: grams_of(text) for key, text in texts.items()}
    retained: list[str] = []
    expected = {}
    for key in order:
        for other in retained:
            if bands[key] & bands[other]:
                similarity = len(grams[key] & grams[other]) / len(grams[key] | grams[other])
                if similarity >= 0.7:
                    expected[key] = other, np.float32(similarity)
                    break
        else:
            retained.append(key)
    assert {row["id"]: (row["duplicate_of"], row["similarity"]) for row in bench.rows("out", "removed")} == expected
    assert len(expected) > 30
    assert len(list((bench.folder / "out/work/covers").iterdir())) > 2


def test_merged_segments_and_small_parts_change_no_decision(small, monkeypatch):
    recipe = small.recipe(THREE_STAGES)
    small.run("plain", recipe)
    monkeypatch.setattr(preflight, "MOST_RANGE_READS", 3)
    monkeypatch.setattr(preflight, "MERGED_SEGMENT_RECORDS", 500)
    small.run("merged", recipe)
    assert any(entry["step"] == "strict: merge" for entry in small.ledger("merged"))
    assert small.hashes("merged") == small.hashes("plain")
    small.cut_small(monkeypatch, 2500)
    small.run("parts", recipe)
    assert len(list((small.folder / "parts/work/first").glob("*-0003.arrays"))) > 3
    for name in ("documents", "removed", "duplicates", "quarantine"):
        assert small.rows("parts", name) == small.rows("plain", name)


def test_the_number_of_partitions_changes_no_decision(small, monkeypatch):
    small.run("plain", small.recipe(THREE_STAGES))
    monkeypatch.setattr(preflight, "partitions_for", lambda records, worker_bytes: 128 if records > 2000 else 16)
    small.run("many", small.recipe(THREE_STAGES))
    assert small.hashes("many") == small.hashes("plain")


@pytest.mark.parametrize(
    "stages",
    [
        MINHASH_AFTER_EXACT,
        THREE_STAGES,
        "  - minhash: {keep: longest}\n  - exact\n  - minhash: {as: again, bands: 40, rows: 3, keep: [longest, first]}\n",
        "  - minhash: {bands: 40, rows: 3}\n  - length: {minimum_characters: 300}\n  - exact\n",
        "  - length: {minimum_characters: 300}\n  - minhash: {bands: 40, rows: 3, bridge_removed: true}\n",
        "  - exact\n  - minhash: {bands: 30, rows: 4, verify: exact, threshold: 0.5, keep: [longest, first]}\n",
    ],
)
def test_no_removed_document_is_the_kept_copy_of_one_removed_by_the_same_or_a_later_stage(small, stages):
    report = small.run("out", small.recipe(stages))
    order = list(report["stages"])
    removed = {row["id"]: row for row in small.rows("out", "removed")}
    documents = {row["id"]: row for row in small.rows("out", "documents")}
    assert not removed.keys() & documents.keys()
    duplicates = [row for row in removed.values() if row["duplicate_of"]]
    assert len(duplicates) > 20
    for row in duplicates:
        if row["duplicate_of"] not in documents:
            assert order.index(removed[row["duplicate_of"]]["stage"]) > order.index(row["stage"])
    pairs = Counter((row["duplicate_of"], row["id"], row["stage"]) for row in small.rows("out", "duplicates"))
    assert pairs == Counter((row["duplicate_of"], row["id"], row["stage"]) for row in duplicates)

    # Each kept document stands for all that lead to it.
    standing: Counter[str] = Counter()
    for row in duplicates:
        key = row["duplicate_of"]
        while key in removed:
            key = removed[key]["duplicate_of"]
        standing[key] += 1
    assert {key: row["n_duplicates"] for key, row in documents.items() if row["n_duplicates"]} == dict(standing)


def test_a_document_that_a_later_map_stage_removes_is_never_the_kept_copy(bench, document):
    source = random.Random(5)
    long = document(source, 12)
    bench.write_files([long + " more", long, "x" + document(source, 1), "unrelated"], ["a/1.jsonl"])
    bench.run("out", bench.recipe("  - minhash\n  - length: {minimum_characters: 200}\n"))
    removed = {row["stage"] for row in bench.rows("out", "removed")}
    assert removed == {"minhash", "length"}
    small_first = [document(source, 3)] * 2
    bench.write_files(small_first, ["b/1.jsonl"])
    bench.run("second", bench.recipe("  - exact\n  - length: {minimum_characters: 5000}\n"))
    rows = bench.rows("second", "removed")
    assert {row["stage"] for row in rows} == {"length"}
    assert all(row["duplicate_of"] is None for row in rows)


def test_keep_longest_keeps_the_longest_and_the_first_of_equally_long(bench, document):
    source = random.Random(1)
    text = document(source, 10)
    bench.write("a/1.jsonl", [text, text + " and more", text + " and sore", text[:-5]])
    bench.run("out", bench.recipe("  - minhash: {keep: [longest, first], bands: 40, rows: 3}\n"))
    (kept,) = bench.rows("out", "documents")
    assert kept["text"] == text + " and more"
    assert kept["n_duplicates"] == 3


def test_keep_highest_follows_the_column_and_prefers_any_value_to_none(bench, document):
    source = random.Random(2)
    text = document(source, 10)
    sources = '  - {name: a, path: "{input}/a/**", columns: {stars: meta.stars}}\n'
    stars = [{"meta": {}}, {"meta": {"stars": 3}}, {"meta": {"stars": 7.5}}, {"meta": {"stars": 7.5}}, {"meta": {"stars": None}}]
    bench.write("a/1.jsonl", [text + f" number {n}" for n in range(5)], stars)
    recipe = bench.recipe("  - minhash: {keep: [{highest: stars}, first], bands: 40, rows: 3}\n", sources)
    bench.run("out", recipe)
    (kept,) = bench.rows("out", "documents")
    assert kept["text"].endswith("number 2")
    assert kept["stars"] == 7.5
    bench.run("limited", recipe, limit=2)
    (kept,) = bench.rows("limited", "documents")
    assert kept["text"].endswith("number 1")


def test_annotating_keeps_all_and_names_the_components_that_removing_would_have_joined(small):
    small.run("removing", small.recipe("  - minhash\n"))
    report = small.run("annotating", small.recipe("  - minhash: {action: annotate}\n"))
    removed = {row["id"]: row["duplicate_of"] for row in small.rows("removing", "removed")}
    documents = {row["id"]: row for row in small.rows("annotating", "documents")}
    assert len(documents) == report["documents"]["in"] == len(small.texts())
    assert {key for key, row in documents.items() if not row["is_kept"]} == set(removed)
    for key, row in documents.items():
        assert row["component"] == documents[removed.get(key, key)]["rank"]
    assert small.rows("annotating", "removed") == []
    assert report["stages"]["minhash"]["annotated_documents"] == len(removed)
    counts = {row["id"]: row["n_duplicates"] for row in small.rows("removing", "documents")}
    assert {key: documents[key]["n_duplicates"] for key in counts} == counts


def test_a_second_near_duplicate_stage_is_not_connected_by_what_the_first_removed(bench):
    """The first stage removes `near`; `far` shares half of `near` and nothing of `first`, so that it stays."""
    source = random.Random(8)
    letters = "abcdefghijklmnopqrstuvwxyz "
    first, tail = ("".join(source.choice(letters) for _ in range(n)) for n in (600, 40))
    near = first[:560] + tail
    far = tail + "".join(source.choice(letters) for _ in range(600))
    bench.write("a/1.jsonl", [first, near, far])
    whole = bench.run("whole", bench.recipe("  - minhash: {as: loose, bands: 128, rows: 1}\n"))
    assert whole["stages"]["loose"]["component_sizes"] == {"3": 1}
    bench.run("out", bench.recipe("  - minhash: {as: strict, bands: 40, rows: 3}\n  - minhash: {as: loose, bands: 128, rows: 1}\n"))
    removed = {row["id"]: (row["stage"], row["duplicate_of"]) for row in bench.rows("out", "removed")}
    ids = list(bench.texts())
    assert removed == {ids[1]: ("strict", ids[0])}


def test_a_copy_in_a_source_without_ids_names_the_own_id_of_what_is_kept(bench, document):
    source = random.Random(4)
    texts = [document(source, 8) for _ in range(4)]
    sources = '  - {name: a, path: "{input}/a/**", id: key}\n  - {name: b, path: "{input}/b/**"}\n'
    bench.write("a/1.jsonl", texts, [{"key": f"own-{n}"} for n in range(4)])
    bench.write("b/1.jsonl", [texts[2], texts[0] + " more"], [{}, {}])
    bench.write("b/empty.jsonl", [])
    bench.run("out", bench.recipe("  - exact\n  - minhash: {bands: 40, rows: 3}\n", sources))
    named = {row["stage"]: row["duplicate_of"] for row in bench.rows("out", "removed")}
    assert named == {"exact": "own-2", "minhash": "own-0"}
    assert {row["duplicate_of"] for row in bench.rows("out", "duplicates")} == {"own-2", "own-0"}


@pytest.mark.parametrize("merge", [False, True])
def test_an_id_that_occurs_twice_is_an_error_that_names_both_places(bench, monkeypatch, merge):
    if merge:
        monkeypatch.setattr(preflight, "MOST_RANGE_READS", 1)
    sources = '  - {name: a, path: "{input}/a/**", id: key}\n  - {name: b, path: "{input}/b/**"}\n'
    bench.write("a/1.jsonl", ["one", "two"], [{"key": "x"}, {"key": "y"}])
    bench.write("a/q/empty.jsonl", [])
    bench.write("a/z/2.jsonl", ["three", "four"], [{"key": "z"}, {"key": "y"}])
    bench.write("b/1.jsonl", ["five"], [{"key": "x"}])
    with pytest.raises(ValueError, match="'y' occurs twice") as raised:
        bench.run("out", bench.recipe("  - exact\n", sources))
    first, second = bench.input / "a/1.jsonl", bench.input / "a/z/2.jsonl"
    assert f"{first} at 28" in str(raised.value)
    assert f"{second} at 30" in str(raised.value)


def test_edges_of_merged_segments_equal_those_of_single_ones(tmp_path):
    source = np.random.default_rng(1)
    segments, base = [], 0
    for number in range(5):
        n = int(source.integers(0, 200)) if number != 2 else 0
        records = {
            "key": source.integers(0, 50, n).astype(np.uint64) << np.uint64(58) | source.integers(0, 3, n).astype(np.uint64),
            "row": source.integers(0, 100, n).astype(np.uint32),
        }
        arrays = {f"s.{name}": values for name, values in sorted_segment(records if n else {}).items()}
        path = str(tmp_path / f"{number}.arrays")
        write_arrays(path, arrays)
        segments.append((path, base))
        base += 100
    write_segments(str(tmp_path / "segments"), segments)
    merged = []
    for first, last in ((0, 3), (3, 5)):
        output = str(tmp_path / f"merged-{first}")
        merge_segments(MergeTask("s", str(tmp_path / "segments"), first, last, output))
        merged.append((output, 0))
    write_segments(str(tmp_path / "merged"), merged)
    for n_partitions in (1, 8):
        found = []
        for name in ("segments", "merged"):
            pairs: list[tuple[int, int]] = []
            for partition in range(n_partitions):
                output = str(tmp_path / f"edges-{name}-{partition}")
                edges(EdgesTask("s", partition, n_partitions, str(tmp_path / name), None, output))
                file = ArrayFile(output)
                pairs += zip(file.read("low").tolist(), file.read("high").tolist(), strict=True)
            found.append(Counter(pairs))
        assert found[0] == found[1]
        assert found[0]


def test_the_living_come_before_the_removed_in_keep_order():
    members = Members(
        numbers=np.arange(4, dtype=np.uint64),
        roots=np.zeros(4, np.uint64),
        ranks=np.arange(4, dtype=np.uint64),
        sources=np.zeros(4, np.uint16),
        text_bytes=np.array([9, 5, 7, 7], np.uint32),
        alive=np.array([False, True, True, True]),
        columns={"stars": np.array([9.0, np.nan, -1.0, -1.0])},
    )
    assert keep_order(members, ("longest",)).tolist() == [2, 3, 1, 0]
    assert keep_order(members, ("first",)).tolist() == [1, 2, 3, 0]
    assert keep_order(members, ("highest: stars", "longest")).tolist() == [2, 3, 1, 0]


def test_exact_after_a_near_duplicate_stage_finds_no_copy_of_what_is_gone(bench, mixed_texts):
    texts = mixed_texts(3, 12)
    bench.write("a/1.jsonl", [*texts, *texts])
    report = bench.run("out", bench.recipe("  - minhash: {}\n  - exact: {}\n"))
    assert report["stages"]["minhash"]["removed_documents"] >= len(texts)
    removed = bench.run("other", bench.recipe("  - exact: {}\n  - minhash: {}\n"))["documents"]["kept"]
    assert report["documents"]["kept"] == removed
