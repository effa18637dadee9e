"""Units of work: every file in exactly one place, ranks by source and path, and little that changes when the input grows."""

import json
import os
import random
from itertools import pairwise
from typing import Any

import pytest

from curation import formats
from curation.engine import plan as plan_module
from curation.engine.plan import columns_of, keep_columns, limited, make_plan
from curation.engine.recipe import load_recipe


def planned(bench, recipe=None, unit_bytes=None, **settings):
    return make_plan(load_recipe(str(recipe or bench.recipe()), str(bench.input), settings), str(bench.input), unit_bytes)


def touch(bench, relative, n_bytes):
    path = bench.input / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * n_bytes)


def many_files(bench, n_files, seed=0):
    source = random.Random(seed)
    for number in range(n_files):
        folder = source.choice(["a", "a/x", "a/y", "b", "c/z"])
        touch(bench, f"{folder}/{source.getrandbits(30)}-{number}.jsonl", source.randrange(1, 3000))


def pieces_of(plan):
    pairs = [pair for unit in plan.units for pair in zip(unit.files, unit.pieces, strict=True)]
    return [(file.number, piece.path, piece.start, piece.end) for file, piece in pairs]


def test_files_are_in_the_order_of_priority_then_recipe_then_path(bench):
    for relative in ("c/1.jsonl", "a/b/1.jsonl", "a/B.jsonl", "a/a.jsonl", "b/2.jsonl", "b/10.jsonl"):
        touch(bench, relative, 5)
    names = [f"{file.source}/{file.relative}" for file in planned(bench).files]
    assert names == ["b/10.jsonl", "b/2.jsonl", "a/B.jsonl", "a/a.jsonl", "a/b/1.jsonl", "c/1.jsonl"]


