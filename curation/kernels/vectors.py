"""What Numba's Python cannot say: unaligned loads, and arithmetic on 16 lanes of 32 bits at a time.

The operations are plain LLVM vector instructions, which LLVM maps to whatever the processor has (one 512-bit
register, or four of 128 bits). Numba's own vectoriser stays at 256 bits on processors that have 512, which costs the
permutation loop a third. All supported processors are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

intrinsic: Any = numba_intrinsic  # its own type knows the arguments of the generator, not those of the call
LANES = 16
WORD = ir.IntType(32)
VECTOR = ir.VectorType(WORD, LANES)


def pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, target: Any) -> Any:
    """The address of element `index` of a one-dimensional array, as a pointer to `target`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), target.as_pointer())


def _splat(builder: Any, word: Any) -> Any:
    """A vector of 16 equal words."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, word, ir.Constant(WORD, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(VECTOR, [0] * LANES))


def constant(value: int) -> ir.Constant:
    return ir.Constant(VECTOR, [value] * LANES)


def rotated_left(builder: Any, vector: Any, bits: int) -> Any:
    return builder.or_(builder.shl(vector, constant(bits)), builder.lshr(vector, constant(32 - bits)))


def _loader(n_bits: int, result: Any) -> Any:
    @intrinsic
    def load(typing_context, data, index):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            address = pointer(context, builder, signature.args[0], arguments[0], arguments[1], ir.IntType(n_bits))
            return builder.load(address, align=1)

        return result(data, types.int64), generate

    return load


load_32 = _loader(32, types.uint32)  # load_32(bytes, index): four bytes from any index, little-endian
load_64 = _loader(64, types.uint64)


def _minimum_of(n_hashes: int) -> Any:
    @intrinsic
    def minimum(typing_context, best, multipliers, offsets, lane, hashes, index):  # type: ignore[no-untyped-def]
        """best[p] = min(best[p], multipliers[p] * hashes[index + i] + offsets[p]), lane <= p < lane + 16, i < n."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            def address(argument: int, at: Any, target: Any) -> Any:
                return pointer(context, builder, signature.args[argument], arguments[argument], at, target)

            lane_at = arguments[3]
            value, multiplier, offset = (builder.load(address(i, lane_at, VECTOR), align=4) for i in range(3))
            for i in range(n_hashes):
                at = builder.add(arguments[5], ir.Constant(arguments[5].type, i))
                hash_value = _splat(builder, builder.load(address(4, at, WORD)))
                permuted = builder.add(builder.mul(hash_value, multiplier), offset)
                value = builder.select(builder.icmp_unsigned("<", permuted, value), permuted, value)
            builder.store(value, address(0, lane_at, VECTOR), align=4)
            return context.get_dummy_value()

        return types.void(best, multipliers, offsets, types.int64, hashes, types.int64), generate

    return minimum


minimum_of_1 = _minimum_of(1)
minimum_of_8 = _minimum_of(8)


# FIPS 180-4, section 4.2.1: one constant for each 20 rounds.
_SHA1_CONSTANTS = (0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6)


def _choose(builder: Any, x: Any, y: Any, z: Any) -> Any:
    return builder.xor(z, builder.and_(x, builder.xor(y, z)))


def _parity(builder: Any, x: Any, y: Any, z: Any) -> Any:
    return builder.xor(x, builder.xor(y, z))


def _majority(builder: Any, x: Any, y: Any, z: Any) -> Any:
    return builder.or_(builder.and_(x, y), builder.and_(z, builder.or_(x, y)))


_SHA1_FUNCTIONS: tuple[Callable[..., Any], ...] = (_choose, _parity, _majority, _parity)


def _sha1_rounds(builder: Any, state: list[Any], schedule: list[Any]) -> list[Any]:
    """FIPS 180-4, section 6.1.2, on 16 messages at once: what one block adds to the state."""
    a, b, c, d, e = state
    schedule = list(schedule)
    for t in range(80):
        if t >= 16:
            mixed = builder.xor(
                builder.xor(schedule[t - 3], schedule[t - 8]), builder.xor(schedule[t - 14], schedule[t - 16])
            )
            schedule.append(rotated_left(builder, mixed, 1))
        chosen = _SHA1_FUNCTIONS[t // 20](builder, b, c, d)
        known = builder.add(builder.add(e, constant(_SHA1_CONSTANTS[t // 20])), schedule[t])
        total = builder.add(rotated_left(builder, a, 5), builder.add(chosen, known))
        a, b, c, d, e = total, a, rotated_left(builder, b, 30), c, d
    return [a, b, c, d, e]


@intrinsic
def sha1_block(typing_context, state, words, active):  # type: ignore[no-untyped-def]
    """One block of SHA-1 on 16 messages.

    state uint32[5 * 16], words uint32[16 * 16] (word t of message l at 16 * t + l, byte-swapped), active uint32[16]:
    all ones where the message has this block, 0 where it has ended and its state must stay.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        def address(argument: int, row: int) -> Any:
            at = ir.Constant(cgutils.intp_t, row * LANES)
            return pointer(context, builder, signature.args[argument], arguments[argument], at, VECTOR)

        before = [builder.load(address(0, row), align=4) for row in range(5)]
        schedule = [builder.load(address(1, row), align=4) for row in range(16)]
        mask = builder.load(address(2, 0), align=4)
        for row, (old, new) in enumerate(zip(before, _sha1_rounds(builder, before, schedule), strict=True)):
            builder.store(builder.add(old, builder.and_(new, mask)), address(0, row), align=4)
        return context.get_dummy_value()

    return types.void(state, words, active), generate
