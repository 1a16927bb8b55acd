"""Sound events and notes: each class does what its name says, whatever the draw."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.signal import hilbert, stft

from ssl_audio.data.demo.events import EVENTS, render_event
from ssl_audio.data.demo.notes import INSTRUMENTS, PITCHES, render_note
from ssl_audio.data.demo.sounds import event_clips, note_clips

SEEDS = range(6)


def centroid_hz(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loudest frequency per frame and the frame's energy."""
    frequency, _, spectrum = stft(x, 16_000, nperseg=512, noverlap=384)
    power = np.abs(spectrum) ** 2
    return frequency[power[3:].argmax(0) + 3], power.sum(0)


def modulation_rate_hz(x: np.ndarray, rate_hz: float) -> float:
    """Strongest periodicity between 0.5 and 30 Hz of ``x`` sampled at ``rate_hz``."""
    spectrum = np.abs(np.fft.rfft((x - x.mean()) * np.hanning(len(x)), 8192))
    frequency = np.fft.rfftfreq(8192, 1 / rate_hz)
    inside = (frequency > 0.5) & (frequency < 30)
    return float(frequency[inside][spectrum[inside].argmax()])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", EVENTS)
def test_events_are_finite_and_repeatable(name, seed):
    sound, again = (render_event(name, np.random.default_rng(seed)) for _ in range(2))
    assert np.isfinite(sound).all()
    assert np.array_equal(sound, again)
    assert 0.8 < len(sound) / 16_000 < 4
    assert np.abs(sound).max() == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "sign"), [("sweep_rising", 1), ("sweep_falling", -1)])
def test_sweeps_go_their_way(name, sign):
    for seed in SEEDS:
        frequency, energy = centroid_hz(render_event(name, np.random.default_rng(seed)))
        steps = np.diff(np.log2(frequency))[energy[1:] > 0.05 * energy.max()]
        steps = steps[np.abs(steps) < 0.4]  # without jumps to the next glide or harmonic
        assert sign * steps.sum() > 0.5


@pytest.mark.parametrize(("name", "sign"), [("approaching", 1), ("receding", -1)])
def test_ramps_change_level(name, sign):
    for seed in SEEDS:
        thirds = np.array_split(render_event(name, np.random.default_rng(seed)), 3)
        change_db = 20 * np.log10(thirds[2].std() / thirds[0].std())
        assert sign * change_db > 5


@pytest.mark.parametrize(("slow", "fast"), [("chugging", "rattling"), ("siren", "trill")])
def test_rates_do_not_overlap(slow, fast):
    rates = {name: [] for name in (slow, fast)}
    for name, found in rates.items():
        for seed in SEEDS:
            sound = render_event(name, np.random.default_rng(seed))
            if name in ("chugging", "rattling"):
                track = np.abs(hilbert(sound))[: len(sound) // 160 * 160]
                found.append(modulation_rate_hz(track.reshape(-1, 160).mean(1), 100))
            else:
                frequency, _ = centroid_hz(sound)
                found.append(modulation_rate_hz(np.log(frequency[4:-4]), 125))
    assert np.median(rates[slow]) * 2 < np.median(rates[fast])


def test_opposite_sweeps_have_the_same_spectrum():
    """The family is only told apart in time: mean spectra differ less than two draws of a class."""

    def mean_log_spectra(name: str) -> np.ndarray:
        spectra = []
        for seed in range(24):
            _, _, s = stft(render_event(name, np.random.default_rng(seed)), 16_000, nperseg=512)
            spectra.append(np.log(np.abs(s) ** 2 + 1e-6).mean(1))
        return np.array(spectra)

    rising, falling = mean_log_spectra("sweep_rising"), mean_log_spectra("sweep_falling")
    between = np.abs(rising.mean(0) - falling.mean(0)).mean()
    assert between < 0.3 * rising.std(0).mean()


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_notes_have_their_pitch(instrument):
    """Within half a semitone, by the period that correlates best within two octaves."""
    for pitch in (48, 57, 64, 71):
        note = render_note(instrument, pitch, np.random.default_rng(pitch))
        middle = note[2000 : 2000 + 4096]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 65_536))
        frequency = np.fft.rfftfreq(65_536, 1 / 16_000)
        expected_hz = 440 * 2 ** ((pitch - 69) / 12)
        near = np.abs(np.log2(frequency[1:] / expected_hz)) < 1 / 6
        found = frequency[1:][near][spectrum[1:][near].argmax()]
        assert abs(12 * np.log2(found / expected_hz)) < 0.7
        assert np.abs(note).max() == pytest.approx(1.0)


def test_clips_carry_labels_and_fill_all_splits():
    clips = [
        *event_clips("siren", 20, seed=0),
        *(clip for name in INSTRUMENTS for clip in note_clips(name, 4 * len(PITCHES), seed=0)),
    ]
    splits = [clip["split"] for clip in clips if clip.get("event")]
    assert (splits.count("train"), splits.count("valid"), splits.count("test")) == (12, 3, 5)
    pairs = Counter((c["split"], c["instrument"], c["pitch"]) for c in clips if "pitch" in c)
    assert len(pairs) == 3 * len(INSTRUMENTS) * len(PITCHES)  # no pair is missing in any split
    assert all(count == (2 if pair[0] == "train" else 1) for pair, count in pairs.items())


def test_few_notes_fill_all_splits():
    assert {clip["split"] for clip in note_clips("organ", 4, seed=0)} == {"train", "valid", "test"}
