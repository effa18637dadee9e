"""The samples of a run are what they say they are, and the same whoever draws them."""

import json
import math
import random
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.documents import DocumentBatch
from curation.engine import output_steps, sample_tables, samples, second_pass
from curation.engine.keyed import keyed_hashes, lowest
from curation.engine.sample_tables import SamplesTask, StagePairs, join_samples

NEAR = "minhash: {bands: 40, rows: 3"
STAGES = f"  - normalize: {{scheme: nfc}}\n  - length: {{minimum_characters: 60}}\n  - exact\n  - {NEAR}}}\n"
TWO_LENGTHS = f"""\
  - length: {{minimum_characters: 150}}
  - exact
  - {NEAR}}}
  - length: {{as: longer, minimum_characters: 300}}
"""
VERIFIED = f"  - {NEAR}, verify: exact, threshold: 0.6}}\n"
ANNOTATED = f"  - exact\n  - {NEAR}, action: annotate}}\n"
# Of a near-duplicate stage.
SETTINGS = ["", "keep: longest", "action: annotate", "verify: exact, threshold: 0.6", "ngram: 5"]


def tables(bench, output):
    """The rows of the three tables."""
    names = ("documents", "nearest", "clusters")
    return {name: pq.read_table(bench.folder / output / f"samples/{name}.parquet").to_pylist() for name in names}


def report_of(bench, output):
    return json.loads((bench.folder / output / "report.json").read_text())


def fate(bench, output):
    """{id: the stage that removed it, or None}."""
    found = {row["id"]: row["stage"] for row in bench.rows(output, "removed")}
    return found | {row["id"]: None for row in bench.rows(output, "documents")}


def one_task_a_part(monkeypatch):
    monkeypatch.setattr(output_steps, "group_parts", lambda kept, raw, size: [(n, n + 1) for n in range(len(raw))])


def ngrams_of(text, n=13):
    batch = DocumentBatch(np.zeros(1, np.uint64), pa.array([text], pa.large_string()))
    cleaned = batch.cleaned[0].tobytes().decode()
    return {cleaned[at : at + n] for at in range(len(cleaned) - n + 1)}


@pytest.mark.parametrize("stages", [STAGES, VERIFIED, ANNOTATED])
def test_samples_are_the_same_however_the_input_is_cut_into_parts_and_tasks(small, monkeypatch, stages):
    monkeypatch.setattr(samples, "SAMPLE_DOCUMENTS", 60)
    recipe = small.recipe(stages)
    small.run("whole", recipe)
    whole = {name: digest for name, digest in small.hashes("whole", samples=True).items() if name.startswith("samples/")}
    for part_bytes in (1500, 6000):
        with monkeypatch.context() as patched:
            small.cut_small(patched, part_bytes)
            one_task_a_part(patched)
            small.run(f"cut-{part_bytes}", recipe)
        tasks = [entry for entry in small.ledger(f"cut-{part_bytes}") if entry["step"] == "second pass"]
        assert len(tasks) > 5
        cut = small.hashes(f"cut-{part_bytes}", samples=True)
        assert {name: cut[name] for name in whole} == whole
    assert sorted(whole) == [f"samples/{name}.parquet" for name in ("clusters", "documents", "nearest")]


def test_a_small_run_samples_every_document_with_its_fate(small):
    small.run("out", small.recipe(STAGES))
    kept = {row["id"]: (None, None, len(row["text"].encode())) for row in small.rows("out", "documents")}
    removed = {row["id"]: (row["stage"], row["reason"], row["text_bytes"]) for row in small.rows("out", "removed")}
    sampled = tables(small, "out")["documents"]
    assert {row["id"]: (row["stage"], row["reason"], row["text_bytes"]) for row in sampled} == kept | removed
    assert len(sampled) == len(kept) + len(removed)
    assert report_of(small, "out")["sample"]["share"] == 1.0


