"""The step by kernels in Triton: judged as a port, and compared with torch's; without CUDA they are interpreted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import numpy_ref as nr
from torchport import SimpleConvNet, softmax_with_loss
from torchport.networks import Weights
from torchport.optimizers import BookAdam
from torchport.parity import check_parity
from torchport.parity.cases import seeded_batch, seeded_params
from torchport.training import Config, Samples, torch_learner
from torchport.training.ranks import Ranks
from torchport.training.torch_learner import TorchLearner

pytest.importorskip("triton", reason="Triton is on Linux alone")
from torchport.training import kernels
from torchport.training.kernel_step import KernelStep, Sizes, check_fit, in_one_vector, starts_of
from training import kernel_sizes

IMAGE = (2, 7, 7)
FILTERS = {"filter_num": 3, "filter_size": 4, "pad": 0, "stride": 1}
SMALL = Sizes((2, 16), (16, 16), (16, 16), (16, 16), (2, 2), warps=(1,) * 6)


def nets(device: str) -> tuple[nr.SimpleConvNet, SimpleConvNet]:
    reference = nr.SimpleConvNet(IMAGE, FILTERS, hidden_size=9, output_size=7)
    reference.set_params(seeded_params(0, reference.params))
    return reference, SimpleConvNet.from_params(reference.params, device=device).float()


def like(tensors: list[Any]) -> list[Tensor]:
    return [torch.zeros_like(tensor) for tensor in tensors]


class ByKernels(torch.autograd.Function):
    """Logits, and the gradients by net's parameters: what a step computes, from given gradients of the logits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, net: SimpleConvNet, *params: Tensor) -> Tensor:
        own, labels = list(net.parameters()), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        ctx.net, ctx.order, ctx.gradients = net, torch.arange(len(x), device=x.device), like(own)
        state = [like(own), ctx.gradients, like(own), []]
        for mine, param in zip(state[0], own, strict=True):
            mine.copy_(param.detach())
        copy = SimpleConvNet.from_params(nr.SimpleConvNet(IMAGE, FILTERS, 9, 7).params, device=str(x.device)).float()
        for param, mine in zip(copy.parameters(), state[0], strict=True):
            param.data = mine
        state[0] = list(copy.parameters())
        ctx.step = KernelStep(copy, state, x.detach().contiguous(), labels, len(x), None, SMALL)
        ctx.step.forward(ctx.order)
        ctx.save_for_backward(x)
        logits: Tensor = ctx.step.logits.clone()
        return logits

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        ctx.step.passed.copy_(grad)
        ctx.step.go_back(ctx.order)
        ctx.step.backward(ctx.order, *torch.zeros(2, device=x.device))
        with torch.enable_grad():  # which no training asks for
            leaf = x.detach().requires_grad_()
            (by_x,) = torch.autograd.grad(ctx.net(leaf), leaf, grad)
        return by_x, None, *(gradient.clone() for gradient in ctx.gradients)


def by_kernels(net: SimpleConvNet) -> Callable[[Tensor], Tensor]:
    return lambda x: ByKernels.apply(x, net, *net.parameters())


def test_the_kernels_are_right(device: str) -> None:
    """The kernels that train are judged in one piece: logits and every parameter's gradient."""
    reference, net = nets(device)
    report = check_parity(reference, net, *seeded_batch(0, 6, IMAGE, 7), run=by_kernels(net))
    assert report.ok, report.verdict


