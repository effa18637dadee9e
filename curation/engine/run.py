"""The driver: from a recipe to a finished folder. It plans, hands out tasks, keeps the ledger, and never holds documents.

  first pass   a task a unit of input: read, run the stages, leave keys and a few bytes a document
  shuffle      for each global stage: edges by partition, components, perhaps verification, decisions
  second pass  a task an output file: read again, write what stays, record what goes
  publish      small files joined, removed/ and duplicates/ indexed, everything moved into place, the page rendered
"""

from __future__ import annotations

import errno
import shlex
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from curation import storage
from curation.engine import preflight
from curation.engine.executor import available_cpus
from curation.engine.first_pass import first_pass, piece_digests
from curation.engine.global_steps import GlobalSteps
from curation.engine.inputs import Inputs, number_inputs
from curation.engine.ledger import task_key
from curation.engine.lock import locked
from curation.engine.output_steps import OutputSteps, document_columns, sample_files
from curation.engine.part_writer import FirstPassTask
from curation.engine.plan import Plan, Unit, columns_of, keep_columns, limited, make_plan
from curation.engine.progress import Progress
from curation.engine.quarantine import TooManyBadRecordsError, check_bad_fraction, write_quarantine
from curation.engine.recipe import Recipe
from curation.engine.run_folder import (
    DERIVED,
    FORMAT_VERSION,
    RunFolder,
    check_not_foreign,
    check_places,
    check_same_run,
    clean,
    describe_run,
    publish,
    results_are_there,
)
from curation.engine.task_runner import TaskRunner
from curation.report import PAGE, render
from curation.report.build import build_report
from curation.stages.minhash import MinHash

__all__ = ["RunOptions", "TooManyBadRecordsError", "clean", "plan_summary", "run_recipe"]

PART_BYTES = 64 * 2**20  # raw bytes of a part: what a first-pass task holds of its input at a time


@dataclass(frozen=True)
class RunOptions:
    """How to run; nothing here changes a byte of the output, except `limit`."""

    executor: str = "ray"
    address: str | None = None
    workers: int | None = None
    memory_per_worker_bytes: int | None = None
    work: str | None = None
    limit: int | None = None  # only the first documents of each source, in rank order
    fresh: bool = False

    @property
    def worker_bytes(self) -> int:
        """Memory that a worker may take."""
        return self.memory_per_worker_bytes or preflight.WORKER_BYTES

    @property
    def expected_workers(self) -> int:
        """Workers to plan for: an embedded Ray starts one a CPU."""
        return 1 if self.executor == "inline" else self.workers or available_cpus()


def plan_summary(plan: Plan, options: RunOptions, output: str = "out") -> dict[str, Any]:
    """What `curate plan` shows: files, tasks, memory, disk, requests; nothing is run."""
    folder = RunFolder.at(output, options.work)
    return preflight.estimate(plan, folder, options.expected_workers, options.worker_bytes)


def run_recipe(
    recipe: Recipe, input_path: str | None, output: str, options: RunOptions, progress: Progress
) -> dict[str, Any]:
    """Run, or go on with, a recipe in the folder `output`; the report, as report.json holds it.

    Raises ValueError for a user's mistake before anything ran, TooManyBadRecordsError past `max_bad_fraction`, OSError or
    RuntimeError when the run failed. The same command goes on where any of them, or a kill, stopped it.
    """
    started = time.monotonic()
    folder = RunFolder.at(output, options.work)
    check_places([*([input_path] if input_path else []), *(source.path for source in recipe.sources)], folder)
    # An input that grows keeps its units, so that what was read of it stays valid.
    unit_bytes = None if options.fresh else (folder.read("run.json") or {}).get("unit_bytes")
    plan = make_plan(recipe, input_path, unit_bytes)
    check_not_foreign(folder)
    work_lock = locked(folder.work) if folder.work_is_elsewhere else nullcontext()
    with _naming_full_disks(folder), locked(folder.output), work_lock:
        if options.fresh:
            folder.empty()
        earlier = folder.read("run.json")
        check_same_run(earlier, folder, plan, options.limit)
        if plan.streamed:
            progress.note(f"streamed sources are copied once, into {folder.work}: {', '.join(plan.streamed)}")
            plan = make_plan(recipe, input_path, unit_bytes, folder.work, options.limit)
        plan = limited(plan, options.limit)
        key = _run_key(plan, options.limit)
        for line in _remarks(plan, recipe):
            progress.note(line)
        if earlier is not None and earlier["status"] == "publishing":
            publish(folder)
            earlier = folder.read("run.json")
        if earlier is not None and _is_complete(earlier, key, folder, plan):
            report = folder.read("report.json")
            if report is not None:
                if not all(storage.exists(storage.join(folder.output, name)) for name in DERIVED):
                    report = _with_page(report, folder, progress)
                return {**report, "already_complete": True}
        needed = preflight.estimate(plan, folder, options.expected_workers, options.worker_bytes)
        warnings = [*preflight.check(needed, folder), *_idle_settings(recipe)]
        for place in (folder.work, folder.staging):
            storage.remove_temporaries(place)
        progress.attach_log(None if storage.is_remote(folder.output) else storage.join(folder.output, "log.txt"))
        description = describe_run(plan, input_path, options.limit, key, folder.work)
        runner = TaskRunner(folder, progress, options.executor, options.address, options.workers)
        try:
            report = _Driver(plan, options, runner).run(description, warnings, started)
        finally:
            runner.close()
        return _with_page(report, folder, progress)


