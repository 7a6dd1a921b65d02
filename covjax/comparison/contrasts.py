"""The differences between rows that are declared before the test set is looked at, with paired intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from covjax.metrics import bootstrap_p_value, interval
from covjax.recipes.base import BASELINE, COMPOSITION, CONTROL, ROLES, SECOND_ORDER
from covjax.recipes.controls import QUADRATIC, TWINS


def planned_pairs(rows: Sequence[dict[str, Any]], reference: str, probe: str) -> dict[str, tuple[str, str]]:
    """Which row is compared with which: {name: (row, other row)}, every choice made on validation alone.

    `gain`, `over_baseline`, `over_control`, `over_composition`: the best second-order row minus the reference, the best
    other row of first order, the best control, the best composition row. The other four take the gain of a whole matrix
    W apart, W being the best row that has a shuffled twin:

        whole_gain    W − mean                           = quadratic + marginal + co_occurrence
        quadratic     first − mean,    first  = the best of mean, mean_outer, mean+mean_outer
        marginal      second − first,  second = the best of first and shuffled W
        co_occurrence W − second

    The three parts are a chain, so they add up exactly. A control that does not help on validation takes no part
    (its step is zero); a plain sum of (μμᵀ − mean), (shuffled W − mean) and a remainder would credit co-occurrence
    with what shuffled W loses because, unlike the mean, it is centred. Ties go to the simpler row, which stands
    first. Pairs whose rows are absent are left out.
    """
    validation = {row["label"]: row["probes"][probe]["validation"] for row in rows if probe in row["probes"]}
    roles = {row["label"]: row["role"] for row in rows}

    def best(labels: Sequence[str]) -> str:
        return max(labels, key=lambda label: validation[label])

    pairs = {}
    by_role = {role: [label for label in validation if roles[label] == role and label != reference] for role in ROLES}
    if by_role[SECOND_ORDER]:
        chosen = best(by_role[SECOND_ORDER])
        pairs["gain"] = (chosen, reference)
        if by_role[BASELINE]:
            pairs["over_baseline"] = (chosen, best(by_role[BASELINE]))
        if by_role[CONTROL]:
            pairs["over_control"] = (chosen, best(by_role[CONTROL]))
        if by_role[COMPOSITION]:
            pairs["over_composition"] = (chosen, best(by_role[COMPOSITION]))
    quadratic = [label for label in QUADRATIC if label in validation]
    wholes = [label for label, twin in TWINS.items() if label in validation and twin in validation]
    if wholes and quadratic:
        whole = best(wholes)
        first = best([reference, *quadratic])
        second = best([first, TWINS[whole]])
        pairs["whole_gain"] = (whole, reference)
        pairs["quadratic"] = (first, reference)
        pairs["marginal"] = (second, first)
        pairs["co_occurrence"] = (whole, second)
    return pairs


def contrasts(
    rows: Sequence[dict[str, Any]],
    reference: str,
    probe: str,
    metric: str,
    draws: Mapping[str, Float[np.ndarray, "resamples"]] | None = None,
    groups: int = 0,
) -> dict[str, dict[str, Any]]:
    """The planned differences on the test set: {name: {row, other, value, interval, p_value}}.

    `draws` are the bootstrapped metric of every row by label, on the same resamples (paired) of `groups` test groups.
    Without them the interval and p-value are known only against the reference, where the rows carry them; elsewhere
    they are None.
    """
    by_label = {row["label"]: row for row in rows}
    out = {}
    for name, (label, other) in planned_pairs(rows, reference, probe).items():
        score, base = (by_label[key]["probes"][probe]["test"][metric] for key in (label, other))
        entry: dict[str, Any] = {"row": label, "other": other, "value": score["value"] - base["value"]}
        entry |= {"interval": None, "p_value": None}
        if label == other:
            entry |= {"interval": [0.0, 0.0], "p_value": 1.0}
        elif draws is not None:
            difference = np.asarray(draws[label]) - np.asarray(draws[other])
            entry |= {"interval": list(interval(difference)), "p_value": bootstrap_p_value(difference, groups)}
        elif other == reference:
            entry |= {"interval": list(score["difference_interval"]), "p_value": score.get("p_value")}
        out[name] = entry
    return out
