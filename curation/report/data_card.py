"""Puts the data card and the Croissant description into a run's folder."""

from __future__ import annotations

from curation import storage
from curation.engine.run_folder import RunFolder
from curation.report.card import card
from curation.report.croissant import croissant
from curation.report.fingerprints import check_report


def write_data_card(output: str) -> list[str]:
    """Write README.md and croissant.json of the run in the folder `output`; their paths.

    One that a person has written is left as it is. ValueError when no finished run is there.
    """
    folder = RunFolder.at(output, None)
    report, run = folder.read("report.json"), folder.read("run.json")
    if report is None or run is None:
        raise ValueError(f"{output} holds no finished run (no report.json or no run.json)")
    check_report(report, run, output)
    written = []
    for name, describe in {"README.md": card, "croissant.json": croissant}.items():
        if folder.may_replace(name):
            written.append(storage.join(folder.output, name))
            storage.write_bytes(written[-1], describe(report, run).encode())
    return written
