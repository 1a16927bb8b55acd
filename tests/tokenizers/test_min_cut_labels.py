"""Labels of clips whose frames are made of syllables."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ssl_audio
from ssl_audio.batch import IGNORE_CODE, EncoderOutput
from ssl_audio.models import HubertEncoder
from ssl_audio.models.encoder import Encoder
from ssl_audio.tokenizers.min_cut_labels import MinCutTokenizer

HOP = 320
SETTINGS = {
    "feature_layer": 1,
    "norm_layer": 2,
    "norm_cut": 0.1,
    "min_amplitude": 0.02,
    "segment_sec": 0.1,
    "merge_threshold": 0.4,
}


class Written(Encoder):
    """Reads the level of each frame's samples: its first digit is the direction of the state."""

    kind, embed_dim, num_layers, frame_rate = "written", 8, 2, 50.0

    @property
    def config(self):
        return {}

    def num_frames(self, num_samples):
        return num_samples // HOP

    def features(self, waveforms: Tensor, lengths: Tensor):
        frames = waveforms[:, : waveforms.shape[1] // HOP * HOP].unflatten(1, (-1, HOP))
        return frames.amax(-1), lengths // HOP

    def forward_features(self, features: Tensor, lengths: Tensor | None = None):
        direction = (10 * features).round().long()
        states = torch.nn.functional.one_hot(direction, 8) * (direction > 0)[..., None].float()
        return EncoderOutput(states, lengths, (states, states + 0.01, states))


def clip(levels: list[int]) -> Tensor:
    wave = torch.tensor(levels).repeat_interleave(HOP) / 10
    return wave * torch.tensor([1.0, -1.0]).repeat(len(wave) // 2)


LEVELS = [0] * 5 + [1] * 8 + [2] * 8 + [0] * 5 + [3] * 8 + [0] * 6
LABELS = [0] * 5 + [1] * 8 + [2] * 8 + [0] * 5 + [1] * 8 + [0] * 6


def test_syllables_of_a_clip_alone_and_in_a_padded_batch():
    tokenizer = MinCutTokenizer(Written(), **SETTINGS)
    tokens = tokenizer.encode(clip(LEVELS)[None])
    assert tokens.codes[0, :, 0].tolist() == LABELS
    short = clip(LEVELS[:30])
    batch = torch.nn.utils.rnn.pad_sequence([clip(LEVELS), short], batch_first=True)
    tokens = tokenizer.encode(batch, torch.tensor([len(LEVELS) * HOP, 30 * HOP]))
    assert tokens.lengths.tolist() == [40, 30]
    assert tokens.codes[0, :, 0].tolist() == LABELS
    assert torch.equal(tokens.codes[1, :30], tokenizer.encode(short[None]).codes[0])
    assert (tokens.codes[1, 30:] == IGNORE_CODE).all()


def test_silence_and_single_frames_have_no_segment():
    tokenizer = MinCutTokenizer(Written(), **SETTINGS)
    for levels in ([0] * 20, [0] * 10 + [4] + [0] * 9):
        assert not tokenizer.encode(clip(levels)[None]).codes.any()
    assert tokenizer.encode(torch.zeros(1, 100)).codes.shape == (1, 0, 1)


def test_export_round_trip(tmp_path):
    torch.manual_seed(0)
    teacher = HubertEncoder(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
    )
    tokenizer = MinCutTokenizer(teacher, **SETTINGS)
    restored = ssl_audio.load_tokenizer(ssl_audio.save(tokenizer, tmp_path))
    waves = torch.randn(1, 16_000)
    assert torch.equal(restored.encode(waves).codes, tokenizer.encode(waves).codes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"norm_layer": 3}, r"norm_layer=3: choose one in 0 \.\. 2"), ({"segment_sec": 0}, "above 0")],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        MinCutTokenizer(Written(), **SETTINGS | changes)
