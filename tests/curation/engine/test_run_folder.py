"""Whose folder it is: another run's, nobody's, the input's; and what `--fresh` and `clean` take away."""

import json
import os
import shutil

import pytest

from curation.engine.progress import Progress
from curation.engine.recipe import load_recipe
from curation.engine.run import RunOptions, run_recipe
from curation.engine.run_folder import FORMAT_VERSION, RunFolder, check_places, clean, publish

EXACT = "  - exact\n"


def test_another_recipe_in_the_folder_is_refused_and_fresh_replaces_it(small):
    small.run("out", small.recipe(EXACT, name="one"))
    before = small.hashes("out")
    other = small.recipe("  - length: {minimum_characters: 300}\n", name="two")
    with pytest.raises(ValueError, match=r"holds a run of one, not of two; .*another output folder, or --fresh"):
        small.run("out", other)
    assert small.hashes("out") == before
    small.run("out", other, fresh=True)
    small.run("expected", other)
    assert small.hashes("out") == small.hashes("expected")
    assert not (small.folder / "out/work/edges").exists()


def test_other_sources_in_the_folder_are_refused(small):
    small.run("out", small.recipe(EXACT))
    sources = '  - {name: a, path: "{input}/a/**"}\n  - {name: z, path: "{input}/b/**"}\n'
    with pytest.raises(ValueError, match=r"over the sources a, b, c, not a, z; .*--fresh"):
        small.run("out", small.recipe(EXACT, sources))


def test_an_input_that_shares_no_file_is_refused_and_one_that_shares_a_file_goes_on(small, make_bench):
    recipe = small.recipe(EXACT)
    small.run("out", recipe)
    other = make_bench(small.folder / "other")
    other.write("a/unseen.jsonl", ["some text"])
    with pytest.raises(ValueError, match=r"other files: none of today's input is among them; .*--fresh"):
        small.run("out", recipe, input_path=other.input)
    shutil.copy(small.input / "a/1.jsonl", other.input / "a/1.jsonl")
    report = small.run("out", recipe, input_path=other.input)
    assert report["sources"]["a"]["documents_in"] == 1 + len((small.input / "a/1.jsonl").read_text().splitlines())


