import numpy as np
import torch

from ssl_audio.batch import IGNORE_CODE
from ssl_audio.data.collate import Sample, collate


def sample(name, num_samples, codes=None):
    ones = np.ones(num_samples, dtype=np.float32)
    return Sample(name, ones, domain=1, sample_index=num_samples, codes=codes or {})


def test_pads_waveforms_with_zeros():
    batch = collate([sample("a", 3), sample("b", 5)])
    assert batch.waveforms.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.lengths.tolist() == batch.sample_index.tolist() == [3, 5]
    assert batch.waveforms.dtype == torch.float32
    assert batch.lengths.dtype == batch.domains.dtype == torch.int64
    assert batch.ids == ("a", "b")
    assert batch.codes == {}


def test_pads_codes_and_gives_samples_without_tokens_an_empty_row():
    codes = np.array([[1, 255], [3, 4]], dtype=np.uint8)
    samples = [sample("a", 3, {"speech": codes}), sample("b", 5, {"speech": codes[:1]})]
    batch = collate([*samples, sample("c", 4)], {"speech": 2, "audio": 3})
    speech, audio = batch.codes["speech"], batch.codes["audio"]
    assert speech.codes.dtype == torch.int64
    assert speech.codes[0].tolist() == [[1, 255], [3, 4]]
    assert speech.codes[1].tolist() == [[1, 255], [IGNORE_CODE] * 2]
    assert speech.codes[2].tolist() == [[IGNORE_CODE] * 2] * 2
    assert speech.lengths.tolist() == [2, 1, 0]
    assert audio.codes.shape == (3, 0, 3)
    assert audio.lengths.tolist() == [0, 0, 0]
