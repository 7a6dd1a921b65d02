"""What a comparison with folds says of itself, in terminal and report."""

from collections import Counter

from covjax.comparison.config import RETRIEVAL, CompareConfig
from covjax.comparison.page import gain_text, number
from covjax.comparison.results import Contrast, Folds, Results

LABEL_FREE = (
    "The encoder, and what is fitted without labels (standardiser, bases, centres, known words), see all sequences, "
    "including those of the test, but never a label."
)
FEW_ROWS = 1000  # below it one split decides little


def folds_note(config: CompareConfig, rows: int, has_splits: bool) -> str:
    """What to tell a user whose few rows are split once, by covjax; nothing for any other."""
    if has_splits or rows >= FEW_ROWS or config.protocol == RETRIEVAL:
        return ""
    return (
        f"{rows:,} rows, fewer than {FEW_ROWS:,}: one split decides little; --folds 5 --repeats 3 tests every sequence "
        "three times, in about fifteen times the time of the probes"
    )


def folds_plan(config: CompareConfig, rows: int) -> str:
    """What a user is told before the encoder runs."""
    return (
        f"{rows:,} rows in {config.folds} folds, dealt {times(config.repeats)}; pools that are trained on labels are "
        "left out"
    )


def tested_text(results: Results) -> str:
    """What was tested: the test set, or the folds."""
    if results.folds is None:
        return f"{results.sizes['test']} test {results.unit}"
    return f"mean over {results.folds.count} folds, {results.folds.sequences} sequences"


def times(count: int) -> str:
    """How often, in words where they are short."""
    return {1: "once", 2: "twice", 3: "three times"}.get(count, f"{count} times")


def folds_sentence(folds: Folds) -> str:
    """How many folds there are, and what each sequence was in them."""
    repeated = f", repeated {times(folds.repeats)}" if folds.repeats > 1 else ""
    return f"{folds.folds} folds{repeated}: every sequence was test {times(folds.repeats)}"


def interval_sentence(folds: Folds) -> str:
    """How the intervals are made."""
    return (
        f"mean over {folds.count} folds, differences paired by fold, 95 % interval by the corrected resampled t-test "
        f"(Nadeau and Bengio 2003: variance times 1/{folds.count} + {folds.ratio:.3f}, the test rows over the training "
        f"rows; {folds.count - 1} degrees of freedom)"
    )


def chosen_text(contrast: Contrast, most: int = 3) -> str:
    """The rows that the folds chose, the most frequent first: `log_covariance in 9, covariance in 6 of 15 folds`."""
    counts = Counter(row for row, _ in contrast.choices).most_common()
    parts = [f"{row} in {count}" for row, count in counts[:most]]
    if len(counts) > most:
        parts.append(f"{len(counts) - most} more in {sum(count for _, count in counts[most:])}")
    return f"{', '.join(parts)} of {len(contrast.choices)} folds"


def other_text(contrast: Contrast) -> str:
    """The row that most folds compared with."""
    (other, count), *_ = Counter(other for _, other in contrast.choices).most_common(1)
    return f"{other} in {count} of {len(contrast.choices)} folds"


def usual_other(contrast: Contrast) -> str:
    """The other row of a contrast, with folds that of most of them."""
    return Counter(other for _, other in contrast.choices).most_common(1)[0][0] if contrast.choices else contrast.other


def opening(results: Results, others: dict[str, str]) -> str:
    """The verdict's first clauses: what the folds chose and how it does, against the mean and each of `others`."""
    folds, planned, reference = results.folds, results.contrasts, results.reference
    assert folds is not None
    gain = planned["gain"]
    value = results.scores()[reference].value + gain.value
    parts = [
        f"{folds_sentence(folds)}. Each fold's validation chose a second-order row ({chosen_text(gain)}): test "
        f"{results.primary_name} {number(value)}, {gain_text(gain.value, gain.interval)} over the {reference}"
    ]
    parts += [
        f"{gain_text(planned[name].value, planned[name].interval)} over {words} ({other_text(planned[name])})"
        for name, words in others.items()
        if name in planned
    ]
    return "; ".join(parts)


def model_sentence(results: Results) -> str:
    """Which row `model/` holds, and that all sequences made it."""
    name = results.winner
    row = results.by_label[name]
    layer = "" if row.layer is None else f" (layer {row.layer})"
    text = f"The model is {name}{layer}, the best on validation in the mean over folds, fitted on all sequences"
    if name != results.best_second_order:
        text += "; it is one of the mixtures of first and second order, so its gain is evidence of neither"
    return f"{text}."
