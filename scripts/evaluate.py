"""What a network gets right and wrong on a test set: python scripts/evaluate.py WEIGHTS

WEIGHTS is a params.pkl, a state_dict (.pt) or the folder of a training run. With --out, the confusion matrix and a
gallery of the mistakes as pictures:
    python scripts/evaluate.py params.pkl --out pictures
Exit status: 0 evaluated, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from numpy_ref.networks import Network
from torchport import cli
from torchport.data import DATA_SETS, load
from torchport.evaluation import classify, memory_text, peak_memory
from torchport.figures import confusion_matrix, mistakes, save_figure
from torchport.formats import load_weights
from torchport.networks import SimpleConvNet
from torchport.parity.cases import reference_of
from torchport.training.config import DTYPES, MODELS, NUMPY
from torchport.weights import cast_params


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("weights", type=Path, help="params.pkl, .pt file, or a training run's folder")
    parser.add_argument("--data", choices=DATA_SETS, default="mnist", help="whose test set (default: mnist)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data (default: $TORCHPORT_DATA or data/)")
    parser.add_argument("--model", choices=MODELS, default="conv2d", help="the network that predicts (default: conv2d)")
    parser.add_argument("--dtype", choices=DTYPES, help="of weights and arithmetic (default: that of the file)")
    parser.add_argument("--device", type=cli.device, default="cpu", help="of the ports (default: cpu)")
    parser.add_argument("--batch-size", type=cli.count(1), default=100, help="images at a time (default: 100)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write confusion.png and mistakes.png there")
    parser.add_argument("--against", type=Path, metavar="WEIGHTS", help="count the predictions equal to these weights'")
    cli.add_geometry(parser)
    args = parser.parse_args()
    if args.model == NUMPY and args.device != "cpu":
        parser.error(f"--model numpy runs on the CPU, got --device {args.device}")
    return args


def load_network(path: Path, args: argparse.Namespace) -> Network | SimpleConvNet:
    params = load_weights(path)
    if args.dtype:
        params = cast_params(params, DTYPES[args.dtype])
    if args.model == NUMPY:
        return reference_of(params, args.stride, args.pad)
    return SimpleConvNet.from_params(params, args.model, args.stride, args.pad, device=args.device)


def main() -> int:
    args = parse_arguments()
    network = load_network(args.weights, args)
    other = load_network(args.against, args) if args.against else None
    images, labels = load(args.data, False, args.data_dir, progress=True)
    found = classify(network, images, labels, batch_size=args.batch_size)
    print(found.to_text())
    if other is not None:
        predictions = classify(other, images, labels, batch_size=args.batch_size).predictions
        equal = int((predictions == found.predictions).sum())
        print(f"{equal} of {len(images)} predictions equal to those of {args.against}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        wrong = found.mistakes
        gallery = mistakes(images[wrong], found.labels[wrong], found.predictions[wrong], found.confidence[wrong])
        for name, figure in (("confusion.png", confusion_matrix(found.confusion)), ("mistakes.png", gallery)):
            save_figure(figure, args.out / name)
            print(f"wrote {args.out / name}")
    print(memory_text(peak_memory()))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
