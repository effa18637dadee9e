"""Where compiled kernels are kept, and that one call compiles them all."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numba
import numpy as np
import pytest

import curation.kernels
from curation.kernels import components, hashing, minhash, sorting, text, units, verification
from curation.kernels.components import Components, star_edges, star_edges_128
from curation.kernels.minhash import band_hashes, permutations, sign
from curation.kernels.text import clean
from curation.kernels.verification import greedy_cover, ngram_set

MODULES = [components, hashing, minhash, sorting, text, units, verification]


def python(code, **environment):
    inherited = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    result = subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def compiled_signatures():
    dispatchers = [
        value for module in MODULES for value in vars(module).values() if hasattr(value, "nopython_signatures")
    ]
    return {dispatcher.__name__: len(dispatcher.signatures) for dispatcher in dispatchers}


def test_compile_all_leaves_nothing_to_compile_whatever_arrays_come():
    curation.kernels.compile_all()
    assert curation.kernels.is_compiled()
    before = compiled_signatures()
    raw = "Some text, with a Σ, İ and words; слова, 中文字 and more of them.".encode()
    for data in (np.frombuffer(raw, np.uint8), np.frombuffer(raw * 30, np.uint8).copy()[: len(raw)]):
        cleaned, offsets, _ = clean(data, np.array([0, len(raw)], np.int64))
        for scheme in ("affine32", "legacy"):
            for unit in ("character", "word"):
                signatures, _ = sign(cleaned, offsets, unit=unit, ngram=5, permutations=permutations(32, 1, scheme, 30))
        keys = band_hashes(signatures, 5, 6)
        sets, set_offsets = ngram_set(cleaned, offsets, "word", 2)
        sets.flags.writeable = False
        greedy_cover(np.zeros(1, np.int64), keys, sets, set_offsets, 0.8, 5)
    records = np.zeros(3, np.uint64)
    records.flags.writeable = False
    low, high = star_edges(records, np.arange(3, dtype=np.uint32))
    star_edges_128(records, records, np.arange(3, dtype=np.uint64)[::-1])
    joined = Components()
    joined.add(low, high)
    joined.result()
    assert compiled_signatures() == before


def test_importing_the_core_does_not_import_numba():
    code = "import sys, curation, curation.kernels; print('numba' in sys.modules)"
    assert python(code) == "False"


def test_a_users_own_cache_setting_is_left_alone(tmp_path):
    code = "import numba, curation.kernels.text; print(numba.config.CACHE_DIR, curation.kernels.cache_directory())"
    setting, directory = python(code, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert setting == str(tmp_path) and directory.startswith(str(tmp_path / "moxin-curation" / "kernels-"))


def test_without_a_writable_home_kernels_are_kept_in_a_private_temporary_directory(tmp_path):
    code = (
        "import numpy, curation.kernels as k; from curation.kernels.minhash import band_hashes;"
        "band_hashes(numpy.zeros((1, 2), 'uint32'), 1, 2); print(k.cache_directory())"
    )
    directory = Path(python(code, HOME="/dev/null/nowhere", TMPDIR=str(tmp_path)))
    assert directory.parent.parent == tmp_path and directory.parent.stat().st_mode & 0o077 == 0
    assert list(directory.rglob("*.nbi"))


def test_kernels_run_when_nothing_can_be_kept_on_disk():
    code = (
        "import tempfile, numpy; tempfile.tempdir = '/dev/null/nowhere'; import curation.kernels as k;"
        "from curation.kernels.units import is_ascii;"
        "print(k.cache_directory(), is_ascii(numpy.zeros(1, 'uint8'), 0, 1))"
    )
    assert python(code, HOME="/dev/null/nowhere") == "None True"


def test_a_directory_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    assert curation.kernels._private_directory(str(tmp_path / "base"), "kernels") is None


def test_a_new_directory_deletes_those_that_were_not_used_for_a_month(tmp_path):
    for name, days in (("kernels-old", 31), ("kernels-recent", 29), ("something-else", 31)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        os.utime(tmp_path / name, (time.time() - days * 86400,) * 2)
    for name in ("kernels-recent", "kernels-new"):
        assert curation.kernels._private_directory(str(tmp_path), name) == str(tmp_path / name)
        is_there = sorted(path.name for path in tmp_path.iterdir())
        expected = ["kernels-old"] if name == "kernels-recent" else ["kernels-new"]
        assert is_there == sorted([*expected, "kernels-recent", "something-else"])
    assert time.time() - (tmp_path / "kernels-recent").stat().st_mtime < 86400


@pytest.mark.parametrize("changed", ["hashing.py", "vectors.py", "__init__.py"])
def test_a_change_in_any_kernel_file_starts_a_new_directory(tmp_path, changed):
    copy = tmp_path / "curation"
    shutil.copytree(
        Path(curation.kernels.__file__).parent, copy / "kernels", ignore=shutil.ignore_patterns("__pycache__")
    )
    (copy / "__init__.py").touch()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        "import curation.kernels as k; print(k.__file__, k.cache_directory())"
    )
    before = python(code)
    assert before.startswith(str(tmp_path)) and python(code) == before
    with open(copy / "kernels" / changed, "a") as file:
        file.write("# changed\n")
    assert python(code) != before


def test_numba_reads_the_cache_of_an_earlier_process(tmp_path):
    code = (
        "from curation.kernels.units import is_ascii; import numpy; is_ascii(numpy.zeros(1, 'uint8'), 0, 1);"
        "print(sum(is_ascii.stats.cache_hits.values()))"
    )
    assert [python(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)] == ["0", "1"]
    assert str(tmp_path) != numba.config.CACHE_DIR
