from __future__ import annotations

import copy

import pytest
import torch

from ssl_audio.tokenizers import QuantizerTrainer
from ssl_audio.tokenizers.mvq_trainer import batch_indices


@pytest.fixture(scope="module")
def frames():
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randn(40, 10, generator=generator)
    noise = 0.2 * torch.randn(1500, 10, generator=generator)
    return clusters[torch.randint(40, (1500,), generator=generator)] + noise


def trainer_of(**settings):
    settings = {"phase_one_iters": 12, "phase_two_iters": 8, "seed": 3, **settings}
    return QuantizerTrainer(10, 2, **settings)


def train(trainer, frames, num_steps=None):
    losses = []
    while not trainer.done and len(losses) != num_steps:
        batch = batch_indices(len(frames), 64, trainer.steps_done, seed=5)
        losses.append(torch.stack(trainer.step(frames[batch])))
    return torch.stack(losses)


def test_two_phases(frames):
    trainer = trainer_of()
    sizes = []
    while not trainer.done:
        sizes.append((trainer.quantizer.num_codebooks, trainer.quantizer.codebook_size))
        train(trainer, frames, 1)
    assert sizes == 13 * [(4, 16)] + 8 * [(2, 256)]
    assert trainer.num_steps == trainer.steps_done == 21
    with pytest.raises(ValueError, match="all 21 steps are done"):
        trainer.step(frames)


def test_learning_rate_halves_four_times_a_phase(frames):
    trainer = trainer_of(phase_one_iters=4, phase_two_iters=4, lr=1.0)
    rates = []
    while not trainer.done:
        rates.append(trainer.lr)
        train(trainer, frames, 1)
    assert rates == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 2, 1 / 4, 1 / 8, 1 / 16]


def test_training_lowers_the_error(frames):
    trainer = trainer_of(phase_one_iters=100, phase_two_iters=60)
    start = trainer.quantizer.compute_loss(frames, 2).rel_reconstruction
    train(trainer, frames)
    assert trainer.quantizer.compute_loss(frames, 2).rel_reconstruction < 0.3 * start


def test_seed_decides_and_the_global_generator_is_left_alone(frames):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = trainer_of()
    losses = train(first, frames)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second = trainer_of()
    assert torch.equal(train(second, frames), losses)
    for name, tensor in first.quantizer.state_dict().items():
        assert torch.equal(second.quantizer.state_dict()[name], tensor), name
    assert not torch.equal(train(trainer_of(seed=4), frames), losses)


@pytest.mark.parametrize("num_steps", [0, 5, 13, 18, 21])
def test_resume_is_exact(frames, num_steps, tmp_path):
    whole = trainer_of()
    losses = train(whole, frames)
    killed = trainer_of()
    if num_steps:
        train(killed, frames, num_steps)
    torch.save(killed.state_dict(), tmp_path / "state.pt")
    resumed = trainer_of()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.steps_done == num_steps
    if not resumed.done:
        assert torch.equal(train(resumed, frames), losses[num_steps:])
    for name, tensor in whole.quantizer.state_dict().items():
        assert torch.equal(resumed.quantizer.state_dict()[name], tensor), name


def test_resume_with_other_settings_is_refused():
    state = copy.deepcopy(trainer_of().state_dict())
    with pytest.raises(ValueError, match=r"'lr': 0.005.*'lr': 0.1"):
        trainer_of(lr=0.1).load_state_dict(state)


def test_half_precision_frames(frames):
    trainer = trainer_of()
    losses = trainer.step(frames[:64].half())
    assert losses.rel_reconstruction.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phase_two_iters": 0}, "phase_two_iters=0 must be at least 1"),
        ({"bytes_per_frame": 3}, "num_codebooks=6 must be a power of two"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        QuantizerTrainer(**{"dim": 10, "bytes_per_frame": 2, **settings})


def test_batches_are_reshuffled_epochs():
    drawn = torch.cat([batch_indices(10, 4, step, seed=0) for step in range(5)])
    first, second = drawn[:10], drawn[10:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert not torch.equal(first, second)
    assert torch.equal(batch_indices(10, 4, 3, seed=0), drawn[12:16])
    assert not torch.equal(batch_indices(10, 20, 0, seed=1), drawn)
    assert len(batch_indices(3, 64, 7, seed=0)) == 64
    with pytest.raises(ValueError, match="no frames"):
        batch_indices(0, 4, 0, seed=0)


def test_codebooks_of_another_size(frames):
    trainer = trainer_of(codebook_size=64)
    train(trainer, frames)
    assert trainer.quantizer.codebook_size == 64
    assert trainer.quantizer.encode(frames).max() >= 8  # phase one has 8 centers a codebook


def test_a_size_that_is_no_square_is_one_line():
    with pytest.raises(ValueError, match="codebook_size=32 must be a square"):
        trainer_of(codebook_size=32)
