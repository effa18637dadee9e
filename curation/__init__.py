"""Open data curation for language-model pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curation.runs import Run, open_run, run

if TYPE_CHECKING:
    from curation.engine.quarantine import TooManyBadRecordsError

__all__ = ["Run", "TooManyBadRecordsError", "open_run", "run"]


def __getattr__(name: str) -> Any:
    if name == "TooManyBadRecordsError":  # pyarrow comes with it: not before somebody asks
        from curation.engine.quarantine import TooManyBadRecordsError

        return TooManyBadRecordsError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
