"""The ledger after kills, moves and lost files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.engine.ledger import Ledger, task_key


@pytest.fixture
def root(tmp_path):
    (tmp_path / "out" / "work").mkdir(parents=True)
    return tmp_path / "out"


def opened(root):
    return Ledger(str(root / "work" / "ledger.jsonl"), str(root))


def committed(root, key, **result):
    """A task of this key with an output, in the ledger."""
    output = root / "work" / key
    output.write_text("output")
    return {"outputs": [str(output)], **result}


def test_a_committed_task_is_found_again_after_reopening(root):
    ledger = opened(root)
    result = committed(root, "a", counts={"x": 1}, text="\udcff é 天")
    ledger.commit("a", "step", result)
    ledger.close()
    ledger = opened(root)
    assert ledger.find("a") == result
    assert ledger.find("b") is None


def test_a_task_without_its_outputs_is_recorded_but_not_found(root):
    ledger = opened(root)
    ledger.commit("a", "step", committed(root, "a"))
    (root / "work" / "a").unlink()
    assert ledger.find("a") is None


def test_what_was_forgotten_stays_forgotten_until_it_is_committed_again(root):
    ledger = opened(root)
    ledger.commit("a", "step", committed(root, "a", n=1))
    ledger.forget("a")
    assert ledger.find("a") is None
    ledger.close()
    ledger = opened(root)
    assert ledger.find("a") is None
    ledger.commit("a", "step", committed(root, "a", n=2))
    ledger.close()
    assert opened(root).find("a")["n"] == 2


@given(cut=st.integers(0, 600), tail=st.sampled_from([b"", b"\n", b"\x00\x00\x00", b'{"key": "z"', b"garbage\n", "é".encode()[:1]]))
def test_a_torn_end_loses_that_task_and_nothing_before_or_after(tmp_path_factory, cut, tail):
    root = tmp_path_factory.mktemp("torn")
    (root / "work").mkdir()
    ledger = opened(root)
    for key in "abcd":
        ledger.commit(key, "step", committed(root, key))
    ledger.close()
    path = root / "work" / "ledger.jsonl"
    whole = path.read_bytes()
    left = whole[:cut] + tail
    path.write_bytes(left)
    lines = whole.splitlines(keepends=True)
    complete = {json.loads(line).get("key") for line in left.splitlines(keepends=True) if line in lines}
    ledger = opened(root)
    assert {key for key in "abcd" if ledger.find(key)} == complete & set("abcd")
    ledger.commit("e", "step", committed(root, "e"))
    ledger.close()
    assert {key for key in "abcde" if opened(root).find(key)} == complete & set("abcd") | {"e"}


@pytest.mark.parametrize("new", ["elsewhere", "out2", "o", "o'u\"t \\ é"])
def test_a_folder_that_was_moved_as_a_whole_keeps_its_tasks(root, new):
    ledger = opened(root)
    for number in range(3):
        ledger.commit(f"task-{number}", "step", committed(root, f"task-{number}", parts=[{"path": str(root / "work" / "p")}]))
    ledger.forget("task-2")
    ledger.close()
    moved = root.parent / new
    root.rename(moved)
    for _ in range(2):
        ledger = opened(moved)
        assert ledger.find("task-0")["parts"] == [{"path": str(moved / "work" / "p")}]
        assert ledger.find("task-1") is not None
        assert ledger.find("task-2") is None
        ledger.commit("later", "step", committed(moved, "later"))
        ledger.close()
    assert opened(moved).find("later") is not None


def test_a_move_changes_paths_below_the_folder_and_nothing_that_only_looks_like_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/work").mkdir(parents=True)
    ledger = Ledger("out/work/ledger.jsonl", "out")
    ledger.commit("a", "step", {"outputs": ["out/work"], "first_bad": ["layout/x.jsonl at 3: bad", "see out/x"]})
    ledger.close()
    (tmp_path / "out").rename(tmp_path / "new")
    found = Ledger("new/work/ledger.jsonl", "new").find("a")
    assert found == {"outputs": ["new/work"], "first_bad": ["layout/x.jsonl at 3: bad", "see out/x"]}


def test_keys_differ_where_their_values_do_and_do_not_depend_on_the_order_of_mappings():
    assert task_key("a", {"x": 1, "y": 2}) == task_key("a", {"y": 2, "x": 1})
    values = [("a", "b"), ("ab",), ("a", ["b"]), ("a", None), ("a", 1), ("a", "1"), ("a", 1.5), (), ("\udcff",), ("a", True)]
    assert len({task_key(*value) for value in values}) == len(values)
