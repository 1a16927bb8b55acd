"""One of two ranks that train a toy with and without probes; run by test_ranks.py."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from ssl_audio.probes.callback import OnlineProbes
from ssl_audio.probes.ranks import Ranks
from ssl_audio.probes.runner import probe_sources
from ssl_audio.probes.sources import EncoderLayers

HERE = Path(__file__).parent
PARTS = runpy.run_path(str(HERE / "conftest.py"))
TOY = runpy.run_path(str(HERE / "test_callback.py"))["ToyTask"]


def fit(output, *callbacks):
    torch.manual_seed(0)
    task = TOY(PARTS["TinyEncoder"](), random_noise=False)
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        max_steps=3,
        callbacks=list(callbacks),
        default_root_dir=output,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task)
    return [loss.hex() for loss in task.losses]


def failing_on_rank_1(suite):
    if Ranks.current().index == 1:
        raise OSError("no disk here")
    return suite


def main(output):
    suite = PARTS["make_tone_suite"]()
    plain = fit(output)
    probes = OnlineProbes(suite, probes=["linear", "knn", "rank"], every_n_steps=2, max_seconds=0)
    probed = fit(output, probes)
    broken = OnlineProbes(lambda: failing_on_rank_1(suite), every_n_steps=2, path=output / "b.json")
    survived = fit(output, broken)
    torch.manual_seed(3)
    encoder = PARTS["TinyEncoder"]()
    bad = replace(
        suite, clips={**suite.clips, "test-0": replace(suite.clips["test-0"], source=b"?")}
    )
    results = probe_sources({"trained": EncoderLayers(encoder)}, bad, ranks=Ranks.current())
    alone = probe_sources({"trained": EncoderLayers(encoder)}, bad)
    found = {
        "losses": [plain, probed, survived],
        "record": probes.state_dict(),
        "broken": broken.state_dict(),
        "together": results,
        "alone": alone,
    }
    (output / f"rank{Ranks.current().index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
