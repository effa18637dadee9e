"""What the page of a run weighs and how fast it opens: .venv/bin/python benchmarks/page.py build/page

Makes runs of 1, 10,000 and 1,000,000 short documents in the folder (synthetic.py; kept for the next time), renders the
page of each with `curate report`, and opens it in headless Chromium. --run names finished runs to open instead. Exit
code 1 when a page is over 2 MB, takes over a second to open, makes a request, or is wider than a phone of 360 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import append_row, machine, run, spread, table
from questions import CURATE, ROOT, make_run
from synthetic import Settings, write_corpus

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Request, ViewportSize

_DOCUMENTS = (1, 10_000, 1_000_000)
_MOST_BYTES = 2_000_000
_MOST_MILLISECONDS = 1000
_PATIENCE_SECONDS = 20
_DESKTOP: ViewportSize = {"width": 1280, "height": 800}
_PHONE: ViewportSize = {"width": 360, "height": 800}
# Of the page itself: its document's load event and first paint, in milliseconds from navigation on.
_TIMES = """() => {
  const load = performance.getEntriesByType("navigation")[0].loadEventEnd;
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return {load, paint: paint ? paint.startTime : 0};
}"""
_OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def main() -> None:
    """The command."""
    options = parse()
    print(machine())
    runs = options.run or [make_small_run(n_documents, options) for n_documents in options.documents]
    results = options.results or ROOT / "benchmarks" / "results" / "page.jsonl"
    rows = []
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox needs a user other than root; the pages are ours.
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=options.chromium, args=arguments)
        version = browser.version
        for folder in runs:
            n_documents = json.loads((folder / "report.json").read_text())["documents"]["in"]
            row = {"run": folder.name, "documents": n_documents, **render_page(folder, options)}
            row |= open_page(browser, folder / "report.html", options)
            row["faults"] = faults(row)
            append_row(results, {"machine": machine(), "chromium": version, **row})
            rows.append(row)
        browser.close()
    print(f"Chromium {version}\n\n{render(rows)}")
    for row in rows:
        if row["faults"]:
            print(f"{row['run']}: {', '.join(row['faults'])}")
    print(f"\nraw rows: {results}")
    sys.exit(any(row["faults"] for row in rows))


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the corpora and the runs; kept")
    parser.add_argument("--run", type=Path, action="append", help="a finished run, instead; repeatable")
    parser.add_argument("--documents", type=int, action="append", help="of a run to make, instead; repeatable")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="ray", choices=("ray", "inline"))
    parser.add_argument("--repeats", type=int, default=5, help="of opening a page")
    parser.add_argument("--fresh", action="store_true", help="make the runs again, not the corpora")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--results", type=Path, help="file of JSON lines to append to")
    options = parser.parse_args()
    options.documents = options.documents or list(_DOCUMENTS)
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.run = [folder.resolve() for folder in options.run or []]
    return options


def make_small_run(n_documents: int, options: argparse.Namespace) -> Path:
    """A run on that many documents."""
    corpus = options.folder / f"corpus-{n_documents}"
    write_corpus(Settings(n_documents, options.seed), corpus)
    return make_run(options, corpus, options.folder / f"run-{n_documents}", ())


def render_page(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Render the page as a whole process."""
    command = [str(CURATE), "report", str(folder)]
    measured = run(command, options.folder / "report.log")
    if measured.exit_code:
        sys.exit(f"{' '.join(command)} failed with exit code {measured.exit_code}:\n{measured.output_tail}")
    return {
        "command": command,
        "load_before": measured.load_before,
        "page_bytes": (folder / "report.html").stat().st_size,
        "render_seconds": round(measured.seconds, 3),
        "render_memory_bytes": max(measured.tree_rss_bytes, measured.process_peak_bytes),
    }


def open_page(browser: Browser, page_path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Open a page a few times, each in a new profile; the first time counts as well."""
    loads, paints, requests = [], [], 0
    for _ in range(options.repeats):
        context = browser.new_context(viewport=_DESKTOP)
        page = context.new_page()
        made: list[str] = []

        def note(request: Request, made: list[str] = made) -> None:
            # What is written into the page itself (data:, blob:) is no request to anywhere.
            if not request.url.startswith(("data:", "blob:")):
                made.append(request.url)

        page.on("request", note)
        page.goto(page_path.as_uri(), wait_until="load")
        times = page.evaluate(_TIMES)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (times["load"] and times["paint"]) and time.monotonic() < deadline:
            page.wait_for_timeout(10)
            times = page.evaluate(_TIMES)
        if not times["paint"]:
            sys.exit(f"{page_path} shows nothing within {_PATIENCE_SECONDS} s")
        loads.append(round(times["load"], 1))
        paints.append(round(times["paint"], 1))
        requests = max(requests, len(made) - 1)
        context.close()
    context = browser.new_context(viewport=_PHONE)
    page = context.new_page()
    page.goto(page_path.as_uri(), wait_until="load")
    overflow = page.evaluate(_OVERFLOW)
    context.close()
    return {"load_milliseconds": loads, "paint_milliseconds": paints, "requests": requests, "overflow_pixels": overflow}


def faults(row: dict[str, Any]) -> list[str]:
    """What is wrong with a page."""
    found = []
    if row["page_bytes"] > _MOST_BYTES:
        found.append(f"{row['page_bytes'] / 1e6:.2f} MB")
    slowest = max(statistics.median(row[key]) for key in ("load_milliseconds", "paint_milliseconds"))
    if slowest > _MOST_MILLISECONDS:
        found.append(f"{slowest:.0f} ms to open")
    if row["requests"]:
        found.append(f"{row['requests']} requests")
    if row["overflow_pixels"] > 0:
        found.append(f"{row['overflow_pixels']} pixels wider than a phone")
    return found


def render(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        [
            row["run"],
            f"{row['documents']:,}",
            f"{row['page_bytes'] / 1e3:,.0f}",
            f"{row['render_seconds']:.2f}",
            f"{row['render_memory_bytes'] / 1e6:,.0f}",
            spread(row["paint_milliseconds"], 0),
            spread(row["load_milliseconds"], 0),
            str(row["requests"]),
            str(row["overflow_pixels"]),
        ]
        for row in rows
    ]
    header = ["run", "documents", "kB", "s to render", "peak MB", "ms to first paint", "ms to load", "requests"]
    header.append("overflow at 360 px")
    return table(header, lines)


if __name__ == "__main__":
    main()
