"""The variant probe against its formulas in float64 NumPy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from covjax.errors import InputError
from covjax.probes import load_variant_probe

FEATURES, HIDDEN, UNITS, POSITIONS = 12, 5, 7, 9


@pytest.fixture
def tensors(rng):
    shapes = {f"proj_{s}_{d}.weight": (HIDDEN, FEATURES) for s in ("left", "right") for d in ("fwd", "bwd")}
    shapes |= {f"proj_{s}_{d}.bias": (HIDDEN,) for s in ("left", "right") for d in ("fwd", "bwd")}
    shapes |= {f"head_{s}.weight": (UNITS, HIDDEN) for s in ("left", "right")}
    shapes |= {"out.weight": (2, UNITS), "out.bias": (2,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def path(tensors, tmp_path):
    save_file(tensors, tmp_path / "probe.safetensors")
    return tmp_path / "probe.safetensors"


def reference(tensors, x):
    p = {name: value.astype(np.float64) for name, value in tensors.items()}
    embeddings, logits = [], []
    for one in x.astype(np.float64):
        c = np.zeros((HIDDEN, HIDDEN))
        for z, direction in enumerate(("fwd", "bwd")):
            difference = one[z, 0] - one[z, 1]
            sides = [difference @ p[f"proj_{s}_{direction}.weight"].T + p[f"proj_{s}_{direction}.bias"] for s in
                     ("left", "right")]  # fmt: skip
            c += sides[0].T @ sides[1] / len(difference)
        c += 1e-3 * np.eye(HIDDEN)
        norm = np.linalg.norm(c)
        y, z = c / norm, np.eye(HIDDEN)
        for _ in range(3):
            t = 3 * np.eye(HIDDEN) - z @ y
            y, z = y @ t / 2, t @ z / 2
        c = y * np.sqrt(norm)
        embedding = np.array([a @ c @ b for a, b in zip(p["head_left.weight"], p["head_right.weight"])])
        embeddings.append(embedding)
        logits.append(p["out.weight"] @ embedding + p["out.bias"])
    return np.array(embeddings), np.array(logits)


def test_equals_the_formulas(rng, tensors, path):
    x = rng.normal(size=(4, 2, 2, POSITIONS, FEATURES)).astype(np.float32)
    probe = load_variant_probe(path)
    for function in (probe, jax.jit(lambda v: probe(v))):
        for ours, theirs in zip(function(x), reference(tensors, x)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_order_of_directions_and_views_matters(rng, path):
    x = rng.normal(size=(1, 2, 2, POSITIONS, FEATURES)).astype(np.float32)
    probe = load_variant_probe(path)
    embedding = np.asarray(probe(x)[0])
    for other in (x[:, ::-1], x[:, :, ::-1]):
        assert np.abs(np.asarray(probe(other)[0]) - embedding).max() > 1e-2


def test_bfloat16_file_and_activations_give_float32(rng, tensors, tmp_path):
    low = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
    save_file(low, tmp_path / "low.safetensors")
    x = jnp.asarray(rng.normal(size=(2, 2, 2, POSITIONS, FEATURES)), jnp.bfloat16)
    ours = load_variant_probe(tmp_path / "low.safetensors")(x)
    theirs = reference(low, np.asarray(x))
    for a, b in zip(ours, theirs):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.long
def test_gradient_is_finite_without_any_difference(path):
    probe = load_variant_probe(path)
    x = jnp.ones((1, 2, 2, POSITIONS, FEATURES))
    assert np.isfinite(jax.grad(lambda v: probe(v)[1].sum())(x)).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("proj_right_bwd.bias", None, "tensor proj_right_bwd.bias is missing"),
        ("head_left.weight", None, "tensor head_left.weight is missing"),
        ("proj_right_fwd.weight", np.ones((HIDDEN, 3), np.float32), r"proj_right_fwd.weight has shape \(5, 3\)"),
        ("proj_left_fwd.weight", np.ones(3, np.float32), "proj_left_fwd.weight has shape"),
        ("out.weight", np.ones((3, UNITS), np.float32), r"out.weight has shape \(3, 7\), expected \(2, 7\)"),
        ("out.bias", np.ones(2, np.int32), "out.bias is int32"),
        ("out.bias", np.array([1, np.nan], np.float32), "out.bias holds 1 NaN"),
        ("extra.weight", np.ones(2, np.float32), "unexpected tensor extra.weight"),
    ],
)
def test_bad_files_are_named(tensors, tmp_path, name, value, message):
    changed = {k: v for k, v in (tensors | {name: value}).items() if v is not None}
    save_file(changed, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match=message):
        load_variant_probe(tmp_path / "bad.safetensors")


def test_bad_paths_and_inputs_are_named(path, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_variant_probe(tmp_path / "none")
    (tmp_path / "text").write_text("not tensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_variant_probe(tmp_path / "text")
    probe = load_variant_probe(path)
    with pytest.raises(InputError, match=r"got \(2, 2, 9, 12\)"):
        probe(np.zeros((2, 2, 9, 12), np.float32))
    with pytest.raises(InputError, match="12 features"):
        probe(np.zeros((1, 2, 2, 9, 11), np.float32))
    with pytest.raises(TypeError, match="int32"):
        probe(np.zeros((1, 2, 2, 9, 12), np.int32))
