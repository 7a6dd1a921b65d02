"""The chain from the mean to regional Σ: which link carries the gain."""

from collections.abc import Sequence

from covjax.comparison.page import gain_text, signed
from covjax.comparison.results import Results, RowResult, side
from covjax.recipes.standard import QUADRATIC, TITLES, TWINS

# Each link's rows know one thing more than those of the links before it: {link: (what it is, its rows)}.
LINKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "variance": ("how much each feature varies", ("mean_std",)),
    "marginals": ("more of each feature's own distribution", ("power_means", *TWINS.values())),
    "position": ("where tokens are", ("regional_mean",)),
    "quadratic": ("products of the mean's features", QUADRATIC),
    "co-occurrence": ("features that occur together in a token", (*TWINS, *(f"mean+{name}" for name in TITLES))),
    "regional co-occurrence": (
        "features that occur together, by position",
        ("regional_covariance", "regional_sqrt_covariance"),
    ),
}


def chain_pairs(rows: Sequence[RowResult], reference: str, probe: str) -> dict[str, tuple[str, str]]:
    """The two rows of every link that has any: {link: (row, row before it)}, every choice made on validation alone.

    The row of a link is the best so far on validation: that of the link before it, or one of its own that is above. So
    a link that does not help has a step of 0, and the steps add up to the gain of the last row over the reference.
    """
    validation = {row.label: row.probes[probe].validation for row in rows if probe in row.probes}
    pairs, before = {}, reference
    for link, (_, labels) in LINKS.items():
        if there := [label for label in labels if label in validation]:
            row = max([before, *there], key=lambda label: validation[label])
            pairs[link] = (row, before)
            before = row
    return pairs


def carrier(results: Results) -> str:
    """The link with the largest step whose interval is above 0.

    Nothing where there is none, or where the last row itself is not above the reference: a step up that only makes good
    a step down before it carries no gain.
    """
    last = next((step.row for step in reversed(results.chain.values())), results.reference)
    if side(results.scores()[last].difference_interval) != "above":
        return ""
    above = [link for link, step in results.chain.items() if side(step.interval) == "above"]
    return max(above, key=lambda link: results.chain[link].value, default="")


def chain_sentence(results: Results) -> str:
    """The links that validation took, with their steps on the test set, and which of them carries the gain."""
    steps = [f"{link} {gain_text(step.value, step.interval)}" for link, step in results.chain.items() if step.is_step]
    if not steps:
        return f"No link from the {results.reference} to Σ beats it on validation."
    link = carrier(results)
    total = sum(step.value for step in results.chain.values())
    answer = f"{link} carries the gain" if link else f"the sum, {signed(total)}, is no clear gain"
    return f"Link by link from the {results.reference}: {', '.join(steps)}; {answer}."
