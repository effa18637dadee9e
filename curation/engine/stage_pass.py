"""One batch through all stages in the first pass: who goes and why, what was measured, edited, added and observed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.documents import DocumentBatch, document_id
from curation.formats.records import BadRecord, Batch, bad_record
from curation.stages import DocumentFailuresError, GlobalStage, MapResult, MapStage, Stage

KEPT = 255  # `removed_by` of a document that no map stage removes
ROW = "@row"  # in KEY-N.columns, where a column that a stage made may have any identifier for a name


@dataclass(frozen=True)
class Measure:
    """What a map stage measured of n documents, float64[n], and where its decision turns."""

    values: np.ndarray
    threshold: float | None
    unit: str


@dataclass
class Passed:
    """A batch of n documents after all stages, and what each stage left by its name."""

    documents: DocumentBatch
    removed_by: np.ndarray  # uint8[n], index of the stage, or KEPT
    reasons: dict[int, str] = field(default_factory=dict)  # row -> reason, where a stage gave one of its own
    measures: dict[str, Measure] = field(default_factory=dict)
    edits: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # "row", characters "before" and "after", uint32
    columns: dict[str, pa.Array] = field(default_factory=dict)  # that stages made, n values
    observed: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # by global stages


def needs_columns(stages: list[Stage]) -> bool:
    """Whether a stage looks at more than texts."""
    return any(isinstance(stage, MapStage) and stage.needs_columns for stage in stages)


def pass_stages(stages: list[Stage], documents: DocumentBatch) -> Passed:
    """Run all stages over a batch. Raises DocumentFailuresError with rows of the batch."""
    passed = Passed(documents, np.full(len(documents), KEPT, np.uint8))
    for index, stage in enumerate(stages):
        if isinstance(stage, MapStage):
            _apply(passed, index, stages)
        elif isinstance(stage, GlobalStage):
            passed.observed[stage.name] = stage.observe(passed.documents, passed.removed_by == KEPT)
    return passed


def _apply(passed: Passed, index: int, stages: list[Stage]) -> None:
    stage, documents, n = stages[index], passed.documents, len(passed.documents)
    assert isinstance(stage, MapStage)
    rows = np.flatnonzero(passed.removed_by == KEPT) if stage.living_only else np.arange(n)
    if not len(rows):
        return
    try:
        result = stage.apply(documents.take(rows))
    except DocumentFailuresError as error:
        failures = {int(rows[row]): message for row, message in error.failures.items()}
        raise DocumentFailuresError(stage.name, failures) from None
    result = _spread(result, documents, rows)
    if result.texts is not None:
        _refuse_edits_after_comparison(passed, index, stages, result)
    if stage.logs_edits and result.texts is not None:
        passed.edits[stage.name] = _edits(documents.texts, result.texts)
    if result.removed is not None:
        gone = (passed.removed_by == KEPT) & result.removed
        passed.removed_by[gone] = index
        if result.reason is not None:
            for row in np.flatnonzero(gone).tolist():
                reason = result.reason if isinstance(result.reason, str) else result.reason[row]
                if reason is not None:
                    passed.reasons[row] = reason
    if result.measure is not None:
        passed.measures[stage.name] = Measure(result.measure, result.threshold, result.unit)
    passed.columns.update(result.columns)
    passed.documents = documents.after(result.texts, result.columns)


def _refuse_edits_after_comparison(passed: Passed, index: int, stages: list[Stage], result: MapResult) -> None:
    """Raise ValueError when a document stays whose text changes, and a stage before compares it in the end (`verify: exact`): what
    stays is stored as all stages left it."""
    compares = [stage.name for stage in stages[:index] if getattr(stage.settings, "verify", "none") == "exact"]
    if not compares:
        return
    changed = np.asarray(pc.not_equal(passed.documents.texts, result.texts)) & (passed.removed_by == KEPT)
    rows = np.flatnonzero(changed if result.removed is None else changed & ~result.removed)
    if len(rows):
        columns = passed.documents.columns
        named = "" if columns is None else f", of {columns.column('id')[int(rows[0])].as_py()!r} for example"
        raise ValueError(
            f"{stages[index].name} edits texts{named}, after {compares[-1]}, which compares whole texts (verify: exact); "
            f"put {stages[index].name} before {compares[-1]}"
        )


def _spread(result: MapResult, documents: DocumentBatch, rows: np.ndarray) -> MapResult:
    """A result for `rows` of the batch as one for the whole batch."""
    n = len(documents)
    if len(rows) == n:
        return result
    place = np.full(n, -1, np.int64)
    place[rows] = np.arange(len(rows))
    at = pa.array(place, mask=place < 0)
    removed, measure, texts, reason = result.removed, result.measure, result.texts, result.reason
    if removed is not None:
        removed = np.where(place >= 0, removed[place], False)
    if measure is not None:
        measure = np.where(place >= 0, measure[place], np.nan)
    if texts is not None:
        texts = pc.replace_with_mask(documents.texts, pa.array(place >= 0), texts)
    if reason is not None and not isinstance(reason, str):
        reason = [None if index < 0 else reason[index] for index in place.tolist()]
    columns = {name: column.take(at) for name, column in result.columns.items()}
    return MapResult(removed, reason, texts, columns, measure, result.threshold, result.unit)


def _edits(before: pa.LargeStringArray, after: pa.LargeStringArray) -> dict[str, np.ndarray]:
    """Rows whose text changed, and their characters before and after."""
    rows = np.flatnonzero(np.asarray(pc.not_equal(before, after)))
    at = pa.array(rows)
    lengths = {name: np.asarray(pc.utf8_length(texts.take(at))) for name, texts in (("before", before), ("after", after))}
    return {"row": rows.astype(np.uint32), **{name: values.astype(np.uint32) for name, values in lengths.items()}}


def document_batch(batch: Batch, source: str, relative: str, with_columns: bool) -> DocumentBatch:
    """The records of a file as stages see them; columns only when a stage asks for them."""
    if not with_columns:
        return DocumentBatch(batch.positions, batch.texts)
    assert batch.details is not None
    ids = batch.ids
    if ids is None:
        ids = pa.array([document_id(source, relative, position) for position in batch.positions.tolist()], pa.string())
    sources = pa.array([source] * len(ids), pa.string())
    if batch.by is not None:
        sources = pc.coalesce(batch.by.cast(pa.string()), sources)
    names = ["id", "source", *batch.details.schema.names]
    return DocumentBatch(
        batch.positions, batch.texts, pa.RecordBatch.from_arrays([ids.cast(pa.string()), sources, *batch.details.columns], names)
    )


def without(batch: Batch, documents: DocumentBatch, error: DocumentFailuresError) -> tuple[Batch, list[BadRecord]]:
    """The batch without the documents on which a stage failed, and those as bad records that hold their text."""
    failures = error.failures
    stay = np.ones(len(batch.texts), bool)
    stay[list(failures)] = False
    mask = pa.array(stay)
    ids, by, details = (None if array is None else array.filter(mask) for array in (batch.ids, batch.by, batch.details))
    assert documents.columns is not None
    bad = []
    for row, reason in sorted(failures.items()):
        record = bad_record(int(batch.positions[row]), reason, batch.texts[row].as_py().encode())
        bad.append(replace(record, stage=error.stage, id=documents.columns.column("id")[row].as_py()))
    return Batch(batch.positions[stay], batch.texts.filter(mask), ids, by, details), bad


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type of a column that is `one` in a batch and `other` in the next; None when there is none.

    A function that returns lists gives integers for one batch and floats for another without meaning it.

    >>> common_type(pa.int64(), pa.float64()), common_type(pa.null(), pa.string()), common_type(pa.int64(), pa.string())
    (DataType(double), DataType(string), None)
    """
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    integers = [pa.types.is_integer(kind) for kind in (one, other)]
    if all(integers):
        return None if pa.uint64() in (one, other) else pa.int64()
    floats = [pa.types.is_floating(kind) for kind in (one, other)]
    return pa.float64() if all(i or f for i, f in zip(integers, floats, strict=True)) else None


