"""A run that was stopped, killed or finished goes on where it was; what changed since is done again, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time

import psutil
import pytest

from curation import storage
from curation.engine import run, run_folder

REST = "output: {split: {validation: 0.05}, file_bytes: 1048576}\n"
STAGES = """\
  - normalize: {scheme: nfc}
  - length: {minimum_characters: 60}
  - exact
  - minhash: {permutations: 1024, bands: 32, rows: 32, verify: exact, threshold: 0.7}
"""
FOLDERS = [f"{source}/{folder}" for source in "bac" for folder in "pqrstuvwxyz"]
N_KILLS = 5


@pytest.fixture(scope="module")
def large(tmp_path_factory, make_bench, mixed_texts):
    """Some 2 MB in 33 units."""
    bench = make_bench(tmp_path_factory.mktemp("large"))
    bench.write_files(mixed_texts(23, 700, 150), sorted(f"{folder}/{n}.jsonl" for folder in FOLDERS for n in range(2)))
    return bench


@pytest.fixture(scope="module")
def whole(large):
    """The hashes of an uninterrupted run, and the number of its tasks."""
    report = large.run("whole", large.recipe(STAGES, rest=REST))
    assert report["tasks"] == {"planned": report["tasks"]["run"], "run": len(large.ledger("whole")), "reused": 0}
    return large.hashes("whole", samples=True), report["tasks"]["planned"]


@pytest.fixture
def started(large):
    """Start the command; whatever it leaves running is killed."""
    processes = []

    def start(output, *options):
        processes.append(large.start(output, large.recipe(STAGES, rest=REST), *options))
        return processes[-1]

    yield start
    for process in processes:
        kill_all(process)


def kill_all(process):
    """SIGKILL to the command's process group and to what else it started."""
    others = []
    with contextlib.suppress(psutil.Error):
        others = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in others:
        with contextlib.suppress(psutil.Error):
            other.kill()
    psutil.wait_procs(others, timeout=10)
    process.wait()


def wait_for_tasks(bench, output, process, n_tasks):
    """Wait until the ledger has so many tasks, or the process is over."""
    while len(bench.ledger(output)) < n_tasks and process.poll() is None:
        time.sleep(0.002)


def test_a_job_killed_anywhere_redoes_at_most_what_was_in_flight(large, whole, started):
    hashes, n_tasks = whole
    source = random.Random(11)
    killed = 0
    for attempt in range(N_KILLS):
        output = f"killed-{attempt}"
        process = started(output, "--executor", "inline")
        wait_for_tasks(large, output, process, source.randrange(1, n_tasks - 4))
        killed += process.poll() is None
        kill_all(process)
        done = len(large.ledger(output))
        report = large.run(output, large.recipe(STAGES, rest=REST))
        if not report["already_complete"]:
            assert report["tasks"] == {"planned": n_tasks, "run": n_tasks - done, "reused": done}
        assert large.hashes(output, samples=True) == hashes
        assert [path.name for path in (large.folder / output).rglob("*.tmp")] == []
    assert killed >= N_KILLS - 1


def test_a_job_on_ray_killed_twice_goes_on_under_another_executor(large, whole, started):
    hashes, n_tasks = whole
    process = started("ray", "--workers", "2")
    wait_for_tasks(large, "ray", process, 8)
    assert process.poll() is None, process.communicate()
    kill_all(process)
    first = len(large.ledger("ray"))
    process = started("ray", "--executor", "inline")
    wait_for_tasks(large, "ray", process, first + 7)
    kill_all(process)
    second = len(large.ledger("ray"))
    assert second > first >= 8
    report = large.run("ray", large.recipe(STAGES, rest=REST))
    assert report["tasks"] == {"planned": n_tasks, "run": n_tasks - second, "reused": second}
    assert large.hashes("ray", samples=True) == hashes


@pytest.mark.parametrize(
    ("signal_number", "options"),
    [(signal.SIGINT, ("--executor", "inline")), (signal.SIGTERM, ("--executor", "inline")), (signal.SIGTERM, ("--workers", "2"))],
)
def test_a_signal_in_the_middle_of_the_work_exits_with_130_and_the_command_that_goes_on(
    large, whole, started, signal_number, options
):
    output = f"stopped-{signal_number}-{options[1]}"
    process = started(output, *options)
    wait_for_tasks(large, output, process, 5)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "to go on: " in errors
    assert f"--output {large.folder / output}" in errors
    assert "Traceback" not in errors
    assert not (large.folder / output / ".lock").exists()
    done = len(large.ledger(output))
    assert 5 <= done < whole[1]
    report = large.run(output, large.recipe(STAGES, rest=REST))
    assert report["tasks"]["reused"] == done
    assert large.hashes(output, samples=True) == whole[0]


