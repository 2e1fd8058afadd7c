"""One file for nested arrays and numbers: exact, checked before it is parsed, never executed."""

from __future__ import annotations

import hashlib
import json
import math
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_popdescent.checkpoint import SCHEMA, differences, listing, pack, read
from keras_popdescent.errors import ArgumentError, DamagedError, ProjectError

DTYPES = [
    np.bool_, np.int8, np.int32, np.int64, np.uint8, np.uint32, np.float16, np.float32, np.float64,
]  # fmt: skip
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ARRAYS
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            # Names come from users; some look like our own marks.
            st.sampled_from(["$array", "$items", "a/b", "", "../../etc"]) | st.text(max_size=4),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
FILES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, tree):
    path.write_bytes(b"".join(bytes(chunk) for chunk in pack(tree).chunks()))
    return path


def assert_same(first, second):
    if isinstance(first, np.ndarray):
        assert (first.dtype, first.shape) == (second.dtype, second.shape)
        assert first.tobytes() == second.tobytes()
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key, value in first.items():
            assert_same(value, second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert type(first) is type(second)
        assert first == second or (math.isnan(first) and math.isnan(second))


@FILES
@given(tree=st.dictionaries(st.text(max_size=4), TREES, max_size=4))
def test_what_is_written_is_read(tree, tmp_path):
    path = write(tmp_path / "file", tree)
    assert path.stat().st_size == pack(tree).num_bytes
    assert_same(read(path), tree)


def test_bfloat16_and_other_orders_of_bytes(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    tree = {
        "half": np.array([1.5, -2.0], ml_dtypes.bfloat16),
        "turned": np.arange(3, dtype=">i4"),
        "strided": np.arange(12.0).reshape(3, 4)[:, ::2],
        "numbers": [np.float32(0.1), np.int64(3), (1, 2)],
    }
    found = read(write(tmp_path / "file", tree))
    assert found["half"].dtype == tree["half"].dtype
    for name in ("half", "turned", "strided"):
        np.testing.assert_array_equal(found[name], tree[name])
    assert found["numbers"] == [float(np.float32(0.1)), 3, [1, 2]]


def test_the_layout_is_that_of_safetensors(tmp_path):
    path = write(tmp_path / "file", {"a": {"b": np.arange(3, dtype="int32")}})
    data = path.read_bytes()
    [length] = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert header["a/b"] == {"dtype": "I32", "shape": [3], "data_offsets": [0, 12]}
    assert all(isinstance(value, str) for value in header["__metadata__"].values())
    assert data[8 + length :] == np.arange(3, dtype="<i4").tobytes()


@pytest.mark.parametrize(
    "value",
    [
        *(object(), {1: 2}, np.array([object()]), np.array(["a"]), {"set": {1}}, 1j),
        *([np.longdouble(1)] if np.finfo(np.longdouble).bits > 64 else []),
    ],
)
def test_what_would_need_pickle_is_refused(value):
    with pytest.raises(ArgumentError, match="cannot be saved.*where='members/0.*type="):
        pack({"members": [value]})


EXAMPLE = {"weights": [np.arange(40.0), np.ones((3, 3), "float32")], "values": {"rate": 0.1}}


@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_is_noticed(data, tmp_path):
    """Bits flipped, bytes cut off, inserted, overwritten: 400 cases."""
    whole = write(tmp_path / "file", EXAMPLE).read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "zeros"]))
    damaged = bytearray(whole)
    if kind == "flip":
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del damaged[place:]
    elif kind == "insert":
        damaged[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        damaged[place:] = bytes(len(whole) - place)
    if bytes(damaged) != whole:
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match="damaged: its bytes are not those"):
            read(path)


def forge(path, body, payload=b""):
    """Write a file whose checksum is right, whatever is in it."""
    head = b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'"' + body
    data = bytearray(len(head).to_bytes(8, "little") + head + payload)
    digest = hashlib.sha256(data).hexdigest().encode()
    data[35:99] = digest
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"}}",
        b',"schema":"x","tree":"{}"}}',
        b',"schema":"1","tree":"[]"}}',
        b',"schema":"1","tree":"{"}}',
        b',"schema":"1","tree":"{\\"a\\":{\\"$array\\":\\"b\\"}}"}}',
        b',"schema":"1","tree":"{\\"a\\":{\\"$items\\":3}}"}}',
        b',"schema":"1","tree":"' + b"[" * 100_000 + b'"}}',
        b',"schema":"1","tree":"{}"},"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}',
        b',"schema":"1","tree":"{}"},"a":{"dtype":"O","shape":[1],"data_offsets":[0,8]}}',
        b',"schema":"1","tree":"{}"},"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,3]}}',
        b',"schema":"1","tree":"{}"},"a":[]}',
    ],
)
def test_what_was_made_to_mislead_is_refused(body, tmp_path):
    with pytest.raises(DamagedError, match="damaged"):
        read(forge(tmp_path / "file", body, b"12345678"))


def test_a_newer_version_is_refused(tmp_path):
    body = f',"schema":"{SCHEMA + 1}","layout":"unknown"}}}}'.encode()
    with pytest.raises(ProjectError, match=r"newer version.*schema 2.*up to 1.*Update keras-pop"):
        read(forge(tmp_path / "file", body))


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(ProjectError, match="cannot be read: Is a directory.*Make the file read"):
        read(tmp_path)
    with pytest.raises(ProjectError, match="cannot be read: No such file"):
        read(tmp_path / "nothing")


def test_differences():
    saved = {"size": 3, "space": {"rate": {"high": 0.1}, "drop": 1}, "nan": float("nan")}
    given = {"size": 3, "space": {"rate": {"high": 0.5}, "units": 2}, "nan": float("nan")}
    assert differences(saved, given) == [
        "space.rate.high: was 0.1, is 0.5",
        "space.drop: was 1, is not there",
        "space.units: was not there, is 2",
    ]
    assert differences([1, [2, 3]], [1, [2, 4]], "shapes") == ["shapes.1.1: was 3, is 4"]
    assert differences([1], [1, 2], "shapes") == ["shapes: was [1], is [1, 2]"]
    [line] = differences("a" * 500, "b")
    assert len(line) < 150
    assert listing([str(i) for i in range(10)]) == "0; 1; 2; 3; 4; 5; 6; 7; and 2 more"
