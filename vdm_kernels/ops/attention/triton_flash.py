"""Attention over long sequences of packed projections with an additive bias, block by block (Dao et al. 2022).

A sequence is `length` tokens that lie `inner` tokens apart in memory, as the frames of one pixel of a (B, F, S) video
do with inner = S, and the pixels of one image with inner = 1. The bias is never as large as the scores of an image: it
is read from its table for every tile, at `query place + key place`, since a relative position is a difference.

Tiling: block sizes are in launch.py. Forward: a program has one block of queries of one head and sequence, and walks
its keys with an online softmax. Backward: a first kernel walks the keys twice for a block of queries, for the
softmax's log-sum and delta = sum_j p_ij dp_ij, which it writes, and then for dq; a second walks the queries for a block
of keys, for dk and dv; a third, where the bias has a gradient, adds up one tile of dscores over sequences, always the
same columns of two rows of an image that are a fixed number of rows apart, so that every element of the tile belongs to
one place of the table. Nothing is atomic.

Traffic: the blocks of one sequence are neighbours on the grid, so that its keys and values come from the L2 cache.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vdm_kernels.ops.attention.launch import (
    MAX_WIDTH,
    MIN_BLOCK,
    Blocks,
    Sequences,
    bias_gradient_launch,
    flash_blocks,
    flash_programs,
)
from vdm_kernels.ops.attention.triton_tiles import (
    LOG2E,
    additive_tile,
    load_rows,
    product,
    scores,
    store_rows,
    transposed,
)
from vdm_kernels.ops.channel_statistics.launch import next_power_of_2
from vdm_kernels.ops.step.launch import sm_count
from vdm_kernels.ops.step.triton_block import on_device, unsupported_dtype


@triton.jit
def query_places(i, length, columns, bias_columns, origin, RELATIVE: tl.constexpr):
    """The part of queries i in the places of their bias; the rest is that of the keys.

    RELATIVE: tokens are pixels in rows of `columns`, and the bias is a table of rows of `bias_columns` whose place
    `origin` is that of relative position (0, 0); else it is a (length, bias_columns) matrix.
    """
    i = tl.minimum(i, length - 1)
    if RELATIVE:
        return i // columns * bias_columns + i % columns + origin
    else:
        return i * bias_columns


@triton.jit
def key_places(j, length, columns, bias_columns, RELATIVE: tl.constexpr):
    """The part of keys j; see `query_places`."""
    j = tl.minimum(j, length - 1)
    if RELATIVE:
        return -(j // columns * bias_columns + j % columns)
    else:
        return j


@triton.jit
def locate_block(heads, blocks):
    """(block, head, int64 sequence) of this program."""
    program = tl.program_id(0)
    return program % blocks, program // blocks % heads, (program // blocks // heads).to(tl.int64)


@triton.jit
def tokens(sequence, t, length, inner):
    """The int64 indices of tokens t of a sequence."""
    return sequence // inner * length * inner + sequence % inner + t.to(tl.int64) * inner


@triton.jit
def flash_kernel(
    qkv_ptr,
    bias_ptr,
    segment_ids_ptr,
    out_ptr,
    length,
    inner,
    heads,
    width,
    columns,
    bias_columns,
    bias_plane,
    origin,
    blocks,
    scale,
    RELATIVE: tl.constexpr,
    BIAS_PER_SAMPLE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    block, head, sequence = locate_block(heads, blocks)
    q_ptr = qkv_ptr + head * width
    plane = heads * width
    i = block * QUERIES + tl.arange(0, QUERIES)
    token_i = tokens(sequence, i, length, inner)
    q = load_rows(q_ptr, token_i, i < length, 3 * plane, width, WIDTH)
    sample = sequence // inner
    if bias_ptr is not None:
        bias_ptr += bias_plane * (sample * heads + head if BIAS_PER_SAMPLE else head)
    places_i = query_places(i, length, columns, bias_columns, origin, RELATIVE)[:, None]
    top = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(0, length, KEYS):
        j = start + tl.arange(0, KEYS)
        token_j = tokens(sequence, j, length, inner)
        k = load_rows(q_ptr + plane, token_j, j < length, 3 * plane, width, WIDTH)
        v = load_rows(q_ptr + 2 * plane, token_j, j < length, 3 * plane, width, WIDTH)
        places = places_i + key_places(j, length, columns, bias_columns, RELATIVE)[None, :]
        additive = additive_tile(bias_ptr, segment_ids_ptr, places, sample, i[:, None], j[None, :], length)
        s = scores(q, k, additive, scale, PRECISION)
        p, top, shrink = online_softmax(s, top)
        total = total * shrink + tl.sum(p, 1)
        out = out * shrink[:, None] + product(p, v, PRECISION)
    store_rows(out_ptr + head * width, out / total[:, None], token_i, i < length, plane, width, WIDTH)


@triton.jit
def online_softmax(s, top):
    """(2^(s - new top), new top, 2^(top - new top)); rows that had no key yet get zeros."""
    new_top = tl.maximum(top, tl.max(s, 1))
    finite = tl.where(new_top == float("-inf"), 0.0, new_top)
    return tl.exp2(s - finite[:, None]), new_top, tl.exp2(top - finite)


@triton.jit
def flash_bwd_queries_kernel(
    dout_ptr,
    qkv_ptr,
    bias_ptr,
    segment_ids_ptr,
    dqkv_ptr,
    log_sum_ptr,
    delta_ptr,
    length,
    inner,
    heads,
    width,
    columns,
    bias_columns,
    bias_plane,
    origin,
    blocks,
    scale,
    RELATIVE: tl.constexpr,
    BIAS_PER_SAMPLE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """log_sum (base 2) and delta, both (sequences, heads, length), and dq where dqkv is given."""
    block, head, sequence = locate_block(heads, blocks)
    q_ptr = qkv_ptr + head * width
    plane = heads * width
    i = block * QUERIES + tl.arange(0, QUERIES)
    token_i = tokens(sequence, i, length, inner)
    q = load_rows(q_ptr, token_i, i < length, 3 * plane, width, WIDTH)
    dout = load_rows(dout_ptr + head * width, token_i, i < length, plane, width, WIDTH)
    sample = sequence // inner
    if bias_ptr is not None:
        bias_ptr += bias_plane * (sample * heads + head if BIAS_PER_SAMPLE else head)
    places_i = query_places(i, length, columns, bias_columns, origin, RELATIVE)[:, None]
    top = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    delta = tl.zeros((QUERIES,), tl.float32)
    for start in range(0, length, KEYS):
        j = start + tl.arange(0, KEYS)
        token_j = tokens(sequence, j, length, inner)
        k = load_rows(q_ptr + plane, token_j, j < length, 3 * plane, width, WIDTH)
        v = load_rows(q_ptr + 2 * plane, token_j, j < length, 3 * plane, width, WIDTH)
        places = places_i + key_places(j, length, columns, bias_columns, RELATIVE)[None, :]
        additive = additive_tile(bias_ptr, segment_ids_ptr, places, sample, i[:, None], j[None, :], length)
        s = scores(q, k, additive, scale, PRECISION)
        dp = product(dout, transposed(v), PRECISION)
        p, top, shrink = online_softmax(s, top)
        total = total * shrink + tl.sum(p, 1)
        delta = delta * shrink + tl.sum(p * dp, 1)
    log_sum = top + tl.log2(total)
    delta = delta / total
    rows = (sequence * heads + head) * length + i
    tl.store(log_sum_ptr + rows, log_sum, mask=i < length)
    tl.store(delta_ptr + rows, delta, mask=i < length)
    if dqkv_ptr is not None:
        dq = tl.zeros((QUERIES, WIDTH), tl.float32)
        for start in range(0, length, KEYS):
            j = start + tl.arange(0, KEYS)
            token_j = tokens(sequence, j, length, inner)
            k = load_rows(q_ptr + plane, token_j, j < length, 3 * plane, width, WIDTH)
            v = load_rows(q_ptr + 2 * plane, token_j, j < length, 3 * plane, width, WIDTH)
            places = places_i + key_places(j, length, columns, bias_columns, RELATIVE)[None, :]
            additive = additive_tile(
                bias_ptr, segment_ids_ptr, places, sample, i[:, None], j[None, :], length
            )
            p = tl.exp2(scores(q, k, additive, scale, PRECISION) - log_sum[:, None])
            dp = product(dout, transposed(v), PRECISION)
            ds = p * (dp - delta[:, None])
            dq += product(ds, k, PRECISION)
        dq = dq * (scale / LOG2E)
        store_rows(dqkv_ptr + head * width, dq, token_i, i < length, 3 * plane, width, WIDTH)


@triton.jit
def flash_bwd_keys_kernel(
    dout_ptr,
    qkv_ptr,
    bias_ptr,
    segment_ids_ptr,
    dqkv_ptr,
    log_sum_ptr,
    delta_ptr,
    length,
    inner,
    heads,
    width,
    columns,
    bias_columns,
    bias_plane,
    origin,
    blocks,
    scale,
    RELATIVE: tl.constexpr,
    BIAS_PER_SAMPLE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dk and dv."""
    block, head, sequence = locate_block(heads, blocks)
    q_ptr = qkv_ptr + head * width
    dq_ptr = dqkv_ptr + head * width
    plane = heads * width
    j = block * KEYS + tl.arange(0, KEYS)
    token_j = tokens(sequence, j, length, inner)
    k = load_rows(q_ptr + plane, token_j, j < length, 3 * plane, width, WIDTH)
    v = load_rows(q_ptr + 2 * plane, token_j, j < length, 3 * plane, width, WIDTH)
    sample = sequence // inner
    if bias_ptr is not None:
        bias_ptr += bias_plane * (sample * heads + head if BIAS_PER_SAMPLE else head)
    places_j = key_places(j, length, columns, bias_columns, RELATIVE)[:, None]
    dk = tl.zeros((KEYS, WIDTH), tl.float32)
    dv = tl.zeros((KEYS, WIDTH), tl.float32)
    for start in range(0, length, QUERIES):
        i = start + tl.arange(0, QUERIES)
        token_i = tokens(sequence, i, length, inner)
        q = load_rows(q_ptr, token_i, i < length, 3 * plane, width, WIDTH)
        dout = load_rows(dout_ptr + head * width, token_i, i < length, plane, width, WIDTH)
        rows = (sequence * heads + head) * length + i
        log_sum = tl.load(log_sum_ptr + rows, mask=i < length, other=0.0)
        delta = tl.load(delta_ptr + rows, mask=i < length, other=0.0)
        places = query_places(i, length, columns, bias_columns, origin, RELATIVE)[None, :] + places_j
        additive = additive_tile(bias_ptr, segment_ids_ptr, places, sample, i[None, :], j[:, None], length)
        # Transposed, so that p and ds are the left factors that the products below need.
        p = tl.exp2(scores(k, q, additive, scale, PRECISION) - log_sum[None, :])
        dv += product(p, dout, PRECISION)
        dp = product(v, transposed(dout), PRECISION)
        ds = p * (dp - delta[None, :])
        dk += product(ds, q, PRECISION)
    store_rows(dq_ptr + plane, dk * (scale / LOG2E), token_j, j < length, 3 * plane, width, WIDTH)
    store_rows(dq_ptr + 2 * plane, dv, token_j, j < length, 3 * plane, width, WIDTH)