def interrupted_after(monkeypatch, n_moves):
    """Let publishing stop after some moves, as a kill would."""
    moved: list[str] = []

    def move(source, path):
        if len(moved) == n_moves:
            raise KeyboardInterrupt
        moved.append(path)
        storage_move(source, path)

    storage_move = storage.move
    monkeypatch.setattr(run_folder.storage, "move", move)


@pytest.mark.parametrize("n_moves", [0, 1, 4, 7, 9])
@pytest.mark.parametrize("move_folder", [False, True])
def test_a_kill_during_publishing_loses_nothing(small, n_moves, move_folder, monkeypatch):
    recipe = small.recipe(STAGES, rest=REST)
    small.run("whole", recipe)
    small.run("out", recipe, {"length.minimum_characters": 300})
    assert small.hashes("out", samples=True) != small.hashes("whole", samples=True)
    with monkeypatch.context() as patched:
        interrupted_after(patched, n_moves)
        with contextlib.suppress(KeyboardInterrupt):
            small.run("out", recipe)
    stopped = json.loads((small.folder / "out/run.json").read_text())
    assert stopped["status"] == ("publishing" if n_moves < len(small.hashes("whole", samples=True)) else "complete")
    output = "out"
    if move_folder:
        (small.folder / "out").rename(small.folder / "moved")
        output = "moved"
    report = small.run(output, recipe)
    assert report["already_complete"]
    assert report["documents"]["kept"] == len(small.rows(output, "documents"))
    assert small.hashes(output, samples=True) == small.hashes("whole", samples=True)
    assert not (small.folder / output / ".staging").exists()
    assert json.loads((small.folder / output / "run.json").read_text())["status"] == "complete"


