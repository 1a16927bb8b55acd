"""Two real ranks share the probing."""

import json
from pathlib import Path

import pytest

from ssl_audio.probes.ranks import Ranks

PROGRAM = Path(__file__).with_name("ranks_program.py")


@pytest.fixture(scope="module")
def ranks(on_two_ranks, tmp_path_factory):
    output = tmp_path_factory.mktemp("ranks")
    errors = on_two_ranks(PROGRAM, output)
    found = [json.loads((output / f"rank{rank}.json").read_text()) for rank in range(2)]
    return found, errors


def without_times(results):
    def timeless(values):
        return {key: value for key, value in values.items() if key != "seconds"}

    return json.loads(json.dumps(results), object_hook=timeless)


@pytest.mark.ddp
def test_training_is_the_same_with_probes_and_with_probes_that_fail_on_one_rank(ranks):
    for found in ranks[0]:
        plain, probed, survived = found["losses"]
        assert len(plain) == 3
        assert probed == plain
        assert survived == plain
        assert found["broken"]["history"] == []
    assert "online probes failed, training goes on" in ranks[1]
    assert "rank 1: OSError('no disk here')" in ranks[1]


@pytest.mark.ddp
def test_all_ranks_know_all_results(ranks):
    first, second = (without_times(found) for found in ranks[0])
    assert first["record"] == second["record"]
    assert [entry["step"] for entry in first["record"]["history"]] == [2, 3]
    assert [entry["clips"] for entry in first["record"]["history"]] == [1.0, 0.5]
    rows = {"tone", "half", "loud", "tone/knn", "half/knn", "loud/knn"}
    assert set(first["record"]["history"][1]["scores"]) == rows
    assert set(first["record"]["baselines"]) == set()  # of fewer clips again from now on
    assert first["record"]["history"][0]["rank"]["rank_me"] > 1


@pytest.mark.ddp
def test_together_they_get_what_one_gets(ranks):
    found = without_times(ranks[0][0])
    assert any("test-0" in line for line in found["alone"]["warnings"])
    together, alone = (found[name]["scores"]["trained"] for name in ("together", "alone"))
    for task, score in alone.items():
        assert together[task]["value"] == score["value"]
        assert together[task]["num_test"] == score["num_test"]
    assert found["together"]["warnings"] == found["alone"]["warnings"]


def test_a_single_process_raises_what_it_met():
    with pytest.raises(KeyError):
        Ranks().each(lambda: {}["x"])
    assert [Ranks(rank, 3).share(list("abcde")) for rank in range(3)] == [
        ["a", "d"],
        ["b", "e"],
        ["c"],
    ]
