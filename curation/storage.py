"""Files, local or in an object store, behind one set of functions.

Local paths go straight to the operating system; `s3://`, `gs://` and other URLs go through fsspec. Writes are atomic: a
file is built under a temporary name and renamed, or built on local disk and put as one object, so a failure never
publishes anything.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

import pyarrow as pa

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # what to install for a scheme
# Packages whose errors mean that a store cannot be reached, or refuses.
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google")
_CONNECT_SECONDS = 10  # the client tries some times more; its own 60 would be minutes of silence
_STREAM_BLOCK_BYTES = 8 * 2**20  # one request of a sequential read
_GLOB_CHARACTERS = "*?["
_ESCAPED = re.compile(r"\[[*?[]\]")
_TEMPORARY = re.compile(r"^\..*\.[0-9a-f]{32}\.tmp$")


@dataclass(frozen=True)
class FileInfo:
    """A file as a listing shows it: `etag` is "" locally, `mtime_ns` is 0 where the store's etag says more."""

    path: str
    size: int
    etag: str = ""
    mtime_ns: int = 0


def is_remote(path: str) -> bool:
    """Whether `path` is a URL of an object store (or of memory), not a local path."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme != "file" and scheme.isalnum()


def join(directory: str, *names: str) -> str:
    """`directory`/`names`, with '/' between them.

    >>> join("out/", "work", "a.arrays"), join("/", "a"), join("s3://bucket", "a")
    ('out/work/a.arrays', '/a', 's3://bucket/a')
    """
    return "/".join([directory.rstrip("/"), *names])


def _local(path: str) -> str:
    return path.removeprefix("file://")


def _filesystem(path: str) -> Any:
    """The fsspec file system of a URL; instances are shared, and listings never cached."""
    import fsspec

    scheme = path.partition("://")[0]
    options: dict[str, Any] = {} if scheme == "memory" else {"use_listings_cache": False}
    if scheme in ("s3", "s3a"):
        options["config_kwargs"] = {"connect_timeout": _CONNECT_SECONDS}
    try:
        return _Store(fsspec.filesystem(scheme, **options), path)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        remedy = f"run: pip install -e '.[{extra}]'" if extra else f"install its package ({error})"
        raise ValueError(f"{path}: reading {scheme}:// needs a package that is not installed; {remedy}") from error
    except ValueError as error:
        raise ValueError(
            f"{path}: {scheme}:// is no kind of path that can be read; use a local path, s3:// or gs://"
        ) from error


class _Store:
    """A file system of fsspec's whose errors are OSErrors that name the path, whichever library they come from."""

    def __init__(self, files: Any, path: str) -> None:
        self._files, self._path = files, path

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._files, name)

        def call(*arguments: Any, **options: Any) -> Any:
            with _named_errors(self._path):
                return function(*arguments, **options)

        return call


class _RemoteStream:
    """An open file of an object store, its errors named like those of the store."""

    def __init__(self, file: Any, path: str) -> None:
        self._file, self._path = file, path

    def read(self, n_bytes: int = -1, /) -> bytes:
        with _named_errors(self._path):
            return bytes(self._file.read(n_bytes))

    def seek(self, offset: int, /) -> int:
        return int(self._file.seek(offset))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _RemoteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _named_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is not None or path in str(error):
            raise
        kind = type(error) if type(error).__module__ == "builtins" else OSError
        raise kind(error.errno or errno.EIO, error.strerror or str(error), path) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _CLIENTS:
            raise
        raise ConnectionError(
            errno.EIO, f"the object store does not answer as it should ({error}); look at its address and credentials", path
        ) from error


def _url(scheme: str, name: str) -> str:
    return f"{scheme}://{name.lstrip('/')}"


def absolute(path: str) -> str:
    """A path that means the same in every process, whatever its working directory."""
    return path if is_remote(path) else os.path.abspath(_local(path))


