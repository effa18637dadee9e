"""Stages of the user's own: what they may return, what they may do wrong, and that they act alike on both executors."""

import importlib
import json
import pickle
import socket
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import zstandard

from curation.documents import DocumentBatch
from curation.engine import inputs
from curation.engine.progress import Progress
from curation.engine.quarantine import TooManyBadRecordsError
from curation.engine.recipe import load_recipe
from curation.engine.run import RunOptions, run_recipe
from curation.stages import DocumentFailuresError
from curation.stages.python import Python, PythonSettings, UserCodeError

RECIPE = """\
name: mine
sources:
  - {name: news, path: "{input}/*.jsonl", columns: {stars: meta.stars}}
stages:
  - length: {minimum_characters: 20}
%s
output: {format: %s}
"""
CODE = '''\
import pyarrow as pa
import pyarrow.compute as pc

from curation.stages import MapResult


def adverts(documents: pa.RecordBatch, limit: int = 1, word: str = "buy"):
    """Drops what says `word` more often than `limit`, and shouts no more."""
    text = documents.column("text")
    n = pc.count_substring(text, word)
    return MapResult(
        removed=pc.greater(n, limit),
        reason=[f"advert for {s}" for s in documents.column("source").to_pylist()],
        texts=pc.replace_substring(text, "!!!", "."),
        columns={"n_words": n, "starred": pc.greater(pc.fill_null(documents.column("stars"), 0), 2)},
        measure=n,
        threshold=limit,
        unit="times",
    )


def fails_on_poison(documents):
    for text in documents.column("text").to_pylist():
        if "poison" in text:
            raise KeyError("poison")
    return MapResult()
'''


