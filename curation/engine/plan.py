"""From a recipe to units of work: which files, in which order, cut into which pieces.

The order of files (source priority, then the recipe's order, then path) fixes every rank. Units are cut without looking at the
order, so that a file added to the input changes no other unit: large files are cut by themselves, and small ones are grouped
inside their folder where a hash of the path says so.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass, field, replace

from curation import formats, storage
from curation.documents import MAXIMUM_FILES
from curation.engine.ledger import task_key
from curation.engine.recipe import Recipe, Source
from curation.formats.records import Columns, Piece
from curation.stages import MapStage, Stage

_UNIT_BYTES = (16 * 2**20, 256 * 2**20)  # raw bytes of a unit, smallest and largest
_MOST_FILES_OF_A_UNIT = 8192
_UNITS_WANTED = 4096  # units grow once an input would have more than this many
# Raw bytes for a byte of file: to balance units, and to guess how many records the unread rest of a file would have held.
_EXPANSION = {".zst": 3.5, ".zstd": 3.5, ".gz": 3.0, ".parquet": 2.5}
_SPOOLED_ROWS = 1_000_000  # of a file that a streamed data set is copied into
_FILES_TRIED = 20  # to find one with records
_SPARE_ROWS = 1000  # copied beyond a limit, and a tenth more, since bad records do not count towards it
# Members that hold the name of a document's set in SlimPajama's files, and in what the hub's loader of RedPajama yields.
_SET_NAMES = ("meta.redpajama_set_name", "red_pajama_subset")


@dataclass(frozen=True)
class InputFile:
    """A file of the input: `number` is its place in the order, `relative` its path below the pattern's fixed part."""

    number: int
    source: str
    relative: str
    format: str
    info: storage.FileInfo

    @property
    def expansion(self) -> float:
        """Estimated decompressed bytes for a byte of the file."""
        return _EXPANSION.get(os.path.splitext(self.info.path)[1], 1.0)

    @property
    def raw_bytes(self) -> int:
        """Estimated decompressed bytes."""
        return int(self.info.size * self.expansion)

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """What names the file in task keys: nothing that copying the whole input to another place would change."""
        return self.source, self.relative, self.info.size, self.info.etag


@dataclass(frozen=True)
class Unit:
    """What one task of the first pass reads: pieces of files of one source, in order."""

    key: str
    source: str
    pieces: tuple[Piece, ...]
    files: tuple[InputFile, ...]  # the file of each piece
    raw_bytes: int  # estimated


@dataclass
class Plan:
    """What would run."""

    recipe: Recipe
    sources: dict[str, Source]
    files: list[InputFile]
    units: list[Unit]
    unit_bytes: int
    unmatched: list[str] = field(default_factory=list)
    streamed: list[str] = field(default_factory=list)  # sources that are not listed, since they have to be copied first

    @property
    def raw_bytes(self) -> int:
        """Estimated decompressed bytes."""
        return sum(file.raw_bytes for file in self.files)


def columns_of(source: Source) -> Columns:
    """Which members of a source's records mean what."""
    return Columns(source.text, source.id, source.subset, source.by, tuple(sorted(source.columns.items())))


def make_plan(
    recipe: Recipe,
    input_path: str | None = None,
    unit_bytes: int | None = None,
    work: str | None = None,
    limit: int | None = None,
) -> Plan:
    """List the input and cut it. Raises ValueError when nothing matches, naming what was looked for.

    Streamed data sets are copied into the folder `work` first (no more than `limit` documents of each need), which may take
    long; without a folder they are only named in the plan.
    """
    # Tasks run in processes with another working directory.
    recipe = recipe.model_copy(update={"sources": [_placed(source) for source in recipe.sources]})
    input_path = input_path and storage.absolute(input_path)
    streamed = [source.name for source in recipe.sources if source.streaming and work is None]
    listed = [source for source in recipe.sources if source.name not in streamed]
    found = [(source, _spooled(source, work, limit) if source.streaming and work else _matching(source)) for source in listed]
    sources = list(recipe.sources)
    if not streamed and not any(files for _, files in found):
        sources, found = _fall_back(recipe, input_path)
    order = sorted(range(len(found)), key=lambda i: (found[i][0].priority, i))
    files: list[InputFile] = []
    taken: dict[str, str] = {}
    for index in order:
        source, infos = found[index]
        base = storage.fixed_part(source.path)
        for info in infos:
            place = info.path if storage.is_remote(info.path) else os.path.realpath(info.path)
            if place in taken:
                raise ValueError(f"{info.path} is met twice, in {taken[place]} and {source.name}; narrow a pattern")
            taken[place] = source.name
            _check_name(info.path)
            is_whole = source.streaming or info.path == base
            relative = os.path.basename(info.path) if is_whole else storage.relative(info.path, base)
            files.append(InputFile(len(files), source.name, relative, _format(source, info), info))
    if len(files) > MAXIMUM_FILES:
        raise ValueError(f"{len(files)} input files are more than the {MAXIMUM_FILES} that a rank can number; merge small ones")
    plan = Plan(recipe, {source.name: source for source in sources}, files, [], 0, streamed=streamed)
    plan.unit_bytes = unit_bytes or _unit_bytes(plan.raw_bytes)
    plan.units = _units(plan)
    plan.unmatched = _unmatched(input_path, taken, sources)
    return plan