def joined_columns(tables: list[pa.Table]) -> pa.Table:
    """The columns that stages made of several batches; names sorted. Raises ValueError when their types do not agree."""
    kinds: dict[str, pa.DataType] = {}
    for table in tables:
        for column in table.schema:
            kind = common_type(kinds.get(column.name, pa.null()), column.type)
            if kind is None:
                types = f"{kinds[column.name]} in one batch and {column.type} in another"
                raise ValueError(f"the column {column.name!r} that a stage made is {types}")
            kinds[column.name] = kind
    names = [ROW, *sorted(set(kinds) - {ROW})]
    whole = []
    for table in tables:
        have = table.column_names
        columns = [table[name].cast(kinds[name]) if name in have else pa.nulls(len(table), kinds[name]) for name in names]
        whole.append(pa.table(columns, names))
    return pa.concat_tables(whole).combine_chunks()


def compared_column(name: str, batch: Batch, passed: Passed) -> np.ndarray:
    """The values that a keep rule compares, float64[n]: of a column that a stage made, or that was lifted."""
    n = len(batch.texts)
    column = passed.columns.get(name)
    if column is None and batch.details is not None and name in batch.details.schema.names:
        column = batch.details.column(name)
    if column is None:
        if (passed.removed_by != KEPT).all():  # no stage of the user's was asked
            return np.full(n, np.nan)
        raise ValueError(
            f"keep: 'highest: {name}': a batch has no such column: no source lifts it, and no stage before made it there; "
            "a function must return it for every batch, with None where a document has none"
        )
    if pa.types.is_string(column.type):
        raise ValueError(f"keep: 'highest: {name}': the column holds strings; make it a number")
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
