"""From sequences, or activations, to one vector each, by a recipe of the comparison: `Embedder`."""

import inspect
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from covjax import encoders
from covjax.activations import ArrayTokens, EncodedTokens
from covjax.embedding.fitted import FittedRecipe, fit_recipe, load_fitted
from covjax.encoders.base import layer_index
from covjax.errors import InputError, shown
from covjax.options import check_options
from covjax.recipes import RecipeSettings, get_recipe


class Embedder:
    """Embed sequences with a frozen encoder and a recipe: `fit` on some, then one vector for any.

    A scikit-learn transformer, without needing scikit-learn. `fit` learns, without labels, what the recipe needs from
    the training tokens: their mean and deviation, and where it has them a basis, a sparse autoencoder, components. The
    defaults are those of `covjax compare`, so the vectors are those of its row of the same name.

    Args:
        encoder: name, folder or hub id, as `covjax.encoders.load` takes it, or an encoder. Not used for activations.
        recipe: one of `covjax.recipe_names()`.
        layer: whose tokens are pooled, counted from 0; −1 is the last.
        eps: ε of log(Σ + εI), on standardised tokens.
        ridge: added to the eigenvalues before the square root.
        token_budget: tokens of one batch through the encoder.
        max_memory_gib: token activations kept in memory; beyond it the encoder runs at every pass.
        cache: folder for token activations, by the digests of weights and sequence: what is there is not encoded again.
        seed: of random bases, autoencoders and shuffles.

    Raises InputError at `fit`, naming the argument, for values that are not allowed.
    """

    def __init__(
        self,
        encoder: Any = "unirep-64",
        recipe: str = "log_covariance",
        *,
        layer: int = -1,
        eps: float = 0.01,
        ridge: float = 1e-6,
        token_budget: int = 16384,
        max_memory_gib: float = 2.0,
        cache: str | Path | None = None,
        seed: int = 0,
    ):
        self.encoder = encoder
        self.recipe = recipe
        self.layer = layer
        self.eps = eps
        self.ridge = ridge
        self.token_budget = token_budget
        self.max_memory_gib = max_memory_gib
        self.cache = cache
        self.seed = seed

    def fit(self, X: Any, y: Any = None, *, mask: Any = None) -> "Embedder":
        """Learn what the recipe needs from training sequences or activations; labels are not looked at.

        Args:
            X: sequences (a list of texts); or activations: arrays (tokens, features) of any lengths, one array
                (n, tokens, features), from NumPy, JAX or PyTorch, a `TokenStore`, or an iterator of arrays.
            y: ignored.
            mask: for one array (n, tokens, features): true on the tokens that count.

        Raises InputError for no sequences, unknown letters, wrong shapes, NaN, and options that are not allowed.
        """
        recipes = get_recipe(self.recipe, self._settings())
        tokens = self._tokens(X, mask)
        with tempfile.TemporaryDirectory() as folder:
            every = np.arange(len(tokens))
            self.fitted_ = fit_recipe(recipes, tokens, every, self.seed, Path(folder), {"source": tokens.name})
        self.encoder_digest_ = tokens.encoder.weights_digest if isinstance(tokens, EncodedTokens) else None
        self.n_features_in_ = 1 if isinstance(tokens, EncodedTokens) else tokens.features
        return self

    def transform(self, X: Any, *, mask: Any = None) -> Float[np.ndarray, "n k"]:
        """Embed sequences or activations: one vector each, float32, in the order given; arguments as in `fit`.

        Raises InputError before `fit`, for another encoder or number of features than at `fit`, and as `fit`.
        """
        fitted = self._fitted()
        tokens = self._tokens(X, mask)
        digest = tokens.encoder.weights_digest if isinstance(tokens, EncodedTokens) else None
        if digest and self.encoder_digest_ and digest != self.encoder_digest_:
            raise InputError(f"encoder: the weights of {tokens.name} are not those that were fitted on; fit again")
        return fitted.transform(tokens)

    encode = transform

    def fit_transform(self, X: Any, y: Any = None, *, mask: Any = None) -> Float[np.ndarray, "n k"]:
        """Fit on sequences or activations and embed the same ones."""
        X = X if isinstance(X, Sequence) or hasattr(X, "shape") or hasattr(X, "lengths") else list(X)
        return self.fit(X, y, mask=mask).transform(X, mask=mask)

    def save(self, path: str | Path) -> None:
        """Write the fitted state, with recipe, encoder's name and digest, and layer, as one folder."""
        more = {name: value for name, value in self.get_params().items() if name not in ("encoder", "cache")}
        name = self.encoder if isinstance(self.encoder, str) else getattr(self.encoder, "name", None)
        record = {"embedder": more, "encoder": None if self.encoder_digest_ is None else str(name)}
        self._fitted().save(path, record | {"encoder_digest": self.encoder_digest_})

    @classmethod
    def load(cls, path: str | Path, encoder: Any = None) -> "Embedder":
        """Read what `save` wrote; the encoder is loaded by its name at first use, or is the one given here.

        Raises InputError for a folder that holds no embedder, and changed, cut or missing files.
        """
        fitted, more = load_fitted(path)
        if "embedder" not in more:
            raise InputError(f"{path}: a fitted recipe, but no embedder's")
        out = cls(encoder if encoder is not None else more["encoder"] or "unirep-64", **more["embedder"])
        out.fitted_, out.encoder_digest_ = fitted, more["encoder_digest"]
        out.n_features_in_ = fitted.features if more["encoder_digest"] is None else 1
        return out

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Every argument of the constructor by name, as scikit-learn asks for them."""
        return {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }

    def set_params(self, **params: Any) -> "Embedder":
        """Set arguments of the constructor; InputError for one that it does not have."""
        for name, value in params.items():
            if name not in (allowed := self.get_params()):
                raise InputError(f"Embedder has no parameter {shown(name)}; there are {', '.join(allowed)}")
            setattr(self, name, value)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the vector's numbers: the recipe's name and a counter, as scikit-learn asks for them."""
        width = self._fitted().width
        return np.array([f"{self.recipe}_{i}" for i in range(width)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fitted_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        tags = InputTags(two_d_array=False, three_d_array=True, string=True)
        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=[]),
            input_tags=tags,
        )

    def __repr__(self) -> str:
        default = inspect.signature(type(self).__init__).parameters
        given = [f"{k}={v!r}" for k, v in self.get_params().items() if k == "encoder" or v != default[k].default]
        return f"Embedder({', '.join(given)})"

    def _settings(self) -> RecipeSettings:
        settings = RecipeSettings(eps=self.eps, ridge=self.ridge, seeds=(self.seed,))
        check_options(settings)
        return settings

    def _fitted(self) -> FittedRecipe:
        if not hasattr(self, "fitted_"):
            raise InputError("Embedder is not fitted yet; call fit(sequences) first, or Embedder.load(folder)")
        return self.fitted_

    def _tokens(self, X: Any, mask: Any) -> ArrayTokens:
        local = jax.local_devices()
        mesh = Mesh(np.array(local), ("sequences",)) if len(local) > 1 else None
        if isinstance(X, ArrayTokens):
            return X
        given = X if hasattr(X, "shape") or hasattr(X, "lengths") or isinstance(X, str | bytes) else list(X)
        if isinstance(given, list) and given and all(isinstance(each, str) for each in given):
            loaded = encoders.load(str(self.encoder)) if isinstance(self.encoder, str | Path) else self.encoder
            layer = layer_index(self.layer, loaded.num_layers)
            sequences = [str(each) for each in given]
            return EncodedTokens(loaded, sequences, layer, self.token_budget, self.max_memory_gib, mesh, self.cache)
        return ArrayTokens(list(_arrays(given, mask)), self.token_budget, mesh)