def fixed_part(pattern: str) -> str:
    """The leading directory of `pattern` that holds no glob character, escapes (`[[]`) undone; a plain path is itself.

    >>> fixed_part("data/c4/*.jsonl"), fixed_part("s3://bucket/a/**/b?.gz"), fixed_part("a[[]1]/*.gz")
    ('data/c4', 's3://bucket/a', 'a[1]')
    >>> fixed_part("data/wiki.jsonl"), fixed_part("*.gz")
    ('data/wiki.jsonl', '.')
    """
    if not is_pattern(pattern):
        return pattern.rstrip("/") or pattern
    steps: list[str] = []
    for step in pattern.split("/"):
        if any(character in _ESCAPED.sub("", step) for character in _GLOB_CHARACTERS):
            break
        steps.append(_ESCAPED.sub(lambda match: match[0][1], step))
    return "/".join(steps) or ("/" if pattern.startswith("/") else ".")


def is_pattern(path: str) -> bool:
    """Whether `path` holds a glob character, `*`, `?` or `[`, and is not the very name of a local file or directory."""
    return any(character in path for character in _GLOB_CHARACTERS) and (
        is_remote(path) or not os.path.exists(_local(path))
    )


def relative(path: str, base: str) -> str:
    """`path` below the directory `base`, with '/' between its steps.

    >>> relative("data/c4/a/b.jsonl", "data/c4"), relative("./b.jsonl", "."), relative("s3://bucket/a/b", "s3://bucket")
    ('a/b.jsonl', 'b.jsonl', 'a/b')
    """
    if is_remote(path):
        return path.removeprefix(base.rstrip("/")).lstrip("/")
    return os.path.relpath(_local(path), _local(base)).replace(os.sep, "/")


def list_files(path: str) -> list[FileInfo]:
    """The files that `path` means, sorted: a file, all files below a directory, or those that match a pattern.

    `**` matches any number of directories. Names that start with a dot are left out, directories too.
    """
    found = _list_remote(path) if is_remote(path) else _list_local(_local(path))
    return sorted(found, key=lambda info: info.path)


def _list_local(path: str) -> list[FileInfo]:
    if not is_pattern(path):
        if os.path.isdir(path):
            return list(_walk(path))
        return [_local_info(path)] if os.path.isfile(path) else []
    found: dict[str, FileInfo] = {}
    for match in glob.glob(path, recursive=True):
        if _is_listed(match):
            found[match] = _local_info(match)
        elif not path.rstrip("/").endswith("**"):
            found.update((info.path, info) for info in _walk(match))
    return list(found.values())


def _walk(directory: str) -> Iterator[FileInfo]:
    # Of each directory: where it really is, and where those above it are.
    above: dict[str, tuple[str, ...]] = {directory: (os.path.realpath(directory),)}
    for parent, directories, names in os.walk(directory, followlinks=True):
        real = above.pop(parent)
        for name in [name for name in directories if not name.startswith(".")]:
            place = os.path.realpath(os.path.join(parent, name))
            if place not in real:  # a link to a directory above would have no end
                above[os.path.join(parent, name)] = (*real, place)
        directories[:] = [name for name in directories if os.path.join(parent, name) in above]
        for name in names:
            if not name.startswith("."):
                whole = os.path.join(parent, name)
                if _is_listed(whole):
                    yield _local_info(whole)


