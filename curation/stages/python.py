"""A stage of one's own: a function of a record batch, from a Python file that the recipe names.

    - python: {as: adverts, file: mine.py, function: drop_adverts, settings: {limit: 3}}

The function gets the documents that no earlier stage of its kind removed, as a `pyarrow.RecordBatch` with the columns id, text,
source, subset, url, language, meta, the lifted columns and those of earlier stages of one's own, and its settings as keyword
arguments, which are checked against its annotations before anything runs. It returns a `MapResult`.

It must decide about each document by itself: how documents are cut into batches is not promised. The file travels to the
workers as text, so it need not be on other machines, and its hash is part of what names a task; what it imports has to be
installed everywhere.
"""

from __future__ import annotations

import builtins
import difflib
import hashlib
import inspect
import linecache
import os
import re
import socket
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pydantic import ConfigDict, Field, ValidationError, create_model

from curation.documents import RESERVED_COLUMNS, DocumentBatch
from curation.stages import DocumentFailuresError, MapResult, MapStage, Settings
from curation.stages.python_result import WrongResultError, checked

_MESSAGE_CHARACTERS = 300
_FAILS_AT_ONCE = 100  # documents of a batch; fewer that all fail may be an accident, and go to quarantine
# Not the document's fault: the machine's, or something outside. The run stops, and goes on when the same command is given again.
_OF_THE_MACHINE = (MemoryError, OSError)


class PythonSettings(Settings):
    """Settings of `python`."""

    file: str  # relative to the recipe's folder
    function: str
    settings: dict[str, Any] = Field(default_factory=dict)  # keyword arguments of the function


class UserCodeError(ValueError):
    """The user's file or function does not work; the message names the file and the line, `setting` the key of the recipe."""

    def __init__(self, message: str, *setting: str) -> None:
        super().__init__(message)
        self.setting = setting

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, *self.setting)


