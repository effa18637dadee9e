"""What is asked of a run, and when an answer or a page counts as a failure."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def importable_benchmarks():
    """Benchmarks are scripts that import each other from their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def questions(importable_benchmarks):
    return importlib.import_module("questions")


@pytest.fixture(scope="module")
def page(importable_benchmarks):
    return importlib.import_module("page")


@pytest.fixture
def finished(tmp_path):
    """The tables of a run: a kept original with two copies, one without, one too short, one unreadable."""
    tables = {
        "removed/removed-0.parquet": {
            "id": ["c4/a@1", "c4/a@2", "c4/a@3"],
            "stage": ["minhash", "length", "exact"],
            "duplicate_of": ["c4/a@0", None, "c4/a@0"],
        },
        "duplicates/duplicates-0.parquet": {"duplicate_of": ["c4/a@0", "c4/a@0"], "id": ["c4/a@1", "c4/a@3"]},
        "documents/train/train-0.parquet": {
            "id": ["c4/a@0", "c4/a@4"],
            "text": ["first", "second"],
            "n_duplicates": [2, 0],
        },
        "quarantine/quarantine-0.parquet": {"source": ["c4"], "path": ["a"], "offset": [5]},
    }
    for name, columns in tables.items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
    return tmp_path / "run"


class Foreign:
    """Stands for the corpus's maker."""

    class settings:  # noqa: N801 - an attribute of the maker
        documents = 6

    @staticmethod
    def text(number):
        return f"document {number}"


def test_each_question_is_about_a_document_that_the_run_treated_so(questions, finished, tmp_path):
    asked = {q.name: q for q in questions.questions(finished, tmp_path / "other", Foreign, tmp_path)}
    documents = {name: q.arguments[2] for name, q in asked.items() if q.arguments[0] == "explain"}
    assert documents == {
        "explain: kept": "c4/a@4",
        "explain: kept, with copies": "c4/a@0",
        "explain: kept, with 2 copies": "c4/a@0",
        "explain: removed by minhash": "c4/a@1",
        "explain: removed by exact": "c4/a@3",
        "explain: removed by length": "c4/a@2",
        "explain: quarantined": "c4/a@5",
        "explain: never seen": "c4/a@41",
    }
    texts = {name: Path(q.arguments[2]).read_text() for name, q in asked.items() if q.arguments[0] == "similar"}
    assert texts["similar: text of a kept document"] == "second"
    assert texts["similar: text with most copies"] == "first"
    assert texts["similar: text of no document"] == "document 16"
    assert asked["diff"].arguments == ("diff", str(finished), str(tmp_path / "other"))


def test_a_run_without_what_is_asked_about_ends_with_a_hint(questions, finished):
    with pytest.raises(SystemExit, match="give the corpus more --documents"):
        questions.removed_document(finished, "quality")


@pytest.mark.parametrize(
    ("answer", "exit_code", "seconds", "memory", "wanted"),
    [
        ("kept, alone", 0, [1.0, 1.0], 5e8, []),
        ("gone", 0, [1.0, 1.0], 5e8, ["kept is not in the answer"]),
        ("kept", 0, [5.5, 1.0], 5e8, ["5.5 s"]),
        ("kept", 0, [1.0, 1.0], 1.5e9, ["1.50 GB"]),
        ("kept\nTraceback: oh", 0, [1.0, 1.0], 5e8, ["exit code 0: kept\nTraceback: oh"]),
        ("kept", 1, [1.0, 1.0], 5e8, ["exit code 1: kept"]),
    ],
)
def test_wrong_slow_and_large_answers_are_faults(questions, answer, exit_code, seconds, memory, wanted):
    question = questions.Question("explain: kept", ("explain",), questions.Limit(5, 1e9), ("kept",))
    measured = importlib.import_module("measure").Measurement([], exit_code)
    assert questions.faults(question, [measured], answer, seconds, memory) == wanted


@pytest.fixture
def asked(questions, monkeypatch, tmp_path):
    """Asks a question of an executable, with two repeats; the row."""

    def ask(executable, **changes):
        monkeypatch.setattr(questions, "CURATE", Path(executable))
        question = questions.Question("one", ("kept",), questions.Limit(60, 1e9), **changes)
        return questions.ask(question, [tmp_path], Namespace(folder=tmp_path, repeats=2))

    return ask


def test_an_answer_is_asked_for_again_and_its_row_is_printed(questions, asked):
    row = asked("/bin/echo", wanted=("kept",))
    assert row["faults"] == [] and len(row["seconds"]) == 2
    assert questions.render([row]).splitlines()[-1].split("|")[-2].strip() == "yes"


def test_a_command_that_fails_is_not_repeated(questions, asked):
    row = asked("/bin/false")
    assert row["faults"] == ["exit code 1: "] and len(row["seconds"]) == 1
    assert questions.render([row]).splitlines()[-1].split("|")[-2].strip() == "no"


def test_a_question_may_have_to_be_refused(asked):
    assert asked("/bin/false", exit_codes=(1, 2))["faults"] == []
    assert asked("/bin/true", exit_codes=(1, 2))["faults"] == ["exit code 0: "]


def test_files_are_the_same_after_the_system_was_told_to_forget_them(questions, finished):
    before = {path: path.read_bytes() for path in finished.rglob("*.parquet")}
    questions.drop_from_memory(finished)
    assert before == {path: path.read_bytes() for path in finished.rglob("*.parquet")}


def test_disk_that_is_filled_already_is_not_needed_again(questions, tmp_path):
    needed = [questions.disk_bytes_needed(1000, tmp_path, fresh=False)]
    for name in ("corpus/.corpus.json", "run-a/report.json", "run-b/report.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
        needed.append(questions.disk_bytes_needed(1000, tmp_path, fresh=False))
    assert needed == sorted(needed, reverse=True) and needed[-1] == 0
    assert questions.disk_bytes_needed(1000, tmp_path, fresh=True) == needed[1]


def test_large_slow_asking_and_wide_pages_are_faults(page):
    fine = {"page_bytes": 9e5, "load_milliseconds": [200], "paint_milliseconds": [90], "requests": 0, "overflow_pixels": 0}
    assert page.faults(fine) == []
    for change, wanted in (
        ({"page_bytes": 2_100_000}, "2.10 MB"),
        ({"load_milliseconds": [900, 1200, 1300]}, "1200 ms to open"),
        ({"paint_milliseconds": [1001]}, "1001 ms to open"),
        ({"requests": 2}, "2 requests"),
        ({"overflow_pixels": 7}, "7 pixels wider than a phone"),
    ):
        assert page.faults(fine | change) == [wanted]
