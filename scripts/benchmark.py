"""Speed and memory of all implementations, side by side: python scripts/benchmark.py

Interleaved in one process, since machines are noisy: compare within one run, by the ratios. Images are random, so
nothing is downloaded. All figures as JSON:
    python scripts/benchmark.py --json benchmark.json
Exit status: 0 measured, 2 bad input.
"""

# ruff: noqa: E402 - what takes time to import comes after --help

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torchport.commands import cli


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--device", type=cli.device, default="cpu", help="of all but numpy_ref (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--quick", action="store_true", help="few rounds and images: under a minute, for a first look")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


ARGUMENTS = parse_arguments() if __name__ == "__main__" else argparse.Namespace()  # --help does not wait for torch

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.files import check_target, replace_file
from torchport.bars import bar
from torchport.data.images import pixels
from torchport.evaluation import classify, peak_memory
from torchport.layers import softmax_with_loss
from torchport.networks import SimpleConvNet, Weights
from torchport.optimizers import make_optimizer
from torchport.training import Config, Samples, train
from torchport.training.ranks import Ranks
from torchport.training.torch_learner import TorchLearner

SIZE, BATCHES, FEATURES, HIDDEN = 100, 60, 30 * 12 * 12, 100  # batches until the same images come again

# No weight moves, so that a step costs what the one before it did. With the book's rate the network soon knows the
# images by heart, and rules slow down that keep subnormal numbers (see BookAdam).
LR = 0.0

REFERENCE, UNFOLD, CONV2D, TRAINING, TRITON, TF32, BFLOAT16, PLAIN, FLOOR = (
    "numpy_ref",
    "unfold port",
    "conv2d port",
    "training",
    "training, Triton",
    "training, TF32",
    "training, bfloat16",
    "plain PyTorch",
    "products alone",
)
RATIOS = (
    *((REFERENCE, TRAINING), (TRAINING, PLAIN), (TRAINING, FLOOR), (UNFOLD, CONV2D), (REFERENCE, PLAIN)),
    *((TRAINING, TRITON), (TRAINING, TF32), (TRAINING, BFLOAT16)),
)
PREDICTING = {REFERENCE: "numpy", UNFOLD: "unfold", CONV2D: "conv2d"}

Steps = Callable[[int], object]  # takes so many steps


# --- What takes a step: all in float32 but numpy_ref, whose weights are float64


def samples(n: int = SIZE * BATCHES) -> Samples:
    """Random images and labels: what is in them is no matter of time."""
    rng = np.random.RandomState(0)
    images, labels = rng.randint(0, 256, (n, 1, 28, 28), np.uint8), rng.randint(0, 10, n)
    return Samples(images, labels, images[:1000], labels[:1000])


def batches(images: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    for start in itertools.cycle(range(0, len(images), SIZE)):
        yield images[start : start + SIZE], labels[start : start + SIZE]


def repeated(step: Callable[[], object]) -> Steps:
    return lambda count: [step() for _ in range(count)]


def reference(_: str) -> Steps:
    """With the loss after the update, which the book logs; the others log that of the step."""
    network, rule, data = nr.SimpleConvNet(), nr.Adam(LR), samples()
    each = batches(pixels(data.x_train), data.t_train)

    def step() -> None:
        x, t = next(each)
        rule.update(network.params, network.gradient(x, t))
        network.loss(x, t)

    return repeated(step)


def twin(conv: Any, device: str) -> Steps:
    data, net = samples(), SimpleConvNet(conv=conv, device=device)
    rule = make_optimizer("adam", net.parameters(), lr=LR)
    images = torch.from_numpy(pixels(data.x_train)).to(device)
    each = batches(images, torch.from_numpy(data.t_train).to(device))

    def step() -> None:
        x, t = next(each)
        rule.zero_grad()
        softmax_with_loss(net(x), t).backward()
        rule.step()

    return repeated(step)


def training(device: str, **options: Any) -> Steps:
    """The loop of torchport.training."""
    weights = Weights.of(nr.SimpleConvNet().params).astype(torch.float32)
    config = Config(lr=LR, device=device, **options)
    learner = TorchLearner(config, weights, samples(), torch.device(device), Ranks())
    learner.capture()

    def take(count: int) -> None:
        learner.begin(np.arange(SIZE * BATCHES), 0)
        learner.advance(count)

    return take


def plain(device: str) -> Steps:
    """What one would write: a DataLoader that makes tensors of torchvision's images one by one, and torch's Adam."""
    from torchvision.datasets import MNIST, VisionDataset
    from torchvision.transforms import ToTensor

    data, mnist = samples(), MNIST.__new__(MNIST)
    VisionDataset.__init__(mnist, ".", transform=ToTensor())  # which reads files otherwise
    mnist.data, mnist.targets = torch.from_numpy(data.x_train[:, 0]), torch.from_numpy(data.t_train)
    net = nn.Sequential(
        *(nn.Conv2d(1, 30, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)),
    ).to(device)
    rule = torch.optim.Adam(net.parameters(), lr=LR)
    loader = torch.utils.data.DataLoader(mnist, SIZE, shuffle=True)
    each = itertools.chain.from_iterable(itertools.repeat(loader))

    def step() -> None:
        x, t = (part.to(device) for part in next(each))
        rule.zero_grad()
        F.cross_entropy(net(x), t).backward()
        rule.step()

    return repeated(step)


def products(device: str) -> Steps:
    """The five large matrix products of a step, which no implementation can do without, of both directions."""
    shapes = (
        ((SIZE * 24 * 24, 25), (25, 30), (SIZE * 24 * 24, 30)),
        ((SIZE, FEATURES), (FEATURES, HIDDEN), (SIZE, HIDDEN)),
    )
    (x, w, y), (a, v, z) = ([torch.rand(shape, device=device) for shape in layer] for layer in shapes)
    factors = [(x, w), (x.t(), y), (a, v), (a.t(), z), (z, v.t())]  # an image's own gradient is not needed
    results = [torch.mm(*pair) for pair in factors]
    return repeated(lambda: [torch.mm(*pair, out=out) for pair, out in zip(factors, results, strict=True)])


CONTENDERS: dict[str, Callable[[str], Steps]] = {
    REFERENCE: reference,
    UNFOLD: lambda device: twin("unfold", device),
    CONV2D: lambda device: twin("conv2d", device),
    TRAINING: training,
    TRITON: lambda device: training(device, kernels="triton"),
    TF32: lambda device: training(device, precision="tf32"),
    BFLOAT16: lambda device: training(device, precision="bf16"),
    PLAIN: plain,
    FLOOR: products,
}


# --- Measuring


def interleave(steps: Mapping[str, Steps], rounds: int, counts: Mapping[str, int]) -> dict[str, Array]:
    """Seconds a step of each, float64 (rounds,): every round times counts[name] steps of one after the other.

    Timer has taken twice as many before that. On the CPU that is 0.1 s or more, for which NumPy's threads keep spinning
    after a product, and after which an idle processor is at its full speed.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that a machine has no CUDA is no news
    from torch.utils.benchmark import Timer

    threads, times = torch.get_num_threads(), {name: list[float]() for name in steps}
    timers = {
        name: Timer("take(count)", globals={"take": take, "count": counts[name]}, num_threads=threads)
        for name, take in steps.items()
    }
    with bar(True, total=rounds * len(steps), unit="timing") as shown:
        for _, (name, timer) in itertools.product(range(rounds), timers.items()):
            shown.set_description(name)
            times[name].append(timer.timeit(1).mean / counts[name])
            shown.update()
    return {name: np.array(values) for name, values in times.items()}


def spread(values: Array) -> str:
    """Median and quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def operations(take: Steps, device: str, steps: int) -> str:
    """torch.profiler's table of so many steps: operators, on CUDA kernels, the longest first."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # none: the profiler calls it an error that a machine has no CUDA
    cuda = torch.device(device).type == "cuda"
    take(steps)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiled:
        take(steps)
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    return str(profiled.key_averages().table(sort_by=order, row_limit=12))


def alone(work: str, images: int) -> float | None:
    """Peak memory in MiB of a process that does only this: train, or predict by one of PREDICTING's values."""
    done = subprocess.run([sys.executable, __file__, "--alone", work, str(images)], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"{work} {images} ended with status {done.returncode}: {said}")
    found: float | None = json.loads(done.stdout)
    return found


def work_alone(work: Any, images: int) -> None:
    """What alone has a process of its own do, and print."""
    data, network = samples(images), nr.SimpleConvNet()
    if work == "train":
        train(Config(epochs=1, device="cpu"), samples=data)
    else:
        weights = Weights.of(network.params)
        classify(network if work == "numpy" else weights.port(work), data.x_train, data.t_train)
    peak = peak_memory()
    print(json.dumps(peak and peak / 2**20))


def machine(device: str) -> dict[str, str]:
    """What the figures depend on."""
    cpu = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.*)$", cpu.read_text(), re.MULTILINE) if cpu.exists() else None
    return {
        "processor": named[1] if named else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
        "versions": f"python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}",
    }


# --- The command


def main() -> int:
    args = ARGUMENTS
    if args.alone:
        work_alone(args.alone[0], int(args.alone[1]))
        return 0
    if args.json is not None:
        check_target(args.json)  # now, not after minutes
    found: dict[str, Any] = {"machine": machine(args.device)}
    print("\n".join(f"{name}: {value}" for name, value in found["machine"].items()))
    left_out = {TRITON, TF32, BFLOAT16}
    if torch.device(args.device).type == "cuda":
        left_out = {TRITON} if importlib.util.find_spec("triton") is None else set()
    steps = {name: make(args.device) for name, make in CONTENDERS.items() if name not in left_out}
    found["step"] = tell_steps(steps, args)
    found["operations"] = {}
    for name in (name for name in (TRAINING, TRITON) if name in steps):
        table = found["operations"][name] = operations(steps[name], args.device, 10 if args.quick else BATCHES)
        print(f"\nWhat torch.profiler sees of {name}, the longest first\n{table}")
    found["memory"] = tell_memory(1_000 if args.quick else 10_000)
    if args.json is not None:
        replace_file(args.json, (json.dumps(found, indent=2) + "\n").encode())
        print(f"wrote {args.json}")
    return 0


def tell_steps(steps: Mapping[str, Steps], args: argparse.Namespace) -> dict[str, Any]:
    rounds, many = 5 if args.quick else 30, 10 if args.device == "cpu" else BATCHES
    times = interleave(steps, rounds, {name: 1 if name == REFERENCE else many for name in steps})
    print(f"\nOne training step of {SIZE} images, milliseconds: median and quartiles of {rounds} rounds")
    print("\n".join(f"  {name:16} {spread(values * 1e3)}" for name, values in times.items()))
    ratios = {f"{of} / {to}": spread(times[of] / times[to]) for of, to in RATIOS if to in times}
    print("Ratios, round by round: what slowed a round slowed both")
    print("\n".join(f"  {name:30} {value}" for name, value in ratios.items()))
    return {"seconds": {name: values.tolist() for name, values in times.items()}, "ratios": ratios}


def tell_memory(images: int) -> dict[str, float | None]:
    work = {f"{name}, prediction of {images:,}": (model, images) for name, model in PREDICTING.items()}
    work |= {f"an epoch of training on {n:,}": ("train", n) for n in (images, 6 * images)}
    peaks = {name: alone(*what) for name, what in work.items()}
    print("\nMemory of a process that does one thing, on the CPU, MiB; an image takes 0.75 KiB")
    print("\n".join(f"  {name:40} {'unknown' if peak is None else f'{peak:6.0f}'}" for name, peak in peaks.items()))
    return peaks


if __name__ == "__main__":
    sys.exit(cli.run(main))
