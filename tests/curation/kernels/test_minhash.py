"""Signatures equal datasketch's, bit for bit, and band hashes keep bands apart."""

import numpy as np
import pytest
import xxhash
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.kernels.hashing import sha1_spans, xxh32
from curation.kernels.minhash import band_hashes, permutations, sign, signatures
from curation.kernels.text import clean_text

SCRIPTS = [
    "The quick brown fox jumps over the lazy dog. It did so twice; nobody minded!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Потом — отдыхай.",
    "我们在河边走了很久，天色渐渐暗了下来。孩子们还在唱歌，没有人想回家。",
    "Η ΟΔΟΣ ΗΤΑΝ ΑΔΕΙΑ ΚΑΙ Ο ΗΛΙΟΣ ΕΔΥΕ πίσω από τα βουνά.",
    "İstanbul'da IŞIK söndü; DİYARBAKIR'da kar yağıyordu.",
    "नदी के किनारे बच्चे खेल रहे थे और सूरज ढल रहा था।",
    "e\u0301 a\u0308 o\u0302 combining marks, c\u0327 and n\u0303 stay apart from é ä ô ç ñ",
    "𝒜𝓁𝓅𝒽𝒶 😀😀 astral 𐐀𐐁 planes 🏳️‍🌈 and flags, thirteen and more of them",
]
EDGES = [
    "",
    "   ",
    "!!!...???",
    "short",
    "exactly 13 ch",
    "twelve chars",
    "a" * 1500,
    "\u3000",
    "Σ",
    "中" * 13,
    "😀" * 14,
]


def datasketch_signature(text, ngram, n, seed, scheme, unit):
    cleaned = clean_text(text)
    units = list(cleaned) if unit == "character" else cleaned.split(" ") if cleaned else []
    joiner = "" if unit == "character" else " "
    hashing = {"hashfunc": xxhash.xxh32_intdigest} if scheme == "affine32" else {}
    sketch = MinHash(num_perm=n, seed=seed, scheme=scheme, **hashing)
    grams = [joiner.join(units[i : i + ngram]).encode() for i in range(len(units) - ngram + 1)]
    if grams:
        sketch.update_batch(grams)
    return sketch.hashvalues.astype(np.uint32), len(grams)


def assert_equal_to_datasketch(texts, ngram=13, n=128, seed=1, scheme="affine32", unit="character"):
    ours = signatures(texts, ngram, n, seed, scheme, unit)
    assert ours.dtype == np.uint32 and ours.shape == (len(texts), n)
    for row, text in zip(ours, texts, strict=True):
        expected, _ = datasketch_signature(text, ngram, n, seed, scheme, unit)
        np.testing.assert_array_equal(row, expected, err_msg=repr(text))


@pytest.mark.parametrize("scheme", ["affine32", "legacy"])
@pytest.mark.parametrize("unit", ["character", "word"])
@pytest.mark.parametrize(
    ("ngram", "n", "seed"), [(13, 128, 1), (5, 117, 7), (1, 16, 1), (16, 130, 3), (24, 1, 2), (64, 64, 1)]
)
def test_signatures_equal_datasketch_in_many_scripts(scheme, unit, ngram, n, seed):
    texts = [*SCRIPTS, *EDGES, " ".join(SCRIPTS), "ascii only " * 150 + "é", SCRIPTS[0] * 20, SCRIPTS[1] * 20]
    assert_equal_to_datasketch(texts, ngram, n, seed, scheme, unit)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), max_size=4),
    st.integers(1, 20),
    st.sampled_from(["affine32", "legacy"]),
    st.sampled_from(["character", "word"]),
)
def test_signatures_equal_datasketch_on_random_unicode(texts, ngram, scheme, unit):
    assert_equal_to_datasketch(texts, ngram, 32, 1, scheme, unit)


@pytest.mark.parametrize("n_characters", [1023, 1024, 1025, 1036, 1037, 2048, 2060, 3000])
@pytest.mark.parametrize("letter", ["a", "ж", "中"])
def test_signatures_do_not_depend_on_where_blocks_of_grams_end(n_characters, letter):
    generator = np.random.default_rng(n_characters)
    text = "".join(chr(ord(letter) + int(k)) for k in generator.integers(0, 20, n_characters))
    for scheme in ("affine32", "legacy"):
        assert_equal_to_datasketch([text], scheme=scheme, n=20)


