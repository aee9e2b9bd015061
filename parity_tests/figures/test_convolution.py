"""Pictures of filters, of maps, and of one image through one filter show the right values on the right scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import numpy_ref as nr
from figures.looking import draw, framed, limits, scales, shown, tiles, titled, written
from torchport import figures
from torchport.figures.tiles import Grid
from torchport.networks import SimpleConvNet, Weights, to_state_dict

EYE = np.eye(3)[None, None]


@pytest.mark.parametrize("shape", [(3, 1, 7, 7), (30, 1, 5, 5), (64, 20, 3, 3)])
@pytest.mark.parametrize("scale", ["each", "shared"])
def test_filters_before_and_after(shape: tuple[int, ...], scale: str, rng: np.random.Generator) -> None:
    panels = {"before": 0.01 * rng.standard_normal(shape), "after": 1 + rng.standard_normal(shape)}
    figure = figures.filters(panels, "conv9", scale=scale, channels=4)
    draw(figure)
    most = abs(panels["after"][:, :4]).max()
    for name, weights in panels.items():
        cut = weights[:, :4]
        axes = titled(figure, f"{name}\nweights {cut.min():.2g} to {cut.max():.2g}")
        least, greatest = (reduce(axis=(1, 2, 3), keepdims=True) for reduce in (cut.min, cut.max))
        expected = (cut - least) / (greatest - least) if scale == "each" else cut
        drawn = tiles(axes, shape[2:])
        assert len(drawn) == cut.shape[0] * cut.shape[1]
        assert sorted(map(tuple, drawn.reshape(len(drawn), -1).round(9).tolist())) == sorted(
            map(tuple, expected.reshape(len(drawn), -1).round(9).tolist())
        )
        if shape[1] == 1:  # else line after line of all the filters' first channels, and so on
            np.testing.assert_allclose(drawn, expected[:, 0])
        assert limits(axes) == ((0, 1) if scale == "each" else (-most, most))
        assert "0" in written(axes).values()
    assert scales(figure) == (["weight"] if scale == "shared" else [])
    title, *note = figure.get_suptitle().split("\n")
    assert title == f"conv9: {shape[0]} filters of {shape[2]} x {shape[3]}"
    assert note[:-1] == (["the channels below each other, the first 4 of 20"] if shape[1] == 20 else [])


@pytest.mark.parametrize("scale", ["each", "shared"])
def test_one_filter_has_its_weights_written_into_it(scale: str) -> None:
    weights = np.stack([EYE[0], EYE[0] * [[[-0.5], [0.25], [1]]]])
    figure = figures.filters(weights, "W", only=1, scale=scale)
    draw(figure)
    (axes,) = figure.axes
    assert figure.get_suptitle().startswith("W: filter 1, 3 x 3\n")
    np.testing.assert_array_equal(shown(axes), weights[1, 0])
    assert limits(axes) == ((-0.5, 1) if scale == "each" else (-1, 1))
    assert [written(axes)[place, place] for place in range(3)] == ["-.50", ".25", "1.00"]


def test_zero_is_grey_on_a_shared_scale_of_any_weights() -> None:
    assert limits(figures.filters(np.concatenate([EYE, EYE]), scale="shared").axes[0]) == (-1, 1)


def test_a_filter_alone_shows_its_channels_on_one_scale(rng: np.random.Generator) -> None:
    weights = rng.standard_normal((2, 6, 3, 3))
    figure = figures.filters(weights, only=0, channels=5)
    (axes,) = figure.axes
    span = weights[0, :5].max() - weights[0, :5].min()
    np.testing.assert_allclose(tiles(axes, (3, 3)), (weights[0, :5] - weights[0, :5].min()) / span)
    assert "its channels, the first 5 of 6" in figure.get_suptitle()


def sources(folder: Path) -> dict[str, tuple[Any, str | None]]:
    """Everything that figures.filters takes, with the same 30 filters in it, and the layer's name in each."""
    network = nr.SimpleConvNet(rng=np.random.RandomState(1))
    network.save_params(folder / "params.pkl")
    params = network.params
    return {
        "array": (params["W1"], None),
        "tensor": (torch.tensor(params["W1"], dtype=torch.bfloat16), None),
        "panels": ({"after": params["W1"]}, None),
        "params": (params, "W1"),
        "state_dict": (to_state_dict(params), "conv1.weight"),
        "module": (SimpleConvNet.from_params(params, "unfold"), "conv1.weight"),
        "network": (network, "W1"),
        "weights": (Weights.of(params), None),
        "file": (folder / "params.pkl", "W1"),
    }


@pytest.mark.parametrize(
    "kind", ["array", "tensor", "panels", "params", "state_dict", "module", "network", "weights", "file"]
)
def test_filters_of_whatever_holds_some(kind: str, tmp_path: Path) -> None:
    source, layer = sources(tmp_path)[kind]
    weights = sources(tmp_path)["array"][0][:, 0]
    (axes,) = figures.filters(source, layer=layer, scale="shared").axes[:1]
    np.testing.assert_allclose(tiles(axes, (5, 5)), weights, rtol=2**-8 if kind == "tensor" else 0)


def test_a_notebook_shows_a_figure() -> None:
    figure = figures.filters(EYE)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


