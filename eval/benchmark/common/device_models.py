"""What the device benchmark checks and times beyond the core: all poolers, the encoders, functions of matrices."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from covjax import get_pooler, psd_log, psd_sqrt, spectral_products
from covjax.autoencoders import make_autoencoder
from covjax.encoders import embed, esm, layers, ntv3, tokenize
from covjax.encoders.weights import AskedTensors
from covjax.pooling import pooler_names, pooler_options
from covjax.spectral import by_eigh, by_products
from covjax.training.language import MaskedModel, initial_weights
from covjax.training.state import Step, TrainState, make_optimiser
from eval.benchmark.common.device_cases import PEAK, Case, Sizes, relative_error, wide
from eval.benchmark.encoders import proteins
from eval.tpu_compile import NTV3_650M

VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
ESM2 = {
    **{"model_type": "esm", "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "token_dropout": True},
    **{"position_embedding_type": "rotary", "layer_norm_eps": 1e-5, "max_position_embeddings": 1026},
    **{"emb_layer_norm_before": False, "hidden_act": "gelu"},
}


def poolers(sizes: Sizes, peer) -> Case:
    """Every registered pooler over a batch, on the device and on the host's processor in float64."""
    from tests import lowering_examples  # small options of every pooler stand there

    b, t, d = 3, 96, 40
    rng = np.random.default_rng(0)
    x = rng.normal(size=(b, t, d)).astype(np.float32)
    w = (np.arange(t) < np.array([[96], [70], [20]])).astype(np.float32)
    given = {"features": d, "basis": np.linalg.qr(rng.normal(size=(d, 3)))[0].astype(np.float32), "rank": 3}
    autoencoder = make_autoencoder("topk", d, latents=16, k=3)
    functions = {}
    for name in pooler_names():
        small = lowering_examples.small(pooler_options(name), autoencoder=autoencoder, **given)
        functions[name] = jax.vmap(get_pooler(name, **small))

    def pool(names, x, w):
        with jax.default_matmul_precision("highest"):
            return {name: functions[name](x, w) for name in names}

    results = jax.device_get(jax.jit(functools.partial(pool, pooler_names()))(x, w))
    seeded = [name for name in pooler_names() if "seed" in pooler_options(name)]  # in float64 they draw other numbers
    with _host():
        exact = jax.device_get(jax.jit(functools.partial(pool, seeded))(x, w))
        with jax.enable_x64(True):
            others = [name for name in pooler_names() if name not in seeded]
            exact |= jax.device_get(jax.jit(functools.partial(pool, others))(x.astype(float), w.astype(float)))
    errors = {name: relative_error(results[name], wide(exact[name])) for name in pooler_names()}
    worst = max(errors, key=lambda name: errors[name])
    return Case(
        f"all {len(errors)} poolers",
        f"{b} × {t} × {d}, masked",
        None,
        error=errors[worst],
        tolerance=3e-4,  # √ of what has fewer tokens than features, with a ridge of 1e-6
        note=f"worst: {worst}",
    )


