"""The steps that write results: the second pass, joining small files, indexing what was removed."""

from __future__ import annotations

from typing import Any

import numpy as np

from curation.engine.array_file import ArrayFile
from curation.engine.document_files import SUFFIXES, JoinTask, join_files
from curation.engine.first_pass import SPLITS
from curation.engine.global_steps import Decision
from curation.engine.grouping import FILES_OF_A_SMALL_OUTPUT, group_parts, join_ranges, tasks_of
from curation.engine.inputs import Inputs
from curation.engine.ledger import task_key
from curation.engine.quarantine import write_quarantine
from curation.engine.recipe import Recipe
from curation.engine.removal_log import DUPLICATES_SCHEMA, REMOVED_SCHEMA, IndexTask, index_partition
from curation.engine.second_pass import SecondPassTask, second_pass
from curation.engine.task_runner import TaskRunner
from curation.formats.records import Columns

_REMOVED_ROWS = 2_000_000  # rows of a file in removed/ and duplicates/


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
        self.n_partitions = max(1, -(-removed_rows // _REMOVED_ROWS))  # of removed/ and duplicates/

    def second_pass(self) -> list[dict[str, Any]]:
        """Read the input again and write it; what each task left."""
        parts, raw = self.inputs.parts, self.inputs.column("raw_bytes").astype(np.int64)
        decisions = tuple((decision.index, decision.path) for decision in self.decided)
        shown = [
            n for decision in self.decided for one in decision.result["largest_components"] for n in one["numbers"]
        ]
        lifted = tuple(sorted({name for columns in self.columns.values() for name, _ in columns.lifted}))
        output = self.recipe.output.model_dump(mode="json", exclude={"file_bytes"})
        tasks, sizes = [], []
        groups = group_parts(self._compressed_bytes(), raw, self.recipe.output.file_bytes)
        for together in tasks_of(groups, [part.unit.key for part in parts]):
            first, last = together[0][0], together[-1][1]
            cuts = tuple(end - first for _, end in together[:-1])
            low, high = parts[first].base, parts[last - 1].base + parts[last - 1].n_documents
            before = [decision.key for decision in self.decided]
            key = task_key("second pass", self.inputs.key, before, first, last, cuts, self.n_partitions, lifted, output)
            task = SecondPassTask(
                parts=tuple(parts[first:last]),
                stages=self.recipe.built,
                decisions=decisions,
                files=self.runner.path("files.pickle"),
                columns=self.columns,
                lifted=lifted,
                maximum_document_bytes=self.recipe.max_document_bytes,
                format=self.recipe.output.format,
                cuts=cuts,
                n_partitions=self.n_partitions,
                excerpts=tuple(number for number in shown if low <= number < high),
                output=self.runner.staged(key),
            )
            tasks.append((key, task))
            sizes.append(int(raw[first:last].sum()))
        return self.runner.run("second pass", second_pass, tasks, sizes)

    def _compressed_bytes(self) -> np.ndarray:
        """What each part will come to in the output, float64[n]: kept text at the ratio of a sample of all texts."""
        kept = self.inputs.column("text_bytes")
        for decision in self.decided:
            kept -= ArrayFile(decision.path).read("removed_bytes").astype(np.float64)
        samples = np.array([count["compression_sample"] for count in self.inputs.counts], np.float64).reshape(-1, 2)
        raw, compressed = samples.sum(axis=0)
        return np.maximum(kept, 0) * (compressed / raw if raw else 1.0)

    def finished_files(self, written: list[dict[str, Any]]) -> list[tuple[str, str]]:
        """Join small files, index the removed, and say where every staged file belongs."""
        suffix = SUFFIXES[self.recipe.output.format]
        moves: list[tuple[str, str]] = []
        for split in SPLITS:
            files = [file for result in written for file in result["documents"][split]]
            paths = [file["path"] for file in files]
            # Holdouts are small, and so are files of stretches that keep little; others came out near the size they should have.
            mean = sum(file["bytes"] for file in files) / max(1, len(files))
            if split != "train" or (len(files) > FILES_OF_A_SMALL_OUTPUT and mean < self.recipe.output.file_bytes / 4):
                paths = self._joined(split, files)
            for number, path in enumerate(paths):
                moves.append((path, f"documents/{split}/{split}-{number:05d}.{suffix}"))
        for name, schema in (("removed", REMOVED_SCHEMA), ("duplicates", DUPLICATES_SCHEMA)):
            segments = tuple(result["removed"][name] for result in written if name in result["removed"])
            tasks = []
            for partition in range(self.n_partitions):
                own = task_key("index", name, partition, self.n_partitions, [path.rsplit("/", 1)[-1] for path in segments])
                output = self.runner.staged(f"{own}.parquet")
                tasks.append((own, IndexTask(partition, segments, schema, output)))
            for number, result in enumerate(self.runner.run(f"index {name}", index_partition, tasks)):
                final = f"{name}/{name}-{number:05d}-of-{self.n_partitions:05d}.parquet"
                moves.append((result["outputs"][0], final))
        quarantined = [result["quarantine"] for result in written if result["quarantine"]]
        if not quarantined:
            quarantined = [self.runner.staged("quarantine.parquet")]
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
            own = task_key("join", split, [path.rsplit("/", 1)[-1] for path in paths[first:last]])
            output = self.runner.staged(f"{own}.{SUFFIXES[self.recipe.output.format]}")
            tasks.append((own, JoinTask(tuple(paths[first:last]), self.recipe.output.format, output)))
        return [result["outputs"][0] for result in self.runner.run(f"join {split}", join_files, tasks)]
