"""Which parts make an output file: every part in exactly one, in order, whatever the sizes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from curation.engine.grouping import group_parts, join_ranges, tasks_of

SIZES = st.lists(st.one_of(st.just(0), st.integers(0, 10), st.integers(0, 2**31)), max_size=40)


def is_a_partition(ranges, n):
    return [index for first, last in ranges for index in range(first, last)] == list(range(n))


@given(kept=SIZES, file_bytes=st.integers(2**20, 2**28))
def test_groups_are_consecutive_and_hold_every_part_once(kept, file_bytes):
    raw = np.array(kept, np.int64) * 2
    groups = group_parts(np.array(kept, np.float64), raw, file_bytes)
    assert is_a_partition(groups, len(kept))
    assert all(first < last for first, last in groups)


@given(sizes=st.lists(st.integers(1, 50_000_000), min_size=1, max_size=60))
def test_a_group_holds_about_the_bytes_of_a_file(sizes):
    file_bytes = 100_000_000
    groups = group_parts(np.array(sizes, np.float64), np.array(sizes, np.int64), file_bytes)
    held = [sum(sizes[first:last]) for first, last in groups]
    assert max(held) <= 1.5 * file_bytes + max(sizes)
    if sum(sizes) >= 2 * file_bytes:
        assert abs(len(groups) - sum(sizes) / file_bytes) <= 1 + len(groups) / 2


def test_a_stretch_that_keeps_nothing_ends_after_two_gigabytes_of_input():
    raw = np.full(100, 64 * 2**20, np.int64)
    groups = group_parts(np.zeros(100), raw, 224 * 2**20)
    assert is_a_partition(groups, 100)
    assert max(last - first for first, last in groups) <= 33


@given(data=st.data(), n=st.integers(1, 30))
def test_tasks_hold_all_groups_in_order_and_read_no_unit_twice(data, n):
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=n))) if n > 1 else []
    groups = list(zip([0, *cuts], [*cuts, n], strict=True))
    units = [f"unit {number}" for number in sorted(data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)))]
    tasks = tasks_of(groups, units)
    assert [group for task in tasks for group in task] == groups
    seen: set[str] = set()
    for task in tasks:
        mine = set(units[task[0][0] : task[-1][1]])
        assert not seen & mine
        seen |= mine


@given(sizes=SIZES, file_bytes=st.integers(1, 2**30))
def test_joined_files_stay_within_the_size_and_leave_none_out(sizes, file_bytes):
    ranges = join_ranges(sizes, file_bytes)
    assert is_a_partition(ranges, len(sizes))
    for first, last in ranges:
        assert last - first == 1 or sum(sizes[first:last]) <= file_bytes
    # No two neighbours would have fitted together.
    for first, last in ranges[:-1]:
        assert sum(sizes[first : last + 1]) > file_bytes
