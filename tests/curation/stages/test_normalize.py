import builtins
import importlib.metadata
import sys
import unicodedata
from pathlib import Path
from types import ModuleType

import ftfy
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.documents import DocumentBatch
from curation.kernels import normalization
from curation.kernels.automaton import compile_search
from curation.stages import normalize
from curation.stages.normalize import Normalize, NormalizeSettings, gate

STAGE = Normalize("normalize", NormalizeSettings())
MOJIBAKE = [
    "Ã©",
    "â€™",
    "â€œ",
    "Â\xa0",
    "Ã",
    "à ",
    "Â",
    "â€",
    "вЂ",
    "ГўВЂВ",
    "√±",
    "β€™",
    "ā€",
    "Ã³",
    "l’Ã©",
    "ðŸ˜€",
    "…",
]
ENTITIES = [
    "&",
    "&lt;",
    "&amp;amp;",
    "&amp;lt;",
    "&#8217;",
    "&#x26;",
    "&EACUTE;",
    "&nosuch;",
    "＆lt;",
    "&l\x00t;",
    "&#13;",
    "&#55357;",
]
CONTROLS = [
    "\r\n",
    "\r",
    "\n",
    "\x85",
    "\u2028",
    "\u2029",
    "\x1b[31m",
    "\x1b[",
    "\x1b",
    "\x00",
    "\x0b",
    "\x0c",
    "\x7f",
    "\ufeff",
]
CONTROLS += ["\x80", "\x9f", "\xad", "\ufff9", "\u206a", "\u200d", "\ufffd", "\x1a", "?"]
MARKS = [
    "e\u0301",
    "\u0301",
    "\u0323\u0301",
    "\u0301\u0323",
    "\u0344",
    "\u212b",
    "\u0958",
    "\u0915\u093c",
    "\u0928\u093c",
]
MARKS += [
    "\u1100\u1161",
    "\uac00\u11a8",
    "\u11a8",
    "\u0f73",
    "\U0001d15e",
    "\u05e9\u05c1",
    "\u0c46\u0c56",
    "\u0345",
    "\u0387",
]
WIDTHS = [
    "ﬁ",
    "ﬃ",
    "ﬅ",
    "ŉ",
    "Ǆ",
    "ĳ",
    "Ａ",
    "＜",
    "＆",
    "ｱﾞ",
    "ﾊﾟ",
    "ﾡ",
    "￦",
    "\u3000",
    "；",
    "‘",
    "’",
    "“",
    "”",
    "‟",
    "ʼ",
]
WORDS = [
    "a",
    "Z",
    " ",
    "7",
    "quelle",
    "é",
    "É",
    "ß",
    "œ",
    "Œ",
    "ø",
    "Ø",
    "и",
    "Ж",
    "Ω",
    "α",
    "漢字",
    "한글",
    "ا",
    "م",
    "हि",
    "ไทย",
    "😀",
    "×",
    "²",
    "°",
]
WORDS += ["«", "»", "™", "€", "£", "§", "─", "│", "█", "<", "</p>", ";", "#", "¿", "\xa0", "\t", "lt;", "["]
FRAGMENTS = MOJIBAKE + ENTITIES + CONTROLS + MARKS + WIDTHS + WORDS


def apply(texts: list[str], stage: Normalize = STAGE) -> list[str]:
    batch = DocumentBatch(np.arange(len(texts), dtype=np.uint64), pa.array(texts, pa.large_string()))
    result = stage.apply(batch)
    assert result.removed is None
    after = batch.after(result.texts)
    after.texts.validate(full=True)
    assert after.positions is batch.positions
    return after.texts.to_pylist()


def assert_as_ftfy(texts: list[str]) -> None:
    for text, repaired in zip(texts, apply(texts), strict=True):
        assert repaired == ftfy.fix_text(text, normalization="NFC"), ascii(text)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), min_size=1, max_size=4))
def test_troubled_text_becomes_what_ftfy_makes_of_it(texts):
    assert_as_ftfy(texts)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("&;\r\n<"), max_size=30), max_size=4)
)
def test_random_text_becomes_what_ftfy_makes_of_it(texts):
    assert_as_ftfy(texts)


@settings(max_examples=300, deadline=None)
@given(
    st.text("café l’été naïve “où” Łódź Größe ÀÉÎ señor Ñ £5 20 €,.", max_size=60),
    st.sampled_from(["latin-1", "cp1252", "cp1251", "cp1250", "macroman", "cp437"]),
)
def test_mojibake_of_real_words_becomes_what_ftfy_makes_of_it(text, encoding):
    broken = text.encode().decode(encoding, "replace")
    assert_as_ftfy([broken, f"{text}\n{broken}\n{text}", f"<b>\n{broken}"])