def test_results_that_no_run_made_are_refused_and_survive_fresh(small):
    (small.folder / "out/documents").mkdir(parents=True)
    (small.folder / "out/documents/thesis.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(ValueError, match=r"holds documents/ but no run\.json"):
            small.run("out", small.recipe(EXACT), fresh=fresh)
    assert (small.folder / "out/documents/thesis.txt").read_text() == "mine"


def test_a_work_folder_with_other_files_is_refused_and_survives_fresh(small):
    (small.folder / "scratch").mkdir()
    (small.folder / "scratch/thesis.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(ValueError, match=r"scratch holds thesis\.txt, which no run left there"):
            small.run("out", small.recipe(EXACT), work=str(small.folder / "scratch"), fresh=fresh)
    assert (small.folder / "scratch/thesis.txt").read_text() == "mine"


def test_files_beside_the_results_survive_fresh(small):
    small.run("out", small.recipe(EXACT))
    (small.folder / "out/notes.md").write_text("mine")
    small.run("out", small.recipe(EXACT), fresh=True)
    assert (small.folder / "out/notes.md").read_text() == "mine"


def test_a_fresh_start_that_was_killed_half_way_can_be_repeated(small, monkeypatch):
    recipe = small.recipe(EXACT)
    small.run("out", recipe)
    expected = small.hashes("out")
    os.unlink(small.folder / "out/work/ledger.jsonl")
    shutil.rmtree(small.folder / "out/documents")
    small.run("out", recipe)
    assert small.hashes("out") == expected


def test_a_newer_format_is_refused_by_its_number(small):
    small.run("out", small.recipe(EXACT))
    path = small.folder / "out/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(ValueError, match=f"format version {FORMAT_VERSION + 1}, this is version {FORMAT_VERSION}"):
        small.run("out", small.recipe(EXACT))


@pytest.mark.parametrize("output", ["input", "input/out", "input/a", "input/../input/x", "link/out", "."])
def test_output_and_input_inside_one_another_are_refused(small, output):
    (small.folder / "link").symlink_to(small.input)
    before = sorted(small.folder.rglob("*"))
    with pytest.raises(ValueError, match="lie inside one another"):
        small.run(output, small.recipe(EXACT))
    assert [path for path in sorted(small.folder.rglob("*")) if path.suffix != ".yaml"] == before


@pytest.mark.parametrize("output", ["inputs", "input-2", "inpu", "out"])
def test_neighbours_whose_names_begin_alike_are_no_mistake(small, output):
    check_places([str(small.input), f"{small.input}/a/*.jsonl"], RunFolder.at(str(small.folder / output), None))


def test_output_inside_a_source_that_the_recipe_names_itself_is_refused(small):
    sources = f'  - {{name: a, path: "{small.input}/a/**"}}\n'
    recipe = load_recipe(str(small.recipe(EXACT, sources)))
    with pytest.raises(ValueError, match="lie inside one another"):
        run_recipe(recipe, None, str(small.input / "a/out"), RunOptions(executor="inline"), Progress(quiet=True))
    assert not (small.input / "a/out").exists()


@pytest.mark.parametrize("work", ["input/work", "out", ".", "out/documents", "out/removed/work", "out/.staging"])
def test_a_work_folder_in_the_input_or_among_the_results_is_refused(small, work):
    with pytest.raises(ValueError, match=r"work folder .*give .*elsewhere"):
        small.run("out", small.recipe(EXACT), work=str(small.folder / work))


def test_a_work_folder_elsewhere_gives_the_same_and_is_locked_too(small):
    recipe = small.recipe()
    small.run("out", recipe)
    work = str(small.folder / "scratch" / "work")
    small.run("other", recipe, work=work)
    assert small.hashes("other") == small.hashes("out")
    assert not (small.folder / "other/work").exists()
    from curation.engine.lock import locked

    with locked(work), pytest.raises(ValueError, match="scratch/work is in use by process"):
        small.run("third", recipe, work=work)
    report = small.run("third", recipe, work=work)
    assert report["tasks"]["reused"] > 6
    assert small.hashes("third") == small.hashes("out")
    small.run("third", recipe, work=work, fresh=True)
    assert small.hashes("third") == small.hashes("out")


def test_cleaning_drops_the_work_and_leaves_a_run_that_is_complete(small):
    recipe = small.recipe()
    small.run("out", recipe)
    before = small.hashes("out")
    size = sum(path.stat().st_size for path in (small.folder / "out/work").rglob("*") if path.is_file())
    assert clean(str(small.folder / "out"))["bytes"] == size
    assert not (small.folder / "out/work").exists()
    assert small.run("out", recipe)["already_complete"]
    assert small.run("out", recipe, {"length.minimum_characters": 61})["tasks"]["reused"] == 0
    assert small.run("out", recipe)["tasks"]["run"] > 0
    assert small.hashes("out") == before
    with pytest.raises(ValueError, match="holds no run"):
        clean(str(small.folder))


def stopped_while_publishing(bench, recipe, monkeypatch):
    from curation.engine import run

    def stop(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run, "publish", stop)
        bench.run("out", recipe)


def test_cleaning_a_run_that_stopped_while_publishing_publishes_it(small, monkeypatch):
    stopped_while_publishing(small, small.recipe(), monkeypatch)
    assert small.hashes("out") == {}
    clean(str(small.folder / "out"))
    small.run("expected", small.recipe())
    assert small.hashes("out") == small.hashes("expected")
    assert small.run("out", small.recipe())["already_complete"]


def test_a_run_that_is_under_way_is_not_cleaned(small):
    from curation.engine.lock import locked

    small.run("out", small.recipe())
    with locked(str(small.folder / "out")), pytest.raises(ValueError, match="in use by process"):
        clean(str(small.folder / "out"))
    assert (small.folder / "out/work/ledger.jsonl").exists()


def test_a_staged_file_that_was_lost_is_made_again_instead_of_leaving_an_older_one(small, monkeypatch):
    recipe = small.recipe()
    small.run("out", recipe, {"length.minimum_characters": 300})
    stopped_while_publishing(small, recipe, monkeypatch)
    for path in (small.folder / "out/.staging").glob("*-train.parquet"):
        path.unlink()
    report = small.run("out", recipe)
    assert not report["already_complete"]
    small.run("expected", recipe)
    assert small.hashes("out") == small.hashes("expected")


def test_files_that_an_earlier_run_left_do_not_stand_beside_the_results(small):
    recipe = small.recipe(rest="output: {split: {validation: 0.3}}\n")
    small.run("out", recipe)
    assert len(list((small.folder / "out/documents/validation").iterdir())) == 1
    other = small.recipe(rest="output: {format: jsonl.zst}\n")
    small.run("out", other)
    names = [path for path in small.hashes("out") if path.startswith("documents/")]
    assert names == ["documents/train/train-00000.jsonl.zst"]
    assert sorted(entry["path"] for entry in json.loads((small.folder / "out/run.json").read_text())["outputs"]) == sorted(
        small.hashes("out", samples=True)
    )


def test_publishing_may_be_repeated(small, monkeypatch):
    stopped_while_publishing(small, small.recipe(), monkeypatch)
    folder = RunFolder.at(str(small.folder / "out"), None)
    listed = folder.read("run.json") or {}
    publish(folder)
    first = small.hashes("out")
    folder.write("run.json", listed)
    publish(folder)
    assert small.hashes("out") == first
    assert (folder.read("run.json") or {})["status"] == "complete"


def test_the_work_folder_of_an_unfinished_run_is_refused(small):
    recipe = small.recipe()
    work = str(small.folder / "scratch" / "work")
    small.run("other", recipe, work=work)
    described = json.loads((small.folder / "other/run.json").read_text())
    (small.folder / "other/run.json").write_text(json.dumps({**described, "status": "running"}))
    with pytest.raises(ValueError, match=r"belongs to the unfinished run in .*other"):
        small.run("third", recipe, work=work, fresh=True)
