"""A small part of everything that computes, run by `test_flags` in a process of its own under one flag of JAX."""

import functools
import sys

import jax
import numpy as np

import covjax
from covjax import get_pooler, pooler_names
from covjax.autoencoders import make_autoencoder
from covjax.metrics import auroc, fmax, spearman
from covjax.notes import silence
from covjax.probes import (
    BilinearReadout,
    Budget,
    fit_logistic_path,
    fit_logistic_rows,
    fit_logistic_stream,
    fit_ridge_blocks,
    fit_ridge_path,
    fit_token_probe,
    kernel_space,
    row_space,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype(np.float32) + 2
WEIGHTS = (np.arange(12) > 2).astype(np.float32)
OPTIONS = {
    "hybrid": {"parts": ["mean", "covariance"]},
    "projected_covariance": {"basis": np.eye(4, 2, dtype=np.float32)},
    "attention": {"features": 4, "heads": 2},
    "light_attention": {"features": 4},
    "projected": {"features": 4, "rank": 2},
    "attention_covariance": {"features": 4, "rank": 2},
    "tensor_sketch": {"size": 8},
    "fisher_vector": {"shares": np.ones(2), "means": np.ones((2, 4)), "variances": np.ones((2, 4))},
    "vlad": {"centres": np.ones((2, 4))},
    "kernel_mean": {"bandwidth": 2.0},
    "tangent_space": {"whitening": np.eye(4)},
    "whitened_covariance": {"whitening": np.eye(4)},
    "whitened_mean": {"center": np.ones(4), "whitening": np.eye(4)},
    "random_maclaurin": {"size": 8},
    "random_projection": {"rank": 2},
}


def close(value, expected, tolerance=1e-3):
    np.testing.assert_allclose(np.asarray(value), expected, rtol=tolerance, atol=tolerance)


def check_moments():
    kept = X[WEIGHTS > 0].astype(np.float64)
    mean, covariance = kept.mean(0), np.cov(kept.T, bias=True)
    m = covjax.moments(X, WEIGHTS)
    close(m.covariance(), covariance)
    close(
        jax.jit(lambda x: covjax.merge(covjax.moments(x[:5]), covjax.moments(x[5:])).mean)(jax.device_put(X)), X.mean(0)
    )
    close(covjax.streaming_moments([X[3:8], X[8:]]).mean, mean)
    tokens, segments, weights = covjax.pack_blocks([X[3:], X[:5]], 4)
    close(covjax.packed_moments(tokens, segments, 2, weights).mean[0], mean)
    eye = np.eye(4, dtype=np.float32)
    close(covjax.packed_projected_moment(tokens, segments, 2, eye, weights=weights, center="sequence")[0], covariance)
    close(covjax.projected_moment(X, eye, weights=WEIGHTS, center="sequence"), covariance)
    close(covjax.chunked_projected_moment(X, eye, weights=WEIGHTS, center="sequence", chunk_size=5), covariance)
    close(covjax.second_moment(X, WEIGHTS), covariance + np.outer(mean, mean))
    close(covjax.unvech(covjax.vech(m.covariance())), covariance)
    close(covjax.augmented_moment(m)[-1, :-1], mean)
    s, v = np.linalg.eigh(covariance + 0.1 * eye)
    close(covjax.psd_sqrt(m.covariance(), 0.1), (v * np.sqrt(s)) @ v.T)
    close(covjax.psd_log(m.covariance(), 0.1), (v * np.log(s)) @ v.T)
    close(covjax.psd_power(m.covariance(), 0.3, 0.1), (v * s**0.3) @ v.T)
    close(covjax.newton_schulz_sqrt(m.covariance(), ridge=0.1)[0], (v * np.sqrt(s)) @ v.T)
    close(covjax.shrink(m.covariance(), "oas", count=9).trace(), covariance.trace())
    close(covjax.shrink(m.covariance(), x=X, weights=WEIGHTS).trace(), covariance.trace())
    for kernel in ("covariance", "rbf"):
        gram = covjax.gram([X, X[:5]], kernel=kernel, key=jax.random.key(0), num_features=32)
        assert np.isfinite(gram).all()
    shuffled = covjax.shuffle_features(X, WEIGHTS, jax.random.key(0))
    close(np.sort(np.asarray(shuffled)[3:], axis=0), np.sort(X[3:], axis=0))


def check_poolers():
    sae = make_autoencoder("topk", 4, latents=8, k=2)
    sparse = {"sae_mean": {}, "sae_max": {}, "sae_cooccurrence": {"pairs": np.array([[0, 0], [0, 1]])}}
    options = OPTIONS | {name: {"autoencoder": sae} | extra for name, extra in sparse.items()}
    poolers = {name: get_pooler(name, **options.get(name, {})) for name in pooler_names()}

    # One program for all of them: compiling one by one takes most of the time.
    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def slopes(x, w):
        pooled = {name: pooler(x, w) for name, pooler in poolers.items()}
        return sum((value**2).sum() for value in pooled.values()), pooled

    gradient, pooled = slopes(jax.device_put(X), jax.device_put(WEIGHTS))
    assert np.isfinite(np.asarray(gradient)).all()
    for name, value in pooled.items():
        assert np.isfinite(np.asarray(value)).all(), name
    close(pooled["covariance"], covjax.vech(np.cov(X[3:].T, bias=True)))
    close(poolers["covariance"](X, WEIGHTS), covjax.vech(np.cov(X[3:].T, bias=True)))
    batch = jax.device_put(np.stack([X, X]))
    close(jax.jit(jax.vmap(get_pooler("sqrt_covariance")))(batch)[1], get_pooler("sqrt_covariance")(X))
    assert np.isfinite(np.asarray(BilinearReadout(4, rank=2, units=3)(X))).all()


def check_probes():
    x = RNG.normal(size=(60, 5))
    labels, numbers = (x[:, :2] + RNG.normal(size=(60, 2)) > 0), x @ RNG.normal(size=(5, 2))
    missing = np.where(RNG.random((60, 2)) < 0.3, np.nan, labels)
    classes = np.eye(3, dtype=bool)[x[:, :3].argmax(1)]
    space = row_space(x)
    z = space.coordinates(x)
    close(fit_ridge_path(space, z, numbers, [1e-9])[0].scores(x), numbers)
    kernel = kernel_space(x @ x.T)
    close(fit_ridge_path(kernel, kernel.coordinates(x @ x.T), numbers, [1e-9])[0].scores(x @ x.T), numbers)
    for route in ("primal", "eigen", "cholesky"):
        blocks = fit_ridge_blocks(lambda a, b: x[a:b].astype(np.float32), numbers, [1e-6], route, 20)
        close(blocks[0].scores(x), numbers, 1e-2)
    path = fit_logistic_path(space, z, labels, [1e-1, 1e-3], False)
    assert max(path.gradient) < 1e-3
    assert auroc(labels, path.probes[0].scores(x)).min() > 0.7
    assert fmax(labels, 1 / (1 + np.exp(-path.probes[0].scores(x)))) > 0.5
    assert np.isfinite(fit_logistic_path(space, z, missing, [1e-1], False, missing="ignore").probes[0].weights).all()
    assert (
        fit_logistic_path(space, z, classes, [1e-1], True).probes[0].scores(x).argmax(1) == classes.argmax(1)
    ).mean() > 0.7
    mesh = jax.make_mesh((1,), ("rows",))
    rows = fit_logistic_rows(x, labels, [1e-1], False, mesh=mesh, axis="rows").probes[0]
    close(rows.scores(x), path.probes[0].scores(x), 1e-2)

    def stream():
        yield x[:30], labels[:30]
        yield x[30:], labels[30:]

    budget = Budget(steps=4, evaluate_every=2)
    assert np.isfinite(fit_logistic_stream(stream, stream, [1e-1], False, budget).validation).all()
    tokens = RNG.normal(size=(16, 6, 4)).astype(np.float32)

    def walk(_):
        yield np.arange(16), tokens, np.ones((16, 6), np.float32)

    targets = tokens.mean(1)[:, :1]
    pool = get_pooler("attention", features=4, heads=2)
    probe = fit_token_probe(pool, walk, targets, np.arange(10), np.arange(10, 16), "regression", [1e-2], budget)
    assert np.isfinite(spearman(targets, probe.scores(walk(None)))).all()


def check_autoencoders():
    tokens, batch = jax.device_put(np.tile(X, (4, 1))), np.stack([X, X[::-1]])
    for kind, options in {"topk": {"k": 3}, "jumprelu": {}}.items():
        step(make_autoencoder(kind, 4, latents=16, dead_after=1.0, aux_weight=0.1, **options), tokens, tokens)
    sequences = jax.device_put(batch)
    step(make_autoencoder("tucker", 4, rank=2, init="pca", center="sequence", standardise=True), sequences, sequences)


def check_embedder():
    sequences = [X, X[:5], X[2:], X[4:9]]
    for recipe in ("pca_sqrt_covariance_2", "tucker_covariance_2"):
        embedder = covjax.Embedder(recipe=recipe).fit(sequences)
        assert np.isfinite(embedder.transform(sequences)).all()


def step(model, x, initial):
    import optax
    from flax import nnx

    model.initialise([(initial, None)])
    optimiser = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def train(model, optimiser, x):
        (loss, _), gradients = nnx.value_and_grad(lambda model: model.loss(x), has_aux=True)(model)
        optimiser.update(model, model.project_gradients(gradients))
        model.after_step(x)
        return loss

    losses = [float(train(model, optimiser, x)) for _ in range(3)]  # the third with dead latents
    assert np.isfinite(losses).all()
    assert all(np.isfinite(value) for value in model.summarise(model.evaluate(x)).values())


PARTS = {
    "moments": check_moments,
    "poolers": check_poolers,
    "probes": check_probes,
    "autoencoders": check_autoencoders,
    "embedder": check_embedder,
}

if __name__ == "__main__":
    for part in sys.argv[1:]:
        with silence(True):
            PARTS[part]()
        print(part)
