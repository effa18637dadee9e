"""The Croissant description of a run's folder, croissant.json, from report.json and run.json alone.

Source: the Croissant format 1.0 (docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html). The folder is no archive, so its
file sets are contained in nothing: their patterns are relative to the folder that holds the description. Single files with their
checksums are listed for a folder of few files; run.json has those of all.
"""

from __future__ import annotations

import json
from typing import Any

from curation.engine.removal_log import LOGS
from curation.engine.run_folder import MADE_BY
from curation.report.card import kept_splits, source_licenses

_SINGLE_FILES = 100  # of which each is listed
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_PARQUET = "application/x-parquet"
_ENCODINGS = {"parquet": _PARQUET, "jsonl.zst": "application/zstd"}
_TYPES = {"bool": "sc:Boolean", "string": "sc:Text", "large_string": "sc:Text"}


def croissant(report: dict[str, Any], run: dict[str, Any]) -> str:
    """croissant.json of the run that `report` (report.json) and `run` (run.json) describe."""
    output = report["fingerprints"]["output"]
    version = run["versions"]["moxin-curation"]
    licenses = dict.fromkeys(license or "unknown" for _, license in source_licenses(report, run))
    documents = report["documents"]
    finished = {"datePublished": run["finished"]} if "finished" in run else {}
    content = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": report["name"],
        "description": (
            f"{documents['kept']:,} of {documents['in']:,} documents, curated by moxin-curation {version}; README.md is the data "
            f"card. This description was {MADE_BY}."
        ),
        "citeAs": f"{report['name']}, curated by moxin-curation {version}, SHA-256 fingerprint {output}",
        # The format of the folder, and what is in it.
        "version": f"{run['format_version']}.0.0+{output[:16]}",
        **finished,
        "license": list(licenses),
        "distribution": _distribution(report, run),
        "recordSet": _record_sets(report, run),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _distribution(report: dict[str, Any], run: dict[str, Any]) -> list[dict[str, Any]]:
    form = run["recipe"]["output"]["format"]
    sets = {"documents": (f"documents/*/*.{form}", _ENCODINGS[form])} if kept_splits(report) else {}
    sets |= {name: (f"{name}/*.parquet", _PARQUET) for name in (*LOGS, "quarantine")}
    found: list[dict[str, Any]] = [
        {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": encoding, "includes": pattern}
        for name, (pattern, encoding) in sets.items()
    ]
    outputs = [entry for entry in run["outputs"] if entry["path"].startswith(tuple(f"{name}/" for name in sets))]
    for entry in outputs if len(outputs) <= _SINGLE_FILES else []:
        found.append(
            {
                "@type": "cr:FileObject",
                "@id": entry["path"],
                "name": entry["path"],
                "contentUrl": entry["path"],
                "contentSize": f"{entry['bytes']} B",
                "encodingFormat": sets[entry["path"].partition("/")[0]][1],
                "sha256": entry["sha256"],
            }
        )
    return found


def _record_sets(report: dict[str, Any], run: dict[str, Any]) -> list[dict[str, Any]]:
    """Documents with their split, where they are in tables, and the logs; JSON lines have whatever members the input had."""
    found = []
    splits = kept_splits(report)
    if splits and run.get("columns") and run["recipe"]["output"]["format"] == "parquet":
        found.append(
            {
                "@type": "cr:RecordSet",
                "@id": "splits",
                "name": "splits",
                "dataType": "cr:Split",
                "key": {"@id": "splits/name"},
                "field": [{"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"}],
                "data": [{"splits/name": split} for split in splits],
            }
        )
        found.append(_table("documents", run["columns"], _split_field()))
    found += [_table(name, {f.name: str(f.type) for f in schema}) for name, (schema, _) in LOGS.items()]
    return found


def _table(name: str, columns: dict[str, str], *fields: dict[str, Any]) -> dict[str, Any]:
    """The record set of the file set `name`; `columns` are Arrow types by column."""
    made = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{column}",
            "name": column,
            "dataType": _data_type(kind),
            "source": {"fileSet": {"@id": name}, "extract": {"column": column}},
        }
        for column, kind in columns.items()
    ]
    # A record set is no file set, so that it needs another id.
    return {"@type": "cr:RecordSet", "@id": f"{name}_rows", "name": f"{name}_rows", "field": [*fields, *made]}


def _split_field() -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": "documents/split",
        "name": "split",
        "dataType": "sc:Text",
        "references": {"field": {"@id": "splits/name"}},
        "source": {
            "fileSet": {"@id": "documents"},
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": "(?:documents/)?([a-z]+)(?:/.+)?"},
        },
    }


def _data_type(arrow: str) -> str:
    """The Croissant type of a column.

    >>> _data_type("uint64"), _data_type("double"), _data_type("large_string")
    ('sc:Integer', 'sc:Float', 'sc:Text')
    """
    if arrow in _TYPES:
        return _TYPES[arrow]
    return "sc:Integer" if "int" in arrow else "sc:Float"
