"""scripts/visualize.py: what each subcommand draws, with which weights and data, and how bad input is refused."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from figures.looking import draw, framed, shown, tiles, titled
from matplotlib.figure import Figure
from PIL import Image

import numpy_ref as nr
from commands.test_scripts import SCRIPTS, Done, assert_refused
from numpy_ref.checks import Array
from torchport import data, figures, moves, subjects
from torchport.commands import visualize as script
from torchport.data.images import read_image
from torchport.networks import Architecture, to_state_dict
from torchport.training import Config, train
from torchport.training.folder import Checkpoint, RunFolder, read_curve, read_curves
from torchport.training.samples import Samples

GOLDEN = Path(__file__).parents[1] / "golden" / "filters.png"
SMALL = {"filter_num": 3, "filter_size": 3, "pad": 0, "stride": 1}


def small(seed: int = 5) -> nr.SimpleConvNet:
    """A network for images of 8 x 8, before training."""
    return nr.SimpleConvNet((1, 8, 8), SMALL, 6, 4, weight_init_std=0.3, rng=np.random.RandomState(seed))


def make_images(name: str = "mnist", train: bool = False) -> tuple[Array, Array]:
    """Images uint8 (12, 1, 8, 8) and labels, different for each data set and for training and test."""
    rng = np.random.RandomState(2 * (name == "drawn") + train)
    return rng.randint(0, 256, (12, 1, 8, 8)).astype(np.uint8), rng.randint(0, 4, 12).astype(np.uint8)


def test_a_name_fits_into_a_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subjects.short_name("runs/" + 40 * "a") == 40 * "a"
    assert subjects.short_name(25 * "a" + 25 * "b") == 18 * "a" + "..." + 18 * "b"
    (tmp_path / "runs" / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "1")
    assert subjects.short_name(".") == subjects.short_name(tmp_path / "runs" / "1") == "runs/1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three runs: a; b, with other data and normalized images; other/a, which started from a's weights."""
    folder = tmp_path_factory.mktemp("runs")
    images, labels = make_images()
    samples = Samples(images, labels, images[:4], labels[:4])
    several = {
        "a": {"seed": 1},
        "b": {"seed": 2, "data": "drawn", "images": "normalized"},
        "other/a": {"init": str(folder / "a/model.pt")},
    }
    for name, options in several.items():
        (folder / name).parent.mkdir(exist_ok=True)
        config = Config(epochs=2, batch_size=6, model="numpy", **options)  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torchport.training.folder.curves", lambda runs: Figure((1, 1)))  # which nobody looks at
            train(config, samples=samples, out=folder / name)
    return folder


def test_a_runs_curve_is_that_of_its_metrics(runs: Path) -> None:
    curve = read_curve(runs / "a")
    lines = map(json.loads, (runs / "a" / "metrics.jsonl").read_text().splitlines())
    metrics = [line for line in lines if line["weights"] == "last"]
    assert (curve.steps_per_epoch, len(curve.losses)) == (2, 4)
    assert curve.epochs.tolist() == [1, 2]
    assert curve.test_accuracy.tolist() == [one["test_accuracy"] for one in metrics]
    assert curve.train_accuracy.tolist() == [one["train_accuracy"] for one in metrics]
    assert curve.losses[2:].mean() == pytest.approx(metrics[1]["loss"])


def test_a_title_names_the_network_that_no_file_names(runs: Path) -> None:
    assert subjects.seeded_subject(3, Architecture("LeNet5")).about == "LeNet5, random start, seed 3"
    assert subjects.load_subject(runs / "a").about == f"{runs.name}/a"


def test_runs_of_one_name_are_told_apart(runs: Path) -> None:
    assert list(read_curves([runs / "a", runs / "b"])) == ["a", "b"]
    assert list(read_curves([runs / "a", runs / "other/a"])) == [str(runs / "a"), str(runs / "other/a")]
    with pytest.raises(ValueError, match="named once"):
        read_curves([runs / "a", runs / "a"])


