"""The answer of a comparison in one paragraph, from its results alone; the same in the terminal and on the page."""

from fnmatch import fnmatchcase

from covjax.comparison.chain import chain_sentence
from covjax.comparison.fold_text import model_sentence, opening, other_text, usual_other
from covjax.comparison.page import gain_text, number
from covjax.comparison.results import Contrast, Interval, Results, RowResult, side

ORDERED = ("first", "last", "cls", "regional_mean", "dct")  # rows of first order that know where a token stands
# Means of functions of whole tokens, which single features do not give.
DISTRIBUTION = (
    *("sliced_wasserstein", "learned_sliced_wasserstein", "kernel_mean", "vlad", "fisher_vector"),
    *("sliced_wasserstein_matched", "kernel_mean_matched", "vlad_matched", "fisher_vector_matched"),
)
RICHER = ("mean_rbf", "mean_mlp")
# What a first-order row knows beyond single features; the means of an autoencoder's latents are of whole tokens too.
KINDS = {
    "position": ORDERED,
    "distribution": (*DISTRIBUTION, "sae_*"),
    "probe": RICHER,
    "training": ("attention*", "light_attention*"),
}
EVIDENCE = {
    "none": "no evidence that second order helps here",
    "co-occurrence": "evidence of co-occurrence: no first-order pool and no control does as well",
    "marginals": "a gain that single features explain: a pool without co-occurrence does as well",
    "position": "a gain that position explains: a pool that knows where tokens are does as well",
    "distribution": "a gain that the tokens' distribution explains: a pool of it without second moments does as well",
    "training": "a gain that training explains: a first-order pool that is trained on the labels does as well",
    "probe": "a gain that a richer probe explains: a nonlinear probe of the mean does as well",
    "quadratic": "a gain that quadratic features of the mean explain: a control without co-occurrence does as well",
    "open": "a gain whose cause is open: no control was compared (--rows names none)",
}
# What the rival that does as well knows, in words for a reader who knows no pools.
ENOUGH = {
    "marginals": "how each feature varies by itself is enough",
    "position": "where tokens are is enough",
    "distribution": "the distribution of the tokens is enough",
    "training": "weights of the tokens, trained on the labels, are enough",
    "probe": "a richer probe of the average is enough",
    "quadratic": "products of the average's features are enough",
}
OTHERS = {"over_baseline": "the strongest other first-order pool", "over_control": "the strongest control"}


def evidence(results: Results) -> str:
    """What a gain over the mean is evidence of, a key of `EVIDENCE`, by the unrounded paired intervals.

    The chosen row must be above the mean, the strongest other first-order row and the strongest control, each the best
    of its kind on validation, with intervals above 0, for co-occurrence. One without interval is not above.
    """
    planned = results.contrasts
    above = {name: side(contrast.interval) == "above" for name, contrast in planned.items()}
    if not above.get("gain"):
        return "none"
    if "over_baseline" in planned and not above["over_baseline"]:
        other = usual_other(planned["over_baseline"])
        known = (kind for kind, names in KINDS.items() if any(fnmatchcase(other, name) for name in names))
        return next(known, "marginals")
    if "over_control" not in planned:
        return "open"
    if not above["over_control"]:
        return "marginals" if usual_other(planned["over_control"]).startswith("shuffled") else "quadratic"
    return "co-occurrence"


def verdict(results: Results) -> str:
    """Which pool validation chose, its test value, its gains with intervals, and what they are evidence of."""
    planned, chosen = results.contrasts, results.best_second_order
    score = results.scores()[chosen]
    value = score.difference
    ends: Interval | None = score.difference_interval
    if "gain" in planned:
        value, ends = planned["gain"].value, planned["gain"].interval
    text = f"Validation chose {_named(results, chosen)}: test {results.primary_name} {number(score.value)}, "
    parts = [f"{text}{gain_text(value, ends)} over the {_named(results, results.reference)}"]
    others = [(planned[name], words) for name, words in OTHERS.items() if name in planned]
    parts += [
        f"{gain_text(each.value, each.interval)} over {words}, {_named(results, each.other)}" for each, words in others
    ]
    if results.folds is not None:
        parts = [opening(results, OTHERS)]
    answer = EVIDENCE[evidence(results)]
    if side(ends) == "below":
        answer = f"{answer}: the {results.reference} is better"
    family = " (within one family)" if results.one_family else ""
    sentences = [f"{'; '.join(parts)}. That is {answer}{family}."]
    if rival := without_encoder(results):
        name, how, contrast = rival
        gain = gain_text(contrast.value, contrast.interval)
        row = f"The row {name}, which sees no token,"
        if contrast.choices:
            row = f"The row that sees no token ({other_text(contrast)})"
        sentences.append(f"{row} {how}: {gain} for the chosen pool.")
    sentences += [chain_sentence(results)] if results.chain else []
    if results.folds is not None:
        sentences.append(model_sentence(results))
    elif results.winner != chosen:
        score = results.scores()[results.winner]
        sentences.append(
            f"The model is {_named(results, results.winner)}, above {chosen} on validation: {number(score.value)}, "
            f"{gain_text(score.difference, score.difference_interval)} over the {results.reference}; it is one of the "
            "mixtures of first and second order, so its gain is evidence of neither."
        )
    return " ".join(sentences)


