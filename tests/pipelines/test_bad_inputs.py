"""Bad inputs: every row of docs/bad-inputs.md happens as it says, and no document is lost on the way."""

import errno
import gzip
import json
import os
import random
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner

from curation.engine.quarantine import TooManyBadRecordsError, check_bad_fraction
from pipelines.main import app

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "bad-inputs.md"
RECIPE = """\
name: small
sources:
  - {name: web, path: "{input}/**/*"}
stages:
  - length: {minimum_characters: 20}
  - exact
"""
NOTHING_KEPT = {"kept": 0}


def text(n):
    return f"document number {n} has its own words, {n * n}"


def lines(n=20, start=0):
    return b"".join(json.dumps({"text": text(i)}).encode() + b"\n" for i in range(start, start + n))


def amid(raw):
    """A bad line between twenty good ones."""
    return lines(10) + raw + b"\n" + lines(10, 10)


def zst(data):
    return zstandard.ZstdCompressor().compress(data)


@dataclass
class Bench:
    """A folder with an input, a recipe and an output, and what the last run of the command left."""

    root: Path
    patch: pytest.MonkeyPatch
    exit_code: int = 0
    message: str = ""
    output: str = "out"

    @property
    def input(self):
        return self.root / "in"

    @property
    def out(self):
        return self.root / self.output

    def put(self, files):
        for name, content in files.items():
            path = self.input / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, pa.Table):
                pq.write_table(content, path, row_group_size=100)
            else:
                path.write_bytes(content)

    def recipe(self, content=RECIPE):
        self.input.mkdir(exist_ok=True)
        path = self.root / "recipe.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def run(self, *options, recipe=RECIPE, input_path=None, output=None):
        path = recipe if recipe == "slimpajam" else self.recipe(recipe)
        places = ["--input", input_path or self.input, "--output", output or self.out]
        arguments = ["run", path, *places, "--executor", "inline", *options]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="curate")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        said = [line for line in result.stderr.splitlines() if line.startswith("curate: ")]
        assert len(said) == (result.exit_code != 0), result.stderr
        self.exit_code, self.message = result.exit_code, said[0].removeprefix("curate: ") if said else ""
        return self.exit_code

    def report(self):
        return json.loads((self.out / "report.json").read_text())

    def rows(self, name):
        folder = self.out / name
        files = sorted(folder.rglob("*.parquet")) if folder.exists() else []
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def everything_seen(self):
        """The message, the reasons in the quarantine and the warnings: what the last column of the table may quote."""
        reasons = [row["reason"] for row in self.rows("quarantine")]
        warnings = self.report()["warnings"] if (self.out / "report.json").exists() else []
        return [self.message, *reasons, *warnings]


CASES = {}


def case(name):
    """Register what makes a row of the table happen; it returns what it expects of the counts, if anything."""

    def register(function):
        CASES[name] = function
        return function

    return register


def files_case(name, files, *options, **expected):
    """A row that needs files only."""

    def run(bench):
        bench.put(files)
        bench.run(*options)
        return expected

    CASES[name] = run


# Records

for _name, _raw in {
    "invalid UTF-8 in a line": b'{"text":"bad \xff"}',
    "a raw NUL byte in a line": b'{"text":"a\0b"}',
    "a lone surrogate in a text": b'{"text":"x \\ud800 y"}',
    "a line that is no JSON": b'{"text":',
    "a line that is a list": b'[{"text":"a"}]',
    "a line that is a number": b"7",
    "a line nested too deep": b'{"text":"a","meta":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "a missing `text`": b'{"txt":"a"}',
    "`text: null`": b'{"text":null}',
    "a text that is a number": b'{"text":5}',
    "a text that is an object": b'{"text":{"a":"b"}}',
}.items():
    files_case(_name, {"a.jsonl": amid(_raw)}, kept=20, quarantined=[("a.jsonl", len(lines(10)), _raw[:65536])])
_LONG = b'{"text":"' + b"x" * 2000 + b'"}'
files_case(
    "a text over `max_document_bytes`",
    {"a.jsonl": amid(_LONG)},
    "--set",
    "max_document_bytes=1024",
    kept=20,
    quarantined=[("a.jsonl", len(lines(10)), _LONG)],
)
# A line of 200 MB is to the default limit of 32 MB what this one is to the smallest.
_HUGE = b'{"text":"' + b"x" * (2**20 + 8 * 1024) + b'"}'
files_case(
    "a line of 200 MB",
    {"a.jsonl": amid(_HUGE)},
    "--set",
    "max_document_bytes=1024",
    kept=20,
    quarantined=[("a.jsonl", len(lines(10)), _HUGE[:65536])],
)
_NUL = json.dumps({"text": "a\0b, and then more words than twenty characters"}).encode()
files_case("an escaped NUL, `\\u0000`, in a text", {"a.jsonl": amid(_NUL)}, kept=21, quarantined=[])
files_case("a blank line", {"a.jsonl": amid(b"  ")}, kept=20, quarantined=[])
files_case(
    "a null text in Parquet",
    {"a.parquet": pa.table({"text": [text(1), None, text(2)]})},
    kept=2,
    quarantined=[("a.parquet", 1, b"")],
)


