"""The tokens of an encoder over sequences: kept in memory where they fit, else made anew at every walk."""

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from covjax.activations.tokens import ArrayTokens, Batch, with_progress
from covjax.encoders import Encoder, embed, tokenize
from covjax.encoders.embed import parameter_bytes, replicate
from covjax.errors import InputError
from covjax.jobs.distributed import is_first
from covjax.notes import progress

BATCHES = 3  # of activations in memory while the encoder runs: two on their way, one being taken


class EncodedTokens(ArrayTokens):
    """The tokens of every sequence at one layer of an encoder.

    They are kept where `tokens x features x 4 bytes` is at most `max_gib`; otherwise every walk runs the encoder again,
    which costs time instead of memory. With a `mesh` the encoder runs on all of its devices.

    `cache` is a folder of activations, one file a sequence, under the digests of the weights and of the sequence: what
    lies there is not encoded again, and what does not fit in memory is read from there.

    `special` says whether a special token stands before the sequence, where that is known; see also `of_layers`.
    """

    def __init__(
        self,
        encoder: Encoder,
        sequences: Sequence[str],
        layer: int,
        token_budget: int = 16384,
        max_gib: float = 2.0,
        mesh: Mesh | None = None,
        cache: str | Path | None = None,
        special: bool | None = None,
    ):
        if mesh is not None:
            replicate(encoder, mesh)
        self.encoder, self.sequences, self.layer, self.name = encoder, sequences, layer, encoder.name
        self.features = encoder.features(layer)
        self.gib = sum(map(len, sequences)) * self.features * 4 / 2**30
        self.fits = self.gib <= max_gib
        self.weights_gib = parameter_bytes(encoder) / 2**30 if jax.default_backend() == "cpu" else 0.0
        self.cache = None if cache is None else Path(cache) / f"{encoder.weights_digest[:16]}-{layer}"
        self.has_special = self._has_special() if special is None else special
        self._pass = [self]  # all that one run of the encoder gives
        self._passes = [self._pass]
        self._kept: list[np.ndarray] | _CachedTokens = []  # type: ignore[assignment]
        self._special = np.zeros((len(sequences), self.features), np.float32)
        self._plan([len(sequence) for sequence in sequences], token_budget, mesh)

    @classmethod
    def of_layers(
        cls,
        encoder: Encoder,
        sequences: Sequence[str],
        layers: Sequence[int],
        token_budget: int = 16384,
        max_gib: float = 2.0,
        mesh: Mesh | None = None,
    ) -> dict[int, "EncodedTokens"]:
        """The tokens at several layers, by layer: the first walk over one encodes for all that fit beside it.

        At most `max_gib` are in memory at a time. Where all layers fit, the encoder runs once. Otherwise neighbours
        share a run, and their tokens go when those of others are made; a layer too large alone is as it is by itself.
        """
        special = has_special(encoder, sequences, tuple(layers))
        every = [
            cls(encoder, sequences, layer, token_budget, max_gib, mesh, special=special[layer]) for layer in layers
        ]
        passes: list[list[EncodedTokens]] = []
        total = 0.0
        for each in every:
            gib = each.gib + BATCHES * token_budget * each.features * 4 / 2**30
            if not passes or total + gib > max_gib:
                passes.append([])
                total = 0.0
            passes[-1].append(each)
            total += gib
        for members in passes:
            for each in members:
                each._pass, each._passes = members, passes
        return dict(zip(layers, every))

    @property
    def runs(self) -> int:
        """How often the encoder runs over all sequences before every layer's tokens were in memory once."""
        return len(self._passes)

    def walk(self, stage: str) -> Iterator[Batch]:
        """See `ArrayTokens.walk`; the first walk encodes."""
        stays = self.fits or self.cache is not None
        if stays and not self._kept:
            self._keep()
        fresh = (batch for (batch,) in self._encode(self.own, 1, [self]))
        yield from with_progress(stage, self._padded(self.own) if stays else fresh, len(self.own))

    def median_tokens(self) -> float:
        """See `ArrayTokens.median_tokens`."""
        return float(np.median(self.token_counts))

    @functools.cached_property
    def token_counts(self) -> Int[np.ndarray, "n"]:
        """Tokens of every sequence, special ones left out; the encoder does not run."""
        return np.array([tokenize(self.encoder, [each])[2].sum() for each in self.sequences])

    def _keep(self) -> None:
        for members in self._passes:
            for each in members if members is not self._pass else ():
                each._kept = []
        members = [each for each in self._pass if each.fits or each.cache is not None]
        kept = [[np.zeros((0, each.features), np.float32)] * len(self) if each.fits else [] for each in members]
        missing = []
        for row in self.own:
            if (known := self._cached(row)) is None:
                missing.append(row)
                continue
            self._special[row] = known[0]
            if self.fits:
                kept[0][row] = known[1:]
        with progress(total=len(missing), desc=f"{'encode':>12}", unit="seq", disable=not is_first()) as bar:
            for batches in self._encode(np.array(missing, int), 2, members):
                for each, own, batch in zip(members, kept, batches):
                    each._take(batch, own)
                bar.update(len(batches[0].rows))
        for each, own in zip(members, kept):
            each._kept = own if each.fits else _CachedTokens(list(map(each._file, range(len(each)))))

    def _take(self, batch: Batch, kept: list[np.ndarray]) -> None:
        """Keep the tokens of a batch, in memory or in their files."""
        for place, row in enumerate(batch.rows):
            tokens = batch.tokens[place][batch.weights[place] > 0]
            if batch.special is not None:
                self._special[row] = batch.special[place]
            self._write(row, tokens)
            if self.fits:
                kept[row] = tokens

    def _has_special(self) -> bool:
        other = next((row for row, each in enumerate(self.sequences) if each != self.sequences[0]), 0)
        first, second = self._cached(0), self._cached(other)
        if other and first is not None and second is not None:  # zeros in files of an encoder without one
            return not np.array_equal(first[0], second[0])
        return has_special(self.encoder, self.sequences, (self.layer,))[self.layer]

    def _file(self, row: int) -> Path:
        assert self.cache is not None
        return self.cache / f"{hashlib.sha256(self.sequences[row].encode()).hexdigest()}.npy"

    def _cached(self, row: int) -> Float[np.ndarray, "rows d"] | None:
        """The special token and the sequence's own; None where they are not cached, or the file is damaged."""
        if self.cache is None or not self._file(row).is_file():
            return None
        try:
            array = np.load(self._file(row), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        good = array.dtype == np.float32 and array.ndim == 2 and array.shape[1] == self.features and len(array) > 1
        return array if good else None

    def _write(self, row: int, tokens: Float[np.ndarray, "t d"]) -> None:
        if self.cache is None:
            return
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.cache, suffix=".part", delete=False) as file:
                np.save(file, np.concatenate([self._special[row][None], tokens]))
            os.replace(file.name, self._file(row))
        except OSError as error:
            raise InputError(f"cache: {self.cache} cannot be written: {error.strerror}") from None

    def _encode(
        self, chosen: np.ndarray, max_segments: int, members: Sequence["EncodedTokens"]
    ) -> Iterator[list[Batch]]:
        """Batches of chosen sequences, each as every member has it at its layer."""
        if not len(chosen):
            return
        batches = embed(
            self.encoder,
            [self.sequences[row] for row in chosen],
            tuple(each.layer for each in members),
            token_budget=self.token_budget,
            max_segments=max_segments,
            mesh=self.mesh,
        )
        for rows, layers, pool in batches:
            before = np.maximum(np.argmax(pool, axis=1) - 1, 0)
            own, weights, out = chosen[np.asarray(rows)], np.asarray(pool, np.float32), []
            for each in members:
                tokens = np.asarray(layers[each.layer], np.float32)
                special = tokens[np.arange(len(tokens)), before] if each.has_special else None
                out.append(Batch(own, tokens, weights, special))
            yield out


class _CachedTokens:
    """Tokens by row number, read from their files at every use."""

    def __init__(self, files: Sequence[Path]):
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> Float[np.ndarray, "t d"]:
        try:
            return np.load(self._files[row], mmap_mode="r", allow_pickle=False)[1:]
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"cache: {self._files[row]} was removed or changed meanwhile: {error}") from None


def has_special(encoder: Encoder, sequences: Sequence[str], layers: tuple[int, ...]) -> dict[int, bool]:
    """By layer, whether a special token before the sequence has seen it; the start of a recurrence has not."""
    one = sequences[0]
    half = one.strip()[: len(one.strip()) // 2] or one * 2  # compared with where all sequences are equal
    other = next((sequence for sequence in sequences if sequence != one), half)
    tokens, mask, pool = tokenize(encoder, [one, other])
    if not mask[0, 0] or pool[0, 0]:
        return dict.fromkeys(layers, False)
    states = encoder.apply(tokens, mask, layers)
    first = {layer: np.asarray(states[layer], np.float32)[:, 0] for layer in layers}
    return {layer: not np.array_equal(*first[layer]) for layer in layers}
