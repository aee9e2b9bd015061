"""Draw pictures of networks and of what they do: python scripts/visualize.py filters params.pkl

There is one subcommand for each picture; python scripts/visualize.py SUBCOMMAND --help shows its options. Weights are
any file that port_params.py reads or a training run's folder; a run is given images of the data set that it was trained
on. Without weights the network is drawn as it is before training, and the title says so. The picture is written as a
PNG; no display is needed.
Exit status: 0 drawn, 2 bad input.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import numpy_ref as nr
import torchport as tp
from numpy_ref.checks import Array, check_index
from numpy_ref.files import check_target
from numpy_ref.functions import softmax
from torchport import figures
from torchport.choices import OF_IMAGES
from torchport.commands import cli
from torchport.data import DATA_SETS
from torchport.data.images import read_image, sample
from torchport.figures.greys import EACH, SCALES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from torchport.subjects import Samples, Subject

AddOption = Callable[[argparse._ActionsContainer], object]


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.set_defaults(image=None, images=None)
    commands = parser.add_subparsers(dest="command", required=True, metavar="SUBCOMMAND")
    for name, (draw, *options) in COMMANDS.items():
        text = inspect.getdoc(draw) or ""
        command = commands.add_parser(name, help=text.partition("\n")[0], description=text)
        for add_option in options:
            add_option(command)
        out = Path(f"{name}.png")
        command.add_argument("--out", type=Path, metavar="FILE", default=out, help=f"PNG to write (default: {out})")
        cli.add_output(command, "errors")
        command.set_defaults(draw=draw)
    args = parser.parse_args()
    refuse(parser, args)
    check_target(args.out, args.image)
    return args


def refuse(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with status 2 if --out does not name a PNG, or if an option would be ignored."""
    errors = {
        f"--out is for a PNG, so its name must end in .png, got {args.out}": args.out.suffix.lower() != ".png",
        "--train and --data are for an image of a data set: leave out --image, or these": args.image
        and (args.train or args.data),
    }
    if hasattr(args, "weights"):
        errors |= {
            "options for what a file cannot tell need a file of weights: name one, or leave them out": args.weights
            is None
            and cli.hints(args) != tp.files.Hints(),
            "--network is for pictures without weights: leave out one of the two": args.weights and args.network,
            "--seed draws weights before training, and none are drawn here: leave it out": args.seed is not None
            and args.weights
            and args.draw is not filters,
        }
    cli.refuse(parser, errors)


def option(flag: str, about: str, **options: Any) -> AddOption:
    """A function that adds this option to a parser."""
    return lambda parser: parser.add_argument(flag, help=about, **options)


def image_options(largest: int) -> list[AddOption]:
    """Options for a sample, or for the user's own image, whose longer side is shrunk to largest pixels."""
    about = f"shrink your image so that its longer side has at most so many pixels (default: {largest})"
    return [*DATA, add_image, option("--largest", about, type=cli.count(1), default=largest)]


def add_image(parser: argparse._ActionsContainer) -> None:
    group = parser.add_mutually_exclusive_group()
    SAMPLE(group)
    group.add_argument("--image", type=Path, metavar="FILE", help="use an image of your own instead; it is made grey")


def most(about: str, default: int) -> AddOption:
    return option("--most", f"{about} (default: {default})", type=cli.count(1), default=default)


WEIGHTS = (
    option(
        "weights",
        "file of weights, or a training run's folder (default: a network before training)",
        type=Path,
        nargs="?",
    ),
    option("--network", "network to draw if no weights are given (default: SimpleConvNet)", choices=OF_IMAGES),
    option("--seed", "seed of the weights before training (default: the run's own, else 0)", type=cli.count(0)),
    cli.add_hints,
)
LAYER = option("--layer", "convolution layer, such as conv1 (default: the first)")
FILTER = option("--filter", "show only this filter, numbered from 0", type=cli.count(0), metavar="N")
SCALE = option("--scale", "a grey scale for each array, or a shared one (default: each)", choices=SCALES, default=EACH)
CHANNELS = option("--channels", "show at most so many channels of a filter (default: 8)", type=cli.count(1), default=8)
MAPS = option("--layers", "as conv1 relu1 (default: up to the first pooling)", nargs="+", default=[], metavar="LAYER")
DATA = (
    option("--data", "data set (default: the one that the run was trained on, else mnist)", choices=DATA_SETS),
    option("--data-dir", "folder of the data set (default: the run's, $TORCHPORT_DATA or data/)", metavar="DIR"),
    option("--train", "use training images instead of test images", action="store_true"),
)
SAMPLE = option("--sample", "number of the image in the data set, from 0 (default: 0)", type=cli.count(0), default=0)
IMAGES = partial(cli.add_images, default="as the run was trained, else unit")
WINDOWS = (
    option("--filter-size", "side of the filter in pixels (default: 5)", type=cli.count(1), default=5),
    option("--row", "number of the row to show (default: the one with most contrast)", type=cli.count(0)),
    cli.add_windows,
)
RUNS = option("runs", "folders of training runs", type=Path, nargs="+")
PIXELS = option("--pixels", "move by up to so many pixels (default: 4)", type=cli.count(1), default=4)
FEW = 100  # images whose maps are compared as they move: the NumPy network computes these
GALLERY, JUDGED = most("show at most so many mistakes", 60), most("measure the accuracy on so many images", 1000)


