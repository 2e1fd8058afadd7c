"""One file for nested dicts and lists of arrays, numbers and strings: a safetensors file.

The layout is that of safetensors (8 bytes of length, a JSON header, the arrays' bytes), so that any
tool for it can read the arrays. What is not an array stands as JSON in the header's metadata. The
metadata begin with a checksum of the whole file, which is verified before anything is parsed.
Nothing that is read is executed: there is no pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_popdescent.errors import ArgumentError, DamagedError, ProjectError, describe

# Written by this version, which reads all up to it.
SCHEMA = 1

# name of a NumPy dtype -> its name in safetensors
_DTYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_NAMES = {short: name for name, short in _DTYPES.items()}
_LENGTH = 8
# The checksum's place is fixed, so that it can be left out of what it is a checksum of.
_BEFORE = b'{"__metadata__":{"sha256":"'
_DIGEST = slice(_LENGTH + len(_BEFORE), _LENGTH + len(_BEFORE) + 64)


@dataclass(frozen=True)
class Packed:
    """A nested structure on its way into a file.

    Attributes:
        header: The file's beginning, its checksum included.
        arrays: The arrays, in the order in which they follow.
    """

    header: bytes
    arrays: tuple[NDArray[Any], ...]

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(array.nbytes for array in self.arrays)

    def chunks(self) -> Iterator[Any]:
        """Yield the file's bytes, piece by piece; arrays are not copied."""
        yield self.header
        yield from map(_raw, self.arrays)


def takes(dtype: np.dtype[Any]) -> bool:
    """Whether arrays and numbers of a dtype can be packed."""
    return dtype.name in _DTYPES


def pack(tree: dict[str, Any]) -> Packed:
    """Return nested dicts and lists as the pieces of a file.

    Args:
        tree: Dicts with string keys, lists, tuples (which become lists), NumPy arrays, strings,
            numbers, booleans, None.

    Raises:
        ArgumentError: For anything else, saying where it is.
    """
    arrays: dict[str, NDArray[Any]] = {}
    text = json.dumps(_encode(tree, "", arrays))
    entries, offset = {}, 0
    for name, array in arrays.items():
        entries[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    metadata = {"sha256": "0" * 64, "schema": str(SCHEMA), "tree": text}
    body = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    # Arrays begin at a multiple of 8 bytes.
    body += b" " * (-len(body) % 8)
    header = bytearray(len(body).to_bytes(_LENGTH, "little") + body)
    digest = hashlib.sha256(header)
    for array in arrays.values():
        digest.update(_raw(array))
    header[_DIGEST] = digest.hexdigest().encode()
    return Packed(bytes(header), tuple(arrays.values()))


def read(path: Path) -> dict[str, Any]:
    """Return what was packed into a file.

    Raises:
        DamagedError: If the file is not what was once written.
        ProjectError: If it cannot be read at all, or was written by a newer version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProjectError(
            describe(
                f"A snapshot cannot be read: {error.strerror or error}.",
                fix="Make the file readable, or take it out of the directory.",
                file=str(path),
            )
        ) from error
    _verify(data, path)
    try:
        end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
        header = json.loads(data[_LENGTH:end])
        metadata = header.pop("__metadata__")
        schema = int(metadata["schema"])
        if schema <= SCHEMA:
            body = memoryview(data)[end:]
            arrays = {name: _array(entry, body) for name, entry in header.items()}
            tree = _decode(json.loads(metadata["tree"]), arrays)
            if isinstance(tree, dict):
                return tree
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    if schema <= SCHEMA:
        raise _damaged(path)
    raise ProjectError(
        describe(
            f"The snapshot was written by a newer version of this package (schema {schema}).",
            f"This version reads schemas up to {SCHEMA}.",
            "Update keras-popdescent, or begin anew in another directory.",
            file=str(path),
        )
    )


def _verify(data: bytes, path: Path) -> None:
    """Compare the checksum before anything is parsed."""
    if data[_LENGTH : _DIGEST.start] != _BEFORE or len(data) < _DIGEST.stop:
        raise _damaged(path)
    view = memoryview(data)
    digest = hashlib.sha256(view[: _DIGEST.start])
    digest.update(b"0" * 64)
    digest.update(view[_DIGEST.stop :])
    if digest.hexdigest().encode() != data[_DIGEST]:
        raise _damaged(path)


def _damaged(path: Path) -> DamagedError:
    return DamagedError(
        describe(
            "A snapshot is damaged: its bytes are not those that were written.",
            fix="Copy it back from elsewhere, or begin anew in another directory.",
            file=str(path),
        )
    )


def _raw(array: NDArray[Any]) -> Any:
    # As bytes: the buffer protocol does not know bfloat16.
    return array.reshape(-1).view(np.uint8).data


def _array(entry: dict[str, Any], body: memoryview) -> NDArray[Any]:
    dtype = np.dtype(_NAMES[entry["dtype"]])
    start, stop = entry["data_offsets"]
    shape = tuple(int(size) for size in entry["shape"])
    return np.frombuffer(body[start:stop], dtype=dtype).reshape(shape).copy()


def _encode(value: Any, where: str, arrays: dict[str, NDArray[Any]]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        coded = {key: _encode(item, f"{where}/{key}", arrays) for key, item in value.items()}
        # Keys come from users: what looks like our own marks is spelled out.
        return {"$items": list(coded.items())} if any(k[:1] == "$" for k in coded) else coded
    if isinstance(value, list | tuple):
        return [_encode(item, f"{where}/{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, np.generic) and takes(value.dtype):
        return value.item()
    if isinstance(value, np.ndarray) and takes(value.dtype):
        name = where[1:] if where[1:] not in arrays else f"{where[1:]} {len(arrays)}"
        order = value.dtype.newbyteorder("<") if value.dtype.kind in "iuf" else value.dtype
        arrays[name] = np.asarray(value, dtype=order, order="C")
        return {"$array": name}
    raise ArgumentError(
        describe(
            "Something in the state of the search cannot be saved without executing code later.",
            "Expected arrays of numbers, dicts, lists, strings, numbers.",
            where=where[1:],
            type=f"array of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__,
        )
    )


def _decode(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$array"}:
        return arrays[value["$array"]]
    if set(value) == {"$items"}:
        return {key: _decode(item, arrays) for key, item in value["$items"]}
    return {key: _decode(item, arrays) for key, item in value.items()}
