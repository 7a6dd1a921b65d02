"""What the tests of several processes run: `python -m tests.distributed_worker SETTING TASK ARGUMENTS… [+ TASK …]`."""

import itertools
import json
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from covjax import InputError
from covjax.data.store import shard_path
from covjax.encoders import from_function, register_encoder
from covjax.extraction import extract
from covjax.extraction.config import ExtractConfig
from covjax.jobs import checkpoint, distributed
from covjax.jobs.cli import exit_on_input_error
from covjax.probes import fit_ridge_moments
from covjax.sharding import shard_rows, sharded_moments, sharded_projected_moment
from covjax.training.autoencoder import train_autoencoder
from covjax.training.state import Step
from tests.toy_autoencoders import Unheld, activations, config


def long_sequence() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1,037 tokens of 16 features with mean/deviation about 100, their weights, and a projection to 4."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1037, 16)) @ rng.normal(size=(16, 16)) / 4 + 100 * rng.choice([-1, 1], 16)
    weights = rng.integers(0, 3, 1037).astype(np.float32)
    return x.astype(np.float32), weights, rng.normal(size=(16, 4)).astype(np.float32)


def regression() -> tuple[np.ndarray, np.ndarray]:
    """203 samples of 12 features, 3 targets."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(203, 12)) + 5
    return x.astype(np.float32), (x @ rng.normal(size=(12, 3)) + rng.normal(size=(203, 3))).astype(np.float32)


def own_rows(count: int) -> slice:
    """Uneven parts: the first process has none, the others the more the later they come."""
    n, i = jax.process_count(), jax.process_index()
    ends = [round(count * k * k / max(1, (n - 1) ** 2)) for k in range(n)] if n > 1 else [count]
    return slice(ends[i - 1] if i else 0, ends[i])


def statistics(output: str) -> None:
    """Moments, projected moments and a ridge of rows spread over all devices, written by process 0."""
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    x, weights, basis = long_sequence()
    own = own_rows(len(x))
    (tokens,), w = shard_rows([x[own]], weights[own], mesh=mesh, axis="rows")
    m = sharded_moments(tokens, w, mesh=mesh, axis="rows")
    raw, centred = (
        sharded_projected_moment(tokens, basis, None, w, mesh=mesh, axis="rows", center=c) for c in (None, "sequence")
    )
    features, targets = regression()
    own = own_rows(len(features))
    (rows,), ones = shard_rows([np.concatenate([features[own], targets[own]], axis=1)], mesh=mesh, axis="rows")
    probes = fit_ridge_moments(sharded_moments(rows, ones, mesh=mesh, axis="rows"), 3, [1e-3, 1.0])
    ridge = {f"weights{i}": p.weights for i, p in enumerate(probes)} | {
        f"bias{i}": p.bias for i, p in enumerate(probes)
    }
    if distributed.is_first():
        np.savez(output, count=m.count, mean=m.mean, scatter=m.scatter, raw=raw, centred=centred, **ridge)


def shares(*counts: str) -> None:
    """What this process is given of so many items; process 0 is late at the end."""
    if distributed.is_first():
        time.sleep(2)
    print(*[list(distributed.share(int(count))) for count in counts])


def faulty(index: str) -> None:
    """One process finds an error of the user's, the others go on."""
    if distributed.agree(np.int32(int(index))) == jax.process_index():
        raise InputError(f"faulty: process {index}")
    time.sleep(100)


def _letters(dtype: str):
    table = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), dtype)
    function = lambda tokens, mask: (jnp.where(mask[:, None], table[tokens], 0),)
    return from_function("letters", function, {"A": 1, "C": 2, "G": 3, "T": 4})


register_encoder("letters", _letters)


def extraction(data: str, output: str, delay: str = "0") -> None:
    """7 shards of features and tokens, each after a delay that leaves time to be killed."""
    write = extract.write_shard
    extract.write_shard = lambda *arguments: (time.sleep(float(delay)), write(*arguments))
    options = {"encoder": "letters", "poolers": ("mean", "covariance"), "keep_tokens": True, "token_budget": 100}
    extract.extract(ExtractConfig(data=data, output=output, shard_size=4, **options))


