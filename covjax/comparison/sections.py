"""Sections of a comparison's page beside its tables of rows: the answer, the data, single predictions, what next."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from covjax.comparison.config import RETRIEVAL
from covjax.comparison.datacard import DataCard, Predictions, Spread, class_order, class_scores, confusion
from covjax.comparison.figures import MOST_CLASSES, middle_output
from covjax.comparison.page import (
    Html,
    Row,
    commands,
    difference,
    escape,
    figure,
    fold,
    listing,
    note,
    number,
    relative,
    section,
    soft,
    table,
)
from covjax.comparison.results import Results, RowResult, Term, side
from covjax.comparison.verdict import answer
from covjax.data.splits import SPLITS
from covjax.metrics import pearson, r2

MOST = 10  # rows of a table that is not folded
RIVALS = {
    "gain": "the plain average",
    "over_baseline": "strongest rival of first order",
    "over_control": "strongest control",
    "over_composition": "no encoder at all",
}


def opening(results: Results) -> list[str]:
    """The answer in a sentence, what puts it in doubt, and the chosen row beside its rivals."""
    planned, scores = results.contrasts, results.scores()
    kind = side(planned["gain"].interval) if "gain" in planned else ""
    text = answer(results)
    mark = "yes" if text.startswith("Yes") else "no" if kind == "below" else ""
    chosen = results.best_second_order
    rows: list[Row] = [[_titled(results, chosen, "chosen on validation"), number(scores[chosen].value), "–"]]
    for name, words in RIVALS.items():
        contrast = planned.get(name)
        if contrast is None or contrast.other not in scores:
            continue
        gain = difference(contrast.value, contrast.interval)
        rows.append([_titled(results, contrast.other, words), number(scores[contrast.other].value), gain])
    caption = f"test {results.primary_name}; each rival is the best of its kind on validation"
    if results.folds is not None:
        caption += "; differences are of each fold's own choices"
    head = ["pool", results.primary_name, "chosen minus it [95 %]"]
    doubts = data_warnings(results)
    box = f"<div class='doubt'><b>Read with care</b>{listing(doubts)}</div>" if doubts else ""
    return [f"<p class='answer {mark}'>{escape(text)}</p>", box, table(head, rows, caption=caption)]


def _titled(results: Results, label: str, words: str) -> Html:
    return Html(f"{escape(results.by_label[label].title)}<small>{escape(words)}</small>")


def data_warnings(results: Results) -> list[str]:
    """The warnings about data, groups and sizes, which put the answer in doubt; the others are about single rows."""
    return [text for text in results.warnings if text not in row_warnings(results)]


def row_warnings(results: Results) -> list[str]:
    """The warnings that begin with a row's name."""
    names = tuple(f"{row.label}{mark}" for row in results.rows for mark in (":", ","))
    return [text for text in results.warnings if text.startswith(names)]


def data_section(results: Results, card: DataCard | None) -> list[str]:
    """How many there are, how long, in which groups, under which labels; what no features at all would reach."""
    sizes, groups = results.sizes, results.groups
    each = "" if results.folds is None else " in a fold, about"
    rows: list[Row | str] = [[f"{results.unit}{each}", *(f"{sizes[split]:,.0f}" for split in SPLITS)]]
    rows.append([f"groups{each}", *(f"{groups[split]:,.0f}" for split in SPLITS)])
    rest: list[Row | str] = []
    if card is not None:
        rows += [[f"{card.unit}, median (range)", *_spreads(card.lengths, "{:,.6g}".format)]] if card.lengths else []
        rows += [["measured, median (range)", *_spreads(card.targets, number)]] if card.targets else []
        names = {term.label: term_name(term) for term in results.terms}
        by_size = sorted(card.labels, key=lambda label: -card.labels[label]["train"])
        lines = [[names.get(name, name), *(f"{card.labels[name][s]:,}" for s in SPLITS)] for name in by_size]
        kind = "class" if results.task == "multiclass" else "label, positives"
        rows += [kind, *lines[:MOST]] if lines else []
        rest = [*lines[MOST:]]
    head = ["", *SPLITS]
    parts = [table(head, rows)]
    if rest:
        parts.append(fold(f"{len(rest)} more", table(head, rest)))
    if card is not None and card.baseline:
        parts.append(note(f"Without any features: {card.baseline}."))
    return [section("The data", *parts)]


def _spreads(values: Mapping[str, Spread], form: Callable[[float], str]) -> list[str]:
    spreads = [values[split] for split in SPLITS]
    return [
        form(middle) if low == high else Html(f"{form(middle)} {soft(f'{form(low)} to {form(high)}')}")
        for low, middle, high in spreads
    ]


def term_name(term: Term) -> str:
    """A label with its name, where it has one."""
    return term.name if term.name == term.label else f"{term.name} ({term.label})"


def class_section(results: Results, card: DataCard, svgs: Mapping[str, str]) -> list[str]:
    """Of classes precision, recall and F1 of the chosen row, beside the reference's F1, and the confusion matrix."""
    taken, title = card.predictions, results.by_label[results.best_second_order].title
    if taken is None or results.task != "multiclass":
        return []
    counts, names = confusion(taken.truth, taken.chosen), card.outputs
    own, mean = class_scores(counts), class_scores(confusion(taken.truth, taken.reference))
    rows = [
        [
            names[i],
            f"{counts[i].sum():,}",
            *(number(own[name][i]) for name in ("precision", "recall", "F1")),
            number(mean["F1"][i]),
        ]
        for i in class_order(taken.truth)
    ]
    head = ["class", "test", "precision", "recall", "F1", f"F1 of {results.reference}"]
    caption = (
        f"{title}, {results.probes[0]} probe{_first_seed(results)}. Recall: share of a class that is found; precision: "
        "share of what is called so that is; F1: their harmonic mean"
    )
    parts = [table(head, rows[:MOST], caption=caption)]
    if rows[MOST:]:
        parts.append(fold(f"{len(rows) - MOST} more classes", table(head, rows[MOST:])))
    if "confusion" in svgs:
        text = "Confusion matrix of the test set: counts (of up to ten classes), darker the larger the share of a row."
        parts.append(figure(svgs["confusion"], text))
    else:
        parts.append(_confused(counts, names))
    return [section("By class", *parts)]


