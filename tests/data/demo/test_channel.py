"""The random recording channel."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from ssl_audio.data.demo.channel import ChannelRange, coloured_noise, encode_flac, record


def test_labels_keep_their_time():
    """A click comes out where it went in, through room, noise and microphone."""
    dry = np.zeros(16_000)
    dry[6000] = 1.0
    ranges = ChannelRange(snr_db=(40, 40), telephone_probability=0.0)
    for seed in range(10):
        heard = record(dry, np.random.default_rng(seed), ranges)
        assert heard.shape == dry.shape
        assert heard.dtype == np.float32
        assert abs(int(np.abs(heard).argmax()) - 6000) <= 16


def test_level_and_noise_follow_the_ranges():
    tone = np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    tone[16_000:] = 0
    quiet = ChannelRange(
        snr_db=(20, 20), level_dbfs=(-30, -30), wet_db=(-60, -60), equalizer_db=0.0
    )
    for seed in range(5):
        heard = record(tone, np.random.default_rng(seed), quiet)
        assert 20 * np.log10(heard.std()) == pytest.approx(-30, abs=0.5)
        assert heard[:15_000].std() > 5 * heard[17_000:].std()


def test_peak_is_limited():
    click = np.zeros(16_000)
    click[100] = 1.0
    loud = ChannelRange(snr_db=(60, 60), level_dbfs=(-5, -5))
    assert np.abs(record(click, np.random.default_rng(0), loud)).max() <= 0.9701


def test_silence_does_not_break_the_channel():
    assert np.isfinite(record(np.zeros(4000), np.random.default_rng(0))).all()


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_falls_as_asked(exponent):
    noise = coloured_noise(160_000, exponent, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequency = np.fft.rfftfreq(len(noise), 1 / 16_000)
    low, high = (power[(frequency > f) & (frequency < 1.1 * f)].mean() for f in (200, 3200))
    assert np.log2(low / high) / 4 == pytest.approx(exponent, abs=0.15)
    assert noise.std() == pytest.approx(1.0, abs=0.01)


def test_flac_holds_the_samples():
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, 5000).astype(np.float32)
    decoded, rate = soundfile.read(io.BytesIO(encode_flac(samples)), dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(decoded, samples, atol=1.0 / 32_768)
