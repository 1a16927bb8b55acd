"""Two real ranks with workers and accumulation, cut and resumed, then resumed with one rank."""

import json
import runpy
from itertools import chain
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("ddp_program.py")


@pytest.mark.ddp
def test_ranks_resume_exactly_and_their_number_may_change(tmp_path, write_noise, on_two_ranks):
    audio = tmp_path / "audio"
    for i in range(24):
        write_noise(audio / f"{i}.wav", 0.1 + 0.015 * i)
    on_two_ranks(PROGRAM, audio, tmp_path)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    program = runpy.run_path(str(PROGRAM))
    data = program["make_data"](audio, 0)
    cut = program["CUT"] * program["ACCUMULATE"]
    steps = program["STEPS"] * program["ACCUMULATE"]
    assert 2 * cut > data.plan.batches_per_epoch

    for rank, result in enumerate(ranks):
        whole, resumed = result["whole"], result["resumed"]
        plan = [data.plan.batch(2 * k + rank) for k in range(steps)]
        assert whole["seen"] == [[s.sample_index for s in batch] for batch in plan]
        assert whole["seen"][:cut] + resumed["seen"] == whole["seen"]
        assert whole["trained"] == resumed["trained"] == 2 * steps
        assert whole["weight"] == resumed["weight"] == ranks[0]["whole"]["weight"]

    held_out = data.segment_ids("valid").tolist()
    num_validations = program["STEPS"] // 2
    per_rank = [result["whole"]["validated"] for result in ranks]
    assert len(per_rank[0]) == len(per_rank[1])
    assert sorted(chain(*chain(*per_rank))) == sorted(held_out * num_validations)

    checkpoint = tmp_path / "whole" / f"step={program['CUT']}.ckpt"
    alone = program["fit"](audio, tmp_path / "alone", resume=checkpoint)
    plan = [data.plan.batch(2 * cut + k) for k in range(steps - cut)]
    assert alone["seen"] == [[s.sample_index for s in batch] for batch in plan]
