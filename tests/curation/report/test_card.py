"""The data card says what the run recorded, nothing else, and shows what strangers wrote as text."""

import copy
import json

import markdown_it
import pytest
import yaml

from curation.engine.recipe import load_recipe, parse_recipe
from curation.engine.run_folder import MADE_BY, RunFolder
from curation.report.card import card, front_matter
from curation.report.data_card import write_data_card
from curation.report.markdown import code_block, escaped
from curation.report.rebuild import rebuild_command, recipe_yaml

LICENSED = """\
  - {name: a, path: "{input}/a/**", license: odc-by}
  - {name: b, path: "{input}/b/**", license: "terms of the forum, 2019"}
  - {name: c, path: "{input}/c/**"}
"""
HOSTILE = (
    "</td>--> <script>alert(1)</script> | `x` [y](javascript:z) **b** ![i](http://e.example/i.png)\n---\n# h\u202e\x00{{ 7*7 }}"
)


def recorded(bench, output="out"):
    folder = bench.folder / output
    return json.loads((folder / "report.json").read_text()), json.loads((folder / "run.json").read_text())


def parts(text):
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def html(text):
    return markdown_it.MarkdownIt("commonmark").enable("table").render(text)


def rows(body, heading):
    """Cells of the first table below a heading, without commas in numbers."""
    lines = body.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("| ")]
    return [[cell.strip().replace(",", "") for cell in line.strip("|").split("|")] for line in table][1:]


@pytest.fixture
def made(small):
    small.run("out", small.recipe(sources=LICENSED, rest="output: {split: {validation: 0.2}}\n"))
    return small


def test_counts_of_sources_and_stages_are_those_of_the_report(made):
    report, run = recorded(made)
    _, body = parts(card(report, run))
    licenses = {"a": "odc-by", "b": "terms of the forum 2019", "c": "unknown"}
    keys = ("documents_in", "kept_documents", "bytes_in", "kept_bytes")
    expected = [[n, licenses[n], *(str(counts[key]) for key in keys)] for n, counts in report["sources"].items()]
    assert rows(body, "Sources and licences")[: len(expected)] == expected
    removed = {row[0]: (row[2], row[3], row[5]) for row in rows(body, "What was removed")}
    keys = ("documents_in", "removed_documents", "removed_bytes")
    assert removed == {name: tuple(str(stage[key]) for key in keys) for name, stage in report["stages"].items()}
    assert report["fingerprints"]["input"] in body
    assert report["fingerprints"]["output"] in body


def test_what_no_stage_did_and_what_was_not_recorded_is_said(made):
    report, run = recorded(made)
    body = card(report, run)
    for said in ("made no tokens", "Recall: not recorded", "Classifier: no such stage was run", "Reconstructed (made up"):
        assert said in body
    report["stages"]["minhash"].pop("sampled_pairs", None)
    assert "Precision: not recorded" in card(report, run)


def test_sampled_pairs_are_told_as_what_they_are(made):
    report, run = recorded(made)
    pairs = {"pairs": 200, "measured": 190, "threshold": 0.8, "below_threshold": 19, "histogram": []}
    report["stages"]["minhash"]["sampled_pairs"] = pairs
    body = card(report, run)
    assert "sample of 200 pairs" in body
    assert "171 (90.00 %) have a true Jaccard similarity of at least 0.8" in body


def test_a_run_with_stages_of_its_own_does_not_claim_what_they_did_not_do(small):
    (small.folder / "mine.py").write_text(
        "def nothing(batch):\n    from curation.stages import MapResult\n    return MapResult()\n"
    )
    small.run("out", small.recipe(stages="  - python: {file: mine.py, function: nothing}\n"))
    body = card(*recorded(small))
    assert "Classifier: not recorded" in body
    assert "Personal data: not recorded" in body
    assert "SHA-256 `" in body.split("stages of its own")[1]


@pytest.mark.parametrize("limit", [None, 3])
def test_the_recipe_of_the_card_and_its_command_repeat_the_run(made, limit):
    made.run("limited" if limit else "out", made.recipe(sources=LICENSED, rest="output: {split: {validation: 0.2}}\n"), limit=limit)
    report, run = recorded(made, "limited" if limit else "out")
    body = card(report, run)
    text = body.split("```yaml\n")[1].split("\n```")[0]
    assert "{input}" in text
    assert parse_recipe(text, "recipe.yaml", str(made.input), {}).resolved() == run["recipe"]
    (made.folder / "again.yaml").write_text(text)
    made.run("again", made.folder / "again.yaml", limit=limit)
    assert made.hashes("again") == made.hashes("limited" if limit else "out")
    assert ("--limit 3" in body) == bool(limit)
    assert recorded(made, "again")[0]["fingerprints"] == report["fingerprints"]


@pytest.mark.parametrize("name", ["slimpajama", "slimpajama-released", "slimpajama-verified"])
def test_a_recipe_that_ships_survives_being_written_out(name):
    resolved = load_recipe(name, "/data/[odd] {place}").resolved()
    text = recipe_yaml(resolved, "/data/[odd] {place}")
    assert parse_recipe(text, "recipe.yaml", "/data/[odd] {place}", {}).resolved() == resolved