@triton.jit
def bias_gradient_kernel(
    dout_ptr,
    qkv_ptr,
    bias_ptr,
    segment_ids_ptr,
    partial_ptr,
    log_sum_ptr,
    delta_ptr,
    length,
    inner,
    heads,
    width,
    columns,
    bias_columns,
    bias_plane,
    origin,
    sequences,
    groups,
    splits,
    tiles,
    scale,
    RELATIVE: tl.constexpr,
    BIAS_PER_SAMPLE: tl.constexpr,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The sum of dscores over a split of a group of `sequences`, of one tile of two rows `dy` rows apart.

    To partial, (groups, splits, heads, 2 rows - 1, columns, columns), whose index of dy is dy + rows - 1. Programs with
    small |dy| have more to add up and come first. Products go by PART of the width, which limits their registers.
    """
    program = tl.program_id(0)
    tile_j = program % tiles
    tile_i = program // tiles % tiles
    program = program // tiles // tiles
    head = program % heads
    split = program // heads % splits
    rows = length // columns
    offsets = 2 * rows - 1
    group = (program // heads // splits % groups).to(tl.int64)
    order = program // heads // splits // groups
    dy = (order + 1) // 2 * (1 - 2 * (order % 2))
    first = tl.maximum(dy, 0)
    rows_here = rows - tl.abs(dy)

    x_i = tile_i * BLOCK + tl.arange(0, BLOCK)
    x_j = tile_j * BLOCK + tl.arange(0, BLOCK)
    sample = group * sequences // inner
    # The bias of two columns is the same for every pair of rows: that of the first pair.
    i = first * columns + tl.minimum(x_i, columns - 1)
    j = (first - dy) * columns + tl.minimum(x_j, columns - 1)
    if bias_ptr is not None:
        bias_ptr += bias_plane * (sample * heads + head if BIAS_PER_SAMPLE else head)
    places = (
        query_places(i, length, columns, bias_columns, origin, RELATIVE)[:, None]
        + key_places(j, length, columns, bias_columns, RELATIVE)[None, :]
    )
    additive = additive_tile(bias_ptr, segment_ids_ptr, places, sample, i[:, None], j[None, :], length)
    q_ptr = qkv_ptr + head * width
    plane = heads * width
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for turn in range(split, sequences * rows_here, splits):
        sequence = group * sequences + turn // rows_here
        y = first + turn % rows_here
        i = y * columns + x_i
        token_i = tokens(sequence, i, length, inner)
        token_j = tokens(sequence, (y - dy) * columns + x_j, length, inner)
        statistics = (sequence * heads + head) * length + i
        log_sum = tl.load(log_sum_ptr + statistics, mask=x_i < columns, other=0.0)
        delta = tl.load(delta_ptr + statistics, mask=x_i < columns, other=0.0)
        s = tl.zeros((BLOCK, BLOCK), tl.float32)
        dp = tl.zeros((BLOCK, BLOCK), tl.float32)
        for start in range(0, WIDTH, PART):
            rest = width - start
            q = load_rows(q_ptr + start, token_i, x_i < columns, 3 * plane, rest, PART)
            k = load_rows(q_ptr + start + plane, token_j, x_j < columns, 3 * plane, rest, PART)
            v = load_rows(q_ptr + start + 2 * plane, token_j, x_j < columns, 3 * plane, rest, PART)
            dout = load_rows(dout_ptr + start + head * width, token_i, x_i < columns, plane, rest, PART)
            s += product(q, transposed(k), PRECISION)
            dp += product(dout, transposed(v), PRECISION)
        p = tl.exp2(s * scale + additive - log_sum[:, None])
        total += p * (dp - delta[:, None])
    out = ((group * splits + split) * heads + head) * offsets + dy + rows - 1
    out_rows = (out * columns + x_i) * columns
    mask = (x_i < columns)[:, None] & (x_j < columns)[None, :]
    tl.store(partial_ptr + out_rows[:, None] + x_j[None, :], total, mask=mask)


def precision(x: Tensor) -> str:
    """Of the products of `x`: float32 as three products of TensorFloat-32, which keeps all but the last two bits."""
    return "tf32x3" if x.dtype == torch.float32 else "ieee"


@cache
def has_wgmma(device: torch.device) -> bool:
    """Whether the matrix units of a device read their operands from shared memory, as those of servers since Hopper."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)


def width_block(width: int) -> int:
    """The last axis of a tile."""
    return max(MIN_BLOCK, next_power_of_2(width))


def log2_scale(width: int) -> float:
    """What scores are multiplied by: log2(e) / sqrt(d)."""
    return math.log2(math.e) / math.sqrt(width)


def unsupported(qkv: Tensor, bias: Tensor | None) -> str | None:
    """Why the attention kernels cannot take these arguments; None where they can."""
    if qkv.shape[-1] > MAX_WIDTH:
        return f"has no kernel for heads that are {qkv.shape[-1]} wide, only up to {MAX_WIDTH}"
    return unsupported_dtype(qkv, bias)


def flash_attention(
    qkv: Tensor, bias: Tensor | None, segment_ids: Tensor | None, out: Tensor, sequences: Sequences
) -> None:
    """Writes attention within each of `sequences` to `out`."""
    blocks = _blocks(qkv, sequences, backward=False)
    with on_device(qkv):
        flash_kernel[(flash_programs(sequences, blocks.queries),)](
            qkv,
            bias,
            segment_ids,
            out,
            *sequences.numbers,
            -(-sequences.length // blocks.queries),
            log2_scale(sequences.width),
            **_options(qkv, sequences, blocks),
        )


def flash_attention_bwd(
    dout: Tensor,
    qkv: Tensor,
    bias: Tensor | None,
    segment_ids: Tensor | None,
    dqkv: Tensor | None,
    sequences: Sequences,
) -> Tensor:
    """Writes the gradient of qkv, where that is given, and returns log-sums and deltas for `bias_gradient`."""
    blocks = _blocks(qkv, sequences, backward=True)
    statistics = torch.empty(
        2, sequences.count, sequences.heads, sequences.length, dtype=torch.float32, device=qkv.device
    )
    for kernel, block in ((flash_bwd_queries_kernel, blocks.queries), (flash_bwd_keys_kernel, blocks.keys)):
        if dqkv is None and kernel is flash_bwd_keys_kernel:
            continue
        with on_device(qkv):
            kernel[(flash_programs(sequences, block),)](
                dout,
                qkv,
                bias,
                segment_ids,
                dqkv,
                statistics[0],
                statistics[1],
                *sequences.numbers,
                -(-sequences.length // block),
                log2_scale(sequences.width),
                **_options(qkv, sequences, blocks),
            )
    return statistics


def bias_gradient(
    dout: Tensor,
    qkv: Tensor,
    bias: Tensor,
    segment_ids: Tensor | None,
    statistics: Tensor,
    sequences: Sequences,
    groups: int,
) -> Tensor:
    """Partial sums of the gradient of the scores over each of `groups` groups of sequences.

    Returns:
        (groups, splits, heads, 2 rows - 1, columns, columns): for the queries of a row, the keys of the row dy above
        it, at dy + rows - 1.
    """
    device = qkv.device
    launch = bias_gradient_launch(sequences, groups, qkv.element_size(), sm_count(device), has_wgmma(device))
    rows, columns = sequences.length // sequences.columns, sequences.columns
    shape = (groups, launch.splits, sequences.heads, 2 * rows - 1, columns, columns)
    partial = torch.empty(shape, dtype=torch.float32, device=qkv.device)
    with on_device(qkv):
        bias_gradient_kernel[(launch.programs,)](
            dout,
            qkv,
            bias,
            segment_ids,
            partial,
            statistics[0],
            statistics[1],
            *sequences.numbers,
            sequences.count // groups,
            groups,
            launch.splits,
            launch.tiles,
            log2_scale(sequences.width),
            RELATIVE=sequences.relative,
            BIAS_PER_SAMPLE=sequences.bias_per_sample,
            BLOCK=launch.block,
            PART=min(launch.part, width_block(sequences.width)),
            WIDTH=width_block(sequences.width),
            PRECISION=precision(qkv),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
    return partial


def _blocks(qkv: Tensor, sequences: Sequences, backward: bool) -> Blocks:
    wgmma = has_wgmma(qkv.device)
    return flash_blocks(sequences.width, qkv.element_size(), wgmma, sequences.relative, backward)


def _options(qkv: Tensor, sequences: Sequences, blocks: Blocks) -> dict[str, Any]:
    return {
        "RELATIVE": sequences.relative,
        "BIAS_PER_SAMPLE": sequences.bias_per_sample,
        "QUERIES": blocks.queries,
        "KEYS": blocks.keys,
        "WIDTH": width_block(sequences.width),
        "PRECISION": precision(qkv),
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
    }