def _is_listed(path: str) -> bool:
    """A file, or a link that leads nowhere: a listing without it would hide that its file is gone."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _local_info(path: str) -> FileInfo:
    try:
        status = os.stat(path)
    except OSError:
        if not os.path.islink(path):
            raise
        return FileInfo(path, 0)  # a link that leads nowhere, or to itself
    return FileInfo(path, status.st_size, "", status.st_mtime_ns)


def _list_remote(path: str) -> list[FileInfo]:
    files, scheme = _filesystem(path), path.partition("://")[0]
    base = fixed_part(path)
    try:
        entries = files.find(base, detail=True)
    except FileNotFoundError:
        return []
    infos = [_remote_info(_url(scheme, name), entry) for name, entry in entries.items() if entry.get("type") == "file"]
    infos = [info for info in infos if not any(step.startswith(".") for step in relative(info.path, base).split("/"))]
    if not is_pattern(path):
        alone = (
            {base: file_info(base)}
            if base.removeprefix(f"{scheme}://") in {name.lstrip("/") for name in entries}
            else {}
        )
        inside = base.rstrip("/") + "/"
        return [*alone.values(), *(info for info in infos if info.path.startswith(inside))]
    expression = re.compile(_expression(path[len(base) :].lstrip("/")))
    return [info for info in infos if expression.fullmatch(relative(info.path, base))]


def _expression(pattern: str) -> str:
    """A glob pattern as a regular expression; what lies below a matching directory matches too."""
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
        elif pattern.startswith("**", i):
            out, i = out + ".*", i + 2
        elif pattern[i] == "*":
            out, i = out + "[^/]*", i + 1
        elif pattern[i] == "?":
            out, i = out + "[^/]", i + 1
        elif pattern[i] == "[" and "]" in pattern[i + 2 :]:
            end = pattern.index("]", i + 2)
            inside = pattern[i + 1 : end].replace("\\", "\\\\")
            out, i = out + "[" + ("^" + inside[1:] if inside[0] == "!" else inside) + "]", end + 1
        else:
            out, i = out + re.escape(pattern[i]), i + 1
    return out + "(?:/.*)?"


def _remote_info(path: str, entry: dict[str, Any]) -> FileInfo:
    etag = str(entry.get("ETag") or entry.get("etag") or entry.get("md5Hash") or "").strip('"')
    modified = entry.get("LastModified") or entry.get("mtime") or entry.get("created")
    seconds = modified.timestamp() if isinstance(modified, datetime) else modified  # fsspec's memory gives now one, now the other
    stamp = int(seconds * 1e9) if isinstance(seconds, float) and not etag else 0
    return FileInfo(path, int(entry["size"] or 0), etag, stamp)


def file_info(path: str) -> FileInfo:
    """Size and identity of one file. Raises FileNotFoundError."""
    if not is_remote(path):
        return _local_info(_local(path))
    return _remote_info(path, _filesystem(path).info(path))


def exists(path: str) -> bool:
    """Whether there is a file or directory at `path`."""
    return bool(_filesystem(path).exists(path)) if is_remote(path) else os.path.exists(_local(path))


def is_file(path: str) -> bool:
    """Whether there is a file (and no directory) at `path`."""
    return bool(_filesystem(path).isfile(path)) if is_remote(path) else os.path.isfile(_local(path))


def file_size(path: str) -> int:
    """Bytes of a file."""
    return file_info(path).size


def sha256(path: str) -> str:
    """SHA-256 (hex) of a local file: of what `commit` is about to publish, while its bytes are still in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str) -> bytes:
    """A whole file."""
    if is_remote(path):
        return bytes(_filesystem(path).cat_file(path))
    with open(_local(path), "rb") as file:
        return file.read()


def read_range(path: str, offset: int, n_bytes: int) -> bytes:
    """Bytes [offset, offset + n_bytes) of a file, fewer where it ends before."""
    if n_bytes <= 0:
        return b""
    if is_remote(path):
        return bytes(_filesystem(path).cat_file(path, start=offset, end=offset + n_bytes))
    with open(_local(path), "rb", buffering=0) as file:
        file.seek(offset)
        pieces = []
        while n_bytes > 0 and (piece := file.read(n_bytes)):
            pieces.append(piece)
            n_bytes -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def open_read(path: str) -> pa.NativeFile:
    """A file for random access, as Arrow wants it."""
    if not is_remote(path):
        return pa.OSFile(_local(path), "rb")
    return pa.PythonFile(_filesystem(path).open(path, "rb", cache_type="none"), mode="r")


def fsspec_filesystem(path: str) -> Any:
    """The fsspec file system of a URL, for libraries that take one; its errors are those of the store's own library."""
    return _filesystem(path)._files


def arrow_paths(paths: list[str]) -> tuple[Any, list[str]]:
    """The file system and the names by which pyarrow finds the files at `paths`, which all lie in one place."""
    from pyarrow import fs

    if not any(map(is_remote, paths)):
        return fs.LocalFileSystem(), [_local(path) for path in paths]
    return fs.PyFileSystem(fs.FSSpecHandler(fsspec_filesystem(paths[0]))), [path.partition("://")[2] for path in paths]