def documents() -> list[dict[str, object]]:
    words = ["a plain text about rivers", "buy buy buy now!!! and more", "please do not shout!!! at me", "tiny"]
    return [{"text": f"{words[n % 4]} {n if n % 4 != 3 else ''}", "meta": {"stars": n % 5}} for n in range(40)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(3):
        lines = [json.dumps(document) for document in documents()[number::3]]
        (tmp_path / "in" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


def go(corpus: Path, stages: str, output: str = "out", executor: str = "inline", form: str = "parquet", **settings: object):
    (corpus / "mine.yaml").write_text(RECIPE % (stages, form))
    recipe = load_recipe(str(corpus / "mine.yaml"), str(corpus / "in"), settings)
    options = RunOptions(executor=executor, workers=2)
    return run_recipe(recipe, str(corpus / "in"), str(corpus / output), options, Progress(quiet=True))


def rows(corpus: Path, folder: str, output: str = "out") -> list[dict[str, object]]:
    return ds.dataset(corpus / output / folder, format="parquet").to_table().to_pylist()


ADVERTS = "  - python: {as: adverts, file: mine.py, function: adverts, settings: {limit: 1}}"


def test_a_stage_removes_with_its_reasons_edits_and_adds_columns(corpus):
    report = go(corpus, ADVERTS)
    removed = {row["id"]: row for row in rows(corpus, "removed")}
    assert report["stages"]["length"]["removed_documents"] == report["stages"]["adverts"]["removed_documents"] == 10
    mine = [row for row in removed.values() if row["stage"] == "adverts"]
    assert {(row["reason"], row["detail"]) for row in mine} == {("advert for news", "3 times")}
    kept = rows(corpus, "documents")
    assert len(kept) == 20 and all("!!!" not in row["text"] for row in kept)
    for row in kept:
        assert row["n_words"] == row["text"].count("buy") and row["starred"] == (row["stars"] > 2)
    edited = rows(corpus, "edited")
    assert {row["stage"] for row in edited} == {"adverts"} and len(edited) == 20
    assert all(row["characters_before"] == row["characters_after"] + 2 for row in edited)
    # Of what is edited half goes by the same stage, and is named all the same.
    assert len({row["id"] for row in edited} & set(removed)) == 10


def test_both_executors_write_the_same_bytes(corpus):
    both = f"{ADVERTS}\n  - python: {{as: poisoned, file: mine.py, function: fails_on_poison}}\n  - exact"
    (corpus / "in" / "0.jsonl").open("a").write('{"text": "this one is poison for the stage"}\n')
    go(corpus, both, "inline")
    go(corpus, both, "ray", "ray")
    for folder in ("documents", "removed", "edited", "duplicates", "quarantine"):
        ours = {path.relative_to(corpus / "inline"): path.read_bytes() for path in (corpus / "inline" / folder).rglob("*.parquet")}
        theirs = {path.relative_to(corpus / "ray"): path.read_bytes() for path in (corpus / "ray" / folder).rglob("*.parquet")}
        assert ours and ours == theirs


def test_json_lines_get_the_columns_too(corpus):
    import datasets

    go(corpus, ADVERTS, form="jsonl.zst")
    files = [str(path) for path in (corpus / "out" / "documents" / "train").iterdir()]
    loaded = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(corpus / "cache"))
    assert loaded.num_rows == 20 and set(loaded["n_words"]) == {0} and {*loaded["starred"]} == {True, False}


def test_a_document_on_which_the_function_fails_goes_to_quarantine_with_file_and_line(corpus):
    file = corpus / "in" / "1.jsonl"
    position = file.stat().st_size
    file.open("a").write('{"text": "this one is poison for the stage"}\n{"text": "and this one is not, though it is last"}\n')
    stage = "  - python: {as: tasting, file: mine.py, function: fails_on_poison}"
    report = go(corpus, stage)
    (bad,) = rows(corpus, "quarantine")
    line = 1 + CODE.splitlines().index('            raise KeyError("poison")')
    assert bad["reason"] == f"tasting: KeyError: 'poison' (mine.py, line {line})"
    assert (bad["source"], bad["path"], bad["offset"]) == ("news", "1.jsonl", position)
    assert bad["bytes"] == b"this one is poison for the stage"
    assert report["documents"] == {"in": 42, "kept": 31, "removed": 10, "quarantined": 1}
    tasting = report["stages"]["tasting"]
    assert (tasting["documents_in"], tasting["removed_documents"], tasting["quarantined_documents"]) == (32, 0, 1)
    assert report["stages"]["length"]["documents_in"] == 42 and bad["id"] == f"news/1.jsonl@{position}"
    assert any("though it is last" in row["text"] for row in rows(corpus, "documents"))


def test_too_many_failures_fail_the_run(corpus):
    poison = "".join('{"text": "this one is poison for the stage"}\n' for _ in range(20))
    (corpus / "in" / "1.jsonl").open("a").write(poison)
    with pytest.raises(TooManyBadRecordsError, match=r"tasting: KeyError: 'poison' \(mine.py, line \d+\)"):
        go(corpus, "  - python: {as: tasting, file: mine.py, function: fails_on_poison}")


def test_documents_that_an_earlier_stage_removed_are_not_shown(corpus):
    (corpus / "mine.py").write_text(
        "from curation.stages import MapResult\n"
        "def f(documents):\n"
        "    assert all(len(text) >= 20 for text in documents.column('text').to_pylist())\n"
        "    return MapResult(columns={'seen': [True] * len(documents)})\n"
        "def g(documents):\n"
        "    return MapResult(removed=[not seen for seen in documents.column('seen').to_pylist()])\n"
    )
    stages = "  - python: {as: f, file: mine.py, function: f}\n  - python: {as: g, file: mine.py, function: g}"
    assert go(corpus, stages)["documents"]["kept"] == 30


def test_a_keep_rule_may_compare_a_column_that_a_stage_made(corpus):
    twins = [{"text": "the very same words, twenty of them, " * 20 + end, "meta": {"stars": 1}} for end in ("x", "y", "z" * 3)]
    (corpus / "in" / "9.jsonl").write_text("".join(json.dumps(twin) + "\n" for twin in twins))
    (corpus / "mine.py").write_text(
        "import pyarrow.compute as pc\nfrom curation.stages import MapResult\n"
        "def score(documents):\n    return MapResult(columns={'z': pc.count_substring(documents.column('text'), 'z')})\n"
    )
    stages = "  - python: {as: score, file: mine.py, function: score}\n  - minhash: {keep: ['highest: z', first]}"
    go(corpus, stages)
    assert [row["z"] for row in rows(corpus, "documents") if row["text"].startswith("the very same")] == [3]


def test_a_changed_function_reads_again_and_a_moved_file_does_not(corpus):
    go(corpus, ADVERTS)
    again = go(corpus, ADVERTS)
    assert again["already_complete"]
    (corpus / "code").mkdir()
    (corpus / "mine.py").rename(corpus / "code" / "mine.py")
    moved = go(corpus, ADVERTS.replace("mine.py", "code/mine.py"))
    assert moved["already_complete"]
    (corpus / "code" / "mine.py").write_text(CODE.replace('"!!!", "."', '"!!!", "?"'))
    changed = go(corpus, ADVERTS.replace("mine.py", "code/mine.py"))
    assert changed["tasks"]["reused"] == 0
    assert any("shout?" in row["text"] for row in rows(corpus, "documents"))


def stage_of(tmp_path: Path, code: str, **settings: object) -> Python:
    (tmp_path / "code.py").write_text("import math\nimport pyarrow as pa\nfrom curation.stages import MapResult\n" + code)
    return Python("own", PythonSettings(file=str(tmp_path / "code.py"), function="f", settings=settings))


def batch_of(n: int) -> DocumentBatch:
    ids = [f"news/a.jsonl@{i}" for i in range(n)]
    columns = pa.RecordBatch.from_pydict({"id": ids, "source": ["news"] * n, "meta": pa.nulls(n, pa.string())})
    return DocumentBatch(np.arange(n, dtype=np.uint64), pa.array([f"text {i}" for i in range(n)], pa.large_string()), columns)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "returned nothing; return a curation.stages.MapResult"),
        ("[True] * 4", "returned a list; return"),
        ("MapResult(removed=[True])", "returned removed with 1 values for 4 documents"),
        ("MapResult(removed=[0, 1, 0, 1])", "returned removed of type int64"),
        ("MapResult(removed=[True, None, True, True])", "returned removed with 1 nulls"),
        ("MapResult(removed=True)", "returned removed as a bool"),
        ("MapResult(removed=[True] * 4, reason=['x'])", "returned reason with 1 values"),
        ("MapResult(removed=[True] * 4, reason=[1] * 4)", "returned reason of type int64"),
        ("MapResult(texts=['a', 'b', None, 'c'])", "returned texts with 1 nulls"),
        ("MapResult(texts=['a', 'b', '\\ud800', 'c'])", "returned texts that is no array"),
        ("MapResult(texts='abcd')", "returned texts as a str"),
        ("MapResult(columns={'x': [1, 2, 3]})", "returned column 'x' with 3 values for 4 documents"),
        ("MapResult(columns={'x': [[1]] * 4})", "returned column 'x' of type list"),
        ("MapResult(columns={'x': [object()] * 4})", "returned column 'x' that is no array"),
        ("MapResult(columns={'text': ['a'] * 4})", "returned a column named 'text', which documents have already"),
        ("MapResult(columns={'Text': ['a'] * 4})", "returned a column named 'Text', which documents have already"),
        ("MapResult(texts=pa.array([b'\\xff'] * 4).view(pa.string()))", "returned texts that is no array: Invalid UTF8"),
        ("MapResult(columns={'x': pa.array([b'\\xff'] * 4).view(pa.string())})", "returned column 'x' that is no array: Invalid"),
        ("MapResult(removed=[[True]] * 4)", "returned removed of type list"),
        ("MapResult(removed=(True for _ in range(4)))", "returned removed as a generator"),
        ("MapResult(columns={'n_duplicates': [1] * 4})", "returned a column named 'n_duplicates'"),
        ("MapResult(columns={'a b': [1] * 4})", "returned a column named 'a b'"),
        ("MapResult(columns=[1] * 4)", "returned columns as a list"),
        ("MapResult(measure=['a'] * 4)", "returned measure of type string"),
        ("MapResult(threshold=math.nan)", "returned threshold nan"),
        ("MapResult(unit=3)", "returned unit 3"),
        ("MapResult(unit='\\ud800')", "returned unit '\\ud800', which is not valid Unicode"),
        ("MapResult(removed=[True] * 4, reason='\\ud800')", "returned reason '\\ud800', which is not valid Unicode"),
        ("MapResult(removed=[True] * 4, reason=['x' * 300] * 4)", "of 300 characters; 200 are enough"),
    ],
)
def test_a_wrong_result_names_the_function_its_line_and_the_first_document(tmp_path, returned, message):
    stage = stage_of(tmp_path, f"def f(documents):\n    return {returned}\n")
    with pytest.raises(UserCodeError) as raised:
        stage.apply(batch_of(4))
    assert message in str(raised.value)
    assert f"own: f ({tmp_path}/code.py, line 4)" in str(raised.value)
    assert "'news/a.jsonl@0'" in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize(
    "made",
    [
        "pd.Series([1, 2, 3, 4], index=[7, 8, 9, 6])",
        "pl.Series([1, 2, 3, 4])",
        "np.array([1, 2, 3, 4], np.float16)",
        "[np.int64(n) for n in (1, 2, 3, 4)]",
        "pa.chunked_array([[1, 2], [3, 4]])",
        "pa.array([1, 2, 3, 4]).dictionary_encode()",
        "pa.array([0, 1, 2, 3, 4]).slice(1)",
    ],
)
def test_arrays_of_every_common_library_are_taken(tmp_path, made):
    imports = "import numpy as np\nimport pandas as pd\nimport polars as pl\n"
    code = f"def f(documents):\n    x = {made}\n    return MapResult(columns={{'x': x}}, measure=x)\n"
    result = stage_of(tmp_path, imports + code).apply(batch_of(4))
    assert result.columns["x"].to_pylist() == result.measure.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("made", ["pd.Series", "pl.Series", "np.array", "pa.array"])
