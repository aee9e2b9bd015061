"""The drawn digits are the same bytes everywhere, legible, and hard enough."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from numpy_ref.checks import Array
from torchport import SimpleConvNet, data, make_optimizer, softmax_with_loss
from torchport.data import drawn, glyphs

Digits = tuple[Array, Array]

RECORDED = "0d63ff42c0f6de16501bfc880fc69ba9f1d875b4e3a6ba3eba10b38e53422d14"


@pytest.fixture(scope="module")
def fields() -> Digits:
    return glyphs.fields()


@pytest.fixture
def small(fields: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the drawn data sets small, and reads the fonts only once."""
    monkeypatch.setattr(drawn, "SIZES", {True: 30, False: 20})
    monkeypatch.setattr(glyphs, "fields", lambda: fields)


def digest(*arrays: Array) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def assert_equal(digits: Digits, expected: Digits) -> None:
    for one, other in zip(digits, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype == np.uint8


def test_the_digits_are_the_recorded_ones() -> None:
    """Drawn from rings instead of glyphs, so that no library's version changes them."""
    square = ((np.indices((glyphs.SIDE, glyphs.SIDE)) - glyphs.SIDE // 2) ** 2).sum(axis=0)
    rings = np.stack([(square < 40**2) & (square > r**2) for r in range(20, 40)]).reshape(2, 10, *square.shape)
    streams = np.random.RandomState(1), np.random.RandomState(2)
    images, labels = drawn.draw(glyphs.distances(rings), np.full((2, 10, 2), 40.0), *streams, 40)
    choices = repr((glyphs.FONTS, glyphs.EM, drawn.SEEDS)).encode()
    assert digest(images, labels, np.frombuffer(choices, np.uint8)) == RECORDED


def test_another_process_with_other_threads_draws_the_same_and_fewer_are_the_first() -> None:
    n = drawn.CHUNK + 50
    code = f"from torchport.data import drawn; [print(a.tobytes().hex()) for a in drawn.make({n}, 3)]"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "3")
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **threads}, capture_output=True, text=True, check=True
    )
    images, labels = (np.frombuffer(bytes.fromhex(line), np.uint8) for line in run.stdout.split())
    other = images.reshape(n, 1, 28, 28), labels
    assert_equal(drawn.make(n, 3), other)
    assert_equal(drawn.make(60, 3), (other[0][:60], other[1][:60]))


def test_distances_are_the_nearest_edges(rng: np.random.Generator) -> None:
    ink = rng.random((18, 23)) < 0.04
    ink[2:12, 3:14] = True
    y, x = np.indices(ink.shape)[0], np.indices(ink.shape)[1]
    for place in np.ndindex(ink.shape):
        other = ink != ink[place]
        nearest = np.hypot(y[other] - place[0], x[other] - place[1]).min()
        expected = min(nearest, glyphs.REACH) - 0.5
        assert glyphs.distances(ink)[place] == pytest.approx(expected if ink[place] else -expected, abs=1e-6)


def test_each_font_has_ten_digits_of_its_own(fields: Digits) -> None:
    ink = (fields[0] > 0).reshape(len(glyphs.FONTS), 10, -1)
    for font in ink:
        for one, other in combinations(font, 2):
            assert np.count_nonzero(one != other) > 300  # of 16,384 pixels
    assert len({digit.tobytes() for font in ink for digit in font}) == 10 * len(glyphs.FONTS)
    assert 2 * fields[1].min() > 20  # pixels
    assert 2 * fields[1].max() <= glyphs.SIDE - 2 * glyphs.REACH


def test_labels_are_uniform_and_every_image_has_dark_and_light(fields: Digits) -> None:
    images, labels = drawn.make(4000, drawn.SEEDS[False])
    assert np.bincount(labels, minlength=10).shape == (10,)
    np.testing.assert_allclose(np.bincount(labels), 400, atol=5 * 19)  # standard deviations
    assert (images.min(), images.max()) == (0, 255)
    assert images.max(axis=(1, 2, 3)).min() > 100
    assert np.median(images) < 40


def test_digits_stay_inside_the_frame_and_are_not_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drawn.RANGES, "noise", (0.0, 0.0))
    images, _ = drawn.make(4000, 5)
    border = np.concatenate([images[:, 0, [0, -1]], images[:, 0, :, [0, -1]].transpose(1, 0, 2)], axis=1)
    assert border.max() < 50  # a slanted edge is a little wider
    assert (images > 50).sum(axis=(1, 2, 3)).min() >= 20  # pixels


def test_train_and_test_differ(small: None) -> None:
    (train, _), (test, _) = data.load("drawn", True), data.load("drawn", False)
    assert (len(train), len(test)) == (30, 20)
    assert len({image.tobytes() for image in [*train, *test]}) == 50


def test_the_data_set_is_drawn_without_a_word_or_a_file(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path))
    digits = data.load("drawn", False, progress=True)
    assert_equal(digits, drawn.make(20, drawn.SEEDS[False]))
    digits[0][:] = 0  # writable, as MNIST's
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")  # neither is a terminal


def test_another_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="data must be one of mnist, drawn, got 'cifar'"):
        data.load("cifar", True)


def accuracy_of(net: nn.Module, train: Digits, test: Digits, lr: float, epochs: int) -> float:
    (x, t), (x_test, t_test) = ((torch.tensor(x) / 255, torch.tensor(t).long()) for x, t in (train, test))
    optimizer = make_optimizer("adam", net.parameters(), lr=lr)
    for batch in torch.cat([torch.randperm(len(x)) for _ in range(epochs)]).split(50):
        optimizer.zero_grad()
        softmax_with_loss(net(x[batch]), t[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return float((net(x_test).argmax(dim=1) == t_test).double().mean())


def test_a_linear_model_is_clearly_worse_than_a_small_network() -> None:
    torch.manual_seed(0)  # for the first weights, too
    train, test = drawn.make(4000, drawn.SEEDS[True]), drawn.make(500, drawn.SEEDS[False])
    small = SimpleConvNet(conv_param={"filter_num": 8, "filter_size": 5, "pad": 0, "stride": 1})
    linear = accuracy_of(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), train, test, lr=0.003, epochs=3)
    network = accuracy_of(small, train, test, lr=0.006, epochs=2)
    assert 0.3 < linear < network - 0.15
