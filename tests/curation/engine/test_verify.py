"""`verify: exact` against brute force: a greedy cover in keep order, over sets of strings and datasketch's signatures."""

import json
import math
import random
import re
import string

import ftfy
import numpy as np
import pyarrow.dataset as ds
import pytest
import xxhash
from datasketch import MinHash

from curation.engine import run, verify
from curation.engine.ipc_file import read_ipc
from curation.engine.progress import Progress
from curation.engine.recipe import parse_recipe
from curation.engine.run import RunOptions, run_recipe

NGRAM, BANDS, ROWS, PERMUTATIONS = 5, 10, 2, 24
RECIPE = """\
name: small
sources:
  - {{name: web, path: "{{input}}/*.jsonl", columns: {{stars: meta.stars}}{source}}}
stages:
  {normalize}
  - length: {{minimum_characters: 40}}
  {exact}
  - minhash: {{ngram: 5, permutations: 24, bands: 10, rows: 2, verify: exact, {minhash}}}
"""
LETTERS = "abcdefghijklmnopqrstuvwxyzåéж "


def edited(source, text, n_edits):
    """The text with letters replaced, put in or left out."""
    characters = list(text)
    for _ in range(n_edits):
        place = source.randrange(len(characters))
        characters[place] = source.choice(["", source.choice(LETTERS), characters[place] + source.choice(LETTERS)])
    return "".join(characters)


def random_records(seed):
    """Chains, stars, short texts and exact copies, in random order, some without stars."""
    source = random.Random(seed)
    texts = []
    for _ in range(12):
        texts.append("".join(source.choice(LETTERS) for _ in range(source.randrange(60, 200))))
        first = len(texts) - 1
        for _ in range(source.randrange(8)):
            model = texts[source.choice([first, -1, source.randrange(len(texts))])]
            texts.append(edited(source, model, source.choice([0, 1, 1, 2, 3, 5])))
    texts += [text[: source.randrange(20, 60)] for text in texts[:20]]
    source.shuffle(texts)
    return [{"text": text, "meta": {"stars": source.randrange(4)} if source.random() < 0.8 else {}} for text in texts]


def write(folder, records, n_files=3):
    """Spread the records over files; {id: record} in the order of ranks."""
    folder.mkdir(exist_ok=True)
    documents = {}
    for number in range(n_files):
        data = b""
        for record in records[number * len(records) // n_files : (number + 1) * len(records) // n_files]:
            documents[f"web/{number}.jsonl@{len(data)}"] = record
            data += json.dumps(record).encode() + b"\n"
        (folder / f"{number}.jsonl").write_bytes(data)
    return documents


def decisions(folder, output, minhash="", exact=False, normalize=False, source=""):
    """Run the recipe: ({id: (duplicate_of, similarity)} of what minhash removes, the report)."""
    stages = {"exact": "- exact" if exact else "", "normalize": "- normalize" if normalize else ""}
    text = RECIPE.format(minhash=minhash, source=source, **stages)
    recipe = parse_recipe(text, "small.yaml", str(folder), {})
    report = run_recipe(recipe, str(folder), str(output), RunOptions(executor="inline"), Progress(quiet=True))
    rows = ds.dataset(output / "removed", format="parquet").to_table().to_pylist()
    found = {row["id"]: (row["duplicate_of"], row["similarity"]) for row in rows if row["stage"] == "minhash"}
    return found, report


def clean(text):
    deleted = str.maketrans("", "", string.punctuation)
    return re.sub(r"\s+", " ", text.lower().translate(deleted).strip())


class BruteForce:
    """Every document compared with every retained one that shares a band with it."""

    def __init__(self, documents, exact=False):
        cleaned = {name: clean(record["text"]) for name, record in documents.items()}
        self.documents, self.sets, self.bands = documents, {}, {}
        seen = set()
        for name, text in cleaned.items():
            if len(text) >= 40 and not (exact and documents[name]["text"] in seen):
                self.sets[name] = {text[at : at + NGRAM] for at in range(len(text) - NGRAM + 1)}
                self.bands[name] = bands_of(self.sets[name])
            seen.add(documents[name]["text"])

    def keep_order(self, rules):
        place = {name: number for number, name in enumerate(self.documents)}

        def preference(name):
            record = self.documents[name]
            by_rule = {
                "first": place[name],
                "longest": -len(record["text"].encode()),
                "highest: stars": -record["meta"].get("stars", -math.inf),
            }
            return [*(by_rule[rule] for rule in rules), place[name]]

        return sorted(self.sets, key=preference)

    def cover(self, rules=("first",), threshold=0.8, maximum=10**6):
        """({removed: (kept, similarity)}, how many needed too many comparisons)."""
        retained, removed, past_limit = [], {}, 0
        for name in self.keep_order(rules):
            sharing = [other for other in retained if self.bands[other] & self.bands[name]]
            for other in sharing[:maximum]:
                similarity = len(self.sets[name] & self.sets[other]) / len(self.sets[name] | self.sets[other])
                if similarity >= threshold:
                    removed[name] = other, float(np.float32(similarity))
                    break
            else:
                retained.append(name)
                past_limit += len(sharing) > maximum
        return removed, past_limit


def bands_of(grams):
    signature = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=xxhash.xxh32_intdigest)
    signature.update_batch([gram.encode() for gram in grams])
    return {(band, *signature.hashvalues[band * ROWS : (band + 1) * ROWS].tolist()) for band in range(BANDS)}


