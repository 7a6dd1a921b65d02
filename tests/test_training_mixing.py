"""Tokens mixed block by block: a permutation every epoch, each sequence read once, of the step alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from covjax import InputError
from covjax.activations.windows import HeldActivations
from covjax.training.batches import MixedTokenBatches, _Reader, iterate


class Counted(HeldActivations):
    """Activations that remember what was read."""

    def __init__(self, arrays):
        super().__init__(np.concatenate(arrays), [len(x) for x in arrays], {})
        self.reads = np.zeros(len(arrays), int)

    def read(self, rows):
        np.add.at(self.reads, list(rows), 1)
        return super().read(rows)


@pytest.fixture
def counted(rng):
    lengths = rng.integers(1, 40, 300)
    numbers = np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])
    return Counted([np.stack([n, np.full(len(n), i)], 1).astype(np.float32) for i, n in enumerate(numbers)])


ROWS = np.arange(10, 290)


def make(counted, size=24, mix_tokens=1700):
    return MixedTokenBatches(counted, ROWS, size, np.float32, mix_tokens)


def run_through(batches, epochs=1):
    """As many steps as give every lane its part of some epochs, and the numbers of the tokens in them."""
    steps = epochs * batches.count // batches.size
    stream = batches.training(steps, seed=3)
    return [stream[step][0] for step in range(steps)]  # in order: a loop over the stream itself reads far ahead


def test_an_epoch_holds_every_token_once_and_reads_every_sequence_about_once(counted):
    batches = make(counted)
    assert (batches.lanes, batches.block) == (24, 3)  # 1,700 tokens are about 80 sequences
    expected = np.concatenate(counted.read(ROWS.tolist()))
    counted.reads[:] = 0
    epoch = np.concatenate(run_through(batches))
    assert len(np.unique(epoch[:, 0])) == len(epoch) > 0.99 * len(expected)
    assert np.isin(epoch[:, 0], expected[:, 0]).all()
    # A block over the border of two lanes is read by both: at most 23 of 94 blocks.
    assert counted.reads[ROWS].min() >= 1
    assert counted.reads.sum() <= len(ROWS) + 23 * 3
    assert counted.reads[:10].sum() + counted.reads[290:].sum() == 0


def test_lanes_give_each_token_once_an_epoch_to_the_last_one(counted):
    batches = make(counted)
    each = batches.size // batches.lanes
    for lane in (0, 7, 23):
        rows = np.arange(lane * each, (lane + 1) * each)
        length = batches.count * (lane + 1) // batches.lanes - batches.count * lane // batches.lanes
        epochs, places = zip(*(batches.places(step, rows) for step in range(2 * length)))
        for epoch in (0, 1):
            own = np.concatenate(places)[np.concatenate(epochs) == epoch]
            start = batches.count * lane // batches.lanes
            np.testing.assert_array_equal(own, np.arange(start, start + length))


def test_many_sequences_meet_in_a_batch(counted):
    batches = make(counted)
    first = run_through(batches)[0]
    assert len(np.unique(first[:, 1])) >= 20  # one token a lane
    other = next(iter(batches.training(1, seed=4)))[0]
    assert (first != other).any()


def test_parts_of_a_batch_make_the_whole_and_read_only_their_own(counted):
    batches = make(counted)
    steps = range(40)
    stream = batches.training(len(steps), seed=0)
    whole = [stream[step][0] for step in steps]  # in order, as in `run_through`
    all_reads = counted.reads.copy()
    parts = []
    for part in (slice(0, 6), slice(6, 24)):
        counted.reads[:] = 0
        stream = batches.training(len(steps), seed=0, part=part)
        parts.append([stream[step][0] for step in steps])
        assert counted.reads.sum() < 0.9 * all_reads.sum()
    for x, *pieces in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(pieces), x)


def test_any_step_is_reached_at_once_from_several_threads_and_after_a_restart(counted):
    expected = run_through(make(counted), epochs=2)
    stream = make(counted).training(len(expected), seed=3)
    order = np.random.default_rng(0).permutation(len(expected))
    with ThreadPoolExecutor(4) as pool:
        for step, (x, _) in zip(order, pool.map(lambda i: stream[int(i)], order), strict=True):
            np.testing.assert_array_equal(x, expected[step])
    first = iterate(make(counted).training(len(expected), seed=3))
    for _ in range(29):
        next(first)
    second = iterate(make(counted).training(len(expected), seed=3))
    second.set_state(first.get_state())
    np.testing.assert_array_equal(next(second)[0], expected[29])


@pytest.mark.parametrize(("size", "lanes", "most"), [(24, 24, 1.6), (23, 23, 1.6), (97, 1, 2.6)])
def test_only_what_is_mixed_stays_in_memory(counted, size, lanes, most):
    batches = make(counted, size)
    assert batches.lanes == lanes
    reader = _Reader(batches, 0, 1.25 * 1700 + 1700 / lanes)
    assert [type(cell.cell_contents) for cell in batches.training(1, 0)._map_fn.__closure__].count(_Reader) == 1
    for step in range(200):
        reader.gather(step, np.arange(size))
        assert sum(len(x) for x in reader._held.values()) < most * 1700


def test_an_epochs_order_is_its_own(counted):
    reader = _Reader(make(counted), 3, 0)
    first, second = reader._epoch(0).order, reader._epoch(1).order
    assert (first != second).any()
    np.testing.assert_array_equal(np.sort(first), np.sort(second))
    np.testing.assert_array_equal(_Reader(make(counted), 3, 0)._epoch(1).order, second)
    assert (_Reader(make(counted), 4, 0)._epoch(1).order != second).any()


@pytest.mark.parametrize(
    ("size", "mix_tokens", "lanes"), [(24, 1, 1), (24, 10**9, 24), (256, 10**9, 64), (97, 10**9, 1), (24, 150, 6)]
)
def test_lanes_divide_the_batch_and_are_no_more_than_sequences_are_mixed(counted, size, mix_tokens, lanes):
    batches = make(counted, size, mix_tokens)
    assert batches.lanes == lanes
    epoch = np.concatenate(run_through(batches))
    assert len(np.unique(epoch[:, 0])) == len(epoch)


def test_the_order_says_how_tokens_are_mixed(counted):
    assert make(counted).order == "blocks of 3 sequences in 24 lanes"
    assert make(counted, mix_tokens=10**9).order != make(counted).order


def test_what_cannot_be_mixed_is_refused(counted):
    with pytest.raises(InputError, match="batch: 100000 tokens, but the stream holds only"):
        make(counted, 100_000).training(1, 0)
    counted.read([100])[0][2:] = np.nan
    with pytest.raises(InputError, match="NaN or infinite values in sequence 100"):
        run_through(make(counted))
