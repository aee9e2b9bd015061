"""A training step of SimpleConvNet by the Triton kernels: their constants, their grids, and the memory between them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from numpy_ref.functions import LOG_OFFSET
from numpy_ref.optimizer import EPS
from torchport.networks import SimpleConvNet
from torchport.training import kernels

STARTS = ("CONV_WEIGHT", "CONV_BIAS", "WEIGHT1", "BIAS1", "WEIGHT2", "BIAS2")  # of the parameters, in their order
TILES = ("GROUP", "BLOCK", "BM", "BN", "UM", "UN", "WM", "WN", "WINDOWS", "ROUNDS")  # of Sizes, in their order
LARGEST = {"batch_size": 128, "hidden_size": 128, "output_size": 16}  # ranges that one block of threads covers
INTERPRETED_CORES = 100  # in place of a GPU's multiprocessors


class Sizes(NamedTuple):
    """How much of each kernel's result one block of threads computes, in powers of two, and by how many warps.

    parity_tests/training/kernel_sizes.py measures others.
    """

    conv: tuple[int, int] = (4, 128)  # filters and windows of pooling, of conv_pool_relu
    parts: tuple[int, int] = (64, 64)  # images and units, of affine1_parts
    upstream: tuple[int, int] = (128, 32)  # images and features, of affine1_upstream
    step: tuple[int, int] = (128, 32)  # units and features, of gradients
    chunk: tuple[int, int] = (8, 8)  # windows at a time, and how many times, of gradients
    depth: int = 16  # terms of a product that a thread holds in registers; tl.dot takes no fewer before Triton 3.7
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
        self._net, self._warps = net, sizes.warps
        constants = constants_of(net, images, batch_size, sizes)
        constants |= dict(zip(STARTS, starts_of(state[0])[0], strict=True))
        constants |= {"BETA1": betas and betas[0], "BETA2": betas and betas[1], "SUMMED": bool(state[3])}
        p, m, v, totals = (in_one_vector(tensors) if tensors else None for tensors in state)
        between = tensors_between(constants, images.device)
        self.logits, self.passed = between["logits_ptr"], between["passed2_ptr"]  # the loss's gradient by the logits
        self.arguments = {
            "x_ptr": images,
            "labels_ptr": labels,
            "weight_ptr": net.conv1.weight,
            "bias_ptr": net.conv1.bias,
            "weight1_ptr": net.affine1.weight,
            "bias1_ptr": net.affine1.bias,
            "weight2_ptr": net.affine2.weight,
            "bias2_ptr": net.affine2.bias,
            "p_ptr": p,
            "m_ptr": m,
            "v_ptr": v,
            "total_ptr": p if totals is None else totals,  # which is then not read
            **constants,
            **between,
        }
        self.refresh()

    def refresh(self) -> None:
        """Copy affine1's weight to its transposed duplicate, after anything but a step has changed it."""
        self.arguments["transposed_ptr"].copy_(self._net.affine1.weight.detach().t())

    def take(self, order: Tensor, rate: Tensor, loss: Tensor) -> None:
        """Take a step at rate () on the images order (n,), int64; write their log_likelihood into loss ()."""
        self.forward(order)
        self.backward(order, rate, loss)

    def measure(self, order: Tensor, loss: Tensor) -> None:
        """Write the log_likelihood of the images order (n,) into loss ()."""
        self.forward(order)
        torch.sum(self.arguments["logs_ptr"][: len(order)], dim=0, out=loss)

    def forward(self, order: Tensor) -> None:
        """Compute logits of the images order (n,), and in passed the gradient of their mean loss."""
        for kernel in kernels.FORWARD:
            self.launch(kernel, order)

    def go_back(self, order: Tensor) -> None:
        """Compute gradients as far as affine1's output, from the gradient that was written into passed."""
        self.launch(kernels.head, order, given=True)

    def backward(self, order: Tensor, rate: Tensor, loss: Tensor) -> None:
        """Compute the gradient of every parameter from there on, and update it."""
        for kernel in kernels.BACKWARD:
            self.launch(kernel, order, rate, loss)

    def launch(
        self, kernel: Any, order: Tensor, rate: Tensor | None = None, loss: Tensor | None = None, given: bool = False
    ) -> None:
        """One of kernels.KERNELS on the images order (n,), with every argument found by its name."""
        n = len(order)
        arguments = self.arguments | {"order_ptr": order, "rate_ptr": rate, "loss_ptr": loss, "n": n, "GIVEN": given}
        grid = grids(self.arguments, n)[kernel]
        kernel[grid](
            **{name: arguments[name] for name in kernel.arg_names}, num_warps=self._warps[kernels.KERNELS.index(kernel)]
        )


def grids(constants: Mapping[str, Any], n: int) -> dict[Any, tuple[int, ...]]:
    """The number of blocks along each axis, by kernel, for n images."""

    def blocks(length: str, tile: str) -> int:
        return int(cdiv(constants[length], constants[tile]))

    return {
        kernels.conv_pool_relu: (blocks("PLACES", "BLOCK"), blocks("FN", "GROUP")),
        kernels.affine1_parts: (constants["PARTS"], blocks("BATCH", "BM"), blocks("HIDDEN", "BN")),
        kernels.head: (n,),
        kernels.affine1_upstream: (blocks("FEATURES", "UN"), blocks("BATCH", "UM")),
        kernels.gradients: (blocks("FEATURES", "WN") * blocks("HIDDEN", "WM") + constants["CHUNKS"],),
        kernels.finish: (constants["FN"] + constants["CLASSES"] + 1,),
    }


