"""report.html: one page without scripts that shows a run, made from report.json, run.json and samples/ alone."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from curation import storage
from curation.engine.run_folder import FORMAT_VERSION, another_format
from curation.report import PAGE, differences, plots, sections
from curation.report.downloads import Downloads
from curation.report.fingerprints import check_report
from curation.report.markup import Figures, count, given, passage
from curation.report.rebuild import recipe_yaml

if TYPE_CHECKING:
    import jinja2

MOST_BYTES = 1_900_000
# Bytes for texts and for downloads; the first of these that lead to no more than MOST_BYTES are taken.
_ROOM = ((500_000, 450_000), (100_000, 450_000), (0, 100_000), (0, 0))
_RECIPE_BYTES, _CODE_BYTES, _LINE_BYTES = 60_000, 40_000, 1_200
_PASSAGE_BYTES, _PASSAGE_LINES, _PAIR_BYTES = 1_000, 12, 9_000
# How a pair is shown when the one before takes too many bytes: context, longest change, characters in all.
_CLOSENESS = ((80, 400, 4_000), (50, 250, 1_500), (30, 120, 500), (12, 50, 150))
_PREFERRED = ("largest", "least similar", "sampled")
_OPEN_PAIRS = {"least similar": 5, "sampled": 2}  # and of each of the largest clusters the first


@dataclass(frozen=True)
class Samples:
    """Rows of samples/nearest.parquet and samples/clusters.parquet."""

    nearest: list[dict[str, Any]] = field(default_factory=list)
    clusters: list[dict[str, Any]] = field(default_factory=list)


def write_page(output: str) -> str:
    """Render the page of the run in the folder `output` again; where it is. ValueError when no finished run is there."""
    report, run = _read_json(output, "report.json"), _read_json(output, "run.json")
    if run.get("status") != "complete":
        raise ValueError(f"the run in {output} is not finished; start it again first")
    check_report(report, run, output)
    path = storage.join(output, PAGE)
    storage.write_bytes(path, render_page(report, run, read_samples(output)).encode())
    return path


def _read_json(output: str, name: str) -> dict[str, Any]:
    path = storage.join(output, name)
    if not storage.exists(path):
        raise ValueError(f"{output} holds no finished run (no {name})")
    try:
        content = json.loads(storage.read_bytes(path))
    except ValueError:
        content = None
    if not isinstance(content, dict) or "format_version" not in content:
        raise ValueError(f"{path} was not written by a run, or is damaged")
    if content["format_version"] != FORMAT_VERSION:
        raise another_format(output, content)
    return content


def read_samples(output: str) -> Samples:
    """The samples of a run; none where it left none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, list[dict[str, Any]]] = {}
    for name in ("nearest", "clusters"):
        path = storage.join(output, "samples", f"{name}.parquet")
        if storage.exists(path):
            try:
                with storage.open_read(path) as file:
                    rows[name] = pq.read_table(file).to_pylist()
            except pa.ArrowException as error:
                raise ValueError(f"{path} is damaged ({error}); bring it back from a copy, or run again with --fresh") from error
    return Samples(**rows)


