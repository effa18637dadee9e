"""The page says what report.json says, shows strangers' text as text, and stays small whatever it is given."""

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from curation.engine import run as engine_run
from curation.report import PAGE
from curation.report.page import MOST_BYTES, Samples, render_page, write_page
from pipelines.main import app

VOID = {"meta", "link", "br", "wbr", "rect", "path", "use"}
# Text that is not the page's own: documents, names and ids, the recipe, commands, and the scales of plots.
OTHERS = {"bdi", "pre", "code", "svg", "style"}
ALLOWED = {
    "html", "head", "meta", "title", "link", "style", "body", "main", "header", "section", "nav", "div", "p", "span", "h1", "h2",
    "h3", "h4", "a", "ul", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tfoot", "tr", "th", "td", "small", "strong", "b",
    "i", "em", "br", "wbr", "bdi", "data", "code", "pre", "mark", "details", "summary", "figure", "article",
    "svg", "g", "path", "defs", "use", "clippath", "rect", "text",
}  # fmt: skip
HOSTILE = (
    "</title></style></script><script>document.title='owned'</script><img src=http://evil.example/x onerror=alert(1)>"
    "<svg onload=alert(2)><a href=\"javascript:alert(3)\" style='background:url(//evil.example)'>]]>{{ 7*7 }}{% x %}"
    "&lt;b&gt;\x00\x1b[31m\x07\u202egnp.exe\u2066\u200f\ud800\U000e0041'\"` =1+1 "
)


class Walk(HTMLParser):
    """All elements of the page: (tag, attributes), the numbers with what they show, and the page's own words."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.numbers, self.ranges, self.own, self.stack = [], [], [], [], []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.stack.append((tag, attributes))
        if tag == "data":
            self.numbers.append([attributes, ""])
        if "data-range" in attributes:
            self.ranges.append([attributes["data-range"], ""])

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        tags = {tag for tag, _ in self.stack}
        classes = {name for _, attributes in self.stack for name in attributes.get("class", "").split()}
        if "data" in tags:
            self.numbers[-1][1] += data
        elif any("data-range" in attributes for _, attributes in self.stack):
            self.ranges[-1][1] += data
        elif not tags & OTHERS and not classes & {"text", "compared"}:
            self.own.append(data)

    def of(self, tag, **wanted):
        return [found for name, found in self.elements if name == tag and all(found.get(k) == v for k, v in wanted.items())]


def member(value, part):
    if isinstance(value, list):
        return value[int(part)]
    if found := re.fullmatch(r"~n(\d+)", part):
        return list(value.values())[int(found[1])]
    return value[part.replace("~1", "/").replace("~0", "~")]


def resolve(report, place):
    """The number that a place names, by the grammar that curation/report/markup.py describes."""
    if place.startswith("#"):
        return len(resolve(report, place[1:]))
    if not place.startswith("+"):
        value = report
        for part in place.split("/")[1:]:
            value = member(value, part)
        return value
    values = [report]
    for part in place[1:].split("/")[1:]:
        if part == "*":
            values = [one for value in values for one in (value.values() if isinstance(value, dict) else value)]
        elif part.startswith("["):
            values = [value[int(at)] for value in values for at in part[1:-1].split(",") if at]
        elif part.startswith("("):
            low, high = map(int, part[1:-1].split(".."))
            values = [one for value in values for key, one in value.items() if low <= int(key) <= high]
        else:
            values = [member(value, part) for value in values]
    return sum(values)


UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15, "s": 1, "%": 0.01, "": 1}


def says(text, value):
    """Whether the text is the number, to the digits that it has."""
    if re.fullmatch(r"(\d+:)?\d+:\d\d", text):
        seconds = sum(int(part) * 60**power for power, part in enumerate(reversed(text.split(":"))))
        return abs(seconds - value) <= 0.5
    found = re.fullmatch(r"(-?[\d,]+(?:\.\d+)?) ?(|%|[kMGTP]?B|s)(?:/s)?", text)
    assert found, text
    number, scale = found[1].replace(",", ""), UNITS[found[2]]
    digits = len(number.partition(".")[2])
    rounded = digits or scale > 1 or found[2] == "s"
    return abs(float(number) * scale - value) <= (0.500001 * 10**-digits * scale if rounded else 1e-9)


def render(made):
    return render_page(made.report, made.run, Samples(made.nearest, made.clusters))


def published(made):
    shares = {"removed_bytes_share": 0.496, "our_removed_bytes_share": 0.4871}
    by_source = {"web": shares, "other": {"removed_bytes_share": 0.1, "our_removed_bytes_share": None}}
    made.report["published"] |= {"comparable": True, "sources": by_source, "overall": shares}
    return made


SHAPES = {
    "some": {},
    "one document": {"n_sources": 1, "documents": 1, "n_pairs": 0},
    "no document": {"n_sources": 1, "documents": 0, "n_pairs": 0},
    "no source": {"n_sources": 0, "documents": 0, "n_pairs": 0},
    "many sources": {"n_sources": 200, "n_duplicate_pairs": 3000},
    "sources that fill the matrix": {"n_sources": 40},
    "no stage": {"stages": ()},
    "no map stage": {"stages": ("exact", "minhash")},
    "no deduplication": {"stages": ("normalize", "length")},
    "many filters": {"stages": tuple(f"filter {n}" for n in range(40)), "n_sources": 100},
    "hostile": {"text": lambda plain: HOSTILE + plain, "n_sources": 5},
    "names like places": {"text": lambda plain: f"/~0*[1](2..3)~n4{plain}", "n_sources": 5},
    "a word of a megabyte": {"text": lambda plain: plain + "w" * 10**6, "n_pairs": 3, "n_sources": 3},
}


@pytest.fixture(scope="module")
def pages(made_run):
    """Each shape's report and page."""
    made = {name: made_run(**shape) for name, shape in SHAPES.items()}
    made["published"] = published(made_run())
    return {name: (one.report, render(one)) for name, one in made.items()}


