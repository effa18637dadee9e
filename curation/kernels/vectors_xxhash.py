"""xxHash's 32-bit hash of 16 byte slices at once (see `vectors`), of any lengths that differ.

Slices of non-ASCII text differ in length, and a loop over one slice at a time mispredicts its branches again and
again. Here each lane takes what it needs by selection. 16 bytes of each slice are loaded and transposed into four
vectors of words.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from curation.kernels.vectors import LANES, VECTOR, WORD, constant, intrinsic, pointer, rotated_left

# xxHash specification, section "XXH32 algorithm description".
PRIME_1, PRIME_2, PRIME_3, PRIME_4, PRIME_5 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1
START = (0x24234428, PRIME_2, 0, 0x61C8864F)  # PRIME_1 + PRIME_2, PRIME_2, 0, -PRIME_1: the accumulators for seed 0
_LONG = ir.IntType(64)


def _four_words(builder: Any, addresses: list[Any]) -> list[Any]:
    """Word j of each of 16 addresses, as vector j of four."""
    rows = [builder.load(address, align=1) for address in addresses]

    def joined(left: Any, right: Any, width: int, chosen: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(WORD, width), chosen)
        return builder.shuffle_vector(left, right, mask)

    def sixteen(four: list[Any]) -> Any:
        low, high = (joined(four[i], four[i + 1], 8, list(range(8))) for i in (0, 2))
        return joined(low, high, 16, list(range(16)))

    groups = [sixteen(rows[i : i + 4]) for i in range(0, LANES, 4)]
    # Words 0 and 1 (then 2 and 3) of eight slices, then each word of sixteen.
    pick = [[j + 4 * i for j in (first, first + 1) for i in range(8)] for first in (0, 2)]
    words = []
    for chosen in pick:
        left, right = joined(groups[0], groups[1], 16, chosen), joined(groups[2], groups[3], 16, chosen)
        words.append(joined(left, right, 16, [*range(8), *range(16, 24)]))
        words.append(joined(left, right, 16, [*range(8, 16), *range(24, 32)]))
    return words


def _lane_addresses(
    context: Any, builder: Any, signature: Any, arguments: Any, offset_of: Any
) -> tuple[list[Any], Any]:
    """(address of start + offset_of(length) for each lane's slice, the lengths as a vector).

    The arguments begin with data, starts, lengths and the index of the first slice.
    """
    types_of = signature.args
    lengths = builder.load(pointer(context, builder, types_of[2], arguments[2], arguments[3], VECTOR), align=4)
    addresses = []
    for lane in range(LANES):
        at = builder.add(arguments[3], ir.Constant(arguments[3].type, lane))
        start = builder.load(pointer(context, builder, types_of[1], arguments[1], at, _LONG))
        length = builder.load(pointer(context, builder, types_of[2], arguments[2], at, WORD))
        position = builder.add(start, builder.zext(offset_of(length), _LONG))
        addresses.append(pointer(context, builder, types_of[0], arguments[0], position, ir.VectorType(WORD, 4)))
    return addresses, lengths


def _state_address(context: Any, builder: Any, array_type: Any, array: Any, row: int) -> Any:
    return pointer(context, builder, array_type, array, ir.Constant(cgutils.intp_t, row * LANES), VECTOR)


@intrinsic
def xxh32_stripe(typing_context, data, starts, lengths, first, stripe, state):  # type: ignore[no-untyped-def]
    """Take bytes 16 * stripe to 16 * stripe + 16 of slices first to first + 15, where they are whole, into the state.

    data uint8, starts int64, lengths and stripe uint32, state uint32[4 * 16]. It reads up to 16 bytes past a slice.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        stripe_number = arguments[4]

        def offset_of(length: Any) -> Any:
            has = builder.icmp_unsigned("<", stripe_number, builder.lshr(length, ir.Constant(WORD, 4)))
            return builder.select(has, builder.shl(stripe_number, ir.Constant(WORD, 4)), ir.Constant(WORD, 0))

        addresses, lengths_vector = _lane_addresses(context, builder, signature, arguments, offset_of)
        first_lane = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), stripe_number, ir.Constant(WORD, 0))
        numbers = builder.shuffle_vector(
            first_lane, ir.Constant(VECTOR, ir.Undefined), ir.Constant(VECTOR, [0] * LANES)
        )
        has = builder.icmp_unsigned("<", numbers, builder.lshr(lengths_vector, constant(4)))
        for row, word in enumerate(_four_words(builder, addresses)):
            address = _state_address(context, builder, signature.args[5], arguments[5], row)
            before = builder.load(address, align=4)
            added = builder.add(before, builder.mul(word, constant(PRIME_2)))
            after = builder.mul(rotated_left(builder, added, 13), constant(PRIME_1))
            builder.store(builder.select(has, after, before), address, align=4)
        return context.get_dummy_value()

    return types.void(data, starts, lengths, types.int64, types.uint32, state), generate