def test_two_wrong_kernels_are_caught(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relu that passes every gradient on, and the gradient of one parameter returned for another."""
    reference, net = nets(device)
    batch = seeded_batch(0, 6, IMAGE, 7)
    right = KernelStep.go_back
    for name, value in (("where_ptr", 0), ("passed2_ptr", 1)):

        def wrong(step: KernelStep, order: Tensor, name: str = name, value: int = value) -> None:
            step.arguments[name].fill_(value)
            right(step, order)

        with monkeypatch.context() as patch:
            patch.setattr(KernelStep, "go_back", wrong)
            assert not check_parity(reference, net, *batch, run=by_kernels(net)).ok


@pytest.mark.parametrize("summed", [False, True])
def test_steps_are_those_of_torch(summed: bool, device: str) -> None:
    """Losses, parameters, moments and sums are equal, with an image twice in a batch and a short last batch."""
    _, net = nets(device)
    x, t = (torch.from_numpy(part).to(device) for part in seeded_batch(1, 9, IMAGE, 7))
    x, other = x.float(), nets(device)[1]
    rule, own = BookAdam(other.parameters(), lr=0.01), list(net.parameters())
    totals, m, v = like(own) if summed else [], like(own), like(own)
    step = KernelStep(net, [own, m, v, totals], x, t, 5, (0.9, 0.999), SMALL)
    sums = like(own)
    for order in ([0, 1, 1, 8, 3], [4, 5, 6, 7, 2], [8, 0]):
        indices, (loss, rate) = torch.tensor(order, device=device), torch.zeros(2, device=device)
        rate.fill_(rule.next_rates(rule.param_groups[0], 1)[0])
        rule.zero_grad()
        wanted = softmax_with_loss(other(x[indices]), t[indices])
        wanted.backward()
        rule.step()
        step.take(indices, rate, loss)
        torch.testing.assert_close(-loss / len(order), wanted.detach(), rtol=1e-6, atol=0)
        for total, param in zip(sums, other.parameters(), strict=True):
            total += param.detach()
    kept = [rule.state[param] for param in other.parameters()]
    torch.testing.assert_close(m, [state["exp_avg"] for state in kept], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(v, [state["exp_avg_sq"] for state in kept], rtol=1e-4, atol=1e-9)
    expected = [param.detach() for param in other.parameters()]
    torch.testing.assert_close([param.detach() for param in own], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(totals, sums if summed else [], rtol=1e-4, atol=1e-5)
    step.measure(indices, loss)
    with torch.no_grad():
        torch.testing.assert_close(-loss / 2, softmax_with_loss(other(x[indices]), t[indices]), rtol=1e-4, atol=0)


def test_equal_outputs_and_zeros_are_those_of_torch(device: str) -> None:
    """In small whole numbers, whose sums are exact: to the bit. Sizes are more than one product's depth."""
    rng = np.random.default_rng(0)
    net = SimpleConvNet(IMAGE, FILTERS, 20, 7, device=device)
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(torch.from_numpy(rng.integers(-1, 2, param.shape)))
    x = torch.tensor(rng.integers(0, 2, (18, *IMAGE)), dtype=torch.float32, device=device)
    conv = torch.nn.functional.unfold(net.conv1(x).relu().flatten(0, 1)[:, None], 2, stride=2)
    assert bool((conv.max(1).values == conv.sort(1).values[:, 2]).any())  # a window's largest two
    passed = torch.tensor(rng.integers(-2, 3, (18, 7)), dtype=torch.float32, device=device)
    logits, own = net(x), list(net.parameters())
    expected = torch.autograd.grad(logits, own, passed)
    gradients, order = like(own), torch.arange(18, device=device)
    step = KernelStep(net, [own, gradients, like(own), []], x, torch.zeros_like(order), 18, None, SMALL)
    step.forward(order)
    assert torch.equal(step.logits, logits)
    step.passed.copy_(passed)
    step.go_back(order)
    step.backward(order, *torch.zeros(2, device=device))
    assert all(map(torch.equal, gradients, expected))


def test_what_is_no_number_is_not_lost(device: str) -> None:
    """A NaN in a pixel that only one window's second output sees reaches the loss and every gradient."""
    _, net = nets(device)
    x, t = (torch.from_numpy(part).to(device) for part in seeded_batch(1, 3, IMAGE, 7))
    x[1, 0, 0, 6] = torch.nan
    own: list[Tensor] = list(net.parameters())
    gradients = like(own)
    step = KernelStep(net, [own, gradients, like(own), []], x.float(), t, 3, None, SMALL)
    loss = torch.zeros((), device=device)
    step.take(torch.arange(3, device=device), torch.zeros((), device=device), loss)
    assert loss.isnan()
    assert all(gradient.isnan().any() for gradient in gradients)


def test_memory_is_moved_into_one_vector() -> None:
    tensors = [torch.arange(6.0).view(2, 3), torch.ones(70), torch.tensor(5.0)]
    wanted = [tensor.clone() for tensor in tensors]
    vector = in_one_vector(tensors)
    torch.testing.assert_close(tensors, wanted)
    vector += 1
    torch.testing.assert_close(tensors, [each + 1 for each in wanted])
    assert starts_of(tensors) == ([0, 64, 192], 256)


def test_divisions_of_work_are_timed_and_equal(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of gradients, by kernel_sizes.py: each gives the same gradients, and the one that takes least time is chosen."""
    made: dict[Sizes, KernelStep] = {}

    def make(sizes: Sizes) -> KernelStep:
        _, net = nets(device)
        x, t = (torch.from_numpy(part).to(device) for part in seeded_batch(1, 36, IMAGE, 7))
        own: list[Tensor] = list(net.parameters())
        made[sizes] = KernelStep(net, [own, like(own), like(own), []], x.float(), t, 5, None, sizes)
        return made[sizes]

    def rigged(takes: Any, name: str) -> dict[Sizes, float]:
        return {sizes: float(sizes.chunk != (1, 4)) for sizes in takes}

    monkeypatch.setattr(kernel_sizes, "LAUNCHES", 1)
    monkeypatch.setattr(kernel_sizes, "microseconds", rigged)
    tried = {"step": [(16, 16), (32, 32)], "chunk": [(2, 2), (1, 4)]}
    monkeypatch.setitem(kernel_sizes.TRIED, kernels.gradients, (tried, [1]))
    assert kernel_sizes.fastest(kernels.gradients, SMALL, make) == SMALL._replace(chunk=(1, 4))
    assert "0.00  step (16, 16) chunk (1, 4) warps 1" in capsys.readouterr().out
    first, *others = (step.arguments["m_ptr"] for step in made.values())
    assert len(others) == 3
    assert first.any()
    torch.testing.assert_close(others, 3 * [first], rtol=1e-5, atol=1e-7)


# --- As the loop of training takes it


def learner(monkeypatch: pytest.MonkeyPatch, device: str, **options: Any) -> TorchLearner:
    """A learner on 8 images in batches of 3, with rates in slots as a graph reads them; recorded on CUDA only."""
    rng, network = np.random.RandomState(0), nets("cpu")[0]
    images, labels = rng.randint(0, 256, (8, *IMAGE)).astype(np.uint8), rng.randint(0, 7, 8)
    if device == "cpu":
        monkeypatch.setattr(torch_learner, "uses_graphs", lambda *_: True)
        monkeypatch.setattr(torch_learner, "captured", lambda function, restore, device: function)
    weights = Weights.of(network.params).astype(torch.float32)
    config = Config(batch_size=3, sampling="epoch", **options)
    samples = Samples(images, labels, images, labels, 7)
    taker = TorchLearner(config, weights, samples, torch.device(device), Ranks())
    taker.capture()
    return taker


def two_epochs(taker: TorchLearner) -> dict[str, Any]:
    """Everything that two epochs change, the last one of which begins at its second batch."""
    results: dict[str, Any] = {}
    for epoch, at in enumerate((0, 1)):
        taker.begin(np.random.RandomState(epoch).permutation(8), at)
        results[f"losses of {epoch}"] = torch.from_numpy(taker.advance(3 - at)).float()
    state = taker.state()
    moments = {f"{i} {name}": value for i, kept in state["optimizer"]["state"].items() for name, value in kept.items()}
    sums = {f"sum of {key}": value for key, value in state["totals"].items()}
    return {**results, **state["model"], **moments, **sums}


@pytest.mark.parametrize("options", [{}, {"log_loss": "after", "keep": "last"}], ids=["default", "after, last"])
def test_training_by_kernels_is_training(options: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torchs, own = (two_epochs(learner(monkeypatch, device, kernels=k, **options)) for k in ("torch", "triton"))
    torch.testing.assert_close(own, torchs, rtol=1e-4, atol=1e-5)
    again = two_epochs(learner(monkeypatch, device, kernels="triton", **options))
    assert all(torch.equal(value, again[name]) for name, value in own.items())


def test_kernels_that_cannot_be_made_are_done_without(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any) -> None:
        raise KeyError("no C compiler")

    expected = two_epochs(learner(monkeypatch, device))
    monkeypatch.setattr(KernelStep, "take", no_compiler)
    with pytest.warns(UserWarning, match="Triton cannot make .* .'no C compiler'.: torch's take the steps"):
        taker = learner(monkeypatch, device, kernels="triton")
    torch.testing.assert_close(two_epochs(taker), expected)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"hidden_size": 129}, "hidden_size of at most 128, got 129"),
        ({"output_size": 17}, "output_size of at most 16, got 17"),
        ({"conv_param": {**FILTERS, "pad": 1, "filter_size": 2}}, "stride 1 and pad 0, got stride 1 and pad 1"),
    ],
    ids=["hidden", "classes", "pad"],
)
def test_networks_that_the_kernels_do_not_take(sizes: Any, says: str) -> None:
    net = SimpleConvNet(IMAGE, **{"conv_param": FILTERS, **sizes})
    with pytest.raises(ValueError, match=f"kernels triton take {says}: choose torch"):
        check_fit(net, 100, 100)


@pytest.mark.parametrize(
    ("given", "says"), [((129, 1), "batch_size of at most 128, got 129"), ((128, 2**31), r"fewer than 2\*\*31 pixels")]
)
def test_data_that_the_kernels_do_not_take(given: tuple[int, int], says: str) -> None:
    with pytest.raises(ValueError, match=f"kernels triton take {says}"):
        check_fit(nets("cpu")[1], *given)