@case("an id that occurs twice, where the recipe names `id:`")
def _(bench):
    bench.put({"a.jsonl": b'{"text":"a","id":"a"}\n{"text":"b","id":"b"}\n{"text":"c","id":"a"}\n'})
    bench.run(recipe=RECIPE.replace('**/*"', '**/*", id: id'))


# Files

_MANY = lines(2000)
_FEW = lines(8)


@case("a truncated `.gz`")
def _(bench):
    bench.put({"a.jsonl.gz": gzip.compress(_MANY)[:-2000], "b.jsonl": lines(20)})
    bench.run()
    assert 1000 < bench.report()["documents"]["in"] < 2020
    return {"quarantined": 1}


@case("a truncated `.zst` that lost little")
def _(bench):
    frames = zst(_MANY) + zst(_FEW)
    bench.put({"a.jsonl.zst": frames[:-3], "b.jsonl": lines(20)})
    bench.run()
    return {"quarantined": 1, "kept": 2000}


files_case("a truncated `.zst` that lost much", {"a.jsonl.zst": zst(_MANY)[: len(zst(_MANY)) // 2], "b.jsonl": lines(20)})
files_case("garbage after a `.gz`", {"a.jsonl.gz": gzip.compress(_FEW) + b"garbage"}, kept=8, quarantined=1)
files_case("garbage after a `.zst`", {"a.jsonl.zst": zst(_FEW) + b"garbage"}, kept=8, quarantined=1)
files_case("a `.gz` that is not compressed", {"a.jsonl.gz": lines(2), "b.jsonl": lines(20)}, kept=20, quarantined=1)
files_case(
    "a compressed file that is not named so",
    {"a.jsonl": gzip.compress(_FEW, mtime=0).replace(b"\n", b"\r"), "b.jsonl": lines(20)},
    kept=20,
    quarantined=1,
)
files_case("an empty file", {"a.jsonl": b"", "b.jsonl.gz": b"", "c.jsonl.zst": b"", "d.jsonl": lines(20)}, kept=20)
files_case("nothing but empty files", {"a.jsonl": b"", "b.jsonl.gz": b""}, kept=0)
files_case("an empty Parquet file", {"a.parquet": b"", "b.jsonl": lines(20)}, kept=20, quarantined=1)
files_case("Parquet without the text column", {"a.parquet": pa.table({"body": ["a"] * 5}), "b.jsonl": lines(20)}, kept=20)
files_case("a text column that holds numbers", {"a.parquet": pa.table({"text": [1, 2]}), "b.jsonl": lines(20)}, kept=20)


@case("a truncated Parquet file")
def _(bench):
    bench.put({"a.parquet": pa.table({"text": [text(i) for i in range(1000)]}), "b.jsonl": lines(20)})
    path = bench.input / "a.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    bench.run()


@case("a damaged row group")
def _(bench):
    table = pa.table({"text": [text(i) for i in range(105)]})
    bench.put({"a.parquet": table})
    path = bench.input / "a.parquet"
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\x55" * column.total_compressed_size
    path.write_bytes(data)
    bench.run()
    return {"kept": 100, "quarantined": [("a.parquet", 100, b"")]}


@case("a link that leads nowhere")
def _(bench):
    bench.put({"b.jsonl": lines(20)})
    (bench.input / "a.jsonl").symlink_to(bench.root / "later")
    bench.run()
    assert bench.report()["documents"]["quarantined"] == 1
    return {"kept": 20, "quarantined": [("a.jsonl", 0, b"")]}


def between(bench, function, action):
    """Let `action` happen right before the driver's `function` is called."""
    import curation.engine.run as driver

    original = getattr(driver, function)

    def wrapped(*arguments, **options):
        action()
        return original(*arguments, **options)

    bench.patch.setattr(driver, function, wrapped)


@case("a file that vanishes before it is read")
def _(bench):
    bench.put({"a.jsonl": lines(5, 50), "b.jsonl": lines(20)})
    between(bench, "describe_run", (bench.input / "a.jsonl").unlink)
    bench.run()
    bench.patch.undo()
    return {"kept": 20, "quarantined": [("a.jsonl", 0, b"")]}


def refusing(bench, name, error):
    """Let opening the input file `name` fail."""
    import curation.storage as storage

    original = storage.open_stream

    def open_stream(path, start=0):
        if path.endswith(f"in/{name}"):
            raise error
        return original(path, start)

    bench.patch.setattr(storage, "open_stream", open_stream)


@case("a file that may not be read")
def _(bench):
    bench.put({"a.jsonl": lines(5, 50), "b.jsonl": lines(20)})
    with bench.patch.context() as inner:
        refusing(Bench(bench.root, inner), "a.jsonl", PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a.jsonl"))
        bench.run()
    return {"kept": 20, "quarantined": [("a.jsonl", 0, b"")]}


@case("a file that vanishes between the two readings")
def _(bench):
    bench.put({"a.jsonl": lines(5, 50), "b.jsonl": lines(20)})
    moved = bench.root / "moved"
    between(bench, "OutputSteps", lambda: (bench.input / "a.jsonl").rename(moved))
    bench.run()


@case("a file that changes between the two readings")
def _(bench):
    bench.put({"a.jsonl": lines(5, 50), "b.jsonl": lines(20)})
    between(bench, "OutputSteps", lambda: bench.put({"a.jsonl": lines(6, 50)}))
    bench.run()


@case("a disk that fails while reading")
def _(bench):
    import curation.engine.first_pass as first_pass

    bench.patch.setattr(first_pass, "_SECONDS_BEFORE_RETRY", 0)
    bench.put({"a.jsonl": lines(5, 50), "b.jsonl": lines(20)})
    refusing(bench, "a.jsonl", OSError(errno.EIO, os.strerror(errno.EIO), "a.jsonl"))
    bench.run()


files_case("a directory named like a file", {"a.jsonl/b.jsonl": lines(20)}, kept=20, quarantined=[])
files_case("too many bad records", {"a.jsonl": lines(20), "b.jsonl": b"not json\n" * 12})
files_case("no good record at all", {"a.jsonl": b"not json\n"})

# Inputs and recipes


@case("an input that does not exist")
def _(bench):
    bench.run(input_path=bench.root / "nowhere")


@case("an empty folder")
def _(bench):
    bench.run()


files_case("a folder without a file of a known kind", {"a.txt": b"text"})


@case("files that no source matches, beside others")
def _(bench):
    bench.put({"notes.txt": b"text", "a.jsonl": lines(20)})
    bench.run(recipe=RECIPE.replace("**/*", "*.jsonl"))
    return {"kept": 20}


@case("a recipe that is not there")
def _(bench):
    bench.run(recipe="slimpajam")


for _name, _recipe in {
    "a recipe with a typo": RECIPE.replace("stages:", "stage:"),
    "a recipe that is no YAML": "name: [small",
    "a recipe that is not text": b"\xff\xfe",
}.items():
    CASES[_name] = lambda bench, content=_recipe: bench.run(recipe=content) and None
files_case("`--set` with a typo", {"a.jsonl": lines(20)}, "--set", "length.minimum_character=5")
files_case("a setting of the wrong kind", {"a.jsonl": lines(20)}, "--set", "length.minimum_characters=many")


@case("a data set without the split")
def _(bench):
    import datasets

    split = datasets.Dataset.from_dict({"text": [text(0)]})
    datasets.DatasetDict(train=split, test=split).save_to_disk(str(bench.input))
    bench.run(recipe=RECIPE.replace('/**/*"', '", format: huggingface, split: tset'))


# Folders and the machine


def finished(bench):
    """A bench with a finished run."""
    bench.put({"a.jsonl": lines(20)})
    assert bench.run() == 0
    return bench


@case("an output with a run of another recipe")
def _(bench):
    finished(bench).run(recipe=RECIPE.replace("name: small", "name: other"))


@case("an output with a run over other files")
def _(bench):
    (finished(bench).input / "a.jsonl").rename(bench.input / "b.jsonl")
    bench.run()


@case("an output with folders that no run made")
def _(bench):
    bench.put({"a.jsonl": lines(20)})
    (bench.out / "documents").mkdir(parents=True)
    (bench.out / "documents" / "thesis.txt").write_text("years of work")
    assert bench.run("--fresh") == 2
    assert (bench.out / "documents" / "thesis.txt").exists()
    bench.run()


@case("an output with a foreign `run.json`")
def _(bench):
    bench.put({"a.jsonl": lines(20)})
    bench.out.mkdir()
    (bench.out / "run.json").write_text("[1]")
    assert bench.run("--fresh") == 2
    bench.run()


@case("an output with other files")
def _(bench):
    bench.put({"a.jsonl": lines(20)})
    bench.out.mkdir()
    (bench.out / "notes.txt").write_text("mine")
    bench.run()
    bench.run("--fresh")
    assert (bench.out / "notes.txt").read_text() == "mine"
    return {"kept": 20}


@case("an output that is a file")
def _(bench):
    bench.put({"a.jsonl": lines(20)})
    bench.out.write_text("mine")
    bench.run()


@case("an output inside the input")
def _(bench):
    bench.put({"a.jsonl": lines(20)})
    bench.run(output=bench.input / "out")


@case("an input inside the output")
def _(bench):
    bench.put({"a.jsonl": lines(20)})
    bench.run(output=bench.root)


@case("an output of a newer release")
def _(bench):
    path = finished(bench).out / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 999}))
    bench.run()


@case("an output in use by another process")
def _(bench):
    bench.put({"a.jsonl": lines(20)})
    bench.out.mkdir()
    holder = {"host": socket.gethostname(), "pid": 1, "started": psutil.Process(1).create_time()}
    (bench.out / ".lock").write_text(json.dumps(holder))
    bench.run()


@case("a `--work` folder with other files")
def _(bench):
    bench.put({"a.jsonl": lines(20)})
    notes = bench.root / "work" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    assert bench.run("--fresh", "--work", notes.parent) == 2
    assert notes.exists()
    bench.run("--work", notes.parent)


@case("a work folder that was removed")
def _(bench):
    shutil.rmtree(finished(bench).out / "work")
    assert bench.run() == 0
    bench.run("--set", "length.minimum_characters=1")
    assert bench.report()["tasks"]["reused"] == 0
    return {"kept": 20}


files_case("too little memory for a worker", {"a.jsonl": lines(20)}, "--memory-per-worker", "0.2")


@case("too little disk, seen beforehand")
def _(bench):
    import curation.storage as storage

    bench.put({"a.jsonl": lines(20)})
    bench.patch.setattr(storage, "free_bytes", lambda _: 100)
    bench.run()


@case("a disk that fills up")
def _(bench):
    from curation.engine import document_files

    def full(_table, **_options):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    bench.put({"a.jsonl": lines(20)})
    with bench.patch.context() as inner:
        inner.setattr(document_files.pq, "ParquetWriter", lambda path, *_, **__: _FullWriter(path))
        bench.run()
    goes_on_after_a_full_disk(bench)
    return


class _FullWriter:
    """A Parquet writer whose disk has room for the beginning of a file."""

    def __init__(self, path):
        self._file = open(path, "wb")  # noqa: SIM115 - closed in close()
        self._file.write(b"PAR1")

    def write_table(self, *_, **__):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    def close(self):
        self._file.close()


def goes_on_after_a_full_disk(bench):
    """No half file stands anywhere, and the same command finishes what was begun."""
    assert not [path for path in bench.out.rglob("*") if path.is_file() and path.suffix in (".parquet", ".tmp")]
    exit_code, message = bench.exit_code, bench.message
    assert bench.run() == 0
    assert bench.report()["tasks"]["reused"] >= 2
    balanced(bench)
    shutil.rmtree(bench.out)
    bench.exit_code, bench.message = exit_code, message


# The tests


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def table_rows():
    """(input, exit code, what is seen) of the rows of the documentation."""
    rows = {}
    for line in DOCUMENTATION.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" |")]
        if line.startswith("| ") and cells[0] != "Input":
            quoted = re.search(r"(`+)(.+?)\1", cells[3]) if len(cells) > 3 else None
            assert cells[0] not in rows
            rows[cells[0]] = (int(cells[2]), quoted[2] if quoted else "")
    return rows