def open_stream(path: str, start: int = 0) -> BinaryIO:
    """A file to be read from byte `start` onwards, without a buffer locally and in large requests remotely."""
    if is_remote(path):
        opened = _filesystem(path).open(path, "rb", block_size=_STREAM_BLOCK_BYTES, cache_type="readahead")
        file: Any = _RemoteStream(opened, path)
    else:
        file = open(_local(path), "rb", buffering=0)  # noqa: SIM115 - the caller closes it
    if start:
        file.seek(start)
    return file  # type: ignore[no-any-return]


def write_bytes(path: str, data: bytes) -> None:
    """Write a whole file at once: readers see the old content or the new."""
    with commit(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def create_exclusive(path: str, data: bytes) -> bool:
    """Create a file; False, and nothing written, when it is there. Of several that try at once, one gets True."""
    if is_remote(path):
        try:
            _filesystem(path).pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError:
            if exists(path):
                return False  # the store's own word for it: HTTP 412, or 409 while another put runs
            raise
        return True
    _make_parent(_local(path))
    try:
        descriptor = os.open(_local(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    return True


def delete(path: str) -> None:
    """Delete a file; none there is no error."""
    with contextlib.suppress(FileNotFoundError):
        if is_remote(path):
            _filesystem(path).rm_file(path)
        else:
            os.unlink(_local(path))


def delete_tree(directory: str) -> None:
    """Delete a directory and all below it; none there is no error."""
    with contextlib.suppress(FileNotFoundError):
        if is_remote(directory):
            _filesystem(directory).rm(directory, recursive=True)
        else:
            shutil.rmtree(_local(directory))


@contextlib.contextmanager
def commit(path: str) -> Iterator[str]:
    """A local temporary file to write to, which becomes `path` when the block ends well, and goes when it does not.

    Locally the file stands hidden beside `path`, is synced, and is renamed; otherwise it is put as one object.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="curate-commit-") as directory:
            temporary = os.path.join(directory, path.rsplit("/", 1)[1])
            yield temporary
            _filesystem(path).put_file(temporary, path)
        return
    final = _local(path)
    _make_parent(final)
    temporary = os.path.join(os.path.dirname(final), f".{os.path.basename(final)}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, final)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def move(source: str, path: str) -> None:
    """Rename a file, replacing what is at `path`; between disks and to or from an object store it is copied first."""
    if is_remote(source) and path.partition("://")[0] == source.partition("://")[0]:
        _filesystem(path).cp_file(source, path)
        delete(source)
        return
    if not is_remote(source) and not is_remote(path):
        _make_parent(_local(path))
        try:
            os.replace(_local(source), _local(path))
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    with commit(path) as temporary:
        if is_remote(source):
            _filesystem(source).get_file(source, temporary)
        else:
            shutil.copyfile(_local(source), temporary)
    delete(source)


SCRATCH_PREFIX = "curate-scratch-"  # of folders that a task makes and removes; a kill leaves them


def remove_temporaries(directory: str) -> int:
    """Delete what commits of killed processes left below `directory`; how many. No commit may be under way there."""
    if is_remote(directory):
        return 0  # commits to object stores leave nothing there
    n_removed = 0
    for parent, folders, names in os.walk(_local(directory)):
        for name in [name for name in folders if name.startswith(SCRATCH_PREFIX)]:
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
        for name in names:
            if _TEMPORARY.match(name):
                os.unlink(os.path.join(parent, name))
                n_removed += 1
    return n_removed


def _make_parent(path: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)


def free_bytes(directory: str) -> int | None:
    """Free bytes on the disk that holds (or will hold) a local directory; None for an object store."""
    if is_remote(directory):
        return None
    return shutil.disk_usage(_existing(directory)).free


def on_same_disk(one: str, other: str) -> bool:
    """Whether two local directories, there or yet to be made, are on one file system."""
    return os.stat(_existing(one)).st_dev == os.stat(_existing(other)).st_dev


def _existing(directory: str) -> str:
    place = os.path.abspath(_local(directory))
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return place
