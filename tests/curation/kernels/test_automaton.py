import re

import numpy as np
import pytest
from ftfy.badness import BADNESS_RE
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.kernels.automaton import MATCHED, Automaton, UnsupportedPatternError, all_characters, compile_search

PATTERNS = [
    "abc|^b",
    "a[^bc]?d",
    r"\s\w|\d{2,3}x",
    "a.b",
    "(?:ab|a)(c|bcd)",
    "^a|ba",
    "[a-c]{2}d|(?:ac?){2}b",
]


def matches(automaton: Automaton, text: str) -> bool:
    state = automaton.start
    for character in text:
        state = automaton.transitions[state, automaton.class_of[ord(character)]]
    return bool(state == MATCHED)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tables_and_regular_expression_find_the_same(pattern):
    expression = re.compile(pattern)
    automaton = compile_search(expression)

    @settings(max_examples=300, deadline=None)
    @given(st.text(alphabet="abcdx \n1٣é", max_size=8))
    def check(text):
        assert matches(automaton, text) == bool(expression.search(text))

    check()


def test_tables_and_mojibake_expression_agree_on_all_pairs_and_many_triples_of_classes():
    automaton = compile_search(BADNESS_RE)
    # One character of each class stands for all: no set of the expression tells them apart.
    letters = [chr(int(np.argmax(automaton.class_of == number))) for number in np.unique(automaton.class_of)]
    random = np.random.default_rng(1)
    texts = [first + second for first in letters for second in letters]
    texts += ["".join(random.choice(letters, size)) for size in (3, 4, 5) for _ in range(4000)]
    for text in texts:
        assert matches(automaton, text) == bool(BADNESS_RE.search(text)), ascii(text)


def test_characters_of_a_class_are_in_the_same_sets():
    automaton = compile_search(re.compile(r"\w[\sé-ü]|[^a-z]y"))
    for pattern in (r"\w", r"[\sé-ü]", r"[^a-z]", "y"):
        member = np.zeros(len(all_characters()), bool)
        member[[match.start() for match in re.finditer(pattern, all_characters())]] = True
        for number in np.unique(automaton.class_of):
            assert len(np.unique(member[automaton.class_of == number])) == 1


@pytest.mark.parametrize(
    "pattern", ["a*", "a+b", r"(a)\1", "a(?=b)", "(?<!a)b", r"\bword", "a$", "x^a", "a?", "(?i)a", "(?m)^a", "a{50}"]
)
def test_what_the_tables_cannot_express_is_refused(pattern):
    with pytest.raises(UnsupportedPatternError):
        compile_search(re.compile(pattern))
