"""Digits drawn offline in MNIST's format, for a machine without a network: matplotlib's fonts, varied and noisy.

The same bytes on every machine that has one version of matplotlib: random numbers come from NumPy's frozen legacy
stream, and only + - * / and square roots, which IEEE 754 rounds in one way, decide what a pixel is.
"""

from __future__ import annotations

import numpy as np

from numpy_ref.checks import Array
from torchport.bars import bar
from torchport.data import glyphs

SIZES = {True: 60_000, False: 10_000}  # by train, as MNIST's
SEEDS = {True: 20_161, False: 7_016}
CHUNK = 500  # digits drawn at once: small enough for the processor's caches

WIDTH = 28  # pixels of an image, as MNIST's
FRAME = 13.0  # pixels from the middle of an image, within which the outline stays
# Each digit's own, uniform between the two.
RANGES = {
    "height": (13.0, 20.0),  # pixels, of the upright digit
    "stretch": (0.8, 1.2),  # of its width
    "slant": (-0.3, 0.3),  # pixels to the right per pixel up
    "tilt": (-0.2, 0.2),  # pixels down per pixel to the right
    "right": (-0.6, 0.6),  # of the room that the frame leaves
    "down": (-0.6, 0.6),
    "growth": (0.0, 0.6),  # pixels by which the outline moves out
    "ink": (128.0, 255.0),
    "noise": (0.0, 80.0),  # the most that a pixel is changed by
}


def make(n: int, seed: int, *, progress: bool = False) -> tuple[Array, Array]:
    """n images uint8 (n, 1, 28, 28) and labels uint8 (n,) of a seed; fewer are the first of more."""
    fields, halves = glyphs.fields()
    images, labels = np.empty((n, 1, WIDTH, WIDTH), np.uint8), np.empty(n, np.uint8)
    choices, noise = np.random.RandomState([seed, 0]), np.random.RandomState([seed, 1])
    with bar(progress, total=n, desc="drawing", unit=" digits") as shown:
        for start in range(0, n, CHUNK):
            chunk = slice(start, min(start + CHUNK, n))
            count = chunk.stop - start
            images[chunk, 0], labels[chunk] = draw(fields, halves, choices, noise, count)
            shown.update(count)
    return images, labels


def draw(
    fields: Array, halves: Array, choices: np.random.RandomState, noise: np.random.RandomState, n: int
) -> tuple[Array, Array]:
    """The next n images uint8 (n, 28, 28) and labels (n,), of what glyphs.fields returned and two random streams."""
    uniform = choices.random_sample((n, 2 + len(RANGES))).T
    font, label = (uniform[0] * len(fields)).astype(np.intp), (uniform[1] * 10).astype(np.intp)
    each = {name: low + (high - low) * u for (name, (low, high)), u in zip(RANGES.items(), uniform[2:], strict=True)}
    each |= _placed(each, *halves[font, label].T)
    each = {name: value.astype(np.float32)[:, None, None] for name, value in each.items()}  # (n, 1, 1)
    grain = np.frombuffer(noise.bytes(n * WIDTH * WIDTH), np.uint8).reshape(n, WIDTH, WIDTH)
    pixels = _ink(fields, font * 10 + label, each) * each["ink"] + (grain / np.float32(127.5) - 1) * each["noise"]
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8), label


def _placed(each: dict[str, Array], half_height: Array, half_width: Array) -> dict[str, Array]:
    """Output pixels per pixel of the glyph, fewer than the height asks for where the frame asks for it; x and y."""
    wide = each["stretch"] * half_width + abs(each["slant"]) * half_height
    tall = half_height + abs(each["tilt"]) * wide
    room = FRAME - each["growth"]
    scale = np.minimum(each["height"] / (2 * half_height), room / np.maximum(wide, tall))
    return {"scale": scale, "x": each["right"] * (room - scale * wide), "y": each["down"] * (room - scale * tall)}


def _ink(fields: Array, glyph: Array, each: dict[str, Array]) -> Array:
    """How much of each pixel is inked, 0..1: float32 (n, 28, 28)."""
    middle = np.arange(WIDTH, dtype=np.float32) - np.float32((WIDTH - 1) / 2)
    x, y = (middle - each["x"]) / each["scale"], (middle[:, None] - each["y"]) / each["scale"]
    down = y - each["tilt"] * x  # the way back to the glyph: first the tilt, then slant and stretch
    right = (x + each["slant"] * down) / each["stretch"]
    row, column = (np.clip(v + np.float32(glyphs.SIDE / 2), 0, glyphs.SIDE - 1).astype(np.intp) for v in (down, right))
    distance = fields.reshape(-1)[(glyph[:, None, None] * glyphs.SIDE + row) * glyphs.SIDE + column]
    return np.asarray(np.clip(distance * each["scale"] + each["growth"] + np.float32(0.5), 0, 1))
