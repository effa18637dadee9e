"""Which documents of a run a text resembles: `curate similar`, and the Python API's `run.similar`.

The text goes through the recipe's map stages and gets the band keys that the near-duplicate stage would give it; these are looked
up in the band table that the run left in work/. What shares a key is read and compared: through a datasketch MinHashLSH, whose
signatures ours are equal to, and by the true Jaccard similarity of the n-grams.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from curation import storage
from curation.documents import DocumentBatch
from curation.engine.ngram_sets import jaccard, ngrams
from curation.engine.stage_pass import KEPT, document_batch, needs_columns, pass_stages
from curation.formats.records import Batch
from curation.formats.tables import batch_of
from curation.questions.documents import Documents
from curation.questions.lookup import FinishedRun, naming_lost_files
from curation.questions.similarity import LONGEST_TEXT
from curation.questions.work_tables import BandHits, WorkTables
from curation.stages import MapStage
from curation.stages.minhash import MinHash, MinHashSettings

BUDGET_BYTES = 640 * 2**20  # decompressed text that an answer may cost: two seconds
CANDIDATES = 200  # those with the most shared bands are looked at
_LINE_CHARACTERS = 200


@dataclass(frozen=True)
class Candidate:
    """A document that shares a band with the text.

    `estimated` and `jaccard` are None, and `why_not` says why, where its text could not be read. `in_lsh` says whether datasketch's
    index returns it for the text.
    """

    id: str
    fate: str  # "kept" or "removed"
    stage: str | None  # that removed it
    source: str | None
    shared_bands: int
    estimated: float | None
    jaccard: float | None
    in_lsh: bool | None
    why_not: str | None
    text: str | None  # its beginning, one line


@dataclass(repr=False)
class Similar:
    """What of a run resembles a text, the most similar first; documents whose text could not be read follow, by shared bands."""

    stage: str
    verify: str
    threshold: float
    unit: str
    ngram: int
    bands: int
    rows: int
    characters: int  # of the text after the recipe's stages
    ngrams: int  # different ones
    edited_by: list[str]
    would_be_removed: list[str]  # what stages that look at one document say of the text
    n_candidates: int  # documents that share a band; at least, where `is_cut`
    is_cut: bool
    candidates: list[Candidate] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        return str(self)  # a notebook shows it as paragraphs

    def __str__(self) -> str:
        from curation.questions.answers import similar_text

        return similar_text(self)


def read_text(path: str) -> str:
    """The text of a file, or of standard input for `-`. Raises ValueError when it cannot be read or is no UTF-8 text."""
    what = "standard input" if path == "-" else path
    if path == "-" and sys.stdin is None:
        raise ValueError("standard input is closed; name a text file")
    try:
        data = sys.stdin.buffer.read() if path == "-" else storage.read_bytes(path)
    except OSError as error:
        raise ValueError(f"{what} cannot be read: {error.strerror or error}; name a text file, or - for standard input") from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is no UTF-8 text: byte {error.start} is {data[error.start]:#04x}; convert it first") from None


def similar(directory: str, text: str, stage: str | None = None, run_code: bool = False) -> Similar:
    """What of the run in `directory` resembles `text`, as the near-duplicate stage `stage` (the first by default) sees it.

    `run_code` allows the code of user stages to be run. Raises ValueError when there is no finished run, no such stage, nothing to
    compare in the text, or no band table any more.
    """
    return similar_in(FinishedRun.open(directory, run_code), text, stage)


@naming_lost_files
def similar_in(run: FinishedRun, text: str, stage: str | None = None) -> Similar:
    """The same, of an opened run."""
    index = _stage_index(run, stage)
    documents = Documents(run, BUDGET_BYTES)
    if documents.work is None:
        raise ValueError(
            f"the band table of {run.folder.output} was in its work folder, which is gone (`curate clean` drops it) or on another "
            "machine; to make it again give the command of the run once more with --fresh: it reads the whole input"
        )
    minhash = run.stages[index]
    assert isinstance(minhash, MinHash)
    query = _Query(run, text, index, minhash)
    answer = query.answer()
    hits = documents.work.lookup(minhash.name, query.keys)
    answer.n_candidates, answer.is_cut = len(hits.rows), hits.cut
    answer.candidates = _compared(documents, documents.work, hits, query)
    return answer


def _stage_index(run: FinishedRun, name: str | None) -> int:
    kinds = [entry["stage"].lower() for entry in run.run["recipe"]["stages"]]
    names = [entry["name"] for entry in run.run["recipe"]["stages"]]
    having = [index for index, kind in enumerate(kinds) if kind == "minhash"]
    if name is not None and name not in names:
        run.settings(name)  # raises, with the names that there are
    if name is not None and names.index(name) not in having:
        raise ValueError(f"the stage {name} keeps no bands; those that do are {', '.join(names[i] for i in having) or 'none'}")
    if not having:
        raise ValueError("the run has no minhash stage, whose band table is what texts are looked up in")
    return having[0] if name is None else names.index(name)


class _Query:
    """The text after the stages, with its band keys, signature and n-grams at the near-duplicate stage."""

    def __init__(self, run: FinishedRun, text: str, index: int, minhash: MinHash) -> None:
        if not isinstance(text, str):
            raise ValueError(f"the text is of type {type(text).__name__}; give a string")
        if not text.strip():
            raise ValueError("the text is empty; give a text that the run could have read as one document")
        try:
            n_bytes = len(text.encode())
        except UnicodeEncodeError:
            raise ValueError("the text holds lone surrogates, which UTF-8 cannot; remove them") from None
        most = run.run["recipe"]["max_document_bytes"]
        if n_bytes > most:
            raise ValueError(
                f"the text has {n_bytes:,} bytes, and the run took no document of more than {most:,} (max_document_bytes); "
                "give a part of it"
            )
        self.minhash = minhash
        self.edited_by: list[str] = []
        self.would_be_removed: list[str] = []
        stages = run.stages
        batch = _batch_of(text)
        documents = document_batch(batch, "text", "text", needs_columns(stages))
        keys = np.zeros(0, np.uint64)
        for place, stage in enumerate(stages):
            if isinstance(stage, MapStage):
                documents = self._through(stage, documents)
            elif place == index:
                keys = minhash.observe(documents, np.ones(1, bool))["key"]
        if not len(keys):
            unit = "characters" if minhash.settings.unit == "character" else "words"
            raise ValueError(
                f"the text has fewer than {minhash.settings.ngram} {unit} once cleaned, so it has no n-gram at the stage "
                f"{minhash.name} and nothing to compare; give a longer one"
            )
        self.keys = keys
        self.text: str = documents.texts[0].as_py()
        settings = minhash.settings
        self.ngrams = ngrams(self.text, settings.unit, settings.ngram)

    def _through(self, stage: MapStage, documents: DocumentBatch) -> DocumentBatch:
        """The text after a stage, which may say that it would remove it: it goes on all the same."""
        passed = pass_stages([stage], documents)
        if passed.documents.texts[0] != documents.texts[0]:
            self.edited_by.append(stage.name)
        if passed.removed_by[0] != KEPT:
            measure = passed.measures.get(stage.name)
            shown = f" ({measure.values[0]:g} {measure.unit})" if measure is not None else ""
            self.would_be_removed.append(f"{stage.name}: {passed.reasons.get(0, stage.reason)}{shown}")
        return passed.documents

    def answer(self) -> Similar:
        """The answer without candidates."""
        settings = self.minhash.settings
        return Similar(
            stage=self.minhash.name,
            verify=settings.verify,
            threshold=settings.threshold,
            unit=settings.unit,
            ngram=settings.ngram,
            bands=settings.bands,
            rows=settings.rows,
            characters=len(self.text),
            ngrams=len(self.ngrams),
            edited_by=self.edited_by,
            would_be_removed=self.would_be_removed,
            n_candidates=0,
            is_cut=False,
        )


def _batch_of(text: str) -> Batch:
    """The text as a reader would give it, with all columns that a stage may ask for."""
    from curation.formats.records import Columns

    table = pa.RecordBatch.from_pydict({"text": [text]})
    return batch_of(table, np.zeros(1, np.uint64), Columns(), len(text.encode()), True)


def _compared(documents: Documents, work: WorkTables, hits: BandHits, query: _Query) -> list[Candidate]:
    """The candidates with the most shared bands, read and compared."""
    shared: dict[str, int] = {}
    for part in dict.fromkeys(hits.parts[:CANDIDATES].tolist()):
        mine = np.flatnonzero(hits.parts[:CANDIDATES] == part)
        ids, places = work.ids(part, hits.rows[mine])
        documents.remember(dict(zip(ids, places, strict=True)))
        shared |= dict(zip(ids, hits.shared[mine].tolist(), strict=True))
    ids = sorted(shared, key=lambda value: -shared[value])
    removed = {value: rows[0] for value, (_, rows) in documents.run.removed.find(ids).items()}
    kept = documents.kept([value for value in ids if value not in removed])
    documents.read_texts(ids)
    found_texts = {value: documents.text(value) for value in ids}
    texts = {value: one.text for value, one in found_texts.items() if one.text is not None and len(one.text) <= LONGEST_TEXT}
    estimates, returned = _through_datasketch(query, texts)
    settings = query.minhash.settings
    found = []
    for value in ids:
        text, why_not = texts.get(value), found_texts[value].why_not or "it is too long to compare"
        gone = removed.get(value)
        true = jaccard(query.ngrams, ngrams(text, settings.unit, settings.ngram)) if text is not None else None
        found.append(
            Candidate(
                id=value,
                fate="removed" if gone else "kept",
                stage=gone["stage"] if gone else None,
                source=gone["source"] if gone else kept[value].source if value in kept else None,
                shared_bands=shared[value],
                estimated=estimates.get(value),
                jaccard=true,
                in_lsh=value in returned if text is not None else None,
                why_not=None if text is not None else why_not,
                text=None if text is None else " ".join(text[: 4 * _LINE_CHARACTERS].split())[:_LINE_CHARACTERS],
            )
        )
    return sorted(found, key=lambda one: (-(one.jaccard if one.jaccard is not None else -1.0), -one.shared_bands, one.id))


def _through_datasketch(query: _Query, texts: dict[str, str]) -> tuple[dict[str, float], set[str]]:
    """datasketch's estimate of each text's similarity with the query, and which of them its LSH index returns for the query."""
    from datasketch import MinHash as Sketch
    from datasketch import MinHashLSH
    from datasketch.hashfunc import sha1_hash32
    from xxhash import xxh32_intdigest

    from curation.kernels.minhash import signatures

    settings: MinHashSettings = query.minhash.settings
    hash_function = xxh32_intdigest if settings.scheme == "affine32" else sha1_hash32
    index = MinHashLSH(num_perm=settings.permutations, params=(settings.bands, settings.rows))
    drawn = (settings.ngram, settings.permutations, settings.seed, settings.scheme, settings.unit)

    def sketch(text: str) -> Any:
        values = signatures([text], *drawn)[0]
        return Sketch(settings.permutations, settings.seed, hashfunc=hash_function, hashvalues=values, scheme=settings.scheme)

    asked = sketch(query.text)
    estimates = {}
    for value, text in texts.items():
        candidate = sketch(text)
        index.insert(value, candidate)
        estimates[value] = float(asked.jaccard(candidate))
    return estimates, set(index.query(asked))
