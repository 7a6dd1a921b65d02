"""Second-moment (covariance) pooling of frozen foundation-model embeddings, in JAX."""

from covjax.chunked import chunked_projected_moment
from covjax.controls import shuffle_features
from covjax.errors import InputError
from covjax.gram import gram
from covjax.moments import Moments, merge, moments, psum_merge, streaming_moments
from covjax.newton_schulz import newton_schulz_sqrt, spectral_compression
from covjax.packed import pack_blocks, packed_moments, packed_projected_moment
from covjax.pooling import Pooler, get_pooler, pooler_names
from covjax.projected import projected_moment
from covjax.shrinkage import shrink
from covjax.sketch import random_maclaurin, random_projection, tensor_sketch
from covjax.spectral import psd_log, psd_power, psd_sqrt
from covjax.vectorize import augmented_moment, unvech, vech
from covjax.whole import second_moment

__all__ = [
    "InputError",
    "Moments",
    "Pooler",
    "augmented_moment",
    "chunked_projected_moment",
    "get_pooler",
    "gram",
    "merge",
    "moments",
    "newton_schulz_sqrt",
    "pack_blocks",
    "packed_moments",
    "packed_projected_moment",
    "pooler_names",
    "projected_moment",
    "psd_log",
    "psd_power",
    "psd_sqrt",
    "psum_merge",
    "random_maclaurin",
    "random_projection",
    "second_moment",
    "shrink",
    "shuffle_features",
    "spectral_compression",
    "streaming_moments",
    "tensor_sketch",
    "unvech",
    "vech",
]