def state(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_started_again_says_so_and_changes_nothing(small):
    recipe = small.recipe(STAGES, rest=REST)
    first = small.run("out", recipe)
    before = state(small.folder / "out")
    again = small.run("out", recipe)
    assert again == {**json.loads(json.dumps(first)), "already_complete": True}
    assert state(small.folder / "out") == before
    shutil.rmtree(small.folder / "out/work")
    assert small.run("out", recipe)["already_complete"]


def test_a_lost_result_is_made_again(small):
    recipe = small.recipe(STAGES, rest=REST)
    small.run("out", recipe)
    hashes = small.hashes("out", samples=True)
    next((small.folder / "out/removed").iterdir()).unlink()
    report = small.run("out", recipe)
    assert not report["already_complete"]
    assert small.hashes("out", samples=True) == hashes
    for path in (small.folder / "out/work").rglob("*.arrays"):
        if path.parent.name in ("first", "decisions"):
            path.unlink()
    next((small.folder / "out/duplicates").iterdir()).unlink()
    small.run("out", recipe)
    assert small.hashes("out", samples=True) == hashes


def n_units(bench, output):
    """Lines of the ledger about units of the first pass."""
    return sum(entry["step"] == "first pass" for entry in bench.ledger(output))


def test_a_file_added_to_the_input_leaves_the_other_units_valid(small, mixed_texts):
    recipe = small.recipe(STAGES, rest=REST)
    small.run("out", recipe)
    before = n_units(small, "out")
    assert before == 6
    small.write("a/m/0.jsonl", mixed_texts(3, 20))
    report = small.run("out", recipe)
    assert n_units(small, "out") == before + 1
    assert report["tasks"]["reused"] == before
    small.run("fresh", recipe)
    assert small.hashes("out", samples=True) == small.hashes("fresh", samples=True)


def test_a_file_taken_out_of_the_input_leaves_the_other_units_valid(small):
    recipe = small.recipe(STAGES, rest=REST)
    small.run("out", recipe)
    (small.input / "b/x/1.jsonl").unlink()
    report = small.run("out", recipe)
    assert report["tasks"]["reused"] == 5
    small.run("fresh", recipe)
    assert small.hashes("out", samples=True) == small.hashes("fresh", samples=True)


def test_a_touched_file_with_the_same_bytes_is_reused(small):
    recipe = small.recipe(STAGES, rest=REST)
    planned = small.run("out", recipe)["tasks"]["planned"]
    hashes = small.hashes("out", samples=True)
    os.utime(small.input / "a/1.jsonl", ns=(1, 1))
    report = small.run("out", recipe)
    assert not report["already_complete"]
    assert report["tasks"] == {"planned": planned, "run": 5, "reused": planned - 5}  # second pass, samples, index three times
    assert small.hashes("out", samples=True) == hashes
    assert small.run("out", recipe)["already_complete"]


@pytest.mark.parametrize("limit", [None, 2])
def test_other_bytes_of_the_same_size_are_read_again(bench, document, limit):
    """The change alters decisions, not only texts: they are made anew, too."""
    source = random.Random(3)
    first, other = document(source, 8), document(source, 8)
    recipe = bench.recipe("  - length: {minimum_characters: 0}\n  - exact\n")
    bench.write("a/1.jsonl", [first, other.ljust(len(first))[: len(first)]])
    bench.run("out", recipe, limit=limit)
    assert bench.rows("out", "removed") == []
    bench.write("a/1.jsonl", [first, first])
    os.utime(bench.input / "a/1.jsonl", ns=(7, 7))
    report = bench.run("out", recipe, limit=limit)
    assert report["documents"] == {"in": 2, "kept": 1, "removed": 1, "quarantined": 0}
    bench.run("fresh", recipe, limit=limit)
    assert bench.hashes("out", samples=True) == bench.hashes("fresh", samples=True)


def test_a_file_that_could_not_be_read_is_read_once_it_can(small, monkeypatch):
    recipe = small.recipe(STAGES, rest=REST)
    path = small.input / "a/2.jsonl"
    original = run.first_pass

    def without_rights(task):
        from curation import formats

        def read(piece, *arguments, **options):
            if piece.path == str(path):
                raise PermissionError(13, "Permission denied", piece.path)
            return reader(piece, *arguments, **options)

        reader = formats.read
        with monkeypatch.context() as patched:
            patched.setattr(formats, "read", read)
            return original(task)

    with monkeypatch.context() as patched:
        patched.setattr(run, "first_pass", without_rights)
        report = small.run("out", recipe, {"max_bad_fraction": 1})
    assert report["documents"]["quarantined"] == 1
    report = small.run("out", recipe, {"max_bad_fraction": 1, "length.minimum_characters": 60, "output.file_bytes": 2**21})
    assert report["documents"]["quarantined"] == 0
    small.run("fresh", recipe)
    assert small.hashes("out", samples=True) == small.hashes("fresh", samples=True)


def test_input_or_folder_moved_as_a_whole_is_reused(small):
    recipe = small.recipe(STAGES, rest=REST)
    small.run("out", recipe)
    hashes = small.hashes("out", samples=True)
    small.input.rename(small.folder / "other place")
    report = small.run("out", recipe, input_path=small.folder / "other place")
    assert report["already_complete"]
    (small.folder / "out").rename(small.folder / "out2")
    report = small.run("out2", recipe, input_path=small.folder / "other place")
    assert report["already_complete"]
    report = small.run("out2", recipe, {"output.file_bytes": 2**21}, input_path=small.folder / "other place")
    steps = [entry["step"] for entry in small.ledger("out2")]
    assert report["tasks"]["reused"] == steps.count("moved") - steps.count("second pass") - 4  # samples, index three times
    assert small.hashes("out2", samples=True) == hashes


def test_a_killed_run_moved_as_a_whole_redoes_nothing(large, whole, started):
    hashes, n_tasks = whole
    process = started("before", "--executor", "inline")
    wait_for_tasks(large, "before", process, n_tasks - 6)
    kill_all(process)
    done = len(large.ledger("before"))
    (large.folder / "before").rename(large.folder / "after")
    report = large.run("after", large.recipe(STAGES, rest=REST))
    if not report["already_complete"]:
        assert report["tasks"] == {"planned": n_tasks, "run": n_tasks - done, "reused": done}
    assert large.hashes("after", samples=True) == hashes


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        ({"minhash.threshold": 0.9}, {"minhash: components", "minhash: gather texts", "minhash: compare", "minhash: decide"}),
        ({"minhash.keep": "longest"}, {"minhash: components", "minhash: gather texts", "minhash: compare", "minhash: decide"}),
        ({"minhash.verify": "none"}, {"minhash: components"}),
        ({"output.format": "jsonl.zst"}, set()),
        ({"minhash.bands": 16}, {"first pass", "exact: shuffle", "exact: components", "minhash: shuffle"}),
        ({"length.minimum_characters": 200}, {"first pass", "exact: shuffle", "exact: components", "minhash: shuffle"}),
    ],
)
def test_a_changed_setting_reruns_its_stage_and_what_follows(small, changed, steps):
    recipe = small.recipe(STAGES, rest=REST)
    small.run("out", recipe)
    before = len(small.ledger("out"))
    small.run("out", recipe, changed)
    ran = {entry["step"] for entry in small.ledger("out")[before:]}
    always = {"second pass", "samples", "index removed", "index duplicates", "index edited"}
    assert steps | always <= ran
    if "first pass" not in steps:
        assert ran == steps | always
    small.run("fresh", recipe, changed)
    assert small.hashes("out", samples=True) == small.hashes("fresh", samples=True)


