"""The answer of a comparison in one paragraph, from its results alone; the same in the terminal and on the page."""

from typing import Any

ORDERED = ("first", "last", "cls", "regional_mean", "dct")  # rows of first order that know where a token stands
# Means of functions of whole tokens, which single features do not give.
DISTRIBUTION = ("sliced_wasserstein", "learned_sliced_wasserstein", "kernel_mean", "vlad", "fisher_vector")
EVIDENCE = {
    "none": "no evidence that second order helps here",
    "co-occurrence": "evidence of co-occurrence: no first-order pool and no control does as well",
    "marginals": "a gain that single features explain: a pool without co-occurrence does as well",
    "position": "a gain that position explains: a pool that knows where tokens stand does as well",
    "distribution": "a gain that the tokens' distribution explains: a pool of it without second moments does as well",
    "quadratic": "a gain that quadratic features of the mean explain: a control without co-occurrence does as well",
    "open": "a gain whose cause is open: no control was compared (--rows names none)",
}
OTHERS = {"over_baseline": "the strongest other first-order pool", "over_control": "the strongest control"}


def evidence(results: dict[str, Any]) -> str:
    """What a gain over the mean is evidence of, a key of `EVIDENCE`, by the unrounded paired intervals.

    The chosen row must be above the mean, the strongest other first-order row and the strongest control, each the best
    of its kind on validation, with intervals above 0, for co-occurrence. One without interval is not above.
    """
    planned = results["contrasts"]

    def above(name: str) -> bool:
        interval = planned[name]["interval"]
        return interval is not None and interval[0] > 0

    if "gain" not in planned or not above("gain"):
        return "none"
    if "over_baseline" in planned and not above("over_baseline"):
        other = planned["over_baseline"]["other"]
        return "position" if other in ORDERED else "distribution" if other in DISTRIBUTION else "marginals"
    if "over_control" not in planned:
        return "open"
    if not above("over_control"):
        return "marginals" if planned["over_control"]["other"].startswith("shuffled") else "quadratic"
    return "co-occurrence"


def verdict(results: dict[str, Any]) -> str:
    """Which pool validation chose, its test value, its gains with intervals, and what they are evidence of."""
    rows = {row["label"]: row for row in results["rows"]}
    planned, chosen = results["contrasts"], results["best_second_order"]
    score = rows[chosen]["probes"][results["probes"][0]]["test"][results["primary"]]
    gain = planned.get("gain", {"value": score["difference"], "interval": score["difference_interval"]})
    text = f"Validation chose {chosen}: test {results['primary_name']} {number(score['value'])}, "
    parts = [f"{text}{_gain(gain)} over the {results['reference']}"]
    parts += [f"{_gain(planned[k])} over {words}, {planned[k]['other']}" for k, words in OTHERS.items() if k in planned]
    answer = EVIDENCE[evidence(results)]
    if gain["interval"] is not None and gain["interval"][1] < 0:
        answer = f"{answer}: the {results['reference']} is better"
    family = " (within one family)" if results.get("one_family") else ""
    return f"{'; '.join(parts)}. That is {answer}{family}."


def number(value: float) -> str:
    """A value with three decimals; a larger one with fewer."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def signed(value: float) -> str:
    """A difference with its sign in six characters: one that three decimals round to zero keeps its first digit."""
    if value == 0 or 0.0005 <= abs(value) < 99.9995:
        return f"{value:+.3f}" if abs(value) < 10 else f"{value:+.2f}"
    return f"{value:+.0f}" if 1 < abs(value) < 99999.5 else f"{value:+.0e}"


def _gain(contrast: dict[str, Any]) -> str:
    if contrast["interval"] is None:
        return signed(contrast["value"])
    low, high = contrast["interval"]
    return f"{signed(contrast['value'])} [{signed(low)}, {signed(high)}]"


def table(results: dict[str, Any], every: bool = False, most: int = 10) -> str:
    """The rows by name with the primary metric and its difference from the mean, at most 80 columns wide.

    Shown are the mean, the rows of the planned contrasts, and the best on validation, `most` in all; `every` shows all.
    """
    probe = results["probes"][0]
    rows = [row for row in results["rows"] if probe in row["probes"]]
    if not every and len(rows) > most:
        named = [results["reference"], results["best_second_order"]]
        named += [contrast["other"] for contrast in results["contrasts"].values()]
        by_validation = sorted(rows, key=lambda row: -row["probes"][probe]["validation"])
        chosen = list(dict.fromkeys([*named, *(row["label"] for row in by_validation)]))[:most]
        rows = [row for row in rows if row["label"] in chosen]
    width = max(len("recipe"), *(len(row["label"]) for row in rows))
    head = f"minus {results['reference']} [95 %]"
    lines = [f"{'recipe':<{width}}{'numbers':>9}{results['primary_name']:>13}  {head}"]
    lines.append("-" * (width + 9 + 13 + 2 + 23))
    for row in rows:
        score = row["probes"][probe]["test"][results["primary"]]
        gain = {"value": score["difference"], "interval": score["difference_interval"]}
        mark = "*" if row["label"] == results["best_second_order"] else " "
        line = f"{row['label']:<{width}}{row['num_features']:>9,}{number(score['value']):>12}{mark}"
        lines.append(f"{line}  {_gain(gain) if row['label'] != results['reference'] else ''}".rstrip())
    rest = len(results["rows"]) - len(rows)
    lines.append(f"* chosen on validation; {probe} probe" + (f"; {rest} more rows: --all" if rest else ""))
    return "\n".join(lines)