def render_page(report: dict[str, Any], run: dict[str, Any], samples: Samples) -> str:
    """The page, below 2 MB: where texts would make it larger, less of them is shown."""
    page = ""
    for text_bytes, csv_bytes in _ROOM:
        page = _render(report, run, samples, text_bytes, csv_bytes)
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _render(report: dict[str, Any], run: dict[str, Any], samples: Samples, text_bytes: int, csv_bytes: int) -> str:
    style = _environment().get_template("page.css").render()
    template = _environment().get_template("page.html")
    page = template.render(
        report=report,
        run=run,
        f=Figures(report),
        downloads=Downloads(csv_bytes),
        sections=sections,
        plots=plots,
        anchors=sections.anchors(report["stages"]),
        style=Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        nearest=_nearest(report, samples, text_bytes // 4),
        clusters=_clusters(report, samples, text_bytes * 3 // 4),
        recipe=passage(recipe_yaml(_cut(run["recipe"]), run["input"]["path"]), _RECIPE_BYTES),
        codes=_codes(run["recipe"]),
        commands=_commands(report, samples),
    )
    return page.encode(errors="replace").decode()


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("curation.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["given"] = given
    environment.filters["line"] = functools.partial(given, most_bytes=_LINE_BYTES)
    environment.globals["count"] = count
    return environment


def _cut(value: Any) -> Any:
    """A recipe without the rest of very long names: writing megabytes of YAML takes seconds, and few bytes are shown."""
    if isinstance(value, dict):
        return {_cut(key): _cut(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cut(inner) for inner in value]
    return f"{value[:_LINE_BYTES]}…" if isinstance(value, str) and len(value) > _LINE_BYTES else value


def _codes(recipe: dict[str, Any]) -> dict[str, Markup]:
    """{stage: its code} of stages of one's own, as it was when the run read it; less of each the more of them there are."""
    codes = {stage["name"]: stage["code"] for stage in recipe["stages"] if stage.get("code")}
    return {name: passage(code, _CODE_BYTES // len(codes)) for name, code in codes.items()}


def _nearest(report: dict[str, Any], samples: Samples, text_bytes: int) -> dict[str, list[dict[str, Any]]]:
    """By stage what is nearest to its threshold: where it stands in the report, and the start of its text."""
    found: dict[str, list[dict[str, Any]]] = {}
    rows = _by_stage(samples.nearest)
    total = sum(len(stage.get("nearest", [])) for stage in report["stages"].values())
    most_bytes = min(text_bytes // max(total, 1), _PASSAGE_BYTES)
    for name, stage in report["stages"].items():
        for index, entry in enumerate(stage.get("nearest", [])):
            row = _same_row(rows.get(name, []), index, entry)
            text = passage(row["text"], most_bytes, _PASSAGE_LINES) if row else None
            source = row["source"] if row else None
            shown = {"index": index, "side": entry["side"], "id": entry["id"], "source": source, "text": text}
            found.setdefault(name, []).append(shown)
    return found


def _clusters(report: dict[str, Any], samples: Samples, text_bytes: int) -> dict[str, list[dict[str, Any]]]:
    """By stage the pairs to read, in groups: the largest clusters, the least similar pairs, and sampled ones."""
    rows = _by_stage(samples.clusters)
    with_pairs = [name for name, stage in report["stages"].items() if stage.get("clusters")]
    most_pairs = sections.MOST_PAIRS // max(len(with_pairs), 1)
    total = sum(min(len(report["stages"][name]["clusters"]), most_pairs) for name in with_pairs)
    most_bytes = min(text_bytes // max(total, 1), _PAIR_BYTES)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in with_pairs:
        stage = report["stages"][name]
        threshold = stage.get("sampled_pairs", {}).get("threshold")
        chosen = sorted(range(len(stage["clusters"])), key=lambda index: _PREFERRED.index(stage["clusters"][index]["chosen"]))
        groups: dict[str, list[dict[str, Any]]] = {}
        for index in chosen[:most_pairs]:
            entry = stage["clusters"][index]
            pair = _pair(entry, _same_row(rows.get(name, []), index, entry), most_bytes)
            group = groups.setdefault(entry["chosen"], [])
            below = threshold is not None and entry["similarity"] is not None and entry["similarity"] < threshold
            first = all(other["kept"] != pair["kept"] for other in group)
            shown = first if entry["chosen"] == "largest" else len(group) < _OPEN_PAIRS[entry["chosen"]]
            group.append({**pair, "index": index, "below": below, "open": shown})
        found[name] = [{"chosen": which, "pairs": pairs} for which, pairs in groups.items()]
    return found


def _pair(entry: dict[str, Any], row: dict[str, Any] | None, most_bytes: int) -> dict[str, Any]:
    """A removed document and its kept copy, with what differs; without texts where the sample has none."""
    pair = {"kept": entry["duplicate_of"], "removed": entry["id"], "documents": entry["documents"], "shown": None}
    if row is None or not most_bytes:
        return pair
    segments = differences.compare(row["text_kept"] or "", row["text_removed"] or "")
    shown = Markup("")
    for context, longest, most_characters in _CLOSENESS:
        both = differences.side_by_side(segments, context, longest, most_characters)
        shown = Markup(_environment().get_template("page_pair.html").render(both=both, passage=passage))
        if len(shown.encode(errors="replace")) <= most_bytes:
            break
    sources = {"source_kept": row["source_kept"], "source_removed": row["source_removed"]}
    same = all(segment.kind == "same" or segment.text.isspace() for segment in segments)
    return {**pair, **sources, "shown": shown, "same": same}


def _by_stage(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_stage.setdefault(row["stage"], []).append(row)
    return by_stage


def _same_row(rows: list[dict[str, Any]], index: int, entry: dict[str, Any]) -> dict[str, Any] | None:
    """The row of the sample that goes with an entry of the report; None when the two are not of the same run."""
    return rows[index] if index < len(rows) and rows[index]["id"] == entry["id"] else None


def _commands(report: dict[str, Any], samples: Samples) -> dict[str, str]:
    """What to ask next, with an id of this run where one can be typed."""
    folder = shlex.quote(report["output"])
    removed = [row["id"] for row in samples.clusters] + [row["id"] for row in samples.nearest]
    typeable = (one for one in removed if one.isprintable() and len(one) < 200)
    asked = next(typeable, None)
    return {
        "Why is this document in the result, or not?": f"curate explain {folder} {shlex.quote(asked) if asked else 'ID'}",
        "Which documents of the run resemble a text?": f"curate similar {folder} FILE",
        "What does another run do differently?": f"curate diff {folder} DIR",
        "Make this page again": f"curate report {folder}",
    }
