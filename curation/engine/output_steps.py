"""The steps that write results: the second pass, joining small files, indexing what was removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curation import storage
from curation.engine.array_file import ArrayFile
from curation.engine.document_files import SUFFIXES, JoinTask, join_files
from curation.engine.global_steps import Decision
from curation.engine.grouping import FILES_OF_A_SMALL_OUTPUT, group_parts, join_ranges, tasks_of
from curation.engine.inputs import Inputs
from curation.engine.ledger import task_key
from curation.engine.member_kinds import merged
from curation.engine.part_writer import SPLITS
from curation.engine.quarantine import write_quarantine
from curation.engine.recipe import Recipe
from curation.engine.removal_log import LOGS, IndexTask, index_partition
from curation.engine.sample_tables import SamplesTask, StagePairs, join_samples
from curation.engine.samples import SampleChoice, sample_share
from curation.engine.second_pass import SecondPassTask, second_pass
from curation.engine.task_runner import TaskRunner
from curation.formats.records import Columns
from curation.stages import Stage
from curation.stages.minhash import MinHash

_REMOVED_ROWS = 2_000_000  # rows of a file in removed/ and duplicates/


@dataclass(frozen=True)
class OutputFile:
    """A finished file that still stands where its task left it."""

    staged: str
    path: str  # below DIR
    sha256: str
    holds: dict[str, int] = field(default_factory=dict)  # of documents: how many, and the ranks of the first and the last

    def entry(self) -> dict[str, Any]:
        """The file as run.json lists it."""
        return {"path": self.path, "bytes": storage.file_size(self.staged), "sha256": self.sha256, **self.holds}


def sample_files(samples: dict[str, Any]) -> list[OutputFile]:
    """The files that `join_samples` left."""
    return [OutputFile(file["path"], f"samples/{name}.parquet", file["sha256"]) for name, file in samples["files"].items()]


def _stage_pairs(stages: list[Stage], index: int, decided: dict[str, Any]) -> StagePairs:
    stage = stages[index]
    largest, sampled = (tuple((r, k, n) for r, k, n in decided[name]) for name in ("largest", "sampled"))
    if not isinstance(stage, MinHash):
        return StagePairs(stage.name, largest, sampled)
    settings = stage.settings
    return StagePairs(stage.name, largest, sampled, settings.unit, settings.ngram, settings.threshold, index)


def document_columns(written: list[dict[str, Any]]) -> dict[str, str]:
    """The columns of documents/ with their Arrow types, or the members of JSON lines with their kinds."""
    return merged(file["columns"] for result in written for files in result["documents"].values() for file in files)


class OutputSteps:
    """Writes what was decided."""

    def __init__(
        self,
        runner: TaskRunner,
        recipe: Recipe,
        inputs: Inputs,
        columns: dict[str, Columns],
        decided: list[Decision],
    ) -> None:
        self.runner, self.recipe, self.inputs, self.columns, self.decided = runner, recipe, inputs, columns, decided
        removed_rows = sum(n for count in inputs.counts for n in count["removed"].values())
        removed_rows += sum(n for decision in decided for n, _ in decision.result["removed"].values())
        edited_rows = sum(n for count in inputs.counts for n in count["edited"].values())
        self.n_partitions = max(1, -(-max(removed_rows, edited_rows) // _REMOVED_ROWS))  # of each log

    def second_pass(self) -> list[dict[str, Any]]:
        """Read the input again and write it; what each task left."""
        parts, raw = self.inputs.parts, self.inputs.column("raw_bytes").astype(np.int64)
        decisions = tuple((decision.index, decision.path) for decision in self.decided)
        pairs = [pair for decision in self.decided for pair in decision.result["largest"] + decision.result["sampled"]]
        shown = sorted({number for removed, kept, _ in pairs for number in (removed, kept)})
        share = sample_share(self.inputs.n_documents)
        lifted = tuple(sorted({name for columns in self.columns.values() for name, _ in columns.lifted}))
        output = self.recipe.output.model_dump(mode="json", exclude={"file_bytes"})
        tasks, sizes = [], []
        groups = group_parts(self._compressed_bytes(), raw, self.recipe.output.file_bytes)
        for together in tasks_of(groups, [part.unit.key for part in parts]):
            first, last = together[0][0], together[-1][1]
            cuts = tuple(end - first for _, end in together[:-1])
            low, high = parts[first].base, parts[last - 1].base + parts[last - 1].n_documents
            before = [decision.key for decision in self.decided]
            columns = [lifted, self.inputs.stage_columns]
            key = task_key("second pass", self.inputs.key, before, first, last, cuts, self.n_partitions, columns, output)
            task = SecondPassTask(
                parts=tuple(parts[first:last]),
                stages=self.recipe.built,
                decisions=decisions,
                files=self.runner.path("files.pickle"),
                columns=self.columns,
                lifted=lifted,
                stage_columns=self.inputs.stage_columns,
                maximum_document_bytes=self.recipe.max_document_bytes,
                format=self.recipe.output.format,
                cuts=cuts,
                n_partitions=self.n_partitions,
                samples=SampleChoice(self.recipe.seed, share, tuple(number for number in shown if low <= number < high)),
                output=self.runner.staged(key),
            )
            tasks.append((key, task))
            sizes.append(int(raw[first:last].sum()))
        return self.runner.run("second pass", second_pass, tasks, sizes)

    def samples(self, written: list[dict[str, Any]]) -> dict[str, Any]:
        """Join what the second pass sampled; what `join_samples` returned."""
        files = tuple(result["samples"] for result in written)
        own = task_key("samples", [path.rsplit("/", 1)[-1] for path in files], [decision.key for decision in self.decided])
        pairs = tuple(_stage_pairs(self.recipe.built, decision.index, decision.result) for decision in self.decided)
        task = SamplesTask(
            files=files,
            stages=tuple(stage.name for stage in self.recipe.built),
            pairs=pairs,
            share=sample_share(self.inputs.n_documents),
            scratch=None if storage.is_remote(self.runner.folder.work) else self.runner.folder.work,
            output=self.runner.staged(own),
        )
        return self.runner.run("samples", join_samples, [(own, task)])[0]

    def _compressed_bytes(self) -> np.ndarray:
        """What each part will come to in the output, float64[n]: kept text at the ratio of a sample of all texts."""
        kept = self.inputs.column("text_bytes")
        for decision in self.decided:
            kept -= ArrayFile(decision.path).read("removed_bytes").astype(np.float64)
        samples = np.array([count["compression_sample"] for count in self.inputs.counts], np.float64).reshape(-1, 2)
        raw, compressed = samples.sum(axis=0)
        return np.maximum(kept, 0) * (compressed / raw if raw else 1.0)

    def finished_files(self, written: list[dict[str, Any]]) -> list[OutputFile]:
        """Join small files, index the removed, and say where every staged file belongs."""
        suffix = SUFFIXES[self.recipe.output.format]
        finished: list[OutputFile] = []
        for split in SPLITS:
            files = [file for result in written for file in result["documents"][split]]
            # Holdouts are small, and so are files of stretches that keep little; others came out near the size they should have.
            mean = sum(file["bytes"] for file in files) / max(1, len(files))
            if split != "train" or (len(files) > FILES_OF_A_SMALL_OUTPUT and mean < self.recipe.output.file_bytes / 4):
                files = self._joined(split, files)
            for number, file in enumerate(files):
                holds = {name: file[name] for name in ("documents", "first_rank", "last_rank")}
                path = f"documents/{split}/{split}-{number:05d}.{suffix}"
                finished.append(OutputFile(file["path"], path, file["sha256"], holds))
        for name, (schema, _) in LOGS.items():
            segments = tuple(result["removed"][name] for result in written if name in result["removed"])
            tasks = []
            for partition in range(self.n_partitions):
                own = task_key("index", name, partition, self.n_partitions, [path.rsplit("/", 1)[-1] for path in segments])
                output = self.runner.staged(f"{own}.parquet")
                tasks.append((own, IndexTask(partition, segments, schema, output)))
            for number, result in enumerate(self.runner.run(f"index {name}", index_partition, tasks)):
                final = f"{name}/{name}-{number:05d}-of-{self.n_partitions:05d}.parquet"
                finished.append(OutputFile(result["outputs"][0], final, result["sha256"]))
        quarantined = [result["quarantine"] for result in written if result["quarantine"]]
        if not quarantined:
            quarantined = [write_quarantine([], self.runner.staged("quarantine.parquet"))]
        for number, file in enumerate(quarantined):
            finished.append(OutputFile(file["path"], f"quarantine/quarantine-{number:05d}.parquet", file["sha256"]))
        return finished

    def _joined(self, split: str, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Fewer files of the same documents, described like `files`."""
        paths = [file["path"] for file in files]
        ranges = join_ranges([file["bytes"] for file in files], self.recipe.output.file_bytes)
        if len(ranges) == len(files):
            return files
        tasks = []
        for first, last in ranges:
            own = task_key("join", split, [path.rsplit("/", 1)[-1] for path in paths[first:last]])
            output = self.runner.staged(f"{own}.{SUFFIXES[self.recipe.output.format]}")
            tasks.append((own, JoinTask(tuple(paths[first:last]), self.recipe.output.format, output)))
        results = self.runner.run(f"join {split}", join_files, tasks)
        return [
            {
                "path": result["outputs"][0],
                "sha256": result["sha256"],
                "documents": sum(file["documents"] for file in files[first:last]),
                "first_rank": files[first]["first_rank"],
                "last_rank": files[last - 1]["last_rank"],
            }
            for result, (first, last) in zip(results, ranges, strict=True)
        ]
