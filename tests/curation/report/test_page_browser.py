"""In a real browser the page runs nothing, loads nothing, and fits a phone and a desk, whatever a run holds.

Skipped where no Chromium is installed, unless CURATE_REQUIRE_BROWSER=1 forbids that.
"""

import csv
import io
import os
import shutil
import statistics

import pytest
from PIL import Image

from curation.report import PAGE
from curation.report.page import Samples, render_page, write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = os.environ.get("CURATE_REQUIRE_BROWSER") == "1"
pytestmark = pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium is installed: the page is not opened")

MARKUP = (
    "</title></style></textarea></script>--><script>document.title='owned';alert(1)</script>"
    "<img src=http://evil.example/a onerror=alert(2)><svg/onload=alert(3)><svg><animate onbegin=alert(4) attributeName=x></svg>"
    "<a href='javascript:alert(5)'>x</a><iframe src=//evil.example></iframe>"
    "<form action=//evil.example><button autofocus onfocus=alert(6)>"
    "<link rel=stylesheet href=//evil.example/x.css><style>*{display:none}</style>"
    "<meta http-equiv=refresh content='0;url=//evil.example'>"
    "<base href=//evil.example/><object data=//evil.example></object><math><mtext></math>]]><![CDATA[x]]>&lt;script&gt;&#60;b&#62;"
)  # fmt: skip
TEXTS = {
    "markup": MARKUP,
    "attributes": "\"' onmouseover=alert(7) style='position:fixed;inset:0' x=\" autofocus onfocus='alert(8)",
    "style": "}*{display:none}</style>/*;background:url(//evil.example/b)@import'//evil.example/c';",
    "templates": "{{ 7*7 }}{% raw %}{# #}${7*7}<%= 7 %>$x^2$ \\frac{a}{b}",
    "control": "".join(map(chr, range(32))) + "\x7f\x85\x9b31m\ufeff\ufffe\x00",
    "directions": "\u202eevil\u202d\u2066\u2067\u2068\u200f\u200e\u061c مرحبا שלום \u2069\u202c abc",
    "stacked": "Z" + "\u0300\u0301\u0489" * 400 + "\U000e0041\u115f\u3164",
    "long": "w" * 10**6,
    "lines": "a\n" * 30_000,
    "surrogates": "\ud800x\udfff",
    "formula": '=HYPERLINK("http://evil.example")',
}
SHAPES = {
    "one document": {"n_sources": 1, "documents": 1, "n_pairs": 0},
    "no source": {"n_sources": 0, "documents": 0, "n_pairs": 0},
    "many sources": {"n_sources": 200, "n_duplicate_pairs": 3000, "n_pairs": 5},
    "a full matrix": {"n_sources": 40, "n_pairs": 5},
    "many filters": {"stages": tuple(f"filter {n}" for n in range(40)), "n_sources": 30},
    "seven sources": {"n_sources": 7, "n_pairs": 5},
    "twenty filters": {"stages": tuple(f"filter {n}" for n in range(20)), "n_sources": 8},
}
# Whatever sticks out to the right of the window although no region around it scrolls.
OVERFLOWING = """() => [...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > document.documentElement.clientWidth + 1 && !element.closest('.wide') && !element.closest('svg');
}).map(element => element.outerHTML.slice(0, 200))"""
SCROLLS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox refuses to start for root; what is opened here is our own page.
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Opened:
    """A page in the browser, and everything that it did."""

    def __init__(self, context, path):
        self.events, self.page, self.address = [], context.new_page(), path.as_uri()
        self.page.on("dialog", self._dismiss)
        for event in ("console", "pageerror", "crash", "popup", "framenavigated", "requestfailed"):
            self.page.on(event, lambda what, event=event: self._note(event, what))
        self.page.on("request", lambda request: self.events.append(f"request {request.url[:200]}"))
        self.page.goto(self.address)
        self.page.mouse.move(200, 200)
        self.page.keyboard.press("Tab")
        self.page.wait_for_timeout(100)

    def _dismiss(self, dialog):
        self.events.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _note(self, event, what):
        if event != "framenavigated" or what.url != self.address:
            self.events.append(f"{event} {getattr(what, 'text', what)}")

    def did_nothing_else(self):
        """Whether all that happened was loading the file."""
        assert self.events == [f"request {self.address}"]
        assert self.page.title() == "Curation report"
        assert self.page.evaluate("document.scripts.length") == 0
        return True


