"""What a comparison measured, typed: `results.json` is the dump of `Results`, and is read back as one."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covjax.comparison.config import comparison_title
from covjax.errors import InputError, shown
from covjax.jobs.disk import read_sealed
from covjax.recipes.base import MIXTURE

Interval = tuple[float, float]
ABSENT: tuple[tuple[str, Any], ...] = (
    *(("seeds", None), ("layer", None), ("layer_validation", ()), ("layers", ())),
    *(("choices", ()), ("folds", None), ("outputs", ()), ("distractors", ()), ("solver", "")),
)


@dataclasses.dataclass(frozen=True)
class Score:
    """One metric of one row on the test set, and its difference from the reference on the same resamples."""

    value: float
    interval: Interval
    difference: float
    difference_interval: Interval
    p_value: float | None = None
    seeds: tuple[float, ...] | None = None  # of a pool trained with several; None, and not in the file, for any other


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """One probe on one row: the penalty that validation chose, and the test set's metrics by key."""

    penalty: float
    at_edge: bool
    validation: float
    validation_path: tuple[float, ...]
    converged: bool
    test: dict[str, Score]
    per_term: dict[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class RowResult:
    """One recipe: `label` is its name, `title` what reports show; `rank` is that of a truncated matrix."""

    label: str
    title: str
    role: str
    family: str
    rank: int | None
    probes: dict[str, ProbeResult]
    num_features: int
    layer: int | None = None  # that validation chose; None where one layer was compared, and of rows without an encoder
    layer_validation: tuple[float | None, ...] = ()  # the first probe's, at every one of the layers
    solver: str = ""  # what stood for exact features or kernel: landmarks, sketch or cg


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A planned difference of two rows on the test set; without paired resamples its interval is not known.

    With folds each of them chooses its two rows, which are `choices`; `row` and `other` are, as names alone, what the
    mean validation value over folds would choose.
    """

    row: str
    other: str
    value: float
    interval: Interval | None
    p_value: float | None
    choices: tuple[tuple[str, str], ...] = ()

    @property
    def is_step(self) -> bool:
        """Whether the two rows differ, with folds in any of them."""
        return any(row != other for row, other in self.choices or ((self.row, self.other),))


@dataclasses.dataclass(frozen=True)
class Term:
    """A label of the data, its name in reports, and how many sequences of each split have it."""

    label: str
    name: str
    positives: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Folds:
    """Repeated grouped cross-validation: `values[label][probe][metric]` on the test set of every fold.

    They stand fold by fold, repeat after repeat. `ratio` is test rows over training rows, the mean over folds;
    `sequences` and `groups` count all, `layers` has the layer that every row took in each fold, where there were
    several.
    """

    folds: int
    repeats: int
    ratio: float
    sequences: int
    groups: int
    values: dict[str, dict[str, dict[str, tuple[float, ...]]]]
    layers: dict[str, tuple[int, ...]]

    @property
    def count(self) -> int:
        """All folds of all repeats."""
        return self.folds * self.repeats


@dataclasses.dataclass(frozen=True)
class Output:
    """One of several numbers to predict: test values of some rows by label, the chosen row's gain over the reference.

    Without an interval it is undefined in more than half of the resamples.
    """

    label: str
    name: str
    values: dict[str, float]
    intervals: dict[str, Interval | None]
    gain: float
    gain_interval: Interval | None


@dataclasses.dataclass(frozen=True)
class Distracted:
    """The test set with so large a share of foreign tokens in every sequence: scores by label, of the first probe."""

    share: float
    scores: dict[str, Score]


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that a comparison measured. The first of `probes` is the one that its verdict goes by."""

    name: str
    task: str
    reference: str
    primary: str
    primary_name: str
    metrics: dict[str, str]
    probes: tuple[str, ...]
    sizes: dict[str, float]
    groups: dict[str, int]
    num_targets: int
    encoder_features: int
    matched_rank: int
    composition_unit: str
    best_second_order: str
    contrasts: dict[str, Contrast]
    rows: tuple[RowResult, ...]
    terms: tuple[Term, ...]
    test_looks: int
    grouping: str
    one_family: bool
    warnings: tuple[str, ...]
    manifest: dict[str, Any]
    layers: tuple[int, ...] = ()  # that the rows chose from, where there were several
    chain: dict[str, Contrast] = dataclasses.field(default_factory=dict)  # older files have none
    folds: Folds | None = None  # where folds took the place of one split
    outputs: tuple[Output, ...] = ()  # of a regression with several, best first by the chosen row
    distractors: tuple[Distracted, ...] = ()  # where --distractors asked for them

    @property
    def title(self) -> str:
        """What the comparison is called, or else its table."""
        return comparison_title(self.name, self.manifest.get("data", {}).get("file", ""))

    @property
    def winner(self) -> str:
        """The row of `model/`: the mixture that is above the chosen second-order row on validation, or else that."""
        mixtures = [row.label for row in self.rows if row.role == MIXTURE]
        rows, probe = self.by_label, self.probes[0]
        return max([self.best_second_order, *mixtures], key=lambda label: rows[label].probes[probe].validation)

    @property
    def unit(self) -> str:
        """What the rows of the data are: `sequences`, or `pairs` of them."""
        return "pairs" if self.manifest.get("encoder", {}).get("pair") else "sequences"

    @property
    def by_label(self) -> dict[str, RowResult]:
        """The rows by their label."""
        return {row.label: row for row in self.rows}

    def scores(self, metric: str = "", probe: str = "") -> dict[str, Score]:
        """Test scores by label of the rows that have the probe; by default of the primary metric and first probe."""
        probe = probe or self.probes[0]
        return {row.label: row.probes[probe].test[metric or self.primary] for row in self.rows if probe in row.probes}

    def dump(self) -> dict[str, Any]:
        """The plain data that stand in `results.json`."""
        return dump(self)


def side(interval: Interval | None) -> str:
    """On which side of 0 a difference lies by its interval: `above`, `below`, `undecided`, or `no interval`."""
    if interval is None:
        return "no interval"
    low, high = interval
    return "above" if low > 0 else "below" if high < 0 else "undecided"


def dump(record: Any) -> dict[str, Any]:
    """A dataclass as plain data, fields of its own dataclasses too; seeds and layers only where there are some."""
    return dataclasses.asdict(record, dict_factory=lambda fields: {k: v for k, v in fields if (k, v) not in ABSENT})


def read_results(path: str | Path) -> Results:
    """The results of a finished comparison from its `results.json`; FileNotFoundError where there is none.

    Raises InputError, naming the file, where it is damaged or changed, or its layout is another version's.
    """
    return load(Results, read_sealed(path), str(path))


def load(kind: type, data: Any, place: str) -> Any:
    """The dataclass that `dump` made plain data of; `place` names the data in errors.

    Raises InputError naming the entry that is missing, unknown, or of another type than the field's.
    """
    return _load(kind, data, place, "")


def _load(kind: Any, data: Any, file: str, entry: str) -> Any:
    def wrong(problem: str) -> InputError:
        return InputError(f"{file}: {entry.lstrip('.') or 'it'} {problem}: not what this version of covjax writes")

    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
        missing = dataclasses.MISSING
        required = {each.name for each in fields if each.default is missing and each.default_factory is missing}
        if not isinstance(data, Mapping):
            raise wrong(f"is {shown(data, 40)}, not {kind.__name__}")
        for name in [*sorted(required - set(data)), *sorted(set(data) - set(hints))]:
            raise wrong(f"{'lacks' if name in required else 'has'} {shown(name)}")
        return kind(**{name: _load(hints[name], value, file, f"{entry}.{name}") for name, value in data.items()})
    if origin is types.UnionType:
        return None if data is None else _load(inner[0], data, file, entry)
    if origin is dict and isinstance(data, Mapping):
        return {key: _load(inner[1], value, file, f"{entry}.{key}") for key, value in data.items()}
    if origin is tuple and isinstance(data, list | tuple):
        kinds = inner[:1] * len(data) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(data):
            return tuple(_load(k, value, file, f"{entry}[{i}]") for i, (k, value) in enumerate(zip(kinds, data)))
    plain = int | float if kind is float else kind
    if origin is None and isinstance(data, plain) and (kind is bool or not isinstance(data, bool)):
        return data
    raise wrong(f"is {shown(data, 40)}, not {getattr(kind, '__name__', kind) if origin is None else kind}")
