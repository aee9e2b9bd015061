"""The pictures of scripts/visualize.py: what is drawn in each, by its artists, and how bad input is refused."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from test_scripts import SCRIPTS, Done, assert_refused

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from torchport import data, figures, subjects
from torchport.data.images import read_image, sample
from torchport.figures.tiles import Grid
from torchport.layers import kind_of
from torchport.networks import Weights, to_state_dict
from torchport.training import Config, train
from torchport.training.folder import Checkpoint, RunFolder
from torchport.training.history import read_curve, read_curves
from torchport.training.samples import Samples

GOLDEN = Path(__file__).parent / "golden" / "filters.png"
COLOURED = "cividis"  # the colours of signed numbers
SMALL = {"filter_num": 3, "filter_size": 3, "pad": 0, "stride": 1}


def small(seed: int = 5) -> nr.SimpleConvNet:
    """For images of 8 x 8, with starting weights."""
    return nr.SimpleConvNet((1, 8, 8), SMALL, 6, 4, weight_init_std=0.3, rng=np.random.RandomState(seed))


def make_images() -> tuple[Array, Array]:
    rng = np.random.RandomState(0)
    return rng.randint(0, 256, (12, 1, 8, 8)).astype(np.uint8), rng.randint(0, 4, 12).astype(np.uint8)


def shown(axes: Axes, cmap: str = COLOURED) -> list[Any]:
    """The arrays on one part of a figure, in the order in which they were drawn."""
    return [np.ma.asarray(i.get_array()) for i in axes.images if i.get_cmap().name == cmap]


def titled(figure: Figure, start: str) -> Axes:
    """The one part of a figure whose title starts so."""
    (found,) = (axes for axes in figure.axes if axes.get_title().startswith(start))
    return found


def upright(axes: Axes) -> bool:
    """Whether the first row of every image is its highest, and the first column its leftmost."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for image in axes.images:
        first, last, lowest, highest = image.get_extent()
        if image.origin != "upper" or (last - first) * (right - left) < 0 or (highest - lowest) * (top - bottom) < 0:
            return False
    return True


def numbers(axes: Axes) -> dict[tuple[float, float], float]:
    """The numbers that are written on one part of a figure, by their place (x, y)."""
    return {text.get_position(): float(text.get_text()) for text in axes.texts}


