"""Gradients of the sentence loss and the first step of its centre."""

from __future__ import annotations

import torch

from ssl_audio.tasks.sentence_loss import LogitCenter, sentence_loss


def test_least_where_student_and_sharpened_teacher_agree():
    torch.manual_seed(0)
    teacher, center = torch.randn(3, 6, requires_grad=True), torch.randn(6)
    temperatures = {"student_temperature": 0.2, "teacher_temperature": 0.05}
    matched = ((teacher.detach() - center) / 0.05 * 0.2).requires_grad_()
    loss = sentence_loss(matched, teacher, center, **temperatures)
    entropy = torch.special.entr(((teacher - center) / 0.05).softmax(-1)).sum(-1)
    torch.testing.assert_close(loss, entropy)
    loss.sum().backward()
    assert teacher.grad is None
    assert matched.grad.abs().max() < 1e-6
    other = sentence_loss(torch.randn(3, 6), teacher, center, **temperatures)
    assert (other > loss).all()


def test_the_first_batch_sets_the_centre_whatever_the_momentum():
    torch.manual_seed(0)
    center, (first, second) = LogitCenter(5, 0.9), torch.randn(2, 4, 5)
    torch.testing.assert_close(center.update(first), first.mean(0))
    torch.testing.assert_close(center.update(second), 0.9 * first.mean(0) + 0.1 * second.mean(0))
    resumed = LogitCenter(5, 0.9)
    resumed.load_state_dict(center.state_dict())
    torch.testing.assert_close(resumed.update(first), center.update(first))