@pytest.mark.parametrize("unit_bytes", [1000, 5000, 10**6, None])
def test_units_hold_every_piece_once_in_the_order_of_ranks(bench, unit_bytes):
    many_files(bench, 120)
    plan = planned(bench, unit_bytes=unit_bytes)
    pieces = pieces_of(plan)
    assert pieces == sorted(pieces)
    for file in plan.files:
        mine = [piece for piece in pieces if piece[0] == file.number]
        assert mine[0][2] == 0
        assert mine[-1][3] in (-1, file.info.size)
        assert all(one[3] == next_one[2] for one, next_one in pairwise(mine))
    assert len({unit.key for unit in plan.units}) == len(plan.units)
    for unit in plan.units:
        assert len({file.source for file in unit.files}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_file_added_or_taken_away_changes_the_units_around_it_alone(bench, seed):
    many_files(bench, 150, seed)
    before = {unit.key for unit in planned(bench, unit_bytes=8000).units}
    source = random.Random(seed)
    added = f"a/{source.getrandbits(30)}-new.jsonl"
    touch(bench, added, 100)
    after = {unit.key for unit in planned(bench, unit_bytes=8000).units}
    assert len(before) > 15
    assert 1 <= len(after - before) <= 2
    (bench.input / added).unlink()
    assert {unit.key for unit in planned(bench, unit_bytes=8000).units} == before


def test_keys_do_not_hold_the_place_of_the_input_nor_the_number_of_a_file(bench):
    many_files(bench, 40)
    before = {unit.key for unit in planned(bench).units}
    bench.input.rename(bench.folder / "elsewhere")
    bench.input = bench.folder / "elsewhere"
    touch(bench, "b/0000-first.jsonl", 4)
    assert len(before - {unit.key for unit in planned(bench).units}) == 1


def test_keys_change_with_what_the_first_pass_does_and_not_with_what_comes_later(bench):
    touch(bench, "a/1.jsonl", 5)

    def keys(**settings):
        return [unit.key for unit in planned(bench, **settings).units]

    before = keys()
    verified = {"minhash.verify": "exact", "minhash.threshold": 0.5}
    unrelated: list[dict[str, Any]] = [{"minhash.keep": "longest"}, {"minhash.verify": "exact"}, verified]
    unrelated += [{"minhash.action": "annotate"}, {"output.format": "jsonl.zst"}, {"max_bad_fraction": 0.5}]
    for later in unrelated:
        assert keys(**later) == before
    changed: list[dict[str, Any]] = [{"minhash.ngram": 5}, {"minhash.seed": 2}, {"length.minimum_characters": 61}]
    changed += [{"normalize.scheme": "ftfy_nfc"}, {"seed": 43}, {"output.split": {"test": 0.5}}, {"max_document_bytes": 5000}]
    for earlier in changed:
        assert keys(**earlier) != before


def test_a_raised_version_of_a_stage_makes_other_keys(bench, monkeypatch):
    from curation.stages.length import Length

    touch(bench, "a/1.jsonl", 5)
    before = [unit.key for unit in planned(bench).units]
    monkeypatch.setattr(Length, "version", Length.version + 1)
    assert [unit.key for unit in planned(bench).units] != before


def test_large_inputs_get_larger_units(monkeypatch):
    sizes = [plan_module._unit_bytes(raw_bytes) for raw_bytes in (0, 2**30, 2**40, 2**50)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 16 * 2**20
    assert sizes[-1] == 256 * 2**20


def test_a_limit_makes_one_unit_a_source_with_all_its_pieces_in_order(bench):
    many_files(bench, 30)
    plan = planned(bench, unit_bytes=4000)
    few = limited(plan, 7)
    assert [unit.source for unit in few.units] == ["b", "a", "c"]
    assert pieces_of(few) == pieces_of(plan)
    assert {unit.key for unit in few.units}.isdisjoint(unit.key for unit in limited(plan, 8).units)
    assert limited(plan, None) is plan


def test_a_folder_that_matches_no_source_is_one_source_named_after_it(bench, mixed_texts):
    bench.write("x/1.jsonl", ["one", "two"], [{"meta": {"redpajama_set_name": "Books"}}, {"meta": {}}])
    plan = planned(bench)
    assert list(plan.sources) == ["input"]
    assert columns_of(plan.sources["input"]).by == "meta.redpajama_set_name"
    report = bench.run("out", bench.recipe("  - exact\n"))
    assert {name: entry["documents_in"] for name, entry in report["sources"].items()} == {"input": 1, "Books": 1}


def test_a_folder_that_matches_no_source_keeps_the_columns_that_keep_rules_compare(bench):
    sources = '  - {name: a, path: "{input}/a/**", columns: {stars: meta.stars}}\n'
    text = "a text of some length that occurs twice, and once more with another number of stars"
    bench.write("x/1.jsonl", [text, text], [{"meta": {"stars": 1}}, {"meta": {"stars": 2}}])
    bench.run("out", bench.recipe("  - minhash: {keep: {highest: stars}}\n", sources))
    (kept,) = bench.rows("out", "documents")
    assert kept["stars"] == 2


def test_a_keep_rule_over_a_column_that_a_source_lacks_names_the_source_and_the_remedy(bench):
    touch(bench, "a/1.jsonl", 5)
    sources = '  - {name: a, path: "{input}/a/**", columns: {stars: meta.stars}}\n  - {name: b, path: "{input}/b/**"}\n'
    recipe = load_recipe(str(bench.recipe("  - minhash: {keep: {highest: stars}}\n", sources)), str(bench.input), {})
    with pytest.raises(ValueError, match=r"give source b `columns: \{stars: meta.stars\}`"):
        keep_columns(recipe)


def test_files_that_match_no_source_are_named_and_a_file_in_two_sources_is_an_error(bench):
    touch(bench, "a/1.jsonl", 5)
    touch(bench, "d/1.jsonl", 5)
    touch(bench, "notes.txt", 5)
    assert [os.path.relpath(path, bench.input) for path in planned(bench).unmatched] == ["d/1.jsonl", "notes.txt"]
    sources = '  - {name: a, path: "{input}/a/**"}\n  - {name: b, path: "{input}/**"}\n'
    with pytest.raises(ValueError, match="is met twice, in a and b"):
        planned(bench, bench.recipe(sources=sources))


def test_pieces_of_one_file_hold_its_lines_once(bench, mixed_texts):
    texts = mixed_texts(6, 60)
    path = bench.write("a/1.jsonl", texts)
    plan = planned(bench, unit_bytes=3000)
    assert len(plan.units) > 5
    read: list[tuple[int, str]] = []
    for unit in plan.units:
        for batch in formats.read(unit.pieces[0], columns_of(plan.sources["a"]), maximum_document_bytes=10**6):
            read += zip(batch.positions.tolist(), batch.texts.to_pylist(), strict=True)
    expected, position = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        expected.append((position, json.loads(line)["text"]))
        position += len(line)
    assert read == expected


def test_a_file_that_two_sources_spell_differently_is_an_error(bench):
    touch(bench, "a/1.jsonl", 5)
    (bench.folder / "link").symlink_to(bench.input / "a")
    for other in (f"{bench.input}//a/./1.jsonl", f"{bench.folder}/link/1.jsonl"):
        sources = f"  - {{name: one, path: '{{input}}/a/*.jsonl'}}\n  - {{name: two, path: '{other}'}}\n"
        with pytest.raises(ValueError, match="is met twice, in one and two"):
            planned(bench, bench.recipe(sources=sources))


def test_a_file_name_that_is_not_utf8_is_named(bench):
    touch(bench, "a/1.jsonl", 5)
    os.rename(bench.input / "a/1.jsonl", os.fsencode(bench.input / "a") + b"/\xff.jsonl")
    with pytest.raises(ValueError, match=r"udcff.jsonl' is not UTF-8"):
        planned(bench)


def test_an_existing_folder_with_glob_characters_is_meant_as_it_is_written(bench):
    for folder in ("x[ab]", "xa"):
        touch(bench, f"{folder}/a/{len(folder)}.jsonl", 5)
    given = str(bench.input / "x[ab]")
    plan = make_plan(load_recipe(str(bench.recipe()), given), given)
    assert [file.info.path for file in plan.files] == [f"{given}/a/5.jsonl"]


def test_paths_of_a_plan_hold_for_processes_with_another_working_directory(bench, monkeypatch):
    touch(bench, "a/1.jsonl", 5)
    monkeypatch.chdir(bench.folder)
    plan = make_plan(load_recipe(str(bench.recipe()), "input"), "input")
    assert [file.info.path for file in plan.files] == [str(bench.input / "a/1.jsonl")]