def scales(figure: Figure) -> list[str]:
    """What the colour bars of a figure say."""
    return [axes.get_ylabel() for axes in figure.axes if axes.get_label() == "<colorbar>"]


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (3, 1, 7, 7), (30, 1, 5, 5), (64, 20, 3, 3)])
def test_filters_are_all_shown_on_one_scale(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    before, after = 0.01 * rng.standard_normal(shape), rng.standard_normal(shape)
    figure = figures.filters({"before": before, "after": after}, "conv9", channels=4)
    limit = abs(after[:, :4]).max()
    for name, weights in (("before", before), ("after", after)):
        axes = titled(figure, name)
        assert axes.get_title() == f"{name}\nstandard deviation {weights.std():.2g}"
        tiles = shown(axes)
        assert len(tiles) == len(weights)
        for tile, each in zip(tiles, weights, strict=True):
            np.testing.assert_array_equal(tile.compressed().reshape(-1, *shape[2:]), each[:4])
        assert {image.get_clim() for image in axes.images} == {(-limit, limit)}
        assert upright(axes)
        assert axes.texts[0].get_text() == "0"
        for (left, bottom), number in numbers(axes).items():
            tile = axes.images[int(number)].get_extent()
            assert left == tile[0]
            assert 0 < tile[3] - bottom < tile[2] - tile[3]
    assert scales(figure) == ["weight (root scale)"]
    plural = "s" if shape[0] > 1 else ""
    title, *note = figure.get_suptitle().split("\n")
    assert title == f"conv9: {shape[0]} filter{plural} of {shape[2]} x {shape[3]}"
    assert note == (["its channels below each other: the first 4 of 20"] if shape[1] == 20 else [])


def test_zero_is_the_middle_of_the_colours_and_small_weights_are_seen() -> None:
    figure = figures.filters({"W": np.array([[[[0.0, 0.01, -1.0]]]])})
    (image,) = titled(figure, "W").images
    places = np.asarray(image.norm(np.array([0, 0.01, -0.01, -1.0])), float)
    np.testing.assert_allclose(places, [0.5, 0.55, 0.45, 0])


@pytest.mark.parametrize("n", [1, 2, 3, 6, 30, 64, 100, 256, 1000])
@pytest.mark.parametrize("inches", [4.0, 10.0])
def test_tiles_lie_apart_and_inside(n: int, inches: float) -> None:
    grid = Grid.of(n, (5, 5), inches, shape=1.3)
    places = np.array([grid.place(number) for number in range(n)])
    width, height = grid.size
    assert len(np.unique(places, axis=0)) == n
    assert (places >= 0).all()
    assert (places[:, 0] + 1 <= width + 1e-9).all()
    assert (places[:, 1] + 1 <= height + 1e-9).all()
    assert grid.rows * grid.used - n < grid.used  # no row is empty
    labels_apart = grid.every * inches / grid.columns
    assert labels_apart > 0.065 * len(str(n - 1))  # what the digits take


@pytest.mark.parametrize("channels", [1, 3])
def test_responses_are_the_convolutions_with_their_filters_beside(channels: int, rng: np.random.Generator) -> None:
    image, maps = rng.random((channels, 9, 12)), rng.standard_normal((3, 7, 10))
    weights = rng.standard_normal((3, channels, 3, 3))
    figure = figures.responses(image, weights, maps, "title")
    before = titled(figure, f"image\n{channels} x 9 x 12")
    pixels = image[0] if channels == 1 else np.stack(list(image), axis=2)
    np.testing.assert_array_equal(shown(before, "gray")[0], pixels)
    assert before.images[0].get_clim() == (0, 1)
    axes = titled(figure, "after each of 3 filters, without bias\n3 x 7 x 10")
    arrays = shown(axes)
    np.testing.assert_array_equal(arrays[:3], maps)
    small = weights.mean(axis=1)
    np.testing.assert_array_equal(arrays[3:], small)
    limits = [image.get_clim() for image in axes.images]
    assert limits == 3 * [(-abs(maps).max(), abs(maps).max())] + 3 * [(-abs(small).max(), abs(small).max())]
    for drawn in axes.images:
        places = np.asarray(drawn.norm(0.01 * np.array(drawn.get_clim())), float)
        np.testing.assert_allclose(places, [0.45, 0.55])  # by the root of a hundredth
    assert upright(axes)
    assert upright(before)
    assert scales(figure) == ["response (root scale)"]


def test_feature_maps_say_their_shapes_and_the_probabilities(rng: np.random.Generator) -> None:
    maps = {"conv1": rng.standard_normal((5, 6, 6)), "pool1": rng.standard_normal((5, 3, 3))}
    image = rng.random((1, 8, 8))
    figure = figures.feature_maps(image, maps, np.array([0.1, 0.7, 0.1999, 0.0001]), 2, "title")
    before = titled(figure, "image: 1 x 8 x 8")
    np.testing.assert_array_equal(shown(before, "gray")[0], image[0])
    assert before.images[0].get_clim() == (0, 1)
    assert upright(before)
    for name, arrays in maps.items():
        axes = titled(figure, f"{name}: 5 x {arrays.shape[1]}")
        np.testing.assert_array_equal(shown(axes), arrays)
        limit = max(abs(value).max() for value in maps.values())
        assert axes.images[0].get_clim() == (-limit, limit)
        places = np.asarray(axes.images[0].norm(0.01 * np.array([-limit, limit])), float)
        np.testing.assert_allclose(places, [0.45, 0.55])
        assert upright(axes)
    assert scales(figure) == ["root scale", "root scale"]
    bars = titled(figure, "probabilities: seen as 1, wrong, it is 2")
    assert [bar.get_height() for bar in bars.patches] == [0.1, 0.7, 0.1999, 0.0001]  # type: ignore[attr-defined]
    assert [bar.get_hatch() is not None for bar in bars.patches] == [False, False, True, False]
    assert [text.get_text() for text in bars.texts] == ["10.0%", "70.0%", "20.0%"]


@pytest.mark.parametrize(("stride", "pad", "row"), [(1, 0, 7), (2, 1, 5), (1, 0, None)])
def test_columns_show_both_matrices_and_where_a_row_is_from(
    stride: int, pad: int, row: int | None, rng: np.random.Generator
) -> None:
    image = rng.random((1, 6, 7))
    figure = figures.columns(image, 3, stride, pad, row, "title")
    col = nr.im2col(image[np.newaxis], 3, 3, stride, pad)
    number = int(col.std(axis=1).argmax()) if row is None else row
    for start in ("all windows at once\nim2col", "window by window\nim2col_by_window"):
        axes = titled(figure, start)
        np.testing.assert_array_equal(shown(axes, "gray")[0], col)
        assert axes.images[0].get_clim() == (0, 1)
        assert {np.asarray(line.get_ydata()).item() for line in axes.lines} == {number}
    np.testing.assert_array_equal(shown(titled(figure, "difference\nof the two\nat most 0"))[0], np.zeros_like(col))
    window = titled(figure, f"window of row {number}: 3 x 3")
    np.testing.assert_array_equal(shown(window, "gray")[0], col[number].reshape(3, 3))
    line = titled(figure, f"row {number}:")
    np.testing.assert_array_equal(shown(line, "gray")[0], col[[number]])
    for part, pixels in ((window, col[number].reshape(3, 3)), (line, col[[number]])):
        written = numbers(part)
        assert sorted(written) == [(x, y) for x in range(pixels.shape[1]) for y in range(len(pixels))]
        for (x, y), value in written.items():
            assert f"{value:.2f}" == f"{pixels[int(y), int(x)]:.2f}"
    whole = titled(figure, "image, padded: 1 x 8 x 9" if pad else "image: 1 x 6 x 7")
    x, y = (round(place + 0.5) for place in whole.patches[0].get_xy())  # type: ignore[attr-defined]
    np.testing.assert_array_equal(shown(whole, "gray")[0][y : y + 3, x : x + 3], col[number].reshape(3, 3))
    assert window.get_title() == f"window of row {number}: 3 x 3 from ({y}, {x})"
    for part in (whole, window, line):
        assert part.images[0].get_clim() == (0, 1)
        assert upright(part)


def test_the_difference_is_seen_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**sys.modules["torchport.figures.windows"].WAYS, "im2col_by_window": lambda *a: nr.im2col(*a) + 0.5}
    monkeypatch.setattr("torchport.figures.windows.WAYS", wrong)
    axes = titled(figures.columns(np.eye(4)[np.newaxis], 2), "difference\nof the two\nat most 0.5")
    np.testing.assert_array_equal(shown(axes)[0], np.full((9, 4), -0.5))


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: figures.filters({}), "at least one panel"),
        (lambda: figures.filters({"a": np.ones((2, 1, 3, 3)), "b": np.ones((2, 1, 4, 4))}), "b must have shape"),
        (lambda: figures.responses(np.ones((1, 4, 4)), np.ones((2, 1, 3, 3)), np.ones((3, 2, 2))), "got 2 and 3"),
        (lambda: figures.feature_maps(np.ones((1, 4, 4)), {}, np.ones(2), 0), "at least one layer"),
        (lambda: figures.columns(np.ones((1, 4, 4)), 3, row=4), "at most 3, as there are 2 x 2 windows, got 4"),
        (lambda: figures.columns(np.ones((1, 4, 4)), 5), "filter of 5 pixels does not fit"),
        (lambda: figures.architecture([]), "at least one box"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw: Callable[[], Figure], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        draw()


@pytest.mark.parametrize("network", [nr.SimpleConvNet(), nr.DeepConvNet(), nr.TwoLayerNet(784, 50, 10)])
def test_the_architecture_has_every_layer_and_parameter(network: nr.Network) -> None:
    subject = subjects.Subject(Weights.of(network.params), "name")
    boxes = subjects.boxes(subject)
    assert [box.name for box in boxes] == ["input", *(name.lower() for name in network.layers), "softmax"]
    assert boxes[-1].shape == (10,)
    assert boxes[0].shape == subject.weights.architecture.input_shape
    assert [box.about for box in boxes] == [
        "",
        *(kind_of(layer).about(layer) for layer in network.layers.values()),
        "probabilities",
    ]
    figure = figures.architecture(boxes, "title")
    total = sum(value.size for value in network.params.values())
    assert figure.get_suptitle() == f"title: {total:,} parameters"
    assert figures.architecture(boxes).get_suptitle() == f"{total:,} parameters"
    lines: dict[float, list[str]] = {}
    for text in sorted(figure.axes[0].texts, key=lambda text: text.get_position()):
        if text.get_text():
            lines.setdefault(text.get_position()[1], []).append(text.get_text())
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > max(lines) > min(lines) > top
    expected = [["layer", "output", "parameters"]]
    for box in boxes:
        share = f"{box.parameters:,}  ({box.parameters / total:.1%})" if box.parameters else ""
        expected.append([cell for cell in (box.name, box.about, " x ".join(map(str, box.shape)), share) if cell])
    assert [lines[y] for y in sorted(lines)] == expected
    affine = network.params["W2"].size + network.params["b2"].size
    assert any(f"{affine:,}  ({affine / total:.1%})" in line for line in lines.values())


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nr.Convolution(np.ones((4, 2, 3, 5)), np.ones(4), 2, 1), "4 filters 3 x 5, stride 2, pad 1"),
        (nr.Pooling(3, 4, 2, 1), "max of 3 x 4, stride 2, pad 1"),
        (nr.AveragePooling(3, 4, 2), "mean of 3 x 4, stride 2"),
        (nr.Subsampling(np.ones(2), np.ones(2), 3, 4, 2), "sum of 3 x 4, stride 2, scaled"),
        (nr.LocalResponseNormalization(3, 0.3, 0.75, 1.0), "over 3 channels"),
        (nr.Affine(np.ones((6, 4)), np.ones(4)), "6 to 4"),
        (nr.Relu(), "max(0, x)"),
        (nr.Dropout(0.3), "ratio 0.3, in training"),
        (nr.Sigmoid(), "Sigmoid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_layer_is_told_in_a_few_words(layer: Layer, says: str) -> None:
    assert kind_of(layer).about(layer) == says


def test_a_name_fits_into_a_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subjects.short_name("runs/" + 40 * "a") == 40 * "a"
    assert subjects.short_name(25 * "a" + 25 * "b") == 18 * "a" + "..." + 18 * "b"
    (tmp_path / "runs" / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "1")
    assert subjects.short_name(".") == subjects.short_name(tmp_path / "runs" / "1") == "runs/1"


def test_images_of_any_kind_are_read_as_grey(tmp_path: Path) -> None:
    ramp = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    expected = {
        "L.png": (Image.fromarray(ramp), ramp / 255),
        "palette.gif": (Image.fromarray(ramp).convert("P"), ramp / 255),
        "clear.png": (Image.new("RGBA", (4, 3), (0, 0, 0, 0)), np.ones((3, 4))),
        "bits.bmp": (Image.fromarray(ramp > 100), (ramp > 100) * 1.0),
        "ink.jpg": (Image.new("CMYK", (4, 3), (0, 0, 0, 255)), np.zeros((3, 4))),
    }
    for name, (image, grey) in expected.items():
        image.save(tmp_path / name)
        found, size = read_image(tmp_path / name, 100)
        assert (found.shape, size, found.dtype.name) == ((1, 3, 4), (3, 4), "float64"), name
        np.testing.assert_allclose(found[0], grey, atol=0.01, err_msg=name)


def test_a_photo_is_turned_and_shrunk(tmp_path: Path) -> None:
    photo = np.zeros((300, 600, 3), np.uint8)
    photo[:, :300] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: to be turned clockwise
    Image.fromarray(photo).save(tmp_path / "photo.jpg", exif=exif)
    found, size = read_image(tmp_path / "photo.jpg", 50)
    assert (found.shape, size) == ((1, 50, 25), (600, 300))
    np.testing.assert_allclose(found[0, [0, -1]], [[1] * 25, [0] * 25], atol=0.02)


def test_a_sample_is_scaled_to_one() -> None:
    images, _ = make_images()
    np.testing.assert_array_equal(sample(images, 3), images[3] / 255)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three runs: a and b, and other/a, which began from a's weights."""
    folder = tmp_path_factory.mktemp("runs")
    images, labels = make_images()
    samples = Samples(images, labels, images[:4], labels[:4])
    for name, options in {"a": {"seed": 1}, "b": {"seed": 2}, "other/a": {"init": str(folder / "a/model.pt")}}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        config = Config(epochs=2, batch_size=6, model="numpy", **options)  # type: ignore[arg-type]
        train(config, samples=samples, out=folder / name)
    return folder


def test_a_runs_curve_is_that_of_its_metrics(runs: Path) -> None:
    curve = read_curve(runs / "a")
    metrics = [json.loads(line) for line in (runs / "a" / "metrics.jsonl").read_text().splitlines()]
    assert (curve.steps_per_epoch, len(curve.losses)) == (2, 4)
    assert curve.epochs.tolist() == [1, 2]
    assert curve.test_accuracy.tolist() == [one["test_accuracy"] for one in metrics]
    assert curve.train_accuracy.tolist() == [one["train_accuracy"] for one in metrics]
    assert curve.losses[2:].mean() == pytest.approx(metrics[1]["loss"])


def test_runs_of_one_name_are_told_apart(runs: Path) -> None:
    assert list(read_curves([runs / "a", runs / "b"])) == ["a", "b"]
    assert list(read_curves([runs / "a", runs / "other/a"])) == [str(runs / "a"), str(runs / "other/a")]
    with pytest.raises(ValueError, match="named once"):
        read_curves([runs / "a", runs / "a"])


def test_a_run_began_where_its_seed_or_its_weights_say(runs: Path) -> None:
    learned = {name: subjects.load_subject(runs / name) for name in ("a", "b", "other/a")}
    own = nr.SimpleConvNet((1, 8, 8), rng=np.random.RandomState(2)).params["W1"]
    start = subjects.start_of(runs / "b", learned["b"])
    assert start.name == "start of seed 2, nothing learned"
    np.testing.assert_array_equal(start.weights.params["W1"], own)
    np.testing.assert_array_equal(subjects.start_of(runs / "a", learned["a"], seed=2).weights.params["W1"], own)
    again = subjects.start_of(runs / "other/a", learned["other/a"])
    np.testing.assert_array_equal(again.weights.params["W1"], learned["a"].weights.params["W1"])


Visualize = Callable[..., tuple[Done, Figure | None]]


@pytest.fixture
def visualize(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Visualize:
    """Run the script in this process and an empty folder, with small test images; the figure that it saved, too."""
    saved: list[Figure] = []
    save, path = figures.save_figure, str(SCRIPTS / "visualize.py")

    def keep(figure: Figure, to: Path) -> None:
        save(figure, to)
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
    monkeypatch.setattr(data, "load", lambda *_, **__: make_images())
    mpl.use("agg")
    return visualize


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """What the arguments below name in capitals."""
    nr.write_params(small().params, tmp_path / "params.pkl")
    torch.save(to_state_dict(small().params), tmp_path / "model.pt")
    nr.write_params(nr.TwoLayerNet(64, 5, 4).params, tmp_path / "dense.pkl")
    Image.new("RGB", (90, 30), "red").save(tmp_path / "photo.webp")
    names = {"PARAMS": "params.pkl", "MODEL": "model.pt", "DENSE": "dense.pkl", "PHOTO": "photo.webp", "NONE": "none"}
    return {key: str(tmp_path / name) for key, name in names.items()}


def drawn_by(visualize: Visualize, arguments: str, files: dict[str, str]) -> Figure:
    """The figure of a command that succeeds, which wrote its file and nothing else."""
    done, figure = visualize(*(files.get(word, word) for word in arguments.split()))
    assert (done.returncode, done.stderr) == (0, "")
    name = f"{arguments.split()[0]}.png"
    assert done.stdout == f"wrote {name}\n"
    assert [path.name for path in Path.cwd().iterdir()] == [name]
    assert Path(name).read_bytes().startswith(b"\x89PNG")
    assert figure is not None
    return figure


@pytest.mark.parametrize("weights", ["PARAMS", "MODEL"])
def test_filters_before_and_after(weights: str, visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, f"filters {weights} --layer CONV1 --seed 3", files)
    start = nr.SimpleConvNet((1, 8, 8), SMALL, 6, 4, rng=np.random.RandomState(3)).params["W1"]
    np.testing.assert_array_equal(shown(titled(figure, "before: start of seed 3, nothing")), start[:, 0])
    after = titled(figure, f"after: {Path(files[weights]).name}")
    np.testing.assert_array_equal(shown(after), small().params["W1"][:, 0])


def test_filters_without_weights_are_the_start(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "filters --network DeepConvNet --layer conv3 --channels 2", files)
    weights = nr.DeepConvNet(rng=np.random.RandomState(0)).params["W3"]
    tiles = shown(titled(figure, "start of seed 0, nothing learned"))
    np.testing.assert_array_equal([tile.compressed() for tile in tiles], weights[:, :2].reshape(32, -1))


def test_filters_are_applied_to_a_photo(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "apply-filter PARAMS --image PHOTO --largest 30", files)
    assert figure.get_suptitle() == "conv1 of params.pkl, on photo.webp, shrunk from 30 x 90"
    image, _ = read_image(files["PHOTO"], 30)
    expected = nr.Convolution(small().params["W1"], 0.0).forward(image[np.newaxis])[0]
    np.testing.assert_array_equal(shown(titled(figure, "after each of 3 filters"))[:3], expected)


def test_layers_are_those_of_the_network(visualize: Visualize, files: dict[str, str]) -> None:
    images, labels = make_images()
    network, x = small(), images[[4]] / 255
    figure = drawn_by(visualize, "layers PARAMS --sample 4", files)
    assert figure.get_suptitle() == "params.pkl, on mnist test image 4"
    for name in ("Conv1", "Relu1", "Pool1"):
        x = network.layers[name].forward(x)
        np.testing.assert_array_equal(shown(titled(figure, f"{name.lower()}: 3 x ")), x[0])
    probabilities = nr.softmax(network.predict(images[[4]] / 255))[0]
    bars = titled(figure, f"probabilities: seen as {probabilities.argmax()}")
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], probabilities)  # type: ignore[attr-defined]
    assert [bar.get_hatch() is not None for bar in bars.patches].index(True) == labels[4]