def first_pass_settings(recipe: Recipe) -> list[object]:
    """Everything that decides what the first pass leaves: the part of the recipe in a unit's key."""
    stages = []
    for stage in recipe.built:
        settings = stage.observed_settings()
        stages.append([stage.name, type(stage).__name__, stage.version, settings, stage.library_versions()])
    return [unicodedata.unidata_version, stages, recipe.max_document_bytes, recipe.seed, recipe.output.split, keep_columns(recipe)]


def _placed(source: Source) -> Source:
    """The source with a path that does not depend on the working directory; the name of a data set on a hub is none."""
    if source.format == "huggingface" and not storage.exists(source.path):
        return source
    return replace_source(source, path=storage.absolute(source.path))


def _matching(source: Source) -> list[storage.FileInfo]:
    if source.format == "huggingface":
        return [formats.dataset_info(source.path, source.split)]
    return [info for info in storage.list_files(source.path) if source.format or _known(info.path)]


def _spooled(source: Source, work: str, limit: int | None) -> list[storage.FileInfo]:
    """The Parquet files that a streamed data set was copied into."""
    n_rows = None if limit is None else limit + limit // 10 + _SPARE_ROWS
    folder = storage.join(work, "spool", task_key("spool", source.path, source.split, n_rows))
    return [storage.file_info(path) for path in formats.spool(source.path, source.split, folder, _SPOOLED_ROWS, n_rows)]


def _known(path: str) -> bool:
    try:
        formats.format_of(path)
    except ValueError:
        return False
    return True


def _format(source: Source, info: storage.FileInfo) -> str:
    return formats.format_of(info.path, "parquet" if source.streaming else source.format)


def _fall_back(recipe: Recipe, input_path: str | None) -> tuple[list[Source], list[tuple[Source, list[storage.FileInfo]]]]:
    """The whole input as one source named after its folder, split by the set's name where rows have one."""
    patterns = ", ".join(source.path for source in recipe.sources)
    if input_path is None:
        raise ValueError(f"no file matches {patterns}")
    name = re.sub(r"[\s/@*?\x00-\x1f\x7f\ud800-\udfff]", "_", os.path.basename(input_path.rstrip("/")).split(".")[0]) or "input"
    template = recipe.sources[0]
    plain = {"format": None, "priority": 0, "by": None, "split": None, "streaming": False, "license": None}
    source = replace_source(template, name=name, path=input_path, **plain)
    if formats.is_dataset_directory(input_path):
        source = replace_source(source, format="huggingface")
        infos = [formats.dataset_info(input_path, split) for split in formats.dataset_splits(input_path)]
    else:
        infos = _matching(source)
    if not infos and not storage.is_pattern(input_path) and not storage.exists(input_path):
        raise ValueError(f"the input {input_path} does not exist")
    if not infos:
        raise ValueError(
            f"nothing to read: no file matches {patterns}, and {input_path} holds no {formats.KNOWN_SUFFIXES} file"
        )
    by = next((path for path in _SET_NAMES if _first_rows_have(source, infos, path, recipe.max_document_bytes)), None)
    source = replace_source(source, by=by)
    return [source], [(source, infos)]


def replace_source(source: Source, **changes: object) -> Source:
    """`source` with some fields changed."""
    return Source.model_validate({**source.model_dump(), **changes})


def _first_rows_have(source: Source, infos: list[storage.FileInfo], path: str, maximum_document_bytes: int) -> bool:
    """Whether the first file with good records has the member `path`; few are opened to find out."""
    columns = replace(columns_of(source), by=path)
    for info in infos[:_FILES_TRIED]:
        form = _format(source, info)
        try:
            piece = formats.pieces(info, form, 2**20)[0]
            for batch in formats.read(piece, columns, maximum_document_bytes=maximum_document_bytes, batch_bytes=2**20):
                if len(batch.texts):
                    return batch.by is not None and batch.by.null_count < len(batch.by)
        except OSError:
            continue  # the run itself will quarantine it
    return False


