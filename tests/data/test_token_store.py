import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest

from ssl_audio.data.token_store import TokenHeader, TokenStore, TokenStoreWriter

HEADER = TokenHeader("abc", 50.0, 2, 256, "data1", ("speech",), 3, 7)
IDS = [1, 4, 5, 8, 9, 10, 20]
CODES = [np.random.default_rng(i).integers(0, 256, (i, 2)) for i in range(7)]


def fill(directory, shards=(0, 1, 2), header=HEADER):
    writer = TokenStoreWriter(directory, header)
    for shard in shards:
        part = slice(3 * shard, 3 * shard + 3)
        writer.write(shard, IDS[part], CODES[part])
    return writer


def test_codes_come_back(tmp_path):
    fill(tmp_path)
    store = TokenStore.open(tmp_path, expect={"teacher_hash": "abc", "data": "data1"})
    for i, codes in zip(IDS, CODES, strict=True):
        assert np.array_equal(store.get(i), codes)
        assert store.get(i).dtype == np.uint8
    assert store.get(0) is store.get(2) is store.get(21) is None
    assert store.header == HEADER


def test_large_codebooks_take_two_bytes(tmp_path):
    header = replace(HEADER, codebook_size=1024, num_segments=1)
    codes = np.array([[1023, 0], [256, 1]])
    TokenStoreWriter(tmp_path, header).write(0, [5], [codes])
    stored = TokenStore.open(tmp_path).get(5)
    assert stored.dtype == np.uint16
    assert np.array_equal(stored, codes)


def test_writing_goes_on_where_it_stopped(tmp_path):
    writer = fill(tmp_path, shards=(1,))
    assert writer.missing_shards() == [0, 2]
    with pytest.raises(ValueError, match=r"incomplete: 2 of 3 shards are missing"):
        TokenStore.open(tmp_path)
    assert TokenStoreWriter(tmp_path, HEADER).missing_shards() == [0, 2]
    fill(tmp_path, shards=(0, 2))
    assert np.array_equal(TokenStore.open(tmp_path).get(20), CODES[6])
    assert not list(tmp_path.glob(".*"))


def test_an_undecodable_segment_has_no_tokens(tmp_path):
    writer = fill(tmp_path, shards=(0, 1))
    writer.write(2, [], [])
    assert TokenStore.open(tmp_path).get(20) is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("teacher_hash", "xyz", "teacher_hash abc instead of xyz"),
        ("frame_rate", 25.0, "frame_rate 50.0 instead of 25.0"),
        ("data", "data2", "data data1 instead of data2"),
        ("domains", ("audio",), r"domains \['speech'\] instead of \['audio'\]"),
    ],
)
def test_another_teacher_or_data_is_refused_with_both_values(tmp_path, field, value, message):
    fill(tmp_path)
    with pytest.raises(ValueError, match=message):
        TokenStore.open(tmp_path, expect={field: value})
    with pytest.raises(ValueError, match=message):
        TokenStoreWriter(tmp_path, TokenHeader(**asdict(HEADER) | {field: value}))


def test_no_store_and_damaged_stores_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no token store; run the tokens stage first"):
        TokenStore.open(tmp_path)
    fill(tmp_path)
    shard = tmp_path / "shard-000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"shard-000001.*is damaged .*delete it and run"):
        TokenStore.open(tmp_path)
    (tmp_path / "header.json").write_text("{}")
    with pytest.raises(ValueError, match=r"header\.json is not a token store's header"):
        TokenStore.open(tmp_path)


def test_a_failed_write_leaves_finished_shards(tmp_path, monkeypatch):
    writer = fill(tmp_path, shards=(0,))

    def full_disk(arrays, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssl_audio.data.token_store.save_file", full_disk)
    with pytest.raises(ValueError, match=r"cannot be written .*No space left.*run again"):
        writer.write(1, IDS[3:6], CODES[3:6])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "header.json",
        "shard-000000.safetensors",
    ]


def test_a_store_travels_to_workers(tmp_path):
    fill(tmp_path)
    store = TokenStore.open(tmp_path)
    store.get(4)
    assert np.array_equal(pickle.loads(pickle.dumps(store)).get(4), CODES[1])