@pytest.mark.parametrize("shape", [*SHAPES, "published"])
def test_every_number_stands_in_the_report(pages, shape):
    report, page = pages[shape]
    walk = Walk(page)
    assert len(walk.numbers) > 15
    for attributes, text in walk.numbers:
        value = float(attributes["value"])
        if "data-path" in attributes:
            expected = resolve(report, attributes["data-path"])
        else:
            expected = resolve(report, attributes["data-part"]) / resolve(report, attributes["data-whole"])
        assert math.isclose(value, expected, rel_tol=1e-12), attributes
        assert says(text, value), (attributes, text)
    for given, text in walk.ranges:
        low, high = given.split()
        assert text.replace(",", "") == (low if low == high else f"{low}–{high}")


@pytest.mark.parametrize("shape", [*SHAPES, "published"])
def test_no_digit_stands_outside_the_numbers(pages, shape):
    own = " ".join(Walk(pages[shape][1]).own)
    assert not re.search(r"\d", own), re.findall(r".{0,30}\d.{0,30}", own)[:5]


@pytest.mark.parametrize("shape", [*SHAPES, "published"])
def test_nothing_but_plain_elements_stands_on_the_page(pages, shape):
    _, page = pages[shape]
    walk = Walk(page)
    assert {tag for tag, _ in walk.elements} <= ALLOWED
    for tag, attributes in walk.elements:
        assert not any(name.startswith("on") or name in ("style", "src", "srcset", "action") for name in attributes), tag
        for name in ("href", "xlink:href"):
            assert re.match(r"#[\w-]+$|data:text/csv;charset=utf-8,|data:,$", attributes.get(name, "#x")), attributes
    ids = [attributes["id"] for _, attributes in walk.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in walk.of("a") if link["href"].startswith("#")} <= set(ids)
    assert "evil" not in re.sub(r"<style>.*?</style>", "", page) or HOSTILE[:5] in walk.text
    for invisible in "\x00\x1b\x07\u202e\u2066\u200f\U000e0041":
        assert invisible not in page
    assert len(page.encode()) < 2_000_000


