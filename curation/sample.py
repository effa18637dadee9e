"""A sample to try things on without a download: the text that this Python installation holds, in RedPajama-1T's layout.

What stands in for RedPajama's directories (each row's `meta` says where it came from, and of which kind it is):

  c4/c4-local.*.jsonl                   package descriptions (the text of a package's page on PyPI) and licences
  common_crawl/local/pages_*.jsonl.zst  documentation pages and other text files: .html (tags removed), .md, .rst, .txt
  github/local_*.jsonl                  source code: Python, C, C++, JavaScript, and others
  wikipedia/wiki.jsonl                  reference articles: the documentation strings of a Python module, one a module

Nothing here is a paper, a book or a thread of questions and answers, so arxiv/, book/ and stackexchange/ are left out.
Licences, vendored packages, and read-me files that are package descriptions too, are real near-duplicates, within and
across sources.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import json
import os
import platform
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import zstandard

from curation.sample_text import description, documentation_strings, html_text

DEFAULT_MEGABYTES = 128.0
MAXIMUM_FILE_BYTES = 1_000_000  # larger files are tables and generated code, a whole source's worth in one document
MAXIMUM_PART_BYTES = 32_000_000  # several files a source, so that a run on the sample has several tasks
# The most that descriptions and pages may each take: of code there is far more, but neither shall crowd the other out.
_PAGES_SHARE = 0.3
_SUMMARY = ".sample.json"
_VERSION = 1  # raise when the same installation gives another sample

_CODE_SUFFIXES = frozenset(
    [
        *(".py", ".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cuh", ".js"),
        *(".mjs", ".ts", ".tsx", ".jsx", ".css", ".scss", ".java", ".go", ".rs", ".rb", ".pl", ".pm", ".lua", ".php"),
        *(".r", ".jl", ".f", ".f90", ".sh", ".bash", ".ps1", ".bat", ".sql", ".proto", ".thrift", ".cmake", ".jinja"),
        *(".jinja2", ".j2", ".xsl", ".awk", ".tcl", ".toml", ".yaml", ".yml"),
    ]
)
_PAGE_SUFFIXES = frozenset((".html", ".htm", ".md", ".rst", ".txt"))
_LICENCE_STEMS = ("licen", "copying", "copyright", "notice")
_SKIPPED_DIRECTORIES = frozenset(("__pycache__", "site-packages", "dist-packages", "node_modules"))

Progress = Callable[[int, int], None]
Owners = dict[str, tuple[str, str]]  # path of an installed file -> (package, version)


@dataclass(frozen=True)
class Candidate:
    """A file that may go into the sample."""

    root: str
    path: str  # relative to the root, with forward slashes
    file: str  # where it is
    n_bytes: int
    source: str  # which directory of RedPajama it stands in for
    kind: str


def write_sample(
    directory: str | os.PathLike[str],
    megabytes: float | None = None,
    progress: Progress | None = None,
    roots: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Write at most `megabytes` (128 when None) million bytes of text; the same installation gives the same bytes.

    A complete sample of the same size and installation is used again. `progress` is called with (bytes so far, bytes at
    most); `roots` (name -> directory) replaces the places that are searched. Returns {"files", "documents", "bytes",
    "sources": {NAME: {"files", "documents", "bytes"}}}, bytes being bytes of text. ValueError when `directory` holds
    anything but a sample, or for a size <= 0.
    """
    megabytes = DEFAULT_MEGABYTES if megabytes is None else megabytes
    if megabytes <= 0:
        raise ValueError(f"a sample of {megabytes} megabytes is empty: ask for more than 0")
    target = Path(directory)
    if target.exists() and not (target / _SUMMARY).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not a sample: name another directory, or remove it first")
    roots = default_roots() if roots is None else roots
    candidates = list(find_candidates(roots))
    fingerprint = _fingerprint(candidates, megabytes)
    existing = _read_complete(target, fingerprint)
    if existing is not None:
        return existing
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp's are for their owner only
        summary = _write(temporary, candidates, roots, int(megabytes * 1e6), progress)
        (temporary / _SUMMARY).write_text(json.dumps({"fingerprint": fingerprint, **summary}, indent=1) + "\n")
        _put_in_place(temporary, target, fingerprint)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _without_internals(summary)


