from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_audio import audio
from ssl_audio.probes.features import frame_range, pooled_features
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.suite import Example, ProbeClip, ProbeSuite, ProbeTask, Span


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.0, None, (0, 10)),
        (0.0, 0.2, (0, 10)),
        (0.02, 0.06, (1, 3)),
        (0.031, 0.069, (2, 3)),  # centres lie at 0.01 + 0.02 i
        (0.011, 0.029, (1, 2)),  # between two centres: the frame in the middle
        (0.04, 0.06, (2, 3)),
        (0.19, 0.25, (9, 10)),
        (0.205, 0.215, (9, 10)),  # the remainder behind the last whole frame
    ],
)
def test_frame_range_is_decided_by_frame_centres(start, end, expected):
    assert frame_range(Span("c", start, end, "mean"), 50.0, 10) == expected


def test_frame_range_with_an_offset_and_without_frames():
    assert frame_range(Span("c", 0.04, 0.08, "mean"), 50.0, 10, offset_sec=0.035) == (0, 2)
    assert frame_range(Span("c", 0.0, 0.02, "mean"), 50.0, 10, offset_sec=0.035) == (0, 1)
    assert frame_range(Span("c", 0.0, 0.02, "mean"), 50.0, 0) == (0, 0)


def test_the_grid_frame_holds_the_same_instant_at_other_frame_rates():
    span = Span("c", 0.30, 0.32, "mean")
    for rate in (25.0, 50.0, 100.0):
        first, stop = frame_range(span, rate, 1000)
        assert first / rate <= 0.31 <= stop / rate


@pytest.mark.parametrize("batch_sec", [0.1, 1.1, 30.0])
def test_features_do_not_depend_on_batch_mates(tiny_encoder, tone_suite, batch_sec):
    source = EncoderLayers(tiny_encoder)
    features, failures = pooled_features(
        {"x": source}, tone_suite, batch_sec=batch_sec, max_clip_sec=15.0
    )
    assert failures == []
    for task in tone_suite.tasks:
        examples, layers = features["x"].select(task, task.examples["test"][:4])
        for example, row in zip(examples, layers["2"], strict=True):
            clip = tone_suite.clips[example.clip]
            wave = torch.from_numpy(audio.read(clip.source))[None]
            alone, frames = source.layers(wave, torch.tensor([wave.shape[1]]))
            start, stop = frame_range(task.span(example), 50.0, int(frames))
            mean = alone["2"][0, start:stop].mean(0)
            torch.testing.assert_close(row[: len(mean)], mean, atol=1e-4, rtol=0)


def test_segments_tell_their_duration(tiny_encoder, tone_suite):
    suite = tone_suite.only(["half"])
    features, _ = pooled_features(
        {"x": EncoderLayers(tiny_encoder)}, suite, batch_sec=9.0, max_clip_sec=9.0
    )
    examples, layers = features["x"].select(suite.tasks[0], suite.tasks[0].examples["test"])
    seconds = torch.tensor([e.end_sec - e.start_sec for e in examples])
    torch.testing.assert_close(layers["0"][:, -1].exp(), seconds)


def test_unreadable_clips_are_left_out_and_listed(tiny_encoder, tone_suite):
    clips = dict(tone_suite.clips)
    clips["test-0"] = ProbeClip("test-0", b"this is not audio", 0.3)
    suite = replace(tone_suite, clips=clips)
    features, failures = pooled_features(
        {"x": EncoderLayers(tiny_encoder)}, suite, batch_sec=9.0, max_clip_sec=9.0
    )
    assert len(failures) == 1
    assert failures[0].startswith("test-0: not readable as audio")
    present, layers = features["x"].select(suite.tasks[0], suite.tasks[0].examples["test"])
    assert "test-0" not in {e.clip for e in present}
    assert len(present) == len(layers["0"]) == len(suite.tasks[0].examples["test"]) - 1


def test_clips_are_cut_and_later_spans_left_out(tiny_encoder):
    samples = np.zeros(32_000, dtype=np.float32)
    clip = ProbeClip("long", audio.encode(samples, 16_000, "WAV"), 2.0)
    rows = (Example("long", "a", 0.2, 0.4), Example("long", "b", 1.2, 1.4))
    task = ProbeTask("t", "segment", {"train": rows, "valid": rows, "test": rows})
    suite = ProbeSuite("s", {"long": clip}, (task,))
    features, failures = pooled_features(
        {"x": EncoderLayers(tiny_encoder)}, suite, batch_sec=9.0, max_clip_sec=1.0
    )
    assert failures == []
    assert [e.label for e in features["x"].select(task, rows)[0]] == ["a"]


def test_a_batch_that_does_not_fit_in_memory_is_halved(tiny_encoder, tone_suite):
    class Small(EncoderLayers):
        sizes: list[int] = []  # noqa: RUF012

        def layers(self, waveforms, lengths):
            if len(lengths) > 8:
                raise torch.cuda.OutOfMemoryError("too large")
            self.sizes.append(len(lengths))
            return super().layers(waveforms, lengths)

    settings = {"batch_sec": 9.0, "max_clip_sec": 9.0}
    sources = {"small": Small(tiny_encoder), "large": EncoderLayers(tiny_encoder)}
    features, _ = pooled_features(sources, tone_suite, **settings)
    assert max(Small.sizes) <= 8
    task = tone_suite.tasks[0]
    small, large = (features[n].select(task, task.examples["test"])[1] for n in sources)
    torch.testing.assert_close(small["2"], large["2"], atol=1e-5, rtol=0)
