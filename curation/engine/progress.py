"""What a run shows while it works: bars on a terminal, plain lines elsewhere, and the same lines in a log file.

A bar stands for one step of the run. Lines hold no control characters and come at most every ten seconds, so that the
log of a day's run can be read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Step:
    """Counts of a step so far; `raw_bytes_total` is an estimate, or None where bytes say nothing."""

    name: str
    tasks_total: int
    raw_bytes_total: int | None
    started: float
    tasks: int = 0
    reused: int = 0
    documents: int = 0
    raw_bytes: int = 0
    raw_bytes_reused: int = 0
    documents_reused: int = 0

    @property
    def share(self) -> float:
        """The part that is done, 0 to 1."""
        if self.tasks >= self.tasks_total:
            return 1.0
        if self.raw_bytes_total:
            return min(self.raw_bytes / self.raw_bytes_total, 0.99)  # the total is an estimate, the tasks are not
        return self.tasks / self.tasks_total

    def seconds_left(self, now: float) -> float | None:
        """From the pace of this run alone: what an earlier run left took no time now. None before anything is done."""
        if self.share >= 1:
            return 0.0
        total, reused = self.tasks_total, self.reused
        if self.raw_bytes_total:
            total, reused = self.raw_bytes_total, self.raw_bytes_reused
        done = self.share - reused / total
        return (now - self.started) * (1 - self.share) / done if done > 0 else None

    def rates(self, now: float) -> tuple[float, float]:
        """Documents and raw bytes a second of what this run did itself."""
        seconds = max(now - self.started, 1e-3)
        return (self.documents - self.documents_reused) / seconds, (self.raw_bytes - self.raw_bytes_reused) / seconds

    def describe(self, now: float) -> str:
        """Everything but the name, for a line.

        >>> step = Step("first pass", 4, 4_000_000, 0.0, tasks=1, documents=500, raw_bytes=1_000_000)
        >>> step.describe(2.0)
        '1 of 4 tasks, 500 documents, 250 documents/s, 0.5 MB/s, 0:06 left'
        """
        tasks = f"{self.tasks:,} of {_tasks(self.tasks_total)}"
        if self.reused:
            tasks += f" ({self.reused:,} from before)"
        counted = [f"{self.documents:,} documents"] if self.documents else []
        return ", ".join([tasks, *counted, *self._pace(now)])

    def describe_briefly(self, now: float) -> str:
        """What fits beside a bar in 80 columns: the pace, or the tasks where there is none."""
        return ", ".join(self._pace(now)) or f"{self.tasks:,} of {_tasks(self.tasks_total)}"

    def _pace(self, now: float) -> list[str]:
        documents, raw_bytes = self.rates(now)
        left = self.seconds_left(now)
        parts = []
        if documents > 0:
            parts.append(f"{documents:,.0f} documents/s")
        if raw_bytes > 0:
            parts.append(f"{raw_bytes / 1e6:,.1f} MB/s")
        if left:
            parts.append(f"{duration(left)} left")
        return parts


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(75), duration(3 * 3600 + 61)
    ('1:15', '3:01:01')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Progress:
    """Shows steps on `console` (standard error unless given): bars where it is a terminal or a notebook with widgets, else lines.

    `quiet` shows nothing; a log file gets its lines all the same. `clock` gives seconds, for tests.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        quiet: bool = False,
        log_path: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if console is None and not quiet:
            from rich.console import Console

            console = Console(stderr=True)
        self.worked = False  # a task of this run was done: what goes wrong from here on is no usage error
        self._console = None if quiet else console
        self._clock = clock
        self._live = (
            self._console is not None
            and not self._console.is_dumb_terminal
            and (self._console.is_terminal or (self._console.is_jupyter and _notebook_has_widgets()))
        )
        self._bars: Bars | None = None
        self._bar: TaskID | None = None
        self._step: Step | None = None
        self._last_line = float("-inf")
        self._log: IO[str] | None = None
        self._unlogged: list[str] = []  # lines from before the log had a place
        if log_path is not None:
            self.attach_log(log_path)

    def attach_log(self, path: str | None) -> None:
        """Append all further lines, and those since the start, to the local file `path`; None: there will be no log."""
        if self._log is not None:
            self._log.close()
        path = path or os.devnull
        self._log = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - open as long as the run
        waiting, self._unlogged = self._unlogged, []
        self._write_log(waiting)

    @contextmanager
    def step(self, name: str, tasks: int, raw_bytes: int | None = None) -> Iterator[None]:
        """A step of `tasks` tasks over an estimated `raw_bytes` decompressed bytes; `advance` inside it."""
        step = Step(name, tasks, raw_bytes, self._clock())
        self._step = step
        self._line(f"{name}: {_tasks(tasks)}" + (f", about {raw_bytes / 1e6:,.1f} MB" if raw_bytes else ""))
        if self._live:
            self._bar = self._open_bars().add_task(name, total=1.0, pace="")
        finished = False
        try:
            yield
            finished = True
        finally:
            self._step = None
            seconds = duration(self._clock() - step.started)
            state = f"done in {seconds}" if finished else f"stopped after {seconds}"
            now = self._clock()
            if self._bars is not None and self._bar is not None:
                completed = 1.0 if finished else step.share
                self._bars.update(self._bar, completed=completed, pace=f"{state}, {step.describe_briefly(now)}")
                self._bar = None
            self._line(f"{name}: {step.describe(now)}, {state}")

    def advance(self, tasks: int = 1, documents: int = 0, raw_bytes: int = 0, reused: bool = False) -> None:
        """Count finished tasks of the current step; `reused` ones were done by an earlier run."""
        step = self._step
        if step is None:
            return
        step.tasks += tasks
        step.documents += documents
        step.raw_bytes += raw_bytes
        if reused:
            step.reused += tasks
            step.documents_reused += documents
            step.raw_bytes_reused += raw_bytes
        else:
            self.worked = True
        now = self._clock()
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, completed=step.share, pace=step.describe_briefly(now))
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._line(f"{step.name}: {step.describe(now)}")

    def note(self, message: str) -> None:
        """Say something once, for example that kernels are being compiled."""
        if self._live and self._console is not None:
            from rich.text import Text

            self._console.print(Text(printable(message)))
        self._line(message)

    def log(self, message: str) -> None:
        """Write to the log file only; line breaks stay."""
        self._write_log([_stamped(line) for line in message.splitlines()])

    def close(self) -> None:
        """Stop the bars and close the log; a second call does nothing."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()
            self._log = None

    def _open_bars(self) -> Bars:
        if self._bars is None:
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bars

            columns = [
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=14),
                TaskProgressColumn(),
                TextColumn("{task.fields[pace]}", markup=False, style="dim"),
            ]
            self._bars = Bars(*columns, console=self._console)
            self._bars.start()
        return self._bars

    def _line(self, message: str) -> None:
        self._last_line = self._clock()
        message = printable(message)
        if self._console is not None and not self._live:
            with contextlib.suppress(OSError):  # standard error may be closed; the run goes on
                print(message, file=self._console.file, flush=True)
        self._write_log([_stamped(message)])

    def _write_log(self, lines: list[str]) -> None:
        if self._log is None:
            self._unlogged.extend(lines)
            return
        with contextlib.suppress(OSError):  # a full disk stops the run by itself, and says so
            self._log.writelines(f"{line}\n" for line in lines)
            self._log.flush()


def _notebook_has_widgets() -> bool:
    """Whether bars can move in a notebook; lines are printed below a cell in any."""
    return importlib.util.find_spec("ipywidgets") is not None


def _tasks(n: int) -> str:
    return f"{n:,} task" if n == 1 else f"{n:,} tasks"


def _stamped(line: str) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(line)}"


def printable(text: str) -> str:
    r"""`text` without what moves a terminal's cursor or reorders a line: control, format and surrogate characters.

    >>> printable("a\x1b[31mb\tc\u202ed")
    'a[31mb cd'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text)
