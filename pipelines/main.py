"""The `curate` command: options in, exit code out. What it runs is imported when a command needs it."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from curation.engine.progress import Progress

FAILED, USAGE_ERROR, TOO_MANY_BAD_RECORDS, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    help="Curate text for language-model pre-training: recipes of filters and deduplication, from files to files.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _recipes_starting_with(incomplete: str) -> list[str]:
    from curation.engine.recipe import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


class ExecutorName(StrEnum):
    """Where tasks run."""

    ray = "ray"
    inline = "inline"


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe that ships (`curate recipes` lists them), or a YAML file.",
        autocompletion=_recipes_starting_with,
    ),
]
InputOption = Annotated[str | None, typer.Option("--input", metavar="PATH", help="What {input} means in the recipe.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Override a setting; VALUE is YAML. Repeatable."),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Worker processes. [default: one a CPU]")]
MemoryOption = Annotated[
    float | None,
    typer.Option("--memory-per-worker", min=0.1, metavar="GB", help="What a worker may use."),
]
RunCodeOption = Annotated[bool, typer.Option("--run-code", help="Run the code of the recipe's own stages again, if you trust it.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version, and those of what decides results."),
    ] = False,
) -> None:
    if version:
        typer.echo(version_text())
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeArgument,
    output: Annotated[str, typer.Option(metavar="DIR", help="Folder of the result; an unfinished run in it goes on.")],
    input_path: InputOption = None,
    settings: SetOption = None,
    executor: Annotated[ExecutorName, typer.Option(help="On Ray, or in this process.")] = ExecutorName.ray,
    address: Annotated[
        str | None, typer.Option(metavar="A", help="A Ray cluster. [default: RAY_ADDRESS, else an embedded Ray]")
    ] = None,
    workers: WorkersOption = None,
    memory_per_worker: MemoryOption = None,
    work: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="For shuffle files and the ledger. [default: DIR/work]"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=2**62, metavar="DOCUMENTS", help="Only the first of each source.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Drop what an earlier run left in the output folder.")] = False,
    debug: DebugOption = False,
) -> None:
    """Run a recipe. Starting it again continues where it stopped."""
    from curation.engine.progress import Progress

    progress, again = Progress(), resume_command(sys.argv)
    with _outcome(debug, progress, again):
        import curation

        finished = curation.run(
            recipe,
            input_path,
            output=output,
            settings=parse_settings(settings or []),
            executor=executor.value,
            workers=workers,
            address=address,
            memory_per_worker=memory_per_worker,
            work=work,
            limit=limit,
            fresh=fresh,
            progress=progress,
        )
        progress.close()

        from curation.report.terminal import print_summary

        report = finished.report
        report["commands"] = {**report.get("commands", {}), "resume": again}
        try:
            print_summary(report)
            sys.stdout.flush()
        except OSError as error:  # the reader of a pipe is gone, or its disk is full: the run itself is complete
            progress.log(f"the summary could not be printed: {error}")
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - so that the interpreter's last flush fails nowhere


@app.command()
def plan(
    recipe: RecipeArgument,
    input_path: InputOption = None,
    settings: SetOption = None,
    workers: WorkersOption = None,
    memory_per_worker: MemoryOption = None,
    debug: DebugOption = False,
) -> None:
    """Show what a run would do: files, tasks, memory, disk, storage requests. Nothing is run."""
    with _outcome(debug):
        from curation.engine.plan import make_plan
        from curation.engine.recipe import load_recipe
        from curation.engine.run import plan_summary
        from curation.report.terminal import print_plan
        from curation.runs import checked_options

        loaded = load_recipe(recipe, input_path, parse_settings(settings or []))
        options = checked_options(workers=workers, memory_per_worker=memory_per_worker)
        print_plan(plan_summary(make_plan(loaded, input_path), options))


@app.command()
def sample(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder to fill, in RedPajama's layout.")],
    megabytes: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of text, at most. [default: 128]")] = None,
    debug: DebugOption = False,
) -> None:
    """Collect a local sample from the text that this Python installation holds."""
    from curation.engine.progress import Progress

    progress = Progress()
    with _outcome(debug, progress):
        from curation.sample import DEFAULT_MEGABYTES, write_sample

        with progress.step("sample", 1, int((megabytes or DEFAULT_MEGABYTES) * 1e6)):
            counted = 0

            def count(n_bytes: int, _most: int) -> None:
                nonlocal counted
                progress.advance(0, raw_bytes=n_bytes - counted)
                counted = n_bytes

            written = write_sample(directory, megabytes, count)
            progress.advance()
        progress.close()
        typer.echo(
            f"{written['documents']:,} documents, {written['bytes'] / 1e6:,.1f} MB of text, "
            f"{written['files']:,} files in {directory}"
        )


@app.command()
def diff(
    one: Annotated[str, typer.Argument(metavar="DIR_A", help="Folder of a run.")],
    other: Annotated[str, typer.Argument(metavar="DIR_B", help="Folder of another run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    output: Annotated[
        str | None, typer.Option(metavar="FILE.parquet", help="Also write every document that differs.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Show which documents two runs treat differently, and what differs between their recipes and inputs."""
    with _outcome(debug):
        from curation.questions.answers import print_answer
        from curation.questions.diff import compare

        print_answer(compare(one, other, output), as_json)


@app.command()
def explain(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a run.")],
    document_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a document, or SOURCE/PATH@OFFSET.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    run_code: RunCodeOption = False,
    debug: DebugOption = False,
) -> None:
    """Say why a document is, or is not, in the output, and what duplicates it has. Exit code 1 when the run does not know it."""
    with _outcome(debug):
        from curation.questions.answers import print_answer
        from curation.questions.explain import explain as answer_to

        answer = answer_to(directory, document_id, run_code)
        print_answer(answer, as_json)
    if not answer.found:
        raise typer.Exit(FAILED)


