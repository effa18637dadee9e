"""The Python calls: the same runs, results and messages as the command's, from a script or a notebook."""

import copy
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from typer.testing import CliRunner

import curation
from pipelines.main import app

RECIPE = {
    "name": "small",
    "sources": [
        {"name": "a", "path": "{input}/a/**", "priority": 1},
        {"name": "b", "path": "{input}/b/**"},
        {"name": "c", "path": "{input}/c/**", "priority": 1},
    ],
    "stages": [{"normalize": {"scheme": "nfc"}}, {"length": {"minimum_characters": 60}}, "exact", "minhash"],
    "output": {"split": {"validation": 0.2}},
}


def call(bench, output="out", recipe=RECIPE, **options):
    given = {"executor": "inline", "progress": False, **options}
    return curation.run(recipe, bench.input, output=bench.folder / output, **given)


@pytest.fixture(scope="module")
def finished(make_bench, mixed_texts, tmp_path_factory):
    """(bench, run) of a run that tests share and change nothing in."""
    bench = make_bench(tmp_path_factory.mktemp("runs"))
    bench.write_files(mixed_texts(3, 80), ["a/1.jsonl", "b/1.jsonl", "b/2.jsonl", "c/1.jsonl"])
    bench.write("b/bad.jsonl.zst", [7])
    return bench, call(bench)


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, curation; curation.run, curation.open_run, curation.Run;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'ray', 'torch', 'pyarrow', 'numpy', 'numba', 'datasets', 'pandas', 'duckdb', 'pydantic', 'rich', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_run_stays_the_function_whatever_is_imported():
    code = (
        "import curation, curation.runs, curation.engine.run; from curation.engine import run; import curation.questions.diff;"
        "assert callable(curation.run), curation.run; assert issubclass(curation.TooManyBadRecordsError, RuntimeError)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_call_leaves_what_the_command_leaves(finished, tmp_path):
    bench, _ = finished
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    arguments = ["run", recipe, "--input", bench.input, "--output", tmp_path / "command", "--executor", "inline"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert bench.hashes(tmp_path / "command") == bench.hashes("out")


def test_a_recipe_in_python_is_a_recipe_in_yaml(finished, tmp_path):
    bench, run = finished
    given = copy.deepcopy(RECIPE)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    assert call(bench, tmp_path / "yaml", path).recipe == run.recipe
    assert given == RECIPE  # which the run did not change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ["exakt"]}, "the recipe: stages[0].exakt: unknown stage 'exakt'; did you mean 'exact'?"),
        ({"stages": [{"minhash": {"ngrams": 3}}]}, "stages[0].minhash.ngrams: unknown key 'ngrams'; did you mean 'ngram'"),
        ({"stages": [{"minhash": {"ngram": 0}}]}, "the recipe: stages[0].minhash.ngram: minhash.ngram: Input should be greater"),
        ({"stages": ["exact", "exact"]}, "two stages are called exact"),
        ({"sorces": []}, "the recipe: sorces: unknown key 'sorces'; did you mean 'sources'?"),
        ({"sources": {}}, "the recipe: sources: `sources` must be a list"),
        ({"seed": object()}, "the recipe: seed: <object object at"),
        ({"name": None}, "the recipe: name: name: Input should be a valid string"),
    ],
)
def test_a_mistake_in_a_recipe_in_python_names_the_key(bench, change, message):
    with pytest.raises(ValueError, match="recipe") as error:
        call(bench, recipe={**RECIPE, **change})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "options", "arguments"),
    [
        ("slimpajam", {}, []),
        ("slimpajama", {"settings": {"minhash.ngrams": 5}}, ["--set", "minhash.ngrams=5"]),
        ("slimpajama", {"settings": {"minhash.ngram": 0}}, ["--set", "minhash.ngram=0"]),
        ("slimpajama", {"input": "nowhere"}, []),
        ("slimpajama", {}, []),
    ],
)
def test_a_mistake_in_the_call_raises_what_the_command_prints(tmp_path, monkeypatch, recipe, options, arguments):
    monkeypatch.chdir(tmp_path)
    options = {"input": "empty", "output": "out", "progress": False, **options}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError) as error:
        curation.run(recipe, executor="inline", **options)
    result = CliRunner().invoke(app, ["run", recipe, "--input", options["input"], "--output", "out", *arguments])
    assert result.exit_code == 2
    assert result.stderr == f"curate: {error.value}\n"


