"""One self-contained HTML page from the results of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covjax.comparison.chain import LINKS, carrier
from covjax.comparison.config import RETRIEVAL
from covjax.comparison.datacard import DataCard
from covjax.comparison.figures import shown_terms
from covjax.comparison.fold_text import LABEL_FREE, chosen_text, folds_sentence, interval_sentence
from covjax.comparison.glossary import definitions
from covjax.comparison.page import (
    Html,
    Row,
    difference,
    escape,
    figure,
    fold,
    listing,
    note,
    number,
    page,
    relative,
    section,
    signed,
    soft,
    stamped,
    table,
)
from covjax.comparison.results import Interval, ProbeResult, Results, RowResult, side
from covjax.comparison.sections import (
    MOST,
    class_section,
    data_section,
    distractor_section,
    measured_section,
    next_section,
    opening,
    row_warnings,
    term_name,
)
from covjax.comparison.verdict import main_rows, verdict
from covjax.jobs.folder import write_text
from covjax.recipes.base import CONTROL, TRAINED
from covjax.recipes.standard import LIGHT_WIDTH

CAPTIONS = {
    "differences": "Every pool minus {reference} on the test set, in the order of the table. Points: difference; "
    "lines: 95 % paired bootstrap interval over groups. A line that crosses zero is not evidence.",
    "chain": "From {reference} downwards, every link adds one kind of information. Bars: what it adds on the test "
    "set; lines: 95 % interval of that step; green: above zero, orange: below, grey: not decided; hollow: none was "
    "better on validation.",
    "rank": "Test metric against the rank at which the covariance, or its square root, is truncated; the basis is that "
    "of the training sequences. Diamonds: full matrices; dashed: {reference}. Band: 95 % bootstrap interval of the "
    "value itself, of the family that is best on validation.",
    "terms": "For each label the value of {reference} (hollow) and of the chosen row (filled), the largest gain first.",
}


def write_report(results: Results, figures: Mapping[str, str], path: Path, card: DataCard | None = None) -> None:
    """Write the HTML page: the answer, the data, tables and figures, what to do next, glossary, manifest. No network.

    `card` describes the data and has the test predictions; without it their sections are left out.
    """
    name = results.title
    parts = [
        f"<h1>{escape(name)}: is covariance pooling better than {escape(results.reference)}?</h1>",
        *opening(results),
        f"<p>{escape(verdict(results))} {escape(_strongest(results))}</p>",
        *data_section(results, card),
        note(_setting(results)),
        *_rows(results, figures),
        *_chain(results, figures),
    ]
    if card is not None:
        parts += [*class_section(results, card, figures), *measured_section(results, card, figures)]
    if results.terms:
        parts.append(_terms(results, figures))
    if "rank" in figures:
        parts.append(section("How many directions?", _figure(results, figures, "rank")))
    if results.folds:
        parts.append(section("Fold by fold", _fold_table(results)))
    if results.outputs:
        parts.append(_outputs(results))
    parts += [section("Which layer?", _layer_table(results))] if results.layers else []
    parts += distractor_section(results, main_rows(results))
    parts += next_section(results)
    if warnings := row_warnings(results):
        parts.append(
            section(
                "Warnings of single rows",
                fold(f"{len(warnings)} of {len(results.warnings)} warnings", listing(warnings)),
            )
        )
    parts.append(section("Words", definitions("".join(parts))))
    manifest = "\n".join(escape(f"{key}: {relative(str(value))}") for key, value in _flat(results.manifest))
    parts.append(section("Manifest", fold("What made these numbers", f"<pre>{manifest}</pre>")))
    write_text(path, stamped(page(name, parts), results, path, figures))


def _figure(results: Results, figures: Mapping[str, str], name: str, caption: str = "") -> Html:
    return figure(figures[name], _caption(caption or name, results))


def _caption(name: str, results: Results) -> str:
    text = CAPTIONS[name].format(reference=results.reference)
    if results.folds is None:
        return text
    text = text.replace("95 % paired bootstrap interval over groups", "95 % corrected resampled interval over folds")
    return text.replace("95 % bootstrap interval", "95 % corrected resampled interval")


def _fold_table(results: Results) -> Html:
    """What every fold chose, and its difference from the reference on that fold's test rows."""
    folds, probe = results.folds, results.probes[0]
    assert folds is not None
    tests = {label: values[probe][results.primary] for label, values in folds.values.items()}
    rows: list[Row | str] = []
    for place, (row, other) in enumerate(results.contrasts["gain"].choices):
        value, reference = tests[row][place], tests[other][place]
        repeat, fold = divmod(place, folds.folds)
        if fold == 0:
            rows.append(f"repeat {repeat + 1}")
        title = results.by_label[row].title
        rows.append([f"fold {fold + 1}", title, number(value), number(reference), signed(value - reference)])
    caption = (
        f"test {results.primary_name}, {probe} probe; the second-order row is the best on the fold's validation rows"
    )
    head = ["fold", "second-order row", "its value", results.reference, "Δ"]
    return table(head, rows, caption=caption)