@pytest.mark.parametrize("exact", [False, True], ids=["alone", "after exact"])
@pytest.mark.parametrize("seed", range(4))
def test_decisions_are_those_of_a_greedy_cover(tmp_path, seed, exact):
    documents = write(tmp_path / "input", random_records(seed))
    found, report = decisions(tmp_path / "input", tmp_path / "output", exact=exact)
    expected, _ = BruteForce(documents, exact).cover()
    assert len(expected) >= 10
    assert found == expected  # similarity too, to the last bit of a float32
    assert report["stages"]["minhash"]["past_limit"] == 0


@pytest.mark.parametrize("threshold", [0.3, 0.9, 1.0])
def test_the_threshold_is_the_one_asked_for(tmp_path, threshold):
    documents = write(tmp_path / "input", random_records(11))
    found, _ = decisions(tmp_path / "input", tmp_path / "output", f"threshold: {threshold}")
    assert found == BruteForce(documents).cover(threshold=threshold)[0] != {}


@pytest.mark.parametrize(
    "rules", [("longest",), ("highest: stars",), ("highest: stars", "longest", "first"), ("longest", "first")], ids=str
)
def test_the_keep_rule_orders_the_cover(tmp_path, rules):
    documents = write(tmp_path / "input", random_records(21))
    listed = json.dumps(rules)
    found, _ = decisions(tmp_path / "input", tmp_path / "output", f"keep: {listed}")
    expected, _ = BruteForce(documents).cover(rules)
    assert found == expected != BruteForce(documents).cover()[0]


@pytest.mark.parametrize("maximum", [1, 2])
def test_past_the_maximum_of_comparisons_a_document_is_kept_and_counted(tmp_path, maximum):
    documents = write(tmp_path / "input", random_records(31))
    found, report = decisions(tmp_path / "input", tmp_path / "output", f"maximum_comparisons: {maximum}")
    expected, past_limit = BruteForce(documents).cover(maximum=maximum)
    assert found == expected
    assert report["stages"]["minhash"]["past_limit"] == past_limit > 0
    assert any(f"{past_limit} documents kept without comparing" in warning for warning in report["warnings"])


@pytest.mark.parametrize("seed", [41, 42])
def test_neither_partitions_nor_parts_nor_rounds_change_a_decision(tmp_path, monkeypatch, seed):
    documents = write(tmp_path / "input", random_records(seed))
    monkeypatch.setattr(verify, "PARTITION_TEXT_BYTES", 1000)
    monkeypatch.setattr(verify, "_ROUND_BYTES", 3000)
    monkeypatch.setattr(run, "PART_BYTES", 1)
    found, _ = decisions(tmp_path / "input", tmp_path / "output", exact=True)
    n_partitions = len(list((tmp_path / "output/work/covers").iterdir()))
    n_parts = len(list((tmp_path / "output/work/first").glob("*.arrays")))
    gathered = [read_ipc(str(path)) for path in (tmp_path / "output/work/texts").iterdir()]
    assert n_partitions > 5 and n_parts == 3
    assert len(gathered) < n_parts and gathered[0].num_record_batches > n_partitions
    assert found == BruteForce(documents, exact=True).cover()[0]


