"""Resemblyzer's speaker encoder (GE2E, Wan et al. 2018): three LSTM layers of 256 units over mel energies.

The weights are those that the PyPI package resemblyzer carries (`pretrained.pt`, Apache-2.0); only that file is read,
without PyTorch, and the package's code is never imported. It reads sound and no letters, so it is no encoder by name:
`SpeakerLSTM.encode` makes the activations of a recording, and `covjax compare --activations` reads them.
"""

import functools
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from scipy import signal

from covjax.encoders.base import digest_weights, layer_index
from covjax.errors import InputError
from covjax.log_mel import BANDS, mel_energies
from covjax.modelfiles import StoredTensor, read_torch_values

LAYERS, UNITS = 3, 256
RATE, WINDOW, HOP = 16000, 400, 160  # samples a second; samples
LOUDNESS = 10 ** (-30 / 20)  # root mean square to which quieter recordings are raised: -30 dB of full scale
BLOCK = 32  # frames; lengths are rounded up to it, so that few programs are compiled
PIP = "pip install resemblyzer==0.1.4 --no-deps"


class LSTM(nnx.Module):
    """One LSTM layer (Hochreiter and Schmidhuber 1997, with a forget gate), gates in PyTorch's order.

    i, f, g, o = W x + U h + b; c ← σ(f) c + σ(i) tanh(g); h ← σ(o) tanh(c).
    """

    def __init__(self, weights: Mapping[str, np.ndarray], layer: int):
        self.input = nnx.Param(jnp.asarray(weights[f"lstm.weight_ih_l{layer}"].T))
        self.hidden = nnx.Param(jnp.asarray(weights[f"lstm.weight_hh_l{layer}"].T))
        self.bias = nnx.Param(jnp.asarray(weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"]))

    def __call__(self, x: Float[Array, "t inputs"]) -> Float[Array, "t units"]:
        """Hidden states after every frame, from zero states."""
        hidden = self.hidden[...]

        def step(state, projected):
            h, c = state
            i, f, g, o = jnp.split(projected + h @ hidden, 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros(hidden.shape[0], x.dtype)
        return jax.lax.scan(step, (zero, zero), x @ self.input[...] + self.bias[...])[1]


class SpeakerLSTM(nnx.Module):
    """The LSTM of the speaker encoder; its last linear layer, which makes one vector a recording, is left out.

    A frame's state depends on the frames before it alone.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        for name, shape in _shapes().items():
            if name not in weights or weights[name].shape != shape or weights[name].dtype != np.float32:
                what = f"{weights[name].dtype} {weights[name].shape}" if name in weights else "missing"
                raise InputError(f"speaker encoder: tensor {name} is {what}, expected float32 {shape}")
        self.layers = nnx.List(LSTM(weights, layer) for layer in range(LAYERS))
        self.weights_digest = digest_weights({name: weights[name] for name in _shapes()})

    def hidden_states(self, energies: Float[Array, "t bands"]) -> tuple[Float[Array, "t units"], ...]:
        """States of every layer, the first layer first; a pure function of the energies and the parameters."""
        out, x = [], energies
        for layer in self.layers:
            x = layer(x)
            out.append(x)
        return tuple(out)

    def encode(self, samples: Float[np.ndarray, "n"], rate: int, layer: int = -1) -> Float[np.ndarray, "frames units"]:
        """Activations of one recording, float32: a state of 256 numbers every 10 ms; see `speaker_energies`.

        Raises InputError for a layer that is not there and as `speaker_energies`.
        """
        energies = speaker_energies(samples, rate)
        filled = np.zeros((-(-len(energies) // BLOCK) * BLOCK, BANDS), np.float32)
        filled[: len(energies)] = energies  # what follows a frame cannot reach it
        states = _states(*nnx.split(self), jnp.asarray(filled))
        return np.asarray(states[layer_index(layer, LAYERS)])[: len(energies)]


@functools.partial(jax.jit, static_argnums=0)
def _states(graph: Any, state: Any, energies: Array) -> tuple[Array, ...]:
    return nnx.merge(graph, state).hidden_states(energies)


def speaker_energies(samples: Float[np.ndarray, "n"], rate: int) -> Float[np.ndarray, "frames bands"]:
    """What the network was trained on: mel energies (no logarithm) at 16 kHz in frames of 25 ms every 10 ms, float32.

    The samples, in [-1, 1], are brought to 16 kHz by a polyphase filter, raised to -30 dB where they are quieter, and
    get 200 zeros at either end. The package itself resamples by soxr and cuts silences out by WebRTC's detector of
    voices; here every frame stays.

    Raises InputError for a rate below 1, samples that are not finite, and silence.
    """
    samples = np.asarray(samples, np.float64)
    if rate < 1:
        raise InputError(f"rate: {rate} samples a second; it must be >= 1")
    loudness = float(np.sqrt(np.mean(samples**2))) if samples.size else 0.0
    if not 0 < loudness < math.inf:
        raise InputError(f"samples: {samples.size} numbers with a root mean square of {loudness}; sound is needed")
    divisor = math.gcd(RATE, rate)
    samples = signal.resample_poly(samples, RATE // divisor, rate // divisor)
    loudness = float(np.sqrt(np.mean(samples**2)))
    samples = np.pad(samples * max(1.0, LOUDNESS / loudness), WINDOW // 2)
    return mel_energies(samples, RATE, WINDOW, HOP, WINDOW).astype(np.float32)


def load_speaker(file: str | Path = "") -> SpeakerLSTM:
    """Read the weights from `pretrained.pt`: the file named, or that of the installed package.

    Raises InputError where the package is not installed, with the line that installs it, and for a file of other
    tensors.
    """
    path = Path(file) if file else _installed()
    values = read_torch_values(path)
    state = values.get("model_state") if isinstance(values, dict) else None
    if not isinstance(state, dict) or not all(isinstance(each, StoredTensor) for each in state.values()):
        raise InputError(f"{path}: no dictionary of tensors under model_state; a file of resemblyzer 0.1.4 is needed")
    try:
        return SpeakerLSTM({name: state[name].read() for name in _shapes() if name in state})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _installed() -> Path:
    spec = importlib.util.find_spec("resemblyzer")  # finds the folder without running the package
    if spec is None or spec.origin is None:
        raise InputError(f"speaker encoder: its weights are not installed; run: {PIP}")
    return Path(spec.origin).parent / "pretrained.pt"


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        shapes[f"lstm.weight_ih_l{layer}"] = (4 * UNITS, UNITS if layer else BANDS)
        shapes[f"lstm.weight_hh_l{layer}"] = (4 * UNITS, UNITS)
        shapes |= {f"lstm.bias_{part}_l{layer}": (4 * UNITS,) for part in ("ih", "hh")}
    return shapes