@pytest.mark.parametrize("n", [1, 2, 3, 6, 30, 64, 100, 256, 1000])
@pytest.mark.parametrize("tile", [(5, 5), (24, 24), (31, 3)])
def test_tiles_lie_apart_and_no_row_is_empty(n: int, tile: tuple[int, int]) -> None:
    grid = Grid.of(n, tile, 10, wide=1.3)
    whole = grid.mosaic(np.ones((n, *tile)))
    assert whole.sum() == n * grid.fine**2 * tile[0] * tile[1]  # none lies on another
    assert not np.ma.getmaskarray(whole[-1]).all()
    assert whole.shape[1] * grid.inches / grid.width <= 10
    for number in (0, n - 1):
        top, left = grid.place(number)
        inside = whole[top : top + grid.height, left : left + grid.width]
        assert not np.ma.getmaskarray(inside).any()
        assert np.ma.getmaskarray(whole[top - grid.head : top, left]).all()  # room for the number


@pytest.mark.parametrize("scale", ["each", "shared"])
def test_responses_have_their_filters_beside(scale: str, rng: np.random.Generator) -> None:
    image, maps = rng.random((3, 9, 12)), rng.standard_normal((3, 7, 10))
    weights = rng.standard_normal((3, 3, 3, 3))
    figure = figures.responses(image, weights, maps, "title", scale=scale)
    draw(figure)
    np.testing.assert_array_equal(shown(titled(figure, "image: 3 x 9 x 12")), np.moveaxis(image, 0, -1))
    axes = titled(figure, "after each of 3 filters, without bias: 3 x 7 x 10")
    least, greatest = (reduce(axis=(1, 2), keepdims=True) for reduce in (maps.min, maps.max))
    most = abs(maps).max()
    np.testing.assert_allclose(tiles(axes, (7, 10)), (maps - least) / (greatest - least) if scale == "each" else maps)
    assert limits(axes) == ((0, 1) if scale == "each" else (-most, most))
    for drawn, kernel in zip(axes.images[1:], weights.mean(axis=1), strict=True):
        np.testing.assert_allclose(
            np.asarray(drawn.get_array()), (kernel - kernel.min()) / (kernel.max() - kernel.min())
        )


@pytest.mark.parametrize("scale", ["each", "shared"])
def test_what_relu_makes_has_a_scale_from_0(scale: str, rng: np.random.Generator) -> None:
    maps = {"conv1": rng.standard_normal((5, 6, 6)), "relu1": rng.random((5, 6, 6)) + 1}
    maps["relu1"][2] = 0  # one that is dead
    image = rng.random((1, 8, 8))
    figure = figures.feature_maps(image, maps, np.array([0.1, 0.7, 0.1999, 0.0001]), 2, "title", scale=scale)
    draw(figure)
    np.testing.assert_array_equal(shown(titled(figure, "image: 1 x 8 x 8")), image[0])
    conv, relu = (titled(figure, f"{name}: 5 x 6 x 6") for name in maps)
    most = {name: abs(values).max() for name, values in maps.items()}
    if scale == "each":
        assert "from its least (black)" in conv.get_title()
        assert "from 0 (black)" in relu.get_title()
        top = maps["relu1"].max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(tiles(relu, (6, 6)), maps["relu1"] / np.where(top, top, 1))
        assert limits(conv) == limits(relu) == (0, 1)
    else:
        np.testing.assert_array_equal(tiles(relu, (6, 6)), maps["relu1"])
        assert limits(conv) == (-most["conv1"], most["conv1"])
        assert limits(relu) == (0, most["relu1"])
    bars = titled(figure, "probabilities: seen as 1, wrong, it is 2")
    assert [bar.get_height() for bar in bars.patches] == [0.1, 0.7, 0.1999, 0.0001]  # type: ignore[attr-defined]
    assert [bar.get_hatch() is not None for bar in bars.patches] == [False, False, True, False]
    assert [text.get_text() for text in bars.texts] == ["10.0%", "70.0%", "20.0%"]


def test_nobody_knows_the_class_of_a_photo(rng: np.random.Generator) -> None:
    figure = figures.feature_maps(rng.random((1, 4, 4)), {"conv1": rng.random((2, 3, 3))}, np.array([0.1, 0.9]), None)
    bars = titled(figure, "probabilities: seen as 1")
    assert bars.get_title() == "probabilities: seen as 1"
    assert not any(bar.get_hatch() for bar in bars.patches)


def test_a_path_goes_from_the_image_to_the_last_map() -> None:
    image, response = np.eye(12), np.full((10, 10), -2.0)
    stages = [
        figures.Stage("image", image, (8, -1, 6, 3)),
        figures.Stage("filter", EYE[0, 0], sign="*"),
        figures.Stage("conv1", response, (0, 1, 2, 2), sign="="),
    ]
    figure = figures.path(stages, "title")
    draw(figure)
    assert [axes.get_title() for axes in figure.axes] == ["image\n12 x 12", "filter\n3 x 3", "conv1\n10 x 10"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["black 0, white 1", "black 0, white 1", "black -2, white -1"]
    assert [list(written(axes).values())[-1:] for axes in figure.axes] == [[], ["*"], ["="]]
    first, _, last = figure.axes
    assert framed(first) == (8, 0, 4, 2)  # cut, where it reaches into the padding
    assert framed(last) == (0, 1, 2, 2)
