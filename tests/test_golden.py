"""Three training steps of two tiny autoencoders give the losses and gradient norms that are written here.

`python -m tests.test_golden --write` writes them anew, after a change that is meant to change them.
"""

import json
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from covjax.autoencoders import make_autoencoder
from covjax.training.state import Step, TrainState
from tests.conftest import ROOT

TABLE = ROOT / "tests" / "golden.json"
KINDS = {
    "topk": {"latents": 16, "k": 3},
    "tucker": {"rank": 2, "center": "data", "standardise": True},
}
STEPS = 3


def figures(kind: str) -> dict[str, list[float]]:
    """Loss and gradient norm of every step, to four significant digits."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(STEPS, 4, 10, 6)) * np.arange(1, 7) + 2).astype(np.float32)
    batches = x if kind == "tucker" else x.reshape(STEPS, 40, 6)
    model = make_autoencoder(kind, 6, seed=0, **KINDS[kind])
    model.initialise([(batches[0], None)])
    graph, state = nnx.split(TrainState(model, optax.adam(1e-2)))
    step, rows = Step(graph), []
    for batch in batches:
        state, metrics = step(state, jax.device_put(batch), None)
        rows.append(metrics)
    return {name: [float(f"{float(row[name]):.4g}") for row in rows] for name in ("loss", "gradient_norm")}


@pytest.mark.parametrize("kind", KINDS)
def test_three_steps(kind):
    golden = json.loads(TABLE.read_text())[kind]
    for name, values in figures(kind).items():
        np.testing.assert_allclose(values, golden[name], rtol=1.1e-3, err_msg=name)  # one in the last of four digits


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.test_golden --write")
    TABLE.write_text(json.dumps({kind: figures(kind) for kind in KINDS}, indent=1) + "\n")
