import numpy as np
import pytest

from ssl_audio.batch import AUDIO, SPEECH
from ssl_audio.data.clips import Clip
from ssl_audio.data.segments import cut_segments


def clips_of(*seconds, rate_hz=16_000, domain="speech"):
    return [Clip(f"c{i}", "", round(s * rate_hz), rate_hz, domain) for i, s in enumerate(seconds)]


def test_long_clips_are_cut_and_short_ones_counted():
    segments = cut_segments(clips_of(25.0, 10.0, 0.3, 10.4), min_sec=0.5, max_sec=10.0)
    assert segments.clip.tolist() == [0, 0, 0, 1, 3]
    assert segments.start_sec.tolist() == [0, 10, 20, 0, 0]
    assert segments.duration_sec.tolist() == [10, 10, 5, 10, 10]
    assert segments.num_short_clips == 1


def test_three_hours_of_96_khz_and_20_ms():
    clips = clips_of(3 * 3600.0, 0.02, rate_hz=96_000)
    segments = cut_segments(clips, min_sec=1.0, max_sec=10.0)
    assert len(segments) == 1080
    assert segments.start_sec[-1] + segments.duration_sec[-1] == 3 * 3600
    assert segments.num_short_clips == 1


def test_limit_per_domain_and_names():
    clips = [*clips_of(20.0), Clip("music", "", 20 * 16_000, 16_000, "audio")]
    segments = cut_segments(clips, min_sec=1.0, max_sec={"speech": 32.0, "audio": 10.0})
    assert segments.domain.tolist() == [SPEECH, AUDIO, AUDIO]
    assert [segments.name(i, clips) for i in range(3)] == ["c0", "music", "music@10.00s"]


def test_the_fingerprint_tells_data_and_cutting_apart():
    def fingerprint(clips, max_sec=10.0):
        return cut_segments(clips, min_sec=1.0, max_sec=max_sec).fingerprint

    base = fingerprint(clips_of(25.0, 4.0))
    assert base == fingerprint(clips_of(25.0, 4.0))
    assert base != fingerprint(clips_of(25.0, 4.1))
    assert base != fingerprint(clips_of(25.0, 4.0), max_sec=9.0)
    assert base != fingerprint(clips_of(25.0, 4.0, domain="audio"))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_sec": 30.0, "max_sec": 60.0}, r"no clip lasts data\.min_sec=30\.0 s.*25\.00 s"),
        ({"min_sec": 2.0, "max_sec": 1.0}, "min_sec <= max_sec"),
        ({"min_sec": 0.0, "max_sec": 1.0}, "0 < min_sec"),
        ({"min_sec": 1.0, "max_sec": {"speech": 5.0}}, "one each for speech and audio"),
    ],
)
def test_bad_limits_are_named(limits, message):
    with pytest.raises(ValueError, match=message):
        cut_segments(clips_of(25.0, 3.0), **limits)


def test_durations_fill_the_clip():
    seconds = np.random.default_rng(0).uniform(0.2, 40, 50)
    clips = clips_of(*seconds)
    segments = cut_segments(clips, min_sec=0.5, max_sec=7.0)
    ends = segments.start_sec + segments.duration_sec
    for i, clip in enumerate(clips):
        mine = segments.clip == i
        if mine.any():
            left = clip.duration_sec - ends[mine].max()
            assert -1e-9 <= left < 0.5