def lose(output: str, shard: str) -> None:
    """A shard of an extraction that is gone before any process goes on."""
    distributed.once(lambda: checkpoint.remove(shard_path(output, int(shard))))


def training(output: str, settings: str = "{}", seconds: str = "0") -> None:
    """A run of the toy autoencoders with other settings, every step late by some seconds."""
    step = Step.__call__
    Step.__call__ = lambda self, *arguments: (time.sleep(float(seconds)), step(self, *arguments))[1]
    result = train_autoencoder(config(output, **json.loads(settings)), Unheld(activations()))
    print("held-out", result.held_out["fvu"])


def pooling(folder: str) -> None:
    """Rows of a comparison from batches split over all devices, beside those of one device."""
    # Imported here, for the other tasks start many processes.
    from covjax.activations import EncodedTokens
    from covjax.comparison.config import CompareConfig, choose_recipes
    from covjax.comparison.features import make_features
    from covjax.data import assign_splits, read_table
    from covjax.encoders.unirep import UniRep
    from tests.test_compare import write_table
    from tests.test_unirep import random_weights

    write_table(Path(folder) / "t.csv", np.random.default_rng(0), n=100)
    data = assign_splits(read_table(Path(folder) / "t.csv"))
    settings = CompareConfig(data="t.csv", ranks=(2,), trained=())
    labels = ("mean", "sqrt_covariance", "shuffled_covariance", "pca_covariance_2")
    rows = tuple(row for row in choose_recipes(settings, 8, False) if row.name in labels)
    values = []
    for mesh in (None, Mesh(np.array(jax.devices()), ("sequences",))):
        tokens = EncodedTokens(UniRep(random_weights()), data.sequences, 1, 200, 1.0, mesh)
        values.append(make_features(settings, data, tokens, rows, Path(folder) / str(mesh is None), {}))
    for label in labels:
        one, spread = (each[label].values for each in values)
        print(label, np.isfinite(one).all(), np.abs(one - spread).max() < 2e-4)


def late(seconds: str) -> None:
    """Process 0 works alone, the others wait; then bytes go round: float64, −0.0, and parts of unequal length."""
    distributed.once(lambda: time.sleep(float(seconds)))
    i = jax.process_index()
    got = distributed.agree({"x": np.array([-0.0, np.pi + i]), "n": np.int64(2**40 + i)})
    print("agreed", np.signbit(got["x"][0]), got["x"][1] == np.pi, got["n"] == 2**40, got["x"].dtype, got["n"].dtype)
    distributed.PIECE = 64  # so that it takes several
    rows = np.arange(20 * i, dtype=np.float64).reshape(-1, 2) + 1e-12
    print("gathered", np.array_equal(distributed.gather(rows), np.arange(20.0).reshape(-1, 2) + 1e-12))
    distributed.same("text", "equal")
    try:
        distributed.same("text", f"process {min(i, 1)}")
    except InputError as error:  # caught: the others would wait for this process until they call it lost
        print(error)


def comparison(output: str, table: str, options: str = "{}", seconds: str = "0") -> None:
    """`covjax.comparison.compare` of the tests' tiny encoder, every pass of pooling late by some seconds."""
    from covjax.comparison import compare, features
    from covjax.comparison.config import CompareConfig
    from tests import test_compare  # registers "tiny"

    assert test_compare.ROWS
    pool = features.pool_tokens
    features.pool_tokens = lambda *arguments: (time.sleep(float(seconds)), pool(*arguments))[1]
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(options).items()}
    results = compare.compare(CompareConfig(data=table, output=output, encoder="tiny", **given))
    print("rows", len(results.rows))


