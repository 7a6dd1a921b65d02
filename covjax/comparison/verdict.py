"""The answer of a comparison in one paragraph, from its results alone; the same in the terminal and on the page."""

from typing import Any

from covjax.recipes.base import CONTROL

ORDERED = ("first", "last", "cls")  # rows of first order that know where a token stands
FEW_TEST = 200  # test sequences; below, the default comparison makes few rows
SMALL_ROWS = (
    "mean",
    "mean_std",
    "max",
    "covariance",
    "sqrt_covariance",
    "log_covariance",
    "mean_outer",
    "mean+mean_outer",
    "shuffled_log_covariance",
    "composition",
)
EVIDENCE = {
    "none": "no evidence that second order helps here",
    "co-occurrence": "evidence of co-occurrence: neither the strongest first-order pool nor a control has it",
    "marginals": "a gain that single features explain: a pool without co-occurrence does as well",
    "position": "a gain that position explains: a pool that knows where tokens stand does as well",
    "quadratic": "a gain that quadratic features of the mean explain: a control without co-occurrence does as well",
    "open": "a gain whose cause is open: the comparison has no control",
}


def evidence(results: dict[str, Any]) -> str:
    """What a gain over the mean is evidence of, a key of `EVIDENCE`, by the unrounded paired intervals.

    The chosen row must be above the mean, the strongest other first-order row and the strongest control, each the best
    of its kind on validation, with intervals above 0, for co-occurrence.
    """
    planned = results["contrasts"]

    def above(name: str) -> bool:
        return planned[name]["interval"][0] > 0

    if "gain" not in planned or not above("gain"):
        return "none"
    if "over_control" not in planned:
        return "open"
    if "over_baseline" in planned and not above("over_baseline"):
        return "position" if planned["over_baseline"]["other"] in ORDERED else "marginals"
    if not above("over_control"):
        return "marginals" if planned["over_control"]["other"].startswith("shuffled") else "quadratic"
    return "co-occurrence"


def verdict(results: dict[str, Any]) -> str:
    """Which pool validation chose, its test value, its gains with intervals, and what they are evidence of."""
    rows = {row["label"]: row for row in results["rows"]}
    planned, metric = results["contrasts"], results["primary_name"]
    chosen = results["best_second_order"]
    value = rows[chosen]["probes"][results["probes"][0]]["test"][results["primary"]]["value"]
    text = f"Validation chose {chosen}: test {metric} {value:.3f}, {_gain(planned['gain'])} over the mean"
    others = {"over_baseline": "the strongest other first-order pool", "over_control": "the strongest control"}
    parts = [f"{_gain(planned[k])} over {words}, {planned[k]['other']}" for k, words in others.items() if k in planned]
    text = f"{'; '.join([text, *parts])}. That is {EVIDENCE[evidence(results)]}."
    controls = [row for row in results["rows"] if row["role"] == CONTROL]
    return text if controls else text.replace("open:", "open (--rows names none):")


def _gain(contrast: dict[str, Any]) -> str:
    low, high = contrast["interval"]
    return f"{contrast['value']:+.3f} [{low:+.3f}, {high:+.3f}]"


def table(results: dict[str, Any], every: bool = False, most: int = 10) -> str:
    """The rows by name with the primary metric and its difference from the mean, at most 80 columns wide.

    Shown are the mean, the rows of the planned contrasts, and the best on validation; `every` shows all.
    """
    probe = results["probes"][0]
    rows = [row for row in results["rows"] if probe in row["probes"]]
    if not every and len(rows) > most:
        named = [results["reference"], results["best_second_order"]]
        named += [contrast["other"] for contrast in results["contrasts"].values()]
        by_validation = sorted(rows, key=lambda row: -row["probes"][probe]["validation"])
        shown = list(dict.fromkeys([*named, *(row["label"] for row in by_validation)]))[:most]
        rows = [row for row in rows if row["label"] in shown]
    width = min(max(len(row["label"]) for row in results["rows"]) + 1, 32)
    lines = [f"{'recipe':<{width}}{'numbers':>9}{results['primary_name']:>12}  minus {results['reference']} [95 %]"]
    lines.append("-" * (width + 9 + 12 + 2 + 24))
    for row in rows:
        score = row["probes"][probe]["test"][results["primary"]]
        low, high = score["difference_interval"]
        gain = f"{score['difference']:+.3f} [{low:+.3f}, {high:+.3f}]" if row["label"] != results["reference"] else ""
        mark = "*" if row["label"] == results["best_second_order"] else " "
        lines.append(f"{row['label']:<{width}}{row['num_features']:>9,}{score['value']:>11.3f}{mark}  {gain}".rstrip())
    rest = len(results["rows"]) - len(rows)
    lines.append(f"* chosen on validation; {probe} probe" + (f"; {rest} more rows: --all" if rest else ""))
    return "\n".join(lines)