def test_sections_stand_in_order_under_their_names(pages):
    ids = [attributes.get("id") for tag, attributes in Walk(pages["some"][1]).elements if tag in ("header", "section")]
    first = ["verdict", "funnel", "matrix", "clusters", "nearest", "sizes", "mix"]
    assert ids == [*first, "unread", "cost", "deviations", "ask", "recipe"]
    stages = {attributes["id"] for attributes in Walk(pages["some"][1]).of("h3") if "id" in attributes}
    assert {"matrix-exact", "matrix-minhash", "clusters-minhash", "nearest-length", "sizes-minhash", "mix-languages"} <= stages


def test_the_policy_allows_this_very_style_and_nothing_else(pages):
    walk = Walk(pages["hostile"][1])
    policy = walk.of("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    style = re.search(r"<style>(.*?)</style>", pages["hostile"][1], re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert not walk.of("script")


def test_hostile_text_is_shown_as_it_is_written(pages):
    walk = Walk(pages["hostile"][1])
    assert "</title></style></script><script>document.title='owned'</script><img src=http://evil.example/x onerror=" in walk.text
    assert "{{ 7*7 }}{% x %}&lt;b&gt;␀␛[31m␇U+202Egnp.exeU+2066U+200FU+D800U+E0041" in walk.text


def verdict(page):
    return " ".join(re.sub(r"<[^>]*>", "", re.search(r'class="verdict">(.*?)</p>', page, re.DOTALL)[1]).split())


def test_verdicts_name_what_is_unusual(pages):
    assert "There was nothing to curate" in verdict(pages["no document"][1])
    assert "There was nothing to curate" in verdict(pages["no source"][1])
    assert "No stage removed anything" in verdict(pages["no stage"][1])
    assert verdict(pages["one document"][1]).startswith("Kept 1 of 1 document (100 %)")
    assert re.match(r"Kept [\d,]+ of 3,000 documents \(\d", verdict(pages["some"][1]))


def test_a_run_that_kept_nothing_says_so(made_run):
    made = made_run(n_sources=1)
    made.report["documents"] |= {"kept": 0, "removed": made.report["documents"]["in"]}
    made.report["bytes"] |= {"kept": 0}
    assert verdict(render(made)).startswith("Nothing was kept. Kept 0 of 1,000 documents (0 %)")


def test_sections_without_content_say_why(pages):
    assert "No document was removed as a duplicate of another." in pages["no deduplication"][1]
    assert "There are no near-duplicates to show." in pages["no deduplication"][1]
    assert "No two documents were found to duplicate each other." in pages["no stage"][1]
    assert "No filter with a threshold looked at a document." in pages["no map stage"][1]


def test_a_matrix_has_a_cell_for_each_pair_and_totals(pages):
    _, page = pages["sources that fill the matrix"]
    for stage in ("exact", "minhash"):
        part = page[page.index(f'id="matrix-{stage}"') :]
        part = part[: part.index("</table>")]
        places = re.findall(r'data-path="([^"]*)"', part)
        assert sum(place.startswith(f"/stages/{stage}/matrix/") for place in places) == 40 * 40
        assert sum(place.startswith(f"+/stages/{stage}/matrix/[") for place in places) == 80
        assert f"+/stages/{stage}/matrix/*/2" in places
    shaded = re.findall(r'<td class="n d(\d)">', page)
    assert set(shaded) <= set("01234")


def test_a_matrix_of_very_many_sources_is_a_table_of_pairs_and_a_download(pages):
    report, page = pages["many sources"]
    pairs = report["stages"]["minhash"]["matrix"]
    part = page[page.index('id="matrix-minhash"') :]
    part = part[: part.index("</table>")]
    shown = [int(number) for number in re.findall(r"/stages/minhash/matrix/(\d+)/2", part)]
    assert [pairs[at][2] for at in shown] == sorted((pair[2] for pair in pairs), reverse=True)[:40]
    rows = downloads(page)["matrix-minhash.csv"]
    assert [[gone, kept, int(n), int(size)] for gone, kept, n, size in rows[1:]] == pairs


def downloads(page):
    found = {}
    for link in Walk(page).of("a"):
        if "download" in link:
            data = unquote(link["href"].removeprefix("data:text/csv;charset=utf-8,"), errors="strict")
            found[link["download"]] = list(csv.reader(io.StringIO(data, newline="")))
    return found


def test_downloads_hold_the_report_numbers(pages):
    report, page = pages["some"]
    found = downloads(page)
    names = {"stages", "funnel", "matrix-exact", "matrix-minhash", "sizes-exact", "sizes-minhash", "languages", "domains", "steps"}
    assert set(found) == {f"{name}.csv" for name in names}
    by_source = {row[0]: dict(zip(found["funnel.csv"][0], row, strict=True)) for row in found["funnel.csv"][1:]}
    for source, entry in report["sources"].items():
        assert int(by_source[source]["kept_documents"]) == entry["kept_documents"]
        counts = report["stages"]["minhash"]["by_source"][source]
        assert int(by_source[source]["minhash removed_documents"]) == counts["removed_documents"]
    square = found["matrix-exact.csv"]
    cells = {(row[0], kept): int(n) for row in square[1:] for kept, n in zip(square[0][1:], row[1:], strict=True) if n}
    assert cells == {(gone, kept): n for gone, kept, n, _ in report["stages"]["exact"]["matrix"]}
    assert {row[0]: int(row[1]) for row in found["sizes-exact.csv"][1:]} == report["stages"]["exact"]["component_sizes"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " =", "\n@"])
