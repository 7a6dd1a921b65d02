"""Second-moment (covariance) pooling of frozen foundation-model embeddings, in JAX."""

from covjax.jobs.stop import stop_while_importing

stop_while_importing()  # before the seconds that JAX's import takes

# ruff: noqa: E402
import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covjax import autoencoders as autoencoders
    from covjax import data as data
    from covjax import encoders as encoders
    from covjax import metrics as metrics
    from covjax import probes as probes
    from covjax import sharding as sharding
    from covjax.collapse import second_order_collapse as second_order_collapse
    from covjax.comparison.api import compare as compare
    from covjax.controls import shuffle_features as shuffle_features
    from covjax.dashboards.build import dashboard as dashboard
    from covjax.embedder import Embedder as Embedder
    from covjax.errors import InputError as InputError
    from covjax.explanation.explain import explain as explain
    from covjax.gram import gram as gram
    from covjax.moments import Moments as Moments
    from covjax.moments import merge as merge
    from covjax.moments import moments as moments
    from covjax.moments import psum_merge as psum_merge
    from covjax.moments import second_moment as second_moment
    from covjax.moments import streaming_moments as streaming_moments
    from covjax.packed import pack_blocks as pack_blocks
    from covjax.packed import packed_moments as packed_moments
    from covjax.packed import packed_projected_moment as packed_projected_moment
    from covjax.pooling import Pooler as Pooler
    from covjax.pooling import get_pooler as get_pooler
    from covjax.pooling import pooler_names as pooler_names
    from covjax.projected import chunked_projected_moment as chunked_projected_moment
    from covjax.projected import projected_moment as projected_moment
    from covjax.recipes import recipe_names as recipe_names
    from covjax.shrinkage import shrink as shrink
    from covjax.sketch import random_maclaurin as random_maclaurin
    from covjax.sketch import random_projection as random_projection
    from covjax.sketch import tensor_sketch as tensor_sketch
    from covjax.spectral import newton_schulz_sqrt as newton_schulz_sqrt
    from covjax.spectral import psd_log as psd_log
    from covjax.spectral import psd_power as psd_power
    from covjax.spectral import psd_sqrt as psd_sqrt
    from covjax.spectral import spectral_compression as spectral_compression
    from covjax.vectorize import augmented_moment as augmented_moment
    from covjax.vectorize import unvech as unvech
    from covjax.vectorize import vech as vech

# Module of every public name. It is imported at the first use of one, so that `covjax --help` waits for nothing.
_HOMES = {
    "collapse": ("second_order_collapse",),
    "comparison.api": ("compare",),
    "controls": ("shuffle_features",),
    "dashboards.build": ("dashboard",),
    "embedder": ("Embedder",),
    "errors": ("InputError",),
    "explanation.explain": ("explain",),
    "gram": ("gram",),
    "moments": ("Moments", "merge", "moments", "psum_merge", "second_moment", "streaming_moments"),
    "packed": ("pack_blocks", "packed_moments", "packed_projected_moment"),
    "pooling": ("Pooler", "get_pooler", "pooler_names"),
    "projected": ("chunked_projected_moment", "projected_moment"),
    "recipes": ("recipe_names",),
    "shrinkage": ("shrink",),
    "sketch": ("random_maclaurin", "random_projection", "tensor_sketch"),
    "spectral": ("newton_schulz_sqrt", "psd_log", "psd_power", "psd_sqrt", "spectral_compression"),
    "vectorize": ("augmented_moment", "unvech", "vech"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
_PACKAGES = ("autoencoders", "data", "encoders", "metrics", "probes", "sharding")


__all__ = sorted(_MODULES)

if TYPE_CHECKING:
    __version__: str
else:  # a type checker would take every name for one that `__getattr__` knows

    def __getattr__(name: str) -> Any:
        if name in _PACKAGES:
            return importlib.import_module(f"covjax.{name}")
        if name in _MODULES:
            value = getattr(importlib.import_module(f"covjax.{_MODULES[name]}"), name)
        elif name == "__version__":
            value = _version()
        else:
            raise AttributeError(f"module 'covjax' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("covjax")
    except PackageNotFoundError:  # a copy on the path that was never installed
        return "unknown"


class _Package(ModuleType):
    """The import system binds a module under its name; `gram` and `moments` are the functions called like theirs."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _MODULES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
