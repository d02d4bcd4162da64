"""`abs_quantile` on Triton: exact selection of an order statistic, digit by digit (radix select).

The bit patterns of |x| are ordered as the numbers are, so that the k-th smallest is found from histograms: each
pass counts the next 8-bit digit of the elements whose higher digits are those already chosen, 4 passes for float32
and 2 for 16-bit types. Integer counts make it exact and deterministic at any size. The (k + 1)-th smallest is either
equal, or the next non-empty bin of the last pass, or the smallest element above the prefix, which the last pass
tracks. Traffic: one read of x per pass. Every pass derives the digits from the earlier histograms: nothing goes to the
host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vdm_kernels.ops.abs_quantile.launch import BINS, BLOCK, NUM_WARPS, quantile_launch
from vdm_kernels.ops.abs_quantile.reference import quantile_rank
from vdm_kernels.ops.step.launch import sm_count
from vdm_kernels.ops.step.triton_block import on_device, unsupported_dtype

# A sample's row of the workspace (int64): PASSES histograms, the largest complement of an element above the prefix
# (so that zero means none), and whether there is a NaN.
_BINS = tl.constexpr(BINS)
_EXTRA = 2
_MAX_BITS = tl.constexpr(0x7FFFFFFF)


@triton.jit
def load_bits(x_ptr, start, limit, BLOCK: tl.constexpr, PASSES: tl.constexpr):
    """The bit patterns of |x| as int32, and the mask of a block."""
    lanes = tl.arange(0, BLOCK)
    mask = lanes < limit
    bits = tl.load(x_ptr + start + lanes, mask=mask, other=0)
    if PASSES == 4:
        return bits & 0x7FFFFFFF, mask
    else:
        return bits.to(tl.int32) & 0x7FFF, mask


@triton.jit
def select_digit(counts, rank):
    """(digit, rank within its bin, count of its bin) of the element of 0-based `rank` among `counts`."""
    bins = tl.arange(0, _BINS)
    digit = tl.sum((tl.cumsum(counts, 0) <= rank).to(tl.int32), 0)
    below = tl.sum(tl.where(bins < digit, counts, 0), 0)
    return digit, rank - below, tl.sum(tl.where(bins == digit, counts, 0), 0)


@triton.jit
def bits_to_float(bits, IS_BFLOAT16: tl.constexpr, PASSES: tl.constexpr):
    if PASSES == 4:
        return bits.to(tl.float32, bitcast=True)
    elif IS_BFLOAT16:
        return bits.to(tl.int16).to(tl.bfloat16, bitcast=True).to(tl.float32)
    else:
        return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def interpolate(prefix, counts, rank, count, above, weight, IS_BFLOAT16: tl.constexpr, PASSES: tl.constexpr):
    """lower + weight (upper - lower), from the lower's bits, the last histogram and the least bits above its prefix."""
    bins = tl.arange(0, _BINS)
    following = tl.min(tl.where((counts > 0) & (bins > (prefix & 0xFF)), bins, _BINS), 0)
    upper = tl.where(following < _BINS, (prefix & ~0xFF) | following, above)
    upper = tl.where(rank + 1 < count, prefix, upper)
    # Two equal infinities, or no upper element where the weight is 0, must not make a NaN.
    flat = (weight == 0.0) | (upper == prefix)
    low = bits_to_float(prefix, IS_BFLOAT16, PASSES)
    high = bits_to_float(upper, IS_BFLOAT16, PASSES)
    return low + weight * (tl.where(flat, 0.0, high) - tl.where(flat, 0.0, low))


