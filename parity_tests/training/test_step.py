"""A training step: its parts equal what they replace, it has few operations, and none waits for the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import numpy_ref as nr
from torchport import SimpleConvNet, softmax_with_loss
from torchport.choices import Convolution
from torchport.networks import Weights
from torchport.training import Config, Samples, graph, torch_learner
from torchport.training.device_data import one_hot_rows
from torchport.training.fused import affine_relu, arranged, log_likelihood, loss_gradient
from torchport.training.graph import captured
from torchport.training.ranks import Ranks
from torchport.training.torch_learner import TorchLearner

# torch 2.6 ends the process where there is no driver.
on_fake_cuda = pytest.mark.skipif(torch.__version__ < "2.9", reason="an older torch wants a driver for fake tensors")

# Of one step of the default run on CUDA, views aside. More of them are a step that got slower: name the reason.
OPERATIONS = Counter(
    {
        "index_select": 1,  # pixels and one-hot labels
        "div": 1,  # by 255
        "convolution": 1,
        "max_pool2d_with_indices": 1,
        "relu": 1,
        "_addmm_activation": 1,
        "addmm": 1,
        "_softmax": 1,
        "add": 1,  # the book's 1e-7
        "xlogy": 1,
        "sum": 3,  # the loss, two biases
        "sub_": 1,
        "div_": 1,
        "mm": 4,
        "threshold_backward": 2,
        "max_pool2d_with_indices_backward": 1,
        "convolution_backward": 1,
        "_fused_adam_": 1,
        "_foreach_add_": 1,  # to the mean of the weights
    }
)
# Instead of the fused Adam, whose rate is a float32.
BY_PARTS = {**{f"_foreach_{name}": 1 for name in ("mul", "sqrt", "add_", "div", "mul_", "sub_")}, "_foreach_lerp_": 2}
# Instead of a convolution: columns, a product of them, and the gradients of weight and bias, in unfold's own order.
BY_COLUMNS = {"constant_pad_nd": 1, "clone": 1, "_unsafe_view": 1, "baddbmm": 1, "bmm": 1, "sum": 2}
CONVOLUTION = {"convolution": 1, "convolution_backward": 1}


class Seen(TorchDispatchMode):
    """Counts operations by name, without views, and checks that none mixes tensors of host and device."""

    def __init__(self, first: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first = first  # step, in which what stays may come from the host
        self.names: Counter[str] = Counter()
        self.cudnn = True  # which judging has off

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.cudnn &= torch.backends.cudnn.enabled
        if func.namespace != "aten":  # the profiler's, and questions for the device
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = {tensor.device.type for tensor in tensors} == {"cuda"}
        assert there or self.first, f"{func} copies between host and device"
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.names[func.overloadpacket.__name__] += 1
        if func.overloadpacket is torch.ops.aten._fused_adam_:  # which has no fake; it returns nothing
            return None
        return func(*args, **kwargs)


def walk(node: Any, gradient: Tensor) -> None:
    """Run the backward pass from node, for results that are used once; torch's own engine needs the device to exist."""
    if hasattr(node, "variable"):
        node.variable.grad = gradient.sum_to_size(node.variable.shape)
        return
    gradients = node.apply(gradient) if isinstance(node, BackwardCFunction) else node(gradient)
    for (following, _), grad in zip(
        node.next_functions, gradients if isinstance(gradients, tuple) else (gradients,), strict=True
    ):
        if following is not None and grad is not None:
            walk(following, grad)


def samples(n: int = 20) -> Samples:
    rng = np.random.RandomState(0)
    images, labels = rng.randint(0, 256, (n, 1, 28, 28)).astype(np.uint8), rng.randint(0, 10, n)
    return Samples(images, labels, images, labels)


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CUDA device with shapes but no numbers: reading a number fails, as it does in a recording."""

    def port(weights: Weights, conv: Convolution, device: torch.device) -> SimpleConvNet:
        with monkeypatch.context() as patch:  # as the device may have no generator
            for draw in ("uniform_", "normal_"):
                patch.setattr(Tensor, draw, lambda self, *_, **__: self)
            return SimpleConvNet(conv=conv, dtype=weights.dtype, device=device)

    monkeypatch.setattr(torch_learner, "captured", lambda function, restore, device: function)
    for name in ("copied", "_make_state", "put_back"):  # which copy to the host, once
        monkeypatch.setattr(torch_learner, name, lambda *_: {})
    monkeypatch.setattr(Weights, "port", port)
    monkeypatch.setattr(Tensor, "backward", lambda self, gradient: walk(self.grad_fn, gradient))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def operations(config: Config, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The operations of the second step; the first one allocates what is kept."""
    weights = Weights.of(nr.SimpleConvNet().params).astype(getattr(torch, config.dtype))
    with fake_cuda(monkeypatch):
        learner = TorchLearner(config, weights, samples(), torch.device("cuda:0"), Ranks())
        learner.capture()
        for i in range(2):
            seen = Seen(first=not i)
            with seen:
                learner.take(learner._staged, i, config.batch_size)
    assert seen.cudnn
    return seen.names