ROWS = table_rows()


def balanced(bench):
    """Documents in = kept + removed + quarantined, in the report, for each source, and in the files."""
    report = bench.report()
    found = {name: len(bench.rows(name)) for name in ("documents", "removed", "quarantine")}
    counts = report["documents"]
    assert counts["in"] == counts["kept"] + counts["removed"] + counts["quarantined"]
    assert found == {"documents": counts["kept"], "removed": counts["removed"], "quarantine": counts["quarantined"]}
    for source in report["sources"].values():
        parts = ("kept_documents", "removed_documents", "quarantined_records")
        assert source["documents_in"] == sum(source[part] for part in parts)
    return counts


def test_every_row_of_the_documentation_has_a_case_and_the_other_way_round():
    assert list(ROWS) and set(ROWS) == set(CASES)


@pytest.mark.parametrize("name", ROWS)
def test_what_the_documentation_says_of_a_bad_input_happens(name, bench):
    exit_code, quoted = ROWS[name]
    expected = CASES[name](bench) or {}
    assert bench.exit_code == exit_code, bench.message
    pattern = ".*".join(re.escape(piece) for piece in quoted.split("…"))
    seen = bench.everything_seen()
    assert any(re.search(pattern, one) for one in seen), seen
    if exit_code == 2:
        assert bench.message[0] not in " \n" and len(bench.message) < 500
    if exit_code:
        return
    counts = balanced(bench)
    if not quoted:
        assert not bench.rows("quarantine")
    if "kept" in expected:
        assert counts["kept"] == expected["kept"]
    if isinstance(expected.get("quarantined"), int):
        assert counts["quarantined"] == expected["quarantined"]
    if isinstance(expected.get("quarantined"), list):
        rows = bench.rows("quarantine")
        assert [(row["path"], row["offset"], row["bytes"]) for row in rows] == expected["quarantined"]
        assert {row["source"] for row in rows} <= {"web"}