@triton.jit
def digit_histogram(
    x_ptr,
    base,
    n,
    first,
    step,
    blocks,
    prefix,
    INFINITY: tl.constexpr,
    PASS: tl.constexpr,
    PASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Counts digit PASS of the elements under `prefix` in blocks first, first + step, ...

    Also gives the largest complement of an element above the prefix (last pass; 0: none), or whether there is a NaN
    (first pass).
    """
    shift: tl.constexpr = 8 * (PASSES - 1 - PASS)
    counts = tl.zeros((_BINS,), tl.int32)
    above = tl.zeros((BLOCK,), tl.int32)
    for block in range(first, blocks, step):
        start = tl.cast(block, tl.int64) * BLOCK
        bits, mask = load_bits(x_ptr, base + start, n - start, BLOCK, PASSES)
        if PASS == 0:
            above = tl.maximum(above, (bits > INFINITY).to(tl.int32))
            counts += tl.histogram(bits >> shift, _BINS, mask=mask)
        else:
            higher = bits >> (shift + 8)
            counts += tl.histogram((bits >> shift) & 0xFF, _BINS, mask=mask & (higher == prefix))
            if PASS == PASSES - 1:
                above = tl.maximum(above, tl.where(mask & (higher > prefix), _MAX_BITS - bits, 0))
    return counts, tl.max(above, 0)


@triton.jit
def histogram_kernel(
    x_ptr,
    workspace_ptr,
    n,
    blocks,
    splits,
    index,
    INFINITY: tl.constexpr,
    PASS: tl.constexpr,
    PASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds digit PASS's histogram of one split of a sample to the workspace."""
    sample = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    row = workspace_ptr + sample * (PASSES * _BINS + 2)
    bins = tl.arange(0, _BINS)
    prefix = tl.full((), 0, tl.int32)
    rank = tl.cast(index, tl.int64)
    for earlier in tl.static_range(PASS):
        digit, rank, _ = select_digit(tl.load(row + earlier * _BINS + bins), rank)
        prefix = prefix << 8 | digit
    counts, extra = digit_histogram(
        x_ptr, sample * n, n, split, splits, blocks, prefix, INFINITY, PASS, PASSES, BLOCK
    )
    tl.atomic_add(row + PASS * _BINS + bins, counts.to(tl.int64), mask=counts > 0, sem="relaxed")
    if PASS == 0:
        tl.atomic_max(row + PASSES * _BINS + 1, extra.to(tl.int64), sem="relaxed")
    if PASS == PASSES - 1:
        tl.atomic_max(row + PASSES * _BINS, extra.to(tl.int64), sem="relaxed")


@triton.jit
def finish_kernel(workspace_ptr, out_ptr, index, weight, IS_BFLOAT16: tl.constexpr, PASSES: tl.constexpr):
    """The quantile of one sample from its complete row of the workspace."""
    sample = tl.program_id(0).to(tl.int64)
    row = workspace_ptr + sample * (PASSES * _BINS + 2)
    bins = tl.arange(0, _BINS)
    prefix = tl.full((), 0, tl.int32)
    rank = tl.cast(index, tl.int64)
    counts = tl.zeros((_BINS,), tl.int64)
    count = rank
    for p in tl.static_range(PASSES):
        counts = tl.load(row + p * _BINS + bins)
        digit, rank, count = select_digit(counts, rank)
        prefix = prefix << 8 | digit
    above = _MAX_BITS - tl.load(row + PASSES * _BINS).to(tl.int32)
    value = interpolate(prefix, counts, rank, count, above, weight, IS_BFLOAT16, PASSES)
    has_nan = tl.load(row + PASSES * _BINS + 1) > 0
    tl.store(out_ptr + sample, tl.where(has_nan, float("nan"), value))


@triton.jit
def single_program_kernel(
    x_ptr,
    out_ptr,
    n,
    blocks,
    index,
    weight,
    INFINITY: tl.constexpr,
    IS_BFLOAT16: tl.constexpr,
    PASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """All passes over one sample in one program: no workspace."""
    sample = tl.program_id(0).to(tl.int64)
    prefix = tl.full((), 0, tl.int32)
    rank = tl.cast(index, tl.int32)
    counts = tl.zeros((_BINS,), tl.int32)
    count = rank
    has_nan = prefix
    extra = prefix
    for p in tl.static_range(PASSES):
        counts, extra = digit_histogram(
            x_ptr, sample * n, n, 0, 1, blocks, prefix, INFINITY, p, PASSES, BLOCK
        )
        if p == 0:
            has_nan = extra
        digit, rank, count = select_digit(counts, rank)
        prefix = prefix << 8 | digit
    value = interpolate(prefix, counts, rank, count, _MAX_BITS - extra, weight, IS_BFLOAT16, PASSES)
    tl.store(out_ptr + sample, tl.where(has_nan > 0, float("nan"), value))


def abs_quantile(x: Tensor, q: float) -> Tensor:
    """See `vdm_kernels.abs_quantile`; `x` is contiguous float32, bfloat16 or float16."""
    batch = x.shape[0]
    out = torch.empty(batch, dtype=torch.float32, device=x.device)
    if batch == 0:
        return out
    n = x.numel() // batch
    index, weight = quantile_rank(n, q)
    passes = x.element_size()
    bits = x.view(torch.int32 if passes == 4 else torch.int16)
    infinity = {torch.float32: 0x7F800000, torch.bfloat16: 0x7F80, torch.float16: 0x7C00}[x.dtype]
    is_bfloat16 = x.dtype == torch.bfloat16
    launch = quantile_launch(batch, n, sm_count(x.device))
    with on_device(x):
        if launch.splits == 1:
            single_program_kernel[(batch,)](
                bits,
                out,
                n,
                launch.blocks,
                index,
                weight,
                INFINITY=infinity,
                IS_BFLOAT16=is_bfloat16,
                PASSES=passes,
                BLOCK=BLOCK,
                num_warps=NUM_WARPS,
            )
            return out
        workspace = torch.zeros(batch, passes * BINS + _EXTRA, dtype=torch.int64, device=x.device)
        for digit in range(passes):
            histogram_kernel[(launch.programs,)](
                bits,
                workspace,
                n,
                launch.blocks,
                launch.splits,
                index,
                INFINITY=infinity,
                PASS=digit,
                PASSES=passes,
                BLOCK=BLOCK,
                num_warps=NUM_WARPS,
            )
        finish_kernel[(batch,)](
            workspace, out, index, weight, IS_BFLOAT16=is_bfloat16, PASSES=passes, num_warps=NUM_WARPS
        )
    return out


def supports_abs_quantile(x: Tensor, q: float) -> str | None:
    """None, or why this call cannot run."""
    return unsupported_dtype(x)
