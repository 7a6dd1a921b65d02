"""Where the tokens of a comparison come from: a frozen encoder, or activations that were made elsewhere."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh

from covjax import encoders
from covjax.activations import ArrayTokens, EncodedTokens, GivenActivations, GivenTokens, PairTokens
from covjax.activations.files import LAST, Arrays, given_arrays, open_arrays
from covjax.comparison.config import CompareConfig
from covjax.data import Dataset
from covjax.data.letters import check_encoding, check_lengths, check_letters
from covjax.data.pairs import check_kind, choose_kind
from covjax.data.splits import first_names, take_rows
from covjax.encoders.base import layer_index
from covjax.errors import InputError, shown


@runtime_checkable
class Source(Protocol):
    """Tokens for the rows of a table."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user is told, a line each."""

    def describe(self, data: Dataset) -> dict[str, Any]:
        """The entry `encoder` of a manifest: name, layer, digest, type."""

    def check(self, data: Dataset) -> None:
        """Raise InputError for a sequence that cannot be read."""

    def tokens(self, data: Dataset, mesh: Mesh | None) -> ArrayTokens:
        """The tokens of every row."""


def open_source(config: CompareConfig, data: Dataset, activations: Any = None) -> tuple[Dataset, Source]:
    """The source that a comparison names, and the table as it goes with it; `activations` are those in memory.

    Raises InputError for an encoder that cannot be loaded or reads other letters, sequences over `max_length`, and as
    `open_given`.
    """
    given = activations is not None or config.activations
    if data.partners and given:
        raise InputError("activations: pairs of sequences need an encoder; leave the column 'sequence_b' away")
    if not data.partners and config.pair != "auto":
        raise InputError(
            f"pair: {config.pair!r}, but {data.name} has no column 'sequence_b', the second sequence of every pair; "
            "name it by --sequence-b-column"
        )
    if given:
        return open_given(config, data, activations)
    if config.drop_first or config.drop_last:
        raise InputError("drop_first, drop_last: only with activations; an encoder's special tokens are not pooled")
    # Before anything whose size grows with the longest sequence.
    for sequences in (data.sequences, data.partners):
        check_lengths(sequences, config.max_length, _place(data))
    encoder = encoders.load(config.encoder, trust_remote_code=config.trust_remote_code)
    check_letters(data.name, data.sequences + data.partners, encoder, config.force_letters)
    if not data.partners:
        return data, EncoderSource(config, encoder)
    kind = choose_kind(data.sequences, data.partners, config.pair)
    check_kind(kind, data.sequences, data.partners, _place(data))
    return data, EncoderSource(config, encoder, (_pair_note(config, kind),), kind)


def _pair_note(config: CompareConfig, kind: str) -> str:
    reason = "as --pair says"
    if config.pair == "auto":
        reason = "sequences of a pair have one length and differ in a tenth of the positions at most; else --pair both"
        if kind == "both":
            reason = "lengths, or more than a tenth of the positions, differ in some pair; else --pair difference"
    if kind == "both":
        what = "sum, absolute difference and product of both sequences' pools; pools with fitted parts are left out"
    elif config.window is None:
        what = "pools of sequence_b minus sequence, token by token"
    else:
        what = f"pools of sequence_b minus sequence, token by token, up to {config.window} places from a change"
    return f"pairs: {kind} ({reason}): {what}"


def _place(data: Dataset) -> Callable[[int], str]:
    """What a message calls the i-th sequence."""
    return lambda i: f"{data.name}: {data.place(i)} ({shown(data.ids[i])[1:-1]})"