def test_golden_values_of_the_legacy_scheme():
    drawn = permutations(128, 1, "legacy", used=128)
    assert drawn.multipliers[:3].tolist() == [775169054918279404, 2109959069025162, 401325382989534145]
    assert drawn.offsets[:3].tolist() == [1758426461858698312, 965365488286768773, 1703346441743126657]
    assert (int(drawn.multipliers[127]), int(drawn.offsets[127])) == (1931671111240692334, 1454448473341514576)
    signature = signatures(["The quick brown fox jumps over the lazy dog."], scheme="legacy")[0]
    assert signature[:6].tolist() == [16577316, 19445529, 41971003, 321773557, 136641319, 152728674]
    assert signature[116] == 266599705


@pytest.mark.parametrize("scheme", ["affine32", "legacy"])
def test_used_permutations_are_the_first_of_all_drawn(scheme):
    everything = signatures(SCRIPTS, scheme=scheme)
    drawn = permutations(128, 1, scheme, used=117)
    assert len(drawn) == 117
    cleaned = [clean_text(text).encode() for text in SCRIPTS]
    offsets = np.cumsum([0, *map(len, cleaned)], dtype=np.int64)
    some, n_grams = sign(
        np.frombuffer(b"".join(cleaned), np.uint8), offsets, unit="character", ngram=13, permutations=drawn
    )
    np.testing.assert_array_equal(some, everything[:, :117])
    assert n_grams.tolist() == [len(clean_text(text)) - 12 for text in SCRIPTS]


def test_a_text_without_an_ngram_has_the_maximum_in_every_slot_and_no_ngrams():
    drawn = permutations(20, 1, "affine32", used=20)
    for unit in ("character", "word"):
        signed, n_grams = sign(
            np.frombuffer(b"abc", np.uint8), np.array([0, 0, 3]), unit=unit, ngram=4, permutations=drawn
        )
        assert (signed == 2**32 - 1).all() and n_grams.tolist() == [0, 0]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_hashes_equal_xxhash_and_sha1_for_every_length(message):
    import hashlib

    data = np.frombuffer(message, np.uint8)
    data.flags.writeable = False
    assert int(xxh32(data, 0, len(data))) == xxhash.xxh32_intdigest(message)
    hashes = np.zeros(1, np.uint32)
    state, words, active = np.zeros(80, np.uint32), np.zeros(256, np.uint32), np.zeros(16, np.uint32)
    sha1_spans(data, np.array([0]), np.array([len(data)], np.uint32), 1, state, words, active, hashes)
    assert int(hashes[0]) == int.from_bytes(hashlib.sha1(message).digest()[:4], "little")


def test_golden_values_of_sha1():
    from hashlib import sha1

    assert int.from_bytes(sha1(b"the quick bro").digest()[:4], "little") == 2296527230


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: signatures(["x"], scheme="sha"), "'sha' is none of affine32, legacy"),
        (lambda: signatures(["x"], unit="token"), "'token' is none of character, word"),
        (lambda: signatures(["x"], ngram=0), "at least 1 unit, not 0"),
        (lambda: permutations(128, 1, "legacy", used=129), "129 of 128 permutations"),
        (lambda: band_hashes(np.zeros((1, 10), np.uint32), 3, 4), "3 bands of 4 rows need 12 slots"),
        (lambda: signatures(["\ud800"]), "surrogates not allowed"),
    ],
)
def test_mistakes_are_value_errors_that_show_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_band_hashes_are_equal_exactly_where_rows_are_equal_and_bands_are_the_same():
    generator = np.random.default_rng(5)
    rows = generator.integers(0, 2**32, (400, 117), dtype=np.uint32)
    rows[200:300] = rows[:100]
    rows[200:300, 13:26] ^= 1
    keys = band_hashes(rows, 9, 13)
    assert keys.shape == (400, 9) and keys.dtype == np.uint64
    np.testing.assert_array_equal(keys[200:300, [0, 2, 8]], keys[:100, [0, 2, 8]])
    assert (keys[200:300, 1] != keys[:100, 1]).all()
    assert len(np.unique(keys)) == 400 * 9 - 100 * 8


def test_equal_rows_in_different_bands_never_share_a_hash():
    keys = band_hashes(np.zeros((3, 64), np.uint32), 16, 4)
    assert len(np.unique(keys)) == 16


def test_band_hashes_fill_all_64_bits_evenly():
    rows = np.arange(20_000, dtype=np.uint32).repeat(2).reshape(-1, 2)
    bits = (band_hashes(rows, 1, 2)[:, 0][:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert (np.abs(bits.mean(axis=0) - 0.5) < 0.02).all()