@on_fake_cuda
@pytest.mark.parametrize(
    ("options", "less", "more"),
    [
        ({}, {}, {}),
        ({"keep": "last"}, {"_foreach_add_": 1}, {}),
        (
            {"dtype": "float64", "keep": "mean"},
            {"_fused_adam_": 1, **CONVOLUTION},
            {**BY_PARTS, "_to_copy": 1, **BY_COLUMNS},
        ),
    ],
    ids=["default", "last", "float64"],
)
def test_a_step_is_so_many_operations_and_none_waits_for_the_host(
    options: dict[str, Any], less: dict[str, int], more: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = operations(Config(batch_size=10, **options), monkeypatch)
    assert counted == OPERATIONS - Counter(less) + Counter(more)


@on_fake_cuda
def test_a_step_that_waits_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that read a number on the host, or bring one from there, are detected."""
    for slow in (lambda x, *_: x.sum().item(), lambda *_: torch.ones(()).to("cuda:0")):
        monkeypatch.setattr(torch_learner, "log_likelihood", slow)
        with pytest.raises((RuntimeError, AssertionError), match=r"scalar_dense|between host and device"):
            operations(Config(batch_size=10), monkeypatch)


@on_fake_cuda
def test_autograds_thread_begins_with_a_kernel_that_is_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, first = Weights.of(nr.SimpleConvNet().params).astype(torch.float32), list[str]()
    with fake_cuda(monkeypatch):
        monkeypatch.setattr(Tensor, "backward", lambda self, gradient: first.append(self.grad_fn.name()))
        learner = TorchLearner(Config(batch_size=10), weights, samples(), torch.device("cuda:0"), Ranks())
        learner.capture()
        learner.take(learner._staged, 0, 10)
    assert first == ["MulBackward0", "AddmmBackward0"]


# --- What the parts replace


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loss_of_one_hot_rows_is_the_books(dtype: torch.dtype, device: str, rng: np.random.Generator) -> None:
    """The gradient has equal bits; the value differs by the order of a sum of 20 logarithms and a mean."""
    labels = rng.integers(0, 10, 20)
    logits = torch.tensor(30 * rng.standard_normal((20, 10)), dtype=dtype, device=device, requires_grad=True)
    loss = softmax_with_loss(logits, torch.from_numpy(labels).to(device))
    loss.backward()
    one_hot = torch.from_numpy(one_hot_rows(np.zeros((20, 1), np.uint8), labels, 10)[:, 1:]).to(device)
    chances, value = logits.detach().softmax(dim=1), torch.zeros((), dtype=dtype, device=device)
    log_likelihood(chances, one_hot, value)
    torch.testing.assert_close(-value / 20, loss.detach(), rtol=22 * torch.finfo(dtype).eps, atol=0)
    assert logits.grad is not None
    assert torch.equal(loss_gradient(chances, one_hot, 20), logits.grad)


def test_rows_are_pixels_and_one_hot_labels(rng: np.random.Generator) -> None:
    images, labels = rng.integers(0, 256, (5, 2, 3, 3), np.uint8), np.array([2, 0, 1, 2, 2])
    rows = one_hot_rows(images, labels, 3)
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows[:, :18].reshape(images.shape), images)
    np.testing.assert_array_equal(rows[:, 18:], np.eye(3)[labels])


@pytest.mark.parametrize("scale", [1, 0], ids=["random", "zeros, on which relu turns"])
def test_affine_and_relu_at_once_are_one_after_the_other(scale: int, device: str, rng: np.random.Generator) -> None:
    """On small whole numbers, whose sums are exact in any order: equal bits."""
    affine = torch.nn.Linear(30, 7, device=device)
    with torch.no_grad():
        for parameter in affine.parameters():
            parameter.copy_(torch.from_numpy(scale * rng.integers(-3, 4, parameter.shape)))
    x = torch.tensor(rng.integers(-3, 4, (5, 30)), dtype=torch.float32, device=device, requires_grad=True)
    one, other = affine(x).relu(), affine_relu(x, affine)
    assert torch.equal(one, other)
    dout, leaves = torch.ones_like(one), [x, *affine.parameters()]
    assert all(map(torch.equal, *(torch.autograd.grad(y, leaves, dout) for y in (one, other))))


def test_affine_and_relu_at_once_follow_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert affine_relu(torch.rand(2, 3), torch.nn.Linear(3, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("tensor_cores", [True, False])
def test_only_tensor_cores_are_given_channels_last(tensor_cores: bool) -> None:
    """On any device but the CPU; meta stands for one. With one channel only the strides show the layout."""
    net = SimpleConvNet((3, 12, 12), device="meta")
    arranged(net, tensor_cores=tensor_cores)
    assert net.conv1.weight.is_contiguous(memory_format=torch.channels_last) == tensor_cores


# --- Recording, without a device that can


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of a stand-in for torch.cuda, in order."""
    told: list[Any] = []

    @contextmanager
    def noted(*what: Any, **options: Any) -> Iterator[None]:
        told.append((what, options))
        yield
        told.append("left")

    stream = SimpleNamespace(wait_stream=lambda other: None)

    def make_stream() -> Any:
        told.append("stream")
        return stream

    cuda = SimpleNamespace(
        device=lambda device: noted("device", device),
        Stream=make_stream,
        current_stream=lambda: stream,
        stream=lambda stream: noted("on"),
        CUDAGraph=lambda: SimpleNamespace(replay="replay"),
        graph=lambda graph, **options: noted("graph", **options),
        synchronize=lambda: None,
    )
    monkeypatch.setattr(graph, "torch", SimpleNamespace(cuda=cuda))
    return told


def test_a_recording_has_a_stream_of_its_own_device_and_does_not_mind_other_threads(recorder: list[Any]) -> None:
    """torch's default stream for recording is that of the first device, whatever device is asked for."""
    ran: list[str] = []
    replay = captured(lambda: ran.append("run"), lambda: ran.append("restore"), torch.device("cuda:1"))
    assert replay == "replay"  # type: ignore[comparison-overlap]
    assert recorder[:2] == [(("device", torch.device("cuda:1")), {}), "stream"]
    (_, options), *_ = [each for each in recorder if each[0] == ("graph",)]
    assert options["stream"] is not None
    assert options["capture_error_mode"] == "thread_local"
    assert ran == graph.WARM_UP * ["run", "restore"] + ["run"]
