"""Single images: a user's own, with 8 bits a channel in any format that Pillow reads, or a sample of a data set."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from numpy_ref.checks import Array, check_array, check_index, check_int
from numpy_ref.files import read_file
from numpy_ref.params import MAX_BYTES

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, INK = 28, 20  # pixels of MNIST's images, and of a digit's longer side: http://yann.lecun.com/exdb/mnist/
PAPER = 2.0  # times the border's unevenness: anything fainter is shadow or grain of the paper
FAINTEST = 0.1  # ink on a scale of 0 to 1 that counts as a digit

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # Exif's tag, and its values that swap height and width


def pixels(images: Array) -> Array:
    """uint8 images as the book's float32 of 0 to 1; divided by 255, since a product with 1 / 255 rounds differently."""
    return np.asarray(images.astype(np.float32) / np.float32(255))


def read_image(path: str | Path, largest: int) -> tuple[Array, tuple[int, int]]:
    """The image in path as grey, float64 (1, H, W) of 0 to 1, and the file's height and width in pixels.

    Its longer side is shrunk to at most largest pixels. It is turned as its Exif data says; transparent parts become
    white or black, whichever gives more contrast.
    """
    check_int("largest", largest, 1)
    data = read_file(path, MAX_BYTES)  # outside the try, since its errors already name the file
    try:
        grey, size = _decode(data, largest)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many types on bad bytes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(" <")[0]  # no object's address
        raise ValueError(f"{path} is not an image that can be read ({reason}): try an 8-bit PNG or JPEG") from error
    return np.asarray(grey, np.float64)[np.newaxis].clip(0, 1), size


def digit(grey: Array) -> tuple[Array, str]:
    """grey (H, W) of 0 to 1 in the style of MNIST's digits, uint8 (1, 28, 28), and a text on what was done to it.

    Light on dark, with the ink 20 pixels on its longer side and its centre of mass in the middle.
    """
    from PIL import Image

    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ground = np.median(border)
    dark_ink = ground - grey.min() > grey.max() - ground
    ink = (ground - grey if dark_ink else grey - ground).clip(0)
    if ink.max() < FAINTEST:
        raise ValueError(f"no digit can be seen: all pixels are within {ink.max():.2f} of the border's {ground:.2f}")
    paper = min(PAPER * abs(border - ground).max(), ink.max() / 2)
    ink = (ink - paper).clip(0)
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    cut = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32))
    width, height = (max(1, round(INK * size / max(cut.size))) for size in cut.size)
    small = np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
    field = np.zeros((SIDE, SIDE))
    top, left = (_start(small.sum(axis=axis)) for axis in (1, 0))
    field[top : top + height, left : left + width] = small / small.max()
    about = f"cut to the ink, scaled to {INK} pixels, centred in {SIDE} x {SIDE} like MNIST's digits"
    about = f"inverted because the background is light, {about}" if dark_ink else about
    return np.rint(field * 255).astype(np.uint8)[None], about


def _start(weights: Array) -> int:
    """The index in SIDE pixels where weights (n,) must start to have their centre of mass at SIDE / 2, if they fit."""
    centre = (weights * np.arange(len(weights))).sum() / weights.sum()
    return int(np.clip(round(SIDE / 2 - centre), 0, SIDE - len(weights)))


def sample(images: Array, number: int) -> Array:
    """Image number (from 0) of images uint8 (N, C, H, W), as float64 (C, H, W) of 0 to 1. ValueError."""
    return np.asarray(images[check_index("sample", number, len(images), "images")] / 255)


def _decode(data: bytes, largest: int) -> tuple[Image, tuple[int, int]]:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large photos, odd metadata: a file that cannot be read raises anyway
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
            image.draft("L", (2 * largest, 2 * largest))  # a JPEG can be decoded at a fraction of its size
            grey = _grey(ImageOps.exif_transpose(image))
    grey.thumbnail((largest, largest), Image.Resampling.BOX, reducing_gap=None)
    return grey, (width, height) if turned else (height, width)


def _grey(image: Image) -> Image:
    """image as floats of 0 (black) to 1 (white), in Pillow's mode F."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # their conversion to 8 bits would clip
        raise ValueError(f"mode {image.mode}, more than 8 bits a channel")
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        grounds = (Image.new("RGBA", image.size, name) for name in ("white", "black"))
        image = max(
            (Image.alpha_composite(ground, foreground).convert("L") for ground in grounds),
            key=lambda grey: np.ptp(np.asarray(grey)),
        )
    return Image.fromarray(np.asarray(image.convert("L"), np.float32) / np.float32(255))


def check_images(name: str, value: object) -> Array:
    """value as images uint8 (N, C, H, W), N = 0 included. TypeError, ValueError."""
    images = check_array(name, value, ndim=4)
    if images.dtype != np.uint8:
        way_out = ": give the pixels themselves" + ", (x * 255).round() of 0 to 1" * (images.dtype.kind == "f")
        raise TypeError(f"{name} must be uint8, 0 to 255, got dtype {images.dtype}{way_out}")
    return images
