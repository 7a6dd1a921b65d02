"""Extraction of long sequences in windows: pooled as one, passing by as moments, only their lengths in memory."""

import dataclasses

import numpy as np
import pytest

from covjax.data.store import load_features
from covjax.encoders import load
from covjax.encoders.embed import windows
from covjax.errors import InputError
from covjax.extraction import plan as extract_plan
from covjax.extraction import shard as extract_shard
from covjax.extraction.extract import extract
from covjax.jobs import checkpoint
from tests.test_extract import input_sequences, read_all, settings_in


@pytest.fixture
def config(tmp_path):
    return settings_in(tmp_path)


@pytest.mark.slow
def test_long_sequences_in_windows_are_pooled_as_one(config):
    config = dataclasses.replace(config, poolers=("mean", "max", "covariance"))
    whole = extract(config)
    cut = extract(dataclasses.replace(config, output=config.output + "-cut", window=11, halo=2))
    for name in ("0/mean", "-1/max", "0/covariance"):
        np.testing.assert_allclose(load_features(cut, name), load_features(whole, name), rtol=1e-5, atol=1e-6)
    assert all(map(np.array_equal, read_all(cut), read_all(whole)))


STREAMED = ("mean", "mean_std", "covariance", "log_covariance:eps=0.5", "sqrt_second_moment:ridge=0.1")


@pytest.mark.long
def test_windows_pass_by_where_moments_are_all_that_is_needed(config, monkeypatch):
    """At 30 letters some sequences are whole; two open at a time make other shards."""
    config = dataclasses.replace(config, poolers=STREAMED, keep_tokens=False, max_shapes=2)
    like = {"rows": 0, "features": {f"{layer}/{name}": 0 for layer in (0, -1) for name in STREAMED}}

    def read(folder):  # every shard once, where `load_features` reads all of them for every name
        shards = [checkpoint.load(path, like) for path in (folder / "shards").iterdir()]
        order = np.argsort(np.concatenate([shard["rows"] for shard in shards]))
        return shards, {n: np.concatenate([s["features"][n] for s in shards])[order] for n in like["features"]}

    _, whole = read(extract(config))
    monkeypatch.setattr(extract_shard, "_pool_joined", None)
    for window, most in ((11, 2**30), (30, 2 * 4 * (6**2 + 3**2))):
        monkeypatch.setattr("covjax.extraction.plan.OPEN_BYTES", most)
        settings = dataclasses.replace(config, output=f"{config.output}-{window}", window=window, halo=2)
        shards, cut = read(extract(settings))
        for rows in (shard["rows"] for shard in shards):  # all its sequences are cut, or none, …
            lengths = [len(input_sequences(config)[i]) for i in rows]
            assert {n > window for n in lengths} in ({True}, {False})
            assert len(rows) <= (7 if lengths[0] <= window or window == 11 else 2)  # … and no more than may be open
        for name, expected in whole.items():
            np.testing.assert_allclose(cut[name], expected, rtol=2e-4, atol=2e-5, err_msg=name)


def test_not_finite_windows_are_named_when_they_pass_by(config):
    bad = dataclasses.replace(config, encoder="extraction-nan", layers=(0,), poolers=("mean",), keep_tokens=False)
    bad = dataclasses.replace(bad, window=5, halo=1)
    with pytest.raises(InputError, match=r"s\d+: NaN or infinite activations at layer 0"):
        extract(bad)


@pytest.mark.parametrize("window", [0, 16])
def test_only_lengths_of_windows_stay_in_memory(config, window):
    config = dataclasses.replace(config, window=window, halo=2)
    encoder, sequences = load(config.encoder), input_sequences(config)
    cuts = extract_plan.Cuts(config, encoder, [f"s{i}" for i in range(25)], sequences)
    every = [windows(encoder, sequence, window or 1000, 2) for sequence in sequences]
    assert cuts.counts.tolist() == [len(each) for each in every]
    assert max(cuts.counts) == (1 if not window else 5)
    assert cuts.cores.tolist() == [len(sequence) for sequence in sequences]
    assert cuts.totals.tolist() == [sum(len(w.tokens) for w in each) for each in every]
    for i in (0, 24, 7):
        for made, wanted in zip(cuts[i], every[i], strict=True):
            np.testing.assert_array_equal(made.tokens, wanted.tokens)
            np.testing.assert_array_equal(made.core, wanted.core)
    some = np.array([24, 3, 7])
    assert cuts.lengths_of(some).tolist() == [len(w.tokens) for i in some for w in every[i]]
    lists = [value for value in vars(cuts).values() if isinstance(value, list | tuple)]
    assert lists == [sequences]
    with pytest.raises(InputError, match=r"^bad: "):
        extract_plan.Cuts(config, encoder, ["good", "bad"], ["ACGT", "ACEGT"])
