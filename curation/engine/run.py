"""The driver: from a recipe to a finished folder. It plans, hands out tasks, keeps the ledger, and never holds documents.

  first pass   a task a unit of input: read, run the stages, leave keys and a few bytes a document
  shuffle      for each global stage: edges by partition, components, perhaps verification, decisions
  second pass  a task an output file: read again, write what stays, record what goes
  publish      small files joined, removed/ and duplicates/ indexed, everything moved into place
"""

from __future__ import annotations

import pickle
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curation import storage
from curation.engine import preflight
from curation.engine.array_file import ArrayFile
from curation.engine.decide import (
    ComponentsTask,
    EdgesTask,
    MergeTask,
    components,
    edges,
    merge_segments,
    write_segments,
)
from curation.engine.document_files import SUFFIXES, JoinTask, join_files
from curation.engine.executor import Executor, make_executor
from curation.engine.first_pass import IDS, SPLITS, FirstPassTask, first_pass, piece_digests
from curation.engine.grouping import FILES_OF_A_SMALL_OUTPUT, group_parts, join_ranges, tasks_of
from curation.engine.ledger import Ledger, task_key
from curation.engine.lock import locked
from curation.engine.parts import Part, write_parts
from curation.engine.plan import Plan, Unit, columns_of, keep_columns, limited, make_plan
from curation.engine.progress import Progress
from curation.engine.quarantine import TooManyBadRecordsError, check_bad_fraction, write_quarantine
from curation.engine.recipe import Recipe
from curation.engine.removal_log import DUPLICATES_SCHEMA, REMOVED_SCHEMA, FileTable, IndexTask, index_partition
from curation.engine.run_folder import (
    FORMAT_VERSION,
    RunFolder,
    check_places,
    check_same_run,
    clean,
    describe_run,
    publish,
)
from curation.engine.second_pass import SecondPassTask, second_pass
from curation.engine.verify import (
    PARTITION_TEXT_BYTES,
    CoverTask,
    GatherTask,
    VerifiedTask,
    cover,
    gather_texts,
    verified_decisions,
)
from curation.report.build import build_report
from curation.stages import GlobalStage
from curation.stages.minhash import MinHash

__all__ = ["RunOptions", "TooManyBadRecordsError", "clean", "plan_summary", "run_recipe"]

PART_BYTES = 64 * 2**20  # raw bytes of a part: what a first-pass task holds of its input at a time
_REMOVED_ROWS = 2_000_000  # rows of a file in removed/ and duplicates/


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


def plan_summary(plan: Plan, recipe: Recipe, options: RunOptions, output: str = "out") -> dict[str, Any]:
    """What `curate plan` shows: files, tasks, memory, disk, requests; nothing is run."""
    from curation.engine.executor import available_cpus

    del recipe  # the plan holds it
    folder = RunFolder.at(output, options.work)
    return preflight.estimate(plan, folder, options.workers or available_cpus(), options.worker_bytes)


def run_recipe(
    recipe: Recipe, input_path: str | None, output: str, options: RunOptions, progress: Progress
) -> dict[str, Any]:
    """Run, or go on with, a recipe in the folder `output`; the report, as report.json holds it.

    Raises ValueError for a user's mistake before anything ran, TooManyBadRecordsError past `max_bad_fraction`, OSError or
    RuntimeError when the run failed. The same command goes on where any of them, or a kill, stopped it.
    """
    started = time.monotonic()
    folder = RunFolder.at(output.rstrip("/") or "/", options.work)
    check_places(input_path, folder)
    with locked(folder.output), locked(folder.work) if folder.work_is_elsewhere else nullcontext():
        if options.fresh:
            folder.empty()
        unit_bytes = (folder.read("run.json") or {}).get("unit_bytes")
        plan = limited(make_plan(recipe, input_path, unit_bytes), options.limit)
        key = task_key("run", [unit.key for unit in plan.units], recipe.resolved(), options.limit)
        earlier = folder.read("run.json")
        check_same_run(earlier, folder, plan, options.limit)
        if earlier is not None and earlier["status"] == "publishing":
            publish(folder)
            earlier = folder.read("run.json")
        if earlier is not None and _is_complete(earlier, key, folder, plan):
            report = folder.read("report.json")
            if report is not None:
                return {**report, "already_complete": True}
        workers = 1 if options.executor == "inline" else options.workers or preflight_workers(options)
        needed = preflight.estimate(plan, folder, workers, options.worker_bytes)
        warnings = preflight.check(needed, folder)
        for place in (folder.work, folder.staging):
            storage.remove_temporaries(place)
        if not storage.is_remote(folder.output):
            progress.attach_log(storage.join(folder.output, "log.txt"))
        driver = _Driver(plan, folder, options, progress, key, input_path, warnings)
        try:
            return driver.run(started)
        finally:
            driver.close()


