"""The steps of global stages: shuffle records through storage, join what shares a key, choose what stays."""

from __future__ import annotations

from dataclasses import dataclass
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
from curation.engine.inputs import Inputs
from curation.engine.ledger import task_key
from curation.engine.part_writer import IDS
from curation.engine.parts import Part
from curation.engine.task_runner import TaskRunner
from curation.engine.verify import (
    CoverTask,
    GatherTask,
    VerifiedTask,
    cover,
    cover_partitions,
    gather_texts,
    verified_decisions,
)
from curation.formats.records import Columns
from curation.stages import GlobalStage, Stage
from curation.stages.minhash import MinHash


@dataclass(frozen=True)
class Decision:
    """What a global stage decided: `path` of the decisions, and counts."""

    index: int  # of the stage
    path: str
    result: dict[str, Any]

    @property
    def key(self) -> list[Any]:
        """For task keys: the file's name is the key of the task that made it."""
        return [self.index, self.path.rsplit("/", 1)[-1]]


class GlobalSteps:
    """Runs global stages over the parts that the first pass left."""

    def __init__(
        self,
        runner: TaskRunner,
        stages: list[Stage],
        inputs: Inputs,
        columns: dict[str, Columns],
        maximum_document_bytes: int,
        worker_bytes: int,
        seed: int,
    ) -> None:
        self.runner, self.stages, self.inputs, self.columns = runner, stages, inputs, columns
        self.maximum_document_bytes, self.worker_bytes, self.seed = maximum_document_bytes, worker_bytes, seed

    def decide_all(self) -> list[Decision]:
        """Every global stage in order."""
        self._check_ids()
        decided: list[Decision] = []
        for index, stage in enumerate(self.stages):
            if isinstance(stage, GlobalStage):
                decided.append(self._decide(index, stage, decided))
        return decided

    def _check_ids(self) -> None:
        """The input's own ids must be unique. Raises ValueError that names both places of one that is not."""
        if not any(columns.id for columns in self.columns.values()):
            return
        found = self._edges(IDS, self.inputs.n_documents, task_key("ids", self.inputs.key))
        for result in found:
            if result["edges"]:
                file = ArrayFile(result["outputs"][0])
                numbers = [int(file.read(name, 0, 1)[0]) for name in ("low", "high")]
                places = [_place(self.inputs.parts, number) for number in numbers]
                raise ValueError(
                    f"the id {places[0][0]!r} occurs twice: {places[0][1]} and {places[1][1]}; "
                    "ids must be unique, or leave `id` out of the source to have them made"
                )

    def _edges(self, stage: str, records: int, key: str, earlier: str | None = None) -> list[dict[str, Any]]:
        segments = self.runner.path("segments.arrays")
        n_partitions = preflight.partitions_for(records, self.worker_bytes)
        paths = ArrayFile(segments).length("base")
        if paths * n_partitions > preflight.MOST_RANGE_READS:
            segments = self._merge(stage, records, paths, key)
        tasks = []
        for partition in range(n_partitions):
            own = task_key("edges", key, partition, n_partitions)
            output = self.runner.path("edges", f"{own}.arrays")
            tasks.append((own, EdgesTask(stage, partition, n_partitions, segments, earlier, output)))
        return self.runner.run(f"{stage}: shuffle", edges, tasks)

    def _merge(self, stage: str, records: int, n_segments: int, key: str) -> str:
        """Join segments first, where parts x partitions would be too many small reads."""
        each = max(2, n_segments * preflight.MERGED_SEGMENT_RECORDS // max(1, records))
        tasks = []
        for first in range(0, n_segments, each):
            own = task_key("merge", key, first, each)
            last = min(n_segments, first + each)
            output = self.runner.path("merged", f"{own}.arrays")
            tasks.append((own, MergeTask(stage, self.runner.path("segments.arrays"), first, last, output)))
        merged = self.runner.run(f"{stage}: merge", merge_segments, tasks)
        path = self.runner.path(f"segments-{stage}.arrays")
        write_segments(path, [(result["outputs"][0], 0) for result in merged])
        return path

    def _decide(self, index: int, stage: GlobalStage, decided: list[Decision]) -> Decision:
        """Which documents the stage removes."""
        earlier = decided[-1].path if decided else None
        before = [decision.key for decision in decided]
        settings = stage.settings.model_dump(mode="json")
        # What an exact stage removes has the same keys as what it keeps; what a near-duplicate stage removes has others.
        bridges = isinstance(stage, MinHash) and stage.settings.bridge_removed
        near = not bridges and any(isinstance(self.stages[decision.index], MinHash) for decision in decided)
        edges_key = task_key(
            "edges of", self.inputs.key, stage.name, stage.observed_settings(), before if near else None
        )
        found = self._edges(stage.name, self.inputs.records(stage.name), edges_key, earlier if near else None)
        minhash = stage.settings if isinstance(stage, MinHash) else None
        verify = minhash is not None and minhash.verify == "exact"
        key = task_key("decide", edges_key, index, stage.name, settings, stage.version, before)
        output = self.runner.path("decisions", f"{key}.arrays")
        task = ComponentsTask(
            stage=stage.name,
            edges=tuple(result["outputs"][0] for result in found),
            parts=self.runner.path("parts.pickle"),
            source_names=self.inputs.source_names,
            earlier=earlier,
            keep_rules=tuple(minhash.keep_rules) if minhash else ("first",),
            sample_seed=self.seed if minhash else None,
            annotate=minhash is not None and minhash.action == "annotate",
            verify=verify,
            output=self.runner.path("members", f"{key}.arrays") if verify else output,
            has_ids=any(columns.id for columns in self.columns.values()),
        )
        name = f"{stage.name}: components"
        if not verify:
            (result,) = self.runner.run(name, components, [(key, task)])
            return Decision(index, output, result)
        members_key = task_key("members", key)
        (members,) = self.runner.run(name, components, [(members_key, task)])
        assert isinstance(stage, MinHash)
        result = self._verify(stage, task, members, key, output)
        return Decision(index, output, {**result, "candidates": members["component_sizes"]})

    def _verify(
        self, stage: MinHash, task: ComponentsTask, members: dict[str, Any], key: str, output: str
    ) -> dict[str, Any]:
        n_partitions = cover_partitions(members["member_bytes"])
        gather_tasks = []
        for group in _consecutive(self.inputs.parts):
            own = task_key("gather", key, group[0].unit.key, n_partitions)
            argument = GatherTask(
                stage.name,
                tuple(group),
                task.output,
                n_partitions,
                self.columns,
                self.maximum_document_bytes,
                stage.settings.bands,
                self.runner.path("texts", f"{own}.arrow"),
            )
            gather_tasks.append((own, argument))
        gathered = self.runner.run(f"{stage.name}: gather texts", gather_texts, gather_tasks)
        paths = tuple(result["outputs"][0] for result in gathered)
        covers = []
        for partition in range(n_partitions):
            own = task_key("cover", key, partition, n_partitions)
            output_path = self.runner.path("covers", f"{own}.arrays")
            scratch = None if storage.is_remote(self.runner.folder.work) else self.runner.folder.work
            covers.append((own, CoverTask(partition, paths, stage.settings, scratch, output_path)))
        found = self.runner.run(f"{stage.name}: compare", cover, covers)
        joined = VerifiedTask(task, task.output, tuple(result["outputs"][0] for result in found), output)
        (result,) = self.runner.run(f"{stage.name}: decide", verified_decisions, [(key, joined)])
        return {**result, "past_limit": sum(result["past_limit"] for result in found)}


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
