"""Image datasets for the demo, the benchmarks and the tests.

Fashion-MNIST is four gzipped IDX files wherever it comes from, so one reader and one table of
checksums serve every source. Sources, in order:

1. the folder named by the environment variable ``KERAS_POPDESCENT_DATA``, where it is set;
2. the cache of Keras's own loader (``~/.keras/datasets/fashion-mnist``);
3. the files of Debian's package ``dataset-fashion-mnist``;
4. a download by ``keras.datasets.fashion_mnist``, which fills Keras's cache for the next time.

Debian's files come before the download: reading them is instant, and a machine without a network
does not wait for a connection that cannot come. Both are the same bytes, which the checksums prove.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA_FOLDER_VARIABLE = "KERAS_POPDESCENT_DATA"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte


class DatasetUnavailableError(RuntimeError):
    """A dataset is in none of the places where it may be, and cannot be downloaded."""


class DamagedDatasetError(RuntimeError):
    """A file or a download holds something else than the published data."""


@dataclass(frozen=True)
class IdxFile:
    """One published array: the name of its file, its shape and the SHA-256 of its decoded bytes.

    The checksum is that of the array, not of the ``.gz`` file, so that it holds for every source,
    whatever compressed it.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str


# x_train, y_train, x_test, y_test
FASHION_MNIST_FILES = (
    IdxFile(
        "train-images-idx3-ubyte.gz",
        (60_000, 28, 28),
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    ),
    IdxFile(
        "train-labels-idx1-ubyte.gz",
        (60_000,),
        "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    ),
    IdxFile(
        "t10k-images-idx3-ubyte.gz",
        (10_000, 28, 28),
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    ),
    IdxFile(
        "t10k-labels-idx1-ubyte.gz",
        (10_000,),
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    ),
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled grey images, as published.

    Attributes:
        name: What a user calls it, for titles and tables.
        source: A sentence that says where this copy came from, to be shown to the user.
        x_train: Training images, ``uint8``, shape ``(num_train, height, width)``.
        y_train: Training labels 0 to 9, ``uint8``, shape ``(num_train,)``.
        x_test: Held-out images, ``uint8``, shape ``(num_test, height, width)``.
        y_test: Held-out labels, ``uint8``, shape ``(num_test,)``.
        white: The value of a white pixel: 255 for Fashion-MNIST, 16 for digits.
    """

    name: str
    source: str
    x_train: NDArray[np.uint8]
    y_train: NDArray[np.uint8]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.uint8]
    white: int

    def scaled(self) -> tuple[tuple[NDArray[np.float32], NDArray[np.int32]], ...]:
        """Return the data as a convolutional network takes it.

        Returns:
            ``(x_train, y_train), (x_test, y_test)``, as Keras's loaders return it: images as
            ``float32`` in [0, 1] with a channel axis, shape ``(num, height, width, 1)``; labels as
            ``int32``, shape ``(num,)``.

        Example:
            >>> (x_train, y_train), (x_test, y_test) = load_digits().scaled()
            >>> x_train.shape, x_test.shape
            ((1442, 8, 8, 1), (355, 8, 8, 1))
        """
        return tuple(
            (x[..., np.newaxis].astype(np.float32) / np.float32(self.white), y.astype(np.int32))
            for x, y in ((self.x_train, self.y_train), (self.x_test, self.y_test))
        )


def load_fashion_mnist(*, download: bool = True) -> Dataset:
    """Load Fashion-MNIST from the first source that has it; the module's docstring has the order.

    Args:
        download: Whether Keras may download it where no folder holds it.

    Returns:
        60,000 training and 10,000 test images of 28 x 28 pixels.

    Raises:
        DatasetUnavailableError: No folder holds it, and it was not or could not be downloaded.
        DamagedDatasetError: A file or the download has other contents than the published ones.
    """
    for folder, description in _folders():
        # All four or none: a download that was cut short leaves some; Keras fetches the rest.
        if all((folder / file.name).is_file() for file in FASHION_MNIST_FILES):
            arrays = [_read_idx(folder / file.name, file) for file in FASHION_MNIST_FILES]
            return _fashion_mnist(f"Fashion-MNIST from {description}.", arrays)
    if not download:
        raise DatasetUnavailableError(_nowhere("no download was wanted"))
    return _fashion_mnist("Fashion-MNIST downloaded by Keras.", _download())


def load_digits() -> Dataset:
    """Load the handwritten digits that scikit-learn brings: small, and on every machine.

    The split is fixed: of each digit every fifth image is a test image. The images are ordered by
    writer, so neighbours are alike, and a stride gives both parts the same writers.

    Returns:
        1,442 training and 355 test images of 8 x 8 pixels.

    Raises:
        DatasetUnavailableError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise DatasetUnavailableError(
            "The digits come with scikit-learn, which is not installed. "
            'Install it: pip install "keras-popdescent[reproduce]"'
        ) from error
    digits = load()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[4::5]] = True
    return Dataset(
        "digits",
        "The 8 x 8 digits that scikit-learn brings.",
        images[~is_test],
        labels[~is_test],
        images[is_test],
        labels[is_test],
        white=16,
    )


def load_fashion_mnist_or_digits() -> Dataset:
    """Load Fashion-MNIST, or the digits where it cannot be had; ``source`` then says so.

    For demonstrations that must run everywhere. What compares numbers takes `load_fashion_mnist`.

    Raises:
        DamagedDatasetError: As `load_fashion_mnist`; a damaged file is reported, not worked around.
    """
    try:
        return load_fashion_mnist()
    except DatasetUnavailableError as error:
        digits = load_digits()
        source = f"{digits.source} They stand in for Fashion-MNIST. {error}"
        return replace(digits, source=source)


def _fashion_mnist(source: str, arrays: list[NDArray[np.uint8]]) -> Dataset:
    x_train, y_train, x_test, y_test = arrays
    return Dataset("Fashion-MNIST", source, x_train, y_train, x_test, y_test, white=255)


def _folders() -> Iterator[tuple[Path, str]]:
    """The folders that may hold the files, each with its name in a sentence."""
    if chosen := os.environ.get(DATA_FOLDER_VARIABLE):
        yield Path(chosen).expanduser(), f"the folder that {DATA_FOLDER_VARIABLE} names"
    keras_home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    yield keras_home / "datasets" / "fashion-mnist", "the cache of Keras's loader"
    yield DEBIAN_FOLDER, "Debian's package dataset-fashion-mnist"


def _read_idx(path: Path, file: IdxFile) -> NDArray[np.uint8]:
    """Decode one gzipped IDX file: 0, 0, type, number of axes, each axis's length, the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    header = struct.pack(f">4B{len(file.shape)}I", 0, 0, 8, len(file.shape), *file.shape)
    if not content.startswith(header):
        raise _damaged(path, f"header={content[: len(header)].hex()}, expected {header.hex()}")
    return _checked(np.frombuffer(content, np.uint8, offset=len(header)), file, path)


def _checked(array: NDArray[np.uint8], file: IdxFile, origin: Path | str) -> NDArray[np.uint8]:
    """Return the array in the published shape, once its bytes are the published ones."""
    sha256 = hashlib.sha256(array.tobytes()).hexdigest()
    if sha256 != file.sha256:
        raise _damaged(origin, f"sha256={sha256}, expected {file.sha256}")
    return array.reshape(file.shape)


def _download() -> list[NDArray[np.uint8]]:
    """Have Keras download the data, or fail within seconds; Keras's own output is not shown."""
    # Keras is imported here only: importing it starts a backend, which reading files does not need.
    import keras

    print("Fashion-MNIST is not on this machine: Keras downloads it (30 MB).", file=sys.stderr)
    # Keras sets no timeout: a network that drops packets would hang it for minutes.
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train, test = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Keras turns every failure of a download into a bare Exception
        raise DatasetUnavailableError(_nowhere(f"the download failed: {error}")) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return [
        _checked(array, file, f"Keras's download of {file.name}")
        for array, file in zip((*train, *test), FASHION_MNIST_FILES, strict=True)
    ]


def _nowhere(reason: str) -> str:
    places = ", ".join(str(folder) for folder, _ in _folders())
    return (
        f"Fashion-MNIST is in none of these folders: {places}; and {reason}. To have it, connect "
        "to the network once, install Debian's package dataset-fashion-mnist, or put its four .gz "
        f"files into a folder and set {DATA_FOLDER_VARIABLE} to it."
    )


def _damaged(origin: Path | str, received: str) -> DamagedDatasetError:
    return DamagedDatasetError(
        f"{origin} is not what was published: it is incomplete, or another file under its name. "
        f"Delete it and run again; another source then takes its place. Received: {received}"
    )
