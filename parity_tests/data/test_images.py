"""How images are prepared for networks, and how a user's own image becomes one like MNIST's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from numpy_ref.checks import Array
from torchport import SimpleConvNet
from torchport.data import drawn
from torchport.data.images import check_images, digit, read_image, sample
from torchport.data.preparation import NAMED, Preparation

# What each name means, in float64. In float32 there are at most three roundings, each below a unit in the last place.
MEANT = {
    "unit": lambda x: x / 255,
    "book": lambda x: x / 255,
    "normalized": lambda x: (x / 255 - 0.1307) / 0.3081,
    "signed": lambda x: x / 127.5 - 1,
    "0-255": lambda x: x,
    "inverted": lambda x: 1 - x / 255,
    "0.2,4": lambda x: (x / 255 - 0.2) / 4,
    "-0.5,0.5": lambda x: x / 127.5 + 1,
}
ALL = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)


@pytest.mark.parametrize("text", MEANT)
def test_each_preparation_is_what_it_says_of_arrays_and_tensors(text: str) -> None:
    prepare = Preparation.parse(text)
    prepared, expected = prepare(ALL), MEANT[text](ALL.astype(np.float64))
    assert prepared.dtype == np.float32
    scale = max(1, abs(expected).max())
    np.testing.assert_allclose(prepared, expected, rtol=0, atol=3 * scale * np.finfo(np.float32).eps)
    np.testing.assert_allclose(prepare.apply(ALL.astype(float), np.float64), expected, rtol=0, atol=1e-15 * 3 * scale)
    np.testing.assert_array_equal(prepare.apply(torch.tensor(ALL).float(), torch.tensor), prepared)
    assert Preparation.parse(str(prepare)) == prepare


def test_dark_digits_of_0_to_255() -> None:
    np.testing.assert_array_equal(Preparation(white=1.0, inverted=True)(ALL), 255.0 - ALL)


def test_normalized_is_torchvisions_to_the_bit() -> None:
    from torchvision.transforms import functional

    tensor = functional.to_tensor(ALL[0, 0])
    np.testing.assert_array_equal(
        Preparation.parse("normalized")(ALL)[0], functional.normalize(tensor, (0.1307,), (0.3081,))
    )


@pytest.mark.parametrize("text", ["", "uint", "0.5", "0.5,0", "0.5,-1", "nan,1", "0,inf", "1,2,3"])
def test_another_preparation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"images must be {', '.join(NAMED)} or MEAN,STD, as in .*, got '{text}'"):
        Preparation.parse(text)


@pytest.fixture
def mnist_like(monkeypatch: pytest.MonkeyPatch) -> Array:
    """Drawn digits uint8 (20, 28, 28) without noise, already in MNIST's style."""
    monkeypatch.setitem(drawn.RANGES, "noise", (0.0, 0.0))
    return np.stack([digit(image[0] / 255)[0][0] for image in drawn.make(20, 3)[0]])


def test_what_is_as_mnist_already_stays(mnist_like: Array) -> None:
    for image in mnist_like:
        again, changes = digit(image / 255)
        assert abs(again[0] - image.astype(int)).max() <= 1  # of 255: its brightest pixel is 255 again
        assert "inverted" not in changes


def test_a_photo_is_as_its_digit(mnist_like: Array) -> None:
    """The photo has dark ink on light grey paper, in a corner and four times as large."""
    rng = np.random.RandomState(0)
    for image in mnist_like:
        photo = np.full((260, 180), 0.0)
        photo[140:252, 4:116] = np.asarray(Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC)) / 255
        centred, changes = digit(0.8 - 0.7 * photo + rng.uniform(-0.02, 0.02, photo.shape))
        assert changes.startswith("inverted because the background is light, ")
        # On average less than from itself one pixel to the side: centres of mass are rounded to pixels.
        assert abs(centred[0] - image.astype(float)).mean() < abs(np.diff(image.astype(float))).mean()


def test_a_digit_is_20_pixels_long_with_its_mass_in_the_middle(mnist_like: Array) -> None:
    for image in mnist_like.astype(float):
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        assert max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 == 20
        for axis in (0, 1):
            centre = (image.sum(axis=axis) * np.arange(28)).sum() / image.sum()
            assert abs(centre - 14) <= 0.5  # MNIST's own are between 13.5 and 14.5


@pytest.mark.parametrize(("height", "width"), [(60, 2), (2, 60), (1, 1)])
def test_a_stroke_is_a_digit_too(height: int, width: int) -> None:
    grey = np.zeros((80, 70))
    grey[10 : 10 + height, 5 : 5 + width] = 1
    stroke = digit(grey)[0]
    assert stroke.shape == (1, 28, 28)
    assert stroke.max() == 255


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
        pixels, size = read_image(tmp_path / name, 100)
        assert (pixels.shape, size, pixels.dtype.name) == ((1, 3, 4), (3, 4), "float64"), name
        np.testing.assert_allclose(pixels[0], grey, atol=0.01, err_msg=name)


def test_a_photo_is_turned_and_shrunk(tmp_path: Path) -> None:
    photo = np.zeros((300, 600, 3), np.uint8)
    photo[:, :300] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: to be turned clockwise
    Image.fromarray(photo).save(tmp_path / "photo.jpg", exif=exif)
    pixels, size = read_image(tmp_path / "photo.jpg", 50)
    assert (pixels.shape, size) == ((1, 50, 25), (600, 300))
    np.testing.assert_allclose(pixels[0, [0, -1]], [[1] * 25, [0] * 25], atol=0.02)


def test_a_sample_is_scaled_to_one() -> None:
    images = np.arange(4 * 9, dtype=np.uint8).reshape(4, 1, 3, 3)
    np.testing.assert_array_equal(sample(images, 3), images[3] / 255)


@pytest.mark.parametrize(("ink", "seen"), [(255, lambda alpha: alpha), (0, lambda alpha: 255 - alpha)])
def test_ink_on_nothing_stands_out(ink: int, seen: Callable[[Array], Array], tmp_path: Path) -> None:
    alpha = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(np.dstack([np.full((3, 4, 3), ink, np.uint8), alpha])).save(tmp_path / "ink.png")
    np.testing.assert_allclose(read_image(tmp_path / "ink.png", 9)[0][0], seen(alpha) / 255, atol=0.01)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png is not an image that can be read \(cannot identify image"):
        read_image(tmp_path / "text.png", 9)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no digit can be seen: all pixels are within 0.05 of the border's 0.70"):
        digit(np.pad([[0.75]], 9, constant_values=0.7))


def test_bytes_are_refused_by_a_network_with_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"uint8, .*: of images, 0 to 255, give .to\(torch.float32\) / 255"):
        SimpleConvNet()(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"float64, the weights torch.float32: convert one with .to\(\)"):
        SimpleConvNet()(torch.zeros(1, 1, 28, 28, dtype=torch.float64))


def test_floats_are_told_what_to_give() -> None:
    with pytest.raises(TypeError, match=r"must be uint8, 0 to 255, got dtype float64: .* \(x \* 255\).round\(\)"):
        check_images("images", np.zeros((1, 1, 2, 2)))
