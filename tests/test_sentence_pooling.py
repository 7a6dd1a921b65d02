"""Our poolers inside a SentenceTransformer, where that library is installed."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

import covjax
from covjax import InputError, encoders
from tests.test_bert import TEXTS
from tests.test_from_torch import tiny

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and its libraries warn about themselves


def test_without_the_library_its_extra_is_named(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.delitem(sys.modules, "covjax.pooling.sentence", raising=False)
    with pytest.raises(InputError, match="needs the package sentence_transformers"):
        import covjax.pooling.sentence  # noqa: F401


def test_a_sentence_transformer_pools_with_our_pooler_and_comes_back_from_disk(tmp_path):
    library = pytest.importorskip("sentence_transformers", minversion="6.0")
    from sentence_transformers.base.modules import Transformer

    from covjax.pooling.sentence import SentencePooling

    tiny(tmp_path / "bert")
    options = {"eps": 0.2}
    pooling = SentencePooling(24, "log_covariance", options)
    model = library.SentenceTransformer(modules=[Transformer(str(tmp_path / "bert")), pooling], device="cpu")
    vectors = model.encode(TEXTS)
    encoder = encoders.load(f"torch:{tmp_path / 'bert'}")
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = encoder.encode(text)[None]
        tokens = encoder.apply(ids, np.ones(ids.shape, bool), (-1,))[-1][0]  # special tokens included
        expected = covjax.get_pooler("log_covariance", **options)(tokens, jnp.ones(len(tokens)))
        np.testing.assert_allclose(vector, expected, atol=2e-4)
    assert model.get_embedding_dimension() == vectors.shape[1] == 24 * 25 // 2
    model.save(str(tmp_path / "saved"))
    again = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    assert again[1].get_config_dict() == pooling.get_config_dict()
    np.testing.assert_array_equal(again.encode(TEXTS), vectors)
    with pytest.raises(InputError, match="no gradient goes through it"):
        model(model.tokenize(TEXTS))
    with pytest.raises(InputError, match="mean_covariance"):
        SentencePooling(24, "mean_covariance")
