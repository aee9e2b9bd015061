"""MNIST is read in every form in which people store it, and other or damaged files are named."""

from __future__ import annotations

import gzip
import pickle
import warnings
import zlib
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest

from data.files import idx
from numpy_ref.checks import Array
from torchport.commands import cli
from torchport.data import DataError, load_mnist, mnist, sets

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
BOOK = ("train_img", "train_label", "test_img", "test_label")
Parts = tuple[Array, Array, Array, Array]  # in the order of NAMES


@pytest.fixture
def parts() -> Parts:
    rng = np.random.RandomState(4)
    train, test = rng.randint(0, 256, (12, 28, 28)), rng.randint(0, 256, (9, 28, 28))
    a, b, c, d = (values.astype(np.uint8) for values in (train, np.arange(12) % 10, test, np.arange(9)))
    return a, b, c, d


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    def download(self: object) -> None:
        print("Downloading ...")
        raise RuntimeError("Error downloading train-images:\nTried one:\n<urlopen error no route to host>")

    monkeypatch.setattr(MNIST, "download", download)


def write(folder: Path, parts: Parts, rename: Callable[[str], str] = str, packed: bool = False) -> Path:
    """Write the four files to folder and return it."""
    for name, values in zip(NAMES, parts, strict=True):
        path = folder / rename(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    return folder


def write_pickle(folder: Path, parts: Parts, protocol: int) -> None:
    """Write mnist.pkl as the book's init_mnist does: images as rows, in read-only arrays that share a file's bytes."""
    rows = [np.frombuffer(values.tobytes(), np.uint8).reshape(len(values), -1).squeeze() for values in parts]
    (folder / "mnist.pkl").write_bytes(pickle.dumps(dict(zip(BOOK, rows, strict=True)), protocol))


def assert_is(folder: Path, parts: Parts) -> None:
    for train, (images, labels) in ((True, parts[:2]), (False, parts[2:])):
        x, t = mnist(train, folder)
        np.testing.assert_array_equal(x, images[:, None])
        np.testing.assert_array_equal(t, labels)
        assert x.dtype == t.dtype == np.uint8
        assert x.flags.writeable


@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "gz"])
@pytest.mark.parametrize("place", ["MNIST/raw", "raw", ".", "dataset"])
def test_the_four_files_are_found_wherever_people_keep_them(
    place: str, packed: bool, parts: Parts, tmp_path: Path
) -> None:
    write(tmp_path / place, parts, lambda name: f"{name}.gz" if packed else name, packed)
    assert_is(tmp_path, parts)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("-idx", ".idx"),  # 7-Zip takes the name inside the archive
        lambda name: f"{name}/{name}",
        lambda name: f"{name}/{name.replace('-idx', '.idx')}",
        lambda name: f"{name}.gz",  # unpacked by whatever fetched it
    ],
    ids=["7-Zip", "in a folder", "7-Zip in a folder", "gz in name only"],
)
def test_they_are_found_under_other_names(rename: Callable[[str], str], parts: Parts, tmp_path: Path) -> None:
    assert_is(write(tmp_path, parts, rename), parts)


@pytest.mark.parametrize("protocol", range(6))
def test_the_books_pickle_is_read(protocol: int, parts: Parts, tmp_path: Path) -> None:
    write_pickle(tmp_path, parts, protocol)
    assert_is(tmp_path, parts)


def test_keras_file_is_read(parts: Parts, tmp_path: Path) -> None:
    a, b, c, d = parts
    np.savez_compressed(tmp_path / "mnist.npz", x_train=a, y_train=b, x_test=c, y_test=d)
    assert_is(tmp_path, parts)


def test_labels_of_other_whole_numbers_are_read(parts: Parts, tmp_path: Path) -> None:
    a, b, c, d = parts
    np.savez(tmp_path / "mnist.npz", x_train=a, y_train=b.astype("i8"), x_test=c, y_test=d.astype(">i4"))
    assert_is(tmp_path, parts)
    np.savez(tmp_path / "mnist.npz", x_test=c, y_test=d.astype("i8") - 1)
    with pytest.raises(DataError, match="y_test must be uint8"):
        mnist(False, tmp_path)


