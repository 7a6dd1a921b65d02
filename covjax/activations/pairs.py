"""Tokens of pairs of sequences: the difference of aligned tokens, or both sequences' tokens."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from covjax.activations.encoded import EncodedTokens
from covjax.activations.tokens import ArrayTokens
from covjax.controls import shuffle_features
from covjax.encoders import Encoder, tokenize
from covjax.errors import InputError


class PairTokens(ArrayTokens):
    """The tokens of pairs at one layer of an encoder, which reads every distinct sequence once.

    "difference": second minus first sequence, token by token, on the tokens at most `window` places from one whose id
    differs (0: that one alone; None: all of them). "both": the first sequence's tokens, one masked token, the second's;
    `sides` parts them. An encoder's special tokens are in neither. All tokens must fit in `max_gib`.

    Raises InputError, when the tokens are first asked for, where these do not fit, and for a difference of pairs with
    other numbers of tokens or without a token that differs.
    """

    def __init__(
        self,
        encoder: Encoder,
        first: Sequence[str],
        second: Sequence[str],
        layer: int,
        kind: str,
        window: int | None = None,
        token_budget: int = 16384,
        max_gib: float = 2.0,
        mesh: Mesh | None = None,
        place: Callable[[int], str] = "pair {}".format,
    ):
        self.kind, self.window, self.place = kind, window, place
        row = {sequence: number for number, sequence in enumerate(dict.fromkeys([*first, *second]))}
        self._single = EncodedTokens(encoder, list(row), layer, token_budget, max_gib, mesh)
        self.rows = np.array([[row[a], row[b]] for a, b in zip(first, second, strict=True)])
        self.encoder, self.layer, self.name, self.features = encoder, layer, encoder.name, self._single.features
        self.gib, self.fits = self._single.gib, self._single.fits
        self.weights_gib = self._single.weights_gib
        self._places: dict[int, Int[np.ndarray, n]] = {}
        self._ready = False
        letters = self._single.lengths[self.rows]
        self._plan(letters.sum(1).tolist() if kind == "both" else letters[:, 0].tolist(), token_budget, mesh)
        self._kept = _Kept(self)  # type: ignore[assignment]

    def pair(self, row: int) -> Float[np.ndarray, "t d"]:
        """The tokens of one pair; of "both" with a token of zeros between the sequences."""
        if not self._ready:
            self.require_kept("a comparison of pairs")
            for _ in self._single.walk("encode pairs"):
                pass
            self._single.collect()
            self._ready = True
        first, second = self._single.kept(self.rows[row])
        if self.kind == "both":
            return np.concatenate([first, np.zeros((1, self.features), np.float32), second])
        near = self._near(row)  # refuses sequences of different numbers of tokens
        return (second - first)[near]

    def median_tokens(self) -> float:
        """See `ArrayTokens.median_tokens`; the encoder does not run."""
        if self.kind == "both":
            return float(np.median(self._single.token_counts[self.rows].sum(1) + 1))
        return float(np.median([len(self._near(row)) for row in range(len(self))]))

    def sample(self, rows: Int[np.ndarray, "b"], length: int) -> tuple[np.ndarray, np.ndarray]:
        """See `ArrayTokens.sample`; the token between two sequences has the weight 0."""
        tokens, weights = super().sample(rows, length)
        if self.kind == "both":
            weights[np.arange(len(rows)), [len(self._single.kept(self.rows[row, :1])[0]) for row in rows]] = 0
        return tokens, weights

    def collect(self) -> None:
        """Nothing to bring: every process has all sequences' tokens."""

    def _counts(self, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        return np.array([len(self.pair(row)) for row in rows])

    def _near(self, row: int) -> Int[np.ndarray, "n"]:
        if row not in self._places:
            self._places[row] = self._window(row)
        return self._places[row]

    def _window(self, row: int) -> Int[np.ndarray, "n"]:
        """Places of the tokens near one that differs."""
        tokens, _, pool = tokenize(self.encoder, [self._single.sequences[i] for i in self.rows[row]])
        first, second = (ids[own] for ids, own in zip(tokens, pool))
        if len(first) != len(second):
            raise InputError(
                f"{self.place(row)}: pair difference needs as many tokens in both sequences, but there are "
                f"{len(first)} and {len(second)}; give --pair both, or an encoder whose tokens are letters"
            )
        changed = np.flatnonzero(first != second)
        if not len(changed):
            raise InputError(f"{self.place(row)}: the encoder reads both sequences as the same tokens; leave it out")
        places = np.arange(len(first))
        if self.window is None:
            return places
        after = np.searchsorted(changed, places)
        near = np.minimum(
            np.abs(places - changed[np.minimum(after, len(changed) - 1)]),
            np.abs(places - changed[np.maximum(after - 1, 0)]),
        )
        return places[near <= self.window]


class _Kept:
    """Tokens by number of the pair, made when they are asked for."""

    def __init__(self, tokens: PairTokens):
        self._tokens = tokens

    def __getitem__(self, row: int) -> Float[np.ndarray, "t d"]:
        return self._tokens.pair(int(row))


def sides(w: Float[Array, "tokens"]) -> tuple[Float[Array, "tokens"], Float[Array, "tokens"]]:
    """Weights of the first and of the second sequence of a pair, which one token of weight 0 parts."""
    is_first = jnp.cumsum(w <= 0) == 0
    return jnp.where(is_first, w, 0), jnp.where(is_first, 0, w)


def shuffle_sides(
    x: Float[Array, "tokens features"], w: Float[Array, "tokens"], key: Array
) -> Float[Array, "tokens features"]:
    """`shuffle_features` of each sequence of a pair by itself."""
    first, second = sides(w)
    return shuffle_features(shuffle_features(x, first, key), second, key)


def both_sides(p: Float[Array | np.ndarray, "*n k"], q: Float[Array | np.ndarray, "*n k"]) -> Float[Array, "*n 3*k"]:
    """Sum, absolute difference and product of two pools, side by side: the same whichever comes first."""
    return jnp.concatenate([p + q, jnp.abs(p - q), p * q], axis=-1)
