"""`Embedder`: one vector for each sequence, or for its activations, by one of the recipes."""

import dataclasses
import inspect
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from covjax import encoders
from covjax.activations import ArrayTokens, EncodedTokens, GivenActivations, GivenTokens, PairTokens
from covjax.embedding.fitted import FittedRecipe, fit_recipe, load_fitted
from covjax.encoders.base import layer_index
from covjax.encoders.loading import TORCH
from covjax.errors import InputError, shown
from covjax.inputs import host_array
from covjax.notes import note
from covjax.options import check_options, option
from covjax.recipes import RecipeSettings, get_recipe
from covjax.recipes.base import Components

PAIRS = "pairs:"  # in a digest: what was fitted is of pairs of sequences


class Embedder:
    """Embed sequences with a frozen encoder and a recipe: `fit` on some sequences, then `encode` any.

    It is a scikit-learn transformer, but does not need scikit-learn. `fit` learns, without labels, what the recipe
    needs from the training tokens: their mean and deviation, and for some recipes a basis, a sparse autoencoder or
    principal components. The defaults are those of `covjax compare`, so the vectors equal its row of the same name.

    Args:
        encoder: a name, folder or hub id for `covjax.encoders.load`, or an encoder object. Not used for activations.
        recipe: one of `covjax.recipe_names()`.
        layer: the layer whose tokens are pooled, counted from 0; −1 is the last.
        eps: ε of log(Σ + εI), on standardised tokens.
        ridge: what is added to the eigenvalues before the square root.
        token_budget: tokens in one batch of the encoder.
        max_memory_gib: most token activations kept in memory; if there are more, the encoder runs at every pass.
        cache: folder for token activations; sequences that are already in it are not encoded again. Activations are
            found by the digests of the weights and of the sequence.
        seed: seed of random bases, autoencoders and shuffles.

    `fit` raises InputError for a value that is not allowed, naming the argument.
    """

    fitted_: FittedRecipe
    encoder_digest_: str | None
    layer_: int | None
    n_features_in_: int

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
        """Learn what the recipe needs from training sequences or activations; labels are not used.

        Args:
            X: sequences: texts in a list, tuple, array, pandas Series or generator. Or activations: NumPy, JAX or
                PyTorch arrays (tokens, features) of any lengths, also from a generator; one array (n, tokens,
                features); a `TokenStore`; or the result of `covjax.activations.read_activations`.
            y: ignored.
            mask: for one array (n, tokens, features): true for the tokens that count.

        Raises InputError for no sequences, unknown letters, wrong shapes, NaN, and options that are not allowed.
        """
        recipes = get_recipe(str(self.recipe), self._settings())
        tokens = self._tokens(X, mask)
        with tempfile.TemporaryDirectory() as folder:
            every = np.arange(len(tokens))
            fitted = fit_recipe(recipes, tokens, every, self.seed, Path(folder), {"source": tokens.name})
        if not fitted.width:
            raise InputError(f"X: all {len(tokens)} vectors are equal, so {self.recipe!r} has no components of them")
        if isinstance(recipes[-1], Components) and fitted.width < recipes[-1].count:
            note(f"note: {self.recipe}: {fitted.width} components, all that {len(tokens):,} sequences have")
        return self.adopt(fitted, *origin(tokens))

    def transform(self, X: Any, *, mask: Any = None) -> Float[np.ndarray, "n k"]:
        """Embed sequences or activations: one float32 vector each, in the order given; arguments as in `fit`.

        Raises InputError if `fit` has not been called, if the encoder, layer or number of features has changed since
        then, and as `fit` does.
        """
        return self._fitted().transform(self.tokens(X, mask=mask))

    encode = transform

    def tokens(self, X: Any, *, mask: Any = None) -> ArrayTokens:
        """The tokens that `transform` pools, before they are standardised.

        Raises InputError as `transform`.
        """
        fitted = self._fitted()
        tokens = self._tokens(X, mask)
        digest, layer = origin(tokens)
        if digest and self.encoder_digest_ is None:
            raise InputError("X: texts, but the recipe was fitted on activations; give activations of the same model")
        if digest and PAIRS in str(self.encoder_digest_) and PAIRS not in digest:
            raise InputError(
                "X: fitted on pairs of sequences, not on single ones; predict with that comparison's model"
            )
        if digest and digest != self.encoder_digest_:
            raise InputError(
                f"encoder: the weights of {tokens.name} are not those that were fitted on; give the same encoder, "
                "or fit again"
            )
        if layer is not None and self.layer_ is not None and layer != self.layer_:
            raise InputError(f"layer: {layer}, but layer {self.layer_} was fitted on; fit again")
        fitted.check(tokens)
        return tokens

    def fit_transform(self, X: Any, y: Any = None, *, mask: Any = None) -> Float[np.ndarray, "n k"]:
        """Fit on sequences or activations and embed the same ones."""
        X = _listed(X)
        return self.fit(X, y, mask=mask).transform(X, mask=mask)

    def save(self, path: str | Path) -> None:
        """Write the fitted state into one folder, with the recipe, the encoder's name and digest, and the layer.

        Raises InputError if `fit` has not been called or the folder cannot be written.
        """
        fitted = self._fitted()
        more = {name: value for name, value in self.get_params().items() if name not in ("encoder", "cache")}
        more["recipe"] = fitted.recipe.name
        if self.layer_ is not None:
            more["layer"] = self.layer_
        name = None
        if self.encoder_digest_ is not None:
            if not isinstance(self.encoder, str | os.PathLike):
                name = self.encoder.name
            else:
                name = os.fspath(self.encoder)
                start = TORCH if name.startswith(TORCH) else ""
                if os.path.exists(folder := name.removeprefix(start)):  # found from wherever the state is read
                    name = start + os.path.abspath(folder)
        record = {"embedder": more, "encoder": name, "encoder_digest": self.encoder_digest_, "layer": self.layer_}
        fitted.save(path, record)

    @classmethod
    def load(cls, path: str | Path, encoder: Any = None) -> "Embedder":
        """Read what `save` wrote; the encoder is loaded by its name when it is first used, or is the one given here.

        Raises InputError if the folder holds no embedder, or its files are changed, truncated or missing.
        """
        fitted, more = load_fitted(path)
        if "embedder" not in more:
            raise InputError(f"{path}: a fitted recipe, but no embedder's")
        out = cls(encoder if encoder is not None else more["encoder"] or "unirep-64", **more["embedder"])
        return out.adopt(fitted, more["encoder_digest"], more["layer"])

    def adopt(self, fitted: FittedRecipe, encoder_digest: str | None, layer: int | None) -> "Embedder":
        """Take over a fitted state; the digest and layer are the encoder's, or None for given activations."""
        self.fitted_, self.encoder_digest_, self.layer_ = fitted, encoder_digest, layer
        if encoder_digest is None:  # scikit-learn's name for the width of what is given; texts have none
            self.n_features_in_ = fitted.features
        elif hasattr(self, "n_features_in_"):
            del self.n_features_in_
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Every argument of the constructor by name, as scikit-learn expects."""
        return {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }

    def set_params(self, **params: Any) -> "Embedder":
        """Set arguments of the constructor; raises InputError for an unknown one."""
        for name, value in params.items():
            if name not in (allowed := self.get_params()):
                raise InputError(f"Embedder has no parameter {shown(name)}; there are {', '.join(allowed)}")
            setattr(self, name, value)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the numbers in a vector: the recipe's name and a counter, as scikit-learn expects."""
        fitted = self._fitted()
        return np.array([f"{fitted.recipe.name}_{i}" for i in range(fitted.width)], dtype=object)

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
        if not isinstance(self.cache, str | os.PathLike | None):
            raise InputError(f"cache: {shown(self.cache)} is not a path of a folder")
        check_options(_Options(self.layer, self.token_budget, self.max_memory_gib, self.seed))
        settings = RecipeSettings(eps=self.eps, ridge=self.ridge, seeds=(self.seed,))
        check_options(settings)
        return settings

    def _fitted(self) -> FittedRecipe:
        if not hasattr(self, "fitted_"):
            raise InputError("Embedder is not fitted yet; call fit(sequences) first, or Embedder.load(folder)")
        return self.fitted_

    def _tokens(self, X: Any, mask: Any) -> ArrayTokens:
        if isinstance(X, ArrayTokens):
            return X
        local = jax.local_devices()
        mesh = Mesh(np.array(local), ("sequences",)) if len(local) > 1 else None
        if isinstance(X, GivenActivations):
            return GivenTokens(X, None, self.token_budget, mesh)
        given = _listed(X)
        if isinstance(given, list) and any(isinstance(each, str) for each in given):
            if odd := [i for i, each in enumerate(given) if not isinstance(each, str)]:
                raise InputError(f"X: sequence {odd[0]} is {shown(given[odd[0]], 40)}, no text; all must be texts")
            if mask is not None:
                raise InputError("mask: only for one array (n, tokens, features), not for texts")
            encoder = self.load_encoder()
            layer = layer_index(self.layer, encoder.num_layers)
            sequences = [str(each) for each in given]
            return EncodedTokens(
                encoder, sequences, layer, self.token_budget, self.max_memory_gib, mesh, self.cache or None
            )
        return ArrayTokens(list(_arrays(given, mask, self.max_memory_gib)), self.token_budget, mesh)

    def load_encoder(self) -> Any:
        """The encoder itself, loaded once for every name; InputError, with the remedy, where it cannot be."""
        if not isinstance(self.encoder, str | os.PathLike):
            if not hasattr(self.encoder, "weights_digest"):
                raise InputError(f"encoder: {shown(self.encoder, 60)} is not a name, a path or an encoder")
            return self.encoder
        name = os.fspath(self.encoder)
        if self.__dict__.get("_loaded", ("", None))[0] != name:
            try:
                self._loaded = name, encoders.load(name)
            except InputError as error:
                if not hasattr(self, "fitted_"):
                    raise
                raise InputError(f"{error}; say where that encoder is now (encoder=, --encoder)") from None
        return self._loaded[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without the loaded encoder, which its name stands for."""
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}


@dataclasses.dataclass(frozen=True)
class _Options:
    """The constructor's numbers that are no recipe's, with what they may be."""

    layer: int
    token_budget: int = option(16384, "", allowed=lambda n: n >= 1, rule=">= 1")
    max_memory_gib: float = option(2.0, "", allowed=lambda gib: gib >= 0, rule=">= 0")
    seed: int = option(0, "", allowed=lambda seed: 0 <= seed < 2**32, rule="0 to 4,294,967,295")


def origin(tokens: ArrayTokens) -> tuple[str | None, int | None]:
    """Digest of the encoder's weights, and what is taken of pairs, and the layer; None of given activations."""
    if isinstance(tokens, PairTokens):
        what = tokens.kind if tokens.kind == "both" else f"{tokens.kind}, window {tokens.window}"
        return f"{tokens.encoder.weights_digest} {PAIRS} {what}", tokens.layer
    if isinstance(tokens, EncodedTokens):
        return tokens.encoder.weights_digest, tokens.layer
    return None, None


def _listed(X: Any) -> Any:
    """What can be read only once as a list; so are series and arrays of texts, or of arrays of several lengths."""
    if isinstance(X, str | bytes) or hasattr(X, "lengths"):
        return X
    if hasattr(X, "shape") and not (len(X.shape) == 1 and str(X.dtype)[:1] not in "biuf"):
        return X
    if hasattr(X, "__array__") and not hasattr(X, "shape"):
        return np.asarray(X)
    try:
        return list(X)
    except TypeError:
        raise InputError(f"X: {type(X).__name__} holds no sequences; give a list of them") from None


def _arrays(given: Any, mask: Any, max_gib: float) -> Iterator[np.ndarray]:
    """Activations of any kind as arrays (tokens, features), one a sequence."""
    if isinstance(given, str | bytes):
        raise InputError(f"X: one text, {shown(given, 40)}; give a list of sequences")
    if not hasattr(given, "lengths") and hasattr(given, "shape"):
        whole = _numpy(given, 0)
        if whole.ndim != 3:
            raise InputError(f"X: an array of shape {whole.shape}; expected (n, tokens, features), or a list")
        keep = np.ones(whole.shape[:2], bool) if mask is None else host_array(mask, "mask")
        if keep.shape != whole.shape[:2]:
            raise InputError(f"mask: shape {keep.shape}, expected {whole.shape[:2]}, one entry per token")
        if keep.dtype != bool and not np.isin(keep, (0, 1)).all():
            raise InputError("mask: booleans are needed, or 0 and 1")
        yield from (x[row] for x, row in zip(whole, keep.astype(bool)))
        return
    if mask is not None:
        raise InputError("mask: only for one array (n, tokens, features); leave out the tokens that do not count")
    if hasattr(given, "lengths"):  # a TokenStore, or activations in memory
        gib = int(np.sum(given.lengths)) * given.features * 4 / 2**30
        if gib > max_gib:
            raise InputError(f"max_memory_gib: {max_gib:g}, but the store's tokens take {gib:.2g} GiB; raise it")
        read = given.read if hasattr(given, "read") else given.__getitems__
        for start in range(0, len(given.lengths), 64):
            yield from (np.asarray(x) for x in read(range(start, min(start + 64, len(given.lengths)))))
        return
    yield from (_numpy(each, number) for number, each in enumerate(given))


def _numpy(array: Any, number: int) -> np.ndarray:
    """NumPy of NumPy, JAX and PyTorch arrays, bfloat16 and gradients included, and of nested lists."""
    if isinstance(array, str | bytes):
        raise InputError(f"X: sequence {number} is the text {shown(array, 40)} among activations; give one kind")
    return host_array(array, f"X: sequence {number}")
