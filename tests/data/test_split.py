import numpy as np

from ssl_audio.data.clips import Clip
from ssl_audio.data.split import split_clips


def clips_of(count, split=None, start=0):
    tags = {"split": split} if split else {}
    return [Clip(f"c{i}", "", 16_000, 16_000, "speech", tags=tags) for i in range(start, count)]


def test_hashes_hold_out_about_the_fraction_and_adding_clips_moves_none():
    few = split_clips(clips_of(1000), valid_fraction=0.1, valid_max_sec=1e9)
    more = split_clips(clips_of(3000), valid_fraction=0.1, valid_max_sec=1e9)
    assert 60 < (few == "valid").sum() < 140
    assert (more[:1000] == few).all()


def test_held_out_seconds_are_limited():
    split = split_clips(clips_of(1000), valid_fraction=0.1, valid_max_sec=20.0)
    assert (split == "valid").sum() == 20


def test_small_data_still_holds_out_one_clip_but_never_the_only_one():
    for count, held_out in ((1, 0), (2, 1), (5, 1)):
        split = split_clips(clips_of(count), valid_fraction=0.01, valid_max_sec=0.1)
        assert (split == "valid").sum() == held_out


def test_zero_fraction_holds_out_nothing():
    assert set(split_clips(clips_of(50), valid_fraction=0.0, valid_max_sec=1e9)) == {"train"}


def test_the_sources_own_split_wins():
    clips = clips_of(3, "train") + clips_of(5, "dev", 3) + clips_of(6, "test", 5)
    split = split_clips(clips, valid_fraction=0.9, valid_max_sec=1e9)
    assert split.tolist() == ["train"] * 3 + ["valid"] * 2 + ["test"]
    untagged = split_clips(clips + clips_of(99, None, 6), valid_fraction=0.9, valid_max_sec=1e9)
    assert (untagged[6:] == "train").all()
    assert isinstance(split, np.ndarray)
