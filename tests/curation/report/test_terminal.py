"""The terminal summary: nothing that strangers wrote may do more than be read, and numbers survive 80 columns."""

import copy
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from curation.report.terminal import clip, print_plan, print_summary

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07[red]bold[/red] [link=http://evil]here[/link]\u202edesrever\u200b\r\nsecond\tline\ud800"
)


def source(documents_in, removed, quarantined=0):
    kept = documents_in - removed - quarantined
    return {
        "documents_in": documents_in,
        "bytes_in": 1000 * documents_in,
        "kept_documents": kept,
        "kept_bytes": 1000 * kept,
        "removed_documents": removed,
        "removed_bytes": 1000 * removed,
        "quarantined_records": quarantined,
    }


def stage(removed_by_source, **details):
    by_source = {
        name: {"documents_in": 10 * n, "bytes_in": 10_000 * n, "removed_documents": n, "removed_bytes": 1000 * n}
        for name, n in removed_by_source.items()
    }
    totals = {key: sum(entry[key] for entry in by_source.values()) for key in next(iter(by_source.values()))}
    return {**totals, "by_source": by_source, **details}


def make_report(names=("commoncrawl", "c4"), documents=12_345):
    removed = dict.fromkeys(names, documents // 7)
    twice = {name: 2 * n for name, n in removed.items()}
    sources = {name: source(documents, twice[name]) for name in names}
    total = {key: sum(entry[key] for entry in sources.values()) for key in next(iter(sources.values()))}
    members = [{"id": f"{names[0]}/a@{n}", "source": names[0], "text": f"First line {n}"} for n in range(5)]
    return {
        "format_version": 1,
        "name": "slimpajama",
        "input": "in",
        "output": "out",
        "status": "complete",
        "already_complete": False,
        "documents": {
            "in": total["documents_in"],
            "kept": total["kept_documents"],
            "removed": total["removed_documents"],
            "quarantined": 0,
        },
        "bytes": {"in": total["bytes_in"], "kept": total["kept_bytes"], "removed": total["removed_bytes"]},
        "stages": {
            "normalize": stage(dict.fromkeys(names, 0)),
            "length": stage(removed),
            "minhash": stage(
                removed,
                component_sizes={"2": 100, "3": 20, "9": 1},
                largest_components=[{"documents": 9, "first_lines": members}],
                matrix=[[gone, kept, 17, 1700] for gone in names for kept in names],
                verify="none",
            ),
        },
        "sources": sources,
        "splits": {"train": {"documents": 10, "bytes": 1000}, "validation": {"documents": 1, "bytes": 100}},
        "quarantine": {"records": 0, "lost_bytes": 0, "by_reason": {}, "by_source": {}, "first": []},
        "unmatched": [],
        "tasks": {"planned": 12, "run": 5, "reused": 7},
        "peak_memory_bytes": 734_000_000,
        "peak_memory": {"driver": 234_000_000, "worker": 734_000_000},
        "warnings": [],
        "deviations": [],
        "total_seconds": 75.0,
        "raw_bytes": 3_000_000_000,
        "mb_per_second": 40.0,
        "commands": {"resume": "curate run slimpajama --input in --output out"},
    }


def shown(report, width=80, printer=print_summary):
    out = io.StringIO()
    printer(report, Console(file=out, width=width))
    return out.getvalue()


def test_counts_rates_tasks_and_commands_are_all_there():
    text = shown(make_report())
    flat = " ".join(text.split())
    for expected in (
        "Kept 17,638 of 24,690 documents (71.4 %)",
        "121 components, by size 2-3: 120, 8-9: 1",
        "40.0 MB/s",
        "peak memory 734.0 MB (driver 234.0 MB, worker 734.0 MB)",
        "12 tasks: 5 run, 7 from before",
        "curate run slimpajama --input in --output out",
        "First line 0",
    ):
        assert expected in flat, text


@pytest.mark.parametrize("documents", [5, 12_345, 931_361_530])
def test_no_line_but_a_command_is_wider_than_80_columns_and_no_number_is_cut(documents):
    names = ("commoncrawl", "c4", "github", "book", "arxiv", "wikipedia", "stackexchange")
    report = make_report(names, documents)
    report["documents"]["quarantined"] = 3
    report["stages"]["exact"] = copy.deepcopy(report["stages"]["length"])
    text = shown(report)
    assert max(cell_len(line) for line in text.splitlines()) <= 80, text
    rows = [line for line in text.splitlines() if line.startswith("all")]
    assert len(rows) == 2  # documents and bytes
    assert all(row.rstrip().endswith(" 71.4 %" if documents > 5 else "%") and "…" not in row for row in rows)


def test_a_command_is_printed_on_one_line_however_long():
    report = make_report()
    report["commands"]["resume"] = "curate run slimpajama --input '" + "a b/" * 60 + "' --output out"
    assert report["commands"]["resume"] in shown(report)


def test_hostile_text_names_and_reasons_reach_the_terminal_without_control_or_markup():
    report = make_report((f"{HOSTILE}1", f"{HOSTILE}2"))
    for member in report["stages"]["minhash"]["largest_components"][0]["first_lines"]:
        member["text"] = HOSTILE
    report["quarantine"] = {
        "records": 4,
        "lost_bytes": 9,
        "by_reason": {HOSTILE: 4},
        "by_source": {},
        "first": [HOSTILE],
    }
    report |= {"warnings": [HOSTILE], "deviations": [HOSTILE], "unmatched": [HOSTILE], "name": HOSTILE}
    text = shown(report)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[red]bold[/red]" in text  # shown as it stands, not interpreted
    assert "\nsecond" not in text  # nothing of it starts a line of its own


@given(st.text(), st.integers(1, 90))
def test_clipped_text_is_one_printable_line_within_the_width(text, width):
    clipped = clip(text, width)
    assert clipped.isprintable()
    assert cell_len(clipped) <= width


def test_the_matrix_becomes_a_list_of_pairs_when_it_would_not_fit():
    names = tuple(f"language-{n:03}" for n in range(30))
    text = shown(make_report(names))
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert "kept in" in text
    assert "all 30" in text


def test_many_stages_get_a_table_of_their_own():
    report = make_report()
    for number in range(4):
        report["stages"][f"filter-{number}"] = copy.deepcopy(report["stages"]["length"])
    text = shown(report)
    assert "by stage" in text
    assert "filter-3" in text
    assert max(cell_len(line) for line in text.splitlines()) <= 80


def test_a_finished_run_says_that_nothing_was_done_and_shows_no_rates():
    text = shown({**make_report(), "already_complete": True})
    assert "was complete already; nothing was done" in text
    assert "MB/s" not in text


def test_a_run_that_removed_nothing_and_read_nothing_is_shown():
    report = make_report(documents=0)
    report["stages"]["minhash"] |= {"component_sizes": {}, "largest_components": [], "matrix": []}
    assert "minhash: no duplicates" in shown(report)


def test_a_plan_shows_files_memory_disk_and_what_no_source_matches():
    plan = {
        "recipe": "slimpajama",
        "sources": {"c4": {"files": 1024, "bytes": 800_000_000_000, "raw_bytes": 2_500_000_000_000}},
        "unmatched": [f"/data/{HOSTILE}"],
        "raw_bytes": 2_500_000_000_000,
        "documents": 500_000_000,
        "tasks": {"first pass": 9000, "shuffle": 1024, "range reads": 9_216_000},
        "workers": 64,
        "memory_bytes": {
            "worker": 1_610_612_736,
            "driver": 316_000_000,
            "union_find": 30_000_000_000,
            "union_find_per_document": 60,
        },
        "disk_bytes": {"work": 300_000_000_000, "output": 1_100_000_000_000},
        "disk_free_bytes": {"work": 2_000_000_000_000, "output": None},
        "storage_requests": 9_300_000,
    }
    text = shown(plan, printer=print_plan)
    for expected in ("1,024", "800.0 GB", "2.5 TB", "64", "1.6 GB a worker", "60 bytes", "2.0 TB free", "9,300,000"):
        assert expected in text, text
    assert "no source matches: 1" in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert max(cell_len(line) for line in text.splitlines()) <= 80
