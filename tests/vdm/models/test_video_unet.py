from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vdm.models import Conditioning, VideoUNet
from vdm.models.attention import CrossAttention, SpatialAttention, TemporalAttention
from vdm.models.blocks import Downsample, Features, ResidualBlock, UNetBlock, Upsample

MakeModel = Callable[..., VideoUNet]

ALL_CONDITIONS = {
    "num_classes": 5,
    "text_embedding_dim": 6,
    "text_token_dim": 7,
    "fps_conditioning": True,
    "low_res_channels": 2,
    "known_frames": True,
    "relative_bias": "network",
}


def conditions(b: int = 2, f: int = 4, h: int = 4, w: int = 8) -> dict[str, Tensor]:
    """A value for every condition of a model with ALL_CONDITIONS."""
    generator = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "labels": torch.arange(b) % 5,
        "text_embedding": randn(b, 6),
        "text_tokens": randn(b, 3, 7),
        "text_mask": torch.ones(b, 3, dtype=torch.bool),
        "fps": torch.full((b,), 8.0),
        "frame_positions": torch.arange(f).expand(b, f) * 2,
        "low_res": randn(b, 2, f // 2, 2, 4),
        "low_res_logsnr": torch.zeros(b),
        "known_frames": randn(b, 2, f, h, w),
        "known_mask": torch.tensor([1] + [0] * (f - 1)).expand(b, f),
        "drop": torch.zeros(b, dtype=torch.bool),
    }


@pytest.mark.parametrize(
    ("b", "f", "h", "w"), [(1, 1, 2, 2), (2, 3, 4, 10), (3, 17, 6, 2), (1, 5, 16, 8), (0, 3, 4, 4)]
)
def test_any_batch_any_frame_count_any_rectangle(
    make_model: MakeModel, b: int, f: int, h: int, w: int
) -> None:
    out = make_model(out_channels=3)(torch.randn(b, 2, f, h, w), torch.zeros(b))
    assert out.shape == (b, 3, f, h, w)
    assert out.is_contiguous()
    assert out.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"channel_multipliers": (1,), "attention_levels": (0,)},
        {"channel_multipliers": (1, 2, 1), "attention_levels": (0, 2)},
        {"num_blocks": 2},
        {"num_blocks": 2, "num_up_blocks": 2},
        {"attention_levels": ()},
        {"norm_scope": "video"},
        {"relative_bias": "distance"},
        {"relative_bias": "network"},
        {"spatial_bias_size": 8},
        {"embedding_layers": 1},
        {"embedding_layers": 4},
        {"dropout": 0.2},
    ],
    ids=str,
)
def test_every_variant_trains_every_parameter(make_model: MakeModel, changes: dict) -> None:
    model = make_model(**changes).train()
    model(torch.randn(2, 2, 3, 4, 8), torch.randn(2)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_every_condition_trains_its_parameters(make_model: MakeModel) -> None:
    model = make_model(**ALL_CONDITIONS)
    given = {**conditions(), "drop": torch.tensor([True, False])}
    model(torch.randn(2, 2, 4, 4, 8), torch.randn(2), Conditioning(**given)).square().sum().backward()
    # What is added to all scores of a head changes no softmax: its gradient is zero, but for rounding.
    idle = "relative_bias.out.bias"
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not (parameter.grad.any() or name.endswith(idle))
    ]
    assert silent == []


def test_a_new_model_predicts_zero() -> None:
    model = VideoUNet(
        base_channels=8, channel_multipliers=(1, 1), attention_levels=(1,), head_dim=8, num_groups=4
    )
    assert not model(torch.randn(1, 3, 2, 4, 4), torch.zeros(1)).any()


def test_the_layout_of_the_input_does_not_matter(make_model: MakeModel) -> None:
    model, logsnr = make_model(), torch.zeros(2)
    x = torch.randn(2, 2, 3, 4, 6)
    out = model(x, logsnr)
    for same in (
        x.contiguous(memory_format=torch.channels_last_3d),
        x.transpose(1, 2).contiguous().transpose(1, 2),
        torch.cat([x, x], 4)[..., :6],
    ):
        other = model(same, logsnr)
        assert torch.equal(other, out)
        assert other.is_contiguous()


