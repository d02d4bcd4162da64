"""The forms of a convolution's weight that are kept: never a stale one, and none that nobody needs."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import vdm_kernels
from vdm_kernels import native
from vdm_kernels.ops.group_norm_silu_conv import weights
from vdm_kernels.ops.group_norm_silu_conv.weights import Worth
from vdm_kernels.testing import cpu_isa, cpu_isas

pytestmark = pytest.mark.skipif(native.C is None, reason=f"no native extension: {native.WHY_NOT}")


class Prepare:
    """Stands for a transform of `weight`; counts its calls."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.calls = 0

    def __call__(self, out: Tensor) -> None:
        self.calls += 1
        out.copy_(self.weight.detach().flatten())


def prepared(weight: Tensor, form: object = "form", prepare: Prepare | None = None) -> Tensor:
    return weights.prepared(weight, form, weight.numel(), prepare or Prepare(weight), Worth.MUCH).view(
        weight.shape
    )


def test_kept_from_the_second_call_on() -> None:
    weight = torch.randn(8, 4, 3, 3)
    prepare = Prepare(weight)
    results = [weights.prepared(weight, "form", weight.numel(), prepare, Worth.MUCH) for _ in range(4)]
    assert prepare.calls == 2
    assert results[0] is not results[1]
    assert results[1] is results[2] is results[3]


def test_each_form_is_kept_for_itself() -> None:
    weight = torch.randn(8, 4, 3, 3)
    first, second = Prepare(weight), Prepare(weight)
    for _ in range(3):
        prepared(weight, ("tile", 4), first)
        prepared(weight, ("tile", 2), second)
    assert (first.calls, second.calls) == (2, 2)


def test_no_more_is_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    first, second = Prepare(torch.randn(8, 4, 3, 3)), Prepare(torch.randn(8, 4, 3, 3))
    monkeypatch.setattr(weights, "MOST_KEPT", sum(weights._KEPT) + first.weight.nbytes)
    for _ in range(4):
        prepared(first.weight, "form", first)
        prepared(second.weight, "form", second)
    assert (first.calls, second.calls) == (2, 4)
    del first  # makes room
    gc.collect()
    for _ in range(3):
        prepared(second.weight, "form", second)
    assert second.calls == 5


