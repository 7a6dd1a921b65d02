"""Batches: every example once an epoch, in an order any position of which is reached at once; stores and encoders."""

import jax.numpy as jnp
import numpy as np
import pytest

from covjax import InputError
from covjax.activations.windows import EncodedActivations, HeldActivations, StoredActivations, hold, join, take
from covjax.encoders import from_function, load, register_encoder
from covjax.extraction.config import ExtractConfig
from covjax.extraction.extract import extract
from covjax.training.batches import SequenceBatches, TokenBatches, iterate, shuffled, split_rows

TABLE = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
register_encoder(
    "batches-toy",
    lambda dtype: from_function(
        "toy",
        lambda tokens, mask: jnp.where(mask[:, None], jnp.asarray(TABLE)[tokens].astype(dtype), 0),
        {"A": 1, "C": 2, "G": 3, "T": 4},
    ),
)


@pytest.fixture
def held(rng):
    lengths = np.array([3, 9, 4, 30, 5, 8, 31, 7])
    numbers = np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])
    return join([np.stack([n, 100 * n], 1).astype(np.float32) for n in numbers], {})


def test_every_epoch_is_a_new_permutation_reached_at_any_place():
    whole = shuffled(10, 0, 30, seed=3)
    for epoch in whole.reshape(3, 10):
        np.testing.assert_array_equal(np.sort(epoch), range(10))
    assert (whole[:10] != whole[10:20]).any()
    np.testing.assert_array_equal(shuffled(10, 7, 8, seed=3), whole[7:15])
    assert (shuffled(100, 0, 100, seed=3) != shuffled(100, 0, 100, seed=4)).any()
    assert (shuffled(100, 0, 100, seed=3) != shuffled(100, 0, 100, seed=3, stream=1)).any()


def test_tokens_of_all_sequences_meet_and_none_is_lost(held):
    rows = np.array([0, 1, 3, 4, 6])
    batches = TokenBatches(held, rows, 13, np.float32)
    expected = np.sort(np.concatenate([x[:, 0] for x in held.read(rows.tolist())]))
    assert len(expected) == 78
    epoch = [x for x, weights in batches.training(6, seed=0)]
    np.testing.assert_array_equal(np.sort(np.concatenate(epoch)[:, 0]), expected)
    assert all((x[:, 1] == 100 * x[:, 0]).all() for x in epoch)
    assert len({int(np.searchsorted(np.cumsum(held.lengths), v, "right")) for v in epoch[0][:, 0]}) >= 3
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches.once()])[:, 0], expected)


def test_sequences_come_whole_in_few_shapes(held):
    batches = SequenceBatches(held, np.arange(8), 2, np.float32, 3)
    seen = {}
    for x, weights in batches.training(40, seed=0):
        assert x.shape[:2] == weights.shape
        for sequence, w in zip(x, weights):
            tokens = sequence[w > 0]
            number = next(i for i in range(8) if held.read([i])[0].shape == tokens.shape)
            np.testing.assert_array_equal(tokens, held.read([number])[0])
            assert not sequence[w == 0].any()
            seen[number] = seen.get(number, 0) + 1
    assert sorted(seen) == list(range(8))
    assert max(seen.values()) - min(seen.values()) <= 3  # each drawn in proportion: about 10 times
    assert len({x.shape for x, _ in batches.training(40, seed=0)}) <= 3
    assert sum(len(x) for x, _ in batches.once()) == 8


def test_a_small_bucket_joins_its_neighbour(held):
    batches = SequenceBatches(held, np.arange(8), 3, np.float32, 3)  # two sequences of 30 and 31 are no batch of three
    assert {x.shape[0] for x, _ in batches.training(10, seed=1)} == {3}
    few = SequenceBatches(held, np.arange(2), 3, np.float32, 3)
    assert [x.shape[0] for x, _ in few.once()] == [2]
    with pytest.raises(InputError, match="batch: 3 sequences, but the stream holds only 2"):
        few.training(1, 0)


def test_a_restored_iterator_goes_on_where_it_was(held):
    stream = SequenceBatches(held, np.arange(8), 2, np.float32, 2).training(20, seed=0)
    first = iterate(stream)
    for _ in range(7):
        next(first)
    state = first.get_state()
    second = iterate(SequenceBatches(held, np.arange(8), 2, np.float32, 2).training(20, seed=0))
    second.set_state(state)
    for (x, w), (y, v) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(w, v)


@pytest.mark.parametrize("in_memory", [True, False])
def test_some_of_the_sequences_are_numbered_anew(held, in_memory):
    whole = held if in_memory else type("Read", (), vars(held) | {"read": lambda _, rows: held.read(rows)})()
    part = take(whole, np.array([6, 1]))
    assert isinstance(part, HeldActivations) == in_memory
    assert part.identity == {"rows": [6, 1]}
    np.testing.assert_array_equal(part.lengths, [31, 9])
    for x, y in zip(part.read([1, 0]), held.read([1, 6]), strict=True):
        np.testing.assert_array_equal(x, y)
    if in_memory:
        (epoch,) = [x for x, _ in TokenBatches(part, np.arange(2), 40, np.float32).training(1, seed=0)]
        np.testing.assert_array_equal(np.sort(epoch[:, 0]), np.sort(np.concatenate(held.read([1, 6]))[:, 0]))
    else:
        with pytest.raises(TypeError, match="not in memory"):
            TokenBatches(part, np.arange(2), 40, np.float32).training(1, seed=0)


def test_the_split_is_of_the_seed_and_never_empty():
    train, test = split_rows(50, 0.2, 1)
    assert len(test) == 10
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), range(50))
    np.testing.assert_array_equal(split_rows(50, 0.2, 1)[1], test)
    assert (split_rows(50, 0.2, 2)[1] != test).any()


def test_store_and_encoder_give_the_same_tokens(tmp_path, rng):
    sequences = ["".join(rng.choice(list("ACGT"), n)) for n in (5, 2, 9, 14, 3)]
    path = tmp_path / "x.txt"
    path.write_text("\n".join(sequences) + "\n")
    store = extract(
        ExtractConfig(
            data=str(path),
            output=str(tmp_path / "out"),
            encoder="batches-toy",
            poolers=(),
            keep_tokens=True,
            shard_size=2,
        )
    )
    stored = StoredActivations(str(store), -1, "batches-toy")
    encoded = EncodedActivations(load("batches-toy"), sequences, -1, token_budget=20, max_shapes=2)
    in_memory = hold(encoded, np.float32, 1.0)
    assert isinstance(in_memory, HeldActivations)
    assert hold(encoded, np.float32, 1e-9) is encoded
    expected = [TABLE[["_ACGT".index(letter) for letter in sequence]] for sequence in sequences]
    for source in (stored, encoded, in_memory):
        np.testing.assert_array_equal(source.lengths, [len(s) for s in sequences])
        assert source.features == 6
        for row, x in zip((3, 0, 1), source.read([3, 0, 1]), strict=True):
            np.testing.assert_allclose(np.asarray(x, np.float32), expected[row], rtol=1e-2)
    assert stored.identity["layer"] == -1
    assert in_memory.identity == encoded.identity
    with pytest.raises(InputError, match="store: .* of the encoder 'batches-toy', not of 'unirep-64'"):
        StoredActivations(str(store), -1, "unirep-64")
    with pytest.raises(InputError, match=r"layer: 5 is not among the kept ones: \[.*\]; give -?\d"):
        StoredActivations(str(store), 5)
