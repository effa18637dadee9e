"""One run at a time in a folder, whatever an earlier one left."""

import json
import os
import socket
import subprocess
import sys

import psutil
import pytest

from curation.engine.lock import LOCK_NAME, locked

HOLD = """
import sys, time
from curation import storage
from curation.engine.lock import locked
delete = storage.delete
storage.delete = lambda path: (time.sleep(0.3), delete(path))  # whoever looks at a stale lock acts on it late
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(directory):
    """A process that tries to hold the lock until its standard input is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )


def test_a_lock_is_gone_after_its_block_even_when_that_fails(tmp_path):
    with locked(str(tmp_path / "out")):
        assert (tmp_path / "out" / LOCK_NAME).exists()
    assert not (tmp_path / "out" / LOCK_NAME).exists()
    with pytest.raises(KeyboardInterrupt), locked(str(tmp_path / "out")):
        raise KeyboardInterrupt
    assert not (tmp_path / "out" / LOCK_NAME).exists()


def test_a_second_process_is_refused_with_the_host_and_process_of_the_first_until_that_is_dead(tmp_path):
    process = holder(tmp_path)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {process.pid} on {socket.gethostname()}"), locked(str(tmp_path)):
            pass
        assert (tmp_path / LOCK_NAME).exists()
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / LOCK_NAME).exists()
    with locked(str(tmp_path)):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("stale", [b"", b"{", b'{"host": "', "another process, the same number"])
def test_a_lock_that_was_torn_or_whose_process_number_was_given_away_is_taken_over(tmp_path, stale):
    if isinstance(stale, str):
        mine = psutil.Process(os.getpid())
        stale = json.dumps({"host": socket.gethostname(), "pid": mine.pid, "started": mine.create_time() - 1000}).encode()
    (tmp_path / LOCK_NAME).write_bytes(stale)
    with locked(str(tmp_path)):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()


def test_a_lock_of_another_host_is_never_taken_over_and_the_remedy_is_named(tmp_path):
    (tmp_path / LOCK_NAME).write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0}))
    remedy = r"process 1 on elsewhere; if that run is surely gone, delete .*\.lock"
    with pytest.raises(ValueError, match=remedy), locked(str(tmp_path)):
        pass
    assert json.loads((tmp_path / LOCK_NAME).read_text())["host"] == "elsewhere"


def test_of_many_that_start_at_once_over_a_stale_lock_one_gets_it(tmp_path):
    (tmp_path / LOCK_NAME).write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1, "started": 0.0}))
    processes = [holder(tmp_path) for _ in range(5)]
    # Those that were refused end by themselves; the one that holds the lock says so and waits.
    held = [process for process in processes if process.stdout.readline() == "held\n"]
    errors = [process.communicate()[1] for process in processes if process not in held]
    assert len(held) == 1
    assert all(f"in use by process {held[0].pid}" in error for error in errors)
    held[0].communicate()
    assert held[0].returncode == 0
    assert not (tmp_path / LOCK_NAME).exists()
