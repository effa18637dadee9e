"""Why a document is, or is not, in the output of a run: `curate explain`, and the Python API's `run.explain`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from curation.questions.documents import Documents, Kept
from curation.questions.lookup import FinishedRun, naming_lost_files
from curation.questions.not_found import hints
from curation.questions.similarity import Pair, Similarities, Similarity

BUDGET_BYTES = 512 * 2**20  # decompressed text that an answer may cost: a second or two
_DUPLICATES_LISTED = 20
_LONGEST_CHAIN = 32
_TEXT_CHARACTERS = 2000
_LINE_CHARACTERS = 200


@dataclass(frozen=True)
class Step:
    """A document that the one before it in the chain duplicates, and what became of it."""

    id: str
    fate: str
    stage: str | None  # that removed it
    reason: str | None
    source: str | None
    similarity: Similarity  # with the document before it
    text: str | None  # its beginning, one line


@dataclass(frozen=True)
class Duplicate:
    """A removed document that names another as its kept copy."""

    id: str
    stage: str
    duplicate_of: str
    source: str | None
    similarity: Similarity
    text: str | None


@dataclass(frozen=True)
class Edit:
    """A stage changed the document's text."""

    stage: str
    characters_before: int
    characters_after: int


@dataclass(repr=False)
class Explanation:
    """What a run did with a document. `fate` is "kept", "removed", "quarantined" or "not found".

    Fields that do not apply are None or empty. `duplicates` lists at most 20 of the documents that it stands for; `n_duplicates`
    counts all of them, those that reached it through another included (None where the output does not tell), and
    `n_direct_duplicates` those that name it themselves.
    """

    id: str
    fate: str = "not found"
    stage: str | None = None
    stage_settings: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    detail: str | None = None
    source: str | None = None
    subset: str | None = None
    url: str | None = None
    language: str | None = None
    split: str | None = None
    file: str | None = None
    rank: int | None = None
    text_bytes: int | None = None
    duplicate_of: str | None = None
    similarity: Similarity | None = None
    chain: list[Step] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    is_kept: bool | None = None  # what a stage that annotates says
    component: str | None = None
    n_direct_duplicates: int = 0
    n_duplicates: int | None = None
    duplicates: list[Duplicate] = field(default_factory=list)
    text: str | None = None  # its first 2,000 characters
    characters: int | None = None  # of the whole text
    text_why_not: str | None = None
    raw: str | None = None  # the beginning of a quarantined record
    notes: list[str] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    @property
    def found(self) -> bool:
        """Whether the run knows the document."""
        return self.fate != "not found"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        return str(self)  # a notebook shows it as paragraphs

    def __str__(self) -> str:
        from curation.questions.answers import explanation_text

        return explanation_text(self)


def explain(directory: str, document_id: str, run_code: bool = False) -> Explanation:
    """What the run in `directory` did with a document. Raises ValueError when there is no finished run.

    `run_code` allows the code of user stages to be run again, where texts of removed documents are compared.
    """
    return explain_in(FinishedRun.open(directory, run_code), document_id)


@naming_lost_files
def explain_in(run: FinishedRun, document_id: str) -> Explanation:
    """The same, of an opened run."""
    if not isinstance(document_id, str):
        raise ValueError(f"{document_id!r} is no id of a document; give a string")
    documents = Documents(run, BUDGET_BYTES)
    answer = _Answer(run, documents, Explanation(document_id))
    try:
        document_id.encode()
    except UnicodeEncodeError:
        answer.it.hints = ["the id is not valid UTF-8, so no document can have it"]
        return answer.it
    if answer.find(document_id):
        return answer.it
    other = documents.own_id_at(document_id)
    if other is not None and answer.find(other):
        answer.it.notes.insert(0, f"at {document_id} the input has the id {other}")
        return answer.it
    answer.it.hints = hints(run, documents, document_id)
    return answer.it