def hostile(report, run):
    """The same run with hostile text wherever a person or a file name may put some."""
    report, run = copy.deepcopy(report), copy.deepcopy(run)
    report["sources"] = {HOSTILE + name: counts for name, counts in report["sources"].items()}
    report["deviations"] = [HOSTILE, "- [ ] x", "1. y"]
    report["warnings"] = [HOSTILE]
    report["published"] = {"what": HOSTILE, "comparable": False, "why": HOSTILE, "sources": {}, "overall": {}}
    report["stages"]["minhash"]["reasons"] = {HOSTILE: {"documents": 1, "bytes": 1}}
    for source in run["recipe"]["sources"]:
        source |= {"name": HOSTILE + source["name"], "license": HOSTILE, "path": "```\n" + HOSTILE}
    run["input"]["path"] = "````\n" + HOSTILE
    run["recipe"]["deviations"] = report["deviations"]
    run["versions"][HOSTILE] = HOSTILE
    run["recipe"]["stages"].append(
        {"name": "own", "stage": "python", "versions": {"file_sha256": "0f"}, "file": HOSTILE, "function": "f", "settings": {}}
    )
    report["stages"]["own"] = report["stages"]["length"]
    return report, run


def test_hostile_text_is_shown_as_text(made):
    text = card(*hostile(*recorded(made)))
    header, body = parts(text)
    assert header["license"] == "other"
    assert "\u202e" not in text
    assert "\x00" not in text
    page = html(body)
    for tag in ("<script", "<img", "<a ", "<h1>h", "<hr"):
        assert tag not in page.replace("<h1>small</h1>", "")
    headings = [line for line in page.splitlines() if line.startswith(("<h1", "<h2"))]
    clean = html(parts(card(*recorded(made)))[1])
    assert headings == [line for line in clean.splitlines() if line.startswith(("<h1", "<h2"))]
    assert page.count("<tr>") >= clean.count("<tr>")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.parametrize(
    "text", [HOSTILE, "a" * 10**6, "https://evil.example", "www.evil.example", "<b>", "\ud800", "> q", "| a |"]
)
def test_escaped_text_is_one_line_without_markup(text):
    line = escaped(text)
    assert "\n" not in line
    assert len(line) < 2000
    page = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(f"| a |\n|---|\n| {line} |\n")
    assert page.count("<td>") == 1
    assert "<a" not in page
    assert "<em" not in page
    line.encode()


def test_no_text_closes_its_fence():
    text = "```\n````` x\n# heading"
    assert html(code_block(text, "yaml")).count("<pre>") == 1
    assert "<h1>" not in html(code_block(text, "yaml"))


def test_the_command_survives_a_hostile_input_path(made):
    _, run = recorded(made)
    run["input"]["path"] = "/data/it's $(touch x)"
    run["recipe"]["sources"][0]["path"] = run["input"]["path"] + "/a"
    assert "'/data/it'\"'\"'s $(touch x)'" in rebuild_command(run)


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        (["MIT", "MIT", "MIT"], "mit"),
        (["mit", None, None], ["mit", "unknown"]),
        ([None] * 3, "unknown"),
        (["x: y\n- z"] * 3, "other"),
    ],
)
def test_the_front_matter_names_licences_as_the_hub_does(made, licenses, expected):
    report, run = recorded(made)
    for source, license in zip(run["recipe"]["sources"], licenses, strict=True):
        source["license"] = license
    assert front_matter(report, run)["license"] == expected


def test_sources_that_a_column_made_have_the_licence_of_the_one_that_was_split(bench):
    members = [{"meta": {"set": name}} for name in ("x", "y", "x")]
    bench.write("a/1.jsonl", ["one " * 40, "two " * 40, "three " * 40], members)
    bench.run("out", bench.recipe(sources='  - {name: a, path: "{input}/a/**", by: meta.set, license: cc0-1.0}\n'))
    assert front_matter(*recorded(bench))["license"] == "cc0-1.0"


def test_an_input_that_no_pattern_matches_has_no_licence_of_the_recipe(bench):
    bench.write("odd/1.jsonl", ["one " * 40])
    bench.run("out", bench.recipe(sources='  - {name: a, path: "{input}/a/**", license: cc0-1.0}\n'))
    assert front_matter(*recorded(bench))["license"] == "unknown"


def test_a_readme_of_ones_own_stays_and_one_of_a_run_goes_with_fresh(made):
    folder = RunFolder.at(str(made.folder / "out"), None)
    readme = made.folder / "out" / "README.md"
    croissant = made.folder / "out" / "croissant.json"
    assert write_data_card(folder.output) == [str(readme), str(croissant)]
    assert MADE_BY in readme.read_text()
    readme.write_text("My own notes.\n")
    assert write_data_card(folder.output) == [str(croissant)]
    assert readme.read_text() == "My own notes.\n"
    folder.empty()
    assert readme.exists()
    assert not croissant.exists()
    readme.write_text(f"<!-- {MADE_BY} -->")
    folder.empty()
    assert not readme.exists()


def test_a_finished_run_that_lost_its_card_gets_it_again(made):
    folder = made.folder / "out"
    before = {name: (folder / name).read_bytes() for name in ("README.md", "croissant.json")}
    for name in before:
        (folder / name).unlink()
        assert made.run("out", made.recipe(sources=LICENSED, rest="output: {split: {validation: 0.2}}\n"))["already_complete"]
        assert (folder / name).read_bytes() == before[name]


def test_the_same_run_has_the_same_card_apart_from_times(made):
    first_report, first_run = recorded(made)
    made.run("out", made.recipe(sources=LICENSED, rest="output: {split: {validation: 0.2}}\n"), fresh=True)
    report, run = recorded(made)
    assert card(first_report, {**first_run, "finished": "then"}) == card(report, {**run, "finished": "then"})
