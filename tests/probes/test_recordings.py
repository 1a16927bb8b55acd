from __future__ import annotations

import itertools

import numpy as np
import pytest

from ssl_audio.audio import AudioError
from ssl_audio.probes.recordings import (
    Recording,
    Window,
    Windowing,
    group_by_length,
    group_windows,
    read_windows,
)


def test_groups_keep_to_the_budget_and_hold_each_clip_once():
    durations = [1.0, 9.0, 2.5, 2.4, 0.3, 4.0]
    groups = group_by_length(durations, 5.0)
    assert sorted(i for group in groups for i in group) == list(range(6))
    for group in groups:
        assert len(group) == 1 or len(group) * max(durations[i] for i in group) <= 5.0
    assert groups[0] == [1]


def noise(name, seconds, calls=None):
    samples = np.random.default_rng(len(name)).standard_normal(round(seconds * 16_000))
    samples = samples.astype(np.float32)

    def read(start_sec, duration_sec):
        start = round(start_sec * 16_000)
        stop = None if duration_sec is None else start + round(duration_sec * 16_000)
        if calls is not None:
            calls.append((start_sec, duration_sec))
        return samples[start:stop]

    return Recording(name, seconds, read)


@pytest.mark.parametrize("seconds", [3.2, 3.21, 5.0, 6.4, 9.99, 60.0])
def test_windows_keep_every_instant_once(seconds):
    windowing = Windowing(window_sec=3.2, context_sec=0.64)
    windows = windowing.windows(4, seconds)
    assert windows[0].keep_start_sec == 0.0
    assert windows[-1].keep_stop_sec is None
    for left, right in itertools.pairwise(windows):
        assert left.keep_stop_sec == pytest.approx(right.keep_start_sec)
        assert left.start_sec + left.duration_sec - left.keep_stop_sec == pytest.approx(0.64)
        assert right.keep_start_sec - right.start_sec == pytest.approx(0.64)
    assert windows[-1].start_sec < seconds <= windows[-1].start_sec + 3.2 + 1e-9


def test_windows_need_a_middle():
    with pytest.raises(ValueError, match="have no middle"):
        Windowing(window_sec=5.12, context_sec=2.56)


def test_long_recordings_come_one_after_the_other():
    groups = group_windows([20.0, 1.0, 30.0, 2.0], Windowing(6.4, 0.64), 13.0)
    owners = [[window.recording for window in group] for group in groups]
    assert [len(set(group)) for group in owners[:-1]] == [1] * (len(owners) - 1)
    assert max(map(len, owners)) == 2
    long = [group[0] for group in owners[:-1]]
    assert long == sorted(long)
    assert owners[-1] == [3, 1]


def test_failures_are_told_by_recording():
    def broken(start_sec, duration_sec):
        raise AudioError("b: broken")

    recordings = [noise("a", 0.5), Recording("b", 0.5, broken)]
    (batch,) = read_windows(recordings, [[Window(0, 0.0, None), Window(1, 0.0, None)]])
    assert batch.failures == ((1, "b: broken"),)
    assert batch.lengths.tolist() == [8000]
    (batch,) = read_windows(recordings, [[Window(1, 0.0, None)]])
    assert batch.windows == ()