def encoders(sizes: Sizes, peer) -> Case:
    """A small encoder of every family, all layers, on the device and on the host's processor."""
    from tests import lowering_examples

    def layers() -> dict[str, list[np.ndarray]]:
        states = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, (encoder, sequence) in lowering_examples.encoder_cases(
                Path(folder), np.random.default_rng(0)
            ).items():
                tokens, mask, _ = tokenize(encoder, [sequence, sequence[:3]])
                with jax.default_matmul_precision("highest"):
                    found = encoder.apply(tokens, mask, tuple(range(encoder.num_layers)))
                states[name] = [np.asarray(found[i]) for i in range(encoder.num_layers)]
        return states

    results = layers()
    with _host():
        exact = layers()
    # ESM's is in bfloat16 there: its error counts a hundredth, which is what its rounding is to that of float32 here
    errors = {
        name: max(
            relative_error(a, wide(b)) * (0.01 if a.dtype == jnp.bfloat16 else 1) for a, b in zip(results[name], states)
        )
        for name, states in exact.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    return Case(
        f"encoders of {len(errors)} families",
        "small, all layers",
        None,
        error=errors[worst],
        tolerance=2e-4,
        note=f"worst: {worst}",
    )


def _host():
    """Computation on the host's processor."""
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def attention(sizes: Sizes, peer) -> Case:
    """Attention of one batch of ESM-2 with padding, as the encoders take it and as they would without cuDNN."""
    _, width, heads, _ = sizes.encoder
    b, t = max(2, sizes.token_budget // sizes.short), sizes.short
    q = jax.random.normal(jax.random.key(0), (b, t, heads, width // heads), jnp.bfloat16)
    seen = jnp.arange(t)[None, None] < jnp.linspace(t / 4, t, b)[:, None, None]

    def attend(q):
        return layers.attention(q, q, q, seen)

    def attend_without(q):  # another function: JAX remembers what it traced
        return attend(q)

    few = wide(q[0])
    scores = np.einsum("qhc,khc->hqk", few, few) / few.shape[-1] ** 0.5
    shares = np.exp(scores - scores.max(-1, keepdims=True)) * np.asarray(seen[0])
    exact = np.einsum("hqk,khc->qhc", shares / shares.sum(-1, keepdims=True), few).reshape(t, -1)
    with mock.patch.object(layers, "_has_fused", return_value=False):
        without = jax.jit(attend_without).lower(q).compile()
        slope_without = jax.jit(jax.grad(lambda q: attend_without(q).astype(jnp.float32).var())).lower(q).compile()
    run = functools.partial(jax.jit(attend), q)
    slope = jax.jit(jax.grad(lambda q: attend(q).astype(jnp.float32).var()))
    return Case(
        "attention",
        f"{b} × {t} tokens, {heads} heads of {width // heads}, bfloat16",
        run,
        error=max(relative_error(run()[0], exact), relative_error(slope(q), wide(slope_without(q)))),
        tolerance=2e-2,
        forms={"without cuDNN": functools.partial(without, q)},
    )


def spectral(kind: str, number: int, sizes: Sizes, peer) -> Case:
    """log or √ of a batch of covariances as the poolers take it, against `eigh` in PyTorch."""
    count, d = sizes.matrices[number]
    x = jax.random.normal(jax.random.key(0), (count, 2 * d, d)) * jnp.logspace(0, -1.5, d)
    a = jnp.einsum("nti,ntj->nij", x, x, precision="highest") / (2 * d)
    floor = 0.01 if kind == "log" else 1e-3
    one = functools.partial(psd_log, eps=floor) if kind == "log" else functools.partial(psd_sqrt, ridge=floor)
    function = jax.jit(jax.vmap(one))
    s, v = np.linalg.eigh(wide(a[:2]))
    values = getattr(np, kind)(np.maximum(s, 0) + floor)
    exact, note = np.einsum("nij,nj,nkj->nik", v, values, v), ""
    ways = {"our eigh": by_eigh, "our products": by_products}
    forms = {
        name: functools.partial(jax.jit(jax.vmap(lambda a, way=way: way(a, kind, floor, 0.5))), a)
        for name, way in ways.items()
    }
    if jax.default_backend() == "gpu":  # would products of three TF32 parts do?
        with mock.patch.object(spectral_products, "HIGHEST", jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3):
            third = jax.jit(jax.vmap(lambda a: by_products(a, kind, floor, 0.5)))
            forms["3 × TF32"] = functools.partial(third.lower(a).compile(), a)
        note = f"error of 3 × TF32: {relative_error(forms['3 × TF32']()[:2], exact):.0e}"
    return Case(
        f"{kind} of {d} × {d}",
        f"{count} matrices, float32",
        functools.partial(function, a),
        error=relative_error(function(a)[:2], exact),
        tolerance=1e-4,
        items=(count, "matrices"),
        forms=forms,
        peers={} if peer is None else {"eager": peer.spectral(kind, a, floor)},
        note=note,
    )


@functools.lru_cache(1)
def _esm2(shape: tuple[int, ...]) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
    """An ESM-2, its weights and its config."""
    config = _esm2_config(shape)
    return *random_encoder(esm, "Esm", config), config


def _esm2_config(shape: tuple[int, ...]) -> dict[str, Any]:
    """Of blocks, width, heads and width inside the MLP."""
    blocks, width, heads, inner = shape
    config = ESM2 | {"num_hidden_layers": blocks, "hidden_size": width}
    return config | {"num_attention_heads": heads, "intermediate_size": inner}


def random_encoder(module: Any, family: str, config: dict[str, Any]) -> tuple[Any, dict[str, np.ndarray]]:
    """An encoder of a family in bfloat16 with random weights, and those weights by their name in a checkpoint.

    Weights are about 0.02 times normal numbers, around 1 for the scale of a layer norm.
    """
    rng, dtype = np.random.default_rng(0), jnp.dtype("bfloat16")
    stock = rng.standard_normal(1 << 22, np.float32)
    weights: dict[str, np.ndarray] = {}

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        part = np.roll(stock, int(rng.integers(len(stock))))
        is_scale = name.lower().endswith(("norm.weight", "layer_norm_after.weight"))
        array = 0.02 * np.resize(part[: min(len(part), int(np.prod(shape)))], shape) + is_scale
        weights[name] = array.astype(dtype)
        return weights[name]

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        Path(folder, "vocab.txt").write_text("\n".join(VOCABULARY))
        tensors = AskedTensors(draw, dtype, heads=False)
        encoder = getattr(module, family)(family, Path(folder), dtype, tensors)
    return encoder, weights


def esm2(long: bool, sizes: Sizes, peer) -> Case:
    """ESM-2 650M's shape over ragged proteins, alone and with pooling behind it, against transformers with SDPA."""
    encoder, weights, config = _esm2(sizes.encoder)
    row = sizes.long if long else sizes.short
    sequences = [each[: row - 2] for each in proteins(sizes.proteins)]
    if long:  # each nearly fills a row: what is pooled has more tokens than features
        joined = "".join(proteins(sizes.proteins))
        step = row - 2
        sequences = [joined[i : i + step] for i in range(0, len(joined) - step, step)][: max(1, sizes.proteins // 12)]
    encoded = [encoder.encode(sequence) for sequence in sequences]
    segments = 1 if long else 2

    def run(pool: Callable | None = None) -> list:
        batches = embed(encoder, sequences, (-1,), sizes.token_budget, edges=(row,), max_segments=segments)
        return [states[-1] if pool is None else pool(states[-1], mask) for _, states, mask in batches]

    forms = {}
    for label, name in {"mean": "mean", "Σ": "covariance", "log Σ": "log_covariance"}.items():
        pool = jax.jit(jax.vmap(get_pooler(name)))
        forms[f"with {label}"] = functools.partial(run, lambda x, mask, pool=pool: pool(x, mask.astype(np.float32)))
    error, peers = None, {}
    if peer is not None:
        model = peer.esm(config, weights)
        batch = encoder.pad(encoded[:2], max(map(len, encoded[:2])))
        seen = batch[1]
        error = relative_error(
            np.asarray(encoder.apply(batch[0], seen, (-1,))[-1])[seen], wide(model.states(batch[0], seen)[seen])
        )
        by_length = sorted(encoded, key=len)
        peers["SDPA, sorted by length"] = functools.partial(model.run, by_length, sizes.token_budget)
        peers["SDPA, batches of 16"] = functools.partial(model.run, encoded, None)
    total = sum(map(len, encoded))
    return Case(
        f"ESM-2 650M, t ≤ {row}" if sizes.encoder[0] == 33 else f"ESM-2 small, t ≤ {row}",
        f"{len(sequences)} proteins, {total:,} tokens, rows of {row}, bfloat16",
        run,
        error=error,
        tolerance=5e-2,
        products=2 * total * sum(array.size for name, array in weights.items() if array.ndim == 2),
        bound=PEAK,
        items=(total, "tokens"),
        forms=forms,
        peers=peers,
    )


def masked_training(sizes: Sizes, peer) -> Case:
    """Steps of `covjax train encoder --kind esm` in bfloat16, ESM-2 150M's shape, full rows."""
    blocks, width, *_ = sizes.trained
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(_esm2_config(sizes.trained)))
        Path(folder, "vocab.txt").write_text("\n".join(VOCABULARY))
        encoder = esm.Esm("Esm", Path(folder), np.float32, AskedTensors(initial_weights(0), np.float32))
    model = MaskedModel(encoder, "bfloat16")
    rng = np.random.default_rng(0)
    true = rng.integers(4, 24, (sizes.rows, sizes.short))
    asked = rng.random(true.shape) < 0.15
    rows = np.stack([np.where(asked, 32, true), true, np.zeros_like(true), np.ones_like(true)], 1)
    x, weights = jnp.asarray(rows, jnp.int32), jnp.asarray(asked, jnp.float32)
    few = (x[:2, :, :64], weights[:2, :64])
    loss = nnx.jit(lambda model, x, w: model.loss(x, w)[0])
    nats = loss(model, *few)
    with _host(), jax.default_matmul_precision("highest"):
        host = nnx.clone(model)
        host.dtype = jnp.dtype("float32")
        nnx.update(host, jax.device_put(nnx.state(host), jax.local_devices(backend="cpu")[0]))
        exact = wide(loss(host, *jax.device_get(few)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)) if leaf.ndim == 2)
    graph, state = nnx.split(TrainState(model, make_optimiser(1000, 1e-4, 10, 0.9, clip=1.0, weight_decay=0.01)))
    current, step = [state], Step(graph, None)

    def run():
        current[0], metrics = step(current[0], x, weights)
        return metrics["loss"]

    return Case(
        "train encoder",
        f"ESM-2 of {blocks} blocks, width {width}; {sizes.rows} × {sizes.short} tokens, bfloat16",
        run,
        error=relative_error(nats, exact),
        tolerance=1e-2,
        products=6 * true.size * parameters,
        bound=PEAK,
        items=(true.size, "tokens"),
    )


def ntv3_window(sizes: Sizes, peer) -> Case:
    """NTv3-650M's shape on one window, the last layer."""
    config = NTV3_650M if sizes.encoder[0] == 33 else NTV3_650M | {"conv_init_embed_dim": 16, "embed_dim": 32}
    if sizes.encoder[0] != 33:
        config |= {"ffn_embed_dim": 64, "num_layers": 1, "attention_heads": 2, "key_size": 16}
    encoder, weights = random_encoder(ntv3, "NTv3", config)
    tokens, mask, _ = tokenize(encoder, ["ACGT" * (sizes.bases // 4)])
    apply = functools.partial(ntv3._apply, *nnx.split(encoder), jnp.asarray(tokens), jnp.asarray(mask), (2,))
    return Case(
        "NTv3-650M" if config is NTV3_650M else "NTv3 small",
        f"one window of {sizes.bases:,} bases, bfloat16",
        apply,
        error=None,
        tolerance=0,
        items=(sizes.bases, "bases"),
        note=f"{sum(array.size for array in weights.values()) / 1e6:.0f} million parameters",
    )