def default_roots() -> dict[str, str]:
    """Where text is looked for, by name: installed packages, the standard library, the system's documentation."""
    paths = sysconfig.get_paths()
    roots = {"site-packages": paths["purelib"], "python": paths["stdlib"]}
    if paths["platlib"] != paths["purelib"]:
        roots["site-packages-platform"] = paths["platlib"]
    return roots | {"doc": "/usr/share/doc", "common-licenses": "/usr/share/common-licenses"}


def find_candidates(roots: dict[str, str]) -> Iterator[Candidate]:
    """All files of a known kind below the roots (name -> directory), in sorted order; the unreadable are left out."""
    for root, top in sorted(roots.items()):
        for parent, directories, names in os.walk(top):
            directories[:] = sorted(name for name in directories if name not in _SKIPPED_DIRECTORIES)
            for name in sorted(names):
                relative = os.path.relpath(os.path.join(parent, name), top).replace(os.sep, "/")
                place = classify(root, relative)
                file = os.path.join(parent, name)
                if place is None or os.path.islink(file):
                    continue
                with contextlib.suppress(OSError):
                    n_bytes = os.stat(file).st_size
                    if 0 < n_bytes <= MAXIMUM_FILE_BYTES:
                        yield Candidate(root, relative, file, n_bytes, *place)


def classify(root: str, path: str) -> tuple[str, str] | None:
    """(source, kind) of a file by its name, None when it is not wanted.

    >>> classify("site-packages", "numpy-2.0.dist-info/METADATA"), classify("doc", "bash/copyright")
    (('c4', 'package description'), ('c4', 'licence'))
    >>> classify("site-packages", "numpy/fft/README.md"), classify("site-packages", "numpy-2.0.dist-info/top_level.txt")
    (('common_crawl', 'page'), None)
    """
    parent, _, name = path.rpartition("/")
    stem, suffix = os.path.splitext(name.lower())
    if name in ("METADATA", "PKG-INFO"):
        return "c4", "package description"
    if suffix in _CODE_SUFFIXES:
        return "github", "source code"
    if stem.startswith(_LICENCE_STEMS) or root == "common-licenses":
        return "c4", "licence"
    if suffix not in _PAGE_SUFFIXES or parent.endswith((".dist-info", ".egg-info")):
        return None
    return "common_crawl", "page"