def test_a_changed_first_stage_makes_the_edges_of_a_second_anew(bench, document):
    """What the first stage keeps decides which documents still connect others in the second."""
    source = random.Random(3)
    long, other = document(source, 12), document(source, 6)
    bench.write("a/1.jsonl", [long, long + " " + other[:200], other[:200] + " " + other, "lone"])
    stages = "  - minhash: {as: strict, bands: 40, rows: 3}\n  - minhash: {as: loose, bands: 128, rows: 1}\n"
    recipe = bench.recipe(stages)
    for settings in ({}, {"strict.keep": "longest"}, {"strict.keep": "first"}):
        bench.run("out", recipe, settings)
        bench.run("fresh", recipe, settings, fresh=True)
        assert bench.hashes("out", samples=True) == bench.hashes("fresh", samples=True)


def test_going_back_to_an_earlier_setting_gives_the_earlier_bytes(small):
    recipe = small.recipe(STAGES, rest=REST)
    small.run("out", recipe)
    hashes = small.hashes("out", samples=True)
    small.run("out", recipe, {"minhash.threshold": 0.95, "output.format": "jsonl.zst"})
    assert small.hashes("out", samples=True) != hashes
    report = small.run("out", recipe)
    assert small.hashes("out", samples=True) == hashes
    assert report["tasks"]["run"] <= 4 + len(list((small.folder / "out/documents/train").iterdir()))


def test_a_limit_takes_the_first_of_each_source_in_rank_order_and_is_never_continued(small):
    recipe = small.recipe("  - exact\n", rest=REST)
    report = small.run("limited", recipe, limit=30)
    assert report["limit"] == 30
    assert json.loads((small.folder / "limited/run.json").read_text())["limit"] == 30
    taken = [row["id"] for name in ("documents", "removed") for row in small.rows("limited", name)]
    expected = [key for source in "abc" for key in [k for k in small.texts() if k.startswith(f"{source}/")][:30]]
    assert sorted(taken) == sorted(expected)
    with pytest.raises(ValueError, match=r"with --limit 30, not over the whole input; .*--fresh"):
        small.run("limited", recipe)
    with pytest.raises(ValueError, match=r"with --limit 30, not with --limit 31"):
        small.run("limited", recipe, limit=31)
    assert small.run("limited", recipe, limit=30)["already_complete"]
    small.run("limited", recipe, fresh=True)
    small.run("full", recipe)
    assert small.hashes("limited", samples=True) == small.hashes("full", samples=True)
    with pytest.raises(ValueError, match="over the whole input, not with --limit 30"):
        small.run("full", recipe, limit=30)


def test_a_limit_larger_than_the_input_takes_everything(small):
    recipe = small.recipe(STAGES, rest=REST)
    small.run("limited", recipe, limit=10**6)
    small.run("full", recipe)
    for name in ("documents", "removed", "duplicates", "quarantine"):
        assert small.rows("limited", name) == small.rows("full", name)


def test_a_second_process_is_refused_by_name_while_the_first_runs(large, started):
    first = started("shared", "--executor", "inline")
    wait_for_tasks(large, "shared", first, 1)
    first.send_signal(signal.SIGSTOP)  # so that it is not over before the second has looked
    assert first.poll() is None
    second = started("shared", "--executor", "inline")
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2, errors
    assert f"in use by process {first.pid} on {os.uname().nodename}" in errors
    kill_all(first)
    third = started("shared", "--executor", "inline")
    _, errors = third.communicate(timeout=120)
    assert third.returncode == 0, errors