def test_texts_and_removals_of_every_common_library_are_taken(tmp_path, made):
    imports = "import numpy as np\nimport pandas as pd\nimport polars as pl\n"
    returned = f"removed={made}([True, False]), texts={made}(['a', 'b']), reason={made}(['r', 's'])"
    code = f"def f(documents):\n    return MapResult({returned})\n"
    result = stage_of(tmp_path, imports + code).apply(batch_of(2))
    assert (result.removed.tolist(), result.texts.to_pylist(), result.reason) == ([True, False], ["a", "b"], ["r", "s"])


def test_a_measure_too_large_for_an_exact_float_is_rounded(tmp_path):
    stage = stage_of(tmp_path, "def f(documents):\n    return MapResult(measure=[2**60 + 1] * len(documents))\n")
    assert stage.apply(batch_of(1)).measure.tolist() == [2.0**60]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("class Own(Exception):\n    def __str__(self): raise RuntimeError", "Own: (its message cannot be shown)"),
        ("class Own(BaseException): pass", "Own"),
        ("class Own(Exception):\n    def __init__(self): super().__init__('\\ud800')", r"Own: \ud800"),
        ("class Own(Exception):\n    def __init__(self): super().__init__('x' * 10**6)", "Own: " + "x" * 300),
    ],
)
def test_whatever_error_the_function_raises_is_told_on_a_line(tmp_path, error, said):
    stage = stage_of(tmp_path, f"{error}\ndef f(documents):\n    raise Own\n")
    with pytest.raises(DocumentFailuresError) as raised:
        stage.apply(batch_of(1))
    line = 3 + len(error.splitlines()) + 2
    assert raised.value.failures == {0: f"own: {said} (code.py, line {line})"}
    assert raised.value.failures[0].encode()


