"""Activations from files or memory, checked in one reading, as tokens of a comparison or an Embedder."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from covjax.activations.files import LAST, Arrays, open_arrays
from covjax.activations.tokens import ArrayTokens
from covjax.errors import InputError, shown
from covjax.jobs.distributed import is_first
from covjax.modelfiles import memory
from covjax.notes import progress


class GivenActivations:
    """Arrays (tokens, features) with their ids, lengths and digests, in the type in which they are stored.

    All are read once, one at a time: widths, numbers and lengths are checked and a digest is made of every array. They
    stay in memory where all take at most `max_gib`; otherwise each is read from its file whenever it is needed.

    Args:
        arrays: what `open_arrays` or `given_arrays` gave.
        places: which of them, in the order wanted; all by default.
        drop_first: tokens left out at the start of every array, such as a special token.
        drop_last: tokens left out at the end.

    Raises InputError, naming the id, for another width than the first's, another shape than (tokens, features), numbers
    that are not floating point, NaN or inf (also beyond float32), and no tokens.
    """

    def __init__(
        self,
        arrays: Arrays,
        places: Sequence[int] | None = None,
        drop_first: int = 0,
        drop_last: int = 0,
        max_gib: float = 2.0,
    ):
        if min(drop_first, drop_last) < 0:
            raise InputError(f"drop_first, drop_last: {drop_first} and {drop_last}; whole numbers >= 0 are needed")
        self._arrays, self._drop = arrays, (drop_first, drop_last)
        self._places = list(range(arrays.count) if places is None else places)
        self.name, self.layer, self.features = arrays.name, arrays.layer, 0
        order = arrays.ids or [str(place) for place in range(arrays.count)]
        self.ids = tuple(order[place] for place in self._places)
        self._memory: list[np.ndarray] | None = []
        lengths, digests, size, kinds = [], [], 0, set()
        for row in progress(range(len(self.ids)), desc=f"{'read':>12}", unit="seq", disable=not is_first()):
            x = self._checked(row)
            kinds.add(x.dtype.name)
            lengths.append(len(x))
            digest = hashlib.sha256(f"{x.dtype.name}{x.shape}".encode())
            digest.update(memory(np.ascontiguousarray(x)))
            digests.append(digest.hexdigest())
            size += x.nbytes
            if self._memory is not None:
                self._memory.append(x)
            if size > max_gib * 2**30:
                self._memory = None
        self.lengths = np.array(lengths, np.int64)
        self.digests, self.gib = tuple(digests), size / 2**30
        self.dtype = "+".join(sorted(kinds))
        self.identity: dict[str, Any] = self.describe(range(len(self.ids)))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fits(self) -> bool:
        """Whether they are in memory."""
        return self._memory is not None

    def read(self, rows: Sequence[int]) -> list[Float[np.ndarray, "_ features"]]:
        """Arrays of the sequences with these numbers, in the type in which they are stored."""
        if self._memory is not None:
            return [self._memory[int(row)] for row in rows]
        out = [self._checked(int(row)) for row in rows]
        for row, x in zip(rows, out):
            if len(x) != self.lengths[int(row)]:
                raise InputError(f"activations: {self.name}: id {shown(self.ids[int(row)], 60)} was changed meanwhile")
        return out

    def describe(self, rows: Sequence[int]) -> dict[str, Any]:
        """What identifies these rows: where they come from, and a digest of their ids and numbers."""
        digest = hashlib.sha256()
        for row in rows:
            digest.update(f"{self.ids[row]!r}{self.digests[row]}".encode())
        what = {"name": self.name, "layer": self.layer, "weights_digest": digest.hexdigest()}
        return what | {"dtype": self.dtype, "features": self.features, "source": "activations"}

    def _checked(self, row: int) -> np.ndarray:
        x = self._arrays.read(self._places[row])
        name = f"activations: {self.name}: id {shown(self.ids[row], 60)}"
        if x.ndim != 2 or not x.shape[1]:
            raise InputError(f"{name} has shape {x.shape}, expected (tokens, features)")
        if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
            raise InputError(f"{name} is {x.dtype}, expected floating point")
        self.features = self.features or x.shape[1]
        if x.shape[1] != self.features:
            other = shown(self.ids[0], 60)
            raise InputError(f"{name} has {x.shape[1]} features a token, but {other} has {self.features}")
        first, last = self._drop
        if len(x) <= first + last:
            why = f", of which --drop-first {first} and --drop-last {last} leave none" if first + last else ""
            raise InputError(f"{name} has {len(x)} tokens{why}")
        x = x[first : len(x) - last]
        with np.errstate(over="ignore"):
            bad = int((~np.isfinite(x.astype(np.float32, copy=False))).sum())
        if bad:
            raise InputError(f"{name} holds NaN or inf in {bad} of {x.size} numbers")
        return x


def read_activations(
    path: str | Path, layer: int = LAST, drop_first: int = 0, drop_last: int = 0, max_gib: float = 2.0
) -> GivenActivations:
    """Read activations that another program wrote, in any form that `open_arrays` knows; `Embedder` takes the result.

    Raises InputError as `open_arrays` and `GivenActivations`.
    """
    return GivenActivations(open_arrays(path, layer), None, drop_first, drop_last, max_gib)


class GivenTokens(ArrayTokens):
    """Some rows of given activations in batches, in the type in which they are stored."""

    def __init__(
        self,
        given: GivenActivations,
        rows: Sequence[int] | None = None,
        token_budget: int = 16384,
        mesh: Mesh | None = None,
    ):
        self._rows = np.arange(len(given)) if rows is None else np.asarray(rows, int)
        self.given, self.name, self.features = given, given.name, given.features
        self.fits, self.gib = given.fits, given.gib
        self._kept = _Kept(given, self._rows)  # type: ignore[assignment]
        self._plan(given.lengths[self._rows].tolist(), token_budget, mesh)

    def collect(self) -> None:
        """Nothing to bring: every process reads what it needs."""

    def _counts(self, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        return self.lengths[rows]


class _Kept:
    """Tokens by row number, from memory or file."""

    def __init__(self, given: GivenActivations, rows: Int[np.ndarray, "n"]):
        self._given, self._rows = given, rows

    def __getitem__(self, row: int) -> Float[np.ndarray, "t d"]:
        return self._given.read([self._rows[row]])[0]
