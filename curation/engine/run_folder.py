"""The folder that a run leaves: what stands in it, whether an earlier run may be continued in it, and how results appear.

Results are built under DIR/.staging and moved into place at the end, so that a tool that opens the folder meets a consistent set;
run.json says what the run was, what it read, and which files it consists of.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import unicodedata
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson

from curation import storage
from curation.engine.ledger import ledger_root, task_key
from curation.engine.lock import LOCK_NAME, locked
from curation.engine.plan import Plan
from curation.report import PAGE

FORMAT_VERSION = 2
RESULT_FOLDERS = ("documents", "removed", "duplicates", "edited", "quarantine", "samples")
# Made after publishing from report.json, run.json and samples/ alone. A person may keep a README.md of their own in DIR: those that
# a run made hold the mark.
MADE_BY = "made by moxin-curation from report.json and run.json"
DERIVED = {PAGE: "", "README.md": MADE_BY, "croissant.json": MADE_BY}
# Libraries whose version can change a decision or a byte of the output.
_DECIDING = ("ftfy", "numpy", "pyarrow", "xxhash", "orjson", "zstandard", "datasketch", "numba", "datasets", "ray")


@dataclass(frozen=True)
class RunFolder:
    """DIR and its work folder."""

    output: str
    work: str

    @classmethod
    def at(cls, output: str, work: str | None) -> RunFolder:
        """`work` None: DIR/work, or a folder on local disk when DIR is in an object store."""
        output, work = storage.absolute(output), work and storage.absolute(work)
        if work is None and storage.is_remote(output):
            work = os.path.join(tempfile.gettempdir(), f"curate-work-{task_key(output)[:16]}")
        return cls(output, work or storage.join(output, "work"))

    @property
    def work_is_elsewhere(self) -> bool:
        """Whether the work folder lies outside DIR, so that two runs could be given the same one."""
        return not self.work.startswith(self.output.rstrip("/") + "/")

    @property
    def staging(self) -> str:
        """Where results are built."""
        return storage.join(self.output, ".staging")

    @property
    def ledger(self) -> str:
        """The ledger: on local disk, beside the intermediates where these are local."""
        if storage.is_remote(self.work):
            return os.path.join(tempfile.gettempdir(), f"curate-work-{task_key(self.output)[:16]}", "ledger.jsonl")
        return storage.join(self.work, "ledger.jsonl")

    def read(self, name: str) -> dict[str, Any] | None:
        """DIR/name as JSON; None when it is not there. ValueError when it is something else."""
        path = storage.join(self.output, name)
        if not storage.exists(path):
            return None
        try:
            content = json.loads(storage.read_bytes(path))
        except ValueError:
            content = None
        if not isinstance(content, dict) or "format_version" not in content:
            raise ValueError(f"{path} was not written by a run, or is damaged; give another output folder")
        return content

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Commit `content` as DIR/name."""
        data = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
        storage.write_bytes(storage.join(self.output, name), data + b"\n")

    def may_replace(self, name: str) -> bool:
        """Whether DIR/`name`, one of the derived files, is not there or was made by a run."""
        path = storage.join(self.output, name)
        return not storage.exists(path) or DERIVED[name].encode() in storage.read_bytes(path)

    def drop_derived(self) -> None:
        """Delete what was made from the reports of an earlier run."""
        for name in DERIVED:
            if self.may_replace(name):
                storage.delete(storage.join(self.output, name))

    def empty(self) -> None:
        """Forget an earlier run (`--fresh`); run.json goes last, so that a kill leaves a folder that is still known as a run's."""
        _clear(self.work)
        storage.delete_tree(self.staging)
        if os.path.exists(self.ledger):
            os.unlink(self.ledger)
        for name in RESULT_FOLDERS:
            storage.delete_tree(storage.join(self.output, name))
        self.drop_derived()
        for name in ("report.json", "run.json"):
            if storage.exists(storage.join(self.output, name)):
                storage.delete(storage.join(self.output, name))