def test_keras_file_with_floats_is_named(parts: Parts, tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_test=parts[2] / 255, y_test=parts[3])
    with pytest.raises(DataError, match=r"mnist.npz .*x_test must be uint8 \(N, 784\), got float64 \(9, 28, 28\)"):
        mnist(False, tmp_path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "mnist.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(DataError, match=r"mnist.pkl could not be read \(names 'os.system'.* nothing is ever run"):
        mnist(True, tmp_path)


IMAGES = NAMES[2]


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        (IMAGES, lambda data: b"", r"t10k-images-idx3-ubyte is empty"),
        (IMAGES, lambda data: b"\n<!DOCTYPE html>", r"images-idx3-ubyte is a web page"),
        (IMAGES, lambda data: b"version https://git-lfs.github.com/spec/v1", r"is a Git LFS pointer"),
        (IMAGES, lambda data: b"\x08\0\0\0" + data, r"begins with the bytes 08 00 00 00, images with 00 00 08 03"),
        (NAMES[3], lambda data: idx(np.zeros((9, 1))), r"begins with the bytes 00 00 08 02, labels with 00 00 08 01"),
        (IMAGES, lambda data: data[:-1], r"should be 9 x 28 x 28, 7072 bytes, and has 7071"),
        (IMAGES, lambda data: data + b"\0", r"should be 9 x 28 x 28, 7072 bytes, and has 7073"),
        (IMAGES, lambda data: data[:9], r"should be 9 x 0 x 0, 16 bytes, and has 9"),
        (IMAGES, lambda data: idx(np.zeros((36, 14, 14))), r"holds 36 images of 14 x 14 pixels, expected 28 x 28"),
        (IMAGES, lambda data: idx(np.zeros((0, 28, 28))), r"holds 0 images of 28 x 28"),
        (NAMES[3], lambda data: idx(np.zeros(8)), r"labels-idx1-ubyte holds 8 labels for 9 images in .*/t10k-images"),
        (IMAGES, lambda data: gzip.compress(data)[:-20], r"is damaged or cut off"),
        (IMAGES, lambda data: gzip.compress(data)[:-8] + bytes(8), r"is damaged or cut off \(CRC check failed"),
    ],
    ids=[
        *("empty", "a web page", "Git LFS", "another magic", "another rank", "cut", "longer", "cut header"),
        *("other images", "no images", "fewer labels", "cut gzip", "changed gzip"),
    ],
)
def test_a_file_that_is_damaged_or_another_is_named(
    name: str, make: Callable[[bytes], bytes], says: str, parts: Parts, tmp_path: Path
) -> None:
    write(tmp_path, parts)
    (tmp_path / name).write_bytes(make((tmp_path / name).read_bytes()))
    with pytest.raises(DataError, match=says) as error:
        mnist(False, tmp_path)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)
    assert "delete" not in str(error.value)
    assert len(mnist(True, tmp_path)[0]) == 12  # which are good


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"test_img": np.zeros((9, 784), np.float32)}, r"test_img must be uint8 \(N, 784\), got float32"),
        ({"test_img": np.zeros((9, 100), np.uint8)}, r"test_img must be uint8 \(N, 784\), got uint8 \(9, 100\)"),
        ({"test_img": np.zeros((8, 784), np.uint8)}, r"holds 9 labels for 8 images"),
        ({"test_img": [1]}, r"'test_img' is a list"),
    ],
    ids=["floats", "another size", "fewer", "a list"],
)
def test_another_pickle_is_named(change: dict[str, object], says: str, parts: Parts, tmp_path: Path) -> None:
    rows = [values.reshape(len(values), -1).squeeze() for values in parts]
    (tmp_path / "mnist.pkl").write_bytes(pickle.dumps({**dict(zip(BOOK, rows, strict=True)), **change}, 4))
    with pytest.raises(DataError, match=rf"mnist.pkl.*({says})"):
        mnist(False, tmp_path)


def test_a_file_that_is_missing_beside_others_is_named(parts: Parts, tmp_path: Path) -> None:
    """Nothing is downloaded next to what may be another data set."""
    write(tmp_path, parts)
    (tmp_path / NAMES[3]).rename(tmp_path / "labels")
    with pytest.raises(DataError, match=r"has train-images-idx3-ubyte, but neither t10k-labels-idx1-ubyte nor .*gz"):
        mnist(False, tmp_path)


def test_a_missing_data_set_is_one_clear_error(tmp_path: Path) -> None:
    expected = (
        r"could not be downloaded .*no route to host.*data_dir .--data-dir. or TORCHPORT_DATA, .* .--data drawn.$"
    )
    with pytest.raises(DataError, match=expected) as failure:
        mnist(train=False, data_dir=tmp_path / "data")
    assert "\n" not in str(failure.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_download_appears_whole(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "download", lambda self: write(Path(self.raw_folder), parts) and None)
    monkeypatch.setattr(MNIST, "_check_exists", lambda self: True)
    monkeypatch.setattr(MNIST, "_load_data", lambda self: (None, None))
    assert_is(tmp_path, parts)
    assert sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir()) == sorted(NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


def test_other_data_of_mnists_size_is_taken_with_a_warning(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for Fashion-MNIST in MNIST's place."""
    write(tmp_path, parts)
    checksum = zlib.crc32(parts[3].tobytes(), zlib.crc32(parts[2].tobytes()))
    monkeypatch.setattr(sets, "MNIST_CHECKSUMS", {True: (12, 1), False: (9, checksum)})
    with pytest.warns(UserWarning, match=r"train-images-idx3-ubyte is not MNIST, or is damaged, by its checksum"):
        assert len(mnist(True, tmp_path)[0]) == 12
    assert len(mnist(False, tmp_path)[0]) == 9  # without one


def test_the_checksums_are_those_of_torchvisions_files(data_dir: Path) -> None:
    from torchvision.datasets import MNIST

    for name, published in MNIST.resources:
        if not (path := data_dir / "MNIST" / "raw" / name).exists():
            pytest.skip(f"{path} is not there: torchvision knows the packed files")
        assert md5(path.read_bytes(), usedforsecurity=False).hexdigest() == published
    for train in (True, False):
        mnist(train, data_dir)  # without a warning, which would be an error here


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("one_hot_label", [True, False])
def test_load_mnist_has_the_books_results(
    normalize: bool, flatten: bool, one_hot_label: bool, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHPORT_DATA", str(data_dir))
    data_sets = load_mnist(normalize, flatten, one_hot_label)
    for (x, t), n in zip(data_sets, (60_000, 10_000), strict=True):
        assert x.shape == ((n, 784) if flatten else (n, 1, 28, 28))
        assert x.dtype == (np.float32 if normalize else np.uint8)
        assert (x.min(), x.max()) == (0, 1 if normalize else 255)
        assert t.shape == ((n, 10) if one_hot_label else (n,))
        assert t.dtype == (np.float64 if one_hot_label else np.uint8)
    labels = data_sets[0][1].argmax(axis=1) if one_hot_label else data_sets[0][1]
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_a_script_tells_of_other_data_in_one_line() -> None:
    def main() -> int:
        assert warnings.formatwarning("images is not MNIST", UserWarning, "sets.py", 5) == "note: images is not MNIST\n"
        return 0

    before = warnings.formatwarning
    assert cli.run(main) == 0
    assert warnings.formatwarning is before