def test_no_cell_of_a_download_is_a_formula(made_run, start):
    page = render(made_run(text=lambda plain: f'{start}cmd|"/c calc"!A{plain}', n_sources=3, n_pairs=0))
    cells = [cell for rows in downloads(page).values() for row in rows for cell in row]
    assert any("calc" in cell for cell in cells)
    for cell in cells:
        assert not cell.strip().startswith(("=", "+", "@", "-")) or re.fullmatch(r"-?[\d.]+", cell)


def test_the_page_stays_below_two_megabytes_with_the_largest_samples(made_run):
    marks = "".join(chr(0x202A + n % 5) + "&" for n in range(10_000))
    plain = "".join(f"<{n}>" for n in range(5_000))[:20_000]
    for filler in (marks, plain, "天地" * 10_000):
        made = made_run(
            n_sources=60,
            stages=("length", "exact", *(f"minhash {n}" for n in range(4))),
            text=lambda start, filler=filler: (start + filler)[:20_000],
        )
        base = made_run(stages=("minhash",), text=lambda start, filler=filler: (start + filler)[:20_000])
        template = next(iter(base.report["stages"].values()))
        matrix = list(made.report["stages"].values())[1]["matrix"]
        for name, stage in list(made.report["stages"].items())[2:]:
            stage |= {"clusters": template["clusters"], "sampled_pairs": template["sampled_pairs"], "matrix": matrix}
            made.clusters += [{**row, "stage": name} for row in base.clusters]
        page = render(made)
        assert len(page.encode()) <= MOST_BYTES
        assert Walk(page).of("mark"), "differences are shown all the same"


def test_what_differs_is_marked_on_its_own_side(made_run):
    made = made_run(n_pairs=1)
    made.clusters[0] |= {"text_kept": "The quick fox ran home.", "text_removed": "The slow fox ran home."}
    made.report["stages"]["minhash"]["clusters"][0]["similarity"] = 0.61
    page = render(made)
    assert 'The <mark>quick</mark> fox ran home.</div><div class="text" dir="auto">The <mark>slow</mark> fox ran home.<' in page
    assert "below the threshold" in page
    made.report["stages"]["minhash"]["clusters"][0]["similarity"] = 0.81
    assert "below the threshold" not in render(made)


def test_texts_of_another_run_are_not_shown(made_run):
    made, other = made_run(n_pairs=5), made_run(n_pairs=5, text=lambda plain: "other " + plain)
    page = render_page(made.report, made.run, Samples([{**row, "stage": "length"} for row in other.nearest], other.clusters))
    assert "other kept" not in page
    assert "samples/clusters.parquet" in page
    assert render_page(made.report, made.run, Samples())


