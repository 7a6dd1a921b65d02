"""What `test_lowering` lowers: every public function and every compiled one of covjax, with small shapes.

Cases are functions without arguments that return (function, arguments); a function already jitted brings its static
arguments among them.
"""

import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import covjax
from covjax import autoencoders as ae
from covjax.autoencoders import make_autoencoder
from covjax.autoencoders.base import autoencoder_options
from covjax.autoencoders.sparse.module import Sums
from covjax.embedding import passes
from covjax.embedding.pools import FittedPool
from covjax.encoders import heads, load, tokenize
from covjax.encoders.heads import LanguageModel
from covjax.encoders.speaker import SpeakerLSTM
from covjax.encoders.unirep import UniRep
from covjax.pooling.base import get_pooler, pooler_options
from covjax.recipes.base import CONTROL, Pooled
from covjax.training.state import Step, TrainState, make_evaluation, make_optimiser
from tests import test_ntv3, test_nucleotide_transformer, test_speaker, test_spliceai, test_unirep
from tests.encoders.folders import write_bert

B, T, D, R = 3, 8, 6, 2
KEY = jax.random.key(0)


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


X, LOW, W, S = shape(T, D), shape(T, D, dtype=jnp.bfloat16), shape(T), shape(D, D)
SIDE, BATCH, WEIGHTS, BLOCKS = shape(D, R), shape(B, T, D), shape(B, T), shape(4, dtype=jnp.int32)
MOMENTS = covjax.Moments(shape(), shape(D), S)


def gradient(function):
    """The derivative of a sum over all that `function` returns, by its first argument."""
    return jax.grad(lambda *arguments: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(function(*arguments))))


def over_members(function):
    """Mapped over an axis named "members"."""
    return jax.vmap(functools.partial(function, axis_name="members"), axis_name="members")


def packed(function, *arguments):
    return lambda x, segments, *rest: function(x, segments, 3, *rest, *arguments)


LEDOIT_WOLF = lambda s, x, w: covjax.shrink(s, x=x, weights=w)
OAS = lambda s: covjax.shrink(s, "oas", count=9.0)
SEQUENCE_CENTRE = functools.partial(covjax.projected_moment, center="sequence")
CHUNKED = functools.partial(covjax.chunked_projected_moment, center="sequence", chunk_size=3)
WIDER = shape(B, 40, 40)  # from 33 on other devices than a CPU take products
SPECTRAL = {
    "psd_sqrt": [covjax.psd_sqrt, lambda s: covjax.psd_sqrt(s, 1e-3)],
    "psd_log": [lambda s: covjax.psd_log(s, 0.1)],
    "psd_power": [lambda s: covjax.psd_power(s, 0.3)],
    "newton_schulz_sqrt": [lambda s: covjax.newton_schulz_sqrt(s, ridge=1e-3)],
    "spectral_compression": [lambda s: covjax.spectral_compression(s, 3, 1e-3)],
}
SKETCHES = ("random_projection", "random_maclaurin", "tensor_sketch")

