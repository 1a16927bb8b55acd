from __future__ import annotations

from itertools import groupby

import pytest
import torch
from torch import Tensor

from ssl_audio.tasks.masking import mask_features, output_mask, span_mask


def time_mask(lengths: list[int], indices: list[int], **changes) -> Tensor:
    settings = {"prob": 0.65, "span": 10, "min_masks": 2, "purpose": "time_mask", "seed": 7}
    return span_mask(
        torch.tensor(lengths), sample_index=torch.tensor(indices), **(settings | changes)
    )


def runs_of_true(row: Tensor) -> list[int]:
    return [len(list(group)) for value, group in groupby(row.tolist()) if value]


def test_a_clips_mask_ignores_its_neighbours() -> None:
    alone = time_mask([300], [5])
    together = time_mask([900, 300, 40], [4, 5, 6])
    torch.testing.assert_close(together[1, :300], alone[0])
    assert not together[1, 300:].any()
    padded = time_mask([300], [5], max_length=1000)
    assert padded.shape == (1, 1000)
    torch.testing.assert_close(padded[0, :300], alone[0])


def test_seed_purpose_and_index_change_the_mask() -> None:
    base = time_mask([500], [5])
    assert not torch.equal(base, time_mask([500], [6]))
    assert not torch.equal(base, time_mask([500], [5], seed=8))
    assert not torch.equal(base, time_mask([500], [5], purpose="other"))


def test_masked_runs_are_whole_spans_of_unequal_count() -> None:
    mask = time_mask([400] * 50, list(range(50)))
    assert all(run >= 10 for row in mask for run in runs_of_true(row))
    assert len(set(mask.sum(1).tolist())) > 5


def test_min_masks_applies_when_probability_gives_fewer() -> None:
    mask = time_mask([1000] * 20, list(range(20)), prob=0.0)
    assert all(11 <= count <= 20 for count in mask.sum(1).tolist())
    assert not time_mask([1000], [0], prob=0.0, min_masks=0).any()


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 19, 20, 25])
def test_short_clips_keep_to_their_length(length: int) -> None:
    mask = time_mask([length, 60], [1, 2])
    assert not mask[0, length:].any()
    assert mask[0].sum() <= 10 * (length // 10)
    assert bool(mask[0].any()) == (length >= 10)


def test_bad_settings_name_the_mask() -> None:
    with pytest.raises(ValueError, match=r"channel_mask: the masking probability is 1\.5"):
        time_mask([100], [0], prob=1.5, purpose="channel_mask")
    with pytest.raises(ValueError, match="time_mask: span 0"):
        time_mask([100], [0], span=0)


def test_mask_features_zeroes_channels_and_replaces_frames() -> None:
    features = torch.randn(2, 6, 4)
    times = torch.tensor([[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]).bool()
    channels = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    embedding = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    masked = mask_features(features, times, channels, embedding)
    torch.testing.assert_close(masked[0, 0], embedding)
    torch.testing.assert_close(masked[1, 5], embedding)
    assert not masked[0, 1:, 1].any()
    torch.testing.assert_close(masked[0, 1:, [0, 2, 3]], features[0, 1:, [0, 2, 3]])
    torch.testing.assert_close(masked[1, :5], features[1, :5])
    masked.sum().backward()
    torch.testing.assert_close(embedding.grad, torch.full((4,), 2.0))


def test_output_mask_needs_half_of_the_window() -> None:
    times = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 1, 1]]).bool()
    assert output_mask(times, 2, 4).tolist() == [[True, True, False, True]]
    assert output_mask(times, 4, 2).tolist() == [[True, False]]
    assert output_mask(times, 2, 2).tolist() == [[True, True]]
    assert output_mask(times, 4, 4).tolist() == [[True, False, False, False]]
