"""Progress: bars where someone looks, readable lines where nobody does, and no control characters in a log."""

import io
import os

import pytest
from rich.console import Console

from curation.engine.progress import Progress, Step


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def lines_of(out):
    return out.getvalue().splitlines()


def test_lines_come_at_the_start_at_the_end_and_at_most_every_ten_seconds(clock):
    out = io.StringIO()
    progress = Progress(Console(file=out), clock=clock)
    with progress.step("first pass", 100, 100_000_000):
        for _ in range(100):
            clock.now += 0.5
            progress.advance(documents=10, raw_bytes=1_000_000)
    progress.close()
    lines = lines_of(out)
    assert len(lines) == 1 + 5 + 1
    assert lines[0] == "first pass: 100 tasks, about 100.0 MB"
    assert lines[1] == "first pass: 20 of 100 tasks, 200 documents, 20 documents/s, 2.0 MB/s, 0:40 left"
    assert lines[-1] == "first pass: 100 of 100 tasks, 1,000 documents, 20 documents/s, 2.0 MB/s, done in 0:50"


def test_lines_hold_no_control_characters_whatever_a_note_or_a_name_holds(clock, tmp_path):
    out = io.StringIO()
    progress = Progress(Console(file=out), clock=clock, log_path=str(tmp_path / "log.txt"))
    with progress.step("\x1b[2Jevil\u202e", 1):
        progress.note("a\rb\x07\ud800")
        progress.log("Traceback\n  line \x1b[31m")
    progress.close()
    for text in (out.getvalue(), (tmp_path / "log.txt").read_text()):
        assert all(character.isprintable() or character == "\n" for character in text)


def test_the_log_gets_what_was_shown_before_it_had_a_place_and_survives_a_second_run(clock, tmp_path):
    path = tmp_path / "log.txt"
    for _ in range(2):
        progress = Progress(quiet=True, clock=clock)
        progress.note("compiling")
        progress.attach_log(str(path))
        with progress.step("first pass", 1):
            progress.advance()
        progress.log("only here")
        progress.close()
        progress.close()
    logged = path.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in logged] == 2 * [
        "compiling", "first pass: 1 task", "first pass: 1 of 1 task, done in 0:00", "only here",
    ]  # fmt: skip


def test_a_step_that_fails_says_that_it_stopped(clock):
    out = io.StringIO()
    progress = Progress(Console(file=out), clock=clock)
    with pytest.raises(RuntimeError), progress.step("first pass", 4):
        progress.advance()
        raise RuntimeError
    assert lines_of(out)[-1] == "first pass: 1 of 4 tasks, stopped after 0:00"
    assert progress.worked


def test_a_run_that_only_found_earlier_work_did_not_work(clock):
    progress = Progress(quiet=True, clock=clock)
    with progress.step("first pass", 4):
        progress.advance(4, 100, 1000, reused=True)
    assert not progress.worked


def test_reused_tasks_count_as_done_but_neither_for_the_rate_nor_for_the_time_left():
    step = Step("s", 10, 1000, started=0.0, tasks=6, reused=4, documents=60, raw_bytes=600)
    step.documents_reused, step.raw_bytes_reused = 40, 400
    assert step.share == 0.6
    assert step.rates(2.0) == (10.0, 100.0)
    assert step.seconds_left(2.0) == pytest.approx(4.0)  # 0.2 in two seconds, 0.4 to go


def test_a_step_is_complete_only_with_its_last_task_however_wrong_the_estimated_bytes_are():
    step = Step("s", 10, 1000, started=0.0, tasks=9, raw_bytes=5000)
    assert step.share < 1
    step.tasks = 10
    assert step.share == 1
    assert Step("empty", 0, None, 0.0).share == 1


def test_on_a_terminal_each_step_has_a_bar_with_rates_that_fits_80_columns(clock):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    progress = Progress(console, clock=clock)
    for name in ("first pass", "minhash: components"):
        with progress.step(name, 4, 400_000_000):
            for _ in range(4):
                clock.now += 2
                progress.advance(documents=1000, raw_bytes=100_000_000)
            progress.note("[red]plain[/red]")
    progress.close()
    shown = out.getvalue()
    assert "minhash: components" in shown
    assert "50.0 MB/s" in shown
    assert "[red]plain[/red]" in shown
    assert "4 of 4 tasks" not in shown  # that is for lines


def test_a_terminal_that_knows_no_control_sequences_gets_lines(clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=True), clock=clock)
    with progress.step("first pass", 1):
        progress.advance()
    progress.close()
    assert lines_of(out) == ["first pass: 1 task", "first pass: 1 of 1 task, done in 0:00"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_full_disk_under_the_log_does_not_hide_what_the_run_says(clock, tmp_path):
    progress = Progress(quiet=True, clock=clock, log_path="/dev/full")
    with progress.step("first pass", 1):
        progress.advance()
    progress.close()


@pytest.mark.parametrize(("widgets", "lines"), [(None, True), (object(), False)])
def test_a_notebook_without_widgets_gets_lines(monkeypatch, widgets, lines):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: widgets)
    file = io.StringIO()
    progress = Progress(Console(file=file, force_jupyter=True))
    progress.note("kernels are being compiled")
    assert ("kernels are being compiled\n" in file.getvalue()) == lines
