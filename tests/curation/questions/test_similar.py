"""`similar` finds what shares a band, all of it, and tells true numbers of it."""

import json
import random
import re
import shutil

import pytest
from datasketch import MinHash
from typer.testing import CliRunner
from xxhash import xxh32_intdigest

from curation import storage
from curation.engine.run_folder import clean
from curation.questions import similar as similar_module
from curation.questions.lookup import FinishedRun
from curation.questions.similar import read_text, similar
from curation.questions.work_tables import WorkTables
from pipelines.main import app

PUNCTUATION = str.maketrans("", "", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
LEGACY = "  - minhash: {as: near, unit: word, ngram: 3, bands: 8, rows: 4, seed: 9, scheme: legacy}\n"
SEVERAL = "  - minhash: {as: first, bands: 20, rows: 4}\n  - minhash: {as: second, ngram: 5, bands: 40, rows: 3}\n"


def grams(text, unit="character", n=13):
    cleaned = " ".join(text.lower().translate(PUNCTUATION).split())
    units = cleaned if unit == "character" else cleaned.split(" ")
    joined = ("" if unit == "character" else " ").join
    return {joined(units[i : i + n]) for i in range(len(units) - n + 1)}


def sketch(text, unit="character", n=13, seed=1, legacy=False):
    made = MinHash(128, seed, scheme="legacy") if legacy else MinHash(128, seed, hashfunc=xxh32_intdigest)
    made.update_batch([gram.encode() for gram in grams(text, unit, n)])
    return made


def shared_bands(one, other, bands, rows):
    a, b = one.hashvalues, other.hashvalues
    return sum((a[i * rows : (i + 1) * rows] == b[i * rows : (i + 1) * rows]).all() for i in range(bands))


@pytest.mark.parametrize("query", ["original", "near", "own near", "lone", "between"])
@pytest.mark.parametrize("form", ["parquet", "lines"])
def test_candidates_bands_and_similarities_are_those_of_brute_force(form, query, asked, asked_lines):
    run = asked if form == "parquet" else asked_lines
    words = run.texts["original"].split(" ")
    text = run.texts.get(query) or " ".join([*words[:60], *run.texts["near"].split(" ")[60:], "and more"])
    found = similar(run.directory, text)
    asked_for = sketch(text)
    expected = {}
    for name, value in run.ids.items():
        if name not in ("broken", "short"):
            other = sketch(run.texts[name])
            bands = shared_bands(asked_for, other, 9, 13)
            if bands:
                a, b = grams(text), grams(run.texts[name])
                expected[value] = (bands, pytest.approx(len(a & b) / len(a | b)), pytest.approx(asked_for.jaccard(other)), True)
    assert expected
    assert {one.id: (one.shared_bands, one.jaccard, one.estimated, one.in_lsh) for one in found.candidates} == expected
    assert found.n_candidates == len(expected)
    assert not found.is_cut
    order = [one.jaccard for one in found.candidates]
    assert order == sorted(order, reverse=True)
    removed = run.removed()
    for one in found.candidates:
        assert (one.fate, one.stage) == (("removed", removed[one.id]["stage"]) if one.id in removed else ("kept", None))


def test_words_another_seed_and_the_legacy_scheme_are_compared_in_their_own_terms(make_asked, tmp_path):
    asked = make_asked(tmp_path, stages=LEGACY)
    text = asked.texts["original"] + " and a few words at the end"
    found = {one.id: one for one in similar(asked.directory, text).candidates}
    terms = {"unit": "word", "n": 3}
    for name in ("original", "near", "far"):
        a, b = grams(text, **terms), grams(asked.texts[name], **terms)
        bands = shared_bands(*(sketch(t, **terms, seed=9, legacy=True) for t in (text, asked.texts[name])), 8, 4)
        one = found.get(asked.ids[name])
        assert (one.shared_bands if one else 0) == bands
        if one:
            assert one.jaccard == pytest.approx(len(a & b) / len(a | b))
            assert one.in_lsh
    assert asked.ids["original"] in found


def test_of_several_stages_the_first_is_asked_or_the_one_that_is_named(make_asked, tmp_path):
    asked = make_asked(tmp_path, stages=SEVERAL)
    assert similar(asked.directory, asked.texts["lone"]).stage == "first"
    found = similar(asked.directory, asked.texts["lone"], "second")
    assert (found.stage, found.ngram, found.candidates[0].shared_bands) == ("second", 5, 40)
    with pytest.raises(ValueError, match="no stage 'third'; its stages are first, second"):
        similar(asked.directory, "some text that is long enough", "third")


def test_the_text_goes_through_the_stages_that_edit_and_is_told_what_would_remove_it(asked):
    found = similar(asked.directory, asked.texts["accents"])
    assert found.edited_by == ["normalize"]
    assert [(one.id, one.jaccard) for one in found.candidates] == [(asked.ids["accents"], 1.0)]
    short = similar(asked.directory, "A text of thirty characters, no more.")
    assert (short.candidates, short.would_be_removed) == ([], ["length: short (35 characters)"])
    assert "would remove it" in str(short)
    assert "nothing resembles it much" in str(short)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the text is empty"),
        (b" \n\t", "the text is empty"),
        (b"\xff\xfe", "no UTF-8 text: byte 0 is 0xff"),
        (b"twelve chars", "fewer than 13 characters once cleaned"),
        (b"!!! ??? ... !!! ??? ...", "fewer than 13 characters once cleaned"),
    ],
)
def test_a_text_that_cannot_be_compared_is_an_error_that_says_why(asked, tmp_path, data, message):
    path = tmp_path / "text"
    path.write_bytes(data)
    for call in ([str(path)], ["-"]):
        result = CliRunner().invoke(app, ["similar", asked.directory, *call], input=data)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


