"""Tiles of packed projections in Triton: rows of one head, the bias of their scores, and the softmax.

A tile is (rows, width), or (pixels, rows, width) where one program packs several small sequences: `tl.dot` then
multiplies pixel by pixel. The functions here take both. Scores are in units of log2 e throughout, so that the softmax
is a power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# The interpreter multiplies the bits of bfloat16 as integers, and truncates to it.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def transposed(x):
    """The last two axes exchanged."""
    if len(x.shape) == 3:
        return tl.permute(x, 0, 2, 1)
    else:
        return tl.permute(x, 1, 0)


@triton.jit
def load_rows(ptr, token, inside, stride, width, WIDTH: tl.constexpr):
    """For every int64 `token` the `width` numbers at ptr + token * stride, as a last axis; zeros outside."""
    lanes = tl.arange(0, WIDTH)
    mask = tl.expand_dims(inside, -1) & (lanes < width)
    return tl.load(ptr + tl.expand_dims(token * stride, -1) + lanes, mask=mask, other=0.0)


@triton.jit
def store_rows(ptr, x, token, inside, stride, width, WIDTH: tl.constexpr):
    """The inverse of `load_rows`, rounded to the dtype of `ptr`."""
    lanes = tl.arange(0, WIDTH)
    mask = tl.expand_dims(inside, -1) & (lanes < width)
    tl.store(ptr + tl.expand_dims(token * stride, -1) + lanes, x.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def additive_tile(bias_ptr, segment_ids_ptr, places, sample, i, j, length):
    """What is added to the scores of queries i and keys j: the bias, and -inf between segments and past the length.

    Queries past the length get finite scores, so that nothing that is multiplied by their zeros is NaN.

    Args:
        places: of the bias of i and j; inside the bias also where i or j is past the length.
        sample: whose segment ids count.
        i, j: (rows, 1) and (1, columns), or the other way round.
    """
    allowed = j < length
    bias = 0.0
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + places).to(tl.float32) * LOG2E
    if segment_ids_ptr is not None:
        ids = segment_ids_ptr + sample * length
        query_ids = tl.load(ids + i, mask=i < length, other=0)
        key_ids = tl.load(ids + j, mask=j < length, other=0)
        allowed = allowed & ((query_ids == key_ids) | (i >= length))
    return tl.where(allowed, bias, float("-inf"))


@triton.jit
def product(a, b, PRECISION: tl.constexpr, TRANSPOSED: tl.constexpr = False):
    """a b, or a^T b, in float32, of `a` rounded to the dtype of b, which came from memory."""
    if INTERPRETED:
        b = b.to(tl.float32)
    a = a.to(b.dtype)
    return tl.dot(transposed(a) if TRANSPOSED else a, b, input_precision=PRECISION)


@triton.jit
def scores(q, k, additive, scale, PRECISION: tl.constexpr):
    """q k^T scale + additive; `scale` is log2(e) / sqrt(d)."""
    return product(q, transposed(k), PRECISION) * scale + additive
