"""The data card of a run: README.md with Hugging Face front matter, from report.json and run.json alone.

It says nothing that the run did not record; what was not recorded, or not done, is said to be so. The whole text is in
templates/card.md.jinja; every value that is put into it is escaped unless it is Markdown that was made here.
"""

from __future__ import annotations

from typing import Any

import jinja2
import yaml

from curation.engine.run_folder import MADE_BY
from curation.report.markdown import Markdown, code_block, escaped
from curation.report.rebuild import rebuild_command, recipe_yaml, uses_files

_PATTERNS = {"parquet": "documents/{}/*.parquet", "jsonl.zst": "documents/{}/*.jsonl.zst"}
# Upper bounds of the hub's size categories.
_SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
    10**10: "1B<n<10B",
    10**11: "10B<n<100B",
    10**12: "100B<n<1T",
}
# Licences that the hub knows by these names (hub documentation, "Licenses"), of those that text corpora come under.
_HUB_LICENSES = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "c-uda", "cc",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "etalab-2.0", "gfdl",
    "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "odbl", "odc-by", "openrail",
    "pddl", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
_DTYPES = {"double": "float64", "null": "string"}  # other kinds of members have the same name in `datasets`
_DEDUPLICATIONS = ("exact", "minhash")


def card(report: dict[str, Any], run: dict[str, Any]) -> str:
    """README.md of the run that `report` (report.json) and `run` (run.json) describe."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("curation.report"),
        finalize=escaped,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML: `finalize` escapes
    )
    environment.filters |= {"share": share, "markdown": Markdown}
    body = environment.get_template("card.md.jinja").render(
        made_by=MADE_BY,
        report=report,
        run=run,
        splits=kept_splits(report),
        format=run["recipe"]["output"]["format"],
        sources=_sources(report, run),
        stages=_stages(report, run),
        own=uses_files(run["recipe"]),
        recipe=code_block(recipe_yaml(run["recipe"], run["input"]["path"]), "yaml"),
        command=code_block(rebuild_command(run), "sh"),
    )
    header = yaml.safe_dump(front_matter(report, run), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{header}---\n{body}"


def share(part: float, whole: float) -> str:
    """`part` of `whole` in per cent.

    >>> share(1, 3), share(0, 0)
    ('33.33 %', 'none')
    """
    return f"{part / whole:.2%}".replace("%", " %") if whole else "none"


def kept_splits(report: dict[str, Any]) -> list[str]:
    """The splits that have documents."""
    return [name for name, counts in report["splits"].items() if counts["documents"]]


def front_matter(report: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """What the Hugging Face hub and `datasets` read.

    Without any document `configs` names a train split that is not there: then `datasets` says so, where without `configs` it
    would take what was removed for the data.
    """
    documents = report["documents"]["kept"]
    pattern = _PATTERNS[run["recipe"]["output"]["format"]]
    splits = kept_splits(report)
    files = [{"split": split, "path": pattern.format(split)} for split in splits or ["train"]]
    header: dict[str, Any] = {
        "pretty_name": report["name"],
        "license": hub_licenses([license for _, license in source_licenses(report, run)]),
        "size_categories": [next((size for most, size in _SIZES.items() if documents < most), "n>1T")],
        "tags": ["moxin-curation", *dict.fromkeys(stage["stage"] for stage in run["recipe"]["stages"])],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    if splits:
        # `datasets` takes no split without `num_bytes`: the bytes of its texts are what was counted.
        counts = [
            {"name": split, "num_bytes": report["splits"][split]["bytes"], "num_examples": report["splits"][split]["documents"]}
            for split in splits
        ]
        header["dataset_info"] = {
            "config_name": "default",
            **_features(run),
            "splits": counts,
            "download_size": sum(entry["bytes"] for entry in run["outputs"] if entry["path"].startswith("documents/")),
            "dataset_size": sum(entry["num_bytes"] for entry in counts),
        }
    return header


def _features(run: dict[str, Any]) -> dict[str, Any]:
    """The members of JSON lines, which differ by source: `datasets` would take those of the first records for all."""
    columns = run.get("columns")
    if run["recipe"]["output"]["format"] == "parquet" or not columns:
        return {}
    return {"features": [{"name": name, "dtype": _DTYPES.get(kind, kind)} for name, kind in columns.items()]}


def hub_licenses(licenses: list[str | None]) -> str | list[str]:
    """Licences under the hub's names: "unknown" for None, "other" for what the hub has no name for.

    >>> hub_licenses(["MIT", None, "my own terms"]), hub_licenses(["odc-by", "odc-by"])
    (['mit', 'unknown', 'other'], 'odc-by')
    """
    named = ["unknown" if one is None else one.lower() if one.lower() in _HUB_LICENSES else "other" for one in licenses]
    found = list(dict.fromkeys(named)) or ["unknown"]
    return found[0] if len(found) == 1 else found


def source_licenses(report: dict[str, Any], run: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The licence of every source of the report; None where the recipe names none.

    Sources that a `by` column made have that of the source which was split, where only one was.
    """
    given = {source["name"]: source.get("license") for source in run["recipe"]["sources"]}
    split = [source.get("license") for source in run["recipe"]["sources"] if source["by"]]
    made = split[0] if len(split) == 1 else None
    fell_back = not set(run["sources"]) & set(given)  # no pattern matched: the input is another source than those named
    return [(name, given.get(name, None if fell_back else made)) for name in report["sources"]]


def _sources(report: dict[str, Any], run: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [
        {"name": name, "license": license or "unknown", **report["sources"][name]} for name, license in source_licenses(report, run)
    ]
    return [row for row in rows if row["documents_in"]]


def _stages(report: dict[str, Any], run: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **report["stages"][stage["name"]],
            "name": stage["name"],
            "kind": stage["stage"],
            "settings": stage,
            "deduplicates": stage["stage"] in _DEDUPLICATIONS,
        }
        for stage in run["recipe"]["stages"]
    ]