def _rows(results: Results, figures: Mapping[str, str]) -> list[str]:
    """The main rows of the first probe with their figure; the other rows and probes are folded."""
    first, *others = results.probes
    main = main_rows(results)
    parts = [_table(results, first, main)]
    if len(main) < len(results.rows):
        count = f"All {len(results.rows)} rows, {first} probe"
        drawn = [_figure(results, figures, "differences_all", "differences")] if "differences_all" in figures else []
        parts.append(fold(count, _table(results, first, results.rows), *drawn))
    parts += [fold(f"All rows, {probe} probe", _table(results, probe, results.rows)) for probe in others]
    heading = f"Pools, {first} probe"
    if len(main) < len(results.rows):
        heading += f": {len(main)} of {len(results.rows)}"
    drawn = [section("Differences", _figure(results, figures, "differences"))] if "differences" in figures else []
    return [section(heading, *parts, note(_how_to_read(results))), *drawn]


def _strongest(results: Results) -> str:
    """The control that is best on the test set, which validation need not have chosen."""
    tests = results.scores()
    scores = {row.title: tests[row.label] for row in results.rows if row.role == CONTROL}
    if not scores:
        return "No control was compared (--rows): whether a gain is co-occurrence is open."
    title = max(scores, key=lambda name: scores[name].value)
    return (
        f"The strongest control on the test set, {title}, reaches {number(scores[title].value)} "
        f"({signed(scores[title].difference)})."
    )


def _setting(results: Results) -> str:
    sizes, groups, encoder = results.sizes, results.groups, results.manifest["encoder"]
    alone = all(groups[split] == sizes[split] for split in groups)
    grouped = "each its own group" if alone else f"split by group ({groups['test']:,} in the test set)"
    if results.grouping:
        grouped += f" ({results.grouping})"
    unit = "target" if results.task == "regression" else "label"
    source = f"frozen encoder {encoder['name']}"
    if encoder.get("source") == "activations":
        source = f"activations of {encoder['name']}"
    if encoder["layer"] is not None:
        source += f", layer {encoder['layer']}"
    if results.layers:
        source += f", layers {', '.join(map(str, results.layers))}, of which validation chose one for each row"
    counts = f"{sizes['train']:,} train, {sizes['validation']:,} validation, {sizes['test']:,} test {results.unit}"
    split = f"{counts}, {grouped}"
    if results.folds is not None:
        split = _folds(results)
    return (
        f"{split}; {results.num_targets} {unit if results.num_targets == 1 else unit + 's'}; {source}, "
        f"{results.encoder_features} features per token, standardised by "
        f"{'all' if results.folds else 'the training'} tokens; {_protocol(results)}."
    )


def _folds(results: Results) -> str:
    folds, sizes = results.folds, results.sizes
    assert folds is not None
    grouped = "each its own group" if folds.groups == folds.sequences else f"in {folds.groups:,} groups"
    if results.grouping:
        grouped += f" ({results.grouping})"
    return (
        f"{folds.sequences:,} sequences, {grouped}; {folds_sentence(folds)}, by probes fitted on other groups; in each "
        f"fold about {sizes['train']:,.0f} train, {sizes['validation']:,.0f} validation and {sizes['test']:,.0f} test "
        f"sequences, and every choice is made on its validation part. {LABEL_FREE} Pools trained on labels are "
        "left out: each would have to be trained in every fold"
    )


