"""The picture of im2col: its windows, slices, matrix, and where a row's pixels come from."""

from __future__ import annotations

import numpy as np
import pytest

import numpy_ref as nr
from figures.looking import draw, framed, limits, shown, tiles, titled, written
from numpy_ref.util import pad_image
from torchport import figures
from torchport.figures import windows


@pytest.mark.parametrize(("stride", "pad", "row"), [(1, 0, 7), (2, 1, 5), (1, 0, None), (1, 2, 0)])
@pytest.mark.parametrize("channels", [1, 2])
def test_im2col_by_window_and_by_slice(
    channels: int, stride: int, pad: int, row: int | None, rng: np.random.Generator
) -> None:
    image = rng.random((channels, 6, 7))
    figure = figures.columns(image, 3, stride, pad, row, "title")
    draw(figure)
    assert all(axes.images for axes in figure.axes)  # no panel is empty
    col = nr.im2col(image[np.newaxis], 3, 3, stride, pad)
    number = int(col.std(axis=1).argmax()) if row is None else row
    padded = pad_image(image[np.newaxis], pad)[0]
    out = [(side - 3) // stride + 1 for side in padded.shape[1:]]
    top, left = (place * stride for place in divmod(number, out[1]))

    whole = titled(figure, f"image: 6 x 7{', padded' * bool(pad)}")
    np.testing.assert_array_equal(shown(whole), padded.mean(axis=0))
    frames = [framed(whole, n) for n in range(len(whole.patches))]
    assert (top, left, 3, 3) in frames
    assert (top, left + stride, 3, 3) in frames
    assert ((pad, pad, 6, 7) in frames) == bool(pad)

    by_window = titled(figure, f"by window: {len(col)} windows in {out[0]} x {out[1]} places")
    np.testing.assert_array_equal(tiles(by_window, (3 * channels, 3)), col.reshape(-1, 3 * channels, 3))
    corner = framed(by_window)
    inside = shown(by_window)[corner[0] : corner[0] + corner[2], corner[1] : corner[1] + corner[3]]
    np.testing.assert_array_equal(np.ma.asarray(inside).compressed(), col[number])

    by_slice = titled(figure, f"by slice: {9 * channels} slices of {out[0]} x {out[1]}")
    np.testing.assert_array_equal(tiles(by_slice, (out[0], out[1])), col.T.reshape(-1, *out))
    (dots,) = by_slice.lines
    across, down = (np.asarray(values, int) for values in dots.get_data())
    np.testing.assert_array_equal(shown(by_slice)[down, across], col[number])

    matrix = titled(
        figure, f"the matrix, {len(col)} x {9 * channels}, laid on its side: the same by window and by slice"
    )
    np.testing.assert_array_equal(shown(matrix), col.T)
    assert {np.asarray(line.get_xdata()).item() for line in matrix.lines} == {number}
    window, line = titled(figure, f"window {number}:"), titled(figure, f"row {number}:")
    np.testing.assert_array_equal(shown(window), col[number].reshape(-1, 3))
    np.testing.assert_array_equal(shown(line), col[[number]])
    assert written(window)[1, 2] == f"{col[number][7]:.2f}".replace("0.", ".")
    assert written(line)[7, 0] == written(window)[1, 2]
    assert {limits(axes) for axes in figure.axes} == {(0, 1)}


@pytest.mark.parametrize("title", ["", "title"])
@pytest.mark.parametrize("pad", [0, 2])
def test_texts_have_room(pad: int, title: str, rng: np.random.Generator) -> None:
    draw(figures.columns(rng.random((1, 28, 28)), 5, pad=pad, title=title))


def test_a_difference_of_the_two_ways_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WAYS", {**windows.WAYS, "im2col_by_window": lambda *a: nr.im2col(*a) + 0.5})
    assert titled(figures.columns(np.eye(4)[np.newaxis], 2), "the matrix").get_title().endswith("differ by up to 0.5")
