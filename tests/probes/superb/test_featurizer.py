from __future__ import annotations

import pytest
import torch

from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.superb.featurizer import Featurizer, match_frames
from ssl_audio.probes.superb.layers import LayerStack


def test_the_sum_starts_as_the_mean_of_layers():
    layers = torch.randn(3, 2, 5, 4)
    torch.testing.assert_close(Featurizer(3)(layers), layers.mean(0))
    second = Featurizer(3)
    second.logits.data = torch.tensor([0.0, 50.0, 0.0])
    torch.testing.assert_close(second(layers), layers[1])


def test_frames_are_cut_or_the_last_valid_one_is_repeated():
    states = torch.arange(1.0, 9.0).view(2, 4, 1)
    found = match_frames(states, torch.tensor([4, 2]), torch.tensor([2, 5]))
    assert found[..., 0].tolist() == [[1, 2, 0, 0, 0], [5, 6, 6, 6, 6]]


def test_layers_of_different_width_are_padded_to_the_widest(tiny_encoder):
    stack = LayerStack(EncoderLayers(tiny_encoder))
    waveforms = torch.randn(2, 16_000)
    lengths = torch.tensor([16_000, 8_000])
    ((rows, joined, frames),) = stack.stacked(waveforms, lengths)
    assert rows == slice(0, 2)
    assert joined.shape == (4, 2, 50, stack.dim)
    assert stack.dim == 161
    assert frames.tolist() == [50, 25]
    layers, _ = stack.source.layers(waveforms, lengths)
    for name, padded in zip(stack.names, joined, strict=True):
        width = layers[name].shape[-1]
        torch.testing.assert_close(padded[..., :width], layers[name])
        assert not padded[..., width:].any()


def test_normalised_layers_and_matched_lengths(tiny_encoder):
    source = EncoderLayers(tiny_encoder, ["2"])
    waveforms, lengths = torch.randn(1, 16_001), torch.tensor([16_001])
    plain = LayerStack(source)
    stack = LayerStack(source, layer_norm=True, match_lengths=True)
    ((_, before, frames),) = plain.stacked(waveforms, lengths)
    ((_, after, matched),) = stack.stacked(waveforms, lengths)
    assert (frames.item(), matched.item()) == (50, 51)  # floor((16001 - 1) / 320) + 1
    centred = before - before.mean(-1, keepdim=True)
    wanted = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(after[:, :, :50], wanted)
    torch.testing.assert_close(after[:, :, 50], wanted[:, :, 49])
    assert len({plain.key, stack.key}) == 2


@pytest.mark.parametrize("match_lengths", [False, True])
def test_a_clip_alone_equals_the_clip_in_a_batch(match_lengths):
    stack = LayerStack(EncoderLayers(MfccEncoder().eval()), True, match_lengths)
    waveforms = torch.randn(2, 9_000)
    waveforms[1, 5_000:] = 0
    lengths = torch.tensor([9_000, 5_000])
    ((_, together, frames),) = stack.stacked(waveforms, lengths)
    ((_, alone, count),) = stack.stacked(waveforms[1:, :5_000], lengths[1:])
    assert count.item() == frames[1].item()
    torch.testing.assert_close(together[:, 1, : count.item()], alone[:, 0], atol=1e-4, rtol=1e-4)
