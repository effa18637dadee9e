"""Text repair and NFC, as SlimPajama did it: `ftfy.fix_text(text, normalization="NFC")`, every other default left on.

Source: Cerebras modelzoo, slimpajama/preprocessing/normalize_text.py, which used ftfy 6.1.1. ftfy is slow and changes
few lines, so a kernel finds the lines that it provably leaves alone, and makes simple changes (curly quotes, CRLF)
itself, by tables read from the installed ftfy. The text is ftfy's, byte for byte.

Why it is the same. ftfy repairs each line by itself (`fix_text`; all that is carried on is that a line held `<`), in
rounds that end when one changes nothing (`fix_and_explain`). A round unescapes entities, undoes mojibake if the line
is not ASCII and `badness.BADNESS_RE` matches, replaces characters one by one, and composes. So a line without entity,
match, replaced character, or anything that NFC changes, is its own result. If only characters are replaced, and what
comes out is such a line, that is the result: the second round changes nothing. Every other line goes through `_repair`,
ftfy's own rounds without the steps that the kernel's verdict rules out.
"""

from __future__ import annotations

import hashlib
import inspect as source_code
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from operator import attrgetter
from typing import Literal

import ftfy
import numpy as np
import pyarrow as pa
from ftfy import badness, chardata, fixes

from curation.documents import DocumentBatch
from curation.kernels import normalization as kernels
from curation.kernels.automaton import CODE_POINTS, UnsupportedPatternError, all_characters, compile_search
from curation.stages import MapResult, MapStage, Settings

# What is relied on of ftfy, checked by a hash of its source. Another release is run as it is, without the gate.
_MIRRORED = [
    *("fix_text", "fix_and_explain", "_try_fix", "fix_encoding", "fix_encoding_and_explain"),
    *("_fix_encoding_one_step_and_explain", "badness.is_bad", "chardata.possible_encoding", "fixes.unescape_html"),
    *("fixes.fix_c1_controls", "fixes.fix_latin_ligatures", "fixes.fix_character_width", "fixes.uncurl_quotes"),
    *("fixes.fix_line_breaks", "fixes.fix_surrogates", "fixes.remove_terminal_escapes", "fixes.remove_control_chars"),
]
_KNOWN_SOURCES = {
    "a7bb339e3a91bba6",  # 6.1.0, 6.1.1
    "2d765a566dee72ae",  # 6.1.3
    "df80357ab4b673b3",  # 6.2.0
    "2e7cf5ed07efc5e4",  # 6.2.1, 6.2.2, 6.2.3
    "fe0ee017da6dd1b0",  # 6.3.0
    "bfac15de8f8641ed",  # 6.3.1
}
_PAGE = 256  # code points that are asked at once whether any of them decomposes
_ENTITY_PATTERN = "&#?[0-9A-Za-z]{1,24};"  # what the kernel looks for
_ESCAPE_PATTERN = "\033\\[((?:\\d|;)*)([a-zA-Z])"  # begins with ESC; alone with CRLF in minding neighbours


class NormalizeSettings(Settings):
    """Settings of `normalize`: ftfy's repair with NFC, or NFC alone."""

    scheme: Literal["ftfy_nfc", "nfc"] = "ftfy_nfc"


class Normalize(MapStage):
    """Repairs texts and brings them into NFC; removes none."""

    settings_class = NormalizeSettings
    settings: NormalizeSettings

    def library_versions(self) -> dict[str, str]:
        """What else than `version` decides the result: part of the task key."""
        versions = {"unicodedata": unicodedata.unidata_version}
        return {**versions, "ftfy": version("ftfy")} if self.settings.scheme == "ftfy_nfc" else versions

    def apply(self, documents: DocumentBatch) -> MapResult:
        data, offsets = documents.utf8
        rows = np.flatnonzero(~kernels.plain(data, offsets))
        if not len(rows):
            return MapResult()
        if self.settings.scheme == "nfc":
            return _repaired(documents, rows, lambda text: unicodedata.normalize("NFC", text))
        tables = gate().tables
        if tables is None:
            return _repaired(documents, rows, fix_text)
        edits, edited = kernels.find_edits(data, offsets, rows, tables)
        edits, edited = _decided(data, edits, edited, tables)
        if not len(edits):
            return MapResult()
        changed, offsets = kernels.apply_edits(data, offsets, edits, edited)
        texts = pa.LargeStringArray.from_buffers(len(documents), pa.py_buffer(offsets), pa.py_buffer(changed))
        return MapResult(texts=texts)


def fix_text(text: str) -> str:
    """What the scheme `ftfy_nfc` means."""
    return ftfy.fix_text(text, normalization="NFC")


@dataclass(frozen=True)
class Gate:
    """The kernel's tables, or None and the reason why this ftfy must be run on everything that is not plain ASCII."""

    tables: kernels.Tables | None
    closed_because: str = ""


@cache
def gate() -> Gate:
    """The gate for the installed ftfy, made once a process (0.5 s); warns where it is closed."""
    try:
        return Gate(ftfy_tables())
    except (ValueError, AttributeError, OSError) as error:  # no such function, no source
        reason = f"ftfy {version('ftfy')} runs without its gate, fifty times slower: {error}"
        warnings.warn(reason, stacklevel=2)
        return Gate(None, reason)