@pytest.mark.parametrize(
    "options", [{"executor": "spark"}, {"workers": 0}, {"limit": 0}, {"limit": 1.5}, {"memory_per_worker": -1}]
)
def test_an_option_that_cannot_be_is_an_error_that_shows_it(small, options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        call(small, **options)
    assert not (small.folder / "out").exists()


def test_too_many_bad_records_raise_their_own_error(small):
    (small.input / "a" / "bad.jsonl").write_text("{\n" * 500)
    with pytest.raises(curation.TooManyBadRecordsError, match="max_bad_fraction"):
        call(small)


def test_an_interrupted_call_says_so_and_goes_on_when_repeated(small, monkeypatch):
    import curation.engine.run as driver

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(driver.GlobalSteps, "decide_all", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        call(small)
    with pytest.raises(ValueError, match="not finished"):
        curation.open_run(small.folder / "out")
    monkeypatch.undo()
    assert call(small).report["tasks"]["reused"] > 0
    assert call(small).report["already_complete"]


def test_progress_is_lines_outside_terminals_and_nothing_when_it_is_not_wanted(small, capfd):
    call(small)
    assert capfd.readouterr() == ("", "")
    call(small, "shown", progress=None)
    out, err = capfd.readouterr()
    assert out == "" and "first pass: " in err


def test_an_opened_run_has_what_the_call_returned(finished):
    bench, run = finished
    opened = curation.open_run(bench.folder / "out")
    assert opened.report == run.report
    assert opened.report["stages"]["exact"]["removed_documents"] > 0
    assert [stage["name"] for stage in opened.recipe["stages"]] == ["normalize", "length", "exact", "minhash"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no run"),
        ({"format_version": 99, "status": "complete"}, "format version 99"),
        ({"format_version": 2, "status": "running"}, "not finished"),
    ],
)
def test_a_folder_without_a_finished_run_cannot_be_opened(tmp_path, content, message):
    if content:
        (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        curation.open_run(tmp_path)


def test_tables_are_data_sets_with_the_rows_that_the_report_counts(finished):
    _, run = finished
    counts, splits = run.report["documents"], run.report["splits"]
    assert run.documents().count_rows() == counts["kept"]
    assert {name: run.documents(name).count_rows() for name in splits} == {name: n["documents"] for name, n in splits.items()}
    assert run.removed().count_rows() == counts["removed"]
    assert run.quarantine().count_rows() == counts["quarantined"] == 1
    assert run.duplicates().count_rows() == run.removed().count_rows(filter=pc.field("duplicate_of").is_valid())
    short = run.removed().to_table(filter=pc.field("stage") == "length", columns=["id"])
    assert short.num_rows == run.report["stages"]["length"]["removed_documents"] > 0


def test_tables_without_rows_still_have_their_columns(bench, document):
    bench.write("a/1.jsonl", [])
    run = call(bench)
    assert run.documents().count_rows() == run.removed().count_rows() == run.edited().count_rows() == 0
    assert {"id", "text", "source"} <= set(run.documents().schema.names)
    assert {"id", "stage", "reason", "duplicate_of"} <= set(run.removed().schema.names)
    assert run.documents("test").schema.field("text").type == pa.large_string()


def test_a_split_that_is_none_and_json_lines_are_errors_with_a_remedy(small):
    run = call(small, settings={"output.format": "jsonl.zst"})
    with pytest.raises(ValueError, match="train, validation and test"):
        run.documents("tset")
    with pytest.raises(ValueError, match=r"datasets\.load_dataset") as error:
        run.documents("train")
    expression = str(error.value).split("use ")[1].split(", or run")[0]
    import datasets

    read = eval(expression, {"datasets": datasets})["train"]
    assert read.num_rows == run.report["splits"]["train"]["documents"]
    assert run.removed().count_rows() == run.report["documents"]["removed"]


def test_a_run_in_an_object_store_gives_its_tables_too(finished):
    import fsspec

    bench, run = finished
    store = fsspec.filesystem("memory")
    for path in (bench.folder / "out").rglob("*"):
        if path.is_file() and "work" not in path.parts:
            store.pipe_file(f"/opened/{path.relative_to(bench.folder)}", path.read_bytes())
    try:
        there = curation.open_run("memory://opened/out")
        assert there.documents().to_table() == run.documents().to_table()
        assert there.removed().count_rows() == run.report["documents"]["removed"]
    finally:
        store.rm("/opened", recursive=True)


def test_a_run_answers_about_documents_texts_and_other_runs(finished):
    bench, run = finished
    removed = run.removed().to_table().to_pylist()
    near = next(row for row in removed if row["stage"] == "minhash")
    explained = run.explain(near["id"])
    assert (explained.fate, explained.stage, explained.duplicate_of) == ("removed", "minhash", near["duplicate_of"])
    text = bench.texts()[near["id"]]
    assert near["id"] in [candidate.id for candidate in run.similar(text).candidates]
    other = call(bench, "other", settings={"length.minimum_characters": 400})
    found = run.diff(other, bench.folder / "differing.parquet")
    assert found.documents == run.diff(bench.folder / "other").documents > 0
    assert (bench.folder / "differing.parquet").exists()


def test_a_run_shows_itself_in_a_line_and_in_a_notebook_without_markup_of_strangers(small):
    run = call(small, "<script>alert(1)</script> & 'x'")
    kept = f"{run.report['documents']['kept']:,} of {run.report['documents']['in']:,} documents"
    assert kept in repr(run) and "\n" not in repr(run)
    page = Path(run.directory) / "report.html"
    for content in (None, "<html></html>"):
        if content:
            page.write_text(content)
        elif page.exists():
            page.unlink()
        shown = run._repr_html_()
        assert kept in shown and "<script" not in shown
        assert ("href=" in shown) == bool(content)


def test_the_calls_are_annotated_throughout():
    for function in (curation.run, curation.open_run, *(f for _, f in inspect.getmembers(curation.Run, inspect.isfunction))):
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty or function.__name__ == "__init__"
        annotated = [parameter.annotation for name, parameter in signature.parameters.items() if name != "self"]
        assert inspect.Parameter.empty not in annotated, function


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": ""}, "the output is empty"),
        ({"settings": ["minhash.ngram"]}, "does not map names to values"),
        ({"settings": {3: 5}}, "does not map names to values"),
        ({"limit": True}, "True is no number of documents"),
        ({"memory_per_worker": "4"}, "'4' is no number of gigabytes"),
    ],
)
def test_arguments_of_another_kind_are_shown_with_a_remedy(small, options, message):
    with pytest.raises(ValueError, match=message):
        curation.run(RECIPE, small.input, **{"output": small.folder / "out", "executor": "inline", "progress": False, **options})