def _clear(directory: str) -> None:
    """Empty a work folder, but for the locks of this very run."""
    if storage.is_remote(directory):
        for info in storage.list_files(directory):  # which leaves out names that start with a dot
            storage.delete(info.path)
        return
    for name in os.listdir(directory) if os.path.isdir(directory) else []:
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            storage.delete_tree(path)
        elif not name.startswith(LOCK_NAME):
            os.unlink(path)


def check_places(inputs: list[str], folder: RunFolder) -> None:
    """Refuse an output inside the input and the other way round, since a later run would read its own results.

    The same for a work folder that holds the output or lies among the results, which would be deleted with it.
    """
    for name, place in (("output", folder.output), ("work folder", folder.work)):
        for path in inputs:
            if _would_read(path, place) or _inside(storage.fixed_part(path), place):
                raise ValueError(f"the {name} {place} and the input {path} lie inside one another; give an output elsewhere")
    results = [storage.join(folder.output, name) for name in RESULT_FOLDERS] + [folder.staging]
    if _inside(folder.output, folder.work) or any(_inside(folder.work, result) for result in results):
        raise ValueError(f"the work folder {folder.work} and the results in {folder.output} would mix; give one elsewhere")


def _would_read(pattern: str, place: str) -> bool:
    """Whether a later listing of the input could meet files in `place`: a folder is listed with all below it, `*` with nothing."""
    fixed = storage.fixed_part(pattern)
    if storage.is_pattern(pattern) and "**" not in pattern:
        levels = pattern[len(fixed) :].strip("/").count("/")
        return _inside(place, fixed) and storage.relative(place, fixed).count("/") < levels
    return _inside(place, fixed)


def _inside(path: str, folder: str) -> bool:
    if storage.is_remote(path) != storage.is_remote(folder):
        return False
    if not storage.is_remote(path):
        path, folder = os.path.realpath(path), os.path.realpath(folder)
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def check_not_foreign(folder: RunFolder) -> None:
    """Refuse folders with files that no run left there: a run replaces, and `--fresh` deletes, what has its names."""
    for name, place in (("output", folder.output), ("work folder", folder.work)):
        if not storage.is_remote(place) and os.path.exists(place) and not os.path.isdir(place):
            raise ValueError(f"the {name} {place} is a file; give a folder")
    if folder.read("run.json") is None:
        foreign = [name for name in RESULT_FOLDERS if storage.exists(storage.join(folder.output, name))]
        if foreign:
            raise ValueError(f"{folder.output} holds {foreign[0]}/ but no run.json, so no run made it; give another folder")
    owner = ledger_root(folder.ledger)
    if owner is not None and owner != folder.output:
        run = RunFolder(owner, folder.work).read("run.json")
        if run is not None and run.get("status") != "complete":
            raise ValueError(f"the work folder {folder.work} belongs to the unfinished run in {owner}; give another --work")
    made_by_a_run = folder.read("run.json") is not None and not folder.work_is_elsewhere
    if not made_by_a_run and not storage.is_remote(folder.work) and not os.path.exists(folder.ledger):
        foreign = [name for name in _listed(folder.work) if name != "spool"]
        if foreign:
            raise ValueError(f"the work folder {folder.work} holds {foreign[0]}, which no run left there; give an empty one")


def _listed(directory: str) -> list[str]:
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(name for name in names if not name.startswith("."))


def another_format(place: str, run: dict[str, Any]) -> ValueError:
    """What is raised where run.json or report.json is of another format version than this release's."""
    version = run["format_version"]
    is_older = isinstance(version, int) and version < FORMAT_VERSION
    remedy = "give the command of the run again to make it anew" if is_older else "use a newer release of the toolkit"
    return ValueError(f"{place} was written in format version {version}, this is version {FORMAT_VERSION}; {remedy}")


