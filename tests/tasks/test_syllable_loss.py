"""Labels, the summed squared error and the sign of a collapse."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ssl_audio.batch import IGNORE_CODE
from ssl_audio.tasks.syllable_loss import (
    distillation_loss,
    ids_from_labels,
    labels_from_segments,
    mean_pairwise_cosine,
)
from ssl_audio.tokenizers.syllables_batch import average_segments, segment_ids


def test_labels_tell_neighbours_apart():
    segments = torch.tensor([[1, 3], [3, 4], [6, 8], [8, 9]])
    labels = labels_from_segments(segments, 10)
    assert labels.tolist() == [0, 1, 1, 2, 0, 0, 1, 1, 2, 0]
    assert torch.equal(ids_from_labels(labels[None]), segment_ids(segments[None], 10))
    cropped = torch.cat([labels[2:], torch.tensor([IGNORE_CODE])])
    assert ids_from_labels(cropped[None]).tolist() == [[0, 1, -1, -1, 2, 2, 3, -1, -1]]


def test_a_student_that_is_constant_in_segments_and_silent_elsewhere_has_no_loss():
    torch.manual_seed(0)
    ids = ids_from_labels(torch.tensor([[0, 1, 1, 2, 2, 2, 0], [1, 1, 0, 0, 1, 2, 2]]))
    target = average_segments(torch.randn(2, 7, 5), ids)
    assert not target[ids < 0].any()
    everything = torch.ones_like(ids, dtype=torch.bool)
    assert distillation_loss(target, target, everything).total == 0
    assert torch.equal(average_segments(target, ids), target) or torch.allclose(
        average_segments(target, ids), target
    )


def test_only_counted_frames_count():
    student, target = torch.randn(2, 6, 3), torch.randn(2, 6, 3, requires_grad=True)
    counted = torch.arange(6) < torch.tensor([[6], [2]])
    loss = distillation_loss(student.requires_grad_(), target, counted)
    assert loss.num_frames == 8
    padded = F.pad(student, (0, 0, 0, 4), value=9.0), F.pad(target, (0, 0, 0, 4))
    longer = distillation_loss(*padded, F.pad(counted, (0, 4)))
    torch.testing.assert_close(longer.total, loss.total)
    torch.testing.assert_close(loss.clip_loss.sum(), loss.total.detach())
    loss.total.backward()
    assert target.grad is None
    assert not student.grad[~counted].any()


def test_mean_pairwise_cosine():
    torch.manual_seed(0)
    vectors, counted = torch.randn(3, 5, 4), torch.rand(3, 5) < 0.6
    picked = F.normalize(vectors[counted], dim=-1)
    products = picked @ picked.T
    expected = (products.sum() - products.trace()) / (len(picked) * (len(picked) - 1))
    torch.testing.assert_close(mean_pairwise_cosine(vectors, counted), expected)
    same = vectors[:1, :1].expand_as(vectors)
    torch.testing.assert_close(mean_pairwise_cosine(same, counted), torch.tensor(1.0))
    assert mean_pairwise_cosine(vectors, torch.zeros_like(counted)) == 0