def test_the_sample_is_of_about_the_size_wanted_and_holds_kept_and_removed_documents(small, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE_DOCUMENTS", 60)
    report = small.run("out", small.recipe(STAGES))
    read = report["documents"]["in"]
    share = report["sample"]["share"]
    assert share == 60 / read
    assert abs(report["sample"]["documents"] - 60) < 4 * math.sqrt(60 * (1 - share))
    sampled = tables(small, "out")["documents"]
    assert len(sampled) == report["sample"]["documents"]
    assert {row["stage"] for row in sampled} >= {None, "minhash"}
    assert {row["id"]: row["stage"] for row in sampled}.items() <= fate(small, "out").items()
    assert report["documents"]["kept"] == len(small.rows("out", "documents"))  # what is only sampled is not kept


def test_another_seed_draws_other_documents(small, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE_DOCUMENTS", 40)
    drawn = []
    for seed in (1, 2, 2**64 - 1):
        small.run(f"out-{seed}", small.recipe(STAGES, rest=f"seed: {seed}\n"))
        drawn.append({row["id"] for row in tables(small, f"out-{seed}")["documents"]})
    assert len(set(map(frozenset, drawn))) == 3


def test_languages_and_domains_are_the_records_own_or_found(bench):
    english = "The committee met on the third of May and decided to build the bridge over the river near the old mill. "
    german = "Der Ausschuss tagte am dritten Mai und beschloss, die Brücke über den Fluss bei der alten Mühle zu bauen. "
    members = [
        ({"url": "https://www.example.org/a", "meta": {"language": "xx"}}, english, "xx", "example.org"),
        ({"url": "http://Example.org:8080/b"}, english, "en", "example.org"),
        ({"meta": {"url": "http://[broken"}}, german, "de", None),
        ({"meta": {"url": "no scheme"}, "language": '[{"name": "C"}]'}, german, "de", None),
        ({}, "12 + 30 = 42", None, None),
        ({"url": "http://" + "a" * 300 + ".org/", "language": "y" * 400}, english, "en", None),
    ]
    bench.write("a/1.jsonl", [f"{text} {n}" for n, (_, text, _, _) in enumerate(members)], [other for other, *_ in members])
    report = bench.run("out", bench.recipe("  - length: {minimum_characters: 20}\n"))
    rows = tables(bench, "out")["documents"]
    assert [(row["language"], row["domain"]) for row in rows] == [(language, host) for _, _, language, host in members]
    mix = report["sample"]["languages"]
    assert {name: (n["documents_in"], n["documents_kept"]) for name, n in mix.items()} == {
        "de": (2, 2),
        "en": (2, 2),
        "unknown": (1, 0),
        "xx": (1, 1),
    }
    assert report["sample"]["domains"]["example.org"]["bytes_in"] == len(f"{english} 0{english} 1".encode())
    assert report["sample"]["domains"]["unknown"]["documents_in"] == 4


def test_the_mix_names_the_largest_and_counts_the_others_together():
    documents = [
        {"language": f"l{n}", "stage": None if n % 2 else "length", "text_bytes": n} for n in range(50) for _ in range(n + 1)
    ]
    mix = sample_tables._mix(documents, "language")
    assert list(mix) == [*(f"l{n}" for n in range(49, 29, -1)), "other"]
    assert sum(entry["documents_in"] for entry in mix.values()) == len(documents)
    assert mix["l49"] == {"documents_in": 50, "documents_kept": 50, "bytes_in": 50 * 49, "bytes_kept": 50 * 49}
    assert mix["l48"]["documents_kept"] == 0
    assert mix["other"]["bytes_in"] == sum(n * (n + 1) for n in range(30))


@pytest.mark.parametrize("small_parts", [False, True])
def test_nearest_documents_are_those_that_came_to_the_stage_and_measured_closest(small, monkeypatch, small_parts):
    if small_parts:
        small.cut_small(monkeypatch, 2000)
        one_task_a_part(monkeypatch)
    report = small.run("out", small.recipe(TWO_LENGTHS))
    texts, gone = small.texts(), fate(small, "out")
    order = ["length", "exact", "minhash", "longer", None]
    in_rank_order = sorted(texts, key=lambda key: ("bac".index(key[0]), *key.split("@")[:1], int(key.split("@")[1])))
    for stage, threshold in (("length", 150), ("longer", 300)):
        expected = []
        for side in ("kept", "removed"):
            came = [
                key
                for key in in_rank_order
                if (gone[key] == stage if side == "removed" else order.index(gone[key]) > order.index(stage))
            ]
            measured = [(abs(length - threshold), length, key) for key in came for length in [cleaned_length(texts[key])]]
            nearest = sorted(measured, key=lambda item: item[0])[: samples.NEAREST]
            expected += [(side, float(length), key) for _, length, key in nearest]
        rows = [row for row in tables(small, "out")["nearest"] if row["stage"] == stage]
        assert [(row["side"], row["measure"], row["id"]) for row in rows] == expected
        assert report["stages"][stage]["nearest"] == [{"side": s, "measure": m, "id": key} for s, m, key in expected]
        assert report["stages"][stage]["measure"] == {"unit": "characters", "threshold": threshold}
        for row in rows:
            assert (row["text"], row["characters"]) == (texts[row["id"]][:2000], len(texts[row["id"]]))
            assert row["source"] == row["id"].split("/")[0]
    assert len(expected) == 2 * samples.NEAREST


def cleaned_length(text):
    return int(DocumentBatch(np.zeros(1, np.uint64), pa.array([text], pa.large_string())).cleaned[2][0])


def test_a_removed_document_near_a_threshold_is_shown_as_its_stage_saw_it(bench):
    bench.write("a/1.jsonl", ["e\u0301" * 80, "e\u0301" * 300])
    bench.run("out", bench.recipe("  - normalize: {scheme: nfc}\n  - length: {minimum_characters: 200}\n"))
    rows = tables(bench, "out")["nearest"]
    assert [(row["side"], row["measure"], row["text"], row["characters"]) for row in rows] == [
        ("kept", 300.0, "é" * 300, 300),
        ("removed", 80.0, "é" * 80, 80),
    ]


@pytest.mark.parametrize("settings", SETTINGS)
def test_sampled_pairs_have_the_similarity_of_their_ngram_sets(small, settings):
    report = small.run("out", small.recipe(f"  - exact\n  - {NEAR}, {settings}}}\n"))
    texts, stage = small.texts(), report["stages"]["minhash"]
    rows = tables(small, "out")["clusters"]
    pairs = {row["id"]: row["duplicate_of"] for row in small.rows("out", "removed") if row["stage"] == "minhash"}
    if "annotate" in settings:
        of_rank = {row["rank"]: row["id"] for row in small.rows("out", "documents")}
        pairs = {row["id"]: of_rank[row["component"]] for row in small.rows("out", "documents") if not row["is_kept"]}
    n = 5 if "ngram" in settings else 13

    def jaccard(one, other):
        a, b = ngrams_of(texts[one], n), ngrams_of(texts[other], n)
        return len(a & b) / len(a | b)

    true = {key: jaccard(key, kept) for key, kept in pairs.items()}
    assert 10 < len(pairs) < 200
    for row in rows:
        assert pairs[row["id"]] == row["duplicate_of"]
        assert row["similarity"] == true[row["id"]]
        assert (row["text_kept"], row["text_removed"]) == (texts[row["duplicate_of"]], texts[row["id"]])
        assert row["documents"] == 1 + list(pairs.values()).count(row["duplicate_of"])
    sampled = stage["sampled_pairs"]
    assert (sampled["pairs"], sampled["measured"]) == (len(pairs), len(pairs))
    assert sampled["below_threshold"] == sum(value < sampled["threshold"] for value in true.values())
    counts, _ = np.histogram(list(true.values()), np.arange(21) / 20)
    assert [count for _, _, count in sampled["histogram"]] == counts.tolist()
    least = [row for row in rows if row["chosen"] == "least similar"]
    assert [row["similarity"] for row in least] == sorted(true.values())[:20]
    drawn = [row for row in rows if row["chosen"] == "sampled"]
    assert len(drawn) == min(20, len(pairs) - 20)
    assert not {row["id"] for row in drawn} & {row["id"] for row in least}
    names = ("chosen", "documents", "duplicate_of", "id", "similarity")
    assert stage["clusters"] == [{name: row[name] for name in names} for row in rows]


def test_the_largest_clusters_show_their_first_pairs(small):
    report = small.run("out", small.recipe(f"  - exact\n  - {NEAR}}}\n"))
    for name in ("exact", "minhash"):
        largest = report["stages"][name]["largest_components"]
        sizes = [int(size) for size, n in report["stages"][name]["component_sizes"].items() for _ in range(n)]
        assert [one["documents"] for one in largest] == sorted(sizes, reverse=True)[:3]
        for one in largest:
            assert len(one["first_lines"]) == min(one["documents"], 4)
            for line in one["first_lines"]:
                assert line["text"] == small.texts()[line["id"]][:300]
    rows = [row for row in tables(small, "out")["clusters"] if row["chosen"] == "largest"]
    assert {row["stage"] for row in tables(small, "out")["clusters"]} == {"minhash"}
    shown = [line["id"] for one in largest for line in one["first_lines"][1:]]
    assert [row["id"] for row in rows] == shown
    assert "clusters" not in report["stages"]["exact"] and "sampled_pairs" not in report["stages"]["exact"]


def test_a_text_that_is_too_long_is_shown_cut_and_not_measured(small, monkeypatch):
    limit = 400
    monkeypatch.setattr(samples, "LONGEST_MEASURED_BYTES", limit)
    monkeypatch.setattr(samples, "PAIR_CHARACTERS", 50)
    monkeypatch.setattr(sample_tables, "PAIR_CHARACTERS", 50)
    report = small.run("out", small.recipe(f"  - exact\n  - {NEAR}}}\n"))
    texts, rows = small.texts(), tables(small, "out")["clusters"]
    sampled = report["stages"]["minhash"]["sampled_pairs"]
    assert 0 < sampled["measured"] < sampled["pairs"]
    assert sum(count for _, _, count in sampled["histogram"]) == sampled["measured"]
    for row in rows:
        one, other = texts[row["id"]], texts[row["duplicate_of"]]
        assert (row["similarity"] is None) == (max(len(one.encode()), len(other.encode())) > limit)
        assert (row["text_removed"], row["characters_removed"]) == (one[:50], len(one))
        assert (row["text_kept"], row["characters_kept"]) == (other[:50], len(other))
    assert {row["similarity"] is None for row in rows} == {True, False}
    assert any(row["similarity"] is None for row in rows if row["chosen"] == "sampled")  # the least similar are measured


def test_samples_are_bounded_whatever_the_number_of_duplicates(bench, document):
    source = random.Random(5)
    texts = [document(source, 3) for _ in range(300)]
    bench.write("a/1.jsonl", [f"{text} {n}" for text in texts for n in range(3)])
    report = bench.run("out", bench.recipe(f"  - length: {{minimum_characters: 1}}\n  - {NEAR}}}\n"))
    stage = report["stages"]["minhash"]
    assert stage["removed_documents"] == 600
    chosen = [row["chosen"] for row in tables(bench, "out")["clusters"]]
    assert {name: chosen.count(name) for name in set(chosen)} == {"largest": 6, "least similar": 20, "sampled": 20}
    assert stage["sampled_pairs"]["pairs"] == 200
    assert len(report["stages"]["length"]["nearest"]) == samples.NEAREST


def test_joining_holds_one_pair_of_long_texts_at_a_time(tmp_path):
    n_texts, n_bytes = 60, 10**6
    path = str(tmp_path / "samples.arrow")
    text = "".join(f"{n:07d} " for n in range(n_bytes // 8))

    def row(number):
        about = {"purpose": "pair", "number": number, "rank": number, "id": str(number), "source": "a"}
        return {**about, "text": f"{number:08d}" + text[8:], "characters": n_bytes, "is_whole": True}

    with pa.ipc.new_file(path, samples.SCHEMA) as file:
        for number in range(n_texts):
            file.write_batch(pa.RecordBatch.from_pylist([row(number)], samples.SCHEMA))
    sampled = tuple((number + 1, number, 2) for number in range(0, n_texts, 2))
    pairs = StagePairs("minhash", (), sampled, "character", 13, 0.8)
    task = SamplesTask((path,), ("minhash",), (pairs,), 1.0, str(tmp_path), str(tmp_path / "out"))
    tracemalloc.start()
    result = join_samples(task)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result["sampled_pairs"]["minhash"]["measured"] == n_texts // 2
    assert peak < n_texts * n_bytes
    assert sys.getsizeof(json.dumps({**result, "outputs": []})) < 20_000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("curate-")] == []


def test_a_lost_or_failed_join_is_done_again_and_gives_the_same(small, monkeypatch):
    recipe = small.recipe(STAGES)
    small.run("whole", recipe)

    def failing(task):
        raise OSError("a full disk")

    with monkeypatch.context() as patched:
        patched.setattr(output_steps, "join_samples", failing)
        with pytest.raises(OSError, match="a full disk"):
            small.run("out", recipe)
    report = small.run("out", recipe)
    assert report["steps"]["second pass"]["reused"] == report["steps"]["second pass"]["tasks"] > 0
    assert small.hashes("out", samples=True) == small.hashes("whole", samples=True)
    (small.folder / "out/samples/nearest.parquet").unlink()
    assert not small.run("out", recipe)["already_complete"]
    assert small.hashes("out", samples=True) == small.hashes("whole", samples=True)
    assert small.run("out", recipe)["already_complete"]


def test_a_failed_task_leaves_no_file_of_samples(small, monkeypatch):
    def failing(sampler, part, rows):
        raise OSError("input/output error")

    monkeypatch.setattr(samples.Sampler, "add", failing)
    with pytest.raises(OSError, match="input/output error"):
        small.run("out", small.recipe(STAGES))
    assert list((small.folder / "out/.staging").glob("*samples*")) == []


def test_few_rows_are_read_beyond_those_that_stay(small, monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE_DOCUMENTS", 10)
    read: list[int] = []
    read_rows = second_pass.read_rows

    def counting(parts, wanted, *arguments, **options):
        read.extend(len(rows) for rows in wanted)
        return read_rows(parts, wanted, *arguments, **options)

    monkeypatch.setattr(second_pass, "read_rows", counting)
    report = small.run("out", small.recipe("  - length: {minimum_characters: 100000}\n"))
    assert report["documents"]["kept"] == 0 and report["documents"]["removed"] > 150
    sampled = {row["id"] for rows in tables(small, "out").values() for row in rows}
    assert 5 < sum(read) == len(sampled) < 40


def test_hashes_order_ranks_by_seed_and_without_ties():
    ranks = np.arange(5000, dtype=np.uint64) << np.uint64(33)
    one, other = keyed_hashes(1, ranks), keyed_hashes(2, ranks)
    assert len(set(one.tolist())) == len(ranks)
    assert abs(np.corrcoef(one.astype(float), other.astype(float))[0, 1]) < 0.05
    shuffled = np.random.default_rng(0).permutation(len(ranks))
    assert ranks[shuffled][lowest(1, ranks[shuffled], 50)].tolist() == ranks[lowest(1, ranks, 50)].tolist()