def _unmatched(input_path: str | None, taken: dict[str, str], sources: list[Source]) -> list[str]:
    if input_path is None or storage.is_pattern(input_path) or (len(taken) == 1 and storage.is_file(input_path)):
        return []
    datasets = tuple(source.path.rstrip("/") + "/" for source in sources if source.format == "huggingface")
    infos = storage.list_files(input_path)
    places = [info.path if storage.is_remote(info.path) else os.path.realpath(info.path) for info in infos]
    pairs = zip(places, infos, strict=True)
    return [info.path for place, info in pairs if place not in taken and not info.path.startswith(datasets)]


def _check_name(path: str) -> None:
    """Ids and tables hold file names as UTF-8. Raises ValueError."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name of the file {path!a} is not UTF-8; rename it") from None


def _unit_bytes(raw_bytes: int) -> int:
    smallest, largest = _UNIT_BYTES
    wanted = smallest
    while wanted < largest and wanted * _UNITS_WANTED < raw_bytes:
        wanted *= 2
    return wanted


def _units(plan: Plan) -> list[Unit]:
    settings = first_pass_settings(plan.recipe)
    units: list[Unit] = []
    group: list[InputFile] = []
    group_bytes = 0

    def add(files: list[InputFile], pieces: list[Piece], raw_bytes: int) -> None:
        source = plan.sources[files[0].source]
        what = [[*file.identity, piece.start, piece.end] for file, piece in zip(files, pieces, strict=True)]
        columns = source.model_dump(mode="json", exclude={"path", "priority", "license"})
        key = task_key("first pass", settings, columns, what)
        units.append(Unit(key, source.name, tuple(pieces), tuple(files), raw_bytes))

    def close() -> None:
        nonlocal group_bytes
        group_bytes = 0
        if group:
            add(list(group), [_whole(file) for file in group], sum(file.raw_bytes for file in group))
            group.clear()

    for file in plan.files:
        if group and (file.source != group[0].source or os.path.dirname(file.relative) != os.path.dirname(group[0].relative)):
            close()
        if file.raw_bytes >= plan.unit_bytes // 4 or file.format == "huggingface":
            close()
            pieces = _pieces(file, plan.unit_bytes)
            for piece in pieces:
                add([file], [piece], file.raw_bytes // len(pieces))
            continue
        group.append(file)
        group_bytes += file.raw_bytes
        # Ends here by chance in proportion to the file's size, so that the border depends on this file alone.
        digest = hashlib.blake2b(os.fsencode(file.relative), digest_size=8).digest()
        ends = int.from_bytes(digest, "little") / 2**64 < file.raw_bytes / plan.unit_bytes
        if ends or group_bytes > 4 * plan.unit_bytes or len(group) >= _MOST_FILES_OF_A_UNIT:
            close()
    close()
    return units


def limited(plan: Plan, limit: int | None) -> Plan:
    """The plan for the first `limit` documents of each source: one unit a source, since they are read in order."""
    if limit is None:
        return plan
    by_source: dict[str, list[Unit]] = {}
    for unit in plan.units:
        by_source.setdefault(unit.source, []).append(unit)
    units = []
    for source, some in by_source.items():
        pieces = tuple(piece for unit in some for piece in unit.pieces)
        files = tuple(file for unit in some for file in unit.files)
        key = task_key("limited", limit, [unit.key for unit in some])
        units.append(Unit(key, source, pieces, files, min(limit * 5000, sum(unit.raw_bytes for unit in some))))
    return replace(plan, units=units)


def keep_columns(recipe: Recipe) -> tuple[str, ...]:
    """Columns that keep rules compare. ValueError when a source does not lift one, and no stage before could make it."""
    wanted: set[str] = set()
    made = False
    for stage in recipe.built:
        made |= isinstance(stage, MapStage) and stage.needs_columns
        for column in _compared(stage):
            wanted.add(column)
            missing = [source.name for source in recipe.sources if column not in source.columns]
            if missing and not made:
                raise ValueError(
                    f"keep: 'highest: {column}' needs that column in every source; "
                    f"give source {missing[0]} `columns: {{{column}: meta.{column}}}`"
                )
    return tuple(sorted(wanted))


def _compared(stage: Stage) -> list[str]:
    rules = getattr(stage.settings, "keep_rules", [])
    return [rule.removeprefix("highest:").strip() for rule in rules if rule.startswith("highest:")]


def _whole(file: InputFile) -> Piece:
    return Piece(file.info.path, file.format, 0, -1)


def _pieces(file: InputFile, unit_bytes: int) -> list[Piece]:
    try:
        return formats.pieces(file.info, file.format, unit_bytes)
    except OSError:
        return [_whole(file)]  # unreadable: the first pass quarantines it
