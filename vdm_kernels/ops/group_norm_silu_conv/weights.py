"""Weights in the forms that the convolution kernels read, kept while the weight stays what it is."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from vdm_kernels.native import C


class _Entry(NamedTuple):
    content: tuple[int, torch.dtype, torch.Size, tuple[int, ...]]
    prepared: Tensor | None  # from the second call with this content on


# The entries of a weight, by form; they die with it.
_ENTRIES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

# A form has up to four times the bytes of its weight. This much in all is less than what the kernels save in
# activations; what is over it is prepared at every call.
MOST_KEPT = 192 << 20
_KEPT = [0]  # bytes


def prepared(weight: Tensor, form: Hashable, size: int, prepare: Callable[[Tensor], object]) -> Tensor:
    """The weight in some form, or what an earlier call for this form has kept of it; see `kept`."""
    found = kept(weight, form, size, prepare)
    if found is None:
        prepare(found := torch.empty(size, dtype=torch.float32))
    return found


def kept(weight: Tensor, form: Hashable, size: int, prepare: Callable[[Tensor], object]) -> Tensor | None:
    """What `prepare` writes to `size` floats, if it is or will be kept for later calls; else None.

    A weight changes in ways that leave no trace on the tensor: through `.data`, under `no_grad`, through NumPy. So
    every call compares the fingerprint of its bytes, at the speed of memory. A form is kept from the second call
    with the same content on, while all that is kept is at most MOST_KEPT bytes: in training, where each step changes
    the weight, nothing is.
    """
    assert C is not None
    if not (weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)):
        return None
    fingerprint = C.fingerprint(weight.data_ptr(), weight.numel() * weight.element_size())
    content = (fingerprint, weight.dtype, weight.shape, weight.stride())
    owner = weight
    if (
        weight._base is not None
    ):  # a linear layer's weight seen as a 1x1 convolution's is a new view at each call
        owner, form = weight._base, (form, weight.storage_offset(), weight.shape, weight.stride())
    entries: dict[Hashable, _Entry] = _ENTRIES.setdefault(owner, {})
    found = entries.get(form)
    if found is None or found.content != content:
        entries[form] = _Entry(content, None)
        return None
    if found.prepared is None and _KEPT[0] + 4 * size <= MOST_KEPT:
        prepare(result := torch.empty(size, dtype=torch.float32))
        _count(result.nbytes)
        weakref.finalize(result, _count, -result.nbytes)
        found = entries[form] = _Entry(content, result)
    return found.prepared


def _count(num_bytes: int) -> None:
    _KEPT[0] += num_bytes
