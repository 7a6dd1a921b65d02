"""Resemblyzer's LSTM: against NumPy in float64 and PyTorch, its input step by step, and what is refused."""

import importlib.util

import numpy as np
import pytest
from scipy import signal

from covjax.encoders.speaker import LAYERS, PIP, UNITS, SpeakerLSTM, load_speaker, speaker_energies
from covjax.errors import InputError
from covjax.log_mel import mel_filters


def random_weights(rng):
    weights = {}
    for layer in range(LAYERS):
        weights[f"lstm.weight_ih_l{layer}"] = rng.normal(0, 0.1, (4 * UNITS, UNITS if layer else 40))
        weights[f"lstm.weight_hh_l{layer}"] = rng.normal(0, 0.05, (4 * UNITS, UNITS))
        for part in ("ih", "hh"):
            weights[f"lstm.bias_{part}_l{layer}"] = rng.normal(0, 0.1, 4 * UNITS)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def reference(weights, x):
    """Every layer's states in float64, frame by frame, gates by name."""

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    layers, x = [], x.astype(np.float64)
    for layer in range(LAYERS):
        w = {name: weights[f"lstm.{name}_l{layer}"].astype(np.float64) for name in ("weight_ih", "weight_hh")}
        bias = weights[f"lstm.bias_ih_l{layer}"].astype(np.float64) + weights[f"lstm.bias_hh_l{layer}"]
        h = c = np.zeros(UNITS)
        states = []
        for frame in x:
            gates = (w["weight_ih"] @ frame + w["weight_hh"] @ h + bias).reshape(4, UNITS)
            c = sigmoid(gates[1]) * c + sigmoid(gates[0]) * np.tanh(gates[2])
            h = sigmoid(gates[3]) * np.tanh(c)
            states.append(h)
        x = np.array(states)
        layers.append(x)
    return layers


@pytest.fixture(scope="module")
def weights():
    return random_weights(np.random.default_rng(3))


@pytest.fixture(scope="module")
def encoder(weights):
    return SpeakerLSTM(weights)


def sound(n=2400, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, n).clip(-1, 1)


def test_every_layer_is_the_reference_and_later_frames_do_not_matter(encoder, weights):
    samples = sound()
    expected = reference(weights, speaker_energies(samples, 8000))
    for layer in range(LAYERS):
        ours = encoder.encode(samples, 8000, layer)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected[layer], atol=1e-5)
    np.testing.assert_array_equal(encoder.encode(samples, 8000), ours)
    with pytest.raises(InputError, match="layer: 3 is not one of -3 … 2"):
        encoder.encode(samples, 8000, 3)


def torch_states(torch, state, energies):
    model = torch.nn.LSTM(40, UNITS, LAYERS, batch_first=True)
    model.load_state_dict({name.removeprefix("lstm."): tensor for name, tensor in state.items()})
    with torch.no_grad():
        return model(torch.from_numpy(energies)[None])[0][0].numpy()


@pytest.mark.parametrize("zipped", [True, False])
def test_parity_with_pytorch_from_either_format(tmp_path, weights, zipped):
    torch = pytest.importorskip("torch")
    file, state = tmp_path / "m.pt", {name: torch.from_numpy(array) for name, array in weights.items()}
    whole = {"step": 3, "model_state": {**state, "linear.bias": torch.zeros(2)}, "optimizer_state": {"lr": [0.1]}}
    torch.save(whole, file, _use_new_zipfile_serialization=zipped)
    samples = sound(1700)
    expected = torch_states(torch, state, speaker_energies(samples, 16000))
    np.testing.assert_allclose(load_speaker(file).encode(samples, 16000), expected, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("resemblyzer") is None, reason="resemblyzer is not installed")
def test_parity_with_pytorch_on_the_published_weights():
    torch = pytest.importorskip("torch")
    from pathlib import Path

    file = Path(importlib.util.find_spec("resemblyzer").origin).parent / "pretrained.pt"
    state = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
    state = {name: tensor for name, tensor in state.items() if name.startswith("lstm.")}
    samples = sound(8000)
    ours = load_speaker().encode(samples, 16000)
    np.testing.assert_allclose(ours, torch_states(torch, state, speaker_energies(samples, 16000)), atol=1e-5)


def test_the_input_is_mel_energies_of_raised_and_padded_sound():
    quiet = sound(4000) / 100
    padded = np.pad(quiet * 10 ** (-30 / 20) / np.sqrt(np.mean(quiet**2)), 200)
    hann = signal.get_window("hann", 400, fftbins=True)
    frames = [np.abs(np.fft.rfft(padded[i : i + 400] * hann)) ** 2 for i in range(0, 4001, 160)]
    expected = np.array(frames) @ mel_filters(16000, 400).T
    np.testing.assert_allclose(speaker_energies(quiet, 16000), expected, rtol=1e-5)
    loud = sound(4000) * 3
    np.testing.assert_allclose(speaker_energies(loud, 16000) * 4, speaker_energies(loud * 2, 16000), rtol=1e-5)
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(4000) / 8000)
    twice = 0.5 * np.sin(2 * np.pi * 500 * np.arange(8000) / 16000)
    middle = slice(5, -5)  # the filter's ends apart
    np.testing.assert_allclose(
        speaker_energies(tone, 8000).max(1)[middle], speaker_energies(twice, 16000).max(1)[middle], rtol=0.02
    )


def test_what_is_refused(tmp_path, weights, monkeypatch):
    with pytest.raises(InputError, match="rate: 0 samples a second"):
        speaker_energies(sound(), 0)
    with pytest.raises(InputError, match="samples: 300 numbers with a root mean square of 0.0"):
        speaker_energies(np.zeros(300), 8000)
    with pytest.raises(InputError, match="a root mean square of nan"):
        speaker_energies(np.full(300, np.nan), 8000)
    absent = {name: array for name, array in weights.items() if name != "lstm.bias_hh_l2"}
    with pytest.raises(InputError, match=r"tensor lstm.bias_hh_l2 is missing, expected float32 \(1024,\)"):
        SpeakerLSTM(absent)
    with pytest.raises(InputError, match=r"tensor lstm.bias_hh_l2 is float32 \(4,\)"):
        SpeakerLSTM(absent | {"lstm.bias_hh_l2": np.zeros(4, np.float32)})
    (tmp_path / "words.pt").write_bytes(b"words")
    with pytest.raises(InputError, match=r"words.pt: not a state dict of tensors"):
        load_speaker(tmp_path / "words.pt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"its weights are not installed; run: {PIP}"):
        load_speaker()
