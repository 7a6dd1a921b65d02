"""The encoder in the package, and the DNA table beside it: it names bases that it has not seen better than counts."""

import csv
import gzip
import json

import jax.numpy as jnp
import numpy as np
import pytest

from covjax.encoders import load
from covjax.encoders.loading import YEAST_LM, requirements
from covjax.tasks.configs import DATA, quickstart_dna
from covjax.training.language import MaskedModel

BEST_COUNTS = 1.312  # nats of the best model that counts neighbours; docs/train-encoder.md


@pytest.fixture(scope="module")
def rows():
    with gzip.open(DATA / "yeast_chr4_chipexo.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def test_it_is_listed_and_needs_nothing():
    assert requirements()["yeast-lm"].packages == ()
    assert (YEAST_LM / "README.md").is_file()
    assert sum(path.stat().st_size for path in YEAST_LM.iterdir()) < 4e6


@pytest.mark.long
def test_it_names_hidden_bases_of_a_chromosome_that_it_has_not_seen(rows):
    encoder = load("yeast-lm")
    shown = np.stack([encoder.encode(row["sequence"][:512]) for row in rows[::15]])
    hidden = np.random.default_rng(0).random(shown.shape) < 0.15
    mask_token = json.loads((YEAST_LM / "config.json").read_text())["mask_token_id"]
    x = np.stack([np.where(hidden, mask_token, shown), shown, np.zeros_like(shown), np.ones_like(shown)], 1)
    sums = MaskedModel(encoder, "float32").evaluate(jnp.asarray(x), jnp.asarray(hidden, jnp.float32))
    nats, _, count = np.asarray(sums, np.float64).sum(0)
    assert count == hidden.sum() > 5000
    assert nats / count < BEST_COUNTS


def test_the_table_is_what_its_card_says(rows):
    config = quickstart_dna()
    assert len(rows) == 1428
    assert {len(row["sequence"]) for row in rows} == {config.max_length}
    targets = np.array([[float(value) for value in row["targets"].split(";")] for row in rows])
    with open(config.label_names) as file:
        proteins = list(csv.DictReader(file))
    assert [int(each["windows"]) for each in proteins] == (targets > 0).sum(0).tolist()
    assert len(proteins) == 33
    assert min(int(each["windows"]) for each in proteins) >= 100
    places = [int(row["id"].split(":")[1].split("-")[0]) for row in rows]
    assert [row["group"] for row in rows] == [
        f"chr4:{50_000 * (place // 50_000)}-{50_000 * (1 + place // 50_000)}" for place in places
    ]