def _confused(counts: np.ndarray, names: Sequence[str]) -> Html:
    """The most frequent errors, where classes are too many for a matrix."""
    errors = counts - np.diag(np.diag(counts))
    places = [divmod(int(i), len(counts)) for i in np.argsort(-errors, axis=None, kind="stable")[:MOST]]
    rows = [[names[i], names[j], f"{errors[i, j]:,}"] for i, j in places if errors[i, j]]
    caption = f"the most frequent errors; a matrix is drawn of at most {MOST_CLASSES} classes"
    return table(["true class", "predicted class", "test"], rows, caption=caption)


def _first_seed(results: Results) -> str:
    score = results.scores()[results.best_second_order]
    return ", first of its seeds" if score.seeds else ""


def measured_section(results: Results, card: DataCard, svgs: Mapping[str, str]) -> list[str]:
    """Of numbers what was measured against what is predicted, and what is left over."""
    if card.predictions is None or "measured" not in svgs:
        return []
    output, taken = middle_output(results), card.predictions
    names = {each.label: each.name for each in results.outputs}
    label = card.outputs[output]
    which = "" if len(card.outputs) == 1 else f", output {names.get(label, label)}, the middle one by R²"
    title = results.by_label[results.best_second_order].title
    caption = (
        f"Test {results.unit}: {title}, {results.probes[0]} probe{_first_seed(results)}{which}. Above: measured "
        f"against predicted, on the line where both are equal. Below: measured minus predicted. {_fit(taken, output)}"
    )
    return [section("Predicted and measured", figure(svgs["measured"], caption))]


def _fit(taken: Predictions, output: int) -> str:
    truth, scores = taken.truth[:, [output]], taken.chosen[:, [output]]
    error = float(np.sqrt(np.mean((truth - scores) ** 2)))
    return (
        f"R² {number(float(r2(truth, scores)[0]))}, Pearson {number(float(pearson(truth, scores)[0]))}, root of the "
        f"mean squared residual {number(error)}."
    )


def distractor_section(results: Results, shown_rows: Sequence[RowResult]) -> list[str]:
    """Values at every share of foreign tokens, with the difference from the reference at the same share."""
    if not results.distractors:
        return []
    alone, rows = results.scores(), list[Row | str]()
    for row in shown_rows:
        if row.label not in results.distractors[0].scores:
            continue
        cells = []
        for score in (alone[row.label], *(each.scores[row.label] for each in results.distractors)):
            gain = difference(score.difference, score.difference_interval)
            beside = "" if row.label == results.reference else f" {gain}"
            cells.append(Html(f"{number(score.value)}{beside}"))
        rows.append([row.title, *cells])
    head = ["pooler", "its own tokens", *(f"{100 * each.share:.10g}% foreign" for each in results.distractors)]
    caption = (
        f"test {results.primary_name}, {results.probes[0]} probe, and its difference from {results.reference} at the "
        "same share; probes and penalties are those of the other tables"
    )
    text = (
        "Tokens of other test sequences were appended to those of every test sequence, until the given share of all "
        "was foreign. A pool that keeps its value still sees what the sequence itself has; one that loses it saw an "
        "average over everything."
    )
    return [section("With tokens of other sequences", f"<p>{text}</p>", table(head, rows, caption=caption))]


def next_section(results: Results) -> list[str]:
    """Three commands: use the model, and look at what this comparison did not."""
    config, encoder = results.manifest["config"], results.manifest["encoder"]
    if "output" not in config:
        return []
    output, command = os.path.relpath(config["output"]), relative(results.manifest.get("command", ""))
    model, is_retrieval = f"{output}/model", config.get("protocol") == RETRIEVAL
    given = encoder.get("source") == "activations"

    def again(suffix: str, name: str) -> str:
        if command:
            return f"{_without(command, 'output', name)} --output {shlex.quote(f'{output}-{suffix}')} --{name} all"
        return f'covjax.compare(…, output={f"{output}-{suffix}"!r}, {name}="all")  # in Python, as before'

    lines = {}
    if not is_retrieval:
        new = "--activations NEW" if given else "new_pairs.csv" if results.unit == "pairs" else "new.fasta"
        lines["Predict for new ones by the winner:"] = f"covjax predict {shlex.quote(model)} {new}"
    has_layers = not given and encoder.get("layer") is not None and results.unit != "pairs"
    if has_layers and not config.get("layers") and config.get("layer") == -1:
        lines["Is it the layer? Let every row take its own:"] = again("layers", "layers")
    if list(config.get("rows", ())) != ["all"]:
        lines["Is there a stronger rival? Compare every pool:"] = again("all", "rows")
    if not given and results.unit != "pairs":
        fitted = shlex.quote(f"{model}/embedder")
        lines["Embed new ones for another use:"] = f"covjax embed new.fasta --fitted {fitted} --to new.npz"
    return [section("What to do next", commands(dict([*lines.items()][:3])))]


def _without(command: str, *names: str) -> str:
    """The command less the options of these names and their values."""
    words, rest = shlex.split(command), []
    while words:
        word = words.pop(0)
        if word in [f"--{name}" for name in names]:
            words = words[1:]
        elif not word.startswith(tuple(f"--{name}=" for name in names)):
            rest.append(word)
    return shlex.join(rest)
