"""Array files: what is written is read, whole and by range, and a damaged file is noticed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from curation.engine.array_file import ArrayFile, write_arrays

DTYPES = st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64, np.int64, np.float32, np.float64, np.bool_])
ARRAYS = st.dictionaries(st.text(min_size=1, max_size=12), arrays_of.arrays(DTYPES, st.integers(0, 200)), max_size=6)


@given(arrays=ARRAYS, bounds=st.tuples(st.integers(0, 250), st.integers(0, 250)))
def test_arrays_come_back_whole_and_by_range(tmp_path_factory, arrays, bounds):
    path = str(tmp_path_factory.mktemp("arrays") / "a.arrays")
    write_arrays(path, arrays, {"names": sorted(arrays)})
    file = ArrayFile(path)
    assert file.meta == {"names": sorted(arrays)}
    start, stop = bounds
    for name, array in arrays.items():
        assert name in file
        assert file.length(name) == len(array)
        pairs = [(file.read(name), array), (file.whole(name), array), (file.read(name, start, stop), array[start:stop])]
        for found, expected in pairs:
            assert found.dtype == expected.dtype
            assert found.tobytes() == expected.tobytes()


def test_arrays_that_are_not_contiguous_come_back(tmp_path):
    path = str(tmp_path / "a.arrays")
    write_arrays(path, {"every second": np.arange(10)[::2], "backwards": np.arange(5)[::-1]})
    assert ArrayFile(path).read("every second").tolist() == [0, 2, 4, 6, 8]
    assert ArrayFile(path).read("backwards").tolist() == [4, 3, 2, 1, 0]


def test_a_footer_longer_than_the_first_read_is_found(tmp_path):
    path = str(tmp_path / "a.arrays")
    meta = {"paths": [f"some/long/path/of/a/file/{number}" for number in range(20_000)]}
    write_arrays(path, {"x": np.arange(3)}, meta)
    assert ArrayFile(path).meta == meta
    assert ArrayFile(path).read("x").tolist() == [0, 1, 2]


@pytest.mark.parametrize("n_bytes", [0, 1, 15, 16, 60, -1])
def test_a_file_that_is_cut_short_is_an_error_that_names_it(tmp_path, n_bytes):
    path = tmp_path / "a.arrays"
    write_arrays(str(path), {"x": np.arange(30)})
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(OSError, match=r"a\.arrays"):
        ArrayFile(str(path))


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    class Failing:
        dtype = np.dtype(np.uint8)

        def __len__(self):
            return 3

        def __array__(self, dtype=None, copy=None):
            raise MemoryError

    with pytest.raises(MemoryError):
        write_arrays(str(tmp_path / "a.arrays"), {"x": np.arange(3), "y": Failing()})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []
