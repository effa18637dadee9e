"""How similar two documents are: as the run recorded it, else measured on their texts, else by the bands that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.engine.ngram_sets import jaccard, ngrams
from curation.questions.documents import Documents
from curation.questions.lookup import FinishedRun

LONGEST_TEXT = 8 * 2**20  # characters; n-gram sets of longer ones take hundreds of megabytes


@dataclass(frozen=True)
class Similarity:
    """The n-gram Jaccard similarity of two documents in a stage's terms; `how` is "recorded", "measured", "same text" or None.

    Without a value, `why_not` says why, and `shared_bands` of `bands` are told where work/ is still there.
    """

    value: float | None = None
    how: str | None = None
    shared_bands: int | None = None
    bands: int | None = None
    why_not: str | None = None


@dataclass(frozen=True)
class Pair:
    """A document, the one that it duplicates, the stage that says so, and the similarity in removed/."""

    id: str
    duplicate_of: str
    stage: str
    recorded: float | None


class Similarities:
    """Answers for the pairs of one question."""

    def __init__(self, run: FinishedRun, documents: Documents) -> None:
        self.run, self.documents = run, documents
        self._sets: dict[tuple[str, str], np.ndarray] = {}

    def of(self, pairs: list[Pair]) -> list[Similarity]:
        """The similarity of each pair; texts that are needed are read together."""
        open_pairs = [pair for pair in pairs if pair.recorded is None and self.run.settings(pair.stage)["stage"] == "minhash"]
        self.documents.read_texts([value for pair in open_pairs for value in (pair.id, pair.duplicate_of)])
        found = [self._one(pair) for pair in pairs]
        unmeasured = [index for index, one in enumerate(found) if one.value is None and pairs[index] in open_pairs]
        if unmeasured and self.documents.work is not None:
            for index, shares in zip(unmeasured, self._bands([pairs[index] for index in unmeasured]), strict=True):
                if shares is not None:
                    found[index] = Similarity(None, None, *shares, found[index].why_not)
        return found

    def _one(self, pair: Pair) -> Similarity:
        settings = self.run.settings(pair.stage)
        if pair.recorded is not None:
            return Similarity(round(pair.recorded, 6), "recorded")
        if settings["stage"] == "exact":
            return Similarity(1.0, "same text")
        if settings["stage"] != "minhash":
            return Similarity(why_not="the stage has no measure of similarity")
        texts = [self.documents.text(value) for value in (pair.id, pair.duplicate_of)]
        for text in texts:
            if text.text is None:
                return Similarity(why_not=text.why_not)
            if len(text.text) > LONGEST_TEXT:
                return Similarity(why_not="a text is too long to compare")
        sets = [self._set(value, settings) for value in (pair.id, pair.duplicate_of)]
        return Similarity(jaccard(*sets), "measured")

    def _set(self, value: str, settings: dict[str, Any]) -> np.ndarray:
        key = value, settings["name"]
        if key not in self._sets:
            text = self.documents.text(value).text
            assert text is not None
            self._sets[key] = ngrams(text, settings["unit"], settings["ngram"])
        return self._sets[key]

    def _bands(self, pairs: list[Pair]) -> list[tuple[int, int] | None]:
        """(bands that a pair shares, bands), or None where a document is not in work/."""
        assert self.documents.work is not None
        rows = self.documents.rows(list({value for pair in pairs for value in (pair.id, pair.duplicate_of)}))
        keys = {
            stage: self.documents.work.band_keys(stage, list(rows.values())) for stage in {pair.stage for pair in pairs}
        }
        shares: list[tuple[int, int] | None] = []
        for pair in pairs:
            if pair.id in rows and pair.duplicate_of in rows:
                one, other = (keys[pair.stage][rows[value]] for value in (pair.id, pair.duplicate_of))
                shares.append((len(np.intersect1d(one, other)), self.run.settings(pair.stage)["bands"]))
            else:
                shares.append(None)
        return shares
