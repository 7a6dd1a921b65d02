"""Our poolers as the pooling module of a SentenceTransformer; needs the extra `sentence`."""

from typing import Any

import jax
import jax.numpy as jnp

from covjax.errors import InputError
from covjax.extras import need
from covjax.pooling.base import get_pooler

PURPOSE = "covjax.pooling.sentence: a pooling module of sentence-transformers"
torch: Any = need("torch", "sentence", PURPOSE)
Module: Any = need("sentence_transformers.base.modules", "sentence", PURPOSE).Module


class SentencePooling(Module):
    """Token embeddings pooled by covjax: `SentenceTransformer(modules=[transformer, SentencePooling(384)])`.

    The pooler sees what sentence-transformers' own poolings see: raw tokens of the attention mask, special ones and
    prompts included. It has no gradient in PyTorch, so it embeds and does not train. A saved model is loaded with
    `trust_remote_code=True`, as that library asks for every module that is not its own.

    Args:
        embedding_dimension: features of a token.
        pooler: one of `covjax.pooler_names()`, without parameters of its own.
        options: of the pooler, as `covjax.get_pooler` takes them.

    Raises InputError for an unknown pooler or option, and at `forward` where a gradient is asked for.
    """

    config_keys = ("embedding_dimension", "pooler", "options")

    def __init__(self, embedding_dimension: int, pooler: str = "log_covariance", options: dict[str, Any] | None = None):
        super().__init__()
        self.embedding_dimension, self.pooler, self.options = embedding_dimension, pooler, options or {}
        self._pool = jax.jit(jax.vmap(get_pooler(pooler, **self.options)))
        example = jax.ShapeDtypeStruct((1, 4, embedding_dimension), jnp.float32)
        self._width = jax.eval_shape(self._pool, example, jax.ShapeDtypeStruct((1, 4), jnp.float32)).shape[1]

    def get_embedding_dimension(self) -> int:
        """How many numbers a sentence's vector has."""
        return self._width

    def forward(self, features: Any, **_: Any) -> Any:
        """Add `sentence_embedding`, float32, on the device of the token embeddings."""
        tokens = features["token_embeddings"]
        if torch.is_grad_enabled() and tokens.requires_grad:
            raise InputError("SentencePooling: no gradient goes through it; use model.encode, or torch.no_grad()")
        if "cu_seq_lens_q" in features:
            raise InputError("SentencePooling: flattened batches (flash attention without padding) are not pooled")
        rows, length, _features = tokens.shape
        # Powers of two: few shapes, each of which is compiled once.
        more = (0, _power(length) - length), (0, _power(rows) - rows)
        x = torch.nn.functional.pad(tokens.float(), (0, 0, *more[0], *more[1]))
        weights = torch.nn.functional.pad(features["attention_mask"].float(), (*more[0], *more[1]))
        pooled = self._pool(jnp.asarray(x.cpu().numpy()), jnp.asarray(weights.cpu().numpy()))
        features["sentence_embedding"] = torch.from_dlpack(pooled)[:rows].to(tokens.device)
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the arguments into a folder."""
        self.save_config(output_path)


def _power(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
