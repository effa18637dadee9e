"""Stages: what is done to documents. One file a stage, with its typed settings and its source.

A stage is one of two things. A map stage sees one batch at a time: it edits texts and says which documents go, and why. A
global stage needs all documents: in the first pass over the input it only observes (writes a few bytes a document), and its
decisions come later, from what all batches showed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from curation.documents import DocumentBatch

# Every stage by its name in a recipe; the module of the same name holds its class.
_CLASSES = {"normalize": "Normalize", "length": "Length", "exact": "Exact", "minhash": "MinHash"}


class Settings(BaseModel):
    """Base of every stage's settings: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class MapResult:
    """What a map stage returns for a batch of n documents."""

    documents: DocumentBatch  # the same documents in the same order, texts perhaps edited
    removed: np.ndarray | None = None  # bool[n]; None removes nothing
    measure: np.ndarray | None = None  # float64[n], the quantity that the decision was made on


class Stage:
    """What all stages share; `version` is raised when the meaning of the stage changes, so that old results are not re-used."""

    version: ClassVar[int] = 1
    settings_class: ClassVar[type[Settings]]

    reason: ClassVar[str] = ""  # why a document that the stage removes goes

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings

    def library_versions(self) -> dict[str, str]:
        """Libraries that decide results besides `version`: part of the task key."""
        return {}


class MapStage(Stage):
    """A stage that decides about each document by itself."""

    unit: ClassVar[str] = ""  # the unit of `measure`

    def apply(self, documents: DocumentBatch) -> MapResult:
        """Edit the batch, or say which of its documents go."""
        raise NotImplementedError


class GlobalStage(Stage):
    """A stage whose decisions need all documents."""

    def observed_settings(self) -> dict[str, object]:
        """The settings that `observe` depends on; others may change without reading the input again."""
        return self.settings.model_dump(mode="json")

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