def _fingerprint(candidates: list[Candidate], megabytes: float) -> str:
    """What a sample depends on: its size and the files that it is drawn from."""
    digest = hashlib.blake2b(repr((_VERSION, float(megabytes))).encode(), digest_size=16)
    for candidate in candidates:
        digest.update(f"{candidate.root}/{candidate.path}\0{candidate.n_bytes}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_complete(target: Path, fingerprint: str) -> dict[str, Any] | None:
    """The summary of the sample in `target` if it is the wanted one and all its files are there."""
    try:
        summary = json.loads((target / _SUMMARY).read_text())
        sizes = {path: (target / path).stat().st_size for path in summary["file_bytes"]}
    except (OSError, ValueError, KeyError):
        return None
    if summary.get("fingerprint") != fingerprint or sizes != summary["file_bytes"]:
        return None
    return _without_internals(summary)


def _without_internals(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: summary[name] for name in ("files", "documents", "bytes", "sources")}


def _put_in_place(temporary: Path, target: Path, fingerprint: str) -> None:
    """Rename a finished sample to its place, replacing an older one; another process may have been faster."""
    if target.exists() and _read_complete(target, fingerprint) is None:
        shutil.rmtree(target)
    try:
        os.rename(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or _read_complete(target, fingerprint) is None:
            raise


@dataclass
class _SourceWriter:
    """The JSONL files of one source; a new one is begun when the last has `MAXIMUM_PART_BYTES`."""

    top: Path
    pattern: str  # with a place for the number of the file, or a single file's name
    documents: int = 0
    text_bytes: int = 0
    files: list[str] = field(default_factory=list)
    _stream: BinaryIO | None = None
    _part_bytes: int = 0

    def add(self, text: str, meta: dict[str, Any]) -> None:
        row: dict[str, Any] = {"text": text, "meta": meta}
        if self.pattern.startswith("common_crawl"):
            # As published, CommonCrawl rows have a column of this name, which is not the name of their source.
            row["source"] = f"local/{meta['path']}"
        line = orjson.dumps(row) + b"\n"
        if self._stream is None or (self._part_bytes > MAXIMUM_PART_BYTES and "%" in self.pattern):
            self.close()
            self._stream = self._open()
        self._stream.write(line)
        self._part_bytes += len(line)
        self.documents += 1
        self.text_bytes += len(text.encode())

    def _open(self) -> BinaryIO:
        self._part_bytes = 0
        self.files.append(self.pattern % len(self.files) if "%" in self.pattern else self.pattern)
        path = self.top / self.files[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zst":
            return zstandard.open(path, "wb")  # type: ignore[return-value]
        return open(path, "wb")

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _write(
    top: Path, candidates: list[Candidate], roots: dict[str, str], maximum_bytes: int, progress: Progress | None
) -> dict[str, Any]:
    """Fill the sample below `top`: descriptions and licences first, then pages, then code and its documentation."""
    packages = {root: _packages(directory) for root, directory in roots.items() if root.startswith("site-packages")}
    writers = {
        "c4": _SourceWriter(top, "c4/c4-local.%05d.jsonl"),
        "common_crawl": _SourceWriter(top, "common_crawl/local/pages_%04d.jsonl.zst"),
        "github": _SourceWriter(top, "github/local_%04d.jsonl"),
        "wikipedia": _SourceWriter(top, "wikipedia/wiki.jsonl"),
    }
    total = 0
    for source, share in (("c4", _PAGES_SHARE), ("common_crawl", _PAGES_SHARE), ("github", 1.0)):
        limit = min(maximum_bytes, total + int(share * maximum_bytes))
        for candidate in sorted((c for c in candidates if c.source == source), key=_draw):
            documents = list(_documents(candidate, packages))
            n_bytes = sum(len(text.encode()) for _, text, _ in documents)
            if total + n_bytes > limit:
                break
            for place, text, meta in documents:
                writers[place].add(text, meta)
            total += n_bytes
            if progress is not None and documents:
                progress(total, maximum_bytes)
    for writer in writers.values():
        writer.close()
    used = {name: writer for name, writer in writers.items() if writer.documents}
    sources = {
        name: {"files": len(writer.files), "documents": writer.documents, "bytes": writer.text_bytes}
        for name, writer in used.items()
    }
    files = [path for writer in used.values() for path in writer.files]
    return {
        "files": len(files),
        "documents": sum(source["documents"] for source in sources.values()),
        "bytes": total,
        "sources": sources,
        "file_bytes": {path: (top / path).stat().st_size for path in files},
    }


def _draw(candidate: Candidate) -> bytes:
    """A place in an order that has nothing to do with names, so that a small sample holds a bit of everything."""
    name = f"{candidate.root}/{candidate.path}".encode(errors="surrogateescape")
    return hashlib.blake2b(name, digest_size=16).digest()


def _documents(candidate: Candidate, packages: dict[str, Owners]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(source, text, meta) of what a file holds: nothing when it is binary, not UTF-8 or gone."""
    try:
        data = Path(candidate.file).read_bytes()
        text = data.decode()
        candidate.path.encode()
    except (OSError, UnicodeError):
        return
    if "\0" in text:
        return
    package, version = _owner(candidate, packages)
    path = f"{candidate.root}/{candidate.path}"
    meta = {"path": path, "kind": candidate.kind, "package": package, "version": version}
    if candidate.kind == "package description":
        text = description(text)
    elif candidate.path.endswith((".html", ".htm")):
        text = html_text(text)
    if text.strip():
        yield candidate.source, text, meta
    if candidate.path.endswith(".py"):
        article = "\n\n".join(inspect.cleandoc(string) for string in documentation_strings(text)).strip()
        if article:
            title = candidate.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            yield "wikipedia", f"{title}\n\n{article}", {**meta, "kind": "documentation strings", "title": title}


def _owner(candidate: Candidate, packages: dict[str, Owners]) -> tuple[str | None, str | None]:
    """(package, version) that a file belongs to, as far as known."""
    if candidate.root == "python":
        return "python", platform.python_version()
    if candidate.root in packages:
        return packages[candidate.root].get(candidate.path, (None, None))
    directory, _, name = candidate.path.partition("/")
    return (directory if name else None), None


def _packages(site_packages: str) -> Owners:
    """Which package each installed file belongs to, from what the installer recorded."""
    owners: Owners = {}
    for record in sorted(Path(site_packages).glob("*.dist-info/RECORD")):
        name, _, version = record.parent.name.removesuffix(".dist-info").partition("-")
        with contextlib.suppress(OSError, UnicodeError):
            for line in record.read_text().splitlines():
                owners[line.rsplit(",", 2)[0].strip('"')] = (name, version)
    return owners
