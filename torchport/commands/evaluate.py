"""What a network gets right and wrong on a test set: python scripts/evaluate.py WEIGHTS

WEIGHTS is a params.pkl, .npz, .pt or .safetensors file of any of the book's networks, or a training run's folder. With
--out, the confusion matrix and a gallery of the mistakes as pictures, and all of it as JSON:
    python scripts/evaluate.py params.pkl --out pictures
Or what digit your own image shows:
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
LARGEST = 560  # pixels of an image's longer side: 20 for one of MNIST's


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("weights", type=Path, help="file of weights, or a training run's folder")
    about = "whose test set (default: that of the data on which a run was trained, or mnist)"
    parser.add_argument("--data", choices=DATA_SETS, help=about)
    parser.add_argument("--data-dir", metavar="DIR", help="its folder (default: a run's, $TORCHPORT_DATA or data/)")
    parser.add_argument("--model", choices=MODELS, default="conv2d", help="the network that predicts (default: conv2d)")
    parser.add_argument("--dtype", choices=DTYPES, help="of weights and arithmetic (default: that of the file)")
    parser.add_argument("--device", type=cli.device, default="cpu", help="of the ports (default: cpu)")
    parser.add_argument("--batch-size", type=cli.count(1), default=100, help="images at a time (default: 100)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write confusion.png, mistakes.png, evaluation.json")
    cli.add_output(parser, "the accuracy", "what was found")
    cli.add_images(parser, "as its run was trained, or unit")
    parser.add_argument("--image", type=cli.path, metavar="FILE", help="say what digit this image shows, instead")
    cli.add_hints(parser)
    args = parser.parse_args()
    wrong = {
        f"--model numpy runs on the CPU, got --device {args.device}": args.model == NUMPY and args.device != "cpu",
        "--out is for a test set: leave out one of --image and --out": args.image and args.out,
    }
    cli.refuse(parser, wrong)
    return args


def main() -> int:
    args = parse_arguments()
    dtype = tp.networks.DTYPES[np.dtype(args.dtype)] if args.dtype else None
    subject = replace(tp.subjects.load_subject(args.weights, cli.hints(args), dtype), images=args.images)
    judge = judge_test_set if args.image is None else show_digit
    judge(args, subject, subject.weights)
    return 0


def judge_test_set(args: argparse.Namespace, subject: Subject, weights: Weights) -> None:
    """Print, and with --out write, what is right and wrong."""
    progress = not (args.quiet or args.json)
    args.data = args.data or subject.data
    images, labels, _ = tp.subjects.load_samples(subject, args.data, args.data_dir, progress=progress)
    tp.evaluation.check_takes(weights.architecture, images, labels)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)  # now, not after all the work
    options = {"preparation": subject.preparation, "batch_size": args.batch_size, "progress": progress}
    found = tp.evaluation.classify(network_of(args, weights), images, labels, **options)
    about = {name: str(getattr(args, name)) for name in ("weights", "data", "model", "device")}
    about |= {"images": str(subject.preparation), "dtype": str(weights.dtype).removeprefix("torch.")}
    if args.out is not None:
        save(args.out, found, images, about)
    if progress:
        tell(args, subject, images, labels, found)
    else:
        print(found.to_json(**about).strip() if args.json else found.to_text().partition("\n")[0])


def tell(args: argparse.Namespace, subject: Subject, images: Array, labels: Array, found: Classification) -> None:
    """Print all that was found, and what else there is."""
    from torchport.commands.hints import hint  # here, so that --help need not import torch

    weights, preparation = subject.weights, subject.preparation
    print(f"{args.weights}, {weights.architecture.name}, on {args.data} test images given as {preparation}")
    print(found.to_text())
    if said := hint(weights, partial(network_of, args), images, labels, preparation, found):
        print(said)
    print(tp.evaluation.memory_text(tp.evaluation.peak_memory()))
    for name in WRITTEN if args.out is not None else ():
        print(f"wrote {args.out / name}")
    if args.out is None:
        print("--out DIR draws the confusion matrix and the mistakes")


def network_of(args: argparse.Namespace, weights: Weights) -> Network | nn.Module:
    return weights.reference() if args.model == NUMPY else weights.port(args.model, args.device)


def show_digit(args: argparse.Namespace, subject: Subject, weights: Weights) -> None:
    """Print what the image is, and how sure that is."""
    grey, (height, width) = read_image(args.image, LARGEST)
    try:
        image, done = digit(grey[0])
    except ValueError as error:
        raise ValueError(f"{args.image}: {error}") from None
    tp.evaluation.check_takes(weights.architecture, image[None], np.zeros(1, int))
    outputs = tp.evaluation.predict(network_of(args, weights), subject.preparation(image[None]))
    chances = softmax(outputs.astype(np.float64))[0]
    print(f"{args.image}: {chances.argmax()}, with probability {chances.max():.4f}")
    print("each class: " + ", ".join(f"{label} {chance:.4f}" for label, chance in enumerate(chances)))
    print(f"{width} x {height} pixels, read as grey, {done}")


def save(folder: Path, found: Classification, images: Array, about: dict[str, str]) -> None:
    """confusion.png, mistakes.png and evaluation.json in folder."""
    name = f"{Path(about['weights']).name}, on {about['data']} test images"
    save_figure(found.confusion_figure(name), folder / "confusion.png")
    save_figure(found.mistakes_figure(images, name), folder / "mistakes.png")
    replace_file(folder / "evaluation.json", found.to_json(**about).encode())