def load_subject(args: argparse.Namespace) -> Subject:
    """The network of the weights given, or of --network before training."""
    if args.weights is None:
        subject = tp.subjects.seeded_subject(args.seed or 0, tp.networks.Architecture(args.network or OF_IMAGES[0]))
    else:
        subject = tp.subjects.load_subject(args.weights, cli.hints(args))
    return replace(subject, images=args.images)


def load_samples(args: argparse.Namespace, subject: Subject | None) -> Samples:
    return tp.subjects.load_samples(subject, args.data, args.data_dir, train=args.train, progress=not args.quiet)


def load_image(args: argparse.Namespace, subject: Subject | None = None) -> tuple[Array, str, int | None]:
    """The user's image or the sample, (C, H, W) of 0 to 1, its name for a title, and its class (None if unknown)."""
    if args.image is not None:
        image, size = read_image(args.image, args.largest)
        shrunk = "" if image.shape[1:] == size else f", shrunk from {size[0]} x {size[1]}"
        return image, f"{tp.subjects.short_name(args.image)}{shrunk}", None
    images, labels, name = load_samples(args, subject)
    image = sample(images, args.sample)
    label = int(labels[args.sample])
    return image, f"{name} image {args.sample}, a {label}", label


def filters(args: argparse.Namespace) -> Figure:
    """The filters of a convolution layer, before and after training.

    Example: python scripts/visualize.py filters params.pkl --layer conv1 --scale shared
    """
    after = load_subject(args)
    name, layer = tp.subjects.convolution(after.network, args.layer)
    if args.filter is not None:
        check_index("filter", args.filter, len(layer.W), "filters")
    options = {"only": args.filter, "scale": args.scale, "channels": args.channels}
    if args.weights is None:
        return figures.filters({after.name: layer.W}, name, **options)
    before = tp.subjects.start_of(args.weights, after, args.seed)
    start = tp.subjects.convolution(before.network, name)[1]
    panels = {f"before: {before.name}": start.W, f"after: {after.about}": layer.W}
    return figures.filters(panels, name, **options)


def apply_filter(args: argparse.Namespace) -> Figure:
    """An image of your own, or of a data set, after each filter of a convolution layer.

    Example: python scripts/visualize.py apply-filter params.pkl --image photo.jpg
    """
    subject = load_subject(args)
    name, layer = tp.subjects.convolution(subject.network, args.layer)
    image, about, _ = load_image(args, subject)
    title = f"{name} of {subject.about}, on {about}"
    without_bias = nr.Convolution(layer.W, 0.0, layer.stride, layer.pad)
    maps = without_bias.forward(subject.prepared(image[np.newaxis]))[0]
    if args.filter is None:
        return figures.responses(image, layer.W, maps, title, scale=args.scale)
    check_index("filter", args.filter, len(layer.W), "filters")
    kernel = figures.Stage(f"filter {args.filter}", layer.W[args.filter].mean(axis=0), sign="*")
    response = figures.Stage("without bias", maps[args.filter], sign="=")
    return figures.path([figures.Stage("image", image.mean(axis=0)), kernel, response], title)


def layers(args: argparse.Namespace) -> Figure:
    """An image after each layer, and the class probabilities; or the image's way through one filter only.

    Example: python scripts/visualize.py layers params.pkl --sample 7 --layers conv1 relu1 pool1
    """
    subject = load_subject(args)
    image, about, truth = load_image(args, subject)
    title = f"{subject.about}, on {about}"
    if args.filter is not None:
        return figures.path(tp.subjects.stages(subject, image, next(iter(args.layers), None), args.filter), title)
    outputs = subject.network.outputs(subject.prepared(image[np.newaxis]))
    maps = {name: value[0] for name, value in tp.subjects.maps_of(outputs, args.layers).items()}
    probabilities = softmax(list(outputs.values())[-1])[0]
    return figures.feature_maps(image, maps, probabilities, truth, title, scale=args.scale)