def test_published_figures_stand_beside_ours_only_when_comparable(pages):
    assert "/published/overall/removed_bytes_share" in pages["published"][1]
    assert "not comparable" not in pages["published"][1]
    assert "/published/" not in pages["some"][1]
    assert "not comparable" in pages["some"][1]


def test_the_page_asks_about_a_document_of_the_run(made_run):
    made = made_run()
    made.report["output"] = "/data/o'ut"
    assert "curate explain '/data/o'\"'\"'ut' b/0.jsonl@2" in Walk(render(made)).text
    assert "curate explain /data/out ID" in Walk(render(made_run(n_sources=0, documents=0))).text


def test_the_same_report_makes_the_same_bytes_in_any_process(made_run, tmp_path):
    folder = made_run().write(tmp_path / "run")
    page = Path(write_page(str(folder))).read_text()
    code = "import sys; from curation.report.page import write_page; write_page(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env={"PYTHONHASHSEED": "7", "HOME": str(tmp_path)})
    assert (folder / PAGE).read_text() == page


def test_report_renders_from_the_reports_and_samples_alone(small):
    small.run("out")
    folder = small.folder / "out"
    before = (folder / PAGE).read_text()
    assert "<mark>" in before
    for gone in (small.input, folder / "work", folder / "documents", folder / "removed", folder / "duplicates"):
        shutil.rmtree(gone)
    (folder / PAGE).unlink()
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.output.split()[0] == str(folder / PAGE)
    assert (folder / PAGE).read_text() == before


def test_a_stage_of_ones_own_shows_its_code_beside_a_recipe_that_loads(small):
    code = "from curation.stages import MapResult\n\n\ndef nothing(batch):\n    return MapResult()  # <b>\n"
    (small.folder / "mine.py").write_text(code)
    small.run("out", small.recipe(stages="  - python: {as: own, file: mine.py, function: nothing}\n"))
    recipe, shown = re.findall(r"<pre>(.*?)</pre>", (small.folder / "out" / PAGE).read_text(), re.DOTALL)
    assert html.unescape(shown) == code
    (small.folder / "again.yaml").write_text(html.unescape(recipe))
    result = CliRunner().invoke(app, ["plan", str(small.folder / "again.yaml"), "--input", str(small.input)])
    assert result.exit_code == 0, result.output


def test_report_refuses_what_is_no_finished_run(made_run, tmp_path):
    with pytest.raises(ValueError, match=r"holds no finished run \(no report.json\)"):
        write_page(str(tmp_path))
    folder = made_run().write(tmp_path / "run")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "status": "running"}))
    with pytest.raises(ValueError, match="is not finished; start it again first"):
        write_page(str(folder))
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        write_page(str(folder))
    assert not (folder / PAGE).exists()


def test_every_run_ends_with_a_page_and_a_missing_one_is_made_when_it_is_started_again(small):
    report = small.run("out")
    page = small.folder / "out" / PAGE
    first = page.read_text()
    for attributes, _ in Walk(first).numbers:
        if "data-path" in attributes:
            assert math.isclose(float(attributes["value"]), resolve(report, attributes["data-path"]), rel_tol=1e-12)
    assert not re.search(r"\d", " ".join(Walk(first).own))
    page.unlink()
    assert small.run("out")["already_complete"]
    assert page.read_text() == first


def test_a_page_that_cannot_be_made_is_a_warning_and_leaves_no_stale_one(small, monkeypatch):
    small.run("out")

    def fail(_output):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(engine_run, "render", fail)
    report = small.run("out", settings={"length.minimum_characters": 70})
    assert report["status"] == "complete"
    assert any("no fonts" in line and f"curate report {small.folder / 'out'}" in line for line in report["warnings"])
    assert not (small.folder / "out" / PAGE).exists()
    assert "no fonts" in (small.folder / "out/log.txt").read_text()
