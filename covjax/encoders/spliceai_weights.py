"""The two file formats of (Open)SpliceAI under one set of names: a PyTorch state dict and a Keras model."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covjax.encoders.base import digest_weights
from covjax.errors import InputError, shown
from covjax.extras import need
from covjax.tensorfile import read_torch

BLOCKS = ((11, 1), (11, 4), (21, 10), (41, 25))  # kernel width and dilation, 4 residual units each
UNITS = 4
TORCH_EPS, TORCH_SLOPE = 1e-5, 0.1  # batch norm, leaky ReLU; neither is stored in a state dict
LARGEST = 1 << 26  # bytes of a tensor; the largest of the published models has 170 kB


class Weights:
    """Arrays of one file, each taken once under OpenSpliceAI's names; `stored` translates them into the file's."""

    def __init__(
        self,
        file: Path,
        arrays: Mapping[str, np.ndarray],
        blocks: int,
        stored: Callable[[str, str], str],
        axes: tuple[int, int, int],
        eps: float,
        slope: float,
    ):
        if not 1 <= blocks <= len(BLOCKS):
            raise InputError(f"{file}: {blocks} blocks of residual units, expected 1 to {len(BLOCKS)}")
        self.file, self.blocks, self.eps, self.slope = file, blocks, eps, slope
        self._arrays, self._stored, self._axes, self._left = arrays, stored, axes, set(arrays)

    def take(self, part: str, field: str, *shape: int) -> np.ndarray:
        """The array; raises InputError where it is missing or of another shape."""
        name = self._stored(part, field)
        if name not in self._left:
            raise InputError(f"{self.file}: tensor {name} is missing")
        if self._arrays[name].shape != shape:
            raise InputError(f"{self.file}: tensor {name} has shape {self._arrays[name].shape}, expected {shape}")
        if self._arrays[name].dtype.kind not in "fV":  # V: bfloat16
            raise InputError(f"{self.file}: tensor {name} is {self._arrays[name].dtype}, expected floating point")
        self._left.discard(name)
        return self._arrays[name]

    def kernel(self, part: str, *shape: int) -> np.ndarray:
        """A convolution's kernel as (width, inputs, outputs)."""
        stored = [0, 0, 0]
        for size, axis in zip(shape, self._axes):
            stored[axis] = size
        return self.take(part, "weight", *stored).transpose(self._axes)

    def finish(self) -> str:
        """The digest of all arrays; raises InputError where one was not taken."""
        if self._left:
            raise InputError(
                f"{self.file}: unexpected tensor {shown(min(self._left))[1:-1]} ({len(self._left)} in all)"
            )
        return digest_weights(self._arrays)


def read_weights(file: Path) -> Weights:
    """The weights of an .h5 file (Keras) or of any other (PyTorch); raises InputError for what is neither."""
    return _read_keras(file) if file.suffix == ".h5" else _read_torch(file)


def _read_torch(file: Path) -> Weights:
    state = {name: array for name, array in read_state_dict(file).items() if not name.endswith(".num_batches_tracked")}
    units = [int(match[1]) for name in state if (match := re.match(r"residual_units\.(\d{1,3})\.", name))]
    blocks = max(units, default=-1) // (UNITS + 1) + 1
    return Weights(file, state, blocks, "{}.{}".format, (2, 1, 0), TORCH_EPS, TORCH_SLOPE)


def read_state_dict(file: Path) -> dict[str, np.ndarray]:
    """All tensors of a PyTorch state dict; raises InputError as `covjax.tensorfile.read_torch`."""
    return {name: tensor.read() for name, tensor in read_torch(file).items()}


def _read_keras(file: Path) -> Weights:
    h5py = need("h5py", "keras", f"{file}: a Keras model")
    arrays: dict[str, np.ndarray] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.nbytes > LARGEST:
                raise ValueError(f"{name} is {item.nbytes} bytes")
            arrays[name.split("/", 1)[1]] = item[()]  # the layer's name is there twice

    try:
        with h5py.File(file) as opened:
            layers = json.loads(opened.attrs["model_config"])["config"]["layers"]
            opened["model_weights"].visititems(collect)
        config = {layer["name"]: (layer["class_name"], layer["config"]) for layer in layers}
        (eps,) = {float(layer["epsilon"]) for kind, layer in config.values() if kind == "BatchNormalization"}
        blocks = -(-sum(kind == "BatchNormalization" for kind, _ in config.values()) // (2 * UNITS))
        numbers, dilations = _keras_numbers(blocks)
        _check_keras(file, config, dilations)
    except InputError:
        raise
    except Exception as error:  # a damaged or foreign file: h5py and the look-ups raise many types
        what = shown(str(error), 150)[1:-1]
        raise InputError(f"{file}: not a Keras model of SpliceAI: {type(error).__name__}: {what}") from None
    fields = {"running_mean": "moving_mean", "running_var": "moving_variance"}

    def stored(part: str, field: str) -> str:
        if "batchnorm" in part:
            field = {"weight": "gamma", "bias": "beta"}.get(field, fields.get(field, field))
            return f"batch_normalization_{numbers[part]}/{field}:0"
        return f"conv1d_{numbers[part]}/{'kernel' if field == 'weight' else field}:0"

    return Weights(file, arrays, blocks, stored, (0, 1, 2), eps, 0.0)


def _keras_numbers(blocks: int) -> tuple[dict[str, int], dict[str, int]]:
    """Keras' running numbers of OpenSpliceAI's parts, and the dilation of each Keras convolution."""
    numbers, dilations = {}, {}
    convs = [("initial_conv", 1), ("initial_skip.conv", 1)]
    for block, (_, dilation) in enumerate(BLOCKS[:blocks]):
        first = block * (UNITS + 1)
        for unit in range(first, first + UNITS):
            for i in (1, 2):
                numbers[f"residual_units.{unit}.batchnorm{i}"] = 2 * (unit - block) + i
                convs.append((f"residual_units.{unit}.conv{i}", dilation))
        convs.append((f"residual_units.{first + UNITS}.conv", 1))
    for number, (part, dilation) in enumerate([*convs, ("final_conv", 1)], start=1):
        numbers[part] = number
        dilations[f"conv1d_{number}"] = dilation
    return numbers, dilations


def _check_keras(file: Path, config: Mapping[str, tuple[str, Mapping[str, Any]]], dilations: dict[str, int]) -> None:
    """Refuse a layer whose options differ from those of the published models."""
    expected: dict[str, dict[str, Any]] = {"Activation": {"activation": "relu"}, "BatchNormalization": {"axis": -1}}
    for name, (kind, layer) in config.items():
        options = expected.get(kind, {})
        if kind == "Conv1D":
            activation = "softmax" if name == f"conv1d_{len(dilations)}" else "linear"
            options = {"dilation_rate": [dilations.get(name)], "activation": activation, "strides": [1]}
        for option, value in options.items():
            if layer.get(option) != value:
                raise InputError(f"{file}: {name}: {option} is {layer.get(option)!r}, expected {value!r}")