def im2col(args: argparse.Namespace) -> Figure:
    """How im2col makes a matrix from an image: its windows, its slices, the matrix, and one row of it.

    Example: python scripts/visualize.py im2col --sample 3 --filter-size 3 --row 100
    """
    image, about, _ = load_image(args)
    title = f"im2col of {about}: filter {args.filter_size} x {args.filter_size}, stride {args.stride}, pad {args.pad}"
    return figures.columns(image, args.filter_size, args.stride, args.pad, args.row, title)


def mistakes(args: argparse.Namespace) -> Figure:
    """The images that a network gets wrong, the most confident mistakes first, with their numbers.

    Example: python scripts/visualize.py mistakes params.pkl --most 30
    """
    subject = load_subject(args)
    images, labels, name = load_samples(args, subject)
    tp.evaluation.check_takes(subject.weights.architecture, images, labels)
    port, preparation = subject.weights.port(), subject.preparation
    result = tp.evaluation.classify(port, images, labels, preparation=preparation, progress=not args.quiet)
    return result.mistakes_figure(images, f"{subject.about}, on {name} images", args.most)


def shift(args: argparse.Namespace) -> Figure:
    """An image moved by one pixel, before pooling and after it, and the accuracy on moved images.

    Example: python scripts/visualize.py shift params.pkl --sample 5 --filter 3
    """
    subject = load_subject(args)
    image, about, _ = load_image(args, subject)
    images, labels, name = load_samples(args, subject)
    images, labels = images[: args.most], labels[: args.most]
    tp.evaluation.check_takes(subject.weights.architecture, images, labels)
    pixels = list(range(-args.pixels, args.pixels + 1))
    pairs = tp.moves.pair(subject, image, args.filter)
    few = images[:FEW]
    changes = tp.moves.changes(subject, few / 255, pixels)
    accuracy = tp.moves.accuracies(subject, images, labels, pixels)
    curves = f"maps of the first {len(few)} {name} images, accuracy on the first {len(images)}"
    title = f"{subject.about}, on {about}, moved to the right by 1 pixel\ncurves: {curves}"
    return figures.shifts(pairs, np.array(pixels), changes, accuracy, title)


def curves(args: argparse.Namespace) -> Figure:
    """Accuracy and loss of one or several training runs.

    Example: python scripts/visualize.py curves runs/1 runs/2 --out compared.png
    """
    runs = tp.training.folder.read_curves(args.runs)
    data_sets = [tp.training.folder.RunFolder(path).read_config().data for path in args.runs]
    title = ", ".join(f"{run} on {data}" for run, data in zip(runs, data_sets, strict=True))
    return figures.curves(runs, f"{'runs' if len(runs) > 1 else 'run'}: {title}")


def architecture(args: argparse.Namespace) -> Figure:
    """The layers of a network as boxes, with output shapes and numbers of parameters.

    Example: python scripts/visualize.py architecture --network DeepConvNet
    """
    subject = load_subject(args)
    return figures.architecture(tp.subjects.boxes(subject), f"{subject.weights.architecture.name}, {subject.name}")


# For each subcommand, the function that draws its picture and those that add its options.
COMMANDS: dict[str, tuple[Callable[..., Any], ...]] = {
    "filters": (filters, *WEIGHTS, LAYER, FILTER, SCALE, CHANNELS),
    "apply-filter": (apply_filter, *WEIGHTS, LAYER, FILTER, SCALE, *image_options(256), IMAGES),
    "layers": (layers, *WEIGHTS, MAPS, FILTER, SCALE, *DATA, SAMPLE, IMAGES),
    "im2col": (im2col, *WINDOWS, *image_options(28)),
    "mistakes": (mistakes, *WEIGHTS, GALLERY, *DATA, IMAGES),
    "shift": (shift, *WEIGHTS, FILTER, *DATA, SAMPLE, IMAGES, PIXELS, JUDGED),
    "curves": (curves, RUNS),
    "architecture": (architecture, *WEIGHTS),
}


def main() -> int:
    args = parse_arguments()
    figures.save_figure(args.draw(args), args.out)
    if not args.quiet:
        print(f"wrote {args.out}")
    return 0