def test_a_file_that_is_not_there_is_named(asked, tmp_path):
    result = CliRunner().invoke(app, ["similar", asked.directory, str(tmp_path / "none")])
    assert result.exit_code == 2
    assert f"{tmp_path / 'none'} cannot be read: No such file" in result.stderr.replace("\n", " ")


def test_after_clean_the_error_says_what_is_gone_and_what_brings_it_back(asked, tmp_path):
    shutil.copytree(asked.directory, tmp_path / "out")
    clean(str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"curate clean.*--fresh"):
        similar(str(tmp_path / "out"), asked.texts["lone"])


def test_a_run_without_a_near_duplicate_stage_is_an_error(make_asked, tmp_path):
    asked = make_asked(tmp_path, stages="  - exact\n")
    with pytest.raises(ValueError, match="no minhash stage"):
        similar(asked.directory, "some text that is long enough")
    with pytest.raises(ValueError, match="the stage exact keeps no bands"):
        similar(asked.directory, "some text that is long enough", "exact")


def test_of_many_candidates_those_with_the_most_bands_are_looked_at_and_the_cut_is_said(asked, monkeypatch):
    monkeypatch.setattr(similar_module, "CANDIDATES", 2)
    found = similar(asked.directory, asked.texts["near"])
    assert found.n_candidates == 4
    assert {one.shared_bands for one in found.candidates} == {9}
    assert "2 with the most bands in common were looked at" in str(found)


def test_texts_that_cannot_be_read_leave_the_bands(asked, monkeypatch):
    monkeypatch.setattr(similar_module, "BUDGET_BYTES", 10)
    found = similar(asked.directory, asked.texts["near"])
    assert [(one.jaccard, one.estimated, one.in_lsh) for one in found.candidates] == [(None, None, None)] * 4
    assert [one.shared_bands for one in found.candidates] == sorted((one.shared_bands for one in found.candidates), reverse=True)
    assert "not compared: reading" in str(found)


def test_a_text_of_standard_input_answers_like_its_file_and_json_holds_every_field(asked, tmp_path):
    path = tmp_path / "text"
    path.write_text(asked.texts["hostile"], encoding="utf-8")
    from_file = CliRunner().invoke(app, ["similar", asked.directory, str(path), "--json"])
    from_input = CliRunner().invoke(app, ["similar", asked.directory, "-", "--json"], input=path.read_bytes())
    assert from_file.exit_code == 0
    assert from_file.stdout == from_input.stdout
    assert from_file.stdout.isascii()
    assert json.loads(from_file.stdout) == similar(asked.directory, read_text(str(path))).to_dict()


def test_what_is_printed_holds_no_control_characters_and_draws_the_threshold(asked, tmp_path):
    for name in ("hostile", "own hostile", "near"):
        (tmp_path / name).write_text(asked.texts[name], encoding="utf-8")
        result = CliRunner().invoke(app, ["similar", asked.directory, str(tmp_path / name)])
        assert result.exit_code == 0
        assert re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", result.stdout) is None
        assert "threshold" in result.stdout


def test_each_part_is_read_a_bounded_number_of_times(make_bench, document, tmp_path, monkeypatch):
    bench, source = make_bench(tmp_path), random.Random(1)
    texts = [document(source, 3) for _ in range(300)]
    bench.write("a/1.jsonl", texts)
    bench.cut_small(monkeypatch, 1000)
    bench.run("out", bench.recipe("  - minhash\n", '  - {name: a, path: "{input}/a/*"}\n'))
    n_parts = len(WorkTables.open(FinishedRun.open(str(tmp_path / "out"))).parts)
    reads, function = [], storage.read_range
    monkeypatch.setattr(storage, "read_range", lambda path, *where: reads.append(path) or function(path, *where))
    found = similar(str(tmp_path / "out"), texts[150])
    assert found.candidates[0].jaccard == 1.0
    assert n_parts > 50
    # A tail, two reads a key of which few find any records, and what the hits take.
    assert len(reads) <= n_parts * (1 + 2 * 9) + 50


def test_a_text_longer_than_any_document_may_be_is_refused(asked):
    with pytest.raises(ValueError, match="took no document of more than 33,554,432"):
        similar(asked.directory, "long " * (2**25 // 5 + 1))


def test_a_closed_standard_input_and_what_is_no_string_are_errors_that_say_so(asked, monkeypatch):
    with pytest.raises(ValueError, match="of type bytes; give a string"):
        similar(asked.directory, b"bytes that are long enough")
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ValueError, match="standard input is closed"):
        read_text("-")
