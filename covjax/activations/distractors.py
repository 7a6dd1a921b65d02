"""Tokens of other sequences appended to some sequences: does a pool still see what it saw?"""

import itertools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from covjax.activations.tokens import ArrayTokens, Batch, alike, with_progress
from covjax.errors import InputError


def foreign_count(tokens: int, share: float) -> int:
    """How many foreign tokens beside so many of its own make up a share of the whole, to the nearest token."""
    return round(tokens * share / (1 - share))


class DistractedTokens(ArrayTokens):
    """The tokens of a source, and after its rows those of chosen `rows` with tokens of others behind them.

    Row n + i·len(rows) + j has the tokens of `rows[j]`, and behind them so many that `shares[i]` of all are foreign.
    They are those of the other chosen rows in random order, cut where there are enough; a sequence of the row's own
    group (`groups`, one a row of the source) gives none. The order of a row is the same at every share.

    Raises InputError where the tokens are not in memory, are of pairs, lie in several processes, or where all chosen
    rows are of one group.
    """

    fits = True

    def __init__(
        self,
        source: ArrayTokens,
        rows: Int[np.ndarray, "m"],
        groups: Sequence[str],
        shares: Sequence[float],
        seed: int = 0,
    ):
        source.require_kept("--distractors")
        if source.kind:
            raise InputError("distractors: they are not defined for pairs; leave --distractors out")
        if jax.process_count() > 1:
            raise InputError("distractors: they need all tokens in one process; leave --distributed out")
        codes = np.unique([groups[row] for row in rows], return_inverse=True)[1]
        if codes.max() == 0:
            raise InputError("distractors: all test sequences are of one group, so that none has another's tokens")
        self.source, self.features, self.name = source, source.features, source.name
        self.has_special, self.gib = source.has_special, source.gib
        self.weights_gib = source.weights_gib
        self._rows, self._shares = np.tile(rows, len(shares)), np.repeat(shares, len(rows))
        self._chosen, self._codes, self._seed = rows, codes, seed
        lengths = np.asarray(source.lengths)
        added = np.ceil(lengths[self._rows] / (1 - self._shares)).astype(lengths.dtype)
        self._plan([*lengths, *added], source.token_budget, source.mesh)

    def walk(self, stage: str) -> Iterator[Batch]:
        """See `ArrayTokens.walk`: the source's rows in the source's batches, then the others."""
        yield from self.source.walk(stage)
        if self.has_special:
            special = self.source._special
            self._special = np.concatenate([special, special[self._rows]])
        added = np.arange(len(self.source), len(self))
        yield from with_progress(stage, self._padded(added), len(added))

    def kept(self, rows: Int[np.ndarray, "n"]) -> list[Float[np.ndarray, "_ features"]]:
        """See `ArrayTokens.kept`."""
        return alike([self._one(row) for row in rows])

    def mixed(self, rows: Int[np.ndarray, "n"], token_budget: int) -> Iterator[Batch]:
        """See `ArrayTokens.mixed`, of the source's rows alone."""
        return self.source.mixed(rows, token_budget)

    def median_tokens(self) -> float:
        """The source's."""
        return self.source.median_tokens()

    def _order(self, j: int) -> Int[np.ndarray, "others"]:
        """The rows whose tokens are appended to the chosen row j; drawn each time, since all orders are m² numbers."""
        others = self._chosen[self._codes != self._codes[j]]
        return np.random.default_rng([self._seed, self._chosen[j]]).permutation(others)

    def _one(self, row: int) -> Float[np.ndarray, "t features"]:
        place = row - len(self.source)
        if place < 0:
            return self.source.kept(np.array([row]))[0]
        (own,) = self.source.kept(self._rows[[place]])
        parts, missing = [own], foreign_count(len(own), self._shares[place])
        for other in itertools.cycle(self._order(place % len(self._chosen))):
            if missing == 0:
                break
            parts.append(self.source.kept(np.array([other]))[0][:missing])
            missing -= len(parts[-1])
        return np.concatenate(alike(parts))

    def _counts(self, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        places = rows - len(self.source)
        own = self.source._counts(np.where(places < 0, rows, self._rows[places]))
        shares = np.where(places < 0, 0, self._shares[places])
        return own + np.array([foreign_count(*pair) for pair in zip(own.tolist(), shares.tolist())])