class _Answer:
    """Fills an explanation in."""

    def __init__(self, run: FinishedRun, documents: Documents, it: Explanation) -> None:
        self.run, self.documents, self.it = run, documents, it
        self.similarities = Similarities(run, documents)

    def find(self, value: str) -> bool:
        """Whether the id is known; what is known of it."""
        self.it.looked_at.append(f"removed/ ({min(1, len(self.run.removed.paths))} of {len(self.run.removed.paths)} files)")
        removed = self.run.removed.find([value]).get(value)
        if removed:
            self.it.id = value
            self._removed(removed[1][0])
            return True
        kept = self.documents.kept([value], thorough=True, notes=self.it.notes).get(value)
        at_rank = self.documents.places([value])[value] is not None
        self.it.looked_at.append("documents/ (at the rank that the id stands for)" if at_rank else "documents/ (by id)")
        if kept is not None:
            self.it.id = value
            self._kept(kept)
            return True
        self.it.looked_at.append("quarantine/")
        return self._quarantined(value)

    def _removed(self, row: dict[str, Any]) -> None:
        it = self.it
        it.fate = "removed"
        for name in ("stage", "reason", "detail", "source", "subset", "duplicate_of", "text_bytes"):
            setattr(it, name, row[name])
        it.stage_settings = self.run.settings(row["stage"])
        self._edits()
        chain = self._follow(row)
        duplicates = self._duplicates()
        self._texts([step["id"] for step in chain], [pair["id"] for pair in duplicates])
        steps = zip([row, *chain], chain, strict=False)  # each with the one before it
        pairs = [Pair(before["id"], step["id"], before["stage"], before["similarity"]) for before, step in steps]
        found = self.similarities.of(pairs + _pairs(duplicates))
        it.chain = [
            Step(step["id"], step["fate"], step["stage"], step["reason"], step["source"], similarity, self._line(step["id"]))
            for step, similarity in zip(chain, found, strict=False)
        ]
        it.similarity = it.chain[0].similarity if it.chain else None
        self._list_duplicates(duplicates, found[len(pairs) :])

    def _follow(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """What a removed document duplicates, what that one duplicates when a later stage removed it, and so on."""
        chain: list[dict[str, Any]] = []
        met = {row["id"]}
        while row["duplicate_of"] is not None and row["duplicate_of"] not in met and len(chain) < _LONGEST_CHAIN:
            value = row["duplicate_of"]
            met.add(value)
            found = self.run.removed.find([value]).get(value)
            if found:
                row = {**found[1][0], "fate": "removed"}
                chain.append(row)
                continue
            kept = self.documents.kept([value]).get(value)
            source = kept.source if kept else None
            chain.append({"id": value, "fate": "kept", "stage": None, "reason": None, "source": source})
            break
        return chain

    def _kept(self, kept: Kept) -> None:
        it, row = self.it, kept.row
        it.fate, it.split, it.source, it.rank = "kept", kept.split, kept.source, kept.rank
        it.file = kept.path
        for name in ("subset", "url", "language", "n_duplicates", "is_kept"):
            setattr(it, name, row.get(name))
        if row.get("component") is not None:
            it.component = self.documents.id_of_rank(row["component"])
        self._edits()
        duplicates = self._duplicates()
        self._texts([], [pair["id"] for pair in duplicates])
        self._list_duplicates(duplicates, self.similarities.of(_pairs(duplicates)))
        if it.text is not None and it.characters is not None and it.text_bytes is None:
            whole = self.documents.text(it.id).text
            it.text_bytes = len(whole.encode()) if whole is not None else None

    def _edits(self) -> None:
        _, rows = self.run.edited.find([self.it.id]).get(self.it.id, (0, []))
        self.it.edits = [Edit(row["stage"], row["characters_before"], row["characters_after"]) for row in rows]

    def _duplicates(self) -> list[dict[str, Any]]:
        """Some of those that the document stands for, with the source and similarity that removed/ has of them."""
        table, value = self.run.duplicates, self.it.id
        self.it.n_direct_duplicates, rows = table.find([value], _DUPLICATES_LISTED).get(value, (0, []))
        level = rows
        while level and len(rows) < _DUPLICATES_LISTED:
            # Copies of a document that a later stage removed came to this one with it.
            some = table.find([row["id"] for row in level], _DUPLICATES_LISTED).values()
            level = [row for _, found in some for row in found][: _DUPLICATES_LISTED - len(rows)]
            rows = rows + level
        recorded = self.run.removed.find([row["id"] for row in rows])
        details = {value: found[0] for value, (_, found) in recorded.items()}
        nothing = {"source": None, "similarity": None}
        return [{**row, **{k: details.get(row["id"], nothing)[k] for k in nothing}} for row in rows]

    def _list_duplicates(self, rows: list[dict[str, Any]], similarities: list[Similarity]) -> None:
        self.it.duplicates = [
            Duplicate(row["id"], row["stage"], row["duplicate_of"], row["source"], similarity, self._line(row["id"]))
            for row, similarity in zip(rows, similarities, strict=True)
        ]

    def _texts(self, chain: list[str], duplicates: list[str]) -> None:
        """Read all texts that are wanted at once: the document's first, since what may be read is bounded."""
        self.documents.read_texts([self.it.id])
        self.documents.read_texts(chain)
        self.documents.read_texts(duplicates)
        own = self.documents.text(self.it.id)
        self.it.text_why_not = own.why_not if own.text is None else None
        if own.text is not None:
            self.it.text, self.it.characters = own.text[:_TEXT_CHARACTERS], len(own.text)

    def _line(self, value: str) -> str | None:
        text = self.documents.text(value).text
        return None if text is None else " ".join(text[: 4 * _LINE_CHARACTERS].split())[:_LINE_CHARACTERS]

    def _quarantined(self, value: str) -> bool:
        place = self.run.place(value)
        for row in self.run.quarantined(place, value):
            if row["id"] == value or (place is not None and row["offset"] == place.position):
                it = self.it
                it.id, it.fate, it.reason, it.source = value, "quarantined", row["reason"], row["source"]
                it.raw = self.run.quarantined_bytes(row)[:_TEXT_CHARACTERS].decode(errors="replace")
                return True
        return False


def _pairs(rows: list[dict[str, Any]]) -> list[Pair]:
    return [Pair(row["id"], row["duplicate_of"], row["stage"], row["similarity"]) for row in rows]
