import re
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.kernels import normalization
from curation.kernels.automaton import compile_search

COMBINING = np.zeros(0x110000, np.uint8)
COMBINING[0x0323], COMBINING[0x0307], COMBINING[0x0308] = 220, 230, 230
TABLES = normalization.make_tables(
    *compile_search(re.compile("Ã©")),
    COMBINING,
    {normalization.RECOMPOSED: [0x0308], normalization.ORDERED: [0x1B]},
    {ord("“"): '"', ord("”"): '"', ord("\r"): "\n", ord("ŉ"): "'n", ord("⓪"): "&", ord("①"): "©", ord("②"): "Ã"},
)


def as_arrays(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)])


def edits_of(*texts: str) -> list[tuple[str, str | None, bool]]:
    """(line, what it becomes or None, whether entities are unescaped) of every edit."""
    data, offsets = as_arrays(list(texts))
    edits, edited = normalization.find_edits(data, offsets, np.arange(len(texts)), TABLES)
    return [
        (
            data[start:end].tobytes().decode(),
            edited[first:last].tobytes().decode() if first >= 0 else None,
            bool(unescape),
        )
        for start, end, first, last, unescape in edits.tolist()
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="ab~\t\n\f &\r\x0b\x00\x7fé", max_size=5) | st.just("a" * 3000), max_size=5))
def test_plain_texts_are_ascii_without_ampersand_and_control_characters(texts):
    expected = [re.fullmatch("[\t\n\f -%'-~]*", text) is not None for text in texts]
    assert normalization.plain(*as_arrays(texts)).tolist() == expected


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="&#;aZ09@[`{é ", max_size=12) | st.integers(20, 27).map(lambda size: "&#" + "a" * size + ";"))
def test_entities_are_found_where_the_expression_finds_them(text):
    found = normalization.verdict(text.encode(), TABLES, True) & normalization.ENTITY
    assert bool(found) == (re.search("&#?[0-9A-Za-z]{1,24};", text) is not None)
    assert not normalization.verdict(text.encode(), TABLES, False) & normalization.ENTITY


def test_each_cause_raises_its_own_bit():
    expected = {
        "plain, café 漢字 😀": 0,
        "“": normalization.REPLACED,
        "a\u0308": normalization.RECOMPOSED,
        "\033[0m": normalization.ORDERED,
        "xÃ©": normalization.MOJIBAKE,
    }
    assert {text: normalization.verdict(text.encode(), TABLES) for text in expected} == expected


def test_marks_must_rise_in_combining_class_after_each_base():
    below, above = "\u0323", "\u0307"
    ordered = {"x" + below: 0, "x" + below + above: 0, "x" + above + "y" + below: 0, "x" + above + above: 0}
    assert {text: normalization.verdict(text.encode(), TABLES) for text in ordered} == ordered
    assert normalization.verdict(f"x{above}{below}".encode(), TABLES) == normalization.RECOMPOSED


def test_only_lines_that_may_change_are_edits():
    assert edits_of("one\n“two”\nthree é\n", "“x", "") == [("“two”\n", '"two"\n', True), ("“x", '"x', True)]


def test_a_carriage_return_before_a_line_feed_goes_and_another_becomes_one():
    assert edits_of("a\r\n", "b\rc", "d\r\r\n") == [
        ("a\r\n", "a\n", True),
        ("b\rc", "b\nc", True),
        ("d\r\r\n", "d\n\n", True),
    ]


def test_a_replacement_that_makes_the_line_repairable_again_is_left_undecided():
    assert edits_of("⓪lt;") == [("⓪lt;", None, True)]
    assert edits_of("②①") == [("②①", None, True)]
    assert edits_of("<⓪lt;") == [("<⓪lt;", "<&lt;", False)]


def test_entities_are_unescaped_only_above_the_first_line_with_a_tag():
    text = "&lt;\n“\n<p> &lt;\n&lt;\n“"
    assert edits_of(text, "&gt;") == [
        ("&lt;\n", None, True),
        ("“\n", '"\n', True),
        ("“", '"', False),
        ("&gt;", None, True),
    ]


def test_lines_longer_than_a_segment_are_decided_only_if_nothing_acts_on_them():
    filler = "x & y " * (normalization.SEGMENT_BYTES // 6 + 1)
    assert edits_of(filler, "<" + filler) == []
    assert [edit[1:] for edit in edits_of(filler + "é\n")] == [(None, True)]
    assert [edit[1:] for edit in edits_of(filler + "&lt; <")] == [(None, True)]
    assert [edit[1:] for edit in edits_of("<\n" + filler + "“\n“")] == [(None, False), ('"', False)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_edits_replace_their_ranges_and_nothing_else(data):
    texts = data.draw(st.lists(st.text(alphabet="abcé", max_size=10), max_size=6))
    expected, edits, edited, base = [], [], b"", 0
    for text in texts:
        encoded = text.encode()
        bounds = data.draw(st.sets(st.integers(0, len(encoded)), max_size=4).map(sorted))
        result, at = b"", 0
        for start, end in zip(bounds[::2], bounds[1::2], strict=False):
            piece = data.draw(st.binary(max_size=5))
            edits.append([base + start, base + end, len(edited), len(edited) + len(piece), 0])
            edited += piece
            result += encoded[at:start] + piece
            at = end
        expected.append(result + encoded[at:])
        base += len(encoded)
    table = np.array(edits, np.int64).reshape(-1, normalization.EDIT_COLUMNS)
    output, offsets = normalization.apply_edits(*as_arrays(texts), table, np.frombuffer(edited, np.uint8))
    assert [output[a:b].tobytes() for a, b in pairwise(offsets)] == expected
