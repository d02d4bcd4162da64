"""Standard normals from Philox4x32-10 inside Triton kernels, four to a counter.

`normal4` is called with a block of group indices k and gives elements 4k to 4k+3 of a sample's noise. The bits
are those of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3"); the transform is Box and Muller's,
with angles reduced in integers so that every backend takes the same branch. The polynomials were fitted for these
intervals (relative minimax); together with float32 rounding they stay within 1e-6 of the float64 transform.
"""

from __future__ import annotations

import triton
import triton.language as tl

# The wide multiply compiles to one IMAD.WIDE, where umulhi and mul would take two instructions.
_M0 = tl.constexpr(0xD2511F53)
_M1 = tl.constexpr(0xCD9E8D57)
_W0 = tl.constexpr(0x9E3779B9)
_W1 = tl.constexpr(0xBB67AE85)
_TWO_M32 = tl.constexpr(2.0**-32)
_TWO_M33 = tl.constexpr(2.0**-33)
_ANGLE = tl.constexpr(6.283185307179586 * 2.0**-32)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 of counter (c0, c1, c2, c3) under key (k0, k1), all uint32."""
    for _ in tl.static_range(10):
        low = c0.to(tl.uint64) * _M0
        high = c2.to(tl.uint64) * _M1
        c0 = (high >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (low >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = high.to(tl.uint32)
        c3 = low.to(tl.uint32)
        k0 = tl.add(k0, _W0, sanitize_overflow=False)
        k1 = tl.add(k1, _W1, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def log_f32(x):
    """ln x for positive normal float32 x, relative error under 2e-7 also next to x = 1 (where lg2.approx has none)."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F2AAAAB) >> 23  # x = m * 2^exponent with m in [2/3, 4/3)
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    q = 0.140263631939888 * f - 0.15388545393943787
    q = q * f + 0.13995805382728577
    q = q * f - 0.1641595959663391
    q = q * f + 0.20011168718338013
    q = q * f - 0.2500782012939453
    q = q * f + 0.33333197236061096
    q = q * f - 0.49999937415122986
    return exponent.to(tl.float32) * _LN2 + (q * (f * f) + f)


@triton.jit
def box_muller(r_radius, r_angle):
    """A pair of standard normals sqrt(-2 ln u) (cos, sin)(2 pi r_angle / 2^32), u = r_radius 2^-32 + 2^-33."""
    u = r_radius.to(tl.float32) * _TWO_M32 + _TWO_M33
    radius = tl.sqrt(-2.0 * log_f32(u))
    turned = r_angle + 0x20000000
    x = (r_angle - (turned & 0xC0000000)).to(tl.int32, bitcast=True).to(tl.float32) * _ANGLE
    s = x * x
    sine = ((-0.0001949562574736774 * s + 0.00833197869360447) * s - 0.16666650772094727) * (x * s) + x
    cosine = ((-0.0013597813667729497 * s + 0.04165629297494888) * s - 0.49999895691871643) * s + 1.0
    odd = (turned & 0x40000000) != 0
    first = radius * tl.where(odd, sine, cosine)
    second = radius * tl.where(odd, cosine, sine)
    # Quadrants 1 and 2 negate the cosine, quadrants 2 and 3 the sine.
    first_sign = (turned + 0x40000000) & 0x80000000
    second_sign = turned & 0x80000000
    first = (first.to(tl.uint32, bitcast=True) ^ first_sign).to(tl.float32, bitcast=True)
    second = (second.to(tl.uint32, bitcast=True) ^ second_sign).to(tl.float32, bitcast=True)
    return first, second


@triton.jit
def normal4(group, seed, draw):
    """Elements 4 group + 0, 1, 2, 3 of the noise of (seed, draw): a (BLOCK,) int64 block gives a (4 BLOCK,) block."""
    group = group.to(tl.uint64, bitcast=True)
    seed = seed.to(tl.uint64, bitcast=True)
    draw = draw.to(tl.uint64, bitcast=True)
    r0, r1, r2, r3 = philox4x32(
        group.to(tl.uint32),
        (group >> 32).to(tl.uint32),
        draw.to(tl.uint32),
        (draw >> 32).to(tl.uint32),
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )
    n0, n1 = box_muller(r0, r1)
    n2, n3 = box_muller(r2, r3)
    # join stacks on a new last axis, so [k, i, j] is n_{2i + j}: row-major order is the elements' order.
    return tl.join(tl.join(n0, n2), tl.join(n1, n3)).reshape(4 * group.shape[0])
