"""What differs between two runs before any document is looked at: settings, libraries, input files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from curation.questions.lookup import FinishedRun, ListedFile

_NAMED_FILES = 5
# Where the input lies, and what the recipe says of itself, decide nothing; the libraries of stages are among those of the run.
_NOT_SETTINGS = {"path", "deviations", "published", "versions"}


@dataclass(frozen=True)
class ChangedValue:
    """A setting or a version that differs; None where a run has no such."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Files:
    """Input files of one kind: how many, their size, the first names."""

    files: int
    bytes: int
    first: list[str]


@dataclass(frozen=True)
class InputChanges:
    """The input files of two runs. Touched ones have the same size but another time or tag: their content may be the same."""

    a: str | None  # what --input was
    b: str | None
    same_files: int
    only_in_a: Files
    only_in_b: Files
    resized: Files
    touched: Files


@dataclass(frozen=True)
class SharedFiles:
    """The input files of which both runs read the same records: all of them, or those whose made-up ids begin with a prefix."""

    everything: bool
    prefixes: tuple[str, ...] = ()


def setting_changes(run_a: dict[str, Any], run_b: dict[str, Any]) -> list[ChangedValue]:
    """The settings that differ between two contents of run.json."""
    return _changed(_settings(run_a), _settings(run_b))


def version_changes(run_a: dict[str, Any], run_b: dict[str, Any]) -> list[ChangedValue]:
    """The libraries that differ."""
    return _changed(run_a.get("versions", {}), run_b.get("versions", {}))


def _changed(a: dict[str, Any], b: dict[str, Any]) -> list[ChangedValue]:
    return [ChangedValue(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]


def _settings(run: dict[str, Any]) -> dict[str, Any]:
    """Every setting by its name, "minhash.threshold" for example.

    >>> _settings({"recipe": {"name": "x", "sources": [], "stages": [{"name": "length", "minimum_characters": 3}]}, "limit": None})
    {'name': 'x', 'limit': None, 'stages': ['length'], 'length.minimum_characters': 3}
    """
    recipe = {key: value for key, value in run["recipe"].items() if key not in ("sources", "stages")}
    found = dict(_flat("", {**recipe, "limit": run["limit"]}))
    for source in run["recipe"]["sources"]:
        found |= dict(_flat(f"sources.{source['name']}.", {key: value for key, value in source.items() if key != "name"}))
    found["stages"] = [stage["name"] for stage in run["recipe"]["stages"]]
    for stage in run["recipe"]["stages"]:
        found |= dict(_flat(f"{stage['name']}.", {key: value for key, value in stage.items() if key != "name"}))
        own = {key: value for key, value in stage.get("versions", {}).items() if key not in run.get("versions", {})}
        found |= dict(_flat(f"{stage['name']}.", own))
    return found


def _flat(prefix: str, settings: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if key in _NOT_SETTINGS:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def input_changes(run_a: FinishedRun, run_b: FinishedRun) -> InputChanges:
    """How the input files of two runs differ."""
    a, b = _by_name(run_a), _by_name(run_b)
    both = [name for name in a if name in b]
    resized = [name for name in both if a[name].size != b[name].size]
    same_content = _same_content(run_a, run_b)
    touched = [name for name in both if not (same_content or _is_same(a[name], b[name])) and a[name].size == b[name].size]
    return InputChanges(
        a=run_a.run["input"]["path"],
        b=run_b.run["input"]["path"],
        same_files=len(both) - len(resized) - len(touched),
        only_in_a=_listed([a[name] for name in a if name not in b]),
        only_in_b=_listed([b[name] for name in b if name not in a]),
        resized=_listed([b[name] for name in resized]),
        touched=_listed([b[name] for name in touched]),
    )


def _listed(files: list[ListedFile]) -> Files:
    return Files(len(files), sum(file.size for file in files), [f"{file.source}/{file.relative}" for file in files[:_NAMED_FILES]])


def _by_name(run: FinishedRun) -> dict[tuple[str, str], ListedFile]:
    return {(file.source, file.relative): file for file in run.files}


def _is_same(one: ListedFile, other: ListedFile) -> bool:
    """Whether two listings show the same content; False where they do not tell."""
    if one.etag or other.etag:
        return one.etag == other.etag and one.size == other.size
    return one.mtime_ns == other.mtime_ns and one.size == other.size


def _same_content(run_a: FinishedRun, run_b: FinishedRun) -> bool:
    """Whether all that the two runs read is the same, by the hashes that they took of it."""
    a, b = (run.report.get("fingerprints", {}).get("input") for run in (run_a, run_b))
    return a is not None and a == b


def shared_files(run_a: FinishedRun, run_b: FinishedRun, unlike: set[tuple[str, str]]) -> SharedFiles:
    """The files of which both runs read the same records; of `unlike` ones (source, path) their quarantines differ.

    A limit ends files anywhere, and ids of the input's own do not name their file: then it is all files or none.
    """
    a, b = _by_name(run_a), _by_name(run_b)
    formats_a, formats_b = ({name: source.format for name, source in run.sources.items()} for run in (run_a, run_b))
    same_content = _same_content(run_a, run_b)
    shared = [
        name
        for name in a
        if name in b
        and name not in unlike
        and (same_content or _is_same(a[name], b[name]))
        and formats_a.get(name[0]) == formats_b.get(name[0])
    ]
    ids_a, ids_b = ({name: source.id for name, source in run.sources.items()} for run in (run_a, run_b))
    same_read = (
        len(shared) == len(a) == len(b)
        and ids_a == ids_b
        and run_a.run["limit"] == run_b.run["limit"]
        and _documents_in(run_a) == _documents_in(run_b)
    )
    limited = run_a.run["limit"] is not None or run_b.run["limit"] is not None
    if same_read or limited or run_a.has_own_ids or run_b.has_own_ids:
        return SharedFiles(same_read)
    # Where the lists are equal and what was read is not, something is amiss with the lists.
    return SharedFiles(False, () if len(shared) == len(a) == len(b) else tuple(f"{source}/{path}@" for source, path in shared))


def _documents_in(run: FinishedRun) -> int | None:
    documents: dict[str, int] = run.report.get("documents", {})
    return documents.get("in")