def _protocol(results: Results) -> str:
    if RETRIEVAL not in results.probes:
        return "the penalty of each probe chosen on validation from one grid"
    return (
        "no probe: for each validation and test sequence the training sequences ranked by the cosine of vectors less "
        "their training mean; relevant are those that share a label with it; recall@k: one of the first k is relevant"
    )


def _how_to_read(results: Results) -> str:
    labels = {row.label for row in results.rows}
    text = (
        f"Δ: pooler minus {results.reference} {_intervals(results)}. Green: the interval lies "
        "above zero; orange: below. Controls: the outer product of the mean has the covariance's quadratic features "
        "but no co-occurrence; shuffling each feature within the sequence keeps every marginal and destroys it. "
        "A gain over the reference that does not also beat the controls is not covariance."
    )
    if any(label in TRAINED for label in labels):
        text += (
            " Trained pools (attention, light attention, projected) are fitted on the task with AdamW, all with the "
            "same steps and grid, then frozen and probed like every other row; their value is the mean over seeds "
            f"{', '.join(map(str, results.manifest['config']['seeds']))}, and light attention sees the first "
            f"{LIGHT_WIDTH} principal components where a token has more features."
        )
    if any(label.startswith(("sae", "tucker")) for label in labels):
        text += " Tucker bases and sparse autoencoders (SAE) come from the training sequences' tokens, without labels."
    return text


def _intervals(results: Results) -> str:
    if results.folds is not None:
        return (
            f"on the same test rows, {interval_sentence(results.folds)}. Penalty: the best of the mean validation path"
        )
    resamples = results.manifest["config"]["resamples"]
    return f"on the same test groups, with the 95 % interval of {resamples:,} paired group-bootstrap resamples"


def _table(results: Results, probe: str, shown: Sequence[RowResult]) -> Html:
    layered = bool(results.layers)
    head = [
        "pooler",
        *["layer"] * layered,
        results.primary_name,
        f"Δ {results.primary_name} [95 %]",
        *[name for key, name in results.metrics.items() if key != results.primary],
        "numbers",
        "penalty",
    ]
    rows: list[Row | str] = []
    shown = [row for row in shown if probe in row.probes]
    for before, row in zip([None, *shown], shown):
        if before is None or before.role != row.role:
            rows.append(row.role)
        fit = row.probes[probe]
        value, *values = (number(fit.test[key].value) for key in dict.fromkeys([results.primary, *results.metrics]))
        delta = _difference(row, fit, results)
        penalty = "–" if probe == RETRIEVAL else f"{fit.penalty:g}"
        layer = ["–" if row.layer is None else str(row.layer)] * layered
        name = Html(f"<b>{escape(row.title)}</b>") if row.label == results.best_second_order else row.title
        rows.append([name, *layer, value, delta, *values, f"{row.num_features:,}", penalty])
    return table(head, rows)


def _layer_table(results: Results) -> Html:
    """Validation values of every row at every layer; the chosen one is bold."""
    rows: list[Row | str] = []
    for row in results.rows:
        if row.layer is None:
            continue
        values = zip(results.layers, row.layer_validation, strict=True)
        texts = [(layer, "–" if value is None else number(value)) for layer, value in values]
        rows.append([row.title, *(Html(f"<b>{text}</b>") if layer == row.layer else text for layer, text in texts)])
    caption = (
        f"validation {results.primary_name}, {results.probes[0]} probe, by layer; bold: the layer that the row takes. "
        "Every row takes its own best, the mean too; the test set is scored at these alone."
    )
    return table(["pooler", *map(str, results.layers)], rows, caption=caption)


