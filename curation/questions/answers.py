"""Answers about a run as paragraphs for people.

Texts, ids and names come from strangers: they are shown without control characters, and never read as markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from curation.engine.progress import printable
from curation.report.terminal import clip, count, plural, size

if TYPE_CHECKING:
    from rich.console import Console

    from curation.questions.diff import Difference
    from curation.questions.explain import Explanation, Step
    from curation.questions.similar import Candidate, Similar
    from curation.questions.similarity import Similarity

_TEXT_LINES = 8
_LINE_CELLS = 100
_LISTED = 20


def print_answer(answer: Explanation | Similar | Difference, as_json: bool = False, console: Console | None = None) -> None:
    """Print an answer; lines are not folded, so that ids survive being copied. JSON is ASCII: nothing in it moves a cursor."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    text = json.dumps(answer.to_dict(), indent=2) if as_json else str(answer)
    console.print(Text(text), soft_wrap=True)


def explanation_text(it: Explanation) -> str:
    """What `curate explain` prints."""
    return "\n".join(_explanation(it))


def _explanation(it: Explanation) -> Iterator[str]:
    yield printable(it.id)
    yield from _verdict(it)
    for step in it.chain:
        yield from _step(step)
    yield from _facts(it)
    for edit in it.edits:
        yield f"edited by {edit.stage}: {count(edit.characters_before)} characters before, {count(edit.characters_after)} after"
    yield from _duplicates(it)
    if it.text is not None:
        yield ""
        yield f"The text ({count(it.characters or 0)} characters) begins:"
        yield from _quoted(it.text)
    elif it.text_why_not:
        yield ""
        yield f"The text is not shown: {printable(it.text_why_not)}."
    if it.raw is not None:
        yield ""
        yield "The record begins:"
        yield from _quoted(it.raw)
    for note in it.notes:
        yield f"Note: {printable(note)}."


def _verdict(it: Explanation) -> Iterator[str]:
    if it.fate == "kept":
        split = f", split {it.split}" if it.split else ""
        where = f", in {printable(it.file)}" if it.file else ""
        yield f"kept: it is in the output{split}{where}."
    elif it.fate == "removed":
        detail = f" ({printable(it.detail)})" if it.detail else ""
        yield f"removed by {it.stage}: {printable(it.reason or '')}{detail}."
        if settings := _settings(it.stage_settings):
            yield f"  settings of {it.stage}: {settings}"
    elif it.fate == "quarantined":
        yield f"quarantined: the record could not be used: {printable(it.reason or '')}."
    else:
        yield "not found: this run has no document with this id."
        if it.looked_at:
            yield f"Looked at: {', '.join(it.looked_at)}."
        for hint in it.hints:
            yield f"  {printable(hint)}"


def _settings(settings: dict[str, Any]) -> str:
    shown = {key: value for key, value in settings.items() if key not in ("name", "stage", "version", "versions")}
    return printable(", ".join(f"{key} {value}" for key, value in shown.items()))


def _step(step: Step) -> Iterator[str]:
    yield f"  it duplicates {printable(step.id)}"
    yield f"    similarity: {_similarity(step.similarity)}"
    if step.text:
        yield f"    {clip(step.text, _LINE_CELLS)}"
    if step.fate == "kept":
        yield "    which was kept."
    else:
        yield f"    which was removed by {step.stage} in turn ({printable(step.reason or '')}):"


def _similarity(it: Similarity) -> str:
    if it.value is not None:
        names = {"recorded": "as the run measured it", "measured": "measured now", "same text": "the same text"}
        return f"{it.value:.3f}, {names.get(it.how or '', it.how)}"
    bands = f"; they share {it.shared_bands} of {it.bands} bands" if it.shared_bands is not None else ""
    return f"not measured: {printable(it.why_not or '')}{bands}"


