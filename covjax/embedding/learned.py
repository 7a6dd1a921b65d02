"""What a recipe learns from training tokens: bases and sparse autoencoders without labels, poolers with them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from covjax.activations import ArrayTokens
from covjax.activations.tokens import Fit
from covjax.activations.windows import HeldActivations
from covjax.autoencoders import solve_tucker
from covjax.autoencoders.saved import agree_module
from covjax.autoencoders.sparse.cooccurrence import cooccurrence, frequent_pairs, stack
from covjax.data import Dataset
from covjax.embedding.references import TrainingTokens
from covjax.encoders.embed import shared_threads
from covjax.jobs.distributed import agree, is_first, wait
from covjax.jobs.memory import trim
from covjax.notes import note
from covjax.pooling import Pooler, get_pooler
from covjax.probes.end_to_end import TokenBatch, fit_token_probes
from covjax.probes.minibatch import Budget
from covjax.recipes.base import BASES, SparsePooled, Trained
from covjax.standardise import standardise
from covjax.training.autoencoder import train_autoencoder
from covjax.training.config import AutoencoderConfig

TOGETHER = 2**27  # bytes of the parameters that are trained at a time; training took 16 to 19 times as many
_standardise = jax.jit(standardise)  # one program a shape, where eager operations are one each


def make_bases(
    training: TrainingTokens, wanted: Sequence[tuple[str, int]], token_budget: int
) -> dict[tuple[str, int], Float[np.ndarray, "d _"]]:
    """Orthonormal columns for every (basis, rank), the same in all processes, which must call this together.

    pca: the leading eigenvectors of the mean covariance. tucker: the optimum of the tied Tucker autoencoder of the
    covariances that `covjax.autoencoders.solve_tucker` reaches from there; tokens must fit in memory. random: of a
    Gaussian.
    """
    features = training.tokens.features
    ranks = {kind: sorted({rank for basis, rank in wanted if basis == kind}) for kind in BASES}
    bases: dict[tuple[str, int], np.ndarray] = {}
    if ranks["pca"]:
        every = np.linalg.eigh(training.mean_covariance)[1][:, ::-1].astype(np.float32)
        bases |= {("pca", rank): every[:, :rank] for rank in ranks["pca"]}
    if ranks["tucker"]:
        found = _tucker(training.tokens, training.fit, training.train, ranks["tucker"], token_budget)
        bases |= {("tucker", rank): basis for rank, basis in zip(ranks["tucker"], found)}
    if ranks["random"]:
        gaussian = np.random.default_rng(training.seed).standard_normal((features, features))
        bases |= {("random", rank): np.linalg.qr(gaussian[:, :rank])[0].astype(np.float32) for rank in ranks["random"]}
    return agree(bases)  # an eigenvector's sign may depend on the machine


def _tucker(
    tokens: ArrayTokens, fit: Fit, train: np.ndarray, ranks: Sequence[int], token_budget: int
) -> list[np.ndarray]:
    batches: list[Any] = [
        (np.asarray(_standardise(batch.tokens, batch.weights, *fit)), batch.weights)
        for batch in tokens.mixed(train, token_budget)
    ]
    bases = []
    for rank in ranks:
        # One start, PCA, and a loose tolerance: a few passes. Whether other starts end higher is the business of
        # `eval.benchmark autoencoder_quality`.
        found = solve_tucker(batches, rank, center="sequence", starts=1, tolerance=1e-3, max_iterations=100)
        note(f"Tucker basis, rank {rank}: FVU {found.fvu:.4f} after {len(found.objectives[0]) - 1} passes")
        bases.append(found.basis.astype(np.float32))
    return bases


def train_pools(
    data: Dataset,
    tokens: ArrayTokens,
    recipes: Sequence[Trained],
    fit: Fit,
    basis: np.ndarray | None,
    seed: int,
    folder: Path,
) -> list[nnx.Module]:
    """The trained pools of recipes that differ in their seed only.

    Pool and linear readout are trained with AdamW, the same number of steps of the same batches for every pool; the
    validation loss chooses step, learning rate and weight decay, of which the grid is the same too. Seeds are trained
    beside each other, of wide tokens group after group. A killed fit goes on from its checkpoint in `folder`. In a
    job of several processes, which call this together, process 0 trains.
    """
    first, training = recipes[0], dict(recipes[0].training)
    train, validation = data.rows("train"), data.rows("validation")
    width, options, steps = first.width or tokens.features, dict(first.options), training["steps"]
    pools = [cast(nnx.Module, get_pooler(each.pooler, features=width, seed=each.seed, **options)) for each in recipes]

    def walk(wanted: np.ndarray) -> Iterator[TokenBatch]:
        for batch in tokens.mixed(wanted, tokens.token_budget // 4):
            x = np.asarray(_standardise(batch.tokens, batch.weights, *fit))
            yield batch.rows, x if basis is None else x @ basis, batch.weights

    decays = training["weight_decays"]
    looks = max(1, steps // 8)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(pools[0], nnx.Param)))
    pooled = jax.eval_shape(pools[0], jax.ShapeDtypeStruct((1, width), np.float32))
    numbers += pooled.size * data.targets.shape[1]  # of the readout
    together = min(len(pools), max(1, TOGETHER // (4 * len(decays) * numbers)))
    fits = []
    for rate in training["learning_rates"] if is_first() else ():
        note(f"train: {first.name}, {len(recipes)} seed(s), {steps} steps at rate {rate:g}")
        budget = Budget(steps, rate, evaluate_every=looks, patience=8, shuffle=8, seed=seed)
        probes = []
        for start in range(0, len(pools), together):
            group = slice(start, start + together)
            seeds = "-".join(str(each.seed) for each in recipes[group])
            with shared_threads(2):  # NumPy projects a batch while XLA takes the step of the one before
                probes += fit_token_probes(
                    pools[group],
                    walk,
                    data.targets,
                    train,
                    validation,
                    data.task,
                    decays,
                    budget,
                    checkpoint=folder / f"rate-{rate:g}-seeds-{seeds}",
                )
            trim()
        fits.append(probes)
    if is_first():
        pools = [max(rates, key=lambda probe: probe.validation.max()).pool for rates in zip(*fits)]
    wait()  # as long as the training takes
    for pool in pools:
        agree_module(pool)
    return pools


LOOKED_AT = 500  # sequences in which the frequent pairs are counted: a matter of seconds


def sparse_pools(
    tokens: ArrayTokens,
    train: np.ndarray,
    recipes: Sequence[SparsePooled],
    fit: Fit,
    identity: dict[str, Any],
    seed: int,
    folder: Path,
) -> list[Pooler]:
    """The poolers of recipes on one autoencoder, which is trained without labels.

    The training is `covjax.training.autoencoder`'s, on the training sequences, a tenth of them held out for its own
    figures; a killed one goes on from its checkpoint in `folder`. Co-occurrence is of the pairs that are most frequent
    in some of these.
    """
    kept = tokens.kept(train)
    whole = np.concatenate(kept)  # one shape, one program
    lengths = np.array([len(x) for x in kept])
    held = HeldActivations(np.asarray(_standardise(whole, np.ones(len(whole)), *fit)), lengths, identity)
    options, steps = sparse_options(recipes[0]), dict(recipes[0].autoencoder)["steps"]
    # The same for 1, 2, 4, 8 devices, so that a killed training goes on with another number of them; others round up.
    batch = 1 << (min(2048, max(int(lengths.sum()) // 2, 1)).bit_length() - 1)
    batch = -(-batch // jax.device_count()) * jax.device_count()
    config = AutoencoderConfig(
        output=str(folder),
        data="the comparison's training tokens",
        encoder=tokens.name,
        kind="topk",
        options=options,
        steps=steps,
        batch=batch,
        warmup=min(100, steps),
        seed=seed,
        evaluate_every=steps,
        save_every=250,
    )
    result = train_autoencoder(config, held)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in result.held_out.items())
    note(f"sparse autoencoder: {shown}")
    agree_module(result.model)
    poolers = []
    for recipe in recipes:
        given: dict[str, Any] = dict(recipe.options)
        if "pairs" in given:
            given["pairs"] = _pairs(result.model, held, options["latents"], int(given["pairs"]))
        poolers.append(get_pooler(recipe.pooler, autoencoder=result.model, **given))
    return poolers


def sparse_options(recipe: SparsePooled) -> dict[str, Any]:
    """What `make_autoencoder("topk", …)` is given for a recipe."""
    options = {name: value for name, value in recipe.autoencoder if name != "steps"}
    return options | {"aux_k": min(64, options["latents"])}


def _pairs(model: Any, held: HeldActivations, latents: int, most: int) -> Int[np.ndarray, "pairs 2"]:
    """What `find_pairs` gives in process 0, in all processes."""
    pairs = find_pairs(model, held, latents, most) if is_first() else np.zeros((0, 2))
    count = int(agree(np.int64(len(pairs))))
    return agree(np.asarray(pairs, np.int32) if is_first() else np.zeros((count, 2), np.int32))


def find_pairs(model: Any, held: HeldActivations, latents: int, most: int) -> Int[np.ndarray, "pairs 2"]:
    """At most `most` pairs of latents, the most frequent in at most `LOOKED_AT` sequences, spread evenly."""
    count = len(held.lengths)
    arrays = held.read(range(0, count, -(-count // LOOKED_AT)))
    codes = jax.jit(model.codes)
    edge = max(map(len, arrays))
    moments = []
    for x in arrays:  # one compiled shape: padding enters neither statistic
        # Cut on the host: on the device every length is a program of its own.
        values, indices = map(np.asarray, codes(np.pad(x, ((0, edge - len(x)), (0, 0)))))
        moments.append(cooccurrence(values[: len(x)], indices[: len(x)], latents))
    stacked = stack(moments, latents)
    return frequent_pairs(stacked, min(most, len(np.unique(stacked.indices))), latents)