def test_a_run_began_where_its_seed_or_its_weights_say(runs: Path) -> None:
    learned = {name: subjects.load_subject(runs / name) for name in ("a", "b", "other/a")}
    seed_2 = nr.SimpleConvNet((1, 8, 8), rng=np.random.RandomState(2)).params["W1"]
    start = subjects.start_of(runs / "b", learned["b"])
    assert start.name == "random start, seed 2"
    np.testing.assert_array_equal(start.weights.params["W1"], seed_2)
    np.testing.assert_array_equal(subjects.start_of(runs / "a", learned["a"], seed=2).weights.params["W1"], seed_2)
    again = subjects.start_of(runs / "other/a", learned["other/a"])
    np.testing.assert_array_equal(again.weights.params["W1"], learned["a"].weights.params["W1"])


Visualize = Callable[..., tuple[Done, Figure | None]]


@pytest.fixture(scope="module")
def written() -> set[str]:
    """The names of the pictures written so far."""
    return set()


@pytest.fixture
def visualize(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, written: set[str]
) -> Visualize:
    """A function that runs the script in an empty folder with small images, and also returns the figure it saved."""
    saved: list[Figure] = []
    save, path = figures.save_figure, str(SCRIPTS / "visualize.py")

    def keep(figure: Figure, to: Path) -> None:
        if to.name in written:  # one of each is enough, as figures are looked at without their pixels
            to.write_bytes(b"\x89PNG")
        else:
            save(figure, to)
            written.add(to.name)
        saved.append(figure)

    def visualize(*arguments: str | Path) -> tuple[Done, Figure | None]:
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(path, run_name="__main__")
        assert isinstance(exit_.value.code, int)
        return Done(exit_.value.code, *capfd.readouterr()), saved.pop() if saved else None

    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(figures, "save_figure", keep)
    monkeypatch.setattr(data, "load", lambda name, train, *_, **__: make_images(name, train))
    mpl.use("agg")
    return visualize


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The paths for the words in capitals in the arguments below."""
    nr.write_params(small().params, tmp_path / "params.pkl")
    torch.save(to_state_dict(small().params), tmp_path / "model.pt")
    nr.write_params(nr.TwoLayerNet(64, 5, 4).params, tmp_path / "dense.pkl")
    Image.new("RGB", (90, 30), "red").save(tmp_path / "photo.webp")
    names = {"PARAMS": "params.pkl", "MODEL": "model.pt", "DENSE": "dense.pkl", "PHOTO": "photo.webp", "NONE": "none"}
    return {key: str(tmp_path / name) for key, name in names.items()}


def drawn_by(visualize: Visualize, arguments: str, files: dict[str, str]) -> Figure:
    """The figure of a command, after checking that it succeeded and wrote one file."""
    done, figure = visualize(*(files.get(word, word) for word in arguments.split()))
    assert (done.returncode, done.stderr) == (0, "")
    name = f"{arguments.split()[0]}.png"
    assert done.stdout == f"wrote {name}\n"
    assert [path.name for path in Path.cwd().iterdir()] == [name]
    assert Path(name).read_bytes().startswith(b"\x89PNG")
    assert figure is not None
    draw(figure)
    return figure


@pytest.mark.parametrize("weights", ["PARAMS", "MODEL"])
def test_filters_before_and_after(weights: str, visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, f"filters {weights} --layer CONV1 --seed 3 --scale shared", files)
    start = nr.SimpleConvNet((1, 8, 8), SMALL, 6, 4, rng=np.random.RandomState(3)).params["W1"]
    np.testing.assert_array_equal(tiles(titled(figure, "before: random start, seed 3"), (3, 3)), start[:, 0])
    after = titled(figure, f"after: {Path(files[weights]).name}")
    np.testing.assert_array_equal(tiles(after, (3, 3)), small().params["W1"][:, 0])


def test_each_filter_has_its_own_scale_unless_told(visualize: Visualize, files: dict[str, str]) -> None:
    filters = tiles(titled(drawn_by(visualize, "filters PARAMS", files), "after"), (3, 3))
    assert (filters.min(axis=(1, 2)) == 0).all()
    assert (filters.max(axis=(1, 2)) == 1).all()


def test_filters_without_weights_are_the_start(visualize: Visualize, files: dict[str, str]) -> None:
    words = "filters --network DeepConvNet --layer conv3 --channels 2 --filter 4 --scale shared"
    figure = drawn_by(visualize, words, files)
    weights = nr.DeepConvNet(rng=np.random.RandomState(0)).params["W3"]
    np.testing.assert_array_equal(tiles(titled(figure, "random start, seed 0"), (3, 3)), weights[4, :2])
    assert figure.get_suptitle().startswith("conv3: filter 4,")


def test_filters_are_applied_to_a_photo(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "apply-filter PARAMS --image PHOTO --largest 30 --scale shared", files)
    assert figure.get_suptitle() == "conv1 of params.pkl, on photo.webp, shrunk from 30 x 90"
    image, _ = read_image(files["PHOTO"], 30)
    expected = nr.Convolution(small().params["W1"], 0.0).forward(image[np.newaxis])[0]
    np.testing.assert_array_equal(tiles(titled(figure, "after each of 3 filters"), (8, 28)), expected)


def test_one_filter_is_applied_to_a_training_image(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "apply-filter PARAMS --train --sample 3 --filter 2", files)
    images, labels = make_images(train=True)
    assert figure.get_suptitle() == f"conv1 of params.pkl, on mnist training image 3, a {labels[3]}"
    weights = small().params["W1"]
    maps = nr.Convolution(weights, 0.0).forward(images[[3]] / 255)[0]
    for axes, expected in zip(figure.axes, (images[3, 0] / 255, weights[2, 0], maps[2]), strict=True):
        np.testing.assert_array_equal(shown(axes), expected)


@pytest.mark.parametrize(
    ("words", "subject", "name", "train", "images"),
    [
        ("PARAMS", "params.pkl", "mnist", False, lambda x: x / 255),
        ("PARAMS --train --data drawn", "params.pkl", "drawn", True, lambda x: x / 255),
        ("PARAMS --images signed", "params.pkl (signed images)", "mnist", False, lambda x: x / 127.5 - 1),
        ("RUN", "runs/b (normalized images)", "drawn", False, lambda x: (x / 255 - 0.1307) / 0.3081),
        ("RUN/model.pt", "model.pt (normalized images)", "drawn", False, lambda x: (x / 255 - 0.1307) / 0.3081),
        ("RUN --data mnist --images unit", "runs/b", "mnist", False, lambda x: x / 255),
    ],
)
def test_layers_are_those_of_the_network_on_its_data(
    words: str,
    subject: str,
    name: str,
    train: bool,
    images: Callable[[Array], Array],
    visualize: Visualize,
    files: dict[str, str],
    runs: Path,
) -> None:
    words = words.replace("RUN", str(runs / "b"))
    figure = drawn_by(visualize, f"layers {words} --sample 4 --scale shared", files)
    pixels, labels = make_images(name, train)
    subject = subject.replace("runs/", f"{runs.name}/")
    set_name = f"{name} {'training' if train else 'test'}"
    assert figure.get_suptitle() == f"{subject}, on {set_name} image 4, a {labels[4]}"
    network = subjects.load_subject(files.get(words.split()[0], words.split()[0])).network
    x = images(pixels[[4]].astype(float))
    for layer in ("Conv1", "Relu1", "Pool1"):
        x = network.layers[layer].forward(x)
        maps = tiles(titled(figure, f"{layer.lower()}: {x.shape[1]} x "), x.shape[2:])
        np.testing.assert_allclose(maps, x[0], rtol=1e-5, atol=1e-6)
    probabilities = nr.softmax(network.predict(images(pixels[[4]].astype(float))))[0]
    bars = titled(figure, f"probabilities: seen as {probabilities.argmax()}")
    heights = [bar.get_height() for bar in bars.patches]  # type: ignore[attr-defined]
    np.testing.assert_allclose(heights, probabilities, rtol=1e-4)
    assert [bar.get_hatch() is not None for bar in bars.patches].index(True) == labels[4]


def test_layers_can_be_chosen(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "layers PARAMS --layers Pool1", files)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [title.split(":")[0] for title in titles] == ["image", "probabilities", "pool1"]


def test_one_digit_goes_through_one_filter_and_one_pool(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "layers PARAMS --filter 1 --sample 2", files)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image\n8 x 8", "filter 1\n3 x 3", "conv1, bias added\n6 x 6", "relu1\n6 x 6", "pool1\n3 x 3"]
    image, kernel, conv, relu, pool = (shown(axes) for axes in figure.axes)
    np.testing.assert_array_equal(image, make_images()[0][2, 0] / 255)
    np.testing.assert_array_equal(kernel, small().params["W1"][1, 0])
    np.testing.assert_array_equal(relu, conv.clip(0))

    def inside(number: int) -> Array:
        top, left, height, width = framed(figure.axes[number])
        return shown(figure.axes[number])[top : top + height, left : left + width]

    assert inside(4).item() == pool.max() == inside(3).max()
    assert inside(3).shape == (2, 2)
    expected = nr.Convolution(kernel[None, None], small().params["b1"][[1]]).forward(inside(0)[None, None])
    np.testing.assert_allclose(inside(2), expected[0, 0], rtol=1e-12)


def test_a_filter_of_a_deeper_layer_is_followed_to_its_pooling() -> None:
    subject = subjects.seeded_subject(0, Architecture("DeepConvNet"))
    stages = subjects.stages(subject, np.random.RandomState(0).rand(1, 28, 28), "conv3", 5)
    assert [stage.name for stage in stages] == ["image", "filter 5, mean of 16 channels", "conv3", "relu3"]
    assert stages[0].region is not None
    assert stages[0].region[2:] == (10, 10)  # 3 of conv3, of 6 before pooling, of 8 and 10 before conv2 and conv1


def test_im2col_of_a_sample(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "im2col --sample 2 --filter-size 3 --stride 2 --pad 1 --row 6 --train", files)
    images, labels = make_images(train=True)
    title = f"im2col of mnist training image 2, a {labels[2]}: filter 3 x 3, stride 2, pad 1"
    assert figure.get_suptitle() == title
    np.testing.assert_array_equal(shown(titled(figure, "the matrix")), nr.im2col(images[[2]] / 255, 3, 3, 2, 1).T)
    assert titled(figure, "window 6")


@pytest.mark.parametrize(
    ("words", "name", "images"),
    [("PARAMS", "mnist", lambda x: x / 255), ("RUN", "drawn", lambda x: (x / 255 - 0.1307) / 0.3081)],
)
def test_mistakes_are_the_networks_own_on_its_data(
    words: str,
    name: str,
    images: Callable[[Array], Array],
    visualize: Visualize,
    files: dict[str, str],
    runs: Path,
) -> None:
    path = files.get(words, str(runs / "b"))
    pixels, labels = make_images(name)
    probabilities = nr.softmax(subjects.load_subject(path).network.predict(images(pixels.astype(np.float32))))
    predictions = probabilities.argmax(axis=1)
    wrong = sorted(np.flatnonzero(predictions != labels), key=lambda n: -probabilities[n].max())
    figure = drawn_by(visualize, f"mistakes {path} --most 2", files)
    title = figure.get_suptitle()
    assert title.endswith(f"on {name} test images: 2 of {len(wrong)} mistakes, the surest first")
    for number, axes in zip(wrong[:2], (axes for axes in figure.axes if axes.images), strict=True):
        np.testing.assert_array_equal(shown(axes), pixels[number, 0])
        sure = f"{probabilities[number].max():.1%} sure"
        assert axes.get_title().split("\n") == [
            f"image {number}",
            f"{labels[number]}, seen as {predictions[number]}",
            sure,
        ]


def test_shift_shows_the_maps_of_moved_images_and_the_accuracy(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "shift PARAMS --sample 3 --filter 2 --pixels 2 --most 10", files)
    images, labels = make_images()
    network = small()
    title = (
        f"params.pkl, on mnist test image 3, a {labels[3]}, moved to the right by 1 pixel\n"
        "curves: maps of the first 10 mnist test images, accuracy on the first 10"
    )
    assert figure.get_suptitle() == title
    right = np.zeros_like(images)
    right[..., 1:] = images[..., :-1]
    for start, layer in (("relu1, filter 2: 6 x 6", "Relu1"), ("pool1, filter 2: 3 x 3", "Pool1")):
        still, moved = (network.outputs(x[[3]] / 255)[layer][0, 2] for x in (images, right))
        first = figure.axes.index(titled(figure, start))
        np.testing.assert_allclose(shown(figure.axes[first]), still)
        np.testing.assert_allclose(shown(figure.axes[first + 1]), moved)
        np.testing.assert_allclose(shown(figure.axes[first + 2]), abs(moved - still))
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    pooled = [network.outputs(x[:10] / 255)["Pool1"] for x in (images, right)]
    change = float(np.linalg.norm(pooled[1] - pooled[0]) / np.linalg.norm(pooled[0]))
    np.testing.assert_allclose(np.asarray(lines["after pooling: pool1"].get_ydata())[[2, 3]], [0, change])
    sideways = np.asarray(lines["to the right (left below 0)"].get_xydata())
    np.testing.assert_array_equal(sideways[:, 0], range(-2, 3))
    assert sideways[3, 1] == network.accuracy(right[:10] / 255, labels[:10])


@pytest.mark.parametrize(("right", "down"), [(1, 0), (-2, 0), (0, 3), (0, -1), (2, -2), (0, 0)])
def test_images_move_and_zeros_come_in(right: int, down: int, rng: np.random.Generator) -> None:
    images = rng.integers(1, 256, (2, 1, 5, 6), np.uint8)
    moved = moves.moved(images, right, down)
    for y, x in np.ndindex(5, 6):
        inside = 0 <= y - down < 5 and 0 <= x - right < 6
        np.testing.assert_array_equal(moved[:, :, y, x], images[:, :, y - down, x - right] if inside else 0)


def test_curves_of_two_runs(visualize: Visualize, runs: Path, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, f"curves {runs / 'a'} {runs / 'b'}", files)
    assert figure.get_suptitle() == "runs: a on mnist, b on drawn"
    assert [text.get_text().partition(" ")[0] for text in figure.legends[0].get_texts()] == ["a", "b"]
    np.testing.assert_array_equal(titled(figure, "Training loss").lines[2].get_ydata(), read_curve(runs / "b").losses)


def test_architecture_of_given_weights(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "architecture DENSE", files)
    assert figure.get_suptitle() == f"TwoLayerNet, dense.pkl: {64 * 5 + 5 + 5 * 4 + 4} parameters"
    figure = drawn_by(visualize, "architecture DENSE --activation sigmoid", files)
    assert [text.get_text() for text in figure.axes[0].texts if "sigmoid1" in text.get_text()]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("filters PARAMS --layer conv2", "one of conv1, got 'conv2'"),
        ("filters NONE", "none"),
        ("filters DENSE", "no convolution layer, only affine1, relu1, affine2"),
        ("filters PHOTO", "photo.webp: "),
        ("filters --stride 2", "options for what a file cannot tell need a file of weights"),
        ("architecture --activation tanh", "options for what a file cannot tell need a file of weights"),
        ("filters PARAMS --pool 2", "must name convolutions of 1 to 1, got [2]"),
        ("im2col --activation tanh", "unrecognized arguments: --activation tanh"),
        ("filters PARAMS --network DeepConvNet", "--network is for pictures without weights"),
        ("architecture PARAMS --seed 1", "--seed draws weights before training"),
        ("filters --seed 4294967296", "at most 4294967295, got '4294967296'"),
        ("apply-filter PARAMS --image NONE", "none"),
        ("apply-filter PARAMS --image PARAMS", "params.pkl is not an image that can be read"),
        ("apply-filter PARAMS --image PHOTO --largest 2", "does not fit an image of 1 pixels"),
        ("apply-filter PARAMS --image PHOTO --sample 1", "not allowed with argument"),
        ("im2col --image PHOTO --train", "--train and --data are for an image of a data set"),
        ("apply-filter --network DeepConvNet --layer conv2", "has 1 channels"),
        ("apply-filter PARAMS --sample 12", "at most 11, as there are 12 images, got 12"),
        ("layers PARAMS --layers conv1 affine1", "must be of conv1, relu1, pool1, got affine1"),
        ("layers DENSE", "no layers with images as outputs"),
        ("layers PARAMS --sample -1", "at least 0"),
        ("im2col --row 99", "at most 15, as there are 16 windows"),
        ("im2col --filter-size 9", "does not fit an image of 8 pixels"),
        ("layers PARAMS --filter 3", "filter must be at most 2, as there are 3 filters, got 3"),
        ("filters PARAMS --filter 3", "filter must be at most 2, as there are 3 filters, got 3"),
        ("shift PARAMS --filter 3", "filter must be at most 2, as there are 3 filters, got 3"),
        ("shift DENSE", "no pooling layer"),
        ("filters PARAMS --scale none", "invalid choice: 'none'"),
        ("mistakes PARAMS --images blue", "images must be unit"),
        ("mistakes PARAMS --most 0", "at least 1"),
        ("curves NONE", "holds no run (no config.json)"),
        ("curves", "required: runs"),
        ("mistakes PARAMS --data faces", "invalid choice: 'faces'"),
        ("architecture PARAMS --out NONE/picture.png", "none"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: str, says: str, visualize: Visualize, files: dict[str, str]
) -> None:
    for key, path in files.items():
        arguments = arguments.replace(key, path)
    done, figure = visualize(*arguments.split())
    assert_refused(done, says)
    assert figure is None
    assert list(Path.cwd().iterdir()) == []


COMMANDS = ("filters", "apply-filter", "layers", "im2col", "mistakes", "shift", "curves", "architecture")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(command: str, visualize: Visualize, monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = visualize(command, "--help")
    assert done.returncode == 0
    assert f"(default: {command}.png)" in done.stdout
    (example,) = (line for line in done.stdout.splitlines() if line.startswith("Example: "))
    monkeypatch.setattr(sys, "argv", example.removeprefix("Example: python ").split())
    assert script.parse_arguments().command == command


def test_a_run_in_its_first_epoch_has_no_curve_yet(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "read_checkpoint", lambda _: Checkpoint(0, torch.zeros(0), [], {}, ""))
    with pytest.raises(ValueError, match="no evaluation yet"):
        read_curve(runs / "a")


def test_a_start_that_is_gone_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "read_config", lambda _: Config(init="gone.pkl"))
    with pytest.raises(ValueError, match=r"began from gone\.pkl, which is not there"):
        subjects.start_of(runs / "a", subjects.load_subject(runs / "a"))


def test_the_readmes_picture_is_what_its_command_makes(book_params: Path, tmp_path: Path) -> None:
    """It is closer to the picture than those of other weights; not equal, since fonts differ between versions."""
    after = subjects.load_subject(book_params)
    before = subjects.start_of(book_params, after)

    def pixels(path: Path) -> Array:
        return np.asarray(Image.open(path).convert("RGB").resize((96, 54), Image.Resampling.BOX), float)

    def distance(learned: Array) -> float:
        panels = {f"before: {before.name}": before.weights.params["W1"], f"after: {after.name}": learned}
        figures.save_figure(figures.filters(panels, "conv1"), tmp_path / "filters.png")
        return float(np.abs(pixels(tmp_path / "filters.png") - pixels(GOLDEN)).mean())

    weights = after.weights.params["W1"]
    spoiled = (before.weights.params["W1"], np.roll(weights, 1, axis=0), weights[..., ::-1])
    assert distance(weights) < 0.8 * min(map(distance, spoiled))
    assert GOLDEN.stat().st_size < 60_000
