"""A training step of SimpleConvNet by the kernels in Triton, and what they leave for one another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from numpy_ref.functions import LOG_OFFSET
from numpy_ref.optimizer import EPS
from torchport.networks import SimpleConvNet
from torchport.training import kernels

PLACES = ("CONV_WEIGHT", "CONV_BIAS", "WEIGHT1", "BIAS1", "WEIGHT2", "BIAS2")  # of the parameters, in their order
LARGEST = {"batch_size": 128, "hidden_size": 128, "output_size": 16}  # of what a block of threads takes at once
INTERPRETED_CORES = 100  # in place of a GPU's multiprocessors


class Sizes(NamedTuple):
    """How work is shared among blocks of threads."""

    places: int = 128  # windows of pooling, a block of conv_pool_relu
    filters: int = 4
    images: int = 64  # of a tile of affine1_parts
    units: int = 64
    slab: int = 32  # features, a block of affine1_upstream and of gradients
    windows: int = 8  # at a time, a block of gradients
    rounds: int = 8
    depth: int = 16  # terms of one product, which a thread keeps in registers; no fewer before Triton 3.7
    warps: tuple[int, ...] = (4, 8, 4, 8, 8, 4)  # of kernels.KERNELS


DEFAULT_SIZES = Sizes()


class KernelStep:
    """The step of a SimpleConvNet on batches of given images (N, C, H, W), float32, with labels (N,), int64.

    state is four lists of tensors: the network's parameters, Adam's moments m and v, and the parameters' sums over an
    epoch, or none. Each list moves into one vector. Without betas no parameter moves, and m becomes the gradients.
    ValueError where the kernels do not take a network.
    """

    def __init__(
        self,
        net: SimpleConvNet,
        state: Sequence[Sequence[Tensor]],
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        betas: tuple[float, float] | None,
        sizes: Sizes = DEFAULT_SIZES,
    ) -> None:
        check_fit(net, batch_size, images.numel())
        self._net, self._images, self._labels, self._warps = net, images, labels, sizes.warps
        *vectors, totals = (in_one_vector(tensors) if tensors else None for tensors in state)
        self._vectors = (*vectors, totals if totals is not None else vectors[0])  # which is then not read
        self._constants = known = constants(net, images, batch_size, sizes)
        known |= dict(zip(PLACES, starts_of(state[0])[0], strict=True))
        known |= dict(zip(("BETA1", "BETA2"), betas or (None, None), strict=True)) | {"SUMMED": totals is not None}
        features, hidden, classes = (known[name] for name in ("FEATURES", "HIDDEN", "CLASSES"))
        windows, slabs = batch_size * (features // known["FN"]), cdiv(features, sizes.slab)
        tiles = cdiv(batch_size, sizes.images), cdiv(hidden, sizes.units)
        self._grids = {
            kernels.conv_pool_relu: (cdiv(windows, sizes.places), cdiv(known["FN"], sizes.filters)),
            kernels.affine1_parts: (known["PARTS"], *tiles),
            kernels.affine1_upstream: (slabs,),
            kernels.gradients: (slabs + known["CHUNKS"],),
            kernels.finish: (known["FN"] + classes + 1,),
        }
        new = partial(torch.zeros, device=images.device)
        self.logits, self.passed = new(batch_size, classes), new(batch_size, classes)  # passed: the loss's gradient
        self._pooled = new(batch_size, features)
        self._where, self._upstream = new(windows, known["FN2"], dtype=torch.int8), new(windows, known["FN2"])
        self._hidden, self._passed1, self._logs = new(batch_size, hidden), new(batch_size, hidden), new(batch_size)
        self._parts = new(known["PARTS"], batch_size, hidden)
        self._conv_parts = new(known["CHUNKS"], known["FN2"], known["TAPS2"])
        self._transposed = new(features, hidden)
        self.refresh()

    def refresh(self) -> None:
        """Have what is kept twice follow the parameters, where something else has changed them."""
        self._transposed.copy_(self._net.affine1.weight.detach().t())

    def take(self, order: Tensor, rate: Tensor, loss: Tensor) -> None:
        """Forward, backward, and Adam at rate () of the images order (n,), int64; into loss () their log_likelihood."""
        self.forward(order)
        self.backward(order, rate, loss)

    def measure(self, order: Tensor, loss: Tensor) -> None:
        """Into loss () the log_likelihood of the images order (n,)."""
        self.forward(order)
        torch.sum(self._logs[: len(order)], dim=0, out=loss)

    def forward(self, order: Tensor) -> None:
        """Into logits those of the images order (n,), and into passed the gradient of their mean loss."""
        net, n = self._net, len(order)
        conv = net.conv1.weight, net.conv1.bias
        self._launch(kernels.conv_pool_relu, self._images, order, *conv, self._pooled, self._where, n)
        self._launch(kernels.affine1_parts, self._pooled, self._transposed, self._parts, n)
        self.go_back(order, given=False)

    def go_back(self, order: Tensor, given: bool = True) -> None:
        """From what is given in passed as far as affine1's output."""
        net = self._net
        tail = net.affine1.bias, net.affine2.weight, net.affine2.bias, self._labels, order
        left = self._hidden, self.logits, self.passed, self._passed1, self._logs
        self._launch(kernels.head, self._parts, *tail, *left, len(order), GIVEN=given)

    def backward(self, order: Tensor, rate: Tensor, loss: Tensor) -> None:
        """From there to every parameter, and Adam."""
        n = len(order)
        self._launch(kernels.affine1_upstream, self._passed1, self._net.affine1.weight, self._upstream, n)
        conv = self._images, order, self._upstream, self._where, self._conv_parts
        affine = self._passed1, self._pooled, self._transposed
        self._launch(kernels.gradients, *conv, *affine, *self._vectors, rate, n)
        left = self._conv_parts, self.passed, self._passed1, self._hidden, self._logs
        self._launch(kernels.finish, *left, *self._vectors, rate, loss, n)

    def _launch(self, kernel: Any, *arguments: Any, **more: Any) -> None:
        known = {name: self._constants[name] for name in kernel.arg_names if name in self._constants}
        grid = self._grids.get(kernel, arguments[-1:])  # of head an image each
        kernel[grid](*arguments, **known, **more, num_warps=self._warps[kernels.KERNELS.index(kernel)])