def without_encoder(results: Results) -> tuple[str, str, Contrast] | None:
    """The composition row that the chosen one is not above: its name, "does better" or "does as well", the contrast."""
    contrast = results.contrasts.get("over_composition")
    if contrast is None or contrast.interval is None or (where := side(contrast.interval)) == "above":
        return None
    return usual_other(contrast), "does better" if where == "below" else "does as well", contrast


def answer(results: Results) -> str:
    """The verdict in a sentence or two for a reader who knows the data and not the method."""
    text = _answer(results)
    if rival := without_encoder(results):
        row = results.by_label[rival[0]]
        value = number(results.scores()[rival[0]].value)
        text += f" {'But' if text.startswith('Yes') else 'And'} {row.title}, without the model, {rival[1]}: {value}."
    return text


def _answer(results: Results) -> str:
    planned, scores, kind = results.contrasts, results.scores(), evidence(results)
    chosen, mean = scores[results.best_second_order], scores[results.reference]
    size = f"{results.sizes.get('test', 0):,} test {results.unit}"
    if results.folds is not None:
        size = f"{results.folds.sequences:,} {results.unit} in the mean over folds"
    pool = f"{results.by_label[results.best_second_order].title}, the second-order pool that validation chose,"
    values = f"{results.primary_name} {number(chosen.value)}", number(mean.value)
    ends = planned["gain"].interval if "gain" in planned else chosen.difference_interval
    family = ", within one family" if results.one_family else ""
    if side(ends) == "below":
        pair = " against ".join(values)
        return f"No: on {size}{family}, {pool} predicts worse than the plain average of the tokens: {pair}."
    if kind == "none":
        return (
            f"Not shown: on {size}{family}, {pool} reaches {values[0]} and the plain average of the tokens {values[1]}"
            ": chance can explain the difference."
        )
    better = f"on {size}{family}, {pool} reaches {values[0]} where the plain average of the tokens reaches {values[1]}"
    if kind == "co-occurrence":
        return f"Yes: {better}, and no simpler pool and no control does as well."
    if kind == "open":
        return f"Better, but why is open: {better}; no control was compared."
    over = planned.get("over_baseline")
    rival = over if over and side(over.interval) != "above" else planned["over_control"]
    other = usual_other(rival)
    row = results.by_label.get(other)
    title = other if row is None else f"{row.title} ({number(scores[other].value)})"
    well = "does better" if side(rival.interval) == "below" else "does as well"
    return f"Better, but not by second order: {better}, yet {title} {well}: {ENOUGH[kind]}."


def main_rows(results: Results, most: int = 10) -> list[RowResult]:
    """At most `most` rows in the order of a report: those of the verdict, then the best on validation."""
    probe, scores = results.probes[0], results.scores()
    rows = [row for row in results.rows if row.label in scores]
    if len(rows) <= most:
        return rows
    named = [results.reference, results.best_second_order, results.winner]
    named += [contrast.other for contrast in results.contrasts.values()]
    by_validation = sorted(rows, key=lambda row: -row.probes[probe].validation)
    chosen = list(dict.fromkeys([*named, *(row.label for row in by_validation)]))[:most]
    return [row for row in rows if row.label in chosen]


def _named(results: Results, label: str) -> str:
    """The row's name, with its layer where rows chose theirs."""
    row = results.by_label.get(label)
    return label if row is None or row.layer is None else f"{label} (layer {row.layer})"


def table(results: Results, every: bool = False, most: int = 10) -> str:
    """The rows by name with the primary metric and its difference from the mean, at most 80 columns wide.

    Shown are the mean, the rows of the planned contrasts, and the best on validation, `most` in all; `every` shows all.
    """
    probe, scores = results.probes[0], results.scores()
    rows = [row for row in results.rows if row.label in scores] if every else main_rows(results, most)
    width = max(len("recipe"), *(len(row.label) for row in rows))
    head = f"minus {results.reference} [95 %]"
    layered, wide = bool(results.layers), 6 if results.layers else 0
    lines = [f"{'recipe':<{width}}{'layer' if layered else '':>{wide}}{'numbers':>9}{results.primary_name:>13}  {head}"]
    lines.append("-" * (width + wide + 9 + 13 + 2 + 23))
    for row in rows:
        score = scores[row.label]
        gain = gain_text(score.difference, score.difference_interval) if row.label != results.reference else ""
        mark = "*" if row.label == results.best_second_order else "+" if row.label == results.winner else " "
        layer = "" if row.layer is None else row.layer
        lines.append(
            f"{row.label:<{width}}{layer:>{wide}}{row.num_features:>9,}{number(score.value):>12}{mark}  {gain}".rstrip()
        )
    rest = len(results.rows) - len(rows)
    model = "; + in model/" if results.winner != results.best_second_order else ""
    how = "chosen on validation" if results.folds is None else "best on validation, mean over folds"
    lines.append(f"* {how}; {probe} probe{model}" + (f"; {rest} more rows: --all" if rest else ""))
    if layered:
        lines.append("layer: the best one for each row on validation")
    return "\n".join(lines)