def test_layers_can_be_chosen(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "layers PARAMS --layers Pool1", files)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [title.split(":")[0] for title in titles] == ["image", "probabilities", "pool1"]


def test_im2col_of_a_sample(visualize: Visualize, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, "im2col --sample 2 --filter-size 3 --stride 2 --pad 1 --row 6", files)
    assert figure.get_suptitle() == f"im2col of mnist test image 2, a {make_images()[1][2]}: filter 3, stride 2, pad 1"
    expected = nr.im2col(make_images()[0][[2]] / 255, 3, 3, 2, 1)
    np.testing.assert_array_equal(shown(titled(figure, "all windows at once"), "gray")[0], expected)
    assert titled(figure, "window of row 6")


def test_mistakes_are_the_networks_own(visualize: Visualize, files: dict[str, str]) -> None:
    images, labels = make_images()
    chances = nr.softmax(small().predict(images / 255))
    seen = chances.argmax(axis=1)
    wrong = np.flatnonzero(seen != labels)
    figure = drawn_by(visualize, "mistakes PARAMS --most 2", files)
    assert figure.get_suptitle() == f"params.pkl: 2 of {len(wrong)} mistakes, the surest first"
    for axes in (axes for axes in figure.axes if axes.images):
        (number,) = (n for n in wrong if (shown(axes, "gray_r")[0] == images[n, 0]).all())
        says = f"{labels[number]}, seen as {seen[number]}\n{chances[number].max():.1%} sure"
        assert axes.get_title() == says


