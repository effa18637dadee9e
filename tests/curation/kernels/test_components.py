"""Star edges and union-find, against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.kernels.components import Components, star_edges, star_edges_128
from curation.kernels.sorting import sort_by_key

RECORDS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 2**32, 2**63, 2**64 - 1]), st.integers(0, 2), st.integers(0, 12)),
    max_size=40,
)


def unsigned(values):
    return np.array(list(values), np.uint64)


def brute_force_stars(keys, documents):
    edges = set()
    for key in set(keys):
        members = sorted({d for k, d in zip(keys, documents, strict=True) if k == key})
        edges |= {(members[0], other) for other in members[1:]}
    return sorted(edges)


def brute_force_components(pairs):
    groups = []
    for a, b in pairs:
        touching = [group for group in groups if a in group or b in group]
        groups = [group for group in groups if group not in touching] + [{a, b}.union(*touching)]
    return {member: min(group) for group in groups for member in group}


def component_dict(components):
    numbers, roots = components.result()
    assert (numbers[1:] > numbers[:-1]).all()
    return dict(zip(numbers.tolist(), roots.tolist(), strict=True))


@settings(max_examples=300, deadline=None)
@given(RECORDS)
def test_star_edges_equal_brute_force(records):
    keys, halves, documents = (list(column) for column in zip(*records, strict=True)) if records else ([], [], [])
    low, high = star_edges(unsigned(keys), unsigned(documents))
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == brute_force_stars(keys, documents)
    low, high = star_edges_128(unsigned(keys), unsigned(halves), unsigned(documents))
    expected = brute_force_stars(list(zip(keys, halves, strict=True)), documents)
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == expected


def test_star_edges_do_not_depend_on_the_order_of_records_and_leave_the_input_alone():
    generator = np.random.default_rng(1)
    keys = generator.integers(0, 2**64, 3000, dtype=np.uint64)[generator.integers(0, 3000, 20_000)]
    documents = generator.integers(0, 2**40, 20_000, dtype=np.uint64)
    before = keys.copy(), documents.copy()
    first = star_edges(keys, documents)
    np.testing.assert_array_equal(keys, before[0])
    np.testing.assert_array_equal(documents, before[1])
    order = generator.permutation(20_000)
    for one, other in zip(first, star_edges(keys[order], documents[order]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_bucket_of_many_documents_gives_one_edge_less_than_documents():
    low, high = star_edges(np.zeros(5000, np.uint64), np.arange(5000, dtype=np.uint64)[::-1].copy())
    assert len(low) == 4999 and (low == 0).all() and high.tolist() == list(range(1, 5000))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40), st.integers(1, 40))
def test_components_equal_brute_force_however_edges_are_cut_into_chunks(pairs, chunk):
    components = Components()
    scale = 2**50 + 12345
    for start in range(0, len(pairs), chunk):
        some = pairs[start : start + chunk]
        components.add(unsigned(a * scale for a, _ in some), unsigned(b * scale for _, b in some))
    expected = brute_force_components(pairs)
    assert component_dict(components) == {a * scale: root * scale for a, root in expected.items()}


@pytest.mark.parametrize("shape", ["chain", "reversed chain", "star", "random"])
def test_large_components_are_found_across_growth_of_the_table(shape):
    n = 400_000
    numbers = np.arange(n, dtype=np.uint64)
    low, high = {
        "chain": (numbers[:-1], numbers[1:]),
        "reversed chain": (numbers[:-1][::-1], numbers[1:][::-1]),
        "star": (np.zeros(n - 1, np.uint64), numbers[1:]),
        "random": (np.random.default_rng(3).permutation(numbers)[:-1], numbers[1:]),
    }[shape]
    components = Components()
    for start in range(0, len(low), 70_000):
        components.add(low[start : start + 70_000], high[start : start + 70_000])
    found, roots = components.result()
    np.testing.assert_array_equal(found, numbers)
    if shape != "random":
        assert (roots == 0).all()
    else:
        assert (roots[low.astype(int)] == roots[high.astype(int)]).all() and (roots <= found).all()


def test_components_may_be_asked_for_before_and_after_more_edges():
    components = Components()
    assert component_dict(components) == {}
    components.add(unsigned([4]), unsigned([9]))
    assert component_dict(components) == {4: 4, 9: 4}
    components.add(unsigned([1, 6]), unsigned([9, 7]))
    assert component_dict(components) == {1: 1, 4: 1, 6: 6, 7: 6, 9: 1}


def test_stars_give_the_components_of_all_pairs_that_share_a_key():
    generator = np.random.default_rng(8)
    keys, documents = (
        generator.integers(0, 300, 900).astype(np.uint64),
        generator.integers(0, 400, 900).astype(np.uint64),
    )
    components = Components()
    components.add(*star_edges(keys, documents))
    pairs = []
    for key in np.unique(keys):
        pairs += combinations(sorted(set(documents[keys == key].tolist())), 2)
    assert component_dict(components) == brute_force_components(pairs)


@pytest.mark.parametrize("bits", [1, 11, 33, 64])
def test_radix_sort_is_stable_and_keeps_values_with_their_keys(bits):
    generator = np.random.default_rng(bits)
    keys = generator.integers(0, 2**bits, 5000, dtype=np.uint64)
    values = np.arange(5000, dtype=np.uint64)
    order = np.argsort(keys, kind="stable")
    sorted_keys, sorted_values = keys.copy(), values.copy()
    sort_by_key(sorted_keys, sorted_values, np.empty_like(keys), np.empty_like(keys))
    np.testing.assert_array_equal(sorted_keys, keys[order])
    np.testing.assert_array_equal(sorted_values, values[order])