def _arrays(given: Any, mask: Any) -> Iterator[np.ndarray]:
    """Activations of any kind as arrays (tokens, features), one a sequence."""
    if isinstance(given, str | bytes):
        raise InputError(f"X: one text, {shown(given, 40)}; give a list of sequences")
    if hasattr(given, "read") and hasattr(given, "lengths"):  # a TokenStore, or what behaves like one
        yield from (array for start in range(0, len(given.lengths), 64) for array in _read(given, start))
        return
    if hasattr(given, "shape"):
        whole = _numpy(given)
        if whole.ndim != 3:
            raise InputError(f"X: an array of shape {whole.shape}; expected (n, tokens, features), or a list")
        keep = np.ones(whole.shape[:2], bool) if mask is None else _numpy(mask).astype(bool)
        if keep.shape != whole.shape[:2]:
            raise InputError(f"mask: shape {keep.shape}, expected {whole.shape[:2]}, one entry per token")
        yield from (x[kept] for x, kept in zip(whole, keep))
        return
    if mask is not None:
        raise InputError("mask: only for one array (n, tokens, features); leave out the tokens that do not count")
    yield from map(_numpy, given)


def _read(store: Any, start: int) -> Iterable[np.ndarray]:
    return store.read(range(start, min(start + 64, len(store.lengths))))


def _numpy(array: Any) -> np.ndarray:
    """NumPy of NumPy, JAX and PyTorch arrays, bfloat16 and gradients included."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if "bfloat16" in str(array.dtype):
            array = array.float()
        return array.numpy()
    if isinstance(array, str):
        raise InputError(f"X: a text among activations, {shown(array, 40)}; give sequences or arrays, not both")
    return np.asarray(array)