def test_curves_of_two_runs(visualize: Visualize, runs: Path, files: dict[str, str]) -> None:
    figure = drawn_by(visualize, f"curves {runs / 'a'} {runs / 'b'}", files)
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
        ("filters PARAMS --before NONE", "none"),
        ("filters DENSE", "no convolution layer, only affine1, relu1, affine2"),
        ("filters PHOTO", "photo.webp: "),
        ("filters --stride 2", "--stride, --pad and --activation are of given weights"),
        ("architecture --activation tanh", "--stride, --pad and --activation are of given weights"),
        ("filters PARAMS --activation tanh", "activation 'tanh' cannot be SimpleConvNet's"),
        ("im2col --activation tanh", "unrecognized arguments: --activation tanh"),
        ("filters PARAMS --network DeepConvNet", "--network is for no weights"),
        ("architecture PARAMS --seed 1", "--seed draws a start"),
        ("filters --seed 4294967296", "at most 4294967295, got '4294967296'"),
        ("apply-filter PARAMS --image NONE", "none"),
        ("apply-filter PARAMS --image PARAMS", "params.pkl is no image that can be read"),
        ("apply-filter PARAMS --image PHOTO --largest 2", "does not fit an image of 1 pixels"),
        ("apply-filter PARAMS --image PHOTO --sample 1", "not allowed with argument"),
        ("apply-filter --network DeepConvNet --layer conv2", "has 1 channels"),
        ("apply-filter PARAMS --sample 12", "at most 11, as there are 12 images, got 12"),
        ("layers PARAMS --layers conv1 affine1", "must be of conv1, relu1, pool1, got affine1"),
        ("layers DENSE", "no layers with images as outputs"),
        ("layers PARAMS --sample -1", "at least 0"),
        ("im2col --row 99", "at most 15, as there are 4 x 4 windows"),
        ("im2col --filter-size 9", "does not fit an image of 8 pixels"),
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