def test_rows_are_independent(make_model: MakeModel) -> None:
    model = make_model(**ALL_CONDITIONS)
    x, logsnr, given = torch.randn(2, 2, 4, 4, 8), torch.tensor([1.0, -3.0]), conditions()
    both = model(x, logsnr, Conditioning(**given))
    for b in range(2):
        row = Conditioning(**{name: value[b : b + 1] for name, value in given.items()})
        torch.testing.assert_close(
            model(x[b : b + 1], logsnr[b : b + 1], row), both[b : b + 1], rtol=1e-5, atol=1e-5
        )


def test_the_same_call_twice_gives_the_same_bits(make_model: MakeModel) -> None:
    model = make_model(**ALL_CONDITIONS)
    x, logsnr, given = torch.randn(2, 2, 4, 4, 8), torch.zeros(2), Conditioning(**conditions())
    assert torch.equal(model(x, logsnr, given), model(x, logsnr, given))


def test_the_state_dict_round_trips(make_model: MakeModel) -> None:
    model = make_model(**ALL_CONDITIONS, spatial_bias_size=8)
    torch.manual_seed(7)
    other = VideoUNet.from_config(model.config).eval()
    missing = other.load_state_dict(model.state_dict())
    assert (missing.missing_keys, missing.unexpected_keys) == ([], [])
    x, given = torch.randn(2, 2, 4, 4, 8), Conditioning(**conditions())
    assert torch.equal(other(x, torch.zeros(2), given), model(x, torch.zeros(2), given))


def test_the_noise_level_changes_the_output(make_model: MakeModel) -> None:
    model, x = make_model(), torch.randn(1, 2, 3, 4, 4)
    outs = [model(x, torch.tensor([logsnr])) for logsnr in (-20.0, -19.9, 0.0, 20.0)]
    for i, a in enumerate(outs):
        assert all((a - b).abs().max() > 1e-5 for b in outs[:i])


CHANGES: dict[str, Tensor] = {
    "labels": torch.tensor([4, 5]),
    "text_embedding": torch.ones(2, 6),
    "text_tokens": torch.ones(2, 3, 7),
    "text_mask": torch.tensor([[True, True, False]] * 2),
    "fps": torch.tensor([8.5, 30.0]),
    "frame_positions": torch.tensor([[0, 2, 4, 700], [0, 3, 4, 5]]),
    "low_res": torch.ones(2, 2, 2, 2, 4),
    "low_res_logsnr": torch.tensor([0.1, 5.0]),
    "known_frames": torch.ones(2, 2, 4, 4, 8),
    "known_mask": torch.tensor([[0, 1, 0, 0]] * 2),
    "drop": torch.tensor([True, True]),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_condition_changes_the_output(make_model: MakeModel, name: str) -> None:
    model, x, logsnr = make_model(**ALL_CONDITIONS), torch.randn(2, 2, 4, 4, 8), torch.zeros(2)
    given = conditions()
    before = model(x, logsnr, Conditioning(**given))
    after = model(x, logsnr, Conditioning(**{**given, name: CHANGES[name]}))
    assert (after - before).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-5


def test_a_dropped_row_is_a_row_of_the_null_class_and_no_text(make_model: MakeModel) -> None:
    model = make_model(num_classes=5, text_embedding_dim=6, text_token_dim=7)
    x, logsnr = torch.randn(2, 2, 4, 4, 8), torch.zeros(2)
    names = ("labels", "text_embedding", "text_tokens", "text_mask")
    given = {name: value for name, value in conditions().items() if name in names}
    full = model(x, logsnr, Conditioning(**given))
    null = model(x, logsnr, Conditioning(**given).null())
    half = model(x, logsnr, Conditioning(**given, drop=torch.tensor([False, True])))
    torch.testing.assert_close(half[0], full[0])
    torch.testing.assert_close(half[1], null[1])
    # Nothing of what was dropped is left, not even a NaN.
    other = {
        "labels": torch.tensor([3, 3]),
        "text_embedding": torch.full((2, 6), torch.nan),
        "text_tokens": torch.randn(2, 9, 7),
    }
    torch.testing.assert_close(model(x, logsnr, Conditioning(**other).null()), null)


def test_dropping_a_class_is_giving_the_null_class(make_model: MakeModel) -> None:
    model = make_model(num_classes=5)
    x, logsnr = torch.randn(2, 2, 3, 4, 4), torch.zeros(2)
    null = model(x, logsnr, Conditioning(labels=torch.tensor([5, 5])))
    assert torch.equal(model(x, logsnr, Conditioning(labels=torch.tensor([1, 2])).null()), null)
    per_frame = Conditioning(labels=torch.tensor([[1, 2, 3], [4, 0, 1]])).null()
    torch.testing.assert_close(model(x, logsnr, per_frame), null)


def test_masked_tokens_are_not_there(make_model: MakeModel) -> None:
    model = make_model(text_token_dim=7)
    x, logsnr, tokens = torch.randn(2, 2, 2, 4, 4), torch.zeros(2), torch.randn(2, 5, 7)
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    masked = model(x, logsnr, Conditioning(text_tokens=tokens, text_mask=mask))
    torch.testing.assert_close(model(x, logsnr, Conditioning(text_tokens=tokens[:, :3])), masked)
    nothing = Conditioning(text_tokens=tokens, text_mask=torch.zeros(2, 5, dtype=torch.bool))
    torch.testing.assert_close(
        model(x, logsnr, nothing), model(x, logsnr, Conditioning(text_tokens=tokens).null())
    )


def test_default_positions_are_consecutive(make_model: MakeModel) -> None:
    for kind in ("t5", "distance", "network"):
        model = make_model(relative_bias=kind)
        x, logsnr = torch.randn(2, 2, 4, 4, 4), torch.zeros(2)
        given = Conditioning(frame_positions=torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]]))
        torch.testing.assert_close(model(x, logsnr, given), model(x, logsnr))


