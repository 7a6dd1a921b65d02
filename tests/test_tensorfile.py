"""JSON and tensors in damaged, odd and hostile files: one line that names the file, nothing large in memory."""

import json
import os
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from covjax import InputError
from covjax.modelfiles import read_json, read_safetensors, read_torch


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"a": 1', "not JSON: Expecting"),
        (b'{"a": "\xff"}', "not JSON in UTF-8: byte 7"),
        (b"[1, 2]", "a JSON list, expected an object"),
        (b"12", "a JSON int, expected an object"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
    ],
)
def test_what_is_no_json_object_is_named(tmp_path, content, message):
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_json_is_read_with_and_without_a_mark_and_missing_files_are_named(tmp_path):
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "x.json").write_bytes(mark + '{"å": [1.5, null]}'.encode())
        assert read_json(tmp_path / "x.json") == {"å": [1.5, None]}
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read: (No such file|Is a directory)"):
            read_json(path)


def table(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 1 << 60) + b"{}", "the header is cut"),
        (table({"a": ONE}, bytes(7)), "15.*bytes, expected|bytes, expected"),
        (table({"a": ONE, "b": ONE}, bytes(8)), "tensor b is out of place"),
        (table({"a": ONE, "b": {**ONE, "data_offsets": [4, 12]}}, bytes(12)), "tensor b is out of place"),
        (table({"a": {**ONE, "data_offsets": [8, 16]}}, bytes(16)), "tensor a is out of place"),
        (table({"a": {**ONE, "dtype": "F7"}}, bytes(8)), "tensor 'a' has type 'F7'; allowed"),
        (table({"a": {**ONE, "dtype": ["F32"]}}, bytes(8)), "the header is not a table of tensors: 'a'"),
        (table({"a": {**ONE, "shape": [-2]}}, bytes(8)), "the header is not a table of tensors: 'a'"),
        (table({"a": {**ONE, "shape": ["2"]}}, bytes(8)), "the header is not a table of tensors: 'a'"),
        (table({"a": {**ONE, "shape": [True, 2]}}, bytes(8)), "the header is not a table of tensors: 'a'"),
        (table({"a": {**ONE, "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}}), "tensor a is out of place"),
        (table({"a": {**ONE, "data_offsets": [0]}}, bytes(8)), "the header is not a table of tensors: 'a'"),
        (table({"a": {**ONE, "data_offsets": [0.0, 8.0]}}, bytes(8)), "the header is not a table of tensors: 'a'"),
        (table({"a": [1]}), "the header is not a table of tensors: 'a'"),
        (table(b'{"a": 1, "a": 2}'), "the key 'a' occurs twice"),
        (table(b'{"a":' * 100_000), "nested too deep"),
        (table(b'{"\xff": 1}'), "not JSON in UTF-8"),
    ],
)
def test_odd_headers_of_safetensors_are_named(tmp_path, content, message):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_safetensors(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_type_comes_back(tmp_path):
    kinds = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "bool")
    given = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in kinds} | {"empty": np.zeros((0, 4), np.float32)}
    save_file(given, tmp_path / "model.safetensors")
    for name, tensor in read_safetensors(tmp_path / "model.safetensors").items():
        assert (tensor.shape, tensor.dtype) == (given[name].shape, given[name].dtype)
        np.testing.assert_array_equal(tensor.read(), given[name])


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorchs_formats_are_read_and_strides_that_ask_for_gigabytes_refused(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    file = tmp_path / "m.bin"
    base = torch.arange(12.0).reshape(3, 4)
    given = {"plain": base, "turned": base.T, "part": base[1:, ::2], "half": base.half(), "brain": base.bfloat16()}
    given |= {"number": torch.tensor(7), "parameter": torch.nn.Parameter(base.clone()), "bool": base > 3}
    torch.save(given, file, _use_new_zipfile_serialization=zipped)
    for name, tensor in read_torch(file).items():
        expected = given[name].detach().float().numpy()
        assert tensor.shape == expected.shape
        np.testing.assert_array_equal(tensor.read().astype(np.float32), expected)
    torch.save(
        {"huge": torch.zeros(1).expand(1 << 20, 1 << 20), "a": base}, file, _use_new_zipfile_serialization=zipped
    )
    assert file.stat().st_size < 3000
    tensors = read_torch(file)
    np.testing.assert_array_equal(tensors["a"].read(), base.numpy())
    with pytest.raises(InputError, match=r"\(1048576, 1048576\) repeats the 1 numbers"):
        tensors["huge"].read()


class Runs:
    """What a hostile pickle asks for."""

    def __reduce__(self):
        return os.getcwd, ()


def test_a_damaged_or_hostile_file_of_the_older_format_is_one_line(tmp_path):
    torch = pytest.importorskip("torch")
    file = tmp_path / "m.pt"
    torch.save({"a": torch.arange(6.0), "b": torch.arange(4)}, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    np.testing.assert_array_equal(read_torch(file)["b"].read(), np.arange(4))
    mark = whole[: whole.index(b"\x80\x02", 2)]
    cases = {
        whole[:-1]: "bytes, expected",
        whole + b"x": "bytes, expected",
        whole[:90]: "not a state dict of tensors: ",
        mark * 5: "it begins like no file of torch.save",
        whole.replace(b"little_endian", b"little_ending"): "'little_endian'",
        mark + pickle.dumps(Runs(), 2) + whole[len(mark) :]: "getcwd is not allowed",
        whole.replace(b"FloatStorage", b"OtherStorage"): "torch.OtherStorage is not allowed",
    }
    for content, message in cases.items():
        file.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_torch(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
