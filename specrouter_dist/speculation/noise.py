"""The dice that every model rolls: standard Gumbel noise as a pure function of three integers.

``g(seed, position, id)`` decides draws: a model's token at an absolute position is
``argmax_v (log p(v) + g(seed, position, v))``, an exact draw from ``p``. Models that share the
seed make the same draw wherever their laws agree, so verifying is comparing ids (DESIGN:
section 2; shared-randomness coupling: arXiv 2408.07978, 2504.15475).

The generator is counter-based: 64 bits are the splitmix64 finaliser (Steele, Lea, Flood 2014) of
``row_key(seed, position) + id * GOLDEN``, so nothing depends on the order of draws. Their upper
52 bits give ``u = (bits + 1/2) / 2**52``, strictly between 0 and 1. ``g = -log(-log u)`` is
computed in float64 and rounded to float32, because float32 logarithms differ between libraries.

The values are frozen: texts are replayed by their seeds. The tests pin some of them.
"""

import numpy as np
import numpy.typing as npt

GOLDEN = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio, odd: the step between neighbouring ids."""
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
ONE_BITS = 0x3FF0000000000000
"""The bits of the float64 1.0: or-ed with 52 random bits, a float64 in [1, 2)."""
BELOW_ONE = 1.0 - 2.0**-53
"""Subtracted from it, exactly ``(bits + 1/2) / 2**52``."""
MASK64 = (1 << 64) - 1

_POSITION_STEP = 0xD1342543DE82EF95
_MAX_WORK_COLUMNS = 8192

Float32Array = npt.NDArray[np.float32]


def mix64(value: int) -> int:
    """The splitmix64 finaliser: a bijection of 64-bit integers."""
    value = ((value ^ (value >> 30)) * MIX_1) & MASK64
    value = ((value ^ (value >> 27)) * MIX_2) & MASK64
    return value ^ (value >> 31)


def row_key(seed: int, position: int) -> int:
    """The 64-bit key of one position's noise.

    Args:
        seed: of the request, in ``[0, 2**64)``.
        position: absolute (the prompt included), in ``[0, 2**63)``.
    """
    return mix64((mix64((seed + GOLDEN) & MASK64) + position * _POSITION_STEP) & MASK64)


def derive_seed(seed: int, choice: int, prompt: int) -> int:
    """The seed of choice ``choice`` of prompt ``prompt`` of a request; (0, 0) has the request's."""
    if choice == 0 and prompt == 0:
        return seed
    choice_key = mix64((mix64(seed ^ GOLDEN) + choice * MIX_1) & MASK64)
    return mix64((choice_key + prompt * MIX_2) & MASK64)


class GumbelRows:
    """Makes blocks of noise rows in preallocated buffers.

    Args:
        num_ids: vocabulary size; every row has one value for each id.
        num_rows: rows of a block.
    """

    def __init__(self, num_ids: int, num_rows: int) -> None:
        self._id_steps = np.arange(num_ids, dtype=np.uint64) * np.uint64(GOLDEN)
        columns = min(num_ids, _MAX_WORK_COLUMNS)
        self._bits = np.empty((num_rows, columns), dtype=np.uint64)
        self._other = np.empty((num_rows, columns), dtype=np.uint64)
        self._num_rows = num_rows

    def fill(self, out: Float32Array, seed: int, first_position: int) -> None:
        """Writes ``g(seed, first_position + row, id)`` to ``out[num_rows, num_ids]``."""
        keys = np.array(
            [[row_key(seed, first_position + row)] for row in range(self._num_rows)],
            dtype=np.uint64,
        )
        num_ids = self._id_steps.size
        for start in range(0, num_ids, _MAX_WORK_COLUMNS):
            stop = min(start + _MAX_WORK_COLUMNS, num_ids)
            self._fill_columns(out[:, start:stop], keys, self._id_steps[start:stop])

    def _fill_columns(
        self, out: Float32Array, keys: npt.NDArray[np.uint64], id_steps: npt.NDArray[np.uint64]
    ) -> None:
        bits = self._bits[:, : id_steps.size]
        other = self._other[:, : id_steps.size]
        np.add(keys, id_steps, out=bits)
        for shift, factor in ((30, MIX_1), (27, MIX_2)):
            np.right_shift(bits, np.uint64(shift), out=other)
            np.bitwise_xor(bits, other, out=bits)
            np.multiply(bits, np.uint64(factor), out=bits)
        np.right_shift(bits, np.uint64(31), out=other)
        np.bitwise_xor(bits, other, out=bits)
        gumbel_from_bits(bits, out)


def gumbel_from_bits(bits: npt.NDArray[np.uint64], out: Float32Array) -> None:
    """Writes the Gumbel variates of 64-bit integers to ``out``; ``bits`` is overwritten."""
    np.right_shift(bits, np.uint64(12), out=bits)
    np.bitwise_or(bits, np.uint64(ONE_BITS), out=bits)
    uniform = bits.view(np.float64)
    np.subtract(uniform, BELOW_ONE, out=uniform)
    np.log(uniform, out=uniform)
    np.negative(uniform, out=uniform)
    np.log(uniform, out=uniform)
    np.copyto(out, uniform, casting="same_kind")
    np.negative(out, out=out)


def gumbel_row(seed: int, position: int, num_ids: int) -> Float32Array:
    """The noise of one position: float32 ``[num_ids]``."""
    out = np.empty((1, num_ids), dtype=np.float32)
    GumbelRows(num_ids, 1).fill(out, seed, position)
    return out.reshape(num_ids)
