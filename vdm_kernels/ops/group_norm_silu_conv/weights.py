"""Weights in the forms that the convolution kernels read, kept while the weight stays what it is."""

from __future__ import annotations

import enum
import functools
import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from vdm_kernels.native import C


class Worth(enum.IntEnum):
    """How much time a byte of a kept form saves. Where memory is short, the lesser make room for the greater."""

    LITTLE = 0  # the kernel makes the form as it goes, nearly as fast
    SOME = 1  # the form has several times the bytes of its weight
    MUCH = 2


class _Entry:
    """What is known of a weight in one form."""

    __slots__ = ("__weakref__", "content", "owner", "prepared", "version")

    def __init__(self, content: tuple[Hashable, int], owner: weakref.ref[Tensor]) -> None:
        self.content = content  # layout and fingerprint
        self.owner = owner
        self.version: int | None = None  # of the tensor, when it last had this content
        self.prepared: Tensor | None = None  # from the second call with this content on


# By the identity of the tensor that owns the weight's memory, the place in it, and the form.
_ENTRIES: dict[tuple[Hashable, ...], _Entry] = {}

# A form has up to four times the elements of its weight, in float32. With this much in all, a U-Net of 64 channels
# still takes less memory than in PyTorch, for its activations take less; with 384 MB it takes more. What is over it is
# prepared at every call.
MOST_KEPT = 192 << 20
_KEPT = [0] * len(Worth)  # bytes
_KEEPING: tuple[weakref.WeakSet[_Entry], ...] = tuple(weakref.WeakSet() for _ in Worth)


def prepared(
    weight: Tensor, form: Hashable, size: int, prepare: Callable[[Tensor], object], worth: Worth
) -> Tensor:
    """The weight in some form, or what an earlier call for this form has kept of it; see `kept`."""
    found = kept(weight, form, size, prepare, worth)
    if found is None:
        prepare(found := torch.empty(size, dtype=torch.float32, device=weight.device))
    return found


def kept(
    weight: Tensor, form: Hashable, size: int, prepare: Callable[[Tensor], object], worth: Worth
) -> Tensor | None:
    """What `prepare` writes to `size` floats, if it is or will be kept for later calls; else None.

    A weight changes in ways that leave no trace on the tensor: through `.data`, under `no_grad`, through NumPy. So
    every call compares the fingerprint of its bytes, at the speed of memory. A form, which tells the shape of the
    weight, too, is kept from the second call with the same content on, while all that is kept is at most MOST_KEPT
    bytes: in training, where each step changes the weight, nothing is.
    """
    key = _key(weight, form)
    entry = _ENTRIES.get(key)
    if (entry is None or entry.prepared is None) and sum(_KEPT[worth:]) + 4 * size > MOST_KEPT:
        return None
    if not (weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)):
        return None
    assert C is not None
    content = (_layout(weight), C.fingerprint(weight.data_ptr(), weight.numel() * weight.element_size()))
    if entry is None or entry.content != content:
        _ENTRIES[key] = _Entry(content, weakref.ref(_owner(weight), functools.partial(_forget, key)))
        return None
    entry.version = _version(weight)
    if entry.prepared is None:
        _make_room(4 * size, worth)
        prepare(result := torch.empty(size, dtype=torch.float32, device=weight.device))
        _count(worth, result.nbytes)
        weakref.finalize(result, _count, worth, -result.nbytes)
        _KEEPING[worth].add(entry)
        entry.prepared = result
    return entry.prepared


def guess(weight: Tensor, form: Hashable) -> tuple[Tensor, int] | None:
    """What `kept` has of a weight in some form, and the fingerprint that the weight had; None where it has nothing.

    For a caller that makes the fingerprint of the weight while it computes with the form, and calls `kept` where it is
    another. Nothing is guessed of a weight that PyTorch knows to have changed since `kept` saw it.
    """
    entry = _ENTRIES.get(_key(weight, form))
    if entry is None or entry.version != _version(weight) or entry.content[0] != _layout(weight):
        return None
    prepared = entry.prepared  # read once: another thread may make room
    return None if prepared is None else (prepared, entry.content[1])


def _owner(weight: Tensor) -> Tensor:
    # A linear layer's weight seen as a 1x1 convolution's is a new view at each call.
    base = weight._base
    return weight if base is None else base


def _key(weight: Tensor, form: Hashable) -> tuple[Hashable, ...]:
    return id(_owner(weight)), weight.storage_offset(), form


def _version(weight: Tensor) -> int:
    """How often PyTorch has changed the weight in place; it does not count for inference tensors."""
    return -1 if weight.is_inference() else weight._version


def _layout(weight: Tensor) -> Hashable:
    # A linear layer's weight is the same with and without its kernel of one.
    return weight.dtype, (*weight.stride(), 1, 1)[:4]


def _make_room(num_bytes: int, worth: Worth) -> None:
    for lesser in range(worth):
        for entry in list(_KEEPING[lesser]):
            if sum(_KEPT) + num_bytes <= MOST_KEPT:
                return
            entry.prepared = None
            _KEEPING[lesser].discard(entry)


def _count(worth: Worth, num_bytes: int) -> None:
    _KEPT[worth] += num_bytes


def _forget(key: tuple[Hashable, ...], owner: weakref.ref[Tensor]) -> None:
    # Another tensor may have come to this identity.
    if key in _ENTRIES and _ENTRIES[key].owner is owner:
        del _ENTRIES[key]
