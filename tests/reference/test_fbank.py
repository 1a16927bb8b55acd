"""KaldiFbank against lhotse (SPEAR's front end) and the released BEATs front end."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ssl_audio.frontends import KaldiFbank
from ssl_audio.frontends.kaldi import mel_filterbank, povey_window

BEATS_MEAN, BEATS_STD = 15.41663, 6.55582  # released checkpoints; features are (x - mean) / 2 std


def spear_cases(reference_dir: Path) -> list[dict[str, Tensor]]:
    paths = sorted((reference_dir / "spear").glob("fbank*.safetensors"))
    assert paths, f"no fbank*.safetensors in {reference_dir / 'spear'}"
    return [load_file(path) for path in paths]


def test_spear_features(reference_dir: Path) -> None:
    for tensors in spear_cases(reference_dir):
        for name in [name for name in tensors if name.startswith("wav")]:
            expected = tensors[name.replace("wav", "fbank")]
            features = KaldiFbank(num_mel_bins=expected.shape[1])(tensors[name][None])[0]
            torch.testing.assert_close(features, expected, atol=5e-4, rtol=0)


def test_spear_features_in_one_padded_batch(reference_dir: Path) -> None:
    for tensors in spear_cases(reference_dir):
        names = [name for name in tensors if name.startswith("wav")]
        waveforms = torch.nn.utils.rnn.pad_sequence([tensors[n] for n in names], batch_first=True)
        lengths = torch.tensor([len(tensors[name]) for name in names])
        expected = [tensors[name.replace("wav", "fbank")] for name in names]
        features = KaldiFbank(num_mel_bins=expected[0].shape[1])(waveforms, lengths)
        for clip, frames in zip(features, expected, strict=True):
            torch.testing.assert_close(clip[: len(frames)], frames, atol=5e-4, rtol=0)


def test_spear_window_and_filterbank(reference_dir: Path) -> None:
    for tensors in spear_cases(reference_dir):
        torch.testing.assert_close(povey_window(), tensors["window"], atol=1e-6, rtol=0)
        expected = tensors["mel_filterbank"]
        weights = mel_filterbank(expected.shape[1], 20.0, -400.0)
        torch.testing.assert_close(weights, expected, atol=1e-4, rtol=0)


def test_beats_features(reference_dir: Path) -> None:
    paths = sorted((reference_dir / "beats").glob("*_io.safetensors"))
    cases = [case for case in map(load_file, paths) if "nopad.fbank" in case]
    assert cases, f"no *_io.safetensors with nopad.fbank in {reference_dir / 'beats'}"
    for tensors in cases:
        expected = tensors["nopad.fbank"] * (2 * BEATS_STD) + BEATS_MEAN
        fbank = KaldiFbank(expected.shape[-1], high_freq_hz=0.0, snip_edges=True)
        features = fbank(tensors["waveform"] * 2**15)
        torch.testing.assert_close(features, expected, atol=1e-3, rtol=0)