def _with_rest(builder: Any, value: Any, words: list[Any], lengths: Any) -> Any:
    """The words and bytes after the last whole stripe."""
    rest = builder.and_(lengths, constant(15))
    last = words[3]
    for i in (2, 1, 0):  # the word in which the single bytes are
        last = builder.select(builder.icmp_unsigned("<", rest, constant(4 * i + 4)), words[i], last)
    for i in range(3):
        added = builder.add(value, builder.mul(words[i], constant(PRIME_3)))
        taken = builder.mul(rotated_left(builder, added, 17), constant(PRIME_4))
        value = builder.select(builder.icmp_unsigned(">=", rest, constant(4 * i + 4)), taken, value)
    single = builder.and_(lengths, constant(3))
    for i in range(3):
        byte = builder.and_(builder.lshr(last, constant(8 * i)), constant(255))
        added = builder.add(value, builder.mul(byte, constant(PRIME_5)))
        taken = builder.mul(rotated_left(builder, added, 11), constant(PRIME_1))
        value = builder.select(builder.icmp_unsigned(">", single, constant(i)), taken, value)
    return value


def _mixed(builder: Any, value: Any, shifts: tuple[int, ...], primes: tuple[int, ...]) -> Any:
    for shift, prime in zip(shifts, primes, strict=False):
        value = builder.mul(builder.xor(value, builder.lshr(value, constant(shift))), constant(prime))
    return builder.xor(value, builder.lshr(value, constant(shifts[-1])))


@intrinsic
def xxh32_finish(typing_context, data, starts, lengths, first, state, hashes):  # type: ignore[no-untyped-def]
    """hashes[first : first + 16] from the state after all stripes, MurmurHash3's finaliser included."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        def offset_of(length: Any) -> Any:
            return builder.and_(length, ir.Constant(WORD, 0xFFFFFFF0))

        addresses, lengths_vector = _lane_addresses(context, builder, signature, arguments, offset_of)
        joined = constant(0)
        for row, bits in enumerate((1, 7, 12, 18)):
            address = _state_address(context, builder, signature.args[4], arguments[4], row)
            joined = builder.add(joined, rotated_left(builder, builder.load(address, align=4), bits))
        is_long = builder.icmp_unsigned(">=", lengths_vector, constant(16))
        value = builder.add(builder.select(is_long, joined, constant(PRIME_5)), lengths_vector)
        value = _with_rest(builder, value, _four_words(builder, addresses), lengths_vector)
        value = _mixed(builder, value, (15, 13, 16), (PRIME_2, PRIME_3))
        value = _mixed(builder, value, (16, 13, 16), (0x85EBCA6B, 0xC2B2AE35))
        builder.store(value, pointer(context, builder, signature.args[5], arguments[5], arguments[3], VECTOR), align=4)
        return context.get_dummy_value()

    return types.void(data, starts, lengths, types.int64, state, hashes), generate
