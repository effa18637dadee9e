"""Python calls: run a recipe, or open what an earlier run left, and ask it things.

Nothing but the standard library is imported before it is needed, so that `import curation` costs nothing.
"""

from __future__ import annotations

import html
import os
import traceback
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset

    from curation.engine.progress import Progress
    from curation.engine.run import RunOptions
    from curation.questions.diff import Difference
    from curation.questions.explain import Explanation
    from curation.questions.lookup import FinishedRun
    from curation.questions.similar import Similar

__all__ = ["Run", "open_run", "run"]

AnyPath = str | os.PathLike[str]


def run(
    recipe: AnyPath | Mapping[str, Any],
    input: AnyPath | None = None,
    *,
    output: AnyPath,
    settings: Mapping[str, Any] | None = None,
    executor: Literal["ray", "inline"] = "ray",
    workers: int | None = None,
    address: str | None = None,
    memory_per_worker: float | None = None,
    work: AnyPath | None = None,
    limit: int | None = None,
    fresh: bool = False,
    progress: bool | Progress | None = None,
) -> Run:
    """Run a recipe, or go on with it where an earlier call was stopped; returns when it is finished.

    `recipe` is the name of one that ships, a YAML file, or a recipe as Python data; `input` is what {input} means in it,
    `output` the folder of the result (an unfinished run in it goes on), and `settings` maps "STAGE.KEY" to values:

        run = curation.run("slimpajama", input="data/", output="out/", settings={"minhash.ngram": 5})

    `workers` processes (one a CPU by default) run on an embedded Ray, or on the cluster at `address`; "inline" runs all in this
    process. `memory_per_worker` is in gigabytes, `limit` takes only the first documents of each source, `fresh` drops what an
    earlier run left. Progress shows as bars in terminals and notebooks and as lines elsewhere; False shows nothing.

    Raises ValueError for a mistake in the call, the recipe or the input before anything runs, TooManyBadRecordsError (a
    RuntimeError) when too much of the input cannot be read, RuntimeError or OSError when the run failed. After these, and after
    KeyboardInterrupt, the same call goes on with what is finished.
    """
    directory = os.fspath(output)
    if not directory:
        raise ValueError("the output is empty; name a folder, '.' for this one")
    if not isinstance(settings, Mapping | None) or not all(isinstance(key, str) for key in settings or {}):
        raise ValueError(f"settings: {settings!r} does not map names to values; write {{'minhash.ngram': 5}}")
    input_path, work_folder = (None if path is None else os.fspath(path) for path in (input, work))

    from curation.engine.progress import Progress
    from curation.engine.recipe import load_recipe

    shown = progress if isinstance(progress, Progress) else Progress(quiet=progress is False)
    try:
        loaded = load_recipe(recipe if isinstance(recipe, Mapping) else os.fspath(recipe), input_path, dict(settings or {}))

        from curation.engine.run import run_recipe

        options = checked_options(executor, workers, memory_per_worker, limit, address=address, work=work_folder, fresh=fresh)
        report = run_recipe(loaded, input_path, directory, options, shown)
    except Exception:
        if shown is not progress:
            shown.log(traceback.format_exc())
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; what was finished is kept, and the same call goes on from there") from None
    finally:
        if shown is not progress:
            shown.close()

    from curation.engine.run_folder import RunFolder

    return Run(RunFolder.at(directory, None).output, report, run_code=True)


def checked_options(
    executor: str = "ray",
    workers: int | None = None,
    memory_per_worker: float | None = None,
    limit: int | None = None,
    **others: Any,
) -> RunOptions:
    """How to run, `memory_per_worker` in gigabytes. ValueError names an argument that cannot be used."""
    from curation.engine.run import RunOptions

    if executor not in ("ray", "inline"):
        raise ValueError(f"executor {executor!r} is neither ray nor inline")
    for name, value, noun in (("workers", workers, "processes"), ("limit", limit, "documents")):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**62):
            raise ValueError(f"{name}: {value!r} is no number of {noun}; give an int, 1 or more")
    if memory_per_worker is not None and (not isinstance(memory_per_worker, int | float) or not 0 < memory_per_worker < 1e6):
        raise ValueError(f"memory per worker: {memory_per_worker!r} is no number of gigabytes")
    memory_bytes = None if memory_per_worker is None else int(memory_per_worker * 1e9)
    return RunOptions(executor=executor, workers=workers, memory_per_worker_bytes=memory_bytes, limit=limit, **others)


def open_run(directory: AnyPath, run_code: bool = False) -> Run:
    """The finished run in `directory`. ValueError when there is none, or when a newer release of the toolkit wrote it.

    `run_code` allows answers to run the code of the recipe's own stages, which the run recorded: only for folders that you trust.
    """
    from curation.questions.lookup import FinishedRun

    return Run(FinishedRun.open(os.fspath(directory), run_code))