def check_fit(net: SimpleConvNet, batch_size: int, pixels: int) -> None:
    """ValueError where the kernels take smaller sizes, fewer pixels in all, or other steps of a filter."""
    sizes = (batch_size, *net.affine2.weight.shape[::-1])
    for (name, largest), size in zip(LARGEST.items(), sizes, strict=True):
        if size > largest:
            raise ValueError(f"kernels triton take {name} of at most {largest}, got {size}: choose torch")
    if pixels >= 2**31:
        raise ValueError(f"kernels triton take fewer than 2**31 pixels in all, got {pixels}: choose torch")
    if (net.conv1.stride, net.conv1.padding) != ((1, 1), (0, 0)):
        found = f"stride {net.conv1.stride[0]} and pad {net.conv1.padding[0]}"
        raise ValueError(f"kernels triton take stride 1 and pad 0, got {found}: choose torch")


def constants(net: SimpleConvNet, images: Tensor, batch_size: int, sizes: Sizes) -> dict[str, Any]:
    """The kernels' constants by their names: of the network, and of how its work is shared."""
    (_, channels, height, width), (filters, _, size, _) = images.shape, net.conv1.weight.shape
    (hidden, features), classes = net.affine1.weight.shape, len(net.affine2.weight)
    on_cuda = images.device.type == "cuda"
    cores = torch.cuda.get_device_properties(images.device).multi_processor_count if on_cuda else INTERPRETED_CORES
    tiles = cdiv(batch_size, sizes.images) * cdiv(hidden, sizes.units)
    steps = cdiv(features, sizes.depth * max(1, cores // tiles))  # of affine1_parts, so that all cores have a part
    parts = cdiv(features, sizes.depth * steps)
    chunks = cdiv(batch_size * (features // filters), sizes.windows * sizes.rounds)
    network: dict[str, Any] = {"C": channels, "H": height, "W": width, "FN": filters, "FS": size, "FEATURES": features}
    network |= {"HIDDEN": hidden, "CLASSES": classes, "BATCH": batch_size, "LOG_OFFSET": LOG_OFFSET, "EPSILON": EPS}
    ranges = {"BATCH": batch_size, "HIDDEN": hidden, "CLASSES": classes, "FN": filters, "PARTS": parts}
    ranges |= {"CHUNKS": chunks, "TAPS": channels * size * size + 1}  # of a filter; the bias is one
    shared = {"GROUP": sizes.filters, "BLOCK": sizes.places, "SLAB": sizes.slab, "WINDOWS": sizes.windows}
    shared |= {"ROUNDS": sizes.rounds, "BM": sizes.images, "BN": sizes.units, "BK": sizes.depth, "STEPS": steps}
    powers = {f"{name}2": next_power_of_2(value) for name, value in ranges.items()}
    powers |= {name: max(16, powers[name]) for name in ("BATCH2", "HIDDEN2")}  # the least that tl.dot takes
    return network | ranges | shared | powers


def in_one_vector(tensors: Sequence[Tensor]) -> Tensor:
    """A vector that is the memory of all from now on."""
    starts, size = starts_of(tensors)
    vector = tensors[0].new_zeros(size)
    for tensor, start in zip(tensors, starts, strict=True):
        part = vector[start : start + tensor.numel()].view(tensor.shape)
        part.copy_(tensor.detach())
        tensor.data = part
    return vector


def starts_of(tensors: Sequence[Tensor]) -> tuple[list[int], int]:
    """Where each begins in a vector of all, at whole runs of 64 numbers; and the vector's length."""
    ends = list(itertools.accumulate(-(-tensor.numel() // 64) * 64 for tensor in tensors))
    return [0, *ends[:-1]], ends[-1]