# Name in `covjax` or `covjax.autoencoders`: calls, each (function, arguments).
PUBLIC = {
    "Moments": [(lambda m: (m.second_moment(), m.covariance(1), m.correlation()), [MOMENTS])],
    "moments": [(covjax.moments, [X, W]), (covjax.moments, [LOW, W]), (gradient(covjax.moments), [X, W])],
    "merge": [(covjax.merge, [MOMENTS, MOMENTS])],
    "psum_merge": [(over_members(covjax.psum_merge), [jax.tree.map(lambda s: shape(B, *s.shape), MOMENTS)])],
    "second_moment": [(covjax.second_moment, [X, W]), (covjax.second_moment, [LOW])],
    "projected_moment": [
        (covjax.projected_moment, [X, SIDE, None, W]),
        (covjax.projected_moment, [LOW, SIDE, SIDE, W]),
        (gradient(SEQUENCE_CENTRE), [X, SIDE, SIDE, W]),
        (jax.vmap(SEQUENCE_CENTRE, (0, None, None, 0)), [BATCH, SIDE, SIDE, WEIGHTS]),
    ],
    "chunked_projected_moment": [(CHUNKED, [X, SIDE, SIDE, W]), (CHUNKED, [LOW, SIDE, None, W])],
    "packed_moments": [(packed(covjax.packed_moments), [X, BLOCKS, W])],
    "packed_projected_moment": [
        (packed(covjax.packed_projected_moment), [X, BLOCKS, SIDE, SIDE, W]),
        (packed(functools.partial(covjax.packed_projected_moment, center="sequence")), [LOW, BLOCKS, SIDE]),
    ],
    **{
        name: [(f(function), [S]) for function in functions for f in (jax.jit, gradient)]
        + [(jax.vmap(functions[-1]), [shape(B, D, D)]), (gradient(jax.vmap(functions[-1])), [WIDER])]
        for name, functions in SPECTRAL.items()
    },
    "second_order_collapse": [
        (covjax.second_order_collapse, [X, X, W, W]),
        (covjax.second_order_collapse, [shape(3, D), X]),
    ],
    "shrink": [(covjax.shrink, [S, shape()]), (OAS, [S]), (LEDOIT_WOLF, [S, X, W]), (gradient(OAS), [S])],
    **{name: [(functools.partial(getattr(covjax, name), size=4, key=KEY), [X])] for name in SKETCHES},
    "shuffle_features": [(lambda x, w: covjax.shuffle_features(x, w, KEY), [X, W])],
    "vech": [(covjax.vech, [S])],
    "unvech": [(covjax.unvech, [shape(D * (D + 1) // 2)])],
    "augmented_moment": [(covjax.augmented_moment, [MOMENTS])],
    "tucker_loss": [(gradient(lambda sides, x, w: ae.tucker_loss(x, *sides, w)), [(SIDE, SIDE), X, W])],
    "cp_loss": [(gradient(lambda side, x, w: ae.cp_loss(x, side, None, w)), [SIDE, LOW, W])],
    "cp_latents": [(ae.cp_latents, [X, SIDE, SIDE, W])],
    "moment_norm": [(ae.moment_norm, [X, W]), (functools.partial(ae.moment_norm, center="sequence"), [shape(4, D)])],
    "fvu": [(ae.fvu, [shape(B), shape(B)])],
}

# Public names with nothing of their own to lower: they run on the host, or hold, make, read and write other things.
HOST = {"InputError", "Pooler", "get_pooler", "pooler_names", "pack_blocks", "streaming_moments", "gram"}
HOST |= {"Solution", "autoencoder_kinds", "autoencoder_options", "make_autoencoder", "register_autoencoder"}
HOST |= {
    "load",
    "load_autoencoder",
    "save_autoencoder",
    "load_saelens",
    "save_dictionary_learning",
    "save_saelens",
    "evaluate_fvu",
    "pca_basis",
    "solve_tucker",
}
HOST |= {
    "Embedder",
    "compare",
    "explain",
    "dashboard",
    "absorption_fraction",
    "covariance_fvu",
    "recipe_names",
    "load_saelens",
    "save_saelens",
}
HOST |= {"CPAutoencoder", "TuckerAutoencoder"}  # in the registry


# Values for the options of poolers and autoencoders, by the option's name: a new kind needs no line here unless it has
# an option of a new name without a default.
def small(options, **given):
    """Small values for those options, by name; prefixes of a rank end at the rank."""
    d = given.get("features", D)
    values = {"features": d, "latents": 16, "k": 3, "rank": 3, "prefixes": (4, 16), "aux_k": 3, "size": 8, "heads": 2}
    values |= {"kernel_size": 3, "basis": np.eye(d, 3, dtype=np.float32), "pairs": np.array([[0, 0], [1, 3]])}
    values |= {"parts": ["mean", "sqrt_covariance"], "units": 4, "bandwidth": 2.0, "frequencies": 4}
    values |= {"centres": np.ones((3, d)), "shares": np.ones(3), "means": np.ones((3, d)), "variances": np.ones((3, d))}
    values |= {"whitening": np.eye(d, 3)} | ({"center": np.ones(d)} if "whitening" in options else {})  # else a word
    values = {name: value for name, value in (values | given).items() if name in options}
    return values | ({"prefixes": (1, 3)} if {"prefixes", "rank"} <= set(values) else {})


def pooler_case(name):
    """A registered pooler over a batch, and its derivative by the tokens."""
    options = pooler_options(name)
    given = {"autoencoder": make_autoencoder("topk", D, **small(autoencoder_options("topk")))}
    pool = jax.vmap(covjax.get_pooler(name, **small(options, **given)))
    return [(pool, [BATCH, WEIGHTS]), (gradient(pool), [BATCH, WEIGHTS])]


def thin_log_case():
    """Fewer tokens than features, and enough of them for products."""
    return [(jax.vmap(covjax.get_pooler("log_covariance")), [shape(B, 40, 60), shape(B, 40)])]


def autoencoder_case(kind):
    """The training step, as the training loop compiles it, and the evaluation of a registered autoencoder."""
    model = make_autoencoder(kind, D, **small(autoencoder_options(kind)))
    graph, state = nnx.split(TrainState(model, make_optimiser(10, 1e-3, 2, 0.2, 1.0)))
    batch = [BATCH, WEIGHTS] if model.examples == "sequences" else [X, W]
    return [(f, [state, *batch]) for f in (Step(graph, None)._step, make_evaluation(graph))]


def encoder_cases(folder, rng):
    """A small encoder of every family with a sequence it reads."""
    for name in ("bert", "esm", "ntv3"):
        (folder / name).mkdir()
    write_bert(folder / "bert", rng)
    test_nucleotide_transformer.write_folder(folder / "esm", rng, head=True)
    test_ntv3.write(folder / "ntv3", rng)
    splice = test_spliceai.write_torch(folder / "s.pt", test_spliceai.random_weights(rng, 1))
    return {
        "bert": (load(str(folder / "bert")), "ACDEF"),
        "esm": (load(str(folder / "esm"), "bfloat16"), "ACGTACGG"),
        "ntv3": (load(str(folder / "ntv3")), "ACGTACGG"),
        "spliceai": (load(splice), "ACGTACGG"),
        "unirep": (UniRep(test_unirep.random_weights()), "ACDEF"),
    }


def encoder_case(encoder, sequence):
    """The function that `apply` compiles, with all layers."""
    tokens, mask, _ = tokenize(encoder, [sequence, sequence[:3]])
    module = importlib.import_module(type(encoder).__module__)
    apply = getattr(module, "_apply", None) or importlib.import_module("covjax.encoders.transformer")._apply
    split = nnx.split(encoder)
    calls = [(apply, [*split, tokens, mask, tuple(range(encoder.num_layers))])]
    if isinstance(encoder, UniRep) or (isinstance(encoder, LanguageModel) and encoder.has_head):
        logits = getattr(module, "_logits", None) or heads._logits
        calls.append((logits, [*split, encoder.apply(tokens, mask, (0,))[0], mask, 0]))
    return calls + ([(module._scores, [*split, tokens, mask])] if hasattr(module, "_scores") else [])


def compiled_functions():
    """Everything at module level in covjax that `jax.jit` made: "module.name" → function."""
    kind, found = type(jax.jit(lambda: 0)), {}
    for module in pkgutil.walk_packages(covjax.__path__, "covjax."):
        if module.name == "covjax.pooling.sentence":  # needs sentence-transformers, and compiles nothing
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, kind) and value.__module__ == module.name:
                found[f"{module.name.removeprefix('covjax.')}.{name}"] = value
    return found


WIDE, WIDE_BATCH = shape(B, T, dtype=jnp.float64), shape(B, T, D, dtype=jnp.float64)
CUSTOM = jax.tree_util.Partial(lambda table, tokens, mask: table[tokens] * mask[:, None], np.ones((5, D), np.float32))
MEL = shape(64, 40)  # frames and bands
# Arguments of the functions of `compiled_functions` over a mesh axis "tokens", which divides T.
SHARDED = {
    "sharding.sharded_moments": [X, W],
    "sharding.sharded_projected_moment": [X, SIDE, None, W],
}
# Those of the others; those of encoders come from `encoder_case`.
COMPILED = {
    "activations.tokens._batch_statistics": [BATCH, WEIGHTS],
    "embedding.passes._keys": [KEY, shape(B, dtype=jnp.int32)],
    "embedding.kernels._products": [shape(B, D, R, dtype=jnp.int16), shape(B, D, R, dtype=jnp.int16), shape(B, R)],
    "encoders.speaker._states": [*nnx.split(SpeakerLSTM(test_speaker.random_weights(np.random.default_rng(0)))), MEL],
    "explanation.contributions._function_of": [S, "sqrt", 1e-6],
    "explanation.contributions._derivative_of": [S, shape(B, D, D), "log", 0.01],
    "extraction.shard._finite": [{0: BATCH}, shape(B, T, dtype=bool)],
    "moments._update": [MOMENTS, X, W],
    "moments._sum": [LOW, W],
    "moments._masked_transpose": [LOW, W, shape(T, dtype=bool), 0, 4],
    "moments._product": [shape(D, T, dtype=jnp.bfloat16), LOW],
    "tokens._largest_there": [X, shape(T, dtype=bool)],
    "gram._inner": [shape(B, 21), shape(B, 21)],
    "gram._polynomial": [(BATCH, WEIGHTS), (BATCH, WEIGHTS), 2],
    "autoencoders.sparse.module._figures": [Sums(shape(), shape(), shape(D), shape(), shape(9))],
    "autoencoders.solver._loss_and_norm": ["tucker", True, BATCH, WEIGHTS, SIDE, None, None],
    "autoencoders.solver._scaled": [WIDE_BATCH, WIDE, None, True],
    "autoencoders.solver._mean_moment": [WIDE_BATCH],
    "autoencoders.solver._part": [WIDE_BATCH, shape(D, R, dtype=jnp.float64)],
    "autoencoders.solver._each_moment": [WIDE_BATCH],
    "autoencoders.solver._part_of_moments": [shape(B, D, D, dtype=jnp.float64), shape(D, R, dtype=jnp.float64)],
    "autoencoders.solver._squared_norms": [WIDE_BATCH],
    "frechet._frechet": [shape(B, D, D), S, 1e-4, 9],
    "probes.logistic._path": [
        *(X, shape(T, 3), shape(T, 3), shape(3), shape(D), shape(2), shape()),
        *("multilabel", 1e-4, 9),
    ],
    "probes.ridge_blocks._inner": [X, X],
    "probes.ridge_blocks._project": [X, shape(T, 3), shape(D)],
    "encoders.custom._apply": [CUSTOM, shape(B, T, dtype=jnp.int32), shape(B, T, dtype=bool)],
    "encoders.embed._merge_batch": [MOMENTS, BATCH, WEIGHTS],
}


def pool_batch_case():
    """The settings and the arguments of the program that pools a batch, with a shuffled pool and one of parameters."""
    recipe = Pooled(name="covariance", title="", role=CONTROL, pooler="covariance", shuffled=True)
    pools = {"covariance": FittedPool(recipe, get_pooler("covariance"))}
    recipe = Pooled(name="projected", title="", role=CONTROL, pooler="projected_covariance")
    basis = np.eye(D, R, dtype=np.float32)
    pools["projected"] = FittedPool(recipe, get_pooler("projected_covariance", basis=basis))
    structure, arrays = passes._divided(pools)
    keys = shape(B, 2, dtype=jnp.uint32)
    settings = {"structure": structure, "apply": FittedPool.__call__, "mesh": None}
    return settings, [arrays, (shape(D), shape(D)), BATCH, WEIGHTS, keys, shape(B, 1)]