def test_a_distance_over_the_table_is_an_error(make_model: MakeModel) -> None:
    model = make_model(relative_bias="distance", relative_bias_max_distance=3)
    model(torch.randn(1, 2, 4, 2, 2), torch.zeros(1))
    with pytest.raises(
        ValueError, match="frame distances must be at most relative_bias_max_distance=3, got 4"
    ):
        model(torch.randn(1, 2, 5, 2, 2), torch.zeros(1))


def test_known_frames_count_under_the_mask_only(make_model: MakeModel) -> None:
    model, x, logsnr = make_model(known_frames=True), torch.randn(2, 2, 4, 4, 4), torch.zeros(2)
    known, mask = torch.randn(2, 2, 4, 4, 4), torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]])
    out = model(x, logsnr, Conditioning(known_frames=known, known_mask=mask))
    junk = known.masked_fill(mask.view(2, 1, 4, 1, 1) == 0, torch.nan)
    assert torch.equal(model(x, logsnr, Conditioning(known_frames=junk, known_mask=mask)), out)
    pixels = mask.view(2, 1, 4, 1, 1).expand(2, 1, 4, 4, 4)
    assert torch.equal(model(x, logsnr, Conditioning(known_frames=known, known_mask=pixels.bool())), out)
    nothing = Conditioning(known_frames=known, known_mask=torch.zeros(2, 4))
    assert torch.equal(model(x, logsnr, nothing), model(x, logsnr))


def test_low_resolution_is_repeated_in_time_and_bilinear_in_space(make_model: MakeModel) -> None:
    model, x, logsnr = make_model(low_res_channels=1), torch.randn(1, 2, 6, 4, 4), torch.zeros(1)
    low = torch.randn(1, 1, 2, 2, 2)
    expanded = torch.nn.functional.interpolate(low[0].transpose(0, 1), size=(4, 4), mode="bilinear")
    expanded = expanded.transpose(0, 1).repeat_interleave(3, dim=1).unsqueeze(0)
    outs = [model(x, logsnr, Conditioning(low_res=v, low_res_logsnr=torch.ones(1))) for v in (low, expanded)]
    torch.testing.assert_close(*outs)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 3, 4), r"x must be \(B, C, F, H, W\), got 4 dimensions"),
        ((1, 3, 3, 4, 4), "x must have in_channels=2 channels, got 3"),
        ((1, 2, 0, 4, 4), "x needs at least one frame, got F=0"),
        ((1, 2, 3, 5, 4), "height and width must be positive multiples of 2 for 2 levels, got H=5, W=4"),
        ((1, 2, 3, 4, 0), "height and width must be positive multiples of 2 for 2 levels, got H=4, W=0"),
        ((1, 2, 3, 4, 16), "height and width must be at most spatial_bias_size=8, got H=4, W=16"),
        ((2, 2, 3, 4, 4), r"logsnr must have shape \(2,\), got \(1,\)"),
    ],
)
def test_bad_shapes_are_named(make_model: MakeModel, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"VideoUNet: {message}"):
        make_model(spatial_bias_size=8)(torch.zeros(shape), torch.zeros(1))


