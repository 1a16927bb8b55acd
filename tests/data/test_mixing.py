from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssl_audio.batch import AUDIO, IGNORE_CODE, SPEECH, AudioBatch, Tokens
from ssl_audio.data.mixing import mix_tokens, mix_utterances

RATES = {"speech": 50.0, "audio": 25.0}
UTTERANCES = {"speech_prob": 1.0, "noise_prob": 0.5, "audio_prob": 1.0}


def make_batch(domains: list[int], seconds: list[float]) -> AudioBatch:
    generator = torch.Generator().manual_seed(len(domains))
    lengths = torch.tensor([round(16_000 * each) for each in seconds])
    waveforms = 0.1 * torch.randn(len(domains), int(lengths.max()), generator=generator)
    waveforms *= torch.arange(waveforms.shape[1]) < lengths[:, None]
    waveforms *= torch.linspace(0.5, 2.0, len(domains))[:, None]
    return AudioBatch(
        waveforms=waveforms,
        lengths=lengths,
        domains=torch.tensor(domains),
        sample_index=torch.arange(len(domains)) + 100,
        ids=tuple(f"clip{i}" for i in range(len(domains))),
    )


def telltale_codes(batch: AudioBatch) -> dict[str, Tokens]:
    """Codes 1000 * clip + frame, so that a code tells where it came from."""
    codes = {}
    for name, rate in RATES.items():
        lengths = (batch.lengths * rate / 16_000).long()
        frames = torch.arange(int(lengths.max()))
        values = 1000 * torch.arange(len(batch))[:, None, None] + frames[:, None]
        values = values.expand(-1, -1, 4).clone()
        values[frames >= lengths[:, None]] = IGNORE_CODE
        if name == "audio":
            lengths = torch.where(batch.domains == AUDIO, lengths, 0)
            values[batch.domains == SPEECH] = IGNORE_CODE
        codes[name] = Tokens(values, lengths)
    return codes


def added(batch: AudioBatch, mixed: AudioBatch, clip: int) -> Tensor:
    return mixed.waveforms[clip] - batch.waveforms[clip]


def power_ratio_db(signal: Tensor, other: Tensor) -> float:
    heard = other != 0
    ratio = signal[heard].square().sum() / other[heard].square().sum()
    return 10 * ratio.log10().item()


# ---- utterance mixing


def test_utterance_mixing_keeps_ratio_share_and_bounds() -> None:
    batch = make_batch([SPEECH] * 8 + [AUDIO] * 4, [2.0] * 8 + [3.0] * 4)
    mixed = mix_utterances(batch, seed=1, **UTTERANCES)
    for clip in range(12):
        extra = added(batch, mixed, clip)
        length = int(batch.lengths[clip])
        share = (extra != 0).sum().item() / length
        ratio = power_ratio_db(batch.waveforms[clip], extra)
        assert 0.19 < share < 1.0
        assert -5.1 < ratio < 20.1
        assert not extra[length:].any()
        if clip < 8 and ratio < 4.9:  # another speaker
            assert share < 0.51


def test_utterance_mixing_probabilities() -> None:
    batch = make_batch([SPEECH] * 300 + [AUDIO] * 100, [0.05] * 400)
    mixed = mix_utterances(batch, seed=0, speech_prob=0.3, noise_prob=0.7, audio_prob=0.5)
    changed = (mixed.waveforms != batch.waveforms).any(1)
    assert changed[:300].float().mean().item() == pytest.approx(0.3, abs=0.08)
    assert changed[300:].float().mean().item() == pytest.approx(0.5, abs=0.15)
    clean = mix_utterances(batch, seed=0, speech_prob=0.0, noise_prob=1.0, audio_prob=0.0)
    assert torch.equal(clean.waveforms, batch.waveforms)


def test_without_noise_speech_meets_speech_and_audio_stays() -> None:
    speech = make_batch([SPEECH] * 5, [1.0] * 5)
    mixed = mix_utterances(speech, seed=0, **(UTTERANCES | {"noise_prob": 1.0}))
    for clip in range(5):
        assert power_ratio_db(speech.waveforms[clip], added(speech, mixed, clip)) < 5.1
    lonely = make_batch([SPEECH, AUDIO], [1.0, 1.0])
    mixed = mix_utterances(lonely, seed=0, **UTTERANCES)
    assert added(lonely, mixed, 0).any()  # noise, as there is no other speech
    assert not added(lonely, mixed, 1).any()


# ---- token mixing


def test_replaced_codes_belong_to_the_sound_that_was_added() -> None:
    """Recover the delay from the codes and check it against the waveform, sample by sample."""
    batch = make_batch([SPEECH] * 6, [2.0, 1.5, 3.0, 2.5, 1.0, 2.2])
    codes = telltale_codes(batch)
    mixed, tokens = mix_tokens(batch, codes, RATES, seed=3, prob=1.0)
    delays = set()
    for clip in range(6):
        new, old = tokens["speech"].codes[clip], codes["speech"].codes[clip]
        frames = (new != old).any(1).nonzero()[:, 0]
        foreign = (new != old).nonzero().tolist()
        sources = {int(new[t, n]) // 1000 for t, n in foreign}
        assert len(sources) == 1, "one other clip"
        other = sources.pop()
        assert other != clip
        frame_shift = {int(new[t, n]) % 1000 - t for t, n in foreign}
        assert len(frame_shift) == 1, "one delay"
        shift = 320 * frame_shift.pop()
        delays.add(shift)
        extra = added(batch, mixed, clip)
        start, end = (extra != 0).nonzero()[[0, -1], 0].tolist()
        piece = batch.waveforms[other, start + shift : end + 1 + shift]
        gain = extra[start] / piece[0]
        torch.testing.assert_close(extra[start : end + 1], gain * piece, rtol=1e-3, atol=1e-5)
        assert end + 1 in (int(batch.lengths[clip]), int(batch.lengths[other]) - shift)
        assert frames.min() * 320 >= start
        assert (frames.max() + 1) * 320 <= end + 1
    assert len(delays) > 3


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 5.0])
def test_share_of_replaced_codes_is_the_share_of_power(snr_db: float) -> None:
    batch = make_batch([AUDIO] * 12, [4.0] * 12)
    codes = telltale_codes(batch)
    mixed, tokens = mix_tokens(batch, codes, RATES, seed=5, prob=1.0, snr_db=(snr_db, snr_db))
    for name, rate in RATES.items():
        replaced = overlapped = 0
        for clip in range(12):
            extra = added(batch, mixed, clip)
            heard = (extra != 0).sum().item()
            overlapped += heard * rate / 16_000 * 4
            replaced += (tokens[name].codes[clip] != codes[name].codes[clip]).sum().item()
            assert power_ratio_db(batch.waveforms[clip], extra) == pytest.approx(snr_db, abs=0.01)
            assert heard >= 2 * 16_000 - 640
        assert replaced / overlapped == pytest.approx(1 / (1 + 10 ** (snr_db / 10)), abs=0.04)