def wide_routes(path: str) -> None:
    """Tables of a wide pool through landmarks, conjugate gradients, a sketch and kernels, which process 0 writes."""
    from pathlib import Path

    from covjax.activations import ArrayTokens
    from covjax.embedding.conjugate import conjugate_table
    from covjax.embedding.landmarks import draw_landmarks, landmark_tables, sketch_tables
    from covjax.embedding.plan import VectorGroup, VectorPlan
    from covjax.embedding.pools import fit_pools
    from covjax.embedding.wide import TablePlan, kernel_tables
    from covjax.recipes import get_recipe

    random = np.random.default_rng(0)
    tokens = ArrayTokens([random.normal(size=(t, 6)).astype(np.float32) for t in random.integers(3, 20, 40)], 100)
    train, targets = np.arange(0, 40, 2), random.normal(size=(20, 2))
    fit, pools = fit_pools(get_recipe("log_covariance"), tokens, train, 0, Path(path).parent, {})
    name, pool = next(iter(pools.items()))
    drawn, sample = (draw_landmarks(*each) for each in ((8, train, train + 1, 0), (0, train, train + 1, 0, 9)))
    table = dict(landmark_tables(pools, tokens, fit, 0, drawn, 2**30)).get(name)
    solved = conjugate_table(name, pool, tokens, fit, 0, train, targets, (1e-4, 1.0), table, {}, 2**30)
    sketch = dict(sketch_tables(pools, tokens, fit, 0, 12, sample)).get(name)
    made = {}
    for place, blocks in (("memory", 1), ("disk", 4), ("again", 2)):
        plan = TablePlan(None, VectorPlan((VectorGroup((name,), place, blocks),), {name: 21}, 0, 0, 0))
        tables = dict(kernel_tables(pools, tokens, fit, 0, train, plan, Path(path).parent))
        if name in tables:
            made[place] = tables[name].values
    if jax.process_index() == 0:
        scores = solved.space(train).coordinates(solved.values)
        gram = scores @ scores.T  # directions may differ in sign
        kernels = {"sample": table.landmarks.kernel, "exact": sketch.landmarks.kernel}
        np.savez(path, landmarks=table.values, cg=gram, sketch=sketch.values, **kernels, **made)
    print("made", solved is not None)


def split_step(steps: str) -> None:
    """Steps of TopK with 512 latents over four devices of eight, dead ones among them, beside one device's."""
    from flax import nnx

    from covjax.autoencoders.sparse import TopK, codes
    from covjax.training import state as training
    from eval.tpu_compile import collectives

    x = np.random.default_rng(0).normal(size=(48, 24)).astype(np.float32)
    mesh, ends = training.data_mesh(48, 4), []
    for each in (None, mesh):
        model = TopK(24, latents=512, k=5, aux_k=8, dead_after=40.0)
        graph, state = nnx.split(training.TrainState(model, training.make_optimiser(20, 1e-2, 2, 0.2, 1.0)))
        layout = training.state_layout(each, state, 512)
        state = training.place(layout, state, jax.tree.map(np.asarray, state))
        step, evaluate = training.Step(graph, layout), training.make_evaluation(graph, layout)
        batch = training.distribute(each, (x, None))
        for _ in range(int(steps)):
            state, metrics = step(state, *batch)
        rest = training.distribute(each, (x[:7], None))  # a remainder lies on every device
        ends.append(jax.device_get((metrics, state, evaluate(state, *batch), evaluate(state, *rest))))
        if each is not None:
            found = collectives(step.lower(state, *batch).compile().as_text())
            print("collectives", json.dumps([[kind, size] for kind, size in sorted(found)]))
    one, split = (jax.tree.map(np.asarray, end) for end in ends)
    same = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-4), one, split)
    print("dead", float(one[0]["dead"]) > 0, "equal", all(jax.tree.leaves(same)))
    pre = jnp.asarray(np.random.default_rng(1).integers(0, 4, (6, 32)), jnp.float32)  # many ties
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        placed = jax.device_put(pre, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "model")))
        found = jax.jit(lambda p: codes.top_k(p, 11))(placed)
    print("ties", all(np.array_equal(a, b) for a, b in zip(found, jax.lax.top_k(pre, 11))))


def logistic(output: str) -> None:
    """Labels and classes from rows spread over all devices, uneven parts, written by process 0."""
    from covjax.probes import fit_logistic_rows

    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    features, labels = classification()
    own = own_rows(len(features))
    found = {}
    for name, targets in (("labels", labels), ("classes", np.eye(3, dtype=bool)[labels @ (1, 1)])):
        path = fit_logistic_rows(
            features[own],
            targets[own],
            [1e-3, 1e-1],
            name == "classes",
            mesh=mesh,
            axis="rows",
            class_weights="balanced",
        )
        for i, probe in enumerate(path.probes):
            found |= {f"{name}{i}": probe.scores(features), f"{name}{i} gradient": np.array(path.gradient[i])}
    if distributed.is_first():
        np.savez(output, **found)


