"""The book's loss in torch, and its optimizer's closure."""

from __future__ import annotations

import torch

import torchport
from torchport import softmax_with_loss


def test_labels_of_any_integer_dtype(device: str) -> None:
    """In uint8 a limit of 256 classes would wrap to 0."""
    logits, expected = torch.zeros(2, 300, device=device), None
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        loss = softmax_with_loss(logits, torch.tensor([5, 100], dtype=dtype, device=device))
        expected = loss if expected is None else expected
        assert loss == expected


def test_one_hot_labels_are_labels(device: str) -> None:
    logits, t = torch.arange(6.0, device=device).view(2, 3).log1p(), torch.tensor([0, 2], device=device)
    assert softmax_with_loss(logits, torch.eye(3, device=device, dtype=torch.int64)[t]) == softmax_with_loss(logits, t)


def test_the_losss_gradient_is_scaled_by_what_comes_from_above(device: str) -> None:
    def gradient(factor: float) -> torch.Tensor:
        logits = torch.arange(6.0, device=device).view(2, 3).requires_grad_()
        (factor * softmax_with_loss(logits, torch.tensor([0, 2], device=device))).backward()
        assert logits.grad is not None
        return logits.grad

    torch.testing.assert_close(gradient(3.0), 3 * gradient(1.0), rtol=1e-6, atol=0)


def test_stepping_with_a_closure_returns_its_loss() -> None:
    param = torch.ones(2, requires_grad=True)
    optimizer = torchport.BookAdam([param])

    def closure() -> float:
        loss = (param**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 2.0
    assert (param < 1).all()
