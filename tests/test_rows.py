"""The rows that every comparison has, for encoders of different width."""

import dataclasses

import pytest

from covjax import InputError, get_pooler
from covjax.comparison.config import CompareConfig
from covjax.comparison.features import slug
from covjax.comparison.rows import make_rows, matched_rank

ALWAYS = {"mean", "mean+std", "max", "first", "last", "attention", "light attention", "composition"}
CONTROLS = {"outer product μμᵀ", "mean + μμᵀ", "shuffled Σ", "shuffled sqrt Σ", "shuffled log(Σ+εI)"}


def test_matched_rank():
    assert [matched_rank(d) for d in (1, 2, 3, 320, 384)] == [1, 1, 2, 24, 27]
    for d in range(1, 400):
        r = matched_rank(d)
        assert r * (r + 1) // 2 <= d < (r + 1) * (r + 2) // 2


@pytest.mark.parametrize(("features", "has_cls"), [(32, False), (384, True)])
def test_make_rows(features, has_cls):
    rows = make_rows(CompareConfig(), features, has_cls)
    labels = [row.label for row in rows]
    assert labels[0] == "mean"  # the reference of every difference
    assert set(labels) >= ALWAYS | CONTROLS
    assert ("CLS" in labels) == has_cls
    assert f"PCA-√Σ rank {matched_rank(features)}" in labels
    assert len({slug(label) for label in labels}) == len(labels)
    assert {part for row in rows for part in row.parts} <= set(labels)
    assert ("sqrt Σ, 1024 components" in labels) == (features > 90)
    replicas = [row for row in rows if row.replica_of]
    assert len(replicas) == 6  # three pools, two further seeds each
    for row in rows:
        if row.pooler and not row.rank:
            options = {"features": row.width or features, "seed": row.seed} if row.training else {}
            get_pooler(row.pooler, **dict(row.options), **options)


def test_a_rank_beyond_the_features_is_named():
    with pytest.raises(InputError, match="ranks: 33 is more than the encoder's 32 features"):
        make_rows(dataclasses.replace(CompareConfig(), ranks=(4, 33)), 32, False)


def test_rows_chooses_by_label_and_keeps_the_order():
    config = CompareConfig(rows=("covariance Σ", "mean", "attention"), sae_latents=64)
    rows = make_rows(config, 32, False)
    assert [row.label for row in rows] == [
        "mean",
        "attention",
        "attention, seed 1",
        "attention, seed 2",
        "covariance Σ",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("mean", "covariance"), "rows: 'covariance' is not one of mean, "),
        (("mean", "mean + sqrt Σ"), "rows: 'mean \\+ sqrt Σ' needs 'sqrt Σ' too"),
        (("mean", "max"), "rows: mean, max has no second-order pooler"),
    ],
)
def test_rows_that_cannot_be_made_are_named(rows, message):
    with pytest.raises(InputError, match=message):
        make_rows(CompareConfig(rows=rows), 32, False)


def test_bases_and_a_sparse_autoencoder_add_their_rows():
    config = CompareConfig(bases=("pca", "tucker", "random"), ranks=(4,), sae_latents=64, sae_k=4)
    rows = {row.label: row for row in make_rows(config, 32, False)}
    assert rows["Tucker-√Σ rank 4"].basis == "tucker"
    assert rows["random-Σ rank 4"].basis == "random"
    assert dict(rows["SAE mean"].sae) == {"latents": 64, "k": 4, "steps": config.sae_steps}
    assert rows["SAE co-occurrence"].sae == rows["SAE mean"].sae  # one autoencoder serves all its rows
