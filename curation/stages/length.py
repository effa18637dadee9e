"""Short documents: SlimPajama drops what has fewer than 200 characters once cleaned.

Source: Cerebras modelzoo, slimpajama/preprocessing/filter.py. The released code counts code points of the cleaned text
(lower-cased, the 32 ASCII punctuation characters deleted, whitespace runs made one space, ends stripped), the single spaces
that remain included; its README says that spaces are not counted. We follow the code. Exactly 200 characters stay.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from curation.documents import DocumentBatch
from curation.stages import MapResult, MapStage, Settings


class LengthSettings(Settings):
    """Settings of `length`."""

    minimum_characters: int = Field(200, ge=0, lt=2**40)  # slimpajama/main.py passes threshold=200


class Length(MapStage):
    """Removes documents whose cleaned text has fewer than `minimum_characters` code points."""

    settings_class = LengthSettings
    reason = "short"
    settings: LengthSettings

    def apply(self, documents: DocumentBatch) -> MapResult:
        lengths, minimum = documents.cleaned[2], self.settings.minimum_characters
        return MapResult(lengths < minimum, measure=lengths.astype(np.float64), threshold=minimum, unit="characters")
