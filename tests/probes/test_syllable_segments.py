"""Thresholds of an encoder that hears bursts of tones, and the valleys of their energy."""

from __future__ import annotations

from ssl_audio.probes.segmentation import score_segmentation
from ssl_audio.probes.syllable_segments import best_thresholds, segments_of
from ssl_audio.tokenizers import SyllableTokenizer


def test_the_chosen_thresholds_are_the_best_of_the_grid(bursts, burst_corpus):
    valid = burst_corpus.splits["valid"]
    chosen = best_thresholds(bursts.Bands(), valid)

    def f1(norm_threshold, merge_threshold):
        options = {"norm_threshold": norm_threshold, "merge_threshold": merge_threshold}
        tokenizer = SyllableTokenizer(bursts.Bands(), **options)
        found = {tokens.id: tokens for tokens, _ in segments_of(tokenizer, valid)}
        return score_segmentation(valid, found, valid, found).f1

    best = f1(chosen.options.norm_threshold, chosen.options.merge_threshold)
    assert best > max(f1(0.0, -1.0), f1(1e9, 0.8), f1(0.1, 0.8))