def test_pairs_and_triples_of_fragments_become_what_ftfy_makes_of_them():
    random = np.random.default_rng(7)
    lines = [first + second for first in FRAGMENTS for second in FRAGMENTS[:: len(FRAGMENTS) // 30]]
    lines += ["".join(random.choice(FRAGMENTS, 3)) for _ in range(4000)]
    order = random.permutation(len(lines))
    assert_as_ftfy(["\n".join(lines[at] for at in order[start : start + 20]) for start in range(0, len(order), 20)])


def test_every_character_of_interest_becomes_what_ftfy_makes_of_it():
    blocks = [
        *range(0x3400),
        *range(0xA000, 0xD7C0, 97),
        *range(0xF900, 0x10000),
        *range(0x1D100, 0x1D200),
        *range(0x2F800, 0x2FA20),
    ]
    characters = [chr(code_point) for code_point in blocks]
    assert_as_ftfy(
        [
            "".join(f"a{character}b\n" for character in characters[at : at + 500])
            for at in range(0, len(characters), 500)
        ]
    )


def test_text_of_this_installation_becomes_what_ftfy_makes_of_it():
    texts, size = [], 0
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or []:
            if file.name.startswith(("METADATA", "LICENSE", "AUTHORS", "NOTICE")) and size < 1_500_000:
                texts.append(Path(file.locate()).read_bytes()[:40_000].decode(errors="ignore"))
                size += len(texts[-1])
    documented = [*vars(builtins).values(), *(module for module in sys.modules.values() if type(module) is ModuleType)]
    texts += [value.__doc__ for value in documented if isinstance(value.__doc__, str)]
    assert len(texts) > 100
    assert_as_ftfy([text.encode("utf-8", "ignore").decode() for text in texts])


def test_names_and_characters_of_many_scripts_become_what_ftfy_makes_of_them():
    named = [chr(code_point) for code_point in range(0xA0, 0x20000, 11) if unicodedata.name(chr(code_point), "")]
    lines = [f"{a} {unicodedata.name(a)} {b}{a}{b}“x”" for a, b in zip(named, named[1:] + named[:1], strict=True)]
    assert_as_ftfy(["\n".join(lines[at : at + 100]) for at in range(0, len(lines), 100)])


@pytest.mark.parametrize("line", ["é “x” &lt; ", "x <y> &lt; Ã©", "plain & simple ", "Ã "])
def test_lines_longer_than_a_segment_become_what_ftfy_makes_of_them(line):
    repeated = line * (normalization.SEGMENT_BYTES // len(line) + 2)
    assert_as_ftfy([f"“a” &gt;\n{repeated}\n“b” &gt;", "x" * normalization.SEGMENT_BYTES + "Â \r\n&lt;"])


def test_text_that_the_gate_passes_is_in_nfc():
    properties = gate().tables.properties
    marks = np.flatnonzero((properties >> normalization.COMBINING_SHIFT) & 0xFF).tolist()
    pool = (
        [chr(code_point) for code_point in [*marks, *normalize._recomposed()]]
        + list("aeouc") * 100
        + ["\uac00", "\u1100"]
    )
    random = np.random.default_rng(3)
    for _ in range(10_000):
        text = "".join(pool[at] for at in random.integers(len(pool), size=4))
        verdict = normalization.verdict(text.encode(), gate().tables)
        assert verdict & normalization.RECOMPOSED or unicodedata.is_normalized("NFC", text), ascii(text)


def test_mojibake_is_found_where_ftfy_finds_it():
    automaton = compile_search(ftfy.badness.BADNESS_RE)
    letters = [chr(int(np.argmax(automaton.class_of == number))) for number in np.unique(automaton.class_of)]
    random = np.random.default_rng(4)
    for _ in range(5000):
        text = "".join(random.choice(letters, 4))
        found = normalization.verdict(text.encode(), gate().tables) & normalization.MOJIBAKE
        assert bool(found) == ftfy.badness.is_bad(text)


def test_a_batch_without_changes_is_returned_as_it_came():
    batch = DocumentBatch(np.arange(3), pa.array(["plain", "R&D, café, 漢字\n", ""], pa.large_string()))
    assert batch.after(STAGE.apply(batch).texts) is batch
    empty = DocumentBatch(np.arange(0), pa.array([], pa.large_string()))
    assert empty.after(STAGE.apply(empty).texts) is empty


def test_a_slice_of_an_array_is_repaired_in_its_place():
    texts = pa.array(["“no”", "“yes”", "", "plain", "“no”"], pa.large_string())
    result = STAGE.apply(DocumentBatch(np.arange(3), texts.slice(1, 3)))
    assert result.texts.to_pylist() == ['"yes"', "", "plain"]


def test_another_ftfy_runs_without_the_gate_and_says_why(monkeypatch):
    monkeypatch.setattr(normalize, "_KNOWN_SOURCES", set())
    gate.cache_clear()
    try:
        with pytest.warns(UserWarning, match="without its gate"):
            assert apply(["plain", "“a” &lt;", "", "é\r\n"]) == ["plain", '"a" <', "", "é\n"]
        assert "not those of a release" in gate().closed_because
    finally:
        gate.cache_clear()


def test_nfc_alone_composes_and_changes_nothing_else():
    stage = Normalize("normalize", NormalizeSettings(scheme="nfc"))
    assert apply(["e\u0301 “x” &lt;\r\n", "plain", "é"], stage) == ["é “x” &lt;\r\n", "plain", "é"]


def test_versions_that_decide_the_result_are_named():
    assert STAGE.library_versions() == {
        "ftfy": importlib.metadata.version("ftfy"),
        "unicodedata": unicodedata.unidata_version,
    }
    assert "ftfy" not in Normalize("normalize", NormalizeSettings(scheme="nfc")).library_versions()