COMMANDS = ("filters", "apply-filter", "layers", "im2col", "mistakes", "curves", "architecture")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(command: str, visualize: Visualize, monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = visualize(command, "--help")
    assert done.returncode == 0
    assert f"(default: {command}.png)" in done.stdout
    (example,) = (line for line in done.stdout.splitlines() if line.startswith("Example: "))
    script = runpy.run_path(str(SCRIPTS / "visualize.py"))
    monkeypatch.setattr(sys, "argv", example.removeprefix("Example: python ").split())
    assert script["parse_arguments"]().command == command


def test_a_run_in_its_first_epoch_has_no_curve_yet(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "read_checkpoint", lambda _: Checkpoint(0, torch.zeros(0), [], {}, ""))
    with pytest.raises(ValueError, match="no evaluation yet"):
        read_curve(runs / "a")


def test_a_start_that_is_gone_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "read_config", lambda _: Config(init="gone.pkl"))
    with pytest.raises(ValueError, match=r"began from gone\.pkl, which is not there"):
        subjects.start_of(runs / "a", subjects.load_subject(runs / "a"))


def test_the_readmes_picture_is_what_its_command_makes(book_params: Path, tmp_path: Path) -> None:
    """Nearer than with any other weights: a matplotlib with other fonts moves everything a little."""
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