def test_missing_codes_stay_missing() -> None:
    batch = make_batch([SPEECH, AUDIO, SPEECH, AUDIO], [2.0, 2.0, 1.0, 3.0])
    codes = telltale_codes(batch)
    for seed in range(5):
        _, tokens = mix_tokens(batch, codes, RATES, seed=seed, prob=1.0)
        for name in RATES:
            ignored = codes[name].codes == IGNORE_CODE
            assert torch.equal(tokens[name].codes == IGNORE_CODE, ignored)


def test_token_mixing_probability() -> None:
    batch = make_batch([SPEECH] * 400, [0.1] * 400)
    mixed, _ = mix_tokens(batch, telltale_codes(batch), RATES, seed=0, prob=0.1)
    changed = (mixed.waveforms != batch.waveforms).any(1)
    assert changed.float().mean().item() == pytest.approx(0.1, abs=0.04)


def test_silence_is_not_mixed_into_the_targets() -> None:
    batch = make_batch([SPEECH, SPEECH], [1.0, 1.0])
    waveforms = batch.waveforms.clone()
    waveforms[1] = 0.0
    batch = replace(batch, waveforms=waveforms)
    codes = telltale_codes(batch)
    mixed, tokens = mix_tokens(batch, codes, RATES, seed=0, prob=1.0)
    assert torch.equal(mixed.waveforms, batch.waveforms)
    assert torch.equal(tokens["speech"].codes, codes["speech"].codes)


# ---- both


@pytest.mark.parametrize("kind", ["utterances", "tokens"])
def test_mixing_is_a_function_of_seed_and_sample_index(kind: str) -> None:
    batch = make_batch([SPEECH, AUDIO, SPEECH, AUDIO], [1.0, 1.2, 0.8, 1.0])

    def mix(batch: AudioBatch, seed: int) -> Tensor:
        if kind == "utterances":
            return mix_utterances(batch, seed=seed, **UTTERANCES).waveforms
        return mix_tokens(batch, telltale_codes(batch), RATES, seed=seed, prob=1.0)[0].waveforms

    before = batch.waveforms.clone()
    once = mix(batch, 1)
    assert torch.equal(once, mix(batch, 1))
    assert torch.equal(batch.waveforms, before), "the argument is left alone"
    assert not torch.equal(once, mix(batch, 2))
    later = replace(batch, sample_index=batch.sample_index + 10)
    assert not torch.equal(once, mix(later, 1))
    padded = replace(batch, waveforms=torch.nn.functional.pad(batch.waveforms, (0, 5000)))
    assert torch.equal(mix(padded, 1)[:, :-5000], once)


def test_a_clip_alone_is_not_mixed() -> None:
    batch = make_batch([SPEECH], [1.0])
    mixed, _ = mix_tokens(batch, telltale_codes(batch), RATES, seed=0, prob=1.0)
    assert torch.equal(mixed.waveforms, batch.waveforms)
    mixed = mix_utterances(batch, seed=0, **UTTERANCES)
    assert torch.equal(mixed.waveforms, batch.waveforms)


@pytest.mark.parametrize("seconds", [0.001, 0.02])
def test_very_short_clips_pass(seconds: float) -> None:
    batch = make_batch([SPEECH, AUDIO, SPEECH], [seconds, 1.0, seconds])
    mixed, tokens = mix_tokens(batch, telltale_codes(batch), RATES, seed=0, prob=1.0)
    mixed = mix_utterances(mixed, seed=0, **UTTERANCES)
    assert mixed.waveforms.isfinite().all()
    assert tokens["speech"].codes.shape == telltale_codes(batch)["speech"].codes.shape


def test_wrong_settings_are_named() -> None:
    batch = make_batch([SPEECH, SPEECH], [1.0, 1.0])
    codes = telltale_codes(batch)
    with pytest.raises(ValueError, match=r"prob is 1\.1"):
        mix_tokens(batch, codes, RATES, seed=0, prob=1.1)
    with pytest.raises(ValueError, match=r"5\.0 \.\. -5\.0 runs from high to low"):
        mix_tokens(batch, codes, RATES, seed=0, prob=0.1, snr_db=(5.0, -5.0))
    with pytest.raises(ValueError, match="teacher 'speech': a frame at 49 Hz"):
        mix_tokens(batch, codes, RATES | {"speech": 49.0}, seed=0, prob=0.1)
    with pytest.raises(ValueError, match=r"overlap_high is 1\.5"):
        mix_utterances(batch, seed=0, **UTTERANCES, noise_share=(0.2, 1.5))
