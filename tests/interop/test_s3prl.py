from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from ssl_audio import hub
from ssl_audio.interop.s3prl import UpstreamExpert, register


@pytest.fixture(scope="module")
def export(padding_exact, tmp_path_factory):
    return str(hub.save(padding_exact, tmp_path_factory.mktemp("model") / padding_exact.kind))


def test_layers_have_one_width_and_the_frames_that_s3prl_counts(export, padding_exact):
    upstream = UpstreamExpert(export, model_config=None, refresh=False).train()
    stride = upstream.get_downsample_rates("hidden_states")
    assert stride == round(16_000 / padding_exact.frame_rate) * padding_exact.patches_per_row
    wavs = [0.1 * torch.randn(length) for length in (16_000, 800, 7_777)]
    states = upstream(wavs)["hidden_states"]
    assert len(states) >= padding_exact.num_layers + 1
    assert len({state.shape for state in states}) == 1
    assert states[0].shape[:2] == (3, 15_999 // stride + 1)
    torch.stack(states)  # as the featurizer does

    first = padding_exact(wavs[0][None]).hidden_states[1]
    first = first.unflatten(1, (-1, padding_exact.patches_per_row)).flatten(2)
    count, width = min(first.shape[1], states[1].shape[1]), first.shape[2]
    torch.testing.assert_close(states[1][0, :count, :width], first[0, :count], atol=1e-4, rtol=1e-4)
    assert not states[1][..., width:].any()
    alone = upstream(wavs[2:])["hidden_states"][1]
    torch.testing.assert_close(states[1][2:, : alone.shape[1]], alone, atol=1e-4, rtol=1e-4)


def test_registered_names_open_an_export(export, monkeypatch):
    s3prl, names = ModuleType("s3prl"), ModuleType("s3prl.hub")
    s3prl.hub = names
    names.wavlm = print
    monkeypatch.setitem(sys.modules, "s3prl", s3prl)
    monkeypatch.setitem(sys.modules, "s3prl.hub", names)
    register("ours", export)
    for options in ({"ckpt": None}, {"ckpt": export, "model_config": None}):
        upstream = names.ours(refresh=False, **options)
        assert isinstance(upstream, UpstreamExpert)
    with pytest.raises(ValueError, match="an upstream 'wavlm' already"):
        register("wavlm", export)


def test_no_model_is_one_line():
    with pytest.raises(ValueError, match="no model; give the folder of an exported encoder"):
        UpstreamExpert()
