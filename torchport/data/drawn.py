"""Draws digits in MNIST's format, for machines without internet access: matplotlib's fonts, distorted and noisy.

One version of matplotlib gives the same bytes on every machine: random numbers come from NumPy's frozen legacy stream,
and pixels depend only on + - * / and square roots, which IEEE 754 rounds in one way.
"""

from __future__ import annotations

import numpy as np

from numpy_ref.checks import Array
from torchport.bars import bar
from torchport.data import glyphs

SIZES = {True: 60_000, False: 10_000}  # of the training and the test set, as in MNIST
SEEDS = {True: 20_161, False: 7_016}
CHUNK = 500  # digits drawn at once: small enough for the processor's caches

WIDTH = 28  # pixels of an image, as MNIST's
FRAME = 13.0  # pixels: the outline stays within this distance of the image's middle, in x and y
# Drawn for each digit, uniformly between the two bounds.
RANGES = {
    "height": (13.0, 20.0),  # pixels, of the upright digit
    "stretch": (0.8, 1.2),  # factor of its width
    "slant": (-0.3, 0.3),  # pixels to the right per pixel up
    "tilt": (-0.2, 0.2),  # pixels down per pixel to the right
    "right": (-0.6, 0.6),  # shift, as a share of the room that the frame leaves
    "down": (-0.6, 0.6),
    "growth": (0.0, 0.6),  # pixels by which the outline moves outwards
    "ink": (128.0, 255.0),  # value of a fully inked pixel
    "noise": (0.0, 80.0),  # the largest change of a pixel
}


def make(n: int, seed: int, *, progress: bool = False) -> tuple[Array, Array]:
    """n images uint8 (n, 1, 28, 28) and labels uint8 (n,) of a seed; a larger n adds images at the end."""
    fields, halves = glyphs.fields()
    images, labels = np.empty((n, 1, WIDTH, WIDTH), np.uint8), np.empty(n, np.uint8)
    choices, noise = np.random.RandomState([seed, 0]), np.random.RandomState([seed, 1])
    with bar(progress, total=n, desc="drawing", unit=" digits") as progress_bar:
        for start in range(0, n, CHUNK):
            chunk = slice(start, min(start + CHUNK, n))
            count = chunk.stop - start
            images[chunk, 0], labels[chunk] = draw(fields, halves, choices, noise, count)
            progress_bar.update(count)
    return images, labels


def draw(
    fields: Array, halves: Array, choices: np.random.RandomState, noise: np.random.RandomState, n: int
) -> tuple[Array, Array]:
    """The next n images uint8 (n, 28, 28) and labels (n,), from glyphs.fields' two arrays and two random streams."""
    uniform = choices.random_sample((n, 2 + len(RANGES))).T
    font, label = (uniform[0] * len(fields)).astype(np.intp), (uniform[1] * 10).astype(np.intp)
    style = {name: low + (high - low) * u for (name, (low, high)), u in zip(RANGES.items(), uniform[2:], strict=True)}
    style |= _placement(style, *halves[font, label].T)
    style = {name: value.astype(np.float32)[:, None, None] for name, value in style.items()}  # (n, 1, 1)
    grain = np.frombuffer(noise.bytes(n * WIDTH * WIDTH), np.uint8).reshape(n, WIDTH, WIDTH)
    pixels = _coverage(fields, font * 10 + label, style) * style["ink"]
    pixels += (grain / np.float32(127.5) - 1) * style["noise"]
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8), label


def _placement(style: dict[str, Array], half_height: Array, half_width: Array) -> dict[str, Array]:
    """scale, in image pixels per glyph pixel, reduced if the digit would leave the frame; and its centre's x and y."""
    wide = style["stretch"] * half_width + abs(style["slant"]) * half_height
    tall = half_height + abs(style["tilt"]) * wide
    room = FRAME - style["growth"]
    scale = np.minimum(style["height"] / (2 * half_height), room / np.maximum(wide, tall))
    return {"scale": scale, "x": style["right"] * (room - scale * wide), "y": style["down"] * (room - scale * tall)}


def _coverage(fields: Array, glyph: Array, style: dict[str, Array]) -> Array:
    """The inked share of each pixel, 0 to 1: float32 (n, 28, 28)."""
    middle = np.arange(WIDTH, dtype=np.float32) - np.float32((WIDTH - 1) / 2)
    x, y = (middle - style["x"]) / style["scale"], (middle[:, None] - style["y"]) / style["scale"]
    down = y - style["tilt"] * x  # inverts the distortion, from image to glyph: first the tilt, then slant and stretch
    right = (x + style["slant"] * down) / style["stretch"]
    row, column = (np.clip(v + np.float32(glyphs.SIDE / 2), 0, glyphs.SIDE - 1).astype(np.intp) for v in (down, right))
    distance = fields.reshape(-1)[(glyph[:, None, None] * glyphs.SIDE + row) * glyphs.SIDE + column]
    return np.asarray(np.clip(distance * style["scale"] + style["growth"] + np.float32(0.5), 0, 1))
