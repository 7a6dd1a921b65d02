"""Second-moment (covariance) pooling of frozen foundation-model embeddings, in JAX."""

from covjax.controls import shuffle_features
from covjax.errors import InputError
from covjax.moments import Moments, merge, moments, psum_merge, streaming_moments
from covjax.pooling import Pooler, get_pooler, pooler_names
from covjax.projected import projected_moment
from covjax.spectral import psd_log, psd_power, psd_sqrt
from covjax.vectorize import augmented_moment, unvech, vech

__all__ = [
    "InputError",
    "Moments",
    "Pooler",
    "augmented_moment",
    "get_pooler",
    "merge",
    "moments",
    "pooler_names",
    "projected_moment",
    "psd_log",
    "psd_power",
    "psd_sqrt",
    "psum_merge",
    "shuffle_features",
    "streaming_moments",
    "unvech",
    "vech",
]