def test_integer_videos_are_an_error(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"x must be floating point, got torch.uint8"):
        make_model()(torch.zeros(1, 2, 1, 2, 2, dtype=torch.uint8), torch.zeros(1))


@pytest.mark.parametrize("name", [n for n in sorted(CHANGES) if n not in ("frame_positions", "drop")])
def test_a_condition_the_model_was_not_built_for_is_an_error(make_model: MakeModel, name: str) -> None:
    given = Conditioning(**{name: CHANGES[name]})
    with pytest.raises(ValueError, match=r"VideoUNet: .* needs"):
        make_model()(torch.randn(2, 2, 4, 4, 8), torch.zeros(2), given)


@pytest.mark.parametrize(
    "name", ["labels", "text_embedding", "text_tokens", "fps", "low_res", "low_res_logsnr"]
)
def test_a_missing_condition_is_an_error(make_model: MakeModel, name: str) -> None:
    given = {key: value for key, value in conditions().items() if key not in (name, "text_mask")}
    with pytest.raises(ValueError, match=f"needs Conditioning.{name}, got none"):
        make_model(**ALL_CONDITIONS)(torch.randn(2, 2, 4, 4, 8), torch.zeros(2), Conditioning(**given))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([1])}, r"labels must have shape \(2,\) or \(2, 4\), got \(1,\)"),
        ({"labels": torch.tensor([1, 6])}, r"labels must be in 0..5 \(the null class\), got 1..6"),
        ({"labels": torch.tensor([-1, 2])}, r"labels must be in 0..5 \(the null class\), got -1..2"),
        ({"labels": torch.tensor([1.0, 2.0])}, "labels must be integers, got torch.float32"),
        (
            {"text_embedding": torch.zeros(2, 5)},
            r"text_embedding must have shape \(2, 6\) or \(2, 4, 6\), got",
        ),
        ({"text_tokens": torch.zeros(2, 7)}, r"text_tokens must have shape .*, got \(2, 7\)"),
        (
            {"text_mask": torch.zeros(2, 4, dtype=torch.bool)},
            r"text_mask must have shape \(2, 3\), got \(2, 4\)",
        ),
        ({"text_mask": torch.zeros(2, 3)}, "text_mask must be bool, got torch.float32"),
        ({"fps": torch.ones(2, 1)}, r"fps must have shape \(2,\), got \(2, 1\)"),
        ({"frame_positions": torch.zeros(4)}, r"frame_positions must have shape \(2, 4\), got \(4,\)"),
        ({"frame_positions": torch.zeros(2, 4)}, "frame_positions must be integers, got torch.float32"),
        (
            {"low_res": torch.zeros(2, 3, 2, 2, 2)},
            r"low_res must be \(2, 2, F', H', W'\), got \(2, 3, 2, 2, 2\)",
        ),
        (
            {"low_res": torch.zeros(2, 2, 3, 2, 2)},
            "low_res needs a divisor of 4 video frames and 0 images, got F'=3",
        ),
        (
            {"known_frames": torch.zeros(2, 2, 4, 4, 4)},
            r"known_frames must have shape \(2, 2, 4, 4, 8\), got",
        ),
        (
            {"known_mask": torch.zeros(2, 1, 4)},
            r"known_mask must have shape \(2, 4\) or \(2, 1, 4, 4, 8\), got",
        ),
        ({"known_mask": None}, "known_frames and known_mask must be given together"),
        ({"drop": torch.zeros(2)}, "drop must be bool, got torch.float32"),
        ({"drop": torch.zeros(3, dtype=torch.bool)}, r"drop must have shape \(2,\), got \(3,\)"),
        ({"num_image_frames": 5}, "num_image_frames must be in 0..F=4, got 5"),
    ],
)
def test_bad_conditions_are_named(make_model: MakeModel, changes: dict, message: str) -> None:
    given = Conditioning(**{**conditions(), **changes})
    with pytest.raises(ValueError, match=f"VideoUNet: {message}"):
        make_model(**ALL_CONDITIONS)(torch.randn(2, 2, 4, 4, 8), torch.zeros(2), given)