def _facts(it: Explanation) -> Iterator[str]:
    names = ("source", "subset", "language", "url")
    facts = [f"{name} {printable(str(value))}" for name in names if (value := getattr(it, name))]
    if it.text_bytes is not None:
        facts.append(f"{size(it.text_bytes)} of text")
    if facts:
        yield ", ".join(facts)
    if it.is_kept is False:
        of = f" of {printable(it.component)}" if it.component else ""
        yield f"annotated as a duplicate{of}, and kept, since the stage's action is to annotate"


def _duplicates(it: Explanation) -> Iterator[str]:
    if not it.duplicates:
        if it.fate == "kept":
            yield "It stands for no other document."
        return
    total = it.n_duplicates if it.n_duplicates else it.n_direct_duplicates
    stood = "It stands for" if it.fate == "kept" else "Before it went, it stood for"
    least = "" if it.n_duplicates or len(it.duplicates) == total else "at least "
    yield ""
    yield f"{stood} {least}{plural(max(total, len(it.duplicates)), 'other document')}:"
    for one in it.duplicates[:_LISTED]:
        through = f" (through {printable(one.duplicate_of)})" if one.duplicate_of != it.id else ""
        yield f"  {printable(one.id)}{through}"
        yield f"    {one.stage}, similarity {_similarity(one.similarity)}"
        if one.text:
            yield f"    {clip(one.text, _LINE_CELLS)}"
    if total > len(it.duplicates):
        yield f"  and {count(total - len(it.duplicates))} more"


def _quoted(text: str) -> Iterator[str]:
    lines = text.splitlines()
    for line in lines[:_TEXT_LINES]:
        yield f"  | {clip(line, _LINE_CELLS)}"
    if len(lines) > _TEXT_LINES:
        yield "  | …"


def similar_text(it: Similar) -> str:
    """What `curate similar` prints."""
    return "\n".join(_similar(it))


def _similar(it: Similar) -> Iterator[str]:
    unit = "characters" if it.unit == "character" else "words"
    edited = f", after {', '.join(it.edited_by)} edited it" if it.edited_by else ""
    yield f"The text has {count(it.characters)} characters and {count(it.ngrams)} different {it.ngram}-grams of {unit}{edited}."
    for line in it.would_be_removed:
        yield f"This run's recipe would remove it: {printable(line)}. It was compared all the same."
    if not it.n_candidates:
        yield f"No document of the run shares one of its {it.bands} bands at the stage {it.stage}: nothing resembles it much."
        return
    least = "At least " if it.is_cut else ""
    share = "shares" if it.n_candidates == 1 else "share"
    yield (
        f"{least}{plural(it.n_candidates, 'document')} of the run {share} a band with it at the stage {it.stage} "
        f"({it.bands} bands of {it.rows} rows)."
    )
    if it.n_candidates > len(it.candidates):
        yield f"Those {len(it.candidates)} with the most bands in common were looked at."
    yield from _rule(it)
    yield ""
    yield "true   estimated  bands  fate"
    drawn = False
    for one in it.candidates:
        if not drawn and (one.jaccard is None or one.jaccard < it.threshold):
            drawn = True
            yield f"----- threshold {it.threshold:g} -----"
        yield from _candidate(one, it.bands)


def _rule(it: Similar) -> Iterator[str]:
    if it.verify == "exact":
        yield f"Had it been in the input, a kept document at or above {it.threshold:g} could have made it a duplicate."
    else:
        yield "Had it been in the input, any shared band would have made it their duplicate, or them its: verify is none,"
        yield f"so that the threshold of {it.threshold:g} decides nothing; it is drawn for orientation."


def _candidate(one: Candidate, bands: int) -> Iterator[str]:
    true = "  -  " if one.jaccard is None else f"{one.jaccard:.3f}"
    estimated = "  -  " if one.estimated is None else f"{one.estimated:.3f}"
    fate = f"removed by {one.stage}" if one.stage else one.fate
    yield f"{true}  {estimated}      {one.shared_bands}/{bands}    {fate}  {printable(one.id)}"
    if one.text:
        yield f"       {clip(one.text, _LINE_CELLS)}"
    elif one.why_not:
        yield f"       not compared: {printable(one.why_not)}"
