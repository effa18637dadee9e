"""The cleaned text equals SlimPajama's own expression, for every code point."""

import re
import string
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.kernels.text import clean, clean_text


def reference(text):
    """The published expression, step by step."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text.strip())


def cleaned(texts):
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    data, ends, code_points = clean(np.frombuffer(b"".join(encoded), np.uint8), offsets)
    result = [data[ends[i] : ends[i + 1]].tobytes().decode() for i in range(len(texts))]
    assert code_points.tolist() == [len(text) for text in result]
    assert ends[0] == 0 and ends[-1] == len(data)
    return result


CODE_POINTS = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
ODD = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
ODD += ".,-_'AaZzİıſßŉΣσςǅKÅȺ\u0301\u0345\u00ad中Ж😀𐐀"


@pytest.mark.parametrize("context", ["{0}", "A{0}B {0} - {0}.ж{0}Ж {0}"])
def test_every_code_point_is_cleaned_as_the_published_expression_does(context):
    texts = [context.format(character) for character in CODE_POINTS]
    expected = [reference(text) for text in texts]
    assert cleaned(texts) == expected
    assert [clean_text(text) for text in texts] == expected


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text(st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs"]))), max_size=6))
def test_random_unicode_is_cleaned_as_the_published_expression_does(texts):
    assert cleaned(texts) == [reference(text) for text in texts]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(max_codepoint=127)), max_size=6))
def test_random_ascii_is_cleaned_as_the_published_expression_does(texts):
    assert cleaned(texts) == [reference(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ΟΔΟΣ ΟΔΟΣ. Σ ΣΑΣ", "οδος οδος σ σας"),
        ("İstanbul", "i̇stanbul"),
        ("a - b , c", "a b c"),
        ("\u2028x\u0085\x1cy\u3000", "x y"),
        ("!?...", ""),
        ("", ""),
        ("ȺȾ" * 9, "ⱥⱦ" * 9),
    ],
)
def test_known_cases(text, expected):
    assert reference(text) == expected
    assert cleaned(["x", text, "y"]) == ["x", expected, "y"]


def test_growing_texts_never_write_beyond_the_output():
    assert cleaned(["Ⱥ"] * 7 + ["İ"] * 5 + ["Σ"]) == ["ⱥ"] * 7 + ["i̇"] * 5 + ["σ"]


def test_offsets_need_not_start_at_zero():
    data = np.frombuffer("XXΣ one TWO".encode(), np.uint8)
    result = clean(data, np.array([2, 4, 12], np.int64))
    assert result[0].tobytes().decode() == "σone two" and result[1].tolist() == [0, 2, 9]


@pytest.mark.parametrize("bad", [b"a\xff", b"\x80", b"ab\xe4\xb8", b"\xf4\x90\x80\x80"])
def test_invalid_utf8_is_an_error(bad):
    with pytest.raises(UnicodeDecodeError):
        clean(np.frombuffer(bad, np.uint8), np.array([0, len(bad)], np.int64))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=24), max_size=4))
def test_arbitrary_bytes_are_cleaned_or_refused_and_never_crash(pieces):
    offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    try:
        data, ends, _ = clean(np.frombuffer(b"".join(pieces), np.uint8), offsets)
    except UnicodeDecodeError:
        return
    for index, piece in enumerate(pieces):
        try:
            expected = reference(piece.decode())
        except UnicodeDecodeError:
            continue
        assert data[ends[index] : ends[index + 1]].tobytes().decode() == expected