def test_a_file_that_could_not_be_read_is_tried_again_by_the_same_command(bench):
    CASES["a link that leads nowhere"](bench)
    (bench.root / "later").write_bytes(lines(5, 50))
    assert bench.run() == 0
    assert balanced(bench)["kept"] == 25
    assert not bench.rows("quarantine")


def test_a_file_that_vanished_between_the_readings_may_come_back(bench):
    CASES["a file that vanishes between the two readings"](bench)
    bench.patch.undo()
    (bench.root / "moved").rename(bench.input / "a.jsonl")
    assert bench.run() == 0
    assert balanced(bench)["kept"] == 25
    assert bench.report()["tasks"]["reused"] >= 1


def test_too_many_bad_records_leave_all_of_them_in_the_quarantine_and_may_be_allowed(bench):
    CASES["too many bad records"](bench)
    assert [row["bytes"] for row in bench.rows("quarantine")] == [b"not json"] * 12
    assert bench.run("--set", "max_bad_fraction=0.5") == 0
    assert balanced(bench) == {"in": 32, "kept": 20, "removed": 0, "quarantined": 12}


def test_a_real_disk_that_fills_up_leaves_no_half_file_and_the_run_goes_on(bench):
    disk = bench.root / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        bench.output = "disk/out"
        source = random.Random(1)
        hard = [{"text": source.randbytes(1800).hex() + source.randbytes(300).hex()} for _ in range(1500)]
        bench.put({"a.jsonl": b"".join(json.dumps(record).encode() + b"\n" for record in hard)})
        assert bench.run() == 1
        assert bench.message == (f"no space left on the disk of {bench.out}; free some and start the same command again")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        goes_on_after_a_full_disk(bench)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def counted(good=0, bad=0, raw_bytes=0, bad_record_bytes=0, unread_bytes=0, unread_records=0):
    """What a unit of the first pass returns, for the rule alone."""
    part = {
        "n_documents": good, "bad_records": bad, "raw_bytes": raw_bytes, "bad_record_bytes": bad_record_bytes,
        "unread_bytes": unread_bytes, "unread_records": unread_records, "first_bad": ["web/a at 0: bad"], "failed": {},
    }  # fmt: skip
    return [{"parts": [part]}]


