"""The loaders of reproduce/datasets.py: order of the sources, checks, and the split of the digits.

Small arrays stand in for the published ones, so that nothing here needs a network or the real data;
one test reads the real files where Debian's package is installed.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import keras
import numpy as np
import pytest

from reproduce import datasets

SHAPES = ((6, 4, 4), (6,), (3, 4, 4), (3,))


@pytest.fixture
def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    # From 1, so that a zero byte written over any other is damage.
    return [rng.integers(1, 256, shape, dtype=np.uint8) for shape in SHAPES]


@pytest.fixture
def sources(arrays, tmp_path, monkeypatch) -> dict[str, Path]:
    """Empty folders in place of the real ones, and the published files replaced by small ones."""
    small = tuple(
        datasets.IdxFile(file.name, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
        for file, array in zip(datasets.FASHION_MNIST_FILES, arrays, strict=True)
    )
    monkeypatch.setattr(datasets, "FASHION_MNIST_FILES", small)
    monkeypatch.setenv(datasets.DATA_FOLDER_VARIABLE, str(tmp_path / "chosen"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")
    return {
        "chosen": tmp_path / "chosen",
        "keras": tmp_path / "keras" / "datasets" / "fashion-mnist",
        "debian": tmp_path / "debian",
    }


@pytest.fixture
def downloads(arrays, monkeypatch) -> list[str]:
    """Let Keras's loader return the arrays; the list has one entry a call."""
    calls: list[str] = []

    def load_data():
        calls.append("download")
        return (arrays[0], arrays[1]), (arrays[2], arrays[3])

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", load_data)
    return calls


def write(folder: Path, arrays: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for file, array in zip(datasets.FASHION_MNIST_FILES, arrays, strict=True):
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / file.name).write_bytes(gzip.compress(header + array.tobytes()))


def assert_holds(dataset: datasets.Dataset, arrays: list[np.ndarray]) -> None:
    loaded = (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test)
    for array, expected in zip(loaded, arrays, strict=True):
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("present", "said"),
    [
        (("chosen", "keras", "debian"), "KERAS_POPDESCENT_DATA"),
        (("keras", "debian"), "cache of Keras"),
        (("debian",), "dataset-fashion-mnist"),
    ],
)
def test_first_folder_that_has_the_files_is_read(present, said, sources, arrays, downloads):
    for name in present:
        write(sources[name], arrays)
    dataset = datasets.load_fashion_mnist()
    assert said in dataset.source
    assert_holds(dataset, arrays)
    assert downloads == []


def test_download_is_the_last_source(sources, arrays, downloads):
    dataset = datasets.load_fashion_mnist()
    assert downloads == ["download"]
    assert "downloaded" in dataset.source
    assert_holds(dataset, arrays)


def test_folder_with_some_of_the_files_is_passed_over(sources, arrays, downloads):
    write(sources["keras"], arrays)
    (sources["keras"] / datasets.FASHION_MNIST_FILES[2].name).unlink()
    assert "downloaded" in datasets.load_fashion_mnist().source


def test_no_download_where_none_is_wanted(sources, downloads):
    with pytest.raises(datasets.DatasetUnavailableError, match="no download was wanted") as caught:
        datasets.load_fashion_mnist(download=False)
    assert downloads == []
    for folder in sources.values():
        assert str(folder) in str(caught.value)


def test_failed_download_names_its_reason_and_restores_the_timeout(sources, monkeypatch):
    timeouts = []

    def load_data():
        timeouts.append(datasets.socket.getdefaulttimeout())
        raise Exception("URL fetch failure: name not known")

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", load_data)
    with pytest.raises(datasets.DatasetUnavailableError, match="name not known"):
        datasets.load_fashion_mnist()
    assert timeouts == [datasets.DOWNLOAD_TIMEOUT]
    assert datasets.socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[: len(content) // 2], "EOFError"),
        (lambda content: b"<html>404 Not Found</html>", "BadGzipFile"),
        (lambda content: gzip.compress(b"an IDX file?" * 20), "header="),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1] + b"\0"), "sha256="),
    ],
    ids=["cut short", "not gzip", "not IDX", "other bytes"],
)
def test_damaged_file_is_named_in_the_error(damage, said, sources, arrays, downloads):
    write(sources["keras"], arrays)
    path = sources["keras"] / datasets.FASHION_MNIST_FILES[1].name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(datasets.DamagedDatasetError, match=said) as caught:
        datasets.load_fashion_mnist()
    assert str(path) in str(caught.value)
    assert "Delete it" in str(caught.value)


def test_download_is_checked_too(sources, arrays, monkeypatch):
    swapped = (arrays[2], arrays[3]), (arrays[0], arrays[1])
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: swapped)
    with pytest.raises(datasets.DamagedDatasetError, match="Keras's download of train-images"):
        datasets.load_fashion_mnist()


def test_digits_stand_in_where_fashion_mnist_cannot_be_had(sources, monkeypatch):
    def load_data():
        raise Exception("no network")

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", load_data)
    dataset = datasets.load_fashion_mnist_or_digits()
    assert dataset.name == "digits"
    assert "stand in for Fashion-MNIST" in dataset.source
    assert "no network" in dataset.source


def test_fashion_mnist_is_preferred_to_the_digits(sources, arrays):
    write(sources["debian"], arrays)
    assert datasets.load_fashion_mnist_or_digits().name == "Fashion-MNIST"


def test_digits_are_split_without_overlap_and_alike():
    from sklearn.datasets import load_digits

    digits = datasets.load_digits()
    published = load_digits()
    parts = np.concatenate([digits.x_train, digits.x_test])
    # Every published image is in exactly one part.
    assert sorted(map(bytes, parts)) == sorted(map(bytes, published.images.astype(np.uint8)))
    zeros = published.images[published.target == 0]
    np.testing.assert_array_equal(digits.x_test[digits.y_test == 0], zeros[4::5])
    np.testing.assert_array_equal(np.bincount(digits.y_test), np.bincount(published.target) // 5)
    assert len(digits.x_train) == len(digits.y_train)


def test_scaled_has_a_channel_axis_and_values_from_zero_to_one():
    digits = datasets.load_digits()
    (x_train, y_train), (x_test, y_test) = digits.scaled()
    assert x_train.shape == (1442, 8, 8, 1)
    assert x_test.shape == (355, 8, 8, 1)
    assert x_train.dtype == x_test.dtype == np.float32
    assert y_train.dtype == y_test.dtype == np.int32
    assert (x_train.min(), x_train.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(x_test[..., 0] * 16, digits.x_test)


@pytest.mark.skipif(
    not datasets.DEBIAN_FOLDER.exists(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_real_files_pass_their_checksums(tmp_path, monkeypatch):
    monkeypatch.delenv(datasets.DATA_FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    dataset = datasets.load_fashion_mnist(download=False)
    assert dataset.x_train.shape == (60_000, 28, 28)
    assert dataset.x_test.shape == (10_000, 28, 28)
    # The published data hold every class equally often.
    np.testing.assert_array_equal(np.bincount(dataset.y_train), np.full(10, 6_000))
    np.testing.assert_array_equal(np.bincount(dataset.y_test), np.full(10, 1_000))
