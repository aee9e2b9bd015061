"""What a network gets right and wrong on a test set: python scripts/evaluate.py WEIGHTS

WEIGHTS is a params.pkl, .npz, .pt or .safetensors file of any of the book's networks, or a training run's folder. With
--out, the confusion matrix and a gallery of the mistakes as pictures, and all of it as JSON:
    python scripts/evaluate.py params.pkl --out pictures
Exit status: 0 evaluated, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import torchport as tp
from numpy_ref.checks import Array
from numpy_ref.files import replace_file
from torchport import cli
from torchport.choices import DTYPES
from torchport.data import DATA_SETS, load
from torchport.figures import confusion_matrix, mistakes, save_figure
from torchport.training.config import MODELS, NUMPY

if TYPE_CHECKING:
    pass


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("weights", type=Path, help="file of weights, or a training run's folder")
    parser.add_argument("--data", choices=DATA_SETS, default="mnist", help="whose test set (default: mnist)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data (default: $TORCHPORT_DATA or data/)")
    parser.add_argument("--model", choices=MODELS, default="conv2d", help="the network that predicts (default: conv2d)")
    parser.add_argument("--dtype", choices=DTYPES, help="of weights and arithmetic (default: that of the file)")
    parser.add_argument("--device", type=cli.device, default="cpu", help="of the ports (default: cpu)")
    parser.add_argument("--batch-size", type=cli.count(1), default=100, help="images at a time (default: 100)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write confusion.png, mistakes.png, evaluation.json")
    cli.add_hints(parser)
    args = parser.parse_args()
    if args.model == NUMPY and args.device != "cpu":
        parser.error(f"--model numpy runs on the CPU, got --device {args.device}")
    return args


def main() -> int:
    args = parse_arguments()
    dtype = tp.networks.DTYPES[np.dtype(args.dtype)] if args.dtype else None
    weights = tp.files.read_weights(args.weights, cli.hints(args), dtype=dtype)
    images, labels = load(args.data, False, args.data_dir, progress=True)
    tp.evaluation.check_takes(weights.architecture, images, labels)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)  # now, not after all the work
    on_numpy = args.model == NUMPY
    network = weights.reference() if on_numpy else weights.port(args.model, args.device)
    found = tp.evaluation.classify(network, images, labels, batch_size=args.batch_size, progress=True)
    print(found.to_text())
    if args.out is not None:
        about = {name: str(getattr(args, name)) for name in ("weights", "data", "model", "device")}
        save(args.out, found, images, {**about, "dtype": str(weights.dtype).removeprefix("torch.")})
    print(tp.evaluation.memory_text(tp.evaluation.peak_memory()))
    if args.out is None:
        print("--out DIR draws the confusion matrix and the mistakes")
    return 0


def save(folder: Path, found: tp.evaluation.Classification, images: Array, about: dict[str, str]) -> None:
    """confusion.png, mistakes.png and evaluation.json in folder."""
    wrong = found.mistakes
    gallery = mistakes(images[wrong], found.labels[wrong], found.predictions[wrong], found.confidence[wrong])
    save_figure(confusion_matrix(found.confusion), folder / "confusion.png")
    save_figure(gallery, folder / "mistakes.png")
    replace_file(folder / "evaluation.json", found.to_json(**about).encode())
    for name in ("confusion.png", "mistakes.png", "evaluation.json"):
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
