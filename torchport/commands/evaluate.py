"""Show what a network gets right and wrong on a test set: python scripts/evaluate.py WEIGHTS

WEIGHTS is a file with the weights of any of the book's networks (params.pkl, .npz, .pt, .safetensors, .onnx) or a
training run's folder. To also write the confusion matrix and the mistakes as pictures, and the results as JSON:
    python scripts/evaluate.py params.pkl --out pictures
To read the digit in an image of your own instead:
    python scripts/evaluate.py params.pkl --image photo.png
Exit status: 0 evaluated, 2 bad input.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import torchport as tp
from numpy_ref.checks import Array
from numpy_ref.files import replace_file
from numpy_ref.functions import softmax
from numpy_ref.network import Network
from torchport.choices import DTYPES
from torchport.commands import cli
from torchport.data import DATA_SETS
from torchport.data.images import digit, read_image
from torchport.figures import save_figure
from torchport.training.config import MODELS, NUMPY

if TYPE_CHECKING:
    from torch import nn

    from torchport.evaluation import Classification
    from torchport.networks import Weights
    from torchport.subjects import Subject

WRITTEN = ("confusion.png", "mistakes.png", "evaluation.json")
LARGEST = 560  # pixels of an image's longer side: 20 for each of MNIST's 28


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("weights", type=Path, help="file of weights, or a training run's folder")
    about = "data set to test on (default: the one that the run was trained on, else mnist)"
    parser.add_argument("--data", choices=DATA_SETS, help=about)
    about = "folder of the data set (default: the run's, $TORCHPORT_DATA or data/)"
    parser.add_argument("--data-dir", metavar="DIR", help=about)
    about = "network that predicts: a port or the NumPy reference (default: conv2d)"
    parser.add_argument("--model", choices=MODELS, default="conv2d", help=about)
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of weights and arithmetic (default: as in the file)")
    parser.add_argument("--device", type=cli.device, default="cpu", help="device of the port (default: cpu)")
    parser.add_argument("--batch-size", type=cli.count(1), default=100, help="images per batch (default: 100)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="also write confusion.png, mistakes.png, evaluation.json"
    )
    cli.add_output(parser, "the accuracy", "the results")
    cli.add_images(parser, "as the run was trained, else unit")
    parser.add_argument("--image", type=cli.path, metavar="FILE", help="read the digit in this image instead")
    cli.add_hints(parser)
    args = parser.parse_args()
    errors = {
        f"--model numpy runs on the CPU, got --device {args.device}": args.model == NUMPY and args.device != "cpu",
        "--out is for a test set: leave out one of --image and --out": args.image and args.out,
    }
    cli.refuse(parser, errors)
    return args


def main() -> int:
    args = parse_arguments()
    dtype = tp.networks.DTYPES[np.dtype(args.dtype)] if args.dtype else None
    subject = replace(tp.subjects.load_subject(args.weights, cli.hints(args), dtype), images=args.images)
    action = evaluate_test_set if args.image is None else read_digit
    action(args, subject, subject.weights)
    return 0


def evaluate_test_set(args: argparse.Namespace, subject: Subject, weights: Weights) -> None:
    """Classify the test set, print the results and, with --out, write them."""
    progress = not (args.quiet or args.json)
    args.data = args.data or subject.data
    images, labels, _ = tp.subjects.load_samples(subject, args.data, args.data_dir, progress=progress)
    tp.evaluation.check_takes(weights.architecture, images, labels)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    options = {"preparation": subject.preparation, "batch_size": args.batch_size, "progress": progress}
    result = tp.evaluation.classify(make_network(args, weights), images, labels, **options)
    about = {name: str(getattr(args, name)) for name in ("weights", "data", "model", "device")}
    about |= {"images": str(subject.preparation), "dtype": str(weights.dtype).removeprefix("torch.")}
    if args.out is not None:
        save(args.out, result, images, about)
    if progress:
        print_result(args, subject, images, labels, result)
    else:
        print(result.to_json(**about).strip() if args.json else result.to_text().partition("\n")[0])


def print_result(
    args: argparse.Namespace, subject: Subject, images: Array, labels: Array, result: Classification
) -> None:
    """Print the results, a hint on a low accuracy, the memory used, and the files written."""
    from torchport.commands.hints import hint  # here, so that --help need not import torch

    weights, preparation = subject.weights, subject.preparation
    print(f"{args.weights}, {weights.architecture.name}, on {args.data} test images prepared as {preparation}")
    print(result.to_text())
    if line := hint(weights, partial(make_network, args), images, labels, preparation, result):
        print(line)
    print(tp.evaluation.memory_text(tp.evaluation.peak_memory()))
    for name in WRITTEN if args.out is not None else ():
        print(f"wrote {args.out / name}")
    if args.out is None:
        print("--out DIR draws the confusion matrix and the mistakes")


def make_network(args: argparse.Namespace, weights: Weights) -> Network | nn.Module:
    return weights.reference() if args.model == NUMPY else weights.port(args.model, args.device)


def read_digit(args: argparse.Namespace, subject: Subject, weights: Weights) -> None:
    """Print the digit that the network sees in the user's image, with the probability of each class."""
    grey, (height, width) = read_image(args.image, LARGEST)
    try:
        image, changes = digit(grey[0])
    except ValueError as error:
        raise ValueError(f"{args.image}: {error}") from None
    tp.evaluation.check_takes(weights.architecture, image[None], np.zeros(1, int))
    outputs = tp.evaluation.predict(make_network(args, weights), subject.preparation(image[None]))
    probabilities = softmax(outputs.astype(np.float64))[0]
    print(f"{args.image}: {probabilities.argmax()}, with probability {probabilities.max():.4f}")
    print("each class: " + ", ".join(f"{label} {p:.4f}" for label, p in enumerate(probabilities)))
    print(f"{width} x {height} pixels, read as grey, {changes}")


def save(folder: Path, result: Classification, images: Array, about: dict[str, str]) -> None:
    """Write confusion.png, mistakes.png and evaluation.json to folder."""
    name = f"{Path(about['weights']).name}, on {about['data']} test images"
    save_figure(result.confusion_figure(name), folder / "confusion.png")
    save_figure(result.mistakes_figure(images, name), folder / "mistakes.png")
    replace_file(folder / "evaluation.json", result.to_json(**about).encode())
