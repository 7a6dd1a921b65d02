"""How often a comparison's intervals hold the true value, and how often it says "better" where nothing is.

    python -m eval.calibration                     every metric and number of groups, 2,000 null data sets each
    python -m eval.calibration --data-sets 200     a first look

A null data set: every row scores the test sequences with the same true metric. A sequence's truth and its rows' errors
have a part that it shares with its group, labels are imbalanced, and the rows' errors are correlated, as those of pools
of the same tokens are. The row that stands for second order, and the strongest control, are the best of several on a
validation set of the same size, as in a comparison. Nothing of a probe is fitted here: what is tested is the resampling
of the test set and the rule that reads it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from covjax import metrics
from covjax.errors import InputError
from covjax.notes import progress

GROUPS = (8, 12, 20, 50, 200)
GROUP_SIZE = 3.0  # sequences a group, on average; sizes are 1 + a geometric number
SECOND_ORDER, CONTROLS = 6, 3
SIGNAL, SHARED_IN_GROUP, SHARED_BETWEEN_ROWS = 1.0, 0.5, 0.7  # of the errors' variance the last two
CLASSES = (0.7, 0.2, 0.1)


def _labels(share: float) -> Callable[[np.ndarray], np.ndarray]:
    cut = -np.quantile(-np.random.default_rng(0).normal(size=200_001), share)
    return lambda latent: latent > cut


def _classes(latent: Float[np.ndarray, "n 3"]) -> np.ndarray:
    return np.eye(3, dtype=bool)[(latent + np.log(CLASSES)).argmax(1)]


# Name, latent numbers a sequence, truth of the latent numbers, metric of (truth, scores, counts).
CASES = (
    ("AUROC, 50 % positive", 1, _labels(0.5), metrics.auroc),
    ("AUROC, 10 % positive", 1, _labels(0.1), metrics.auroc),
    ("AUPRC, 10 % positive", 1, _labels(0.1), metrics.average_precision),
    ("MCC, classes 7:2:1", 3, _classes, metrics.matthews),
    ("R²", 1, lambda latent: latent, metrics.r2),
)


def draw(
    rng: np.random.Generator, groups: int, latents: int, rows: int
) -> tuple[np.ndarray, Float[np.ndarray, "n latents"], Float[np.ndarray, "rows n latents"]]:
    """Groups, latent truth and the rows' scores of one data set; a score is the best linear guess of the truth."""
    size = 1 + rng.geometric(1 / GROUP_SIZE, groups) - (rng.random(groups) < 0.5)
    index = np.repeat(np.arange(groups), size)

    def noise(*shape: int) -> np.ndarray:
        of_group, own = rng.normal(size=(*shape, groups, latents)), rng.normal(size=(*shape, len(index), latents))
        return SHARED_IN_GROUP**0.5 * of_group[..., index, :] + (1 - SHARED_IN_GROUP) ** 0.5 * own

    truth = noise()
    errors = SHARED_BETWEEN_ROWS**0.5 * noise() + (1 - SHARED_BETWEEN_ROWS) ** 0.5 * noise(rows)
    return index, truth, SIGNAL / (1 + SIGNAL) * (truth + errors / SIGNAL**0.5)


def value(metric: Callable, truth: np.ndarray, scores: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """The metric of one row: a number, or (resamples,)."""
    out = np.asarray(metric(truth, scores, counts))
    return out[..., 0] if out.ndim > (0 if counts is None else 1) else out


def calibrate(
    case: tuple[str, int, Callable, Callable], groups: int, data_sets: int, resamples: int, seed: int
) -> dict[str, float]:
    """Shares of null data sets in which an interval holds the true value, and in which the rule says "better"."""
    name, latents, label, metric = case
    rng = np.random.default_rng([seed, groups, *name.encode()])
    _, latent, scores = draw(rng, 100_000, latents, 1)
    true = value(metric, label(latent), scores[0])
    tally = {key: list[bool]() for key in ("value", "difference", "better", "co-occurrence", "p <= 0.05")}
    undefined = 0
    for data_set in range(data_sets):
        _, validation, guesses = draw(rng, groups, latents, 1 + SECOND_ORDER + CONTROLS)
        marks = np.array([value(metric, label(validation), guess) for guess in guesses])
        if np.isnan(marks).any():
            undefined += 1
            continue
        chosen = 1 + int(marks[1 : 1 + SECOND_ORDER].argmax())
        control = 1 + SECOND_ORDER + int(marks[1 + SECOND_ORDER :].argmax())
        index, latent, scores = draw(rng, groups, latents, 1 + SECOND_ORDER + CONTROLS)
        truth = label(latent)
        counts = metrics.resample_counts(index, resamples, data_set)
        draws = {row: value(metric, truth, scores[row], counts) for row in (0, chosen, control)}
        try:
            low, high = metrics.interval(draws[0])
            gain, over_control = (draws[chosen] - draws[other] for other in (0, control))
            gain_low, gain_high = metrics.interval(gain)
        except InputError:  # most resamples hold one class only: a comparison refuses such a test set
            undefined += 1
            continue
        tally["value"].append(bool(low <= true <= high))
        tally["difference"].append(gain_low <= 0 <= gain_high)
        tally["better"].append(gain_low > 0)
        tally["co-occurrence"].append(gain_low > 0 and metrics.interval(over_control)[0] > 0)
        tally["p <= 0.05"].append(metrics.bootstrap_p_value(gain, groups) <= 0.05)
    return {key: float(np.mean(values)) for key, values in tally.items()} | {"undefined": undefined / data_sets}


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line for every metric and number of groups, as a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m eval.calibration", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-sets", type=int, default=2000, help="null data sets a line (2000)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples of each (1000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    columns = ("value", "difference", "better", "co-occurrence", "p <= 0.05", "undefined")
    print("| metric | groups | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for case in CASES:
        for groups in progress(GROUPS, desc=case[0], unit="line"):
            shares = calibrate(case, groups, options.data_sets, options.resamples, options.seed)
            numbers = " | ".join(f"{shares[column]:.3f}" for column in columns)
            print(f"| {case[0]} | {groups} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