def test_hidden_videos_are_channels_last(make_model: MakeModel) -> None:
    model = make_model(
        **ALL_CONDITIONS, spatial_bias_size=8, channel_multipliers=(1, 2, 2), attention_levels=(1, 2)
    )
    ours = (
        UNetBlock,
        ResidualBlock,
        SpatialAttention,
        TemporalAttention,
        CrossAttention,
        Downsample,
        Upsample,
    )
    seen = []
    for name, module in model.named_modules():
        if isinstance(module, ours):

            def hook(_module: torch.nn.Module, inputs: tuple, output: object, name: str = name) -> None:
                values = [
                    value.video if isinstance(value, Features) else value for value in (*inputs, output)
                ]
                videos = [value for value in values if isinstance(value, Tensor) and value.ndim == 5]
                seen.extend((name, v.is_contiguous(memory_format=torch.channels_last_3d)) for v in videos)

            module.register_forward_hook(hook)
    model(torch.randn(2, 2, 4, 4, 8), torch.zeros(2), Conditioning(**conditions()))
    assert len(seen) > 60
    assert [name for name, channels_last in seen if not channels_last] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_agree_with_float32(make_model: MakeModel, dtype: torch.dtype) -> None:
    x, logsnr, given = torch.randn(2, 2, 4, 4, 8), torch.tensor([1.0, -3.0]), Conditioning(**conditions())
    wanted = make_model(**ALL_CONDITIONS)(x, logsnr, given)
    out = make_model(dtype=dtype, **ALL_CONDITIONS)(x.to(dtype), logsnr, given)
    assert out.dtype == dtype
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    assert (out.to(wanted.dtype) - wanted).norm() < tolerance * wanted.norm()


def test_bf16_autocast_runs_forward_and_backward(make_model: MakeModel) -> None:
    model, given = make_model(**ALL_CONDITIONS), Conditioning(**conditions())
    x, logsnr = torch.randn(2, 2, 4, 4, 8), torch.tensor([1.0, -3.0])
    wanted = model(x, logsnr, given)
    wanted.square().sum().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, logsnr, given)
    assert out.dtype == torch.float32
    assert 0 < (out - wanted).norm() < 0.05 * wanted.norm()
    out.square().sum().backward()
    low = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert low.dtype == torch.float32
    assert (low - gradient).norm() < 0.05 * gradient.norm()


MINIMAL = {"channel_multipliers": (1,), "attention_levels": (), "num_up_blocks": 1, "num_classes": 5}


def assert_compiles(model: VideoUNet, backend: str, x: Tensor, given: Conditioning) -> None:
    """Compiled as one graph, the output and every gradient are those of the model."""
    torch._dynamo.reset()
    logsnr = torch.zeros(x.shape[0])
    outs = [model(x, logsnr, given), torch.compile(model, fullgraph=True, backend=backend)(x, logsnr, given)]
    gradients = [torch.autograd.grad(out.square().sum(), list(model.parameters())) for out in outs]
    torch.testing.assert_close(outs[1], outs[0], rtol=1e-4, atol=1e-5)
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


def test_a_model_with_every_condition_is_one_graph(make_model: MakeModel) -> None:
    given = Conditioning(**conditions())
    assert_compiles(make_model(**ALL_CONDITIONS), "eager", torch.randn(2, 2, 4, 4, 8), given)


def test_the_gradients_are_one_graph(make_model: MakeModel) -> None:
    given = Conditioning(labels=torch.tensor([1, 2]), num_image_frames=1)
    assert_compiles(make_model(**MINIMAL), "aot_eager", torch.randn(2, 2, 3, 4, 4), given)


@pytest.mark.slow
def test_the_model_compiles_with_inductor(make_model: MakeModel) -> None:
    given = Conditioning(labels=torch.tensor([1, 2]), num_image_frames=1)
    assert_compiles(make_model(**MINIMAL), "inductor", torch.randn(2, 2, 3, 4, 4), given)


def test_sizes_may_change_between_calls_of_a_compiled_model(make_model: MakeModel) -> None:
    torch._dynamo.reset()
    model = make_model(**MINIMAL)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for b, f, h, w in ((2, 3, 4, 6), (3, 5, 6, 8)):
        x, logsnr, given = torch.randn(b, 2, f, h, w), torch.zeros(b), Conditioning(labels=torch.arange(b))
        torch.testing.assert_close(compiled(x, logsnr, given), model(x, logsnr, given))
