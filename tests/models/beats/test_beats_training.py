"""What only training uses: parts of the patches, gradients by depth, LayerDrop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ssl_audio.models import BeatsEncoder
from ssl_audio.models.beats import Transformer
from ssl_audio.models.beats.positions import ConvolutionalPositions, RelativeBias

Build = Callable[..., BeatsEncoder]
KEPT = torch.tensor([[0, 3, 4, 11, 20], [1, 2, 9, -1, -1]])


@torch.no_grad()
def test_all_patches_at_their_own_positions_change_nothing(tiny: Build) -> None:
    model = tiny()
    patches, lengths = model.patchify(torch.randn(2, 48, 128), torch.tensor([48, 32]))
    expected = model.encode_patches(patches, lengths)
    positions = torch.arange(patches.shape[1]).expand(2, -1)
    found = model.encode_patches(patches, lengths, positions, patches.shape[1])
    torch.testing.assert_close(found.frames[0], expected.frames[0])
    torch.testing.assert_close(found.frames[1, :16], expected.frames[1, :16])


@torch.no_grad()
def test_dropped_patches_keep_the_others_where_they_were() -> None:
    bias = RelativeBias(16, 40, 2)
    by_pair = bias(24)[0][:, KEPT[0]][:, :, KEPT[0]]
    torch.testing.assert_close(bias(5, KEPT[:1])[0], by_pair)

    conv = ConvolutionalPositions(4, 6, 2)
    x = torch.randn(1, 5, 4)
    grid = torch.zeros(1, 24, 4)
    grid[:, KEPT[0]] = x
    torch.testing.assert_close(conv.at(x, KEPT[:1], 24), conv(grid)[:, KEPT[0]])


@torch.no_grad()
@pytest.mark.parametrize("num_positions", [None, 24])
def test_padding_after_the_kept_patches_does_not_matter(
    tiny: Build, num_positions: int | None
) -> None:
    """With original positions as with compacted ones."""
    model = tiny()
    kept = KEPT if num_positions else None
    patches = torch.randn(2, 5, model.embed_dim)
    batch = model.encode_patches(patches, torch.tensor([5, 3]), kept, num_positions)
    own = None if kept is None else kept[1:, :3]
    alone = model.encode_patches(patches[1:, :3], None, own, num_positions)
    torch.testing.assert_close(batch.frames[1, :3], alone.frames[0], atol=1e-5, rtol=0)
    assert batch.frames.isfinite().all()


def gradient_norms(model: BeatsEncoder) -> dict[str, Tensor]:
    torch.manual_seed(5)
    model.forward_features(torch.randn(1, 32, 128)).frames.pow(3).sum().backward()
    return {name: parameter.grad.norm() for name, parameter in model.named_parameters()}


def test_gradients_decay_layer_by_layer_and_reach_all(tiny: Build) -> None:
    full, decayed = (
        gradient_norms(tiny(encoder_layers=3, layer_wise_gradient_decay_ratio=ratio))
        for ratio in (1.0, 0.5)
    )
    model = tiny(encoder_layers=3)
    depths = {name: model.layer_of(name) for name in full}
    assert set(depths.values()) == {0, 1, 2, 3, 4}
    for name, norm in full.items():
        assert norm > 0, name
        if depths[name] <= model.num_layers:  # the shared table gets a mixture
            factor = 0.5 ** (model.num_layers - depths[name])
            torch.testing.assert_close(decayed[name], factor * norm, rtol=1e-4, atol=0)


def test_depth_of_head_and_norms(tiny: Build) -> None:
    model = tiny(finetuned_model=True, predictor_class=3)
    top = model.num_layers + 1
    assert model.layer_of("predictor.weight") == top
    assert model.layer_of("encoder.relative_attention_bias.weight") == top
    assert model.layer_of("encoder.layer_norm.weight") == 0
    assert model.layer_of("patch_embedding.weight") == 0
    assert model.layer_of("encoder.layers.1.fc1.weight") == 2
    final = tiny(layer_norm_first=True, deep_norm=False)
    assert final.layer_of("encoder.layer_norm.weight") == top


def test_layerdrop_leaves_layers_out_and_no_parameter_without_gradient(tiny: Build) -> None:
    model = tiny(encoder_layerdrop=0.5, encoder_layers=6)
    features = torch.randn(1, 32, 128)
    whole = model.forward_features(features).hidden_states
    assert not any(torch.equal(a, b) for a, b in pairwise(whole))
    model.train()
    skipped = []
    for seed in (1, 1, 2, 3, 4, 5, 6, 7):
        torch.manual_seed(seed)
        states = model.forward_features(features).hidden_states
        skipped.append([torch.equal(a, b) for a, b in pairwise(states)])
    assert skipped[0] == skipped[1]
    assert 0.3 < torch.tensor(skipped[1:]).float().mean() < 0.7
    assert any(skipped[-1])
    states[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_leaving_out_all_layers_still_gives_every_parameter_a_gradient(tiny: Build) -> None:
    """Else the other ranks would wait for the shared bias's."""
    model = tiny(encoder_layerdrop=0.999999).train()
    out = model(torch.randn(1, 16_000))
    assert all(torch.equal(out.frames, state) for state in out.hidden_states)
    out.frames.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_estimators_and_predictors_reuse_the_layers(tiny: Build) -> None:
    config = tiny().settings.transformer()
    stack = Transformer(replace(config, num_layers=3, dim=8)).eval()
    x = torch.randn(2, 30, 8)
    with torch.no_grad():
        states = stack(x, torch.tensor([30, 11]))
        alone = stack(x[1:, :11])
    assert len(states) == 4
    assert states[0] is x
    torch.testing.assert_close(states[-1][1, :11], alone[-1][0], atol=1e-5, rtol=0)
    assert stack.layers[0].alpha == pytest.approx(6**0.25)
