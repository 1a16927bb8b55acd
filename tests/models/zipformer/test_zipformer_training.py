"""Training mode: what is random, what is scheduled, what must be resumed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_audio.models import Zipformer
from ssl_audio.models.zipformer.schedules import Scheduled
from ssl_audio.models.zipformer.trunk import ZipformerTrunk
from ssl_audio.models.zipformer.whiten import PASS_PROB, VIOLATION_PROB, Whiten

Build = Callable[..., Zipformer]
FEATURES = torch.randn(4, 60, 20, generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([60, 50, 45, 30])


def gradients(model: Zipformer, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    model.forward_features(FEATURES, LENGTHS).frames.square().sum().backward()
    return {name: x.grad for name, x in model.named_parameters() if x.grad is not None}


@pytest.mark.parametrize("batch_count", [0, 3000, 100_000])
def test_every_parameter_gets_a_finite_gradient(tiny: Build, batch_count: int) -> None:
    model = tiny().train()
    model.set_batch_count(batch_count)
    names = {name for name, _ in model.named_parameters()}
    for seed in range(8):  # positions are left out of the scores in some of them
        found = gradients(model, seed)
        assert found.keys() == names
        assert all(grad.isfinite().all() for grad in found.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_under_autocast(tiny: Build, dtype: torch.dtype) -> None:
    model = tiny().train()
    for seed in range(4):
        with torch.autocast("cpu", dtype):
            found = gradients(model, seed)
        assert all(grad.isfinite().all() for grad in found.values())
        assert {grad.dtype for grad in found.values()} == {torch.float32}


def test_a_step_is_a_function_of_the_seed(tiny: Build) -> None:
    first, second = tiny().train(), tiny().train()
    gradients(first, 5)  # other random numbers and looks before
    second.load_training_state(tiny().training_state())
    first.load_training_state(tiny().training_state())
    expected, actual = gradients(first, 7), gradients(second, 7)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    other = gradients(second, 8)
    assert any(not torch.equal(other[name], expected[name]) for name in expected)


def test_the_switch_makes_training_the_inference_graph(tiny: Build) -> None:
    model = tiny(regularize=False)
    expected = model.forward_features(FEATURES, LENGTHS).frames
    actual = model.train().forward_features(FEATURES, LENGTHS).frames
    assert torch.equal(actual, expected)
    plain, other = gradients(model, 0), gradients(model, 1)
    assert all(torch.equal(other[name], plain[name]) for name in plain)


def test_batch_count_reaches_every_schedule(tiny: Build) -> None:
    model = tiny().train()
    model.set_batch_count(1234)
    counts = {module.batch_count for module in model.modules() if isinstance(module, Scheduled)}
    assert counts == {1234.0}
    rates = [layer.bypass.rate(layer.bypass.skip) for layer in model.encoder.encoders[0].layers]
    assert 0.035 < rates[0] < 0.5
    model.eval()
    assert model.encoder.encoders[0].layers[0].bypass.rate(lambda count: 1.0) == 0.0


def test_training_state_resumes_exactly(tiny: Build) -> None:
    model = tiny().train()
    for step in range(6):
        model.set_batch_count(step)
        gradients(model, step)
    state = model.training_state()
    twin = tiny().train()
    twin.load_training_state(state)
    assert twin.training_state() == state
    for step in range(6, 9):
        model.set_batch_count(step)
        twin.set_batch_count(step)
        expected, actual = gradients(model, step), gradients(twin, step)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match="Whiten modules"):
        tiny(num_encoder_layers=1).load_training_state(state)


def test_whiten_looks_seldom_after_a_pass(tiny: Build) -> None:
    model = tiny().train()
    whitens = [module for module in model.modules() if isinstance(module, Whiten)]
    assert {module.prob for module in whitens} == {VIOLATION_PROB}
    whitens[0].last_look, whitens[1].last_look = torch.tensor(False), torch.tensor(True)
    model.set_batch_count(1)
    assert [module.prob for module in whitens[:3]] == [PASS_PROB, VIOLATION_PROB, VIOLATION_PROB]
    assert all(module.last_look is None for module in whitens)


def test_feature_masks_spare_the_unmasked_channels(tiny: Build) -> None:
    trunk: ZipformerTrunk = tiny().train().encoder
    torch.manual_seed(0)
    masks = trunk._feature_masks(torch.zeros(4000, 1, 16))
    assert [mask.shape for mask in masks] == [(4000, 1, 16), (4000, 1, 24), (4000, 1, 16)]
    kept = masks[1].mean(dim=0)[0]
    assert (kept[:16] == 1).all()
    torch.testing.assert_close(kept[16:20], torch.full((4,), 0.875), atol=0.02, rtol=0)
    torch.testing.assert_close(kept[20:], torch.full((4,), 0.875**2), atol=0.02, rtol=0)
    assert torch.equal(masks[0][:, :, 8], masks[1][:, :, 16])  # one draw for all stacks


def test_initial_sizes(tiny: Build) -> None:
    layer = tiny().encoder.encoders[0].layers[0]
    assert layer.bypass.bypass_scale.unique().tolist() == [0.5]
    assert layer.norm.log_scale == 1.0
    assert layer.feed_forward1.out_proj.weight.abs().max() < 0.1 * 24**-0.5
    assert layer.self_attn1.out_proj.bias.abs().max() <= 0.005
    assert layer.self_attn_weights.in_proj.bias.abs().max() <= 0.1 * 8**-0.25
    assert (tiny().encoder.encoders[1].downsample.bias == 0).all()
