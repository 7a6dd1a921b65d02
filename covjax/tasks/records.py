"""What `suite.json` holds, entry by entry: plain data, which is written and never read back."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from covjax.comparison.results import Interval


class CellRecord(TypedDict):
    """One row of one task: its primary metric on the test set and the difference to the reference."""

    role: str
    num_features: int
    value: float
    difference: float
    interval: Interval
    p_value: float | None
    seeds: tuple[float, ...] | None


class TaskRecord(TypedDict):
    """One task: its rows by label, the one that validation chose, and the highest on the test set."""

    task: str
    name: str
    metric: str
    probe: str
    reference: str
    sizes: dict[str, float]
    encoder: str
    encoder_features: int
    chosen: str | None
    best: str
    cells: dict[str, CellRecord]


class ContrastRecord(TypedDict):
    """A contrast of one task; those of the planned comparisons have what is in `NotRequired`."""

    task: NotRequired[str]
    name: NotRequired[str]
    row: str
    other: str
    value: float
    interval: Interval | None
    p_value: float | None
    p_holm: NotRequired[float | None]
    resamples: NotRequired[int | None]  # None with folds, whose intervals are a t-test's
    verdict: NotRequired[str]


class RanksRecord(TypedDict, total=False):
    """Mean ranks over the tasks and their tests, or under `missing` why there are none."""

    missing: str
    tasks: int
    ranks: dict[str, float]
    chi_square: float
    p_chi_square: float
    f: float | None
    p_f: float
    critical_difference: float
    cliques: list[tuple[float, float]]


class PointRecord(TypedDict):
    """The metric at one rank; `whole` where nothing is truncated."""

    rank: int
    value: float
    interval: Interval
    whole: bool


class CurvesRecord(TypedDict):
    """One task: the points of every truncated family, and the reference's value."""

    task: str
    metric: str
    curves: dict[str, list[PointRecord]]
    reference: float


class PartsRecord(TypedDict):
    """One task: the gain of a whole matrix and its three parts."""

    task: str
    metric: str
    whole_gain: ContrastRecord
    quadratic: ContrastRecord
    marginal: ContrastRecord
    co_occurrence: ContrastRecord


class LossRecord(TypedDict):
    """One task: planned contrasts that are not above zero, and sentences that its numbers support."""

    task: str
    metric: str
    not_above: list[ContrastRecord]
    facts: list[str]


class GainRecord(TypedDict):
    """A row, the number of its features, and its gain over the reference."""

    row: str
    num_features: int
    value: float
    gain: float
    interval: Interval


class CompactRecord(TypedDict):
    """One task: the best compact row, the best whole matrix, and the share of its gain that the first keeps."""

    task: str
    metric: str
    compact: GainRecord
    whole: GainRecord
    share: float | None


class PercentRecord(TypedDict):
    """R² of a row, and its gain in percent of the reference's."""

    r2: float
    percent: float | None


class ChosenPercent(TypedDict):
    """The row that validation chose, with the interval of its gain in percent."""

    row: str
    interval: Interval


class R2Record(TypedDict):
    """One regression task: every second-order row beside the reference's R²."""

    task: str
    targets: int
    reference_r2: float
    rows: dict[str, PercentRecord]
    chosen: NotRequired[ChosenPercent]


class Summary(TypedDict, total=False):
    """Every number of the suite's report; empty where no task is complete."""

    headline: list[TaskRecord]
    planned: dict[str, list[ContrastRecord]]
    mean_ranks: RanksRecord
    rank_curves: list[CurvesRecord]
    decomposition: list[PartsRecord]
    losses: list[LossRecord]
    compactness: list[CompactRecord]
    relative_r2: list[R2Record]
    warnings: dict[str, tuple[str, ...]]


class RunRecord(TypedDict):
    """One task that was asked for: `complete` or `failed` with the reason; seconds of the process that finished it."""

    task: str
    status: str
    reason: str
    reused: bool
    command: str
    seconds: float | None


class Suite(TypedDict):
    """All of it: the command, the tasks that were asked for, their numbers, and the manifests of the complete ones."""

    command: str
    runs: list[RunRecord]
    summary: Summary
    manifests: Mapping[str, dict[str, Any]]