def _chain(results: Results, figures: Mapping[str, str]) -> list[str]:
    if not results.chain:
        return []
    rows, titles = [], {row.label: row.title for row in results.rows}
    for link, step in results.chain.items():
        name = f"{link} (carries the gain)" if link == carrier(results) else link
        taken = step.is_step
        row = chosen_text(step, 1) if step.choices else titles[step.row]
        gain = difference(step.value, step.interval) if taken else "–"
        rows.append([name, LINKS[link][0], row if taken else "no row above", gain])
    caption = (
        f"test {results.primary_name}, {results.probes[0]} probe; each link's row is the best so far on "
        f"{'each fold’s ' if results.folds else ''}validation; the steps add up to the last row's gain"
    )
    steps = table(["link", "what it adds", "row", "step [95 %]"], rows, caption=caption)
    drawn = [_figure(results, figures, "chain")] if "chain" in figures else []
    return [section(f"From the {results.reference} to Σ", *drawn, fold("The steps in numbers", steps))]


def _difference(row: RowResult, fit: ProbeResult, results: Results) -> str:
    score = fit.test[results.primary]
    return "–" if row.label == results.reference else difference(score.difference, score.difference_interval)


def _terms(results: Results, figures: Mapping[str, str]) -> Html:
    caption = _caption("terms", results)
    shown = shown_terms(results)
    if len(shown) < len(results.terms):
        half = len(shown) // 2
        caption += (
            f" Of {len(results.terms)} labels the {half} with the largest gain and the {half} with the largest loss."
        )
    drawn = [figure(figures["terms"], caption)] if "terms" in figures else []
    places = [*range(len(results.terms))]
    parts = [_term_table(results, places[:MOST])]
    if places[MOST:]:
        parts.append(fold(f"{len(places) - MOST} more labels", _term_table(results, places[MOST:])))
    return section("By label", *drawn, *parts)


def _term_table(results: Results, places: Sequence[int]) -> Html:
    probe, metric, by_label = results.probes[0], results.primary, results.by_label
    wanted = dict.fromkeys([results.reference, "covariance", results.best_second_order])
    columns = [by_label[label] for label in wanted if label in by_label]
    splits, rows = ("train", "test") if results.folds is None else ("test",), []
    for j in places:
        term = results.terms[j]
        counts = [str(term.positives[split]) for split in splits]
        rows.append([term_name(term), *counts, *(number(row.probes[probe].per_term[metric][j]) for row in columns)])
    caption = f"test {results.primary_name}, {probe} probe; counts of positives"
    if results.folds is not None:
        caption = f"test {results.primary_name}, {probe} probe, mean over folds; count of all positives"
    return table(["label", *splits, *(row.title for row in columns)], rows, caption=caption)


def _outputs(results: Results) -> Html:
    """The outputs as they are sorted, a column for each row, the gain of the chosen one; those past `MOST` folded."""
    rows = list(results.outputs[0].values)
    sides = [side(output.gain_interval) for output in results.outputs]
    titles = {row.label: row.title for row in results.rows}
    body: list[Row | str] = []
    for output in results.outputs:
        name = output.name if output.name == output.label else f"{output.name} ({output.label})"
        cells = [_with_interval(output.values[row], output.intervals[row]) for row in rows]
        body.append([name, *cells, difference(output.gain, output.gain_interval)])
    caption = (
        f"test {results.primary_name}, {results.probes[0]} probe, [95 %] over groups; sorted by {titles[rows[1]]}, "
        f"which is above the {titles[rows[0]]} by its interval in {sides.count('above')} of {len(sides)} outputs, "
        f"below in {sides.count('below')}. Many intervals are read together: by chance alone one in forty lies above."
    )
    head = ["output", *(titles[row] for row in rows), f"{titles[rows[1]]} minus {titles[rows[0]]}"]
    parts = [table(head, body[:MOST], caption=caption)]
    if body[MOST:]:
        parts.append(fold(f"{len(body) - MOST} more outputs", table(head, body[MOST:], caption=caption)))
    return section("By output", *parts)


def _with_interval(value: float, ends: Interval | None) -> Html:
    text = "" if ends is None else f" {soft(f'[{number(ends[0])}, {number(ends[1])}]')}"
    return Html(f"{number(value)}{text}")


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in tree.items():
        out += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return out