@dataclasses.dataclass(frozen=True)
class EncoderSource:
    """A frozen encoder over the table's sequences."""

    config: CompareConfig
    encoder: encoders.Encoder
    notes: tuple[str, ...] = ()
    kind: str = ""  # of pairs

    @property
    def layer(self) -> int:
        """The layer counted from 0."""
        return layer_index(self.config.layer, self.encoder.num_layers)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers to choose from, ascending, counted from 0; none where `layers` names none."""
        return several_layers(self.config.layers, self.encoder) if self.config.layers else ()

    def describe(self, data: Dataset) -> dict[str, Any]:
        """See `Source`."""
        layers = self.layers
        what: dict[str, Any] = {"name": self.encoder.name, "layer": None if layers else self.layer}
        what |= {"weights_digest": self.encoder.weights_digest, "dtype": "float32"}
        pair: dict[str, Any] = {"pair": self.kind} if self.kind else {}
        if self.kind == "difference":
            pair["window"] = self.config.window
        return pair | what | ({"layers": list(layers)} if layers else {})

    def check(self, data: Dataset) -> None:
        """See `Source`."""
        for sequences in (data.sequences, data.partners):
            check_encoding(sequences, self.encoder, _place(data))

    def tokens(self, data: Dataset, mesh: Mesh | None) -> ArrayTokens:
        """See `Source`."""
        config = self.config
        if self.kind:
            what = self.layer, self.kind, config.window, config.token_budget, config.memory_gib / 2, mesh
            return PairTokens(self.encoder, data.sequences, data.partners, *what, _place(data))
        return EncodedTokens(self.encoder, data.sequences, self.layer, config.token_budget, config.memory_gib / 2, mesh)

    def tokens_of_layers(self, data: Dataset, mesh: Mesh | None) -> dict[int, EncodedTokens]:
        """The tokens of every row at each of `layers`, of as few runs of the encoder as fit in memory.

        Raises InputError for a table of pairs.
        """
        config = self.config
        if self.kind:
            raise InputError(f"layers: {config.layers} with a table of pairs; name one layer with --layer")
        return EncodedTokens.of_layers(
            self.encoder, data.sequences, self.layers, config.token_budget, config.memory_gib / 2, mesh
        )


def several_layers(text: str, encoder: encoders.Encoder) -> tuple[int, ...]:
    """The layers of an encoder that `text` names, ascending, counted from 0: `all`, or numbers such as `2,4,-1`.

    Raises InputError for one that the model does not have, one that is named twice, and layers of several widths.
    """
    count = encoder.num_layers
    numbers = range(count) if text == "all" else [int(part) for part in text.split(",")]
    layers: list[int] = []
    for number in numbers:
        if not -count <= number < count:
            raise InputError(f"layers: {number} is not one of {-count} … {count - 1}, the layers of {encoder.name}")
        if number % count in layers:
            raise InputError(f"layers: {text} names layer {number % count} twice; name each once")
        layers.append(number % count)
    layers.sort()
    widths: dict[int, list[str]] = {}
    for layer in layers:
        widths.setdefault(encoder.features(layer), []).append(str(layer))
    if len(widths) > 1:
        what = "; ".join(f"{','.join(names)} ({width})" for width, names in widths.items())
        raise InputError(f"layers: {text} has layers of several widths, features in brackets: {what}; name one width's")
    return tuple(layers)


@dataclasses.dataclass(frozen=True)
class GivenSource:
    """Activations from files or memory, found by the table's ids."""

    config: CompareConfig
    given: GivenActivations
    row: dict[str, int]  # of every id among the activations
    notes: tuple[str, ...]

    def _rows(self, data: Dataset) -> list[int]:
        return [self.row[name] for name in data.ids]

    def describe(self, data: Dataset) -> dict[str, Any]:
        """See `Source`; the digest is that of the activations."""
        return self.given.describe(self._rows(data))

    def check(self, data: Dataset) -> None:
        """Nothing is left to check: all were read when they were opened."""

    def tokens(self, data: Dataset, mesh: Mesh | None) -> GivenTokens:
        """See `Source`."""
        return GivenTokens(self.given, self._rows(data), self.config.token_budget, mesh)


