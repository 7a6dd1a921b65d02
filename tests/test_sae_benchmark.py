"""The benchmark's PyTorch peer and ours take the same steps, on small inputs; no speed is asserted."""

import numpy as np
import pytest

from covjax import InputError
from covjax.autoencoders.sparse.module import fvu, l0
from eval.benchmark import sae


@pytest.mark.slow
def test_the_pytorch_peer_trains_to_the_same_figures(rng, monkeypatch):
    pytest.importorskip("torch")
    from eval.benchmark.common import pytorch

    for name, value in {"LATENTS": 24, "K": 3, "TIMED_BATCH": 32}.items():
        monkeypatch.setattr(sae, name, value)
    tokens = (rng.normal(size=(320, 8)) @ rng.normal(size=(8, 8)) + 2).astype(np.float32)
    sums, times = sae.run(tokens[:256], tokens[256:], 64, 0.0, 4, pytorch)
    assert fvu(sums[sae.OURS]) == pytest.approx(float(fvu(sums[sae.PEER])), rel=1e-3)
    assert l0(sums[sae.OURS]) == pytest.approx(float(l0(sums[sae.PEER])), rel=1e-3)
    assert 0 < fvu(sums[sae.OURS]) < 1.5
    assert list(times) == ["batch 64", "batch 32"]
    assert set(times["batch 64"]) == {sae.OURS, sae.AT_WORK, sae.PEER}


def test_too_many_tokens_are_refused():
    with pytest.raises(InputError, match="tokens: 100 asked for, the table has 8"):
        sae.activations(None, ["ACDE", "ACDE"], 0, 100, 0)
