"""Everything that covjax compiles lowers for CPU, CUDA and TPU, with no such device: `jax.export`, nothing compiled.

A new pooler, autoencoder or `jax.jit` at module level is met without a change here; a new public function must be
entered in `lowering_examples`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import covjax
from covjax import autoencoders, get_pooler
from covjax.autoencoders import autoencoder_kinds
from covjax.autoencoders import base as registry
from covjax.autoencoders.sparse.module import geometric_median
from covjax.encoders import layers
from covjax.gram import _embedding
from covjax.pooling import FunctionPooler, base, pooler_names
from covjax.probes import BilinearReadout, Budget, fit_logistic_stream, fit_token_probe
from tests import lowering_examples as examples

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.fixture(autouse=True)
def no_look_at_the_host(monkeypatch):
    """What is lowered here is for other machines: nothing may ask what this one has."""

    def refuse(*_):
        raise AssertionError("the host's devices were asked for while lowering")

    for name in ("default_backend", "devices", "device_count", "local_devices"):
        monkeypatch.setattr(jax, name, refuse)
    # cuDNN's attention is lowered on NVIDIA's machines alone.
    monkeypatch.setattr(layers, "_has_fused", lambda q: False)


def lower(function, arguments):
    """The exported module of a function, jitted if it is not."""
    jitted = function if hasattr(function, "trace") else jax.jit(function)
    exported = jax.export.export(jitted, platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    return exported


def lower_all(calls):
    for function, arguments in calls:
        lower(function, arguments)


def public_names():
    return set(covjax.__all__) | set(autoencoders.__all__)


def test_every_public_name_is_lowered_or_on_the_host():
    assert public_names() == set(examples.PUBLIC) | examples.HOST


@pytest.mark.parametrize("name", examples.PUBLIC)
def test_public_functions(name):
    lower_all(examples.PUBLIC[name])


@pytest.mark.parametrize("name", pooler_names())
def test_poolers(name):
    lower_all(examples.pooler_case(name))


def test_log_of_few_tokens():
    lower_all(examples.thin_log_case())


@pytest.mark.parametrize("kind", autoencoder_kinds())
def test_training_step_and_evaluation_of_autoencoders(kind):
    lower_all(examples.autoencoder_case(kind))


@pytest.mark.long
def test_encoders_and_compiled_functions(tmp_path, rng):
    """Every `jax.jit` at module level, of which the encoders' come with their models."""
    missing = examples.compiled_functions()
    for encoder, sequence in examples.encoder_cases(tmp_path, rng).values():
        for function, arguments in examples.encoder_case(encoder, sequence):
            lower(function, arguments)
            missing = {name: other for name, other in missing.items() if other is not function}
    for name, arguments in examples.COMPILED.items():
        with jax.enable_x64("solver" in name):  # the exact solver is in float64
            lower(missing.pop(name), arguments)
    mesh = jax.sharding.AbstractMesh((2,), ("tokens",), (jax.sharding.AxisType.Auto,))
    for name, arguments in examples.SHARDED.items():
        lower(functools.partial(missing.pop(name), mesh=mesh, axis="tokens"), arguments)
    settings, arguments = examples.pool_batch_case()
    lower(functools.partial(missing.pop("embedding.passes._pool_batch"), **settings), arguments)
    assert not missing


@pytest.mark.parametrize("kernel", ["second_moment", "covariance", "rbf"])
def test_kernels(kernel):
    embed = _embedding(kernel, examples.D, 1.0, 8, examples.KEY)
    lower(embed, [examples.BATCH, examples.WEIGHTS])


def test_what_has_no_registry():
    readout = jax.vmap(BilinearReadout(examples.D, 3, units=4))
    lower_all([(readout, [examples.BATCH, examples.WEIGHTS]), (geometric_median, [examples.X])])


@pytest.fixture
def recorded(monkeypatch):
    """`jax.jit` makes functions that are lowered for all platforms at their first call, then run as ever."""
    names, compile = [], jax.jit

    def jit(function, **options):
        compiled = compile(function, **options)

        def call(*arguments):
            if function.__name__ not in names:
                lower(compiled, arguments)
                names.append(function.__name__)
            return compiled(*arguments)

        return call

    monkeypatch.setattr(jax, "jit", jit)
    return names


def test_the_steps_of_probes_trained_in_batches(monkeypatch, rng, recorded):
    x, truth = rng.normal(size=(8, examples.D)).astype(np.float32), np.eye(2, dtype=bool)[[0, 1] * 4]
    budget = Budget(steps=2, learning_rate=1e-2, evaluate_every=2)
    fit_logistic_stream(lambda: [(x, truth)], lambda: [(x, truth)], (1e-2,), True, budget)
    assert recorded == ["step", "held_out"]
    recorded.clear()
    tokens = rng.normal(size=(8, 5, examples.D)).astype(np.float32), np.ones((8, 5), np.float32)
    walk = lambda _: [(np.arange(8), *tokens)]
    pool = get_pooler("projected", features=examples.D, rank=2)
    fit_token_probe(pool, walk, truth, np.arange(6), np.arange(6, 8), "multiclass", (1e-2,), budget)
    assert "step" in recorded
    assert len(recorded) >= 3


def test_a_new_kind_is_met_and_one_that_lacks_a_platform_is_caught(monkeypatch):
    def no_tpu(x, w):
        return jax.lax.platform_dependent(w @ x, cpu=jnp.sin, cuda=jnp.cos)

    monkeypatch.setattr(base, "_FACTORIES", {**base._FACTORIES, "new": lambda: FunctionPooler("new", no_tpu)})
    assert "new" in pooler_names()
    with pytest.raises(NotImplementedError, match="tpu"):
        lower_all(examples.pooler_case("new"))
    monkeypatch.setattr(registry, "_FACTORIES", {"other": autoencoders.TuckerAutoencoder})
    assert autoencoder_kinds() == ("other",)
    lower_all(examples.autoencoder_case("other"))


def test_a_batch_of_eigenproblems_is_a_loop_on_a_cpu_alone():
    """Whatever machine lowers it; see `covjax.spectral`."""
    roots = jax.jit(jax.vmap(covjax.psd_sqrt)).trace(jax.ShapeDtypeStruct((3, 8, 8), jnp.float32))
    loops = {
        name: roots.lower(lowering_platforms=(name,)).as_text().count("stablehlo.while") for name in ("cpu", "cuda")
    }
    assert loops["cpu"] == loops["cuda"] + 1
