"""Two real ranks with workers and accumulation, cut and resumed, then resumed with one rank."""

import json
import os
import runpy
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("ddp_program.py")


def run_two_ranks(audio, output):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(PROGRAM), str(audio), str(output)]
    ranks = [
        subprocess.Popen(command, env=base | {"LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=180)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in ranks:
            process.kill()
    return [json.loads((output / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.ddp
def test_ranks_resume_exactly_and_their_number_may_change(tmp_path, write_noise):
    audio = tmp_path / "audio"
    for i in range(24):
        write_noise(audio / f"{i}.wav", 0.1 + 0.015 * i)
    ranks = run_two_ranks(audio, tmp_path)
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