class Python(MapStage):
    """Calls the user's function on every batch."""

    settings_class = PythonSettings
    settings: PythonSettings
    needs_columns = living_only = logs_edits = True
    _function: Callable[..., Any] | None = None  # compiled where it runs

    def __init__(self, name: str, settings: PythonSettings, source: str | None = None) -> None:
        """`source` is the file's text where it was kept; None reads the file. Raises UserCodeError."""
        super().__init__(name, settings)
        self.path = os.path.abspath(settings.file)
        self.source = self._read() if source is None else source
        self._load()

    def _read(self) -> str:
        try:
            with open(self.path, encoding="utf-8") as file:
                return file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserCodeError(f"{self.path} cannot be read: {reason}", "file") from None

    def __getstate__(self) -> dict[str, Any]:
        # Workers compile the text: classes of the user's module could not be found there by name.
        return {name: value for name, value in vars(self).items() if name not in ("_function", "_arguments")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._function = None  # compiled when first asked for: an error while a task is unpickled would reach no one whole

    @property
    def reason(self) -> str:  # type: ignore[override]
        """Why a document goes when the function gives no reason of its own."""
        return self.settings.function

    def library_versions(self) -> dict[str, str]:
        """The file's content."""
        return {"file_sha256": hashlib.sha256(self.source.encode()).hexdigest()}

    def recorded(self) -> dict[str, object]:
        """The code too: the file may change, or be lost."""
        return {**super().recorded(), "code": self.source}

    def observed_settings(self) -> dict[str, object]:
        """Not where the file lies: its content is what counts."""
        return self.settings.model_dump(mode="json", exclude={"file"})

    def _load(self) -> None:
        module = _module(self.path, self.source)
        function = _function(module, self.settings.function, self.path)
        self._function = function
        self._arguments = _arguments(function, self.settings.settings, self._where())

    def _load_here(self) -> None:
        """Compile what another process sent, where something may be missing that was there. Raises UserCodeError."""
        try:
            self._load()
        except UserCodeError as error:
            raise UserCodeError(
                f"{self.name}: {error} in a worker on {socket.gethostname()}; what the file needs must be there too"
            ) from None

    def _where(self) -> str:
        line = getattr(getattr(self._function, "__code__", None), "co_firstlineno", None)
        return f"{self.path}, line {line}" if line else self.path

    def apply(self, documents: DocumentBatch) -> MapResult:
        """Call the function. Raises DocumentFailuresError for documents on which it fails, UserCodeError where it fails on all
        of a batch or returns something else than it should."""
        if not len(documents):
            return MapResult()
        if self._function is None:
            self._load_here()
        batch = documents.record_batch()
        try:
            result = self._call(batch)
        except _CallFailedError as failure:
            failures = self._failing(batch)
            if not failures:
                raise UserCodeError(
                    f"{self.name}: {failure} on a batch of {len(batch):,} documents from {_name(batch, 0)} on, but on none of "
                    "them alone; the function must treat each document by itself"
                ) from None
            if len(failures) == len(batch) >= _FAILS_AT_ONCE:
                raise UserCodeError(
                    f"{self.name}: {failures[0]} on the document {_name(batch, 0)}, as on all {len(batch):,} of its batch"
                ) from None
            # The file's name alone: quarantine/ must not depend on where the file lies.
            short = {row: message.replace(self.path, os.path.basename(self.path)) for row, message in failures.items()}
            raise DocumentFailuresError(self.name, {row: f"{self.name}: {message}" for row, message in short.items()}) from None
        try:
            return checked(result, len(batch), {*RESERVED_COLUMNS, *batch.schema.names})
        except WrongResultError as error:
            raise UserCodeError(
                f"{self.name}: {self.settings.function} ({self._where()}) {error}; the batch had {len(batch):,} documents, "
                f"the first is {_name(batch, 0)}"
            ) from None

    def _call(self, batch: pa.RecordBatch) -> Any:
        assert self._function is not None
        try:
            return self._function(batch, **self._arguments)
        except _OF_THE_MACHINE as error:
            raise UserCodeError(f"{self.name}: {describe(error, self.path)} in a batch from {_name(batch, 0)} on") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, and panics of extensions in Rust, which are no Exception
            raise _CallFailedError(describe(error, self.path)) from None

    def _failing(self, batch: pa.RecordBatch) -> dict[int, str]:
        """The rows on which the function fails alone, by halving what fails."""
        failures: dict[int, str] = {}
        halves = [(0, len(batch))] if len(batch) else []
        while halves:
            start, stop = halves.pop()
            try:
                self._call(batch.slice(start, stop - start))
            except _CallFailedError as failure:
                if stop - start == 1:
                    failures[start] = str(failure)
                else:
                    middle = (start + stop) // 2
                    halves += [(middle, stop), (start, middle)]
        return failures


class _CallFailedError(Exception):
    """The user's function raised an error; the message says what, and where in the user's file."""


def describe(error: BaseException, path: str) -> str:
    """An error with the last line of the file `path` that it went through, on one line.

    >>> try:
    ...     exec(compile("def f():\\n    return {}['x']\\nf()", "mine.py", "exec"), {})
    ... except KeyError as error:
    ...     describe(error, "mine.py")
    "KeyError: 'x' (mine.py, line 2)"
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    message = _message(error)
    message = re.sub(r"\b0x[0-9a-f]{6,}\b", "0x…", message)  # addresses of objects differ from run to run
    place = f"{path}, line {line}" if line else path
    return f"{type(error).__name__}{': ' if message else ''}{message} ({place})"


def _message(error: BaseException) -> str:
    """What an error says of itself on one line of valid Unicode; what it says is up to its class, which may fail."""
    try:
        said = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception:
        return "(its message cannot be shown)"
    return " ".join(said.encode(errors="backslashreplace").decode().split())[:_MESSAGE_CHARACTERS]


def _module(path: str, source: str) -> types.ModuleType:
    """The user's file as a module. Raises UserCodeError."""
    name = f"curate_stage_{hashlib.sha256(os.fsencode(path) + source.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = path
    # Tracebacks show the lines of a file that may not exist on this machine.
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    sys.modules[name] = module  # dataclasses and annotations look their module up
    try:
        exec(compile(source, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserCodeError(describe(error, path), "file") from None
    return module


def _function(module: types.ModuleType, name: str, path: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        raise UserCodeError(f"{path}: {name!r} is a coroutine or a generator; write a plain `def` that returns", "function")
    if found is not None and callable(found):
        return found
    own = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__]
    raise UserCodeError(f"{path} has no function {name!r}{_nearest(name, own)}", "function")


def _arguments(function: Callable[..., Any], settings: dict[str, Any], where: str) -> dict[str, Any]:
    """The keyword arguments of the function: `settings` converted as its annotations say. Raises UserCodeError."""
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    except (NameError, TypeError, ValueError, SyntaxError) as error:
        raise UserCodeError(f"the annotations of the function ({where}) cannot be read: {error}", "function") from None
    if not parameters or parameters[0].kind not in (parameters[0].POSITIONAL_ONLY, parameters[0].POSITIONAL_OR_KEYWORD):
        raise UserCodeError(f"the function ({where}) must take the batch as its first argument", "function")
    fields: dict[str, Any] = {}
    for parameter in parameters[1:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserCodeError(f"the function ({where}) must name each setting instead of taking {parameter}", "function")
        kind = Any if parameter.annotation is parameter.empty else parameter.annotation
        fields[parameter.name] = (kind, ... if parameter.default is parameter.empty else parameter.default)
    for key in settings:
        if key not in fields:
            raise UserCodeError(f"unknown key {key!r}{_nearest(str(key), list(fields))} ({where})", "settings", str(key))
    # Aliased, since a field of a model may not be called `json` or `_x`; functions may have such arguments.
    items = enumerate(fields.items())
    aliased: dict[str, Any] = {f"f{n}": (kind, Field(default, alias=name)) for n, (name, (kind, default)) in items}
    try:
        model = create_model("Arguments", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **aliased)
        checked_settings = model.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        given = f" (got {first['input']!r})" if first["type"] != "missing" else ""
        place = [str(step) for step in first["loc"]]
        message = f"{'.'.join(place)}: {first['msg'].removeprefix('Value error, ')}{given} ({where})"
        raise UserCodeError(message, "settings", *place) from None
    return {name: getattr(checked_settings, f"f{index}") for index, name in enumerate(fields)}


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, 1, 0.5)
    return f"; did you mean {found[0]!r}?" if found else f"; there is {', '.join(known) or 'none'}"


def _name(batch: pa.RecordBatch, row: int) -> str:
    return builtins.repr(batch.column(0)[row].as_py())