def tensors_between(constants: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """The memory through which kernels pass their results on, by the names of their arguments."""
    batch, hidden, features, classes = (constants[name] for name in ("BATCH", "HIDDEN", "FEATURES", "CLASSES"))
    places, parts, chunks, filters = (constants[name] for name in ("PLACES", "PARTS", "CHUNKS", "FN2"))
    new = partial(torch.zeros, device=device)
    return {
        "pooled_ptr": new(batch, features),
        "where_ptr": new(places, filters, dtype=torch.int8),
        "transposed_ptr": new(features, hidden),
        "parts_ptr": new(parts, batch, hidden),
        "hidden_ptr": new(batch, hidden),
        "logits_ptr": new(batch, classes),
        "logs_ptr": new(batch),
        "passed2_ptr": new(batch, classes),
        "passed1_ptr": new(batch, hidden),
        "upstream_ptr": new(places, filters),
        "conv_parts_ptr": new(chunks, filters, constants["TAPS2"]),
    }


def check_fit(net: SimpleConvNet, batch_size: int, pixels: int) -> None:
    """ValueError where sizes, the number of pixels, stride or padding are not what the kernels are written for."""
    sizes = (batch_size, *net.affine2.weight.shape[::-1])
    for (name, largest), size in zip(LARGEST.items(), sizes, strict=True):
        if size > largest:
            raise ValueError(f"kernels triton take {name} of at most {largest}, got {size}: choose torch")
    if pixels >= 2**31:
        raise ValueError(f"kernels triton take fewer than 2**31 pixels in all, got {pixels}: choose torch")
    if (net.conv1.stride, net.conv1.padding) != ((1, 1), (0, 0)):
        found = f"stride {net.conv1.stride[0]} and pad {net.conv1.padding[0]}"
        raise ValueError(f"kernels triton take stride 1 and pad 0, got {found}: choose torch")


def constants_of(net: SimpleConvNet, images: Tensor, batch_size: int, sizes: Sizes) -> dict[str, Any]:
    """The kernels' constants by name: sizes of the network, and of the tiles in which its work is shared."""
    (_, channels, height, width), (filters, _, size, _) = images.shape, net.conv1.weight.shape
    (hidden, features), classes = net.affine1.weight.shape, len(net.affine2.weight)
    network: dict[str, Any] = {"C": channels, "H": height, "W": width, "FN": filters, "FS": size, "FEATURES": features}
    network |= {"HIDDEN": hidden, "CLASSES": classes, "BATCH": batch_size, "LOG_OFFSET": LOG_OFFSET, "EPSILON": EPS}
    tiles = dict(zip(TILES, itertools.chain(*sizes[:5]), strict=True))
    # No tile is larger than the batch or the layer, but tl.dot takes no fewer than 16.
    largest = {"BM": batch_size, "UM": batch_size, "BN": hidden, "WM": hidden}
    tiles |= {name: min(tiles[name], max(16, next_power_of_2(rows))) for name, rows in largest.items()}
    # As many parts of affine1_parts as there are multiprocessors for.
    on_cuda = images.device.type == "cuda"
    cores = torch.cuda.get_device_properties(images.device).multi_processor_count if on_cuda else INTERPRETED_CORES
    most = max(1, cores // (cdiv(batch_size, tiles["BM"]) * cdiv(hidden, tiles["BN"])))
    steps = cdiv(features, sizes.depth * most)
    ranges = {"BATCH": batch_size, "HIDDEN": hidden, "CLASSES": classes, "FN": filters}
    ranges |= {"PARTS": cdiv(features, sizes.depth * steps)}
    ranges |= {"PLACES": batch_size * (features // filters)}  # windows of pooling, of all images
    ranges |= {"CHUNKS": cdiv(ranges["PLACES"], tiles["WINDOWS"] * tiles["ROUNDS"])}
    ranges |= {"TAPS": channels * size * size + 1}  # a filter's weights and bias
    powers = {f"{name}2": next_power_of_2(value) for name, value in ranges.items()}
    return network | tiles | {"BK": sizes.depth, "STEPS": steps} | ranges | powers


def in_one_vector(tensors: Sequence[Tensor]) -> Tensor:
    """Move all tensors into the memory of one vector, in place; the vector."""
    starts, size = starts_of(tensors)
    vector = tensors[0].new_zeros(size)
    for tensor, start in zip(tensors, starts, strict=True):
        part = vector[start : start + tensor.numel()].view(tensor.shape)
        part.copy_(tensor.detach())
        tensor.data = part
    return vector


def starts_of(tensors: Sequence[Tensor]) -> tuple[list[int], int]:
    """The index at which each begins in one vector of all, a multiple of 64; and the vector's length."""
    ends = list(itertools.accumulate(-(-tensor.numel() // 64) * 64 for tensor in tensors))
    return [0, *ends[:-1]], ends[-1]