def digests() -> None:
    """Digests and content of arrays spread in several ways, beside those of the whole; none is gathered on a device."""
    from jax.experimental import multihost_utils
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()).reshape(2, -1), ("data", "model"))
    rng = np.random.default_rng(0)
    shapes = {"matrix": (96, 5), "counts": (24,), "blocks": (1024, 2, 3)}
    arrays = {name: rng.normal(size=shape).astype(jnp.bfloat16) for name, shape in shapes.items()}
    expected = checkpoint.leaf_digests(arrays)
    for axes in (("model",), (("data", "model"),), (None, "model")):
        if axes == (None, "model"):
            arrays = {"matrix": rng.normal(size=(6, 8)).astype(np.float32)}
            expected = checkpoint.leaf_digests(arrays)
        place = NamedSharding(mesh, PartitionSpec(*axes))
        tree = {k: jax.make_array_from_callback(a.shape, place, a.__getitem__) for k, a in arrays.items()}
        with mock.patch.object(multihost_utils, "process_allgather", wraps=multihost_utils.process_allgather) as sends:
            same = checkpoint.leaf_digests(tree) == expected
            equal = all(np.array_equal(checkpoint.whole(tree[name]), arrays[name]) for name in arrays)
        print("digests", same, equal, any("tiled" in call.kwargs for call in sends.call_args_list))


def streamed(output: str, checkpoint: str, looks: str) -> None:
    """The streamed path, steps of 16 samples shared by the processes; it breaks off before so many looks."""
    from covjax.probes import Budget, fit_logistic_stream

    n, i = jax.process_count(), jax.process_index()
    features, labels = classification()
    steps = [range(150)[k + 16 // n * i : k + 16 // n * (i + 1)] for k in range(0, 150, 16)]  # the last: 6 samples
    seen = iter(range(int(looks)))

    def validation():
        next(seen)
        yield features[150 + i :: n], labels[150 + i :: n]

    try:
        path = fit_logistic_stream(
            lambda: ((features[rows], labels[rows]) for rows in map(list, steps) if rows),
            validation,
            [1e-2, 1.0],
            False,
            Budget(steps=25, learning_rate=5e-2, evaluate_every=5, shuffle=3),
            class_weights="balanced",
            checkpoint=checkpoint,
            mesh=jax.make_mesh((jax.device_count(),), ("rows",)),
            axis="rows",
        )
    except RuntimeError:  # a generator that ran out inside another
        print("broken off at", *sorted(path.name for path in Path(checkpoint).iterdir()))
        return
    if distributed.is_first():
        np.savez(output, scores=[p.scores(features) for p in path.probes], validation=path.validation)


def unshared() -> None:
    """Meshes over which a fit would silently be another one in every process."""
    from covjax.probes import fit_logistic_stream

    features, labels = classification()
    stream = lambda: iter([(features, labels)])
    both = jax.make_mesh((2, jax.device_count() // 2), ("data", "model"))
    for mesh in (Mesh(np.array(jax.local_devices()), ("model",)), both):
        try:
            fit_logistic_stream(stream, stream, [1.0], False, mesh=mesh, axis="model")
        except InputError as error:
            print(error)


def classification() -> tuple[np.ndarray, np.ndarray]:
    """203 samples of 13 features, the last one a copy, and two labels."""
    x, y = regression()
    return np.concatenate([x, x[:, :1]], axis=1), y[:, :2] > np.median(y[:, :2], axis=0)


NAMED = (
    statistics,
    shares,
    faulty,
    extraction,
    lose,
    training,
    pooling,
    late,
    comparison,
    wide_routes,
    split_step,
    logistic,
    streamed,
    digests,
    unshared,
)
TASKS = {task.__name__: task for task in NAMED}

if __name__ == "__main__":
    setting, *words = sys.argv[1:]
    tasks = [list(group) for plus, group in itertools.groupby(words, "+".__eq__) if not plus]
    # A busy machine may hold a sound process back for longer than the tests of lost ones want to wait; here it waits.
    silence = 30 if tasks[0][0] == "late" else 10
    with exit_on_input_error("worker"), distributed.job("worker", setting, heartbeat_seconds=silence):
        for name, *arguments in tasks:
            TASKS[name](*arguments)
