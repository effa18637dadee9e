"""What differs between two texts: nothing is lost, and hostile texts cost little."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.report import differences
from curation.report.differences import Segment, compare, side_by_side

SOME = ["red", "fox", " ", "  ", "\n", ".", "天", "地", "ไทย", "e\u0301", "x" * 50, "\x00", "\u202e", "ß", "👩‍👩‍👧"]
WORDS = st.sampled_from(SOME)
TEXTS = st.lists(WORDS, max_size=60).map("".join) | st.text(max_size=200)


def of(segments: list[Segment], side: str) -> str:
    return "".join(segment.text for segment in segments if segment.kind in ("same", side))


@given(TEXTS, TEXTS)
@settings(max_examples=150, deadline=None)
def test_segments_join_to_both_texts(left, right):
    segments = compare(left, right)
    assert of(segments, "left") == left
    assert of(segments, "right") == right
    assert all(segment.text for segment in segments)
    kinds = [segment.kind for segment in segments]
    assert all(one != other for one, other in pairwise(kinds)), "stretches of one kind are joined"
    if left == right:
        assert set(kinds) <= {"same"}


@given(TEXTS, TEXTS, st.integers(1, 30), st.integers(1, 40), st.integers(1, 200))
@settings(max_examples=150, deadline=None)
def test_what_is_shown_stands_in_the_texts_and_the_rest_is_counted(left, right, context, longest, most_characters):
    segments = compare(left, right)
    both = side_by_side(segments, context, longest, most_characters)
    for text, runs in ((left, [row.left for row in both.rows]), (right, [row.right for row in both.rows])):
        at = counted = 0
        for row, shown in zip(both.rows, runs, strict=True):
            at, counted = at + row.skipped, counted + row.skipped
            for run in shown:
                assert text[at : at + len(run.text)] == run.text
                at, counted = at + len(run.text) + run.omitted, counted + len(run.text) + run.omitted
        if not both.more:
            assert counted + both.skipped == len(text)
    if all(segment.text.strip() for segment in segments if segment.kind != "same") and len(segments) > 1:
        assert any(run.changed for row in both.rows for run in (*row.left, *row.right))


def test_white_space_alone_is_not_marked():
    both = side_by_side(compare("one two\nthree  four", "one\ntwo three four"))
    assert not any(run.changed for row in both.rows for run in (*row.left, *row.right))
    assert "".join(run.text for run in both.rows[0].left) == "one two\nthree  four"


def test_one_word_of_a_thousand_is_found_alone():
    words = [f"word{n % 300}" for n in range(1000)]
    other = [*words[:500], "different", *words[501:]]
    changed = [segment for segment in compare(" ".join(words), " ".join(other)) if segment.kind != "same"]
    assert changed == [Segment("left", "word200"), Segment("right", "different")]


def test_a_moved_opening_leaves_the_rest_equal():
    rest = " ".join(f"w{n}" for n in range(400))
    changed = [segment for segment in compare("Title\n" + rest, rest + "\nfooter") if segment.kind != "same"]
    assert changed == [Segment("left", "Title\n"), Segment("right", "\nfooter")]


@pytest.mark.parametrize("script", ["天地玄黃宇宙洪荒日月盈昃辰宿列張寒來", "こんにちは世界をめぐるながい", "สวัสดีชาวโลกทุกคนในวันนี้"])
def test_scripts_without_spaces_are_compared_by_the_character(script):
    at = len(script) // 2
    segments = compare(script, script[:at] + "X" + script[at + 1 :])
    assert [segment.text for segment in segments if segment.kind == "left"] == [script[at]]


def test_repeated_words_around_a_change_do_not_hide_it():
    left = "ab cd " * 300 + "one" + " ab cd" * 300
    right = "ab cd " * 300 + "two" + " ab cd" * 300
    changed = [segment.text for segment in compare(left, right) if segment.kind != "same"]
    assert changed == ["one", "two"]


class _Counted(str):
    """Counts how often words are compared or hashed."""

    calls = 0

    def __eq__(self, other):
        _Counted.calls += 1
        return str.__eq__(self, other)

    def __hash__(self):
        _Counted.calls += 1
        return str.__hash__(self)


def _hostile():
    source = random.Random(1)
    few = [str(n) for n in range(30)]
    shuffled = [source.choice(few) for _ in range(5_000)]
    yield "equal words", "a " * 30_000, "b " + "a " * 29_000 + "c"
    yield "two words in turn", "a b " * 10_000, "b a a " * 8_000
    yield "a word of a megabyte", "x" * 10**6, "x" * 500_000 + "y" + "x" * 499_999
    yield "few words in any order", " ".join(shuffled), " ".join(source.choice(few) for _ in range(5_000))
    yield "one text backwards", " ".join(map(str, range(5_000))), " ".join(map(str, range(5_000, 0, -1)))
    yield "nested anchors", _nested(3000), _nested(3001)
    yield "Han", "天地" * 10_000, "地天" * 10_000


def _nested(n):
    """Every word twice, mirrored: each split leaves few anchors for the next one."""
    half = [str(number) for number in range(n)]
    return " ".join(half + half[::-1])


HOSTILE = {name: texts for name, *texts in _hostile()}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_work_is_bounded_by_the_lengths(monkeypatch, name):
    left, right = HOSTILE[name]
    plain = differences._WORDS
    monkeypatch.setattr(_Counted, "calls", 0)

    class Words:
        @staticmethod
        def findall(text):
            return [_Counted(word) for word in plain.findall(text)]

    monkeypatch.setattr(differences, "_WORDS", Words)
    segments = compare(left, right)
    n_words = len(plain.findall(left)) + len(plain.findall(right))
    assert of(segments, "left") == left
    assert _Counted.calls < 150 * n_words + 200_000


def test_nothing_but_the_bounded_is_shown_of_a_megabyte():
    both = side_by_side(compare("x" * 10**6, "y" * 10**6))
    shown = sum(len(run.text) for row in both.rows for run in (*row.left, *row.right))
    assert shown < 1000
    assert both.rows[0].left[1].omitted > 990_000
