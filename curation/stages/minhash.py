"""Near-duplicates by MinHash and locality-sensitive hashing, as SlimPajama made them.

Source: Cerebras modelzoo, slimpajama/dedup/to_hash.py and generate_duplicate_pairs.py: 13-grams of *characters* of the cleaned
text (spaces included, every overlapping position), 128 permutations with seed 1, 9 bands of 13 rows (slots 0-116). The paper
and README say "lower-cased 13-grams", which most readers take for words; the released code's are characters.

A pair of true Jaccard similarity s becomes a candidate with probability 1 - (1 - s^rows)^bands: at 9 x 13 that is 0.40 at
s = 0.8 and 0.08 at s = 0.7, and components then chain pairs. `verify: exact` compares before it removes.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from curation.documents import DocumentBatch
from curation.kernels.minhash import band_hashes, permutations, sign
from curation.stages import GlobalStage, Settings


class MinHashSettings(Settings):
    """Settings of `minhash`; the defaults are SlimPajama's constants (slimpajama/main.py) with the fast hash scheme."""

    unit: Literal["character", "word"] = "character"
    ngram: int = Field(13, ge=1, le=64)
    permutations: int = Field(128, ge=1, le=4096)
    bands: int = Field(9, ge=1)
    rows: int = Field(13, ge=1)
    seed: int = Field(1, ge=0, lt=2**32)  # datasketch's default, which the released code uses
    scheme: Literal["affine32", "legacy"] = "affine32"
    keep: str | list[str] = "first"
    verify: Literal["none", "exact"] = "none"
    threshold: float = Field(0.8, gt=0, le=1)
    maximum_comparisons: int = Field(1_000_000, ge=1)  # a document that would need more is kept, counted and warned about
    bridge_removed: bool = False  # documents that an earlier stage removed still connect others, but are never the kept copy
    action: Literal["remove", "annotate"] = "remove"

    @field_validator("keep", mode="before")
    @classmethod
    def _written_as_mapping(cls, value: object) -> object:
        """`highest: COLUMN` is a mapping to YAML unless it is quoted."""
        rules = value if isinstance(value, list) else [value]
        plain = [f"highest: {r['highest']}" if isinstance(r, dict) and list(r) == ["highest"] else r for r in rules]
        return plain if isinstance(value, list) else plain[0]

    @field_validator("keep")
    @classmethod
    def _known_keep_rules(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("keep: name at least one rule: first, longest, 'highest: COLUMN'")
        for rule in [value] if isinstance(value, str) else value:
            if rule not in ("first", "longest") and not re.fullmatch(r"highest:\s*\S+", rule):
                raise ValueError(f"keep: {rule!r} is none of first, longest, 'highest: COLUMN'")
        return value

    @model_validator(mode="after")
    def _bands_fit(self) -> MinHashSettings:
        if self.bands * self.rows > self.permutations:
            raise ValueError(
                f"bands x rows = {self.bands * self.rows} is more than permutations = {self.permutations}; lower one of the two"
            )
        if self.verify == "exact" and self.bridge_removed:
            raise ValueError("verify: exact compares documents with retained ones; it cannot be used with bridge_removed")
        return self

    @property
    def remark(self) -> str | None:
        """What a person should know of these settings before they wait for the result."""
        if self.verify == "exact" or self.threshold == type(self).model_fields["threshold"].default:
            return None
        return f"threshold {self.threshold} has no effect with `verify: none`, where bands and rows decide; set `verify: exact`"

    @property
    def keep_rules(self) -> list[str]:
        """The keep rule as a list; `first` (the lowest rank) breaks every remaining tie."""
        return [self.keep] if isinstance(self.keep, str) else list(self.keep)


class MinHash(GlobalStage):
    """Removes near-duplicates: documents that share a band with another (and, with `verify: exact`, really resemble it)."""

    settings_class = MinHashSettings
    reason = "near duplicate"
    settings: MinHashSettings

    def observed_settings(self) -> dict[str, object]:
        hashing = {"unit", "ngram", "permutations", "bands", "rows", "seed", "scheme", "bridge_removed"}
        return self.settings.model_dump(mode="json", include=hashing)

    def observe(self, documents: DocumentBatch, alive: np.ndarray) -> dict[str, np.ndarray]:
        """One record a band and document: "key" uint64, "row" uint32. Documents without an n-gram leave none: an
        all-maximum signature would make duplicates of them all."""
        settings = self.settings
        chosen = np.ones(len(documents), bool) if settings.bridge_removed else alive
        data, offsets, _ = documents.cleaned
        rows = np.flatnonzero(chosen)
        if len(rows) < len(documents):
            data, offsets = _take(data, offsets, rows)
        drawn = permutations(settings.permutations, settings.seed, settings.scheme, used=settings.bands * settings.rows)
        signatures, n_grams = sign(data, offsets, unit=settings.unit, ngram=settings.ngram, permutations=drawn)
        hashed = n_grams > 0
        keys = band_hashes(signatures[hashed], settings.bands, settings.rows)
        return {"key": keys.reshape(-1), "row": np.repeat(rows[hashed].astype(np.uint32), settings.bands)}


def _take(data: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texts of `rows` alone, in the same layout."""
    pieces = [data[offsets[row] : offsets[row + 1]] for row in rows.tolist()]
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    taken = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
    return taken, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
