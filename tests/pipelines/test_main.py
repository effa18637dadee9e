"""The command: exit codes, messages, and nothing that is listed before it works."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.main import app, parse_settings, resume_command

CURATE = Path(sys.executable).with_name("curate")

RECIPE = """\
name: small
sources:
  - {name: web, path: "{input}/*.jsonl"}
stages:
  - length: {minimum_characters: 20}
  - exact
"""


def curate(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="curate")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def data(tmp_path):
    """Eight documents, of which one is short and two are copies, under a path with a space and a quote."""
    folder = tmp_path / "my data's"
    folder.mkdir()
    texts = [f"document number {n} has its own words, {n * n}" for n in range(5)] + ["short"]
    texts += [texts[0], texts[3]]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def with_driver(monkeypatch, outcome):
    """Let `curate run` meet `outcome` (an exception is raised, anything else returned) where the driver would work."""
    import curation.engine.run as driver

    def run_recipe(_recipe, _input, _output, _options, progress):
        if isinstance(outcome, tuple):  # an exception in the middle of the work
            with progress.step("first pass", 2):
                progress.advance()
                raise outcome[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(driver, "run_recipe", run_recipe)


def test_help_lists_the_commands_that_work_and_no_other():
    result = curate("--help")
    assert result.exit_code == 0
    listed = re.findall(r"^  (\w+)  ", result.stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == ["run", "plan", "sample", "diff", "explain", "similar", "report", "clean", "recipes"]


def test_help_of_run_lists_the_options_of_the_interface():
    text = curate("run", "--help").stdout
    options = set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE))
    assert options == {
        "--input", "--output", "--set", "--executor", "--address", "--workers",
        "--memory-per-worker", "--work", "--limit", "--fresh", "--debug", "--help",
    }  # fmt: skip


def test_every_recipe_that_ships_is_listed_with_a_line():
    result = curate("recipes")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "slimpajama", "slimpajama-released", "slimpajama-verified",
    ]  # fmt: skip
    assert all(40 < len(line) <= 100 for line in result.stdout.splitlines())


def test_help_and_the_list_of_recipes_load_no_heavy_library():
    code = (
        "import sys; from typer.testing import CliRunner; from pipelines.main import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "assert CliRunner().invoke(app, ['recipes']).exit_code == 0;"
        "print([name for name in ('ray', 'numba', 'torch', 'datasets', 'ftfy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_names_what_decides_results():
    result = curate("--version")
    assert result.exit_code == 0
    named = [line.split()[0] for line in result.stdout.splitlines()]
    assert named[0] == "moxin-curation"
    assert {"format", "unicode", "ftfy", "numpy", "pyarrow", "datasketch", "xxhash", "numba"} <= set(named)
    assert all(len(line.split()) == 2 for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "slimpajam", "--output", "OUT", "--input", "IN"], "did you mean 'slimpajama'?"),
        (["run", "slimpajama", "--output", "OUT"], "give --input"),
        (
            ["run", "slimpajama", "--output", "OUT", "--input", "IN", "--set", "minhash.ngrams=5"],
            "did you mean 'ngram'?",
        ),
        (["run", "slimpajama", "--output", "OUT", "--input", "IN", "--set", "minhash.ngram"], "write STAGE.KEY=VALUE"),
        (["run", "slimpajama", "--output", "OUT", "--input", "IN", "--set", "minhash.keep=[a"], "not valid YAML"),
        (
            ["run", "slimpajama", "--output", "OUT", "--input", "IN", "--set", "minhash.ngram=0"],
            "greater than or equal",
        ),
        (["run", "slimpajama", "--output", "OUT", "--input", "IN/nowhere"], "IN/nowhere"),
        (["plan", "slimpajama", "--input", "IN/nowhere"], "IN/nowhere"),
        (["run", "slimpajama", "--input", "IN"], "--output"),
        (["run", "slimpajama", "--output", "OUT", "--input", "IN", "--executor", "spark"], "spark"),
        (["run", "slimpajama", "--output", "OUT", "--input", "IN", "--limit", "0"], "--limit"),
        (["clean", "OUT"], "OUT"),
        (["expain", "OUT", "id"], "expain"),
    ],
)
def test_a_mistake_in_the_call_exits_with_2_and_one_message_before_anything_runs(arguments, message, data, tmp_path):
    places = {"IN": str(data), "OUT": str(tmp_path / "out")}
    filled = [re.sub("IN|OUT", lambda found: places[found[0]], argument) for argument in arguments]
    result = curate(*filled)
    assert result.exit_code == 2, result.output
    message = re.sub("IN|OUT", lambda found: places[found[0]], message)
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not list((tmp_path / "out").glob("[!.]*"))  # nothing but what is left of a lock


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("--work is a file; name a folder"), 2, "--work is a file; name a folder"),
        ((ValueError("the id x stands in a.jsonl and b.jsonl"),), 1, "the id x stands in a.jsonl and b.jsonl"),
        (OSError(28, "No space left on device", "/data/out"), 1, "/data/out: No space left on device"),
        (RuntimeError("a task was lost 4 times"), 1, "a task was lost 4 times"),
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(signal.SIGTERM), 130, "terminated"),  # Ray's handler of SIGTERM
        (RuntimeError("file \x1b[31mred\x1b[0m\nis bad"), 1, "file [31mred[0m is bad"),
    ],
)
def test_an_outcome_has_its_exit_code_and_a_plain_message(monkeypatch, recipe, data, error, code, message):
    with_driver(monkeypatch, error)
    result = curate("run", recipe, "--input", data, "--output", data.parent / "out")
    assert result.exit_code == code
    assert f"curate: {message}" in result.stderr
    assert "Traceback" not in result.output


def test_too_many_bad_records_exit_with_3(monkeypatch, recipe, data):
    from curation.engine.run import TooManyBadRecordsError

    with_driver(monkeypatch, TooManyBadRecordsError("12 bad records"))
    assert curate("run", recipe, "--input", data, "--output", data.parent / "out").exit_code == 3


def test_the_traceback_of_an_error_is_shown_when_asked_for(monkeypatch, recipe, data):
    with_driver(monkeypatch, RuntimeError("lost"))
    result = curate("run", recipe, "--input", data, "--output", data.parent / "out", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_with_130_and_the_command_that_goes_on(signal_number, recipe, data):
    code = (
        "import sys, time, pipelines.main, curation.engine.run as driver\n"
        "def run_recipe(*_):\n"
        "    print('running', flush=True)\n"
        "    time.sleep(60)\n"
        "driver.run_recipe = run_recipe\n"
        f"sys.argv[0] = {str(CURATE)!r}\n"
        "pipelines.main.main()\n"
    )
    arguments = ["run", str(recipe), "--input", str(data), "--output", "out", "--fresh"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal_number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    command = errors.partition("to go on: ")[2].strip()
    assert command.endswith(
        f"""run {recipe} --input '{str(data).replace("'", chr(39) + '"' + chr(39) + '"' + chr(39))}' --output out"""
    )