@pytest.mark.parametrize(
    ("counts", "fails"),
    [
        ({"good": 100}, False),
        ({}, False),
        ({"good": 100, "bad": 9}, False),  # fewer than ten
        ({"good": 100, "bad": 10}, True),
        ({"good": 20_000, "bad": 10}, False),  # 0.05 %
        ({"good": 100, "bad": 1, "raw_bytes": 10**8, "bad_record_bytes": 10**8 - 10_000}, False),  # long, and still one
        ({"good": 100, "bad": 1, "raw_bytes": 10_000, "unread_bytes": 800}, False),  # 1 and 8 of 100 bytes
        ({"good": 100, "bad": 1, "raw_bytes": 10_000, "unread_bytes": 900}, True),
        ({"good": 100, "bad": 1, "raw_bytes": 10**8, "bad_record_bytes": 10**8 - 10_000, "unread_bytes": 900}, True),
        ({"good": 100, "bad": 1, "unread_records": 9}, True),
        ({"good": 0, "bad": 1, "raw_bytes": 10}, True),  # nothing is left
    ],
)
def test_a_bad_record_counts_as_one_and_an_unread_rest_in_full(counts, fails):
    if fails:
        with pytest.raises(TooManyBadRecordsError, match="web/a at 0: bad"):
            check_bad_fraction(counted(**counts), 0.001, "out")
    else:
        check_bad_fraction(counted(**counts), 0.001, "out")