class Run:
    """A finished run: its numbers, its tables, and answers about single documents.

    Tables are pyarrow data sets, which read nothing by themselves: `run.removed().to_table(filter=...)` reads what matches, and
    DuckDB, Polars and pandas take them as they are.
    """

    def __init__(self, place: str | FinishedRun, report: dict[str, Any] | None = None, run_code: bool = False) -> None:
        self._place, self._report, self._run_code = place, report, run_code

    @cached_property
    def _finished(self) -> FinishedRun:
        from curation.questions.lookup import FinishedRun

        return FinishedRun.open(self._place, self._run_code) if isinstance(self._place, str) else self._place

    @property
    def directory(self) -> str:
        """The folder of the run, as an absolute path or a URL."""
        return self._place if isinstance(self._place, str) else self._place.folder.output

    @property
    def report(self) -> dict[str, Any]:
        """Every count of the run, as report.json holds them: `run.report["stages"]["minhash"]["removed_documents"]`."""
        return self._report or self._finished.report

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe with every setting that was in force."""
        recipe: dict[str, Any] = self._finished.run["recipe"]
        return recipe

    def documents(self, split: str | None = None) -> pyarrow.dataset.Dataset:
        """The documents that stay, of all splits or of "train", "validation" or "test".

        Raises ValueError for a split that no run has, and for a run with JSON lines, which pyarrow cannot read compressed.
        """
        if split is not None and split not in ("train", "validation", "test"):
            raise ValueError(f"no split {split!r}; a run has train, validation and test")
        folder = "documents" if split is None else f"documents/{split}"
        paths = self._finished.paths(folder)
        if any(not path.endswith(".parquet") for path in paths):
            raise ValueError(
                f"{self.directory}/{folder} holds JSON lines with zstd, which pyarrow cannot open as a data set; use "
                f"datasets.load_dataset('json', data_files={paths!r}), or run with settings={{'output.format': 'parquet'}}"
            )
        from curation.documents import SCHEMA

        return self._dataset(paths, SCHEMA)

    def removed(self) -> pyarrow.dataset.Dataset:
        """A row a removed document: id, source, subset, stage, reason, duplicate_of, similarity, detail, text_bytes."""
        from curation.engine.removal_log import REMOVED_SCHEMA

        return self._dataset(self._finished.paths("removed"), REMOVED_SCHEMA)

    def duplicates(self) -> pyarrow.dataset.Dataset:
        """The duplicates by the id of the copy that stays: duplicate_of, id, stage."""
        from curation.engine.removal_log import DUPLICATES_SCHEMA

        return self._dataset(self._finished.paths("duplicates"), DUPLICATES_SCHEMA)

    def quarantine(self) -> pyarrow.dataset.Dataset:
        """What could not be read or processed: source, path, offset, reason, bytes (the beginning of the record), id."""
        from curation.engine.part_writer import BAD_SCHEMA

        return self._dataset(self._finished.paths("quarantine"), BAD_SCHEMA)

    def edited(self) -> pyarrow.dataset.Dataset:
        """Documents that a stage edited beyond normalisation: id, stage, characters_before, characters_after."""
        from curation.engine.removal_log import EDITED_SCHEMA

        return self._dataset(self._finished.paths("edited"), EDITED_SCHEMA)

    def explain(self, document_id: str) -> Explanation:
        """What the run did with a document, why, and which documents duplicate it; print it, or ask for its fields."""
        from curation.questions.explain import explain_in

        return explain_in(self._finished, document_id)

    def similar(self, text: str, stage: str | None = None) -> Similar:
        """The documents that resemble `text`, as the near-duplicate stage `stage` (the first by default) sees it.

        Raises ValueError when there is no such stage, nothing to compare in the text, or when work/ was dropped.
        """
        from curation.questions.similar import similar_in

        return similar_in(self._finished, text, stage)

    def diff(self, other: Run | AnyPath, output: AnyPath | None = None) -> Difference:
        """What this run (A) and `other` (B) treat differently, and what differs between their recipes and inputs.

        `output` names a Parquet file for all documents that differ.
        """
        from curation.questions.diff import compare_runs

        there = other if isinstance(other, Run) else open_run(other)
        return compare_runs(self._finished, there._finished, None if output is None else os.fspath(output))

    @staticmethod
    def _dataset(paths: list[str], schema: pa.Schema) -> pyarrow.dataset.Dataset:
        """The Parquet files as one data set; without rows where there is no file."""
        import pyarrow.dataset

        from curation import storage

        if not paths:
            return pyarrow.dataset.dataset(schema.empty_table())
        filesystem, names = storage.arrow_paths(paths)
        return pyarrow.dataset.dataset(names, format="parquet", filesystem=filesystem)

    def __repr__(self) -> str:
        return f"<Run {self._verdict()}>"

    def _repr_html_(self) -> str:
        from curation import storage

        page = storage.join(self.directory, "report.html")
        link = ""
        if not storage.is_remote(page) and os.path.exists(page):
            import pathlib

            link = f' <a href="{html.escape(pathlib.Path(page).as_uri())}" target="_blank" rel="noopener">report.html</a>'
        return f"<p>{html.escape(self._verdict())}{link}</p>"

    def _verdict(self) -> str:
        """One line for people."""
        from curation.engine.progress import printable

        documents = self.report["documents"]
        share = f" ({documents['kept'] / documents['in']:.1%})" if documents["in"] else ""
        return printable(
            f"{self.report['name']} in {self.directory}: kept {documents['kept']:,} of {documents['in']:,} documents{share}, "
            f"removed {documents['removed']:,}, {documents['quarantined']:,} could not be read"
        )
