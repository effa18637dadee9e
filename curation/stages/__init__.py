"""Stages: what is done to documents. One file a stage, with its typed settings and its source.

A stage is one of two things. A map stage sees one batch at a time: it edits texts and says which documents go, and why. A
global stage needs all documents: in the first pass over the input it only observes (writes a few bytes a document), and its
decisions come later, from what all batches showed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from curation.documents import DocumentBatch

# Every stage by its name in a recipe; the module of the same name holds its class.
_CLASSES = {"normalize": "Normalize", "length": "Length", "exact": "Exact", "minhash": "MinHash", "python": "Python"}


class Settings(BaseModel):
    """Base of every stage's settings: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class MapResult:
    """What a map stage says of a batch of n documents, in their order. What it leaves out stays as it is."""

    removed: np.ndarray | None = None  # bool[n]
    reason: str | Sequence[str | None] | None = None  # why they go: one for all, or n; None: the stage's own
    texts: pa.LargeStringArray | None = None  # n edited texts
    columns: Mapping[str, pa.Array] = field(default_factory=dict)  # new columns of n values
    measure: np.ndarray | None = None  # float64[n], the quantity that was decided on; NaN where there is none
    threshold: float | None = None  # the measure at which decisions turn
    unit: str = ""  # of the measure, "characters" for example


class DocumentFailuresError(Exception):
    """Documents that a stage could not process: each row of the batch with what went wrong, for the quarantine."""

    def __init__(self, stage: str, failures: dict[int, str]) -> None:
        super().__init__(stage, failures)
        self.stage, self.failures = stage, failures


class Stage:
    """What all stages share; `version` is raised when the meaning of the stage changes, so that old results are not re-used."""

    version: ClassVar[int] = 1
    settings_class: ClassVar[type[Settings]]

    reason: ClassVar[str] = ""  # why a document that the stage removes goes

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings

    @property
    def kind(self) -> str:
        """What the stage is called in a recipe."""
        return type(self).__module__.rsplit(".", 1)[1]

    def library_versions(self) -> dict[str, str]:
        """What decides results besides `version` and the settings: part of the task key."""
        return {}

    def recorded(self) -> dict[str, object]:
        """What run.json says of the stage: enough to run it again."""
        about = {"name": self.name, "stage": self.kind, "version": self.version, "versions": self.library_versions()}
        return {**about, **self.settings.model_dump(mode="json")}

    def observed_settings(self) -> dict[str, object]:
        """The settings that the first pass depends on; others may change without reading the input again."""
        return self.settings.model_dump(mode="json")


class MapStage(Stage):
    """A stage that decides about each document by itself."""

    needs_columns: ClassVar[bool] = False  # more than positions and texts
    living_only: ClassVar[bool] = False  # is not shown documents that an earlier map stage removed
    logs_edits: ClassVar[bool] = False  # in edited/

    def apply(self, documents: DocumentBatch) -> MapResult:
        """Edit the batch, or say which of its documents go. Raises DocumentFailuresError."""
        raise NotImplementedError


class GlobalStage(Stage):
    """A stage whose decisions need all documents."""

    def observe(self, documents: DocumentBatch, alive: np.ndarray) -> dict[str, np.ndarray]:
        """What the decisions need of this batch; `alive` bool[n] marks the documents that no earlier stage removed.

        Returns equally long arrays, sorted by nothing: "row" uint32 in the batch, and the stage's keys (uint64).
        """
        raise NotImplementedError


def stage_names() -> list[str]:
    """The names that a recipe may use."""
    return list(_CLASSES)


def stage_class(name: str) -> type[Stage]:
    """The class of the stage `name`, imported when asked for."""
    return getattr(import_module(f"curation.stages.{name}"), _CLASSES[name])