def test_values_of_settings_are_read_as_yaml_and_the_last_one_wins():
    assert parse_settings(["a.b=5", "a.c=[x, y]", "a.d=null", "a.e=x=y", "a.b=6", "a.f="]) == {
        "a.b": 6, "a.c": ["x", "y"], "a.d": None, "a.e": "x=y", "a.f": None,
    }  # fmt: skip


def test_the_command_that_goes_on_neither_starts_afresh_nor_breaks_at_spaces():
    command = resume_command(
        ["/nowhere/bin/curate", "run", "slimpajama", "--input", "my data", "--fresh", "--output", "out"]
    )
    assert command == "/nowhere/bin/curate run slimpajama --input 'my data' --output out"


def test_a_run_is_summed_up_continued_and_cleaned(recipe, data, tmp_path):
    out = tmp_path / "out"
    call = ("run", recipe, "--input", data, "--output", out, "--executor", "inline")
    first = curate(*call)
    assert first.exit_code == 0, first.output
    assert "Kept 5 of 8 documents" in " ".join(first.stdout.split())
    assert "first pass" in first.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["stages"]["exact"]["removed_documents"] == 2

    again = curate(*call)
    assert again.exit_code == 0
    assert "complete already" in again.stdout

    changed = curate(*call, "--set", "length.minimum_characters=1")
    assert changed.exit_code == 0, changed.output
    assert "Kept 6 of 8 documents" in " ".join(changed.stdout.split())

    cleaned = curate("clean", out)
    assert cleaned.exit_code == 0, cleaned.output
    assert not (out / "work").exists()
    assert (out / "documents").is_dir()


def test_a_plan_names_files_that_no_source_matches_and_runs_nothing(recipe, data):
    (data / "notes.txt").write_text("not a data file")
    before = sorted(data.parent.rglob("*"))
    result = curate("plan", recipe, "--input", data)
    assert result.exit_code == 0, result.output
    assert "no source matches: 1" in result.stdout
    assert "notes.txt" in "".join(result.stdout.split())
    assert sorted(data.parent.rglob("*")) == before


def test_too_many_bad_records_name_a_file_and_exit_with_3(recipe, data, tmp_path):
    (data / "b.jsonl").write_text("not json\n" * 20)
    result = curate("run", recipe, "--input", data, "--output", tmp_path / "out", "--executor", "inline")
    assert result.exit_code == 3, result.output
    assert "b.jsonl" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs make")
def test_make_names_its_targets_and_refuses_a_python_that_is_too_old(tmp_path):
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    listed = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True, env=environment)
    named = {line.split()[0] for line in listed.stdout.splitlines()}
    assert named == {"help", "setup", "slimpajama-dedup", "test", "check", "bench", "bench-peers", "bench-questions", "clean"}
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        (tmp_path / name).write_text((root / name).read_text())
    old = subprocess.run(
        ["make", "setup", "PYTHON=false"], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert old.returncode != 0
    assert "false is no Python 3.11, 3.12 or 3.13" in old.stderr
