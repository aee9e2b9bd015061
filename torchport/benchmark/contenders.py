"""One training step of the same network, by everything that is compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from torchport.benchmark.rounds import Steps
from torchport.choices import Convolution, Precision
from torchport.data.images import pixels
from torchport.layers.loss import softmax_with_loss
from torchport.networks import SimpleConvNet, Weights
from torchport.optimizers import make_optimizer
from torchport.training import Config, Samples
from torchport.training.ranks import Ranks
from torchport.training.torch_learner import TorchLearner

HIDDEN, CLASSES, FILTER = 100, 10, 5  # the book's

# No weight moves, so that a step costs what the one before it did. With the book's rate the network soon knows the
# images by heart, and rules slow down that keep subnormal numbers (see BookAdam).
LR = 0.0

REFERENCE, UNFOLD, CONV2D, TRAINING, PLAIN, FLOOR = (
    "numpy_ref",
    "unfold twin",
    "conv2d twin",
    "training",
    "plain PyTorch",
    "products alone",
)

# What is divided by what.
RATIOS = ((REFERENCE, TRAINING), (PLAIN, TRAINING), (TRAINING, FLOOR), (UNFOLD, CONV2D), (REFERENCE, PLAIN))


@dataclass(frozen=True)
class Case:
    """Batches of random images for the book's network, of any size. What is in the images is no matter of time."""

    batch_size: int = 100
    filters: int = 30
    side: int = 28  # pixels, even
    batches: int = 10  # until the same images come again
    device: str = "cpu"

    def samples(self) -> Samples:
        """Images and labels of all batches."""
        rng = np.random.RandomState(0)
        n = self.batch_size * self.batches
        images = rng.randint(0, 256, (n, 1, self.side, self.side)).astype(np.uint8)
        labels = rng.randint(0, CLASSES, n)
        return Samples(images, labels, images[:1], labels[:1], CLASSES)

    def reference(self) -> nr.SimpleConvNet:
        """The NumPy network with the book's start."""
        param = {"filter_num": self.filters, "filter_size": FILTER, "pad": 0, "stride": 1}
        return nr.SimpleConvNet((1, self.side, self.side), param, HIDDEN, CLASSES, rng=np.random.RandomState(0))


def contenders(case: Case) -> dict[str, Steps]:
    """By name, what takes a number of training steps: all in float32 but numpy_ref, whose weights are float64.

    numpy_ref logs the loss after the update, as the book does; the others log that of the step. "training" is the loop
    of torchport.training, "plain PyTorch" what one would write with a DataLoader over torchvision's MNIST, and
    "products alone" the matrix products of a step, which no implementation can do without.
    """
    return {
        REFERENCE: _reference(case),
        UNFOLD: _twin(case, "unfold"),
        CONV2D: _twin(case, "conv2d"),
        TRAINING: training(case),
        PLAIN: _plain(case),
        FLOOR: _products(case),
    }


def _reference(case: Case) -> Steps:
    network, rule, samples = case.reference(), nr.Adam(LR), case.samples()
    batches = _batches(case, pixels(samples.x_train), samples.t_train)

    def step() -> None:
        x, t = next(batches)
        rule.update(network.params, network.gradient(x, t))
        network.loss(x, t)

    return _repeated(step)


def _twin(case: Case, conv: Convolution) -> Steps:
    samples = case.samples()
    net = SimpleConvNet.from_params(_start(case).params, conv, device=case.device)
    rule = make_optimizer("adam", net.parameters(), lr=LR)
    images = torch.from_numpy(pixels(samples.x_train)).to(case.device)
    batches = _batches(case, images, torch.from_numpy(samples.t_train).to(case.device))

    def step() -> None:
        x, t = next(batches)
        rule.zero_grad()
        softmax_with_loss(net(x), t).backward()
        rule.step()

    return _repeated(step)


def training(case: Case, precision: Precision = "full") -> Steps:
    """The steps of torchport.training, with the products in that precision (full, tf32, bf16)."""
    config = Config(lr=LR, batch_size=case.batch_size, precision=precision, device=case.device)
    learner = TorchLearner(config, _start(case), case.samples(), torch.device(case.device), Ranks())
    order = np.arange(case.batches * case.batch_size)
    left = 0

    def take(count: int) -> None:
        nonlocal left
        while count:
            if not left:
                learner.begin(order, 0)
                left = case.batches
            steps = min(count, left)
            learner.advance(steps)
            count, left = count - steps, left - steps

    return take


def _plain(case: Case) -> Steps:
    """nn.Conv2d, torch's Adam, and a DataLoader that makes tensors of Pillow's images, one by one."""
    features = case.filters * ((case.side - FILTER + 1) // 2) ** 2
    net = nn.Sequential(
        nn.Conv2d(1, case.filters, FILTER),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(features, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, CLASSES),
    ).to(case.device)
    rule = torch.optim.Adam(net.parameters(), lr=LR)
    loader = torch.utils.data.DataLoader(_as_mnist(case.samples()), case.batch_size, shuffle=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def step() -> None:
        x, t = (part.to(case.device) for part in next(batches))
        rule.zero_grad()
        F.cross_entropy(net(x), t).backward()
        rule.step()

    return _repeated(step)


def _as_mnist(samples: Samples) -> Any:
    """torchvision's MNIST with these images, which it reads from files otherwise."""
    from torchvision.datasets import MNIST, VisionDataset
    from torchvision.transforms import ToTensor

    found = MNIST.__new__(MNIST)
    VisionDataset.__init__(found, ".", transform=ToTensor())
    found.data, found.targets = torch.from_numpy(samples.x_train[:, 0]), torch.from_numpy(samples.t_train)
    return found


def _products(case: Case) -> Steps:
    """Those of both directions, into memory that is there already; a first layer's input needs no gradient."""
    out = case.side - FILTER + 1
    rows, features = case.batch_size * out**2, case.filters * (out // 2) ** 2
    shapes = [(rows, FILTER**2, case.filters, False)]  # of the outputs; then of the layers behind
    shapes += [(case.batch_size, features, HIDDEN, True), (case.batch_size, HIDDEN, CLASSES, True)]
    products = [product for shape in shapes for product in _both_ways(*shape, case.device)]

    def step() -> None:
        for a, b, result in products:
            torch.mm(a, b, out=result)

    return _repeated(step)


def _both_ways(
    n: int, inputs: int, outputs: int, needs_dx: bool, device: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """x W, and for the gradients x^T dout and dout W^T: two factors and where their product goes."""
    x, w, y = (torch.rand(shape, device=device) for shape in ((n, inputs), (inputs, outputs), (n, outputs)))
    yield x, w, y.clone()
    yield x.t(), y, w.clone()
    if needs_dx:
        yield y, w.t(), x.clone()


def _start(case: Case) -> Weights:
    return Weights.of(case.reference().params).astype(torch.float32)


def _batches(case: Case, images: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    for start in itertools.cycle(range(0, len(images), case.batch_size)):
        batch = slice(start, start + case.batch_size)
        yield images[batch], labels[batch]


def _repeated(step: Callable[[], None]) -> Steps:
    def take(count: int) -> None:
        for _ in range(count):
            step()

    return take
