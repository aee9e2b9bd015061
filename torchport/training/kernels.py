"""The book's step in float32 on CUDA as six Triton kernels, all that lies between them in tensors that stay."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numpy_ref.functions import LOG_OFFSET
from numpy_ref.optimizer import EPS
from torchport.networks import SimpleConvNet

LARGEST = {"batch_size": 128, "hidden_size": 128, "output_size": 16}  # what one block of threads takes at once

PLACES = ("CONV_WEIGHT", "CONV_BIAS", "WEIGHT1", "BIAS1", "WEIGHT2", "BIAS2")  # of the parameters, in their order

CUT = tl.constexpr(4)  # in place of the place of a window's largest: relu has cut it off


@triton.jit
def larger(best, where, value, place: tl.constexpr):
    """The larger of two, and where it is; the first of equal ones, and whatever is no number, as torch's pooling."""
    taken = (value > best) | (value != value)
    return tl.where(taken, value, best), tl.where(taken, place, where)


@triton.jit(do_not_specialize=["n"])
def conv_pool_relu(
    x_ptr, order_ptr, weight_ptr, bias_ptr, pooled_ptr, where_ptr, n,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, FN: tl.constexpr, FS: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of BLOCK windows of pooling and GROUP filters; every pixel of a window is fetched once for all filters."""
    PH: tl.constexpr = (H - FS + 1) // 2
    PW: tl.constexpr = (W - FS + 1) // 2
    windows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    filters = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    image, place = windows // (PH * PW), windows % (PH * PW)
    inside = image < n
    first = tl.load(order_ptr + image, mask=inside, other=0) * (C * H * W)
    window = x_ptr + (first + place // PW * (2 * W) + place % PW * 2)
    known = tl.minimum(filters, FN - 1)
    y00 = tl.zeros((GROUP, BLOCK), tl.float32) + tl.load(bias_ptr + known)[:, None]
    y01, y10, y11 = y00, y00, y00
    for c in tl.static_range(C):
        for fy in tl.static_range(FS):
            for fx in tl.static_range(FS):
                w = tl.load(weight_ptr + known * (C * FS * FS) + ((c * FS + fy) * FS + fx))[:, None]
                y00 += w * tl.load(window + ((c * H + fy) * W + fx))[None, :]
                y01 += w * tl.load(window + ((c * H + fy) * W + (fx + 1)))[None, :]
                y10 += w * tl.load(window + ((c * H + (fy + 1)) * W + fx))[None, :]
                y11 += w * tl.load(window + ((c * H + (fy + 1)) * W + (fx + 1)))[None, :]
    where = tl.zeros((GROUP, BLOCK), tl.int8)
    y00, where = larger(y00, where, y01, 1)
    y00, where = larger(y00, where, y10, 2)
    y00, where = larger(y00, where, y11, 3)
    cut = y00 <= 0
    at = image[None, :] * (FN * PH * PW) + filters[:, None] * (PH * PW) + place[None, :]
    stored = (filters < FN)[:, None] & inside[None, :]
    tl.store(pooled_ptr + at, tl.where(cut, 0.0, y00), mask=stored)
    tl.store(where_ptr + at, tl.where(cut, CUT, where).to(tl.int8), mask=stored)


@triton.jit(do_not_specialize=["n"])
def affine1_parts(
    pooled_ptr, weight_ptr, parts_ptr, n,
    BATCH: tl.constexpr, FEATURES: tl.constexpr, HIDDEN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """pooled @ weight.T over BK * STEPS of the features: its sums over all of them are too few for a GPU to share."""
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    columns = tl.program_id(2) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for i in range(STEPS):
        k = (tl.program_id(0) * STEPS + i) * BK + tl.arange(0, BK)
        known = k < FEATURES
        a = tl.load(
            pooled_ptr + rows[:, None] * FEATURES + k[None, :], mask=(rows < n)[:, None] & known[None, :], other=0.0
        )
        b = tl.load(
            weight_ptr + columns[None, :] * FEATURES + k[:, None],
            mask=(columns < HIDDEN)[None, :] & known[:, None],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision="ieee")
    at = (tl.program_id(0) * BATCH + rows[:, None]) * HIDDEN + columns[None, :]
    tl.store(parts_ptr + at, total, mask=(rows < n)[:, None] & (columns < HIDDEN)[None, :])


@triton.jit(do_not_specialize=["n"])
def head(
    parts_ptr, bias1_ptr, weight2_ptr, bias2_ptr, labels_ptr, order_ptr,
    hidden_ptr, logits_ptr, passed2_ptr, passed1_ptr, logs_ptr, n,
    PARTS: tl.constexpr, BATCH: tl.constexpr, HIDDEN: tl.constexpr, CLASSES: tl.constexpr, LOG_OFFSET: tl.constexpr,
    PARTS2: tl.constexpr, HIDDEN2: tl.constexpr, CLASSES2: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """Of one image, from the parts of affine1: relu, affine2, softmax, loss, and the gradients back to affine1's output.

    passed2 is the gradient by the logits: computed, or GIVEN. The softmax is computed in float64, as there are few.
    """
    image = tl.program_id(0)
    part, unit, label = tl.arange(0, PARTS2), tl.arange(0, HIDDEN2), tl.arange(0, CLASSES2)
    parts = tl.load(
        parts_ptr + (part[:, None] * BATCH + image) * HIDDEN + unit[None, :],
        mask=(part < PARTS)[:, None] & (unit < HIDDEN)[None, :],
        other=0.0,
    )
    hidden = tl.sum(parts, 0) + tl.load(bias1_ptr + unit, mask=unit < HIDDEN, other=0.0)
    hidden = tl.where(hidden <= 0, 0.0, hidden)
    weight = tl.load(
        weight2_ptr + label[:, None] * HIDDEN + unit[None, :],
        mask=(label < CLASSES)[:, None] & (unit < HIDDEN)[None, :],
        other=0.0,
    )
    known = label < CLASSES
    logits = tl.sum(weight * hidden[None, :], 1) + tl.load(bias2_ptr + label, mask=known, other=0.0)
    if GIVEN:
        passed = tl.load(passed2_ptr + image * CLASSES + label, mask=known, other=0.0)
    else:
        shifted = tl.where(known, logits - tl.max(tl.where(known, logits, float("-inf")), 0), float("-inf"))
        powers = tl.exp(shifted.to(tl.float64))
        chances = powers / tl.sum(powers, 0)
        right = label == tl.load(labels_ptr + tl.load(order_ptr + image))
        tl.store(logs_ptr + image, tl.sum(tl.where(right, tl.log(chances + LOG_OFFSET), 0.0), 0).to(tl.float32))
        passed = ((chances - right.to(tl.float64)) / n).to(tl.float32)
        tl.store(passed2_ptr + image * CLASSES + label, passed, mask=known)
    tl.store(logits_ptr + image * CLASSES + label, logits, mask=known)
    back = tl.sum(weight * passed[:, None], 0)
    tl.store(hidden_ptr + image * HIDDEN + unit, hidden, mask=unit < HIDDEN)
    tl.store(passed1_ptr + image * HIDDEN + unit, tl.where(hidden <= 0, 0.0, back), mask=unit < HIDDEN)


@triton.jit
def update(
    p_ptr, m_ptr, v_ptr, total_ptr, at, gradient, mask, rate,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """BookAdam of the parameters at at, and their sum over the epoch; with BETA1 of None m becomes the gradient."""
    if BETA1 is None:
        tl.store(m_ptr + at, gradient, mask=mask)
    else:
        m = tl.load(m_ptr + at, mask=mask, other=0.0)
        v = tl.load(v_ptr + at, mask=mask, other=0.0)
        p = tl.load(p_ptr + at, mask=mask, other=0.0)
        m += (gradient - m) * (1 - BETA1)
        v += (gradient * gradient - v) * (1 - BETA2)
        p -= rate * tl.div_rn(m, tl.sqrt_rn(v) + EPSILON)
        tl.store(m_ptr + at, m, mask=mask)
        tl.store(v_ptr + at, v, mask=mask)
        tl.store(p_ptr + at, p, mask=mask)
        if SUMMED:
            tl.store(total_ptr + at, tl.load(total_ptr + at, mask=mask, other=0.0) + p, mask=mask)


@triton.jit(do_not_specialize=["n", "rate_ptr"])
def affine1_backward(
    passed1_ptr, pooled_ptr, p_ptr, m_ptr, v_ptr, total_ptr, upstream_ptr, rate_ptr, n,
    WEIGHT1: tl.constexpr, FEATURES: tl.constexpr, HIDDEN: tl.constexpr,
    BATCH2: tl.constexpr, HIDDEN2: tl.constexpr, SLAB: tl.constexpr, BK: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """Of SLAB features: the gradient by pooled, then that by the weight, which no other block reads any more."""
    features = tl.program_id(0) * SLAB + tl.arange(0, SLAB)
    images, units = tl.arange(0, BATCH2), tl.arange(0, HIDDEN2)
    known = (features < FEATURES)[None, :]
    upstream = tl.zeros((BATCH2, SLAB), tl.float32)
    for start in range(0, HIDDEN, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(
            passed1_ptr + images[:, None] * HIDDEN + k[None, :],
            mask=(images < n)[:, None] & (k < HIDDEN)[None, :],
            other=0.0,
        )
        b = tl.load(
            p_ptr + (WEIGHT1 + k[:, None] * FEATURES + features[None, :]), mask=(k < HIDDEN)[:, None] & known, other=0.0
        )
        upstream = tl.dot(a, b, upstream, input_precision="ieee")
    tl.store(upstream_ptr + images[:, None] * FEATURES + features[None, :], upstream, mask=(images < n)[:, None] & known)
    gradient = tl.zeros((HIDDEN2, SLAB), tl.float32)
    for start in range(0, n, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(
            passed1_ptr + k[None, :] * HIDDEN + units[:, None],
            mask=(k < n)[None, :] & (units < HIDDEN)[:, None],
            other=0.0,
        )
        b = tl.load(pooled_ptr + k[:, None] * FEATURES + features[None, :], mask=(k < n)[:, None] & known, other=0.0)
        gradient = tl.dot(a, b, gradient, input_precision="ieee")
    at = WEIGHT1 + units[:, None] * FEATURES + features[None, :]
    mask = (units < HIDDEN)[:, None] & known
    update(p_ptr, m_ptr, v_ptr, total_ptr, at, gradient, mask, tl.load(rate_ptr), BETA1, BETA2, EPSILON, SUMMED)


@triton.jit(do_not_specialize=["n"])
def conv_gradient_parts(
    x_ptr, order_ptr, upstream_ptr, where_ptr, parts_ptr, n,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, FN: tl.constexpr, FS: tl.constexpr,
    TAPS2: tl.constexpr, BLOCK: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Of one filter over BLOCK * ROUNDS windows: only a window's largest has a gradient. Tap C * FS * FS is the bias."""
    PH: tl.constexpr = (H - FS + 1) // 2
    PW: tl.constexpr = (W - FS + 1) // 2
    tap = tl.arange(0, TAPS2)
    seen_at = tap // (FS * FS) * (H * W) + tap // FS % FS * W + tap % FS
    total = tl.zeros((TAPS2, BLOCK), tl.float32)
    for i in range(ROUNDS):
        windows = (tl.program_id(1) * ROUNDS + i) * BLOCK + tl.arange(0, BLOCK)
        image, place = windows // (PH * PW), windows % (PH * PW)
        inside = image < n
        at = image * (FN * PH * PW) + tl.program_id(0) * (PH * PW) + place
        where = tl.load(where_ptr + at, mask=inside, other=CUT).to(tl.int32)
        gradient = tl.load(upstream_ptr + at, mask=inside & (where != CUT), other=0.0)
        first = tl.load(order_ptr + image, mask=inside, other=0) * (C * H * W)
        first += (place // PW * 2 + (where // 2) % 2) * W + place % PW * 2 + where % 2
        seen = tl.load(x_ptr + (first[None, :] + seen_at[:, None]), mask=(tap < C * FS * FS)[:, None], other=1.0)
        total += seen * gradient[None, :]
    tl.store(parts_ptr + (tl.program_id(1) * FN + tl.program_id(0)) * TAPS2 + tap, tl.sum(total, 1))


@triton.jit(do_not_specialize=["n", "rate_ptr", "loss_ptr"])
def finish(
    parts_ptr, passed2_ptr, passed1_ptr, hidden_ptr, logs_ptr, p_ptr, m_ptr, v_ptr, total_ptr, rate_ptr, loss_ptr, n,
    CONV_WEIGHT: tl.constexpr, CONV_BIAS: tl.constexpr, BIAS1: tl.constexpr, WEIGHT2: tl.constexpr, BIAS2: tl.constexpr,
    C: tl.constexpr, FS: tl.constexpr, FN: tl.constexpr, CHUNKS: tl.constexpr, HIDDEN: tl.constexpr, CLASSES: tl.constexpr,
    TAPS2: tl.constexpr, CHUNKS2: tl.constexpr, HIDDEN2: tl.constexpr, BATCH2: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """One block a filter, one a class, and one for affine1's bias and the loss: sums, and the small parameters' step."""
    block, rate = tl.program_id(0), tl.load(rate_ptr)
    image, unit = tl.arange(0, BATCH2), tl.arange(0, HIDDEN2)
    mask = (image < n)[:, None] & (unit < HIDDEN)[None, :]
    if block < FN:
        part, tap = tl.arange(0, CHUNKS2), tl.arange(0, TAPS2)
        parts = tl.load(
            parts_ptr + (part[:, None] * FN + block) * TAPS2 + tap[None, :], mask=(part < CHUNKS)[:, None], other=0.0
        )
        at = tl.where(tap < C * FS * FS, CONV_WEIGHT + block * (C * FS * FS) + tap, CONV_BIAS + block)
        update(
            p_ptr, m_ptr, v_ptr, total_ptr, at, tl.sum(parts, 0), tap <= C * FS * FS, rate, BETA1, BETA2, EPSILON, SUMMED
        )  # fmt: skip
    elif block < FN + CLASSES:
        passed = tl.load(passed2_ptr + image * CLASSES + (block - FN), mask=image < n, other=0.0)
        hidden = tl.load(hidden_ptr + image[:, None] * HIDDEN + unit[None, :], mask=mask, other=0.0)
        at = WEIGHT2 + (block - FN) * HIDDEN + unit
        gradient = tl.sum(passed[:, None] * hidden, 0)
        update(
            p_ptr, m_ptr, v_ptr, total_ptr, at, gradient, unit < HIDDEN, rate, BETA1, BETA2, EPSILON, SUMMED
        )  # fmt: skip
        at = BIAS2 + (block - FN) + unit  # unit 0's
        gradient = tl.zeros((HIDDEN2,), tl.float32) + tl.sum(passed, 0)
        update(p_ptr, m_ptr, v_ptr, total_ptr, at, gradient, unit < 1, rate, BETA1, BETA2, EPSILON, SUMMED)
    else:
        back = tl.load(passed1_ptr + image[:, None] * HIDDEN + unit[None, :], mask=mask, other=0.0)
        update(
            p_ptr, m_ptr, v_ptr, total_ptr, BIAS1 + unit, tl.sum(back, 0), unit < HIDDEN, rate,
            BETA1, BETA2, EPSILON, SUMMED,
        )  # fmt: skip
        tl.store(loss_ptr, tl.sum(tl.load(logs_ptr + image, mask=image < n, other=0.0), 0))


class Sizes(NamedTuple):
    """How work is shared among blocks of threads."""

    windows: int = 128  # of pooling, a block of conv_pool_relu; conv_gradient_parts takes them in rounds
    rounds: int = 4
    filters: int = 8  # a block of conv_pool_relu
    images: int = 128  # of a tile of affine1_parts
    units: int = 128
    slab: int = 16  # features, a block of affine1_backward
    depth: int = 8  # terms of one product, which a thread keeps in registers
    warps: tuple[int, ...] = (4, 8, 8, 4, 4, 8)  # of KERNELS


DEFAULT_SIZES = Sizes()
KERNELS = (conv_pool_relu, affine1_parts, head, affine1_backward, conv_gradient_parts, finish)


class KernelStep:
    """The step of a SimpleConvNet on batches of given images (N, C, H, W), float32, with labels (N,), int64.

    state is four lists of tensors: the network's parameters, Adam's moments m and v, and the parameters' sums over an
    epoch, or none. Each list moves into one vector. Without betas no parameter moves, and m becomes the gradients.
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
        (channels, height, width), (filters, _, size, _) = images.shape[1:], net.conv1.weight.shape
        (hidden, features), classes, up = net.affine1.weight.shape, len(net.affine2.weight), triton.next_power_of_2
        check_sizes(batch_size, hidden, classes)
        self._net, self._images, self._labels, self._sizes = net, images, labels, sizes
        *vectors, totals = (in_one_vector(tensors) if tensors else None for tensors in state)
        self._vectors = (*vectors, totals if totals is not None else vectors[0])  # which is then not read
        on_cuda = images.device.type == "cuda"
        cores = torch.cuda.get_device_properties(images.device).multi_processor_count if on_cuda else 100
        tiles = -(-batch_size // sizes.images), -(-hidden // sizes.units)
        steps = -(-features // (sizes.depth * max(1, cores // math.prod(tiles))))
        parts = -(-features // (sizes.depth * steps))
        blocks = -(-batch_size * (features // filters) // sizes.windows)
        chunks, taps2 = -(-blocks // sizes.rounds), up(channels * size * size + 1)
        self._grids = {
            conv_pool_relu: (blocks, -(-filters // sizes.filters)),
            affine1_parts: (parts, *tiles),
            affine1_backward: (-(-features // sizes.slab),),
            conv_gradient_parts: (filters, chunks),
            finish: (filters + classes + 1,),
        }
        beta1, beta2 = betas or (None, None)
        self._constants = {
            **dict(zip(PLACES, starts_of(state[0])[0], strict=True)),
            **{"C": channels, "H": height, "W": width, "FN": filters, "FS": size},
            **{"FEATURES": features, "HIDDEN": hidden, "CLASSES": classes, "BATCH": batch_size},
            **{"GROUP": sizes.filters, "BLOCK": sizes.windows, "ROUNDS": sizes.rounds, "SLAB": sizes.slab},
            **{"BM": sizes.images, "BN": sizes.units, "BK": sizes.depth, "STEPS": steps, "PARTS": parts},
            **{"PARTS2": up(parts), "CHUNKS": chunks, "CHUNKS2": up(chunks), "TAPS2": taps2, "BATCH2": up(batch_size)},
            **{"HIDDEN2": up(hidden), "CLASSES2": up(classes), "LOG_OFFSET": LOG_OFFSET},
            **{"BETA1": beta1, "BETA2": beta2, "EPSILON": EPS, "SUMMED": totals is not None},
        }
        # What the kernels leave for one another.
        new = partial(torch.zeros, device=images.device)
        self.logits, self.passed = new(batch_size, classes), new(batch_size, classes)  # passed: the loss's gradient
        self._pooled, self._upstream = new(batch_size, features), new(batch_size, features)
        self._where = new(batch_size, features, dtype=torch.int8)
        self._hidden, self._passed1, self._logs = new(batch_size, hidden), new(batch_size, hidden), new(batch_size)
        self._parts, self._conv_parts = new(parts, batch_size, hidden), new(chunks, filters, taps2)

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
        self._launch(conv_pool_relu, self._images, order, *conv, self._pooled, self._where, n)
        self._launch(affine1_parts, self._pooled, net.affine1.weight, self._parts, n)
        self.go_back(order, given=False)

    def go_back(self, order: Tensor, given: bool = True) -> None:
        """From what is given in passed as far as affine1's output."""
        net = self._net
        tail = net.affine1.bias, net.affine2.weight, net.affine2.bias, self._labels, order
        left = self._hidden, self.logits, self.passed, self._passed1, self._logs
        self._launch(head, self._parts, *tail, *left, len(order), GIVEN=given)

    def backward(self, order: Tensor, rate: Tensor, loss: Tensor) -> None:
        """From there to every parameter, and Adam."""
        n = len(order)
        self._launch(affine1_backward, self._passed1, self._pooled, *self._vectors, self._upstream, rate, n)
        self._launch(conv_gradient_parts, self._images, order, self._upstream, self._where, self._conv_parts, n)
        left = self._conv_parts, self.passed, self._passed1, self._hidden, self._logs
        self._launch(finish, *left, *self._vectors, rate, loss, n)

    def _launch(self, kernel: Any, *arguments: Any, **more: Any) -> None:
        known = {name: self._constants[name] for name in kernel.arg_names if name in self._constants}
        grid = self._grids.get(kernel, arguments[-1:])  # of head an image each
        kernel[grid](*arguments, **known, **more, num_warps=self._sizes.warps[KERNELS.index(kernel)])


def check_sizes(*sizes: int) -> None:
    """ValueError where a batch's or the network's sizes are more than the kernels take."""
    for (name, largest), size in zip(LARGEST.items(), sizes, strict=True):
        if size > largest:
            raise ValueError(f"kernels triton take {name} of at most {largest}, got {size}: choose torch's")


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
