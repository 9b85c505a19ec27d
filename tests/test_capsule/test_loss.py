"""The margin loss."""

import pytest
import torch

from capsule.loss import me_loss


def test_margin_loss_by_hand():
    lengths = torch.tensor([[0.2, 0.3, 0.005], [0.5, 0.6, 0.995]])
    first = (0.99 - 0.2) ** 2 + 0.5 * (0.3 - 0.01) ** 2
    second = 0.5 * (0.5 - 0.01) ** 2 + 0.5 * (0.6 - 0.01) ** 2
    assert me_loss(lengths, torch.tensor([0, 2])).item() == pytest.approx((first + second) / 2)


def test_one_hot_labels_give_the_same():
    lengths, labels = torch.rand(5, 3), torch.tensor([0, 1, 2, 2, 0])
    assert torch.equal(me_loss(lengths, labels), me_loss(lengths, torch.eye(3)[labels]))


def test_gradient_of_the_margin_loss():
    lengths = torch.tensor([[0.2, 0.3]], dtype=torch.float64, requires_grad=True)
    me_loss(lengths, torch.tensor([0])).backward()
    assert torch.allclose(lengths.grad, torch.tensor([[-2 * 0.79, 0.29]], dtype=torch.float64))


def test_square_batch_of_class_numbers_is_not_taken_for_one_hot():
    assert me_loss(torch.rand(3, 3), torch.tensor([0, 1, 2])).dim() == 0


@pytest.mark.parametrize("lengths,labels", [
    (torch.rand(2, 3), torch.tensor([0, 3])), (torch.rand(2, 3), torch.tensor([-1, 0])),
    (torch.rand(2, 3), torch.tensor([0, 1, 2])), (torch.rand(0, 3), torch.zeros(0, dtype=torch.long)),
    (torch.rand(2, 3), torch.tensor([0.0, 1.0])), (torch.rand(3), torch.tensor([0, 1, 2])),
    (torch.rand(2, 3), torch.ones(2, 3)), (torch.rand(2, 3), torch.zeros(2, 3)),
    (torch.rand(2, 3), torch.zeros(2, 4))])
def test_bad_labels_are_refused(lengths, labels):
    with pytest.raises(ValueError, match="labels"):
        me_loss(lengths, labels)