def test_the_lesser_make_room_for_the_greater(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    little, some, much = (Prepare(torch.randn(8, 4, 3, 3)) for _ in Worth)
    monkeypatch.setattr(weights, "MOST_KEPT", sum(weights._KEPT) + 2 * little.weight.nbytes)

    def calls() -> list[int]:
        for prepare, worth in ((little, Worth.LITTLE), (some, Worth.SOME), (much, Worth.MUCH)):
            weights.kept(prepare.weight, "form", prepare.weight.numel(), prepare, worth)
        return [prepare.calls for prepare in (little, some, much)]

    # Room for two: the third takes that of the first, which then is not prepared again, nor kept in its place.
    assert [calls() for _ in range(4)] == [[0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert sum(weights._KEPT) == weights.MOST_KEPT


def test_nothing_is_read_of_a_weight_that_there_is_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(8, 4, 3, 3)
    monkeypatch.setattr(weights, "MOST_KEPT", 0)
    extension = mock.Mock(wraps=native.C)
    monkeypatch.setattr(weights, "C", extension)
    assert torch.equal(prepared(weight), weight)
    extension.fingerprint.assert_not_called()
    monkeypatch.undo()
    assert torch.equal(prepared(weight), weight)


def test_what_is_not_kept_need_not_be_prepared() -> None:
    weight = torch.randn(8, 4, 3, 3)
    prepare = Prepare(weight)
    size = weight.numel()
    first, second, third = (weights.kept(weight, "form", size, prepare, Worth.LITTLE) for _ in range(3))
    assert first is None
    assert second is third is not None
    assert prepare.calls == 1


def _optimizer_step(weight: nn.Parameter) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight]).step()


def _ema_swap(weight: nn.Parameter) -> None:
    average = weight.detach() * 0.5
    live = weight.detach().clone()
    weight.data.copy_(average)
    assert not torch.equal(weight, live)


def _load_state_dict(weight: nn.Parameter) -> None:
    module = nn.ParameterList([weight])
    module.load_state_dict({"0": torch.randn_like(weight)})


def _no_grad(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.copy_(torch.randn_like(weight))


def _inference_mode(weight: nn.Parameter) -> None:
    with torch.inference_mode():
        weight.data.mul_(2.0)


def _one_bit(weight: nn.Parameter) -> None:
    weight.data.view(torch.int32).view(-1)[77] ^= 1


def _sign_of_the_last(weight: nn.Parameter) -> None:
    weight.data.view(-1)[-1] *= -1.0


def _numpy(weight: nn.Parameter) -> None:
    weight.detach().numpy()[1, 2, 0, 1] += 1.0


def _swapped_rows(weight: nn.Parameter) -> None:
    weight.data.copy_(weight.detach().roll(1, 0))


def _other_storage(weight: nn.Parameter) -> None:
    weight.data = torch.randn_like(weight)


def _other_dtype(weight: nn.Parameter) -> None:
    weight.data = weight.data.bfloat16()


def _other_layout(weight: nn.Parameter) -> None:
    # The same bytes, in another order of the channels.
    data = weight.data
    weight.data = data.view(data.shape[0], 3, 3, data.shape[1]).permute(0, 3, 1, 2)


CHANGES = (
    _optimizer_step,
    _ema_swap,
    _load_state_dict,
    _no_grad,
    _inference_mode,
    _one_bit,
    _sign_of_the_last,
    _numpy,
    _swapped_rows,
    _other_storage,
    _other_dtype,
    _other_layout,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_changed_weight_meets_no_stale_form(change: Callable[[nn.Parameter], None]) -> None:
    weight = nn.Parameter(torch.randn(8, 4, 3, 3))
    for _ in range(3):
        before = prepared(weight)
    change(weight)
    for _ in range(3):
        after = prepared(weight)
        torch.testing.assert_close(after, weight.detach().float(), rtol=0.0, atol=0.0)
    assert not torch.equal(after, before)


def test_back_and_forth() -> None:
    # Sampling with the averaged weights between training steps.
    live, average = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    weight = nn.Parameter(live.clone())
    for content in (live, live, average, average, live, average):
        weight.data.copy_(content)
        assert torch.equal(prepared(weight), content)


def test_nothing_is_kept_of_a_weight_that_always_changes() -> None:
    weight = nn.Parameter(torch.randn(8, 4, 3, 3))
    results = []
    for _ in range(4):
        results.append(
            weakref.ref(weights.prepared(weight, "form", weight.numel(), Prepare(weight), Worth.MUCH))
        )
        _no_grad(weight)
    gc.collect()
    assert [result() for result in results] == [None] * 4


def test_what_is_kept_dies_with_the_weight() -> None:
    weight = torch.randn(8, 4, 3, 3)
    kept = [
        weakref.ref(weights.prepared(weight, "form", weight.numel(), Prepare(weight), Worth.MUCH))
        for _ in range(3)
    ][-1]
    assert kept() is not None
    del weight
    gc.collect()
    assert kept() is None


def test_another_weight_at_the_same_address() -> None:
    memory = torch.randn(8, 4, 3, 3)
    for _ in range(3):
        weight = memory.view(8, 4, 3, 3)  # a new tensor each time, the same address
        prepared(weight)
        prepared(weight)
        memory.normal_()
        del weight
        assert torch.equal(prepared(memory.view(8, 4, 3, 3)), memory)


def test_a_copied_weight_has_forms_of_its_own() -> None:
    weight = nn.Parameter(torch.randn(8, 4, 3, 3))
    for _ in range(2):
        kept = prepared(weight)
    twin = copy.deepcopy(weight)
    twin.data.mul_(2.0)
    assert torch.equal(prepared(twin), 2.0 * kept)
    assert prepared(weight).data_ptr() == kept.data_ptr()


def test_new_views_of_a_parameter_find_what_is_kept() -> None:
    linear = nn.Linear(4, 8)
    kept = [prepared(linear.weight[:, :, None, None]) for _ in range(3)]
    assert kept[1].data_ptr() == kept[2].data_ptr()
    assert torch.equal(prepared(linear.weight[2:6, :, None, None]), linear.weight[2:6, :, None, None])
    assert prepared(linear.weight[:, :, None, None]).data_ptr() == kept[2].data_ptr()
    linear.weight.data.mul_(2.0)
    for _ in range(2):
        assert torch.equal(prepared(linear.weight[:, :, None, None]), linear.weight[:, :, None, None])
    gone = weakref.ref(
        weights.prepared(linear.weight[:, :, None, None], "form", 32, Prepare(linear.weight), Worth.MUCH)
    )
    assert gone() is not None
    del kept, linear
    gc.collect()
    assert gone() is None


def test_a_linear_layer_and_its_convolution_share_what_is_kept() -> None:
    weight = torch.randn(6, 8)
    prepare = Prepare(weight)
    for _ in range(3):
        weights.prepared(weight, "form", weight.numel(), prepare, Worth.MUCH)
        weights.prepared(weight[:, :, None, None], "form", weight.numel(), prepare, Worth.MUCH)
    assert prepare.calls == 2
    assert torch.equal(prepared(weight.view(8, 6)), weight.view(8, 6))


def test_a_view_with_gaps_is_prepared_each_time() -> None:
    weight = torch.randn(8, 4, 3, 6)[..., ::2]
    prepare = Prepare(weight)
    for _ in range(3):
        assert torch.equal(prepared(weight, prepare=prepare), weight)
    assert prepare.calls == 3


def test_threads() -> None:
    weight = torch.randn(64, 64, 3, 3)
    failures = []

    def work() -> None:
        for _ in range(50):
            if not torch.equal(prepared(weight), weight):
                failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("size", [0, 1, 7, 255, 256, 257, 4096, (1 << 20) - 1, (1 << 20) + 1, 3 << 20])
def test_the_fingerprint_sees_every_byte(size: int) -> None:
    assert native.C is not None
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    before = native.C.fingerprint(data.data_ptr(), size)
    seen = {before}
    for position in {0, 1, size // 2, size - 2, size - 1} & set(range(size)):
        for bit in (0, 7):
            data[position] ^= 1 << bit
            seen.add(native.C.fingerprint(data.data_ptr(), size))
            data[position] ^= 1 << bit
    assert len(seen) == 1 + 2 * len({0, 1, size // 2, size - 2, size - 1} & set(range(size)))
    assert native.C.fingerprint(data.data_ptr(), size) == before
    if size > 1:
        assert native.C.fingerprint(data.data_ptr(), size - 1) != before


def test_the_fingerprint_depends_on_the_memory_alone() -> None:
    assert native.C is not None
    data = torch.randint(0, 256, ((1 << 20) + 13,), dtype=torch.uint8)
    copied = torch.empty(data.numel() + 1, dtype=torch.uint8)[1:].copy_(data)  # not aligned
    expected = native.C.fingerprint(data.data_ptr(), data.numel())
    assert native.C.fingerprint(copied.data_ptr(), copied.numel()) == expected
    for isa in cpu_isas():
        with cpu_isa(isa):
            assert native.C.fingerprint(data.data_ptr(), data.numel()) == expected


def test_the_fingerprint_of_zeros_knows_their_number() -> None:
    assert native.C is not None
    zeros = torch.zeros(5000, dtype=torch.uint8)
    assert len({native.C.fingerprint(zeros.data_ptr(), size) for size in range(5000)}) == 5000


def test_a_convolution_packs_its_weight_once() -> None:
    x = torch.randn(1, 8, 2, 5, 4).contiguous(memory_format=torch.channels_last_3d)
    weight = nn.Parameter(torch.randn(6, 8, 3, 3))
    kernels = "vdm_kernels.ops.group_norm_silu_conv.native.weights.prepared"
    forms = []

    def spy(
        weight: Tensor, form: object, size: int, prepare: Callable[[Tensor], None], worth: Worth
    ) -> Tensor:
        result = weights_prepared(weight, form, size, prepare, worth)
        forms.append((form, id(result)))
        return result

    weights_prepared = weights.prepared
    with torch.no_grad(), vdm_kernels.use_backend("native"), mock.patch(kernels, spy):
        results = [vdm_kernels.group_norm_silu_conv(x, weight, stride=2) for _ in range(4)]
        assert len(set(forms[1:])) == 1
        weight.data.mul_(2.0)
        changed = vdm_kernels.group_norm_silu_conv(x, weight, stride=2)
    assert all(torch.equal(result, results[0]) for result in results)
    torch.testing.assert_close(changed, 2.0 * results[0])


def convolved(weight: Tensor, size: tuple[int, int, int] = (2, 9, 7)) -> Tensor:
    """Of a video of (frames, height, width)."""
    channels, elements = weight.shape[1], size[0] * size[1] * size[2] * weight.shape[1]
    x = torch.linspace(-1.0, 1.0, elements).view(1, *size, channels).movedim(-1, 1)
    with torch.no_grad(), vdm_kernels.use_backend("native"):
        return vdm_kernels.group_norm_silu_conv(x.to(weight.dtype), weight)


class Convolutions:
    """Stands for the extension; notes whether each convolution checks its weight, and the fingerprint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert native.C is not None
        self.extension = native.C
        self.calls: list[tuple[object, int]] = []
        monkeypatch.setattr(native, "C", mock.Mock(wraps=native.C, winograd_conv_cpu=self.convolve))

    def convolve(self, *args: object) -> int:
        self.calls.append((args[-1], self.extension.winograd_conv_cpu(*args)))
        return self.calls[-1][1]

    def fingerprint(self, weight: Tensor) -> int:
        result: int = self.extension.fingerprint(weight.data_ptr(), weight.nbytes)
        return result


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_convolution_sees_that_its_weight_changed(change: Callable[[nn.Parameter], None]) -> None:
    weight = nn.Parameter(torch.randn(40, 48, 3, 3))
    for _ in range(3):
        convolved(weight)
    change(weight)
    for _ in range(3):
        assert torch.equal(convolved(weight), convolved(weight.detach().clone()))


# Threads share tiles, or with few of them panels; the last weight has more than one piece with a state of its own.
@pytest.mark.parametrize("channels", [(16, 16), (40, 48), (352, 384)], ids=str)
@pytest.mark.parametrize("size", [(2, 9, 7), (4, 64, 64)], ids=str)
@pytest.mark.parametrize("num_threads", [1, 2, 9])
@pytest.mark.usefixtures("isa", "threads")
def test_the_fingerprint_is_made_between_products(
    num_threads: int, size: tuple[int, int, int], channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(num_threads)
    weight = torch.randn(*channels, 3, 3)
    results = [convolved(weight, size) for _ in range(2)]
    convolutions = Convolutions(monkeypatch)
    results += [convolved(weight, size) for _ in range(4)]
    assert convolutions.calls == [(True, convolutions.fingerprint(weight))] * 4
    assert all(torch.equal(result, results[0]) for result in results)
    weight.numpy()[-1, -1, -1, -1] += 1.0
    convolutions.calls.clear()
    convolved(weight, size)
    assert convolutions.calls == [(True, convolutions.fingerprint(weight)), (False, 0)]


def test_no_guess_of_a_weight_that_an_optimizer_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches a step: at the second the form is kept, and then the weight changes."""
    weight = nn.Parameter(torch.randn(40, 48, 3, 3))
    convolutions = Convolutions(monkeypatch)
    for _ in range(3):
        convolved(weight)
        convolved(weight)
        _optimizer_step(weight)
    assert [checks for checks, _ in convolutions.calls] == [False] * 6


def test_no_guess_where_another_thread_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(40, 48, 3, 3)
    expected, *_ = (convolved(weight) for _ in range(3))
    layout = weights._layout

    def slow_layout(weight: Tensor) -> object:
        for kept in weights._KEEPING[Worth.SOME]:
            kept.prepared = None
        return layout(weight)

    monkeypatch.setattr(weights, "_layout", slow_layout)
    assert torch.equal(convolved(weight), expected)