def preflight_workers(options: RunOptions) -> int:
    """Workers that an embedded Ray starts by itself: one a CPU."""
    from curation.engine.executor import available_cpus

    return options.workers or available_cpus()


def _is_complete(earlier: dict[str, Any], key: str, folder: RunFolder, plan: Plan) -> bool:
    """Whether the folder holds this very run, finished: same work, files not touched since, results all there."""
    files = [[f.source, f.relative, f.info.size, f.info.etag, f.info.mtime_ns] for f in plan.files]
    return (
        earlier["status"] == "complete"
        and earlier["key"] == key
        and earlier["input"]["files"] == files
        and all(storage.exists(storage.join(folder.output, entry["path"])) for entry in earlier["outputs"])
    )


@dataclass
class _Tally:
    """Tasks of the run and where its time went."""

    planned: int = 0
    run: int = 0
    reused: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class _Driver:
    """One run."""

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        options: RunOptions,
        progress: Progress,
        key: str,
        input_path: str | None,
        warnings: list[str],
    ) -> None:
        self.plan, self.folder, self.options, self.progress = plan, folder, options, progress
        self.key, self.input_path, self.warnings = key, input_path, warnings
        self.recipe = plan.recipe
        self.stages = plan.recipe.built
        self.tally = _Tally()
        self.columns = {name: columns_of(source) for name, source in plan.sources.items()}
        self._executor: Executor | None = None
        self._ledger: Ledger | None = None
        self._inputs_key = ""

    @property
    def executor(self) -> Executor:
        """Started when first needed: a run that re-uses everything needs no workers."""
        if self._executor is None:
            started = time.monotonic()
            self._prepare_kernels()
            self._executor = make_executor(self.options.executor, self.options.address, self.options.workers)
            self.tally.seconds["start"] = time.monotonic() - started
        return self._executor

    @property
    def ledger(self) -> Ledger:
        """The record of committed tasks."""
        assert self._ledger is not None
        return self._ledger

    def _prepare_kernels(self) -> None:
        from curation import kernels

        if not kernels.is_compiled():
            self.progress.note("compiling kernels, once on this machine")
            kernels.compile_all()

    def close(self) -> None:
        """Stop workers, close the ledger."""
        if self._executor is not None:
            self._executor.close()
        if self._ledger is not None:
            self._ledger.close()

    def path(self, *names: str) -> str:
        """A path in the work folder."""
        return storage.join(self.folder.work, *names)

    def run(self, started: float) -> dict[str, Any]:
        """All steps; the report."""
        description = describe_run(self.plan, self.input_path, self.options.limit, self.key)
        self.folder.write("run.json", description)
        self._ledger = Ledger(self.folder.ledger, self.folder.output)
        units = self._first_pass()
        parts = self._parts(units)
        self._check_bad(units, parts)
        self._check_ids(parts)
        decided: list[tuple[int, str, dict[str, Any]]] = []
        for index, stage in enumerate(self.stages):
            if isinstance(stage, GlobalStage):
                path, result = self._decide(index, stage, parts, decided)
                decided.append((index, path, result))
        written = self._second_pass(parts, decided)
        moves = self._finish_files(written)
        outputs = [{"path": relative, "bytes": storage.file_size(staged)} for staged, relative in moves]
        report = build_report(
            plan=self.plan,
            units=units,
            decided=[(self.stages[index], result) for index, _, result in decided],
            written=written,
            excerpts={number: text for result in written for number, text in result["excerpts"].items()},
            input_path=self.input_path,
            output=self.folder.output,
            outputs=outputs,
            warnings=self.warnings,
            tasks={"planned": self.tally.planned, "run": self.tally.run, "reused": self.tally.reused},
            seconds=self.tally.seconds,
            total_seconds=time.monotonic() - started,
            peak_memory=self._peak_memory(),
            workers=self._executor.workers if self._executor else 0,
            format_version=FORMAT_VERSION,
        )
        # From here on a kill costs nothing: the same command finishes the moves that run.json lists.
        self.folder.write("report.json", report)
        self.folder.write("run.json", {**description, "status": "publishing", "moves": moves, "outputs": outputs})
        publish(self.folder)
        return report

    def _tasks(
        self,
        step: str,
        function: Callable[[Any], dict[str, Any]],
        tasks: list[tuple[str, Any]],
        raw_bytes: list[int] | None = None,
    ) -> list[dict[str, Any]]:
        """Run what the ledger does not hold; results in the order of `tasks` ((key, argument))."""
        clock = time.monotonic()
        results: list[dict[str, Any] | None] = [self.ledger.find(key) for key, _ in tasks]
        todo = [index for index, result in enumerate(results) if result is None]
        self.tally.planned += len(tasks)
        self.tally.run += len(todo)
        self.tally.reused += len(tasks) - len(todo)
        with self.progress.step(step, len(tasks), sum(raw_bytes) if raw_bytes else None):
            for index, result in enumerate(results):
                if result is not None:
                    self._advance(result, raw_bytes[index] if raw_bytes else 0, reused=True)
            arguments = (tasks[index][1] for index in todo)
            for position, result in self.executor.map(function, arguments) if todo else ():
                index = todo[position]
                self.ledger.commit(tasks[index][0], step, result)
                results[index] = result
                self._advance(result, raw_bytes[index] if raw_bytes else 0)
        self.ledger.sync()
        self.tally.seconds[step] = self.tally.seconds.get(step, 0.0) + time.monotonic() - clock
        return [result for result in results if result is not None]

    def _advance(self, result: dict[str, Any], raw_bytes: int, reused: bool = False) -> None:
        documents = sum(part["n_documents"] for part in result.get("parts", ()))
        self.progress.advance(1, documents, raw_bytes, reused=reused)

    # First pass

    def _first_pass(self) -> list[dict[str, Any]]:
        self._forget_changed()
        tasks = [(unit.key, self._first_pass_task(unit)) for unit in self.plan.units]
        return self._tasks("first pass", first_pass, tasks, [unit.raw_bytes for unit in self.plan.units])

    def _first_pass_task(self, unit: Unit) -> FirstPassTask:
        return FirstPassTask(
            unit=unit,
            stages=self.stages,
            columns=self.columns[unit.source],
            output=self.path("first", unit.key),
            part_bytes=PART_BYTES,
            maximum_document_bytes=self.recipe.max_document_bytes,
            seed=self.recipe.seed,
            shares=dict(self.recipe.output.split),
            keep_columns=keep_columns(self.recipe),
            limit=self.options.limit,
        )

    def _forget_changed(self) -> None:
        """Units whose files were touched since, or could not be read then, are read again unless their bytes are the same."""
        doubtful: list[tuple[Unit, dict[str, Any]]] = []
        for unit in self.plan.units:
            result = self.ledger.find(unit.key)
            if result is None or all(file.info.etag for file in unit.files):
                continue
            modified = [file.info.mtime_ns for file in unit.files]
            if result["unreadable"]:
                self.ledger.forget(unit.key)
            elif result["modified_ns"] != modified:
                doubtful.append((unit, {**result, "modified_ns": modified}))
        if not doubtful:
            return
        tasks = [self._first_pass_task(unit) for unit, _ in doubtful]
        with self.progress.step("compare touched files", len(tasks)):
            for position, answer in self.executor.map(piece_digests, tasks):
                unit, result = doubtful[position]
                if answer["digests"] == result["digests"]:
                    self.ledger.commit(unit.key, "first pass", result)
                else:
                    self.ledger.forget(unit.key)
                self.progress.advance()

    def _parts(self, units: list[dict[str, Any]]) -> list[Part]:
        """Number the documents of all parts, and leave the list where tasks find it."""
        parts: list[Part] = []
        base = 0
        for unit, result in zip(self.plan.units, units, strict=True):
            for part in result["parts"]:
                parts.append(Part(part["path"], len(parts), base, part["n_documents"], unit))
                base += part["n_documents"]
        content = [[unit.key, result["digests"]] for unit, result in zip(self.plan.units, units, strict=True)]
        numbers = [[file.source, file.relative] for file in self.plan.files]
        self._inputs_key = task_key(content, numbers)
        write_parts(self.path("parts.pickle"), parts)
        write_segments(self.path("segments.arrays"), [(f"{part.path}.arrays", part.base) for part in parts])
        relatives = tuple(file.relative for file in self.plan.files)
        files = FileTable(tuple(file.source for file in self.plan.files), relatives)
        storage.write_bytes(self.path("files.pickle"), pickle.dumps(files))
        return parts

    def _check_bad(self, units: list[dict[str, Any]], parts: list[Part]) -> None:
        try:
            check_bad_fraction(units, self.recipe.max_bad_fraction, self.folder.output)
        except TooManyBadRecordsError:
            write_quarantine(parts, storage.join(self.folder.output, "quarantine", "quarantine-00000.parquet"))
            raise

    def _check_ids(self, parts: list[Part]) -> None:
        """The input's own ids must be unique. Raises ValueError that names both places of one that is not."""
        if not any(columns.id for columns in self.columns.values()):
            return
        found = self._edges(IDS, sum(part.n_documents for part in parts), task_key("ids", self._inputs_key))
        for result in found:
            if result["edges"]:
                file = ArrayFile(result["outputs"][0])
                numbers = [int(file.read(name, 0, 1)[0]) for name in ("low", "high")]
                places = [_place(parts, number) for number in numbers]
                raise ValueError(
                    f"the id {places[0][0]!r} occurs twice: {places[0][1]} and {places[1][1]}; "
                    "ids must be unique, or leave `id` out of the source to have them made"
                )

    # Global stages

    def _edges(self, stage: str, records: int, key: str, earlier: str | None = None) -> list[dict[str, Any]]:
        segments = self.path("segments.arrays")
        n_partitions = preflight.partitions_for(records, self.options.worker_bytes)
        paths = ArrayFile(segments).length("base")
        if paths * n_partitions > preflight.MOST_RANGE_READS:
            segments = self._merge(stage, records, paths, key)
        tasks = []
        for partition in range(n_partitions):
            own = task_key("edges", key, partition, n_partitions)
            output = self.path("edges", f"{own}.arrays")
            tasks.append((own, EdgesTask(stage, partition, n_partitions, segments, earlier, output)))
        return self._tasks(f"{stage}: shuffle", edges, tasks)

    def _merge(self, stage: str, records: int, n_segments: int, key: str) -> str:
        """Join segments first, where parts x partitions would be too many small reads."""
        each = max(2, n_segments * preflight.MERGED_SEGMENT_RECORDS // max(1, records))
        tasks = []
        for first in range(0, n_segments, each):
            own = task_key("merge", key, first, each)
            last = min(n_segments, first + each)
            output = self.path("merged", f"{own}.arrays")
            tasks.append((own, MergeTask(stage, self.path("segments.arrays"), first, last, output)))
        merged = self._tasks(f"{stage}: merge", merge_segments, tasks)
        path = self.path(f"segments-{stage}.arrays")
        write_segments(path, [(result["outputs"][0], 0) for result in merged])
        return path

    def _decide(
        self, index: int, stage: GlobalStage, parts: list[Part], decided: list[tuple[int, str, dict[str, Any]]]
    ) -> tuple[str, dict[str, Any]]:
        """Which documents the stage removes: (decisions file, counts)."""
        earlier = decided[-1][1] if decided else None
        before = decisions_key(tuple((index, path) for index, path, _ in decided))
        settings = stage.settings.model_dump(mode="json")
        # What an exact stage removes has the same keys as what it keeps; what a near-duplicate stage removes has others.
        near = any(isinstance(self.stages[position], MinHash) for position, _, _ in decided)
        edges_key = task_key("edges of", self._inputs_key, stage.name, stage.observed_settings(), before if near else None)
        records = _records(self.ledger, self.plan.units, stage.name)
        found = self._edges(stage.name, records, edges_key, earlier if near else None)
        is_minhash = isinstance(stage, MinHash)
        verify = is_minhash and stage.settings.verify == "exact"
        key = task_key("decide", edges_key, index, stage.name, settings, stage.version, before)
        output = self.path("decisions", f"{key}.arrays")
        task = ComponentsTask(
            stage=stage.name,
            edges=tuple(result["outputs"][0] for result in found),
            parts=self.path("parts.pickle"),
            source_names=_source_names(self.ledger, self.plan),
            earlier=earlier,
            keep_rules=tuple(stage.settings.keep_rules) if is_minhash else ("first",),
            annotate=is_minhash and stage.settings.action == "annotate",
            verify=verify,
            output=self.path("members", f"{key}.arrays") if verify else output,
            has_ids=any(columns.id for columns in self.columns.values()),
        )
        name = f"{stage.name}: components"
        if not verify:
            (result,) = self._tasks(name, components, [(key, task)])
            return output, result
        members_key = task_key("members", key)
        (members,) = self._tasks(name, components, [(members_key, task)])
        assert isinstance(stage, MinHash)
        result = self._verify(stage, task, members, key, parts, output)
        return output, {**result, "candidates": members["component_sizes"]}

    def _verify(
        self,
        stage: MinHash,
        task: ComponentsTask,
        members: dict[str, Any],
        key: str,
        parts: list[Part],
        output: str,
    ) -> dict[str, Any]:
        n_partitions = max(1, -(-members["member_bytes"] // PARTITION_TEXT_BYTES))
        gather_tasks = []
        for group in _consecutive(parts):
            own = task_key("gather", key, group[0].path, len(group), n_partitions)
            argument = GatherTask(
                stage.name,
                tuple(group),
                task.output,
                n_partitions,
                self.columns,
                self.recipe.max_document_bytes,
                stage.settings.bands,
                self.path("texts", f"{own}.arrow"),
            )
            gather_tasks.append((own, argument))
        gathered = self._tasks(f"{stage.name}: gather texts", gather_texts, gather_tasks)
        paths = tuple(result["outputs"][0] for result in gathered)
        covers = []
        for partition in range(n_partitions):
            own = task_key("cover", key, partition, n_partitions)
            output_path = self.path("covers", f"{own}.arrays")
            scratch = None if storage.is_remote(self.folder.work) else self.folder.work
            covers.append((own, CoverTask(partition, paths, stage.settings, scratch, output_path)))
        found = self._tasks(f"{stage.name}: compare", cover, covers)
        joined = VerifiedTask(task, task.output, tuple(result["outputs"][0] for result in found), output)
        (result,) = self._tasks(f"{stage.name}: decide", verified_decisions, [(key, joined)])
        return {**result, "past_limit": sum(result["past_limit"] for result in found)}

    # Second pass

    def _second_pass(
        self, parts: list[Part], decided: list[tuple[int, str, dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        counts = [part for unit in self.plan.units for part in (self.ledger.recorded(unit.key) or {})["parts"]]
        kept = np.array([part["text_bytes"] for part in counts], np.float64)
        removed_rows = sum(documents for part in counts for documents in part["removed"].values())
        for _, path, result in decided:
            kept -= ArrayFile(path).read("removed_bytes").astype(np.float64)
            removed_rows += sum(documents for documents, _ in result["removed"].values())
        sampled = np.array([part["compression_sample"] for part in counts], np.float64).reshape(-1, 2).sum(axis=0)
        ratio = sampled[1] / sampled[0] if sampled[0] else 1.0
        raw = np.array([part["raw_bytes"] for part in counts], np.int64)
        groups = group_parts(np.maximum(kept, 0) * ratio, raw, self.recipe.output.file_bytes)
        n_partitions = max(1, -(-removed_rows // _REMOVED_ROWS))
        shown = tuple(number for _, _, result in decided for one in result["largest_components"] for number in one["numbers"])
        lifted = tuple(sorted({name for columns in self.columns.values() for name, _ in columns.lifted}))
        tasks, sizes = [], []
        for together in tasks_of(groups, [part.unit.key for part in parts]):
            first, last = together[0][0], together[-1][1]
            cuts = tuple(end - first for _, end in together[:-1])
            mine = parts[first:last]
            low, high = mine[0].base, mine[-1].base + mine[-1].n_documents
            excerpts = tuple(number for number in shown if low <= number < high)
            decisions = tuple((index, path) for index, path, _ in decided)
            output = self.recipe.output.model_dump(mode="json", exclude={"file_bytes"})
            key = task_key("second pass", self._inputs_key, decisions_key(decisions), first, last, cuts, n_partitions, output)
            task = SecondPassTask(
                tuple(mine),
                self.stages,
                decisions,
                self.path("files.pickle"),
                self.columns,
                lifted,
                self.recipe.max_document_bytes,
                self.recipe.output.format,
                cuts,
                n_partitions,
                excerpts,
                storage.join(self.folder.staging, key),
            )
            tasks.append((key, task))
            sizes.append(int(raw[first:last].sum()))
        self._n_removed_partitions = n_partitions
        return self._tasks("second pass", second_pass, tasks, sizes)

    def _finish_files(self, written: list[dict[str, Any]]) -> list[tuple[str, str]]:
        """Join small files, index the removed, and say where every staged file belongs."""
        suffix = SUFFIXES[self.recipe.output.format]
        moves: list[tuple[str, str]] = []
        for split in SPLITS:
            files = [file for result in written for file in result["documents"][split]]
            paths = [file["path"] for file in files]
            # A small output was cut on purpose; what lies below size otherwise are holdouts, and stretches that keep little.
            if split != "train" or len(files) > FILES_OF_A_SMALL_OUTPUT:
                paths = self._joined(split, files)
            for number, path in enumerate(paths):
                moves.append((path, f"documents/{split}/{split}-{number:05d}.{suffix}"))
        for name, schema in (("removed", REMOVED_SCHEMA), ("duplicates", DUPLICATES_SCHEMA)):
            segments = tuple(result["removed"][name] for result in written if name in result["removed"])
            tasks = []
            for partition in range(self._n_removed_partitions):
                own = task_key("index", name, partition, self._n_removed_partitions, list(segments))
                output = storage.join(self.folder.staging, f"{own}.parquet")
                tasks.append((own, IndexTask(partition, segments, schema, output)))
            for number, result in enumerate(self._tasks(f"index {name}", index_partition, tasks)):
                final = f"{name}/{name}-{number:05d}-of-{self._n_removed_partitions:05d}.parquet"
                moves.append((result["outputs"][0], final))
        quarantined = [result["quarantine"] for result in written if result["quarantine"]]
        if not quarantined:
            quarantined = [storage.join(self.folder.staging, "quarantine.parquet")]
            write_quarantine([], quarantined[0])
        moves += [(path, f"quarantine/quarantine-{n:05d}.parquet") for n, path in enumerate(quarantined)]
        return moves

    def _joined(self, split: str, files: list[dict[str, Any]]) -> list[str]:
        paths = [file["path"] for file in files]
        ranges = join_ranges([file["bytes"] for file in files], self.recipe.output.file_bytes)
        if len(ranges) == len(files):
            return paths
        tasks = []
        for first, last in ranges:
            own = task_key("join", split, paths[first:last])
            output = storage.join(self.folder.staging, f"{own}.{SUFFIXES[self.recipe.output.format]}")
            tasks.append((own, JoinTask(tuple(paths[first:last]), self.recipe.output.format, output)))
        return [result["outputs"][0] for result in self._tasks(f"join {split}", join_files, tasks)]

    def _peak_memory(self) -> dict[str, int]:
        unit = 1 if sys.platform == "darwin" else 1024
        driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"driver": driver, "worker": self._executor.worker_peak_bytes if self._executor else 0}


def decisions_key(decisions: tuple[tuple[int, str], ...]) -> list[Any]:
    """The decisions by their own keys, which are their files' names."""
    return [[index, path.rsplit("/", 1)[-1]] for index, path in decisions]


def _records(ledger: Ledger, units: list[Unit], stage: str) -> int:
    return sum(
        part["records"].get(stage, 0) for unit in units for part in (ledger.recorded(unit.key) or {"parts": []})["parts"]
    )


def _source_names(ledger: Ledger, plan: Plan) -> tuple[str, ...]:
    """All sources, those that a `by` column names included: the plan's order first, then by name."""
    named = set()
    for unit in plan.units:
        for part in (ledger.recorded(unit.key) or {"parts": []})["parts"]:
            named |= set(part["sources"])
    order = [name for name in plan.sources if name in named]
    return (*order, *sorted(named - set(order)))


def _consecutive(parts: list[Part]) -> list[list[Part]]:
    """Parts by unit: their file is read once."""
    groups: list[list[Part]] = []
    for part in parts:
        if groups and groups[-1][0].unit.key == part.unit.key:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _place(parts: list[Part], number: int) -> tuple[str, str]:
    """(id, where it stands) of a document."""
    for part in parts:
        if part.base <= number < part.base + part.n_documents:
            arrays = part.arrays()
            row = np.array([number - part.base])
            file = part.unit.files[int(arrays.read("file")[row][0])]
            return part.ids(arrays, row)[0], f"{file.info.path} at {int(arrays.read('position')[row][0])}"
    raise AssertionError(f"document {number} is in no part")
