"""The rows that every comparison has, for encoders of different width."""

import dataclasses

import pytest

from covjax import InputError, get_pooler
from eval.config import CompareConfig
from eval.features import slug
from eval.rows import make_rows, matched_rank

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