def source_hash() -> str:
    """The hash of those functions of the installed ftfy whose behaviour the gate relies on."""
    sources = "".join(source_code.getsource(attrgetter(name)(ftfy)) for name in _MIRRORED)
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def ftfy_tables() -> kernels.Tables:
    """The kernel's tables from the installed ftfy and unicodedata; UnsupportedPatternError if they could be wrong."""
    expected = ("auto", *[True] * 12, "NFC", kernels.SEGMENT_BYTES, True)
    if source_hash() not in _KNOWN_SOURCES or ftfy.TextFixerConfig() != expected:
        raise UnsupportedPatternError("its functions are not those of a release from 6.1.0 to 6.3.1")
    if (chardata.HTML_ENTITY_RE.pattern, fixes.ANSI_RE.pattern) != (_ENTITY_PATTERN, _ESCAPE_PATTERN):
        raise UnsupportedPatternError("its patterns of entities or terminal escapes are others")
    search = compile_search(badness.BADNESS_RE)
    combining_class = np.fromiter(map(unicodedata.combining, all_characters()), np.uint8, CODE_POINTS)
    # Terminal escapes (from ESC on) and surrogates are replaced with their neighbours.
    verdicts = {kernels.RECOMPOSED: _recomposed(), kernels.ORDERED: [0x1B, *range(0xD800, 0xE000)]}
    return kernels.make_tables(*search, combining_class, verdicts, _replacements())


def _replacements() -> dict[int, str]:
    """What the fixers that look at single characters, run in ftfy's order, make of each character that they change."""
    candidates = {*chardata.LIGATURES, *chardata.WIDTH_MAP, *chardata.CONTROL_CHARS, *map(ord, "\r\u0085\u2028\u2029")}
    for pattern in (chardata.C1_CONTROL_RE, chardata.SINGLE_QUOTE_RE, chardata.DOUBLE_QUOTE_RE):
        candidates.update(map(ord, pattern.findall(all_characters())))
    replaced = {code_point: _replaced(chr(code_point)) for code_point in sorted(candidates)}
    replaced = {code_point: text for code_point, text in replaced.items() if text != chr(code_point)}
    if any({"\r", "\033"} & set(text) for text in replaced.values()):
        raise UnsupportedPatternError("it replaces a character by CR or ESC")
    return replaced


def _replaced(text: str) -> str:
    """The steps of a round between mojibake and NFC, in the order of `ftfy.fix_and_explain`."""
    for fixer in (
        fixes.fix_c1_controls,
        fixes.fix_latin_ligatures,
        fixes.fix_character_width,
        fixes.uncurl_quotes,
        fixes.fix_line_breaks,
        fixes.fix_surrogates,
        fixes.remove_terminal_escapes,
        fixes.remove_control_chars,
    ):
        text = fixer(text)
    return text


def _recomposed() -> list[int]:
    """Code points whose NFC quick check is not Yes (UAX 15): NFC changes them, or composes them with one before.

    A text without them, whose marks are in canonical order, is in NFC.
    """
    found = [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]  # vowels and finals of Hangul compose by arithmetic
    characters = all_characters()
    for first in range(0, CODE_POINTS, _PAGE):
        page = characters[first : first + _PAGE]
        if unicodedata.normalize("NFD", page) == page:  # nothing in it decomposes: all but a hundred pages
            continue
        for character, decomposition in zip(page, map(unicodedata.decomposition, page), strict=True):
            if not decomposition or decomposition.startswith("<"):
                continue
            parts = [chr(int(part, 16)) for part in decomposition.split()]
            if unicodedata.normalize("NFC", character) != character:
                found.append(ord(character))
            elif len(parts) == 2:
                found.append(ord(parts[1]))
    return found


def _decided(
    data: np.ndarray, edits: np.ndarray, edited: np.ndarray, tables: kernels.Tables
) -> tuple[np.ndarray, np.ndarray]:
    """The edits with those that the kernel left undecided made by `_repair`, or dropped where it changes nothing."""
    pieces = [edited.tobytes()]
    size = len(edited)
    keep = np.ones(len(edits), bool)
    for number in np.flatnonzero(edits[:, 2] < 0).tolist():
        start, end, _, _, unescape = edits[number].tolist()
        before = data[start:end].tobytes()
        after = _repair(before.decode(), bool(unescape), tables).encode()
        if after == before:
            keep[number] = False
            continue
        edits[number, 2:4] = size, size + len(after)
        size += len(after)
        pieces.append(after)
    return edits[keep], np.frombuffer(b"".join(pieces), np.uint8)


def _repair(line: str, unescape: bool, tables: kernels.Tables) -> str:
    """`ftfy.fix_text` of one line: its rounds, without steps that the kernel's verdict says would change nothing."""
    if len(line) > kernels.SEGMENT_BYTES:
        return ftfy.fix_text(line, normalization="NFC", unescape_html="auto" if unescape else False)
    unescape = unescape and "<" not in line
    while True:
        before = line
        if unescape:
            line = fixes.unescape_html(line)
        verdict = kernels.verdict(line.encode("utf-8", "surrogatepass"), tables)
        if verdict & kernels.MOJIBAKE:
            line = ftfy.fix_encoding(line)
            verdict = kernels.verdict(line.encode("utf-8", "surrogatepass"), tables)
        if verdict & (kernels.REPLACED | kernels.ORDERED):
            line = _replaced(line)
        if verdict:
            line = unicodedata.normalize("NFC", line)
        if line == before:
            return line


def _repaired(documents: DocumentBatch, rows: np.ndarray, repair: Callable[[str], str]) -> MapResult:
    """`repair` applied to the whole texts of `rows`."""
    before = documents.texts.take(pa.array(rows)).to_pylist()
    after = [repair(text) for text in before]
    changed = [index for index, text in enumerate(after) if text != before[index]]
    if not changed:
        return MapResult()
    return MapResult(texts=documents.with_texts(rows[changed], [after[index] for index in changed]))