def test_what_is_missing_on_a_worker_only_is_told_with_the_line_and_the_machine(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    sent = pickle.dumps(stage_of(tmp_path, "import beside\ndef f(documents):\n    return MapResult()\n"))
    for name in [name for name in sys.modules if name == "beside" or name.startswith("curate_stage_")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "beside.py").unlink()
    importlib.invalidate_caches()
    stage = pickle.loads(sent)
    with pytest.raises(UserCodeError, match=f"own: ModuleNotFoundError: .*'beside' .*code.py, line 4.* on {socket.gethostname()}"):
        stage.apply(batch_of(1))


@pytest.mark.parametrize("failing", [{3}, {0, 7}, {1, 2, 3, 4, 5}])
def test_exactly_the_documents_that_fail_alone_are_named(tmp_path, failing):
    loop = "for t in documents.column('text').to_pylist():"
    code = f"def f(documents):\n    {loop}\n        1 / (int(t[5:]) not in {failing})\n    return MapResult()\n"
    with pytest.raises(DocumentFailuresError) as raised:
        stage_of(tmp_path, code).apply(batch_of(8))
    assert set(raised.value.failures) == failing
    assert set(raised.value.failures.values()) == {"own: ZeroDivisionError: division by zero (code.py, line 6)"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(documents):\n    return documents.nothing\n", "on the document 'news/a.jsonl@0', as on all 100 of its batch"),
        ("def f(documents):\n    open('/nowhere/to/be/found')\n", "FileNotFoundError"),
        ("def f(documents):\n    if len(documents) > 1: raise ValueError\n    return MapResult()\n", "on none of them alone"),
        ("def f(documents):\n    raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
def test_a_function_that_works_on_nothing_fails_at_once(tmp_path, code, message):
    with pytest.raises(UserCodeError, match=f"{tmp_path}/code.py, line 5") as raised:
        stage_of(tmp_path, code).apply(batch_of(100))
    assert message in str(raised.value)


def test_a_batch_of_few_documents_that_all_fail_is_quarantined_without_addresses(tmp_path):
    stage = stage_of(tmp_path, "def f(documents):\n    raise ValueError(object())\n")
    with pytest.raises(DocumentFailuresError) as raised:
        stage.apply(batch_of(1))
    assert raised.value.failures == {0: "own: ValueError: <object object at 0x…> (code.py, line 5)"}


@pytest.mark.parametrize(
    ("code", "settings", "message"),
    [
        ("def f(documents, limit: int): ...", {}, "limit: Field required"),
        ("def f(documents, limit: int): ...", {"limit": "x"}, "limit: Input should be a valid integer"),
        ("def f(documents, limit: int = 3): ...", {"limt": 4}, "unknown key 'limt'; did you mean 'limit'?"),
        ("def f(documents, **settings): ...", {}, "must name each setting instead of taking **settings"),
        ("def f(): ...", {}, "must take the batch as its first argument"),
        ("def g(documents): ...", {}, "has no function 'f'"),
        ("f = 3", {}, "has no function 'f'"),
        ("def f(documents) return 3", {}, "SyntaxError: expected ':'"),
        ("import nowhere_to_be_found", {}, "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def f(documents, x: Nothing): ...", {}, "annotations of the function"),
        ("async def f(documents): ...", {}, "is a coroutine or a generator"),
        ("def f(documents):\n    yield MapResult()", {}, "is a coroutine or a generator"),
        ("1 / 0", {}, "ZeroDivisionError: division by zero"),
    ],
)
def test_mistakes_in_the_file_or_its_settings_are_met_before_anything_runs(tmp_path, code, settings, message):
    with pytest.raises(UserCodeError) as raised:
        stage_of(tmp_path, code + "\n", **settings)
    assert message in str(raised.value) and "code.py" in str(raised.value)


def test_mistakes_name_the_line_of_the_recipe(corpus):
    for name, value in (("limt", 2), ("limit", "x")):
        with pytest.raises(ValueError, match=f"line 6: adverts.settings.{name}:"):
            go(corpus, f"  - python: {{as: adverts, file: mine.py, function: adverts, settings: {{{name}: {value}}}}}")
    with pytest.raises(ValueError, match=r"--set adverts.settings.limit: limit: Input should be a valid integer"):
        go(corpus, ADVERTS, **{"adverts.settings.limit": "many"})
    with pytest.raises(ValueError, match=r"line 6: adverts.file: .*none.py cannot be read"):
        go(corpus, ADVERTS.replace("mine.py", "none.py"))


def test_settings_are_converted_as_the_annotations_say(tmp_path):
    code = (
        "from dataclasses import dataclass\nfrom pathlib import Path\nfrom enum import Enum\n"
        "class Kind(Enum):\n    big = 'big'\n"
        "def f(documents, path: Path, kind: Kind, sizes: list[int] = [1], json: str = 'x'):\n"
        "    found = f'{isinstance(path, Path)} {kind.name} {sum(sizes)} {json}'\n"
        "    return MapResult(columns={'x': [found] * len(documents)})\n"
    )
    stage = stage_of(tmp_path, code, path="a/b", kind="big", sizes=["2", 3], json="y")
    for copy in (stage, pickle.loads(pickle.dumps(stage))):
        assert copy.apply(batch_of(2)).columns["x"].to_pylist() == ["True big 5 y"] * 2


def test_types_that_differ_between_files_are_an_error_and_nulls_join_any_type(corpus):
    (corpus / "mine.py").write_text(
        "from curation.stages import MapResult\n"
        "def f(documents, other: str):\n"
        "    first = documents.column('id')[0].as_py()\n"
        "    value = {'0': 1, '1': 'x' if other == 'string' else None, '2': 3}[first.split('/')[1][0]]\n"
        "    return MapResult(columns={'x': [value] * len(documents)})\n"
    )
    stage = "  - python: {as: f, file: mine.py, function: f, settings: {other: %s}}"
    go(corpus, stage % "none")
    assert {row["x"] for row in rows(corpus, "documents")} == {1, None, 3}
    files = list((corpus / "out" / "documents" / "train").iterdir())
    assert pq.read_schema(files[0]).field("x").type == pa.int64()
    with pytest.raises(ValueError, match=r"'x' that a stage made is int64 in one batch and string in another, in .*0.jsonl or"):
        go(corpus, stage % "string", "other")


def test_a_result_is_applied_to_the_documents_it_was_asked_for(tmp_path):
    code = "def f(documents):\n    return MapResult(removed=[t[-1] == '1' for t in documents['text'].to_pylist()])\n"
    stage = stage_of(tmp_path, code)
    assert stage.apply(batch_of(3)).removed.tolist() == [False, True, False]
    assert stage.apply(batch_of(0)).removed is None


def test_integers_of_one_file_and_floats_of_another_make_a_column_of_floats(corpus):
    (corpus / "mine.py").write_text(
        "from curation.stages import MapResult\n"
        "def f(documents):\n"
        "    first = documents.column('id')[0].as_py()\n"
        "    return MapResult(columns={'x': [0.5 if '/1.jsonl' in first else 2] * len(documents)})\n"
    )
    go(corpus, "  - python: {as: f, file: mine.py, function: f}")
    assert {row["x"] for row in rows(corpus, "documents")} == {0.5, 2.0}


LATE = "  - minhash: {verify: exact}\n  - python: {as: late, file: mine.py, function: f}"
SHOUTS = "import pyarrow.compute as pc\nfrom curation.stages import MapResult\ndef f(documents):\n    texts = documents['text']\n"


def test_an_edit_after_a_comparison_of_whole_texts_is_refused_where_the_document_stays(corpus):
    (corpus / "mine.py").write_text(SHOUTS + "    return MapResult(texts=pc.utf8_upper(texts))\n")
    with pytest.raises(ValueError, match=r"late edits texts, of 'news/0.jsonl@0' for example, after minhash, .* put late before"):
        go(corpus, LATE)
    go(corpus, LATE.replace("{verify: exact}", "{keep: longest}"), "unverified")
    assert all(row["text"].isupper() for row in rows(corpus, "documents", "unverified"))
    (corpus / "mine.py").write_text(SHOUTS + "    return MapResult(texts=texts)\n")
    go(corpus, LATE, "unchanged")
    (corpus / "mine.py").write_text(
        SHOUTS + "    return MapResult(texts=pc.utf8_upper(texts), removed=pc.not_equal(texts, pc.utf8_upper(texts)))\n"
    )
    assert go(corpus, LATE, "gone")["documents"]["kept"] == 0


def test_what_deduplication_removed_is_not_said_to_be_edited_by_later_stages(corpus):
    with (corpus / "in" / "9.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": "the very same words, shouted!!!"}) + "\n" for _ in range(3))
    early = ADVERTS.replace("as: adverts", "as: early").replace("limit: 1", "limit: 9")
    (corpus / "more.py").write_text(
        "from curation.stages import MapResult\n"
        "def f(documents):\n    return MapResult(texts=[text + 'x' for text in documents['text'].to_pylist()])\n"
    )
    report = go(corpus, f"{early}\n  - exact\n  - python: {{as: late, file: more.py, function: f}}")
    gone = {row["id"]: row["stage"] for row in rows(corpus, "removed")}
    edited = [(row["stage"], gone.get(row["id"])) for row in rows(corpus, "edited")]
    assert edited.count(("early", "exact")) == 2 and ("late", "exact") not in edited
    assert edited.count(("late", None)) == report["stages"]["late"]["edited_documents"] == report["documents"]["kept"]
    assert report["stages"]["early"]["edited_documents"] == sum(stage == "early" for stage, _ in edited)


def test_pairs_whose_texts_a_later_stage_edited_are_not_measured(corpus):
    pair = ["the very same words, twenty of them, " * 20 + end for end in ("x", "y")]
    (corpus / "in" / "9.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in pair))
    (corpus / "mine.py").write_text(SHOUTS + "    return MapResult(texts=pc.utf8_slice_codeunits(texts, 0, 100))\n")
    after = "  - minhash: {bands: 40, rows: 3}\n  - python: {as: f, file: mine.py, function: f}"
    sampled = go(corpus, after)["stages"]["minhash"]["sampled_pairs"]
    assert sampled["pairs"] - sampled["measured"] == 1
    unmeasured = [row for row in rows(corpus, "samples/clusters.parquet") if row["similarity"] is None]
    assert unmeasured and {(row["text_kept"], row["text_removed"]) for row in unmeasured} == {(pair[0][:100], pair[1][:100])}
    before = "\n".join(reversed(after.splitlines()))
    sampled = go(corpus, before, "before")["stages"]["minhash"]["sampled_pairs"]
    assert sampled["pairs"] == sampled["measured"] > 0


def test_a_column_may_have_any_name_that_documents_do_not_have(corpus):
    (corpus / "mine.py").write_text(
        "from curation.stages import MapResult\n"
        "def f(documents):\n    return MapResult(columns={'row': [7] * len(documents), 'class': documents['id']})\n"
    )
    go(corpus, "  - python: {as: f, file: mine.py, function: f}")
    assert len(rows(corpus, "documents")) == 30
    assert all((row["row"], row["class"]) == (7, row["id"]) for row in rows(corpus, "documents"))


def test_a_keep_rule_compares_large_integers_and_refuses_a_column_that_a_batch_lacks(corpus):
    made = "MapResult(columns={'x': [2**60 + n for n in range(len(documents))]} if %s else {})"
    keep = "  - python: {as: f, file: mine.py, function: f}\n  - minhash: {keep: ['highest: x', first]}"
    code = f"from curation.stages import MapResult\ndef f(documents):\n    return {made}\n"
    (corpus / "mine.py").write_text(code % "True")
    go(corpus, keep)
    (corpus / "mine.py").write_text(code % "'/1.jsonl' in documents['id'][0].as_py()")
    with pytest.raises(ValueError, match=r"'highest: x': a batch has no such column: .* with None where"):
        go(corpus, keep, "other")


def test_reasons_are_limited_in_the_run_as_a_whole(corpus, monkeypatch):
    (corpus / "mine.py").write_text(
        "from curation.stages import MapResult\n"
        "def f(documents):\n    return MapResult(removed=[True] * len(documents), reason=documents['id'])\n"
    )
    monkeypatch.setattr(inputs, "MOST_REASONS", 29)  # of 30, less than that in each file
    with pytest.raises(ValueError, match=r"different reasons, 'news/2.jsonl@\d+' among them"):
        go(corpus, "  - python: {as: f, file: mine.py, function: f}")


def test_a_threshold_that_differs_between_batches_is_an_error(corpus):
    (corpus / "mine.py").write_text(
        "from curation.stages import MapResult\n"
        "def f(documents):\n"
        "    n = [len(text) for text in documents.column('text').to_pylist()]\n"
        "    return MapResult(measure=n, threshold=sum(n) / len(n), unit='characters')\n"
    )
    with pytest.raises(ValueError, match=r"f: the threshold is [\d.]+ characters in one batch and [\d.]+ characters in the next"):
        go(corpus, "  - python: {as: f, file: mine.py, function: f}")


def test_a_column_named_like_a_member_of_the_input_replaces_it_in_json_lines(corpus):
    (corpus / "mine.py").write_text(
        "from curation.stages import MapResult\ndef f(documents):\n    return MapResult(columns={'score': [9] * len(documents)})\n"
    )
    (corpus / "in" / "0.jsonl").open("a").write('{"text": "a text with a score of its own", "score": 2, "other": NaN}\n')
    go(corpus, "  - python: {as: f, file: mine.py, function: f}", form="jsonl.zst")
    (file,) = (corpus / "out" / "documents" / "train").iterdir()
    lines = zstandard.ZstdDecompressor().stream_reader(file.open("rb"), read_across_frames=True).read().decode().splitlines()
    (line,) = [line for line in lines if "of its own" in line]
    assert line.count('"score"') == 1 and '"score":9' in line and '"other": NaN' in line
