"""The local sample: layout, determinism, bounds, honest descriptions, and what it refuses."""

import json
import os

import pyarrow as pa
import pytest

from curation.sample import classify, find_candidates, write_sample
from curation.sample_text import description, documentation_strings, html_text

LICENCE = "Permission is granted to use this text for any purpose whatsoever, without any warranty at all.\n" * 5
MODULE = '"""Adds numbers."""\n\n\ndef add(a: int, b: int) -> int:\n    """The sum of a and b."""\n    return a + b\n'


@pytest.fixture
def roots(tmp_path):
    """A small installation: two packages, one of them vendoring a file of the other, and a documentation folder."""
    site, doc = tmp_path / "site", tmp_path / "doc"
    files = {
        site / "adder-1.0.dist-info/METADATA": "Name: adder\nVersion: 1.0\n\n# adder\n\nAdds numbers.\n",
        site / "adder-1.0.dist-info/RECORD": "adder/__init__.py,sha256=x,1\nadder/README.md,sha256=x,1\n",
        site / "adder-1.0.dist-info/top_level.txt": "adder\n",
        site / "adder-1.0.dist-info/licenses/LICENSE": LICENCE,
        site / "adder/__init__.py": MODULE,
        site / "adder/README.md": "# adder\n\nAdds numbers.\n",
        site / "adder/__pycache__/x.py": "cached = True\n",
        site / "other/_vendor/adder.py": MODULE,
        site / "other/data.json": "{}",
        site / "other/empty.py": "",
        doc / "adder/copyright": LICENCE,
        doc / "adder/index.html": "<head><title>t</title></head><h1>Adder</h1><p>Adds &amp; subtracts.</p>",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (site / "other/latin1.py").write_bytes("# na\xefve\n".encode("latin-1"))
    (site / "other/binary.c").write_bytes(b"int x;\0\0")
    (site / "other/huge.c").write_bytes(b"int x;\n" * 200_000)
    return {"site-packages": str(site), "doc": str(doc)}


def rows_of(directory):
    """{path relative to the sample: rows} of every data file."""
    found = {}
    for path in sorted(directory.rglob("*.jsonl*")):
        with pa.input_stream(str(path), compression="zstd" if path.suffix == ".zst" else None) as stream:
            found[path.relative_to(directory).as_posix()] = [json.loads(line) for line in stream.read().splitlines()]
    return found


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_each_kind_of_text_lands_in_the_directory_that_it_stands_in_for(tmp_path, roots):
    write_sample(tmp_path / "sample", roots=roots)
    rows = rows_of(tmp_path / "sample")
    paths = {file: sorted(row["meta"]["path"] for row in file_rows) for file, file_rows in rows.items()}
    assert paths == {
        "c4/c4-local.00000.jsonl": [
            "doc/adder/copyright",
            "site-packages/adder-1.0.dist-info/METADATA",
            "site-packages/adder-1.0.dist-info/licenses/LICENSE",
        ],
        "common_crawl/local/pages_0000.jsonl.zst": ["doc/adder/index.html", "site-packages/adder/README.md"],
        "github/local_0000.jsonl": ["site-packages/adder/__init__.py", "site-packages/other/_vendor/adder.py"],
        "wikipedia/wiki.jsonl": ["site-packages/adder/__init__.py", "site-packages/other/_vendor/adder.py"],
    }


def test_rows_say_what_they_are_and_which_package_they_came_from(tmp_path, roots):
    write_sample(tmp_path / "sample", roots=roots)
    rows = rows_of(tmp_path / "sample")
    code = {row["meta"]["path"]: row for row in rows["github/local_0000.jsonl"]}
    assert code["site-packages/adder/__init__.py"] == {
        "text": MODULE,
        "meta": {
            "path": "site-packages/adder/__init__.py",
            "kind": "source code",
            "package": "adder",
            "version": "1.0",
        },
    }
    assert code["site-packages/other/_vendor/adder.py"]["meta"]["package"] is None
    texts = {row["meta"]["path"]: row["text"] for file_rows in rows.values() for row in file_rows}
    assert texts["doc/adder/index.html"] == "Adder\n\nAdds & subtracts."
    assert texts["site-packages/adder-1.0.dist-info/METADATA"] == texts["site-packages/adder/README.md"]


def test_common_crawl_rows_carry_a_source_of_their_own_as_published_ones_do(tmp_path, roots):
    write_sample(tmp_path / "sample", roots=roots)
    for file, rows in rows_of(tmp_path / "sample").items():
        assert all(("source" in row) == file.startswith("common_crawl") for row in rows)


def test_the_summary_counts_what_the_files_hold(tmp_path, roots):
    summary = write_sample(tmp_path / "sample", roots=roots)
    rows = [row for file_rows in rows_of(tmp_path / "sample").values() for row in file_rows]
    assert summary["files"] == 4
    assert summary["documents"] == len(rows) == sum(s["documents"] for s in summary["sources"].values())
    assert summary["bytes"] == sum(len(row["text"].encode()) for row in rows)
    assert summary["bytes"] == sum(s["bytes"] for s in summary["sources"].values())


def test_the_same_installation_gives_the_same_bytes(tmp_path, roots):
    write_sample(tmp_path / "one", roots=roots)
    for path in find_candidates(roots):
        os.utime(path.file, (1, 1))
    write_sample(tmp_path / "two", roots=roots)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_complete_sample_is_used_again_and_a_damaged_one_is_not(tmp_path, roots):
    sample = tmp_path / "sample"
    first = write_sample(sample, roots=roots)
    marked = sample.stat().st_ino
    assert write_sample(sample, roots=roots) == first
    assert sample.stat().st_ino == marked
    whole = contents(sample)
    (sample / "wikipedia/wiki.jsonl").write_text("cut")
    assert write_sample(sample, roots=roots) == first
    assert contents(sample) == whole


def test_another_size_or_another_installation_replaces_the_sample(tmp_path, roots):
    sample = tmp_path / "sample"
    full = write_sample(sample, roots=roots)
    small = write_sample(sample, megabytes=0.0008, roots=roots)
    assert 0 < small["bytes"] <= 800 < full["bytes"]
    (tmp_path / "site/adder/more.py").write_text("x = 1\n")
    assert write_sample(sample, roots=roots)["documents"] == full["documents"] + 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("megabytes", [0.0003, 0.001, 0.002])
def test_megabytes_is_a_bound_on_the_text(tmp_path, roots, megabytes):
    seen = []
    summary = write_sample(tmp_path / "sample", megabytes, lambda *counts: seen.append(counts), roots=roots)
    assert summary["bytes"] <= megabytes * 1e6
    assert seen == sorted(seen) and all(most == int(megabytes * 1e6) for _, most in seen)


def test_a_failure_leaves_nothing_behind(tmp_path, roots):
    def stop(done: int, most: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "out/sample", progress=stop, roots=roots)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_directory_that_holds_something_else_is_refused(tmp_path, roots):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("do not lose me")
    with pytest.raises(ValueError, match="mine exists and is not a sample"):
        write_sample(tmp_path / "mine", roots=roots)
    assert (tmp_path / "mine/thesis.txt").exists()
    (tmp_path / "empty").mkdir()
    assert write_sample(tmp_path / "empty", roots=roots)["documents"]


@pytest.mark.parametrize("megabytes", [0, -1])
def test_an_empty_sample_is_refused(tmp_path, megabytes):
    with pytest.raises(ValueError, match="more than 0"):
        write_sample(tmp_path / "sample", megabytes)


def test_this_installation_holds_several_sources(tmp_path):
    summary = write_sample(tmp_path / "sample", megabytes=3)
    assert {"c4", "github", "wikipedia"} <= set(summary["sources"])
    assert 2e6 < summary["bytes"] <= 3e6


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("pkg/a.py", ("github", "source code")),
        ("pkg/licenses.py", ("github", "source code")),
        ("LICENSE.txt", ("c4", "licence")),
        ("pkg/COPYING", ("c4", "licence")),
        ("pkg/notes.RST", ("common_crawl", "page")),
        ("a.dist-info/RECORD", None),
        ("a.dist-info/entry_points.txt", None),
        ("pkg/lib.so", None),
        ("pkg/NOTHING", None),
    ],
)
def test_a_file_is_classified_by_its_name(path, wanted):
    assert classify("site-packages", path) == wanted


def test_documentation_strings_are_those_that_open_definitions():
    source = (
        '#!/usr/bin/env python\n# licence\n\nr"""Module."""\n\nclass A:  # base\n    """Class."""\n'
        '    query = """not this"""\n'
        "    async def f(\n        self,\n    ) -> None:\n        '''Method.'''\n"
    )
    assert list(documentation_strings(source)) == ["Module.", "Class.", "Method."]
    assert list(documentation_strings('x = 1\n"""not this"""\n')) == []


def test_html_scripts_and_comments_are_not_text():
    assert html_text("<p>a</p><script>b < c</script><!-- <p>d</p> --><pre>e\n  f</pre>") == "a\n\ne\n  f"


def test_a_package_without_a_description_gives_no_text():
    assert description("Name: x\nVersion: 1\n") == ""
