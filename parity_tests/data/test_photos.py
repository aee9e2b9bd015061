"""A user's own images, and one of a data set's, as a network takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from torchport.data.images import read_image, sample


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
    images = np.arange(4 * 9, dtype=np.uint8).reshape(4, 1, 3, 3)
    np.testing.assert_array_equal(sample(images, 3), images[3] / 255)
