import numpy as np
import pytest
import torch

from ssl_audio.batch import IGNORE_CODE, Tokens, valid_mask
from ssl_audio.data.datamodule import DataModule
from ssl_audio.data.token_extraction import extract_tokens
from ssl_audio.tokenizers.tokenizer import Tokenizer


class RampTokenizer(Tokenizer):
    """Code 0 of a 10 ms frame is the clip's number, code 1 the frame's; see ``RampSource``."""

    kind = "ramp"
    frame_rate, codebook_size, num_codebooks = 100.0, 128, 2

    def __init__(self, fail_after=None):
        super().__init__()
        self.calls_left = fail_after

    @property
    def config(self):
        return {}

    def num_frames(self, num_samples):
        return num_samples // 160

    def encode(self, waveforms, lengths=None):
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise KeyboardInterrupt
        frames = waveforms[:, : waveforms.shape[1] // 160 * 160 : 160]
        codes = torch.stack([frames.long(), (frames.frac() * 1e6 / 160).round().long()], dim=-1)
        lengths = self.num_frames(lengths)
        valid = valid_mask(lengths, codes.shape[1])
        return Tokens(codes.where(valid[..., None], IGNORE_CODE), lengths)


def make_data(source):
    return DataModule(source, batch_sec=2.0, min_sec=0.05, max_sec=0.3, valid_fraction=0.1)


def extract(data, folder, tokenizer=None, **settings):
    settings = {"teacher_hash": "t", "shard_size": 8} | settings
    return extract_tokens(tokenizer or RampTokenizer(), data, folder, **settings)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_stored_and_online_tokens_are_equal_in_every_batch(ramp_source, tmp_path):
    data = make_data(ramp_source(40))
    data.use_tokens({"ramp": extract(data, tmp_path)})
    for split in ("train", "valid"):
        for batch in data.iter_batches(split):
            online = RampTokenizer().encode(batch.waveforms, batch.lengths)
            assert torch.equal(batch.codes["ramp"].codes, online.codes)
            assert torch.equal(batch.codes["ramp"].lengths, online.lengths)


def test_a_killed_extraction_goes_on_and_gives_the_same_bytes(ramp_source, tmp_path):
    data = make_data(ramp_source(60))
    extract(data, tmp_path / "straight")
    for calls in (0, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            extract(data, tmp_path / "killed", RampTokenizer(fail_after=calls))
    extract(data, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")
    extract(data, tmp_path / "killed", RampTokenizer(fail_after=0))


def test_ranks_share_the_shards(ramp_source, tmp_path):
    data = make_data(ramp_source(60))
    extract(data, tmp_path / "one")
    assert extract(data, tmp_path / "two", rank=1, num_ranks=2) is None
    assert extract(data, tmp_path / "two", rank=0, num_ranks=2) is not None
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_only_the_domains_asked_for_and_no_undecodable_segment(ramp_source, tmp_path):
    data = make_data(ramp_source(20, bad=(5,)))
    store = extract(data, tmp_path, domains=["audio"])
    for segment in range(len(data.segments)):
        clip = data.segments.clip[segment]
        assert (store.get(segment) is not None) == (clip % 2 == 1 and clip != 5)
    assert data.skipped[0][0].startswith("clip005")


def test_random_crops_and_other_data_are_refused(ramp_source, tmp_path):
    store = extract(make_data(ramp_source(20)), tmp_path)
    other = make_data(ramp_source(21))
    with pytest.raises(ValueError, match=f"{store.header.data}, this run has .*extract again"):
        other.use_tokens({"ramp": store})
    crops = DataModule(ramp_source(20), batch_sec=2.0, min_sec=0.05, crop="random")
    with pytest.raises(ValueError, match=r"stored tokens need data\.crop=segments"):
        crops.use_tokens({"ramp": store})


def test_nothing_to_extract_is_named(ramp_source, tmp_path):
    source = ramp_source(20)
    source.clips = source.clips[::2]
    with pytest.raises(ValueError, match="no audio segment"):
        extract(make_data(source), tmp_path, domains=["audio"])
    assert not np.any(list(tmp_path.iterdir()))