def hostile(kind):
    return lambda plain: (TEXTS[kind] + plain) if kind in ("markup", "directions") else (plain + TEXTS[kind])


@pytest.fixture(scope="module")
def written(made_run, tmp_path_factory):
    """{kind of text or shape: folder with the page of such a run}."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    made = {kind: made_run(n_sources=4, n_pairs=4, text=hostile(kind)) for kind in TEXTS}
    made |= {name: made_run(**shape) for name, shape in SHAPES.items()}
    for name, one in made.items():
        found[name] = folder / name
        found[name].mkdir()
        (found[name] / PAGE).write_text(render_page(one.report, one.run, Samples(one.nearest, one.clusters)))
    return found


@pytest.mark.parametrize("kind", TEXTS)
def test_hostile_text_runs_nothing_loads_nothing_and_is_seen(browser, written, kind):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = Opened(context, written[kind] / PAGE)
    assert opened.did_nothing_else()
    for summary in opened.page.locator("summary").all()[:3]:
        summary.click()
    opened.page.locator("nav a").last.click()
    assert [event for event in opened.events if not event.startswith("framenavigated")] == [f"request {opened.address}"]
    assert opened.page.locator("img, iframe, form, object, embed, script, base, input, button, textarea").count() == 0
    assert opened.page.locator("header h1").bounding_box()["height"] > 10
    text = opened.page.evaluate("document.body.textContent")
    if kind == "markup":
        assert MARKUP[:100] in text
        assert "<meta http-equiv=refresh content=" in text
    if kind == "control":
        assert "␀␁␂" in text
        assert "U+009B31m" in text
    if kind == "directions":
        assert "U+202EevilU+202D" in text
        assert not set(text) & set("\u202e\u202d\u2066\u2067\u2068\u200f")
    if kind == "templates":
        assert "{{ 7*7 }}{% raw %}" in text
    context.close()


def test_markup_that_slipped_through_would_run_and_load_nothing_all_the_same(browser, written, tmp_path):
    slipped = (
        "<script>document.title='owned'</script><img src=x onerror=document.title='owned'><b style='color:red' id=b>b</b>"
        "<style>#b{color:red}</style><img src=http://evil.example/><iframe src=http://evil.example/></iframe></main>"
    )
    (tmp_path / PAGE).write_text((written["one document"] / PAGE).read_text().replace("</main>", slipped))
    context = browser.new_context()
    opened = Opened(context, tmp_path / PAGE)
    assert opened.page.title() == "Curation report"
    assert opened.page.evaluate("getComputedStyle(document.querySelector('#b')).color") != "rgb(255, 0, 0)"
    assert not [event for event in opened.events if event.startswith(("dialog", "pageerror", "popup"))]
    assert len([event for event in opened.events if "Content Security Policy" in event]) >= 6
    context.close()


@pytest.mark.parametrize("kind", [*TEXTS, *SHAPES])
def test_nothing_overflows_sideways(browser, written, kind):
    context = browser.new_context()
    opened = Opened(context, written[kind] / PAGE)
    opened.page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    for width in (360, 1280):
        for scheme in ("light", "dark"):
            opened.page.set_viewport_size({"width": width, "height": 800})
            opened.page.emulate_media(color_scheme=scheme)
            assert opened.page.evaluate(SCROLLS) == 0, (width, scheme)
            assert opened.page.evaluate(OVERFLOWING) == [], (width, scheme)
    assert not [event for event in opened.events if not event.startswith(f"request {opened.address}")]
    context.close()


def test_dark_and_light_differ_also_in_plots(browser, written):
    colours = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = Opened(context, written["a full matrix"] / PAGE).page
        colours[scheme] = page.evaluate(
            """() => {
              const colour = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
              return [colour('html', 'backgroundColor'), colour('body', 'color'), colour('.plot text', 'fill'),
                      colour('.plot use', 'fill'), colour('.bar rect:not(.whole)', 'fill')];
            }"""
        )
        context.close()
    assert all(one != other for one, other in zip(*colours.values(), strict=True)), colours
    assert len(set(colours["dark"])) > 2


def test_every_table_downloads_as_a_file(browser, written, tmp_path):
    context = browser.new_context(accept_downloads=True)
    opened = Opened(context, written["seven sources"] / PAGE)
    rows = {}
    for link in opened.page.locator("a[download]").all():
        with opened.page.expect_download() as download:
            link.click()
        name = download.value.suggested_filename
        download.value.save_as(tmp_path / name)
        rows[name] = list(csv.reader((tmp_path / name).open()))
    assert len(rows) == opened.page.locator("a[download]").count() == 9
    assert all(len(found) > 1 and len({len(row) for row in found}) == 1 for found in rows.values())
    assert rows["funnel.csv"][0][:2] == ["source", "documents_in"]
    assert rows["funnel.csv"][1][:2] == ["web", "1000"]
    context.close()


def test_short_names_stay_on_their_line_and_bars_in_the_middle_of_it(browser, written):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = Opened(context, written["seven sources"] / PAGE).page
    lines = "() => [...document.querySelectorAll('tbody th bdi')].map(name => name.getClientRects()[0].height)"
    heights = page.evaluate(lines)
    assert len(heights) > 20
    assert max(heights) < 1.5 * min(heights)
    off = """() => [...document.querySelectorAll('.bar')].map(bar => {
      const [inner, outer] = [bar, bar.closest('tr')].map(one => one.getBoundingClientRect());
      return Math.abs(inner.top + inner.bottom - outer.top - outer.bottom) / 2;
    })"""
    assert max(page.evaluate(off)) < 1.5
    context.close()


def test_a_wide_table_shades_the_edge_behind_which_it_goes_on(browser, written):
    context = browser.new_context(viewport={"width": 360, "height": 740})
    opened = Opened(context, written["seven sources"] / PAGE)
    region = opened.page.locator(".wide").nth(1)
    assert region.evaluate("one => one.scrollWidth > one.clientWidth + 20")

    def edge():
        pixels = Image.open(io.BytesIO(region.screenshot())).convert("L")
        return statistics.median(pixels.getpixel((pixels.width - 1, row)) for row in range(pixels.height))

    beginning = edge()
    region.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
    assert beginning + 10 < edge()
    context.close()


@pytest.mark.parametrize("shape", ["one document", "seven sources", "twenty filters"])
def test_tables_fit_on_paper(browser, written, shape):
    context = browser.new_context(viewport={"width": 680, "height": 900})  # A4 without margins of 15 mm
    page = Opened(context, written[shape] / PAGE).page
    page.emulate_media(media="print")
    cut = """() => [...document.querySelectorAll('table')].filter(table =>
      table.getBoundingClientRect().right > document.documentElement.clientWidth).map(table => table.closest('section').id)"""
    assert page.evaluate(cut) == []
    context.close()


def test_paper_gets_every_pair_and_no_links(browser, written):
    context = browser.new_context()
    page = Opened(context, written["a full matrix"] / PAGE).page
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert all(text.is_visible() for text in page.locator("details .compared").all())
    context.close()


def test_the_page_of_a_real_run_does_nothing_but_show(browser, small):
    small.run("out")
    context = browser.new_context(viewport={"width": 360, "height": 740})
    opened = Opened(context, small.folder / "out" / PAGE)
    assert opened.did_nothing_else()
    assert opened.page.evaluate(OVERFLOWING) == []
    assert write_page(str(small.folder / "out"))
    context.close()