@app.command()
def similar(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a run, with its work folder.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="A text file (UTF-8), or - for standard input.")],
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of several near-duplicate stages. [default: the first]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    run_code: RunCodeOption = False,
    debug: DebugOption = False,
) -> None:
    """List the documents of a run that a text resembles, most similar first."""
    with _outcome(debug):
        from curation.questions.answers import print_answer
        from curation.questions.similar import read_text
        from curation.questions.similar import similar as answer_to

        print_answer(answer_to(directory, read_text(file), stage, run_code), as_json)


@app.command()
def report(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a run.")],
    debug: DebugOption = False,
) -> None:
    """Render the page and the data card of a run again, from report.json, run.json and samples/ alone."""
    with _outcome(debug):
        from curation.report import render

        for path in render(directory):
            typer.echo(path)


@app.command()
def clean(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a run.")],
    debug: DebugOption = False,
) -> None:
    """Drop work/ of a run; the result stays. A later change of the recipe then starts from the input again."""
    with _outcome(debug):
        from curation.engine.run import clean as drop_work

        dropped = drop_work(directory)
        typer.echo(f"dropped {dropped['files']:,} files, {dropped['bytes'] / 1e6:,.1f} MB, of {directory}")
        typer.echo("with other settings or more files, the run now reads the whole input again")
        typer.echo("`curate similar` has nothing left to answer from; `curate explain` tells no shared bands any more, and where")
        typer.echo("the input has ids of its own it reads all of those in documents/ and shows no text of what was removed")


@app.command()
def recipes() -> None:
    """List the recipes that ship."""
    with _outcome(debug=False):
        from curation.engine.recipe import shipped_recipes

        shipped = shipped_recipes()
        width = max(map(len, shipped))
        for name, text in shipped.items():
            typer.echo(f"{name:{width}}  {text.splitlines()[0].removeprefix('# ')}")


def version_text() -> str:
    """The package, its format, and all versions that decide results, a line each."""
    from curation.engine.run_folder import versions

    found = versions()
    own = "moxin-curation"
    return "\n".join(f"{name} {number}" for name, number in {own: found.pop(own), **found}.items())


def parse_settings(assignments: list[str]) -> dict[str, Any]:
    """STAGE.KEY=VALUE each, VALUE as YAML; the last one wins.

    >>> parse_settings(["minhash.ngram=5", "minhash.keep=[longest, first]"])
    {'minhash.ngram': 5, 'minhash.keep': ['longest', 'first']}
    """
    import yaml

    settings = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not re.fullmatch(r"[^\s=]+", key.strip()):
            raise ValueError(f"--set {assignment}: write STAGE.KEY=VALUE, for example --set minhash.ngram=5")
        try:
            settings[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or "not valid"
            raise ValueError(f"--set {assignment}: the value is not valid YAML ({reason}); quote it") from None
    return settings


def resume_command(arguments: list[str]) -> str:
    """The command line that goes on with the run that `arguments` (sys.argv) started.

    >>> resume_command(["curate", "run", "slimpajama", "--input", "my data", "--output", "out", "--fresh"])
    "curate run slimpajama --input 'my data' --output out"
    """
    program = os.path.basename(arguments[0])
    if shutil.which(program) not in (None, os.path.abspath(arguments[0])) or not shutil.which(program):
        program = arguments[0]
    return shlex.join([program, *(argument for argument in arguments[1:] if argument != "--fresh")])


@contextmanager
def _outcome(debug: bool, progress: Progress | None = None, resume: str | None = None) -> Iterator[None]:
    """Turns what a command raises into a message and an exit code; SIGTERM into the same clean stop as Ctrl-C."""
    earlier_handler = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        _stop(INTERRUPTED, "interrupted; what was finished is kept", progress, resume)
    except SystemExit as exit_:
        # Importing ray replaces the handler by one that exits with the signal's number.
        if exit_.code != signal.SIGTERM:
            raise
        _stop(INTERRUPTED, "terminated; what was finished is kept", progress, resume)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and progress is None:  # `| head` has seen enough
            raise typer.Exit(FAILED) from None
        if progress is not None:
            progress.log(traceback.format_exc())
        if debug:
            traceback.print_exc()
        worked = progress is not None and progress.worked
        _stop(_exit_code(error, worked), _explanation(error), progress, resume if worked else None)
    finally:
        if progress is not None:
            progress.close()
        signal.signal(signal.SIGTERM, earlier_handler)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the clean stop short
    raise KeyboardInterrupt


def _stop(code: int, message: str, progress: Progress | None, resume: str | None) -> NoReturn:
    """Leave the command with `code`, its message on standard error."""
    from curation.engine.progress import printable

    if progress is not None:
        progress.close()
    typer.echo(f"curate: {' '.join(printable(message).split())}", err=True)
    if resume is not None:
        typer.echo(f"to go on: {resume}", err=True)
    raise typer.Exit(code)


def _exit_code(error: Exception, worked: bool) -> int:
    """What went wrong before any work was done is the caller's to mend, if it says so by being a ValueError."""
    if isinstance(error, ValueError) and not worked:
        return USAGE_ERROR
    if isinstance(error, RuntimeError):
        from curation.engine.run import TooManyBadRecordsError

        if isinstance(error, TooManyBadRecordsError):
            return TOO_MANY_BAD_RECORDS
    return FAILED


def _explanation(error: Exception) -> str:
    """One paragraph for people."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ValueError | RuntimeError | OSError) and str(error):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def main() -> None:
    """The entry point of `curate`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character shows its number
    app()
