from __future__ import annotations

import pytest
import torch

from ssl_audio.batch import IGNORE_CODE
from ssl_audio.models.beats import TransformerConfig
from ssl_audio.tokenizers import DistilledTokenizer, Estimator
from ssl_audio.tokenizers.estimator import cosine_distance, distill

ENCODER = {
    "embed_dim": 16,
    "encoder_layers": 1,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 2,
    "encoder_layerdrop": 0.0,
    "conv_pos": 8,
    "conv_pos_groups": 2,
}
LAYERS = TransformerConfig(dim=32, ffn_dim=48, num_heads=2, num_layers=2)
TARGET_DIM = 10


@pytest.fixture
def pair():
    torch.manual_seed(0)
    tokenizer = DistilledTokenizer(ENCODER, codebook_size=12, codebook_dim=6, decay=0.9)
    return tokenizer, Estimator(6, LAYERS, TARGET_DIM)


def targets_of(tokenizer, clips):
    """What a teacher might give: a fixed map of the features of each patch."""
    generator = torch.Generator().manual_seed(1)
    patches, _ = tokenizer.encoder.patchify(*tokenizer.encoder.features(*clips))
    weight = torch.randn(patches.shape[2], TARGET_DIM, generator=generator)
    return (patches @ weight).detach()


def test_losses_stand_for_valid_patches_and_train_all_parts(pair, clips):
    tokenizer, estimator = pair
    targets = targets_of(tokenizer, clips)
    result = distill(tokenizer, estimator, *clips, targets)
    valid = torch.arange(48) < result.lengths[:, None]
    assert result.lengths.tolist() == [48, 24, 0]
    for loss in (result.similarity, result.commitment):
        assert (loss[~valid] == 0).all()
        assert (loss[valid] > 0).all()
    assert (result.codes[~valid] == IGNORE_CODE).all()
    (result.similarity.sum() + result.commitment.sum()).backward()
    for name, parameter in (*tokenizer.named_parameters(), *estimator.named_parameters()):
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    # Without the commitment the tokenizer still learns, through the straight-through gradient.
    tokenizer.zero_grad()
    distill(tokenizer, estimator, *clips, targets).similarity.sum().backward()
    assert all(parameter.grad.any() for parameter in tokenizer.quantize_layer.parameters())


def test_training_lowers_the_loss(pair, clips):
    tokenizer, estimator = pair
    noise, lengths = clips
    time = torch.arange(16_000) / 16_000
    sweep = torch.sin(2 * torch.pi * 200 * 2 ** (4 * time) * time)
    bursts = torch.sin(2 * torch.pi * 900 * time) * (torch.sin(20 * time) > 0)
    sounds = 0.3 * torch.stack([sweep, bursts, time]) + 0.05 * noise  # patches that differ
    clips = sounds * (torch.arange(16_000) < lengths[:, None]), lengths
    targets = targets_of(tokenizer, clips)
    parameters = [*tokenizer.parameters(), *estimator.parameters()]
    optimizer = torch.optim.Adam(parameters, 3e-3)
    losses = []
    for step in range(40):
        with torch.autocast("cpu", torch.bfloat16):
            result = distill(tokenizer, estimator, *clips, targets)
        loss = (result.similarity.sum() + result.commitment.sum()) / result.lengths.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tokenizer.codebook.step(step)
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert tokenizer.codebook.perplexity() > 2


def test_padding_does_not_reach_the_estimate(pair):
    _, estimator = pair
    estimator.eval()
    x = torch.randn(2, 30, 6)
    batch = estimator(x, torch.tensor([30, 17]))
    torch.testing.assert_close(batch[1:, :17], estimator(x[1:, :17]), atol=1e-5, rtol=1e-5)
    assert batch.shape == (2, 30, TARGET_DIM)


def test_a_teacher_of_the_same_width_needs_no_projection():
    assert Estimator(6, LAYERS, LAYERS.dim)(torch.randn(1, 8, 6)).shape == (1, 8, LAYERS.dim)
    names = {name.split(".")[0] for name, _ in Estimator(6, LAYERS, LAYERS.dim).named_parameters()}
    assert names == {"connector", "transformer", "norm"}


def test_cosine_distance():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    found = cosine_distance(x.bfloat16(), torch.tensor([5.0, 0.0]).expand(3, 2))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 2.0]))


def test_a_teacher_on_another_clock(pair, clips):
    with pytest.raises(ValueError, match=r"teacher gives \(3, 50, 10\), the estimator \(3, 48, 10"):
        distill(*pair, *clips, torch.zeros(3, 50, TARGET_DIM))
