"""N-gram sets and the greedy cover, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.kernels.verification import greedy_cover, ngram_set


def encoded(texts):
    pieces = [text.encode() for text in texts]
    return np.frombuffer(b"".join(pieces), np.uint8), np.cumsum([0, *map(len, pieces)], dtype=np.int64)


def grams_of(text, unit, ngram):
    units = list(text) if unit == "character" else text.split(" ") if text else []
    joiner = "" if unit == "character" else " "
    return {joiner.join(units[i : i + ngram]) for i in range(len(units) - ngram + 1)}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.text("abж中😀", min_size=1, max_size=6), max_size=12).map(" ".join), max_size=5),
    st.sampled_from(["character", "word"]),
    st.integers(1, 6),
)
def test_sets_have_the_sizes_and_intersections_of_the_true_sets(texts, unit, ngram):
    sets, offsets = ngram_set(*encoded(texts), unit, ngram)
    assert offsets[0] == 0 and offsets[-1] == len(sets) and len(offsets) == len(texts) + 1
    true = [grams_of(text, unit, ngram) for text in texts]
    ours = [sets[offsets[i] : offsets[i + 1]] for i in range(len(texts))]
    for i in range(len(texts)):
        assert (ours[i][1:] > ours[i][:-1]).all() and len(ours[i]) == len(true[i])
        for j in range(i):
            assert len(np.intersect1d(ours[i], ours[j])) == len(true[i] & true[j])


def test_sets_of_long_texts_do_not_depend_on_blocks():
    text = "".join(chr(97 + int(k)) for k in np.random.default_rng(2).integers(0, 26, 5000))
    for n_characters in (1023, 1024, 1025, 1028, 1029, 2100, 5000):
        _, offsets = ngram_set(*encoded([text[:n_characters], "é" + text[:n_characters]]), "character", 5)
        true = len(grams_of(text[:n_characters], "character", 5))
        assert np.diff(offsets).tolist() == [true, true + 1]


def test_every_tail_length_of_an_ngram_is_told_apart():
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    for ngram in range(1, 24):
        texts = [alphabet[:ngram]] + [alphabet[:i] + "0" + alphabet[i + 1 : ngram] for i in range(ngram)]
        assert len(np.unique(ngram_set(*encoded(texts), "character", ngram)[0])) == ngram + 1


def brute_force_cover(order, keys, sets, threshold, maximum):
    kept_by, similarity, past_limit, retained = {}, {}, 0, []
    for document in order:
        sharing = [other for other in retained if set(keys[other]) & set(keys[document])]
        for other in sharing[:maximum]:
            union = len(sets[document] | sets[other])
            jaccard = len(sets[document] & sets[other]) / union if union else 0.0
            if jaccard >= threshold:
                kept_by[document], similarity[document] = other, jaccard
                break
        else:
            past_limit += len(sharing) > maximum
        if document not in kept_by:
            retained.append(document)
    return kept_by, similarity, past_limit


@st.composite
def covers(draw):
    n, bands = draw(st.integers(1, 14)), draw(st.integers(1, 4))
    sets = draw(st.lists(st.sets(st.integers(0, 14), max_size=10), min_size=n, max_size=n))
    keys = draw(st.lists(st.lists(st.integers(0, 4), min_size=bands, max_size=bands), min_size=n, max_size=n))
    order = draw(st.permutations(range(n)))
    threshold = draw(st.sampled_from([0.1, 0.5, 2 / 3, 0.8, 1.0]))
    return order, keys, sets, threshold, draw(st.sampled_from([1, 2, 1000]))


@settings(max_examples=500, deadline=None)
@given(covers())
def test_cover_equals_brute_force(case):
    order, keys, sets, threshold, maximum = case
    values = np.array([value for one in sets for value in sorted(one)], np.uint64)
    offsets = np.cumsum([0, *map(len, sets)], dtype=np.int64)
    kept_by, similarity, past_limit = greedy_cover(
        np.array(order, np.int64), np.array(keys, np.uint64), values, offsets, threshold, maximum
    )
    expected, expected_similarity, expected_past = brute_force_cover(order, keys, sets, threshold, maximum)
    assert {i: int(k) for i, k in enumerate(kept_by) if k >= 0} == expected
    for document, value in expected_similarity.items():
        assert similarity[document] == np.float32(value)
    assert np.isnan(similarity[kept_by < 0]).all()
    assert past_limit == expected_past


def test_a_chain_of_near_duplicates_does_not_go_as_a_whole():
    sets = [range(100 * step // 10, 100 * step // 10 + 100) for step in range(8)]  # neighbours: 90 of 110
    values = np.concatenate([np.array(one, np.uint64) for one in sets])
    offsets = np.arange(0, 801, 100)
    kept_by, similarity, _ = greedy_cover(np.arange(8), np.zeros((8, 1), np.uint64), values, offsets, 0.8, 100)
    assert kept_by.tolist() == [-1, 0, -1, 2, -1, 4, -1, 6]
    assert similarity[1] == np.float32(90 / 110)


@pytest.mark.parametrize("size", [5, 10, 45, 1000])
def test_a_pair_exactly_at_the_threshold_goes(size):
    common, rest = 4 * size, size
    values = np.concatenate([np.arange(common), np.arange(common + rest)]).astype(np.uint64)
    offsets = np.array([0, common, 2 * common + rest])
    kept_by, _, _ = greedy_cover(np.arange(2), np.zeros((2, 1), np.uint64), values, offsets, 0.8, 10)
    assert kept_by.tolist() == [-1, 0]


def test_documents_that_share_no_key_are_not_compared():
    values = np.tile(np.arange(20, dtype=np.uint64), 2)
    kept_by, _, _ = greedy_cover(np.arange(2), np.array([[1], [2]], np.uint64), values, np.array([0, 20, 40]), 0.8, 10)
    assert kept_by.tolist() == [-1, -1]


def test_no_documents_give_no_decisions():
    none = np.zeros(0, np.uint64)
    kept_by, similarity, past_limit = greedy_cover(
        np.zeros(0, np.int64), none.reshape(0, 3), none, np.zeros(1, np.int64), 0.8, 5
    )
    assert (len(kept_by), len(similarity), past_limit) == (0, 0, 0)