def open_given(config: CompareConfig, data: Dataset, activations: Any = None) -> tuple[Dataset, GivenSource]:
    """Read the activations of a table's rows, and return the table without rows that have none.

    Where the table has sequences, every array has as many tokens as its sequence has letters, text apart. Where it has
    none, rows with equal activations share a group, unless the table has groups.

    Raises InputError for an encoder beside them, rows without activations (`missing="drop"` leaves them out), arrays in
    order that are not as many as the rows, activations of another length than the sequence, and as `open_arrays` and
    `GivenActivations`.
    """
    if config.encoder != CompareConfig.encoder:
        raise InputError(f"encoder: {shown(config.encoder, 60)} beside activations, which take its place; give one")
    if config.layers:
        raise InputError(f"layers: {config.layers}, but activations are compared at one layer; give --layer N")
    if activations is not None and config.layer != LAST:
        raise InputError(f"layer: {config.layer}, but activations in memory are of one layer; leave it out")
    arrays = open_arrays(config.activations, config.layer) if activations is None else given_arrays(activations)
    data, places, matching = _match(config, data, arrays)
    given = GivenActivations(arrays, places, config.drop_first, config.drop_last, config.memory_gib / 2)
    notes = [*matching, f"activations: {len(given):,} of {given.name}, {given.features} features, {given.dtype}"]
    if given.layer is not None:
        notes[-1] += f", layer {given.layer}"
    if data.sequences:
        notes += _compare_lengths(config, data, given)
    elif not data.has_group_column:
        groups = tuple(f"activations {digest[:16]}" for digest in given.digests)
        warning = (
            "the table has neither sequences nor a column 'group': near copies cannot be found and may be on both "
            "sides of the split; give --group-column, or a column 'sequence'"
        )
        grouping = "no column 'group' and no sequences: only rows with equal activations share a group"
        data = dataclasses.replace(data, groups=groups, grouping=grouping, warnings=(*data.warnings, warning))
    return data, GivenSource(config, given, {name: row for row, name in enumerate(data.ids)}, tuple(notes))


def _match(config: CompareConfig, data: Dataset, arrays: Arrays) -> tuple[Dataset, list[int], list[str]]:
    """The rows that have activations, the place of each among these, and notes."""
    if arrays.ids is None:
        if arrays.count != len(data):
            raise InputError(
                f"activations: {arrays.count:,} arrays in {arrays.name}, in the table's order, but {data.name} has "
                f"{len(data):,} rows; give them under ids"
            )
        note = f"activations: those of {arrays.name} have no ids and are read in the table's order"
        return data, list(range(arrays.count)), [note]
    place = {name: number for number, name in enumerate(arrays.ids)}
    rows = [i for i, name in enumerate(data.ids) if name in place]
    absent = [name for name in data.ids if name not in place]
    extra = sorted(place.keys() - set(data.ids))
    notes = (
        [f"activations: {len(extra):,} of {len(place):,} have no row in the table ({first_names(extra)})"]
        if extra
        else []
    )
    if absent:
        what = f"{len(absent):,} of {len(data):,} rows have no activations in {arrays.name} ({first_names(absent)})"
        if not rows:
            raise InputError(
                f"activations: {what}; its ids are others ({first_names(arrays.ids)}); name the column by --id-column"
            )
        if config.missing != "drop":
            raise InputError(f"activations: {what}; --missing drop leaves such rows out")
        notes.append(f"activations: {what} and are left out")
        data = take_rows(data, np.array(rows))
    return data, [place[name] for name in data.ids], notes


def _compare_lengths(config: CompareConfig, data: Dataset, given: GivenActivations) -> list[str]:
    """Notes on activations that are longer or shorter than their sequences; InputError unless that is allowed."""
    if data.is_text:
        return ["activations: the sequences are text, whose tokens are not its letters, so lengths are not compared"]
    more = given.lengths - np.array([len(sequence) for sequence in data.sequences])
    other = np.flatnonzero(more)
    if not len(other):
        return []
    i = int(other[0])
    what = (
        f"{len(other):,} of {len(data):,} have another number of tokens than their sequence has letters (first: "
        f"{shown(data.ids[i], 60)}, {given.lengths[i]} tokens, {len(data.sequences[i])} letters"
        + (f"; {abs(more[i])} too {'many' if more[i] > 0 else 'few'} in each)" if len(set(more)) == 1 else ")")
    )
    if not config.force_lengths:
        raise InputError(
            f"activations: {what}; special tokens are left out by --drop-first N and --drop-last N; where a token is "
            "not a letter (k-mers, sub-words) use --force-lengths"
        )
    return [f"activations: {what}"]