def _with_page(report: dict[str, Any], folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Render the page and the card; a run is no less finished when that fails, so the report gets a warning then."""
    try:
        render(folder.output)
    except Exception as error:
        progress.log(traceback.format_exc())
        again = f"curate report {shlex.quote(folder.output)}"
        line = f"{PAGE} or the card could not be made, {type(error).__name__}: {error}; the run is complete, `{again}` makes them"
        return {**report, "warnings": [*report["warnings"], line]}
    return report


def _remarks(plan: Plan, recipe: Recipe) -> list[str]:
    """What a person should know of the input before hours of work."""
    remarks = []
    if not set(plan.sources) & {source.name for source in recipe.sources}:
        remarks.append(f"no file matches the recipe's sources: all files are read as one source, {', '.join(plan.sources)}")
    if plan.unmatched:
        n, first = len(plan.unmatched), plan.unmatched[0]
        remarks.append(f"{n:,} file{'s' if n > 1 else ''} of the input match no source and will not be read, the first: {first}")
    return remarks + _idle_settings(recipe)


def _idle_settings(recipe: Recipe) -> list[str]:
    stages = [(stage.name, stage.settings) for stage in recipe.built if isinstance(stage, MinHash)]
    return [f"{name}: {settings.remark}" for name, settings in stages if settings.remark]


def _run_key(plan: Plan, limit: int | None) -> str:
    """Names what a run does. Where input and code lie is no part of it: what was moved as a whole is the same."""
    recipe = plan.recipe.resolved()
    sources = [{**source, "path": None} for source in recipe["sources"]]
    stages = [{**stage, "file": None} for stage in recipe["stages"]]
    return task_key("run", [unit.key for unit in plan.units], {**recipe, "sources": sources, "stages": stages}, limit)


@contextmanager
def _naming_full_disks(folder: RunFolder) -> Iterator[None]:
    """Errors of writing seldom say where; nothing but these two folders is written to."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        places = folder.output if not folder.work_is_elsewhere else f"{folder.output} or of {folder.work}"
        raise OSError(
            error.errno, f"no space left on the disk of {places}; free some and start the same command again"
        ) from error


def _is_complete(earlier: dict[str, Any], key: str, folder: RunFolder, plan: Plan) -> bool:
    """Whether the folder holds this very run, finished: same work, files not touched since, results all there."""
    files = [[f.source, f.relative, f.info.size, f.info.etag, f.info.mtime_ns] for f in plan.files]
    return (
        earlier["status"] == "complete"
        and earlier["format_version"] == FORMAT_VERSION
        and earlier["key"] == key
        and earlier["input"]["files"] == files
        and results_are_there(earlier, folder)
    )


class _Driver:
    """One run."""

    def __init__(self, plan: Plan, options: RunOptions, runner: TaskRunner) -> None:
        self.plan, self.recipe, self.options, self.runner = plan, plan.recipe, options, runner
        self.columns = {name: columns_of(source) for name, source in plan.sources.items()}

    def run(self, description: dict[str, Any], warnings: list[str], started: float) -> dict[str, Any]:
        """All steps; the report."""
        folder = self.runner.folder
        folder.write("run.json", description)
        units = self._first_pass()
        inputs = number_inputs(self.plan, units, folder.work)
        self._check_bad(units, inputs)
        recipe = self.recipe
        steps = GlobalSteps(
            self.runner, recipe.built, inputs, self.columns, recipe.max_document_bytes, self.options.worker_bytes, recipe.seed
        )
        decided = steps.decide_all()
        output = OutputSteps(self.runner, recipe, inputs, self.columns, decided)
        written = output.second_pass()
        samples = output.samples(written)
        finished = [*output.finished_files(written), *sample_files(samples)]
        outputs = [file.entry() for file in finished]
        moves = [(storage.relative(file.staged, folder.output), file.path) for file in finished]
        report = build_report(
            plan=self.plan,
            units=units,
            decided=[(recipe.built[decision.index], decision.result) for decision in decided],
            written=written,
            samples=samples,
            input_path=description["input"]["path"],
            output=folder.output,
            outputs=outputs,
            warnings=warnings,
            tasks=self.runner.tasks,
            steps=self.runner.steps,
            raw_bytes_read=self.runner.raw_bytes_read,
            total_seconds=time.monotonic() - started,
            peak_memory=self.runner.peak_memory(),
            workers=self.runner.workers,
            limit=self.options.limit,
            format_version=FORMAT_VERSION,
        )
        folder.drop_derived()  # a page of the run before must not stand beside new results
        # From here on a kill costs nothing: the same command finishes the moves that run.json lists.
        folder.write("report.json", report)
        description |= {"columns": document_columns(written), "finished": datetime.now(UTC).isoformat(timespec="seconds")}
        folder.write("run.json", {**description, "status": "publishing", "moves": moves, "outputs": outputs})
        publish(folder)
        return report

    def _first_pass(self) -> list[dict[str, Any]]:
        self._forget_changed()
        tasks = [(unit.key, self._first_pass_task(unit)) for unit in self.plan.units]
        return self.runner.run("first pass", first_pass, tasks, [unit.raw_bytes for unit in self.plan.units])

    def _first_pass_task(self, unit: Unit) -> FirstPassTask:
        return FirstPassTask(
            unit=unit,
            stages=self.recipe.built,
            columns=self.columns[unit.source],
            output=self.runner.path("first", unit.key),
            part_bytes=PART_BYTES,
            maximum_document_bytes=self.recipe.max_document_bytes,
            seed=self.recipe.seed,
            shares={str(split): share for split, share in self.recipe.output.split.items()},
            keep_columns=keep_columns(self.recipe),
            limit=self.options.limit,
        )

    def _forget_changed(self) -> None:
        """Units whose files were touched since, or could not be read then, are read again unless their bytes are the same."""
        doubtful: list[tuple[Unit, dict[str, Any]]] = []
        for unit in self.plan.units:
            result = self.runner.ledger.find(unit.key)
            if result is None:
                continue
            modified = [file.info.mtime_ns for file in unit.files]
            touched = result["modified_ns"] != modified and not all(file.info.etag for file in unit.files)
            # A limited run reads no file to its end, so there is no digest to compare.
            if result["unreadable"] or (touched and not result["digests"]):
                self.runner.ledger.forget(unit.key)
            elif touched:
                doubtful.append((unit, {**result, "modified_ns": modified}))
        if not doubtful:
            return
        tasks = [self._first_pass_task(unit) for unit, _ in doubtful]
        with self.runner.progress.step("compare touched files", len(tasks)):
            for position, answer in self.runner.executor.map(piece_digests, tasks):
                unit, result = doubtful[position]
                if answer["digests"] == result["digests"]:
                    self.runner.ledger.commit(unit.key, "first pass", result)
                else:
                    self.runner.ledger.forget(unit.key)
                self.runner.progress.advance()

    def _check_bad(self, units: list[dict[str, Any]], inputs: Inputs) -> None:
        try:
            check_bad_fraction(units, self.recipe.max_bad_fraction, self.runner.folder.output)
        except TooManyBadRecordsError:
            write_quarantine(
                inputs.parts, storage.join(self.runner.folder.output, "quarantine", "quarantine-00000.parquet")
            )
            raise