def test_a_document_that_resembles_only_a_removed_one_stays(tmp_path):
    source = random.Random(5)
    text = "".join(source.choice(string.ascii_lowercase) for _ in range(240))
    # Neighbours share 188 of 204 n-grams, every other one 180 of 212.
    chain = [{"text": text[start : start + 200], "meta": {}} for start in range(0, 40, 8)]
    names = list(write(tmp_path / "input", chain, n_files=1))
    found, report = decisions(tmp_path / "input", tmp_path / "output", "threshold: 0.9")
    assert {name: kept for name, (kept, _) in found.items()} == {names[1]: names[0], names[3]: names[2]}
    assert report["stages"]["minhash"]["component_sizes"] == {"2": 2}
    assert report["stages"]["minhash"]["candidate_component_sizes"] == {"5": 1}


def test_annotated_components_are_a_retained_document_and_what_it_stands_for(tmp_path):
    documents = write(tmp_path / "input", random_records(61))
    found, _ = decisions(tmp_path / "input", tmp_path / "output", "action: annotate")
    assert found == {}
    rows = ds.dataset(tmp_path / "output/documents", format="parquet").to_table().to_pylist()
    expected, _ = BruteForce(documents).cover()
    rank_of = {row["id"]: row["rank"] for row in rows}
    assert len(expected) >= 10
    for row in rows:
        kept = expected[row["id"]][0] if row["id"] in expected else row["id"]
        assert row["component"] == rank_of[kept] and row["is_kept"] == (row["id"] not in expected)


def test_every_copy_is_counted_at_the_document_that_stands_for_it_in_the_end(tmp_path):
    documents = write(tmp_path / "input", random_records(71))
    decisions(tmp_path / "input", tmp_path / "output", "keep: [longest, first]", exact=True)
    kept_for = {
        row["id"]: row["duplicate_of"]
        for row in ds.dataset(tmp_path / "output/removed", format="parquet").to_table().to_pylist()
        if row["duplicate_of"] is not None
    }
    assert len(kept_for) >= 10 and set(kept_for) & set(kept_for.values())  # some copies are handed on
    expected = dict.fromkeys(documents, 0)
    for name in kept_for:
        while name in kept_for:
            name = kept_for[name]
        expected[name] += 1
    rows = ds.dataset(tmp_path / "output/documents", format="parquet").to_table().to_pylist()
    assert {row["id"]: row["n_duplicates"] for row in rows} == {row["id"]: expected[row["id"]] for row in rows}


def test_texts_are_compared_as_earlier_stages_left_them(tmp_path):
    documents = write(tmp_path / "input", random_records(81))
    source = random.Random(82)
    dressed = {}
    for name, record in documents.items():
        text = "".join(c + source.choice(["\r\n", "&nbsp;", "\x07"]) if c == " " else c for c in record["text"])
        dressed[name] = {**record, "text": text.replace("a", "a&amp;"), "name": name}
    write(tmp_path / "dressed", list(dressed.values()))
    normalized = {name: {**record, "text": ftfy.fix_text(record["text"])} for name, record in dressed.items()}
    named = {"normalize": True, "source": ", id: name"}
    found, _ = decisions(tmp_path / "dressed", tmp_path / "output", **named)
    assert found == BruteForce(normalized).cover()[0] != BruteForce(dressed).cover()[0]


def test_nothing_to_compare_is_nothing_removed(tmp_path):
    write(tmp_path / "input", [{"text": letter * 3, "meta": {}} for letter in "abc"], n_files=1)
    found, _ = decisions(tmp_path / "input", tmp_path / "output")
    assert found == {}


def test_a_finished_run_with_another_threshold_compares_again(tmp_path):
    documents = write(tmp_path / "input", random_records(51))
    decisions(tmp_path / "input", tmp_path / "output", "threshold: 0.9")
    found, report = decisions(tmp_path / "input", tmp_path / "output", "threshold: 0.6")
    assert found == BruteForce(documents).cover(threshold=0.6)[0]
    assert report["tasks"]["reused"] > 0