def check_same_run(earlier: dict[str, Any] | None, folder: RunFolder, plan: Plan, limit: int | None) -> None:
    """Refuse to mix two runs in one folder. Raises ValueError that offers `--fresh` or another folder."""
    if earlier is None:
        return
    remedy = "give another output folder, or --fresh to replace it"
    if earlier["format_version"] > FORMAT_VERSION:
        raise another_format(folder.output, earlier)
    if earlier["recipe"]["name"] != plan.recipe.name:
        raise ValueError(f"{folder.output} holds a run of {earlier['recipe']['name']}, not of {plan.recipe.name}; {remedy}")
    if sorted(earlier["sources"]) != sorted(plan.sources):
        raise ValueError(
            f"{folder.output} holds a run over the sources {', '.join(sorted(earlier['sources']))}, "
            f"not {', '.join(sorted(plan.sources))}; {remedy}"
        )
    if earlier.get("limit") != limit:
        before_limit, asked = (
            "over the whole input" if n is None else f"with --limit {n}" for n in (earlier.get("limit"), limit)
        )
        raise ValueError(f"{folder.output} holds a run {before_limit}, not {asked}; {remedy}")
    before = {tuple(entry[:2]) for entry in earlier["input"]["files"]}
    if before and not plan.streamed and not any((file.source, file.relative) in before for file in plan.files):
        raise ValueError(f"{folder.output} holds a run over other files: none of today's input is among them; {remedy}")


def describe_run(plan: Plan, input_path: str | None, limit: int | None, key: str, work: str) -> dict[str, Any]:
    """The part of run.json that is known before anything runs."""
    files = [[f.source, f.relative, f.info.size, f.info.etag, f.info.mtime_ns] for f in plan.files]
    return {
        "format_version": FORMAT_VERSION,
        "status": "running",
        "key": key,
        "recipe": plan.recipe.resolved(),
        "sources": list(plan.sources),
        "limit": limit,
        "work": work,
        "unit_bytes": plan.unit_bytes,
        "input": {"path": input_path and storage.absolute(input_path), "files": files},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """What decides results besides recipe and input: the package, its format, Python's Unicode tables, libraries."""
    found = {"format": str(FORMAT_VERSION), "python": platform.python_version(), "unicode": unicodedata.unidata_version}
    for name in ("moxin-curation", *_DECIDING):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def publish(folder: RunFolder) -> None:
    """Put the staged files that run.json lists into place, and nothing else beside them; may be repeated after a kill."""
    run = folder.read("run.json")
    assert run is not None
    moves = {relative: staged for staged, relative in run["moves"]}
    for name in RESULT_FOLDERS:
        place = storage.join(folder.output, name)
        for info in storage.list_files(place) if storage.exists(place) else []:
            if f"{name}/{storage.relative(info.path, place)}" not in moves:
                storage.delete(info.path)
    for relative, staged in moves.items():
        place = storage.join(folder.output, staged)
        if storage.exists(place):
            storage.move(place, storage.join(folder.output, relative))
    storage.delete_tree(folder.staging)
    del run["moves"]
    # Where a staged file was lost in the meantime, its step is run again.
    folder.write("run.json", {**run, "status": "complete" if results_are_there(run, folder) else "running"})


def results_are_there(run: dict[str, Any], folder: RunFolder) -> bool:
    """Whether the files that run.json names stand in the folder, at their sizes."""
    paths = [(storage.join(folder.output, entry["path"]), entry["bytes"]) for entry in run["outputs"]]
    return all(storage.exists(path) and storage.file_size(path) == n_bytes for path, n_bytes in paths)


def clean(output: str, work: str | None = None) -> dict[str, int]:
    """Drop the work folder of a run; {"files", "bytes"} that were freed. ValueError when `output` holds no run."""
    folder = RunFolder.at(output, work)
    run = folder.read("run.json")
    if run is None:
        raise ValueError(f"{output} holds no run (no run.json)")
    elsewhere = RunFolder(folder.output, run.get("work") or folder.work)
    if work is None and ledger_root(elsewhere.ledger) == folder.output:
        folder = elsewhere
    with locked(folder.output):
        run = folder.read("run.json")
        if run is not None and run["status"] == "publishing":
            publish(folder)
        return _drop_work(folder)


def _drop_work(folder: RunFolder) -> dict[str, int]:
    freed = {"files": 0, "bytes": 0}
    for place in (folder.work, folder.staging):
        for info in storage.list_files(place) if storage.exists(place) else []:
            freed["files"] += 1
            freed["bytes"] += info.size
        storage.delete_tree(place)
    if os.path.exists(folder.ledger):
        os.unlink(folder.ledger)
    return freed
