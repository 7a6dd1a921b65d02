"""One self-contained HTML page from the results of a comparison."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covjax.comparison.chain import LINKS, carrier
from covjax.comparison.config import RETRIEVAL
from covjax.comparison.fold_text import LABEL_FREE, chosen_text, folds_sentence, interval_sentence
from covjax.comparison.page import Html, Row, difference, escape, figure, note, number, page, signed, soft, table
from covjax.comparison.results import Interval, ProbeResult, Results, RowResult, side
from covjax.comparison.verdict import verdict
from covjax.jobs.folder import write_text
from covjax.recipes.base import CONTROL, TRAINED
from covjax.recipes.standard import LIGHT_WIDTH

CAPTIONS = {
    "differences": "Every pooler minus {reference} on the test set. Bars: difference; black lines: 95 % paired "
    "bootstrap interval over groups. A bar whose line crosses zero is not evidence.",
    "rank": "Test metric against the rank at which the covariance, or its square root, is truncated; the basis (PCA of "
    "the mean covariance, the Tucker autoencoder, random) comes from the training sequences. Grey lines: "
    "{reference}. Bands: 95 % bootstrap interval of the value itself.",
    "terms": "One point a label.",
}


def write_report(results: Results, figures: Mapping[str, str], path: Path) -> None:
    """Write the HTML page: the terminal's verdict, table, figures, how to read it, manifest. No network."""
    parts = [
        f"<h1>{escape(results.name)}: is covariance pooling better than {escape(results.reference)}?</h1>",
        f"<p><b>{escape(verdict(results))}</b></p>",
        f"<p>Values are of the {escape(results.probes[0])} probe. {escape(_strongest(results))}</p>",
        note(_setting(results)),
        *[f"<h2>All poolers, {escape(probe)} probe</h2>{_table(results, probe)}" for probe in results.probes],
        *([f"<h2>From the {escape(results.reference)} to Σ</h2>{_chain(results)}"] if results.chain else []),
        note(_how_to_read(results)),
        *(["<h2>Fold by fold</h2>", _fold_table(results)] if results.folds else []),
        *(["<h2>Which layer?</h2>", _layer_table(results)] if results.layers else []),
        *[note(f"Warning: {text}") for text in results.warnings],
        "<h2>Figures</h2>",
        *[figure(svg, _caption(name, results)) for name, svg in figures.items()],
    ]
    if results.terms:
        parts += ["<h2>Per label</h2>", _term_table(results)]
    if results.outputs:
        parts += ["<h2>Per output</h2>", _output_table(results)]
    manifest = "\n".join(escape(f"{key}: {value}") for key, value in _flat(results.manifest))
    parts += [f"<h2>Manifest</h2><details open><summary>What made these numbers</summary><pre>{manifest}</pre>"]
    write_text(path, page(results.name, [*parts, "</details>"]))


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


def _strongest(results: Results) -> str:
    """The control that is best on the test set, which validation need not have chosen."""
    tests = results.scores()
    scores = {row.title: tests[row.label] for row in results.rows if row.role == CONTROL}
    if not scores:
        return "No control was asked for (--rows): whether a gain is co-occurrence is open."
    title = max(scores, key=lambda name: scores[name].value)
    return (
        f"The strongest control on the test set, {title}, reaches {number(scores[title].value)} "
        f"({signed(scores[title].difference)})."
    )


def _setting(results: Results) -> str:
    sizes, groups, encoder = results.sizes, results.groups, results.manifest["encoder"]
    alone = all(groups[split] == sizes[split] for split in groups)
    grouped = "each a group of its own" if alone else f"split by group ({groups['test']:,} in the test set)"
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
    split = f"{sizes['train']:,} train, {sizes['validation']:,} validation, {sizes['test']:,} test sequences, {grouped}"
    if results.folds is not None:
        split = _folds(results)
    return (
        f"{split}; {results.num_targets} {unit if results.num_targets == 1 else unit + 's'}; {source}, "
        f"{results.encoder_features} features a token, standardised by "
        f"{'all' if results.folds else 'the training'} tokens; {_protocol(results)}."
    )


def _folds(results: Results) -> str:
    folds, sizes = results.folds, results.sizes
    assert folds is not None
    grouped = "each a group of its own" if folds.groups == folds.sequences else f"in {folds.groups:,} groups"
    if results.grouping:
        grouped += f" ({results.grouping})"
    return (
        f"{folds.sequences:,} sequences, {grouped}; {folds_sentence(folds)}, by probes fitted on other groups; in each "
        f"fold about {sizes['train']:,.0f} train, {sizes['validation']:,.0f} validation and {sizes['test']:,.0f} test "
        f"sequences, and every choice is made on that validation. {LABEL_FREE} Pools that are trained on labels are "
        "no rows: each would have to be trained in every fold"
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


def _table(results: Results, probe: str) -> Html:
    layered = bool(results.layers)
    head = [
        "pooler",
        *["layer"] * layered,
        "features",
        *results.metrics.values(),
        f"Δ {results.primary_name} [95 %]",
        "penalty",
    ]
    rows: list[Row | str] = []
    for before, row in zip([None, *results.rows], results.rows):
        if before is None or before.role != row.role:
            rows.append(row.role)
        fit = row.probes[probe]
        values = [number(fit.test[metric].value) for metric in results.metrics]
        delta = _difference(row, fit, results)
        penalty = "–" if probe == RETRIEVAL else f"{fit.penalty:g}"
        layer = ["–" if row.layer is None else str(row.layer)] * layered
        rows.append([row.title, *layer, f"{row.num_features:,}", *values, delta, penalty])
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


def _chain(results: Results) -> Html:
    rows, titles = [], {row.label: row.title for row in results.rows}
    for link, step in results.chain.items():
        name = f"{link} (carries the gain)" if link == carrier(results) else link
        taken = step.is_step
        gain = difference(step.value, step.interval) if taken else "–"
        row = chosen_text(step, 1) if step.choices else titles[step.row]
        rows.append([name, LINKS[link][0], row if taken else "no row above", gain])
    caption = (
        f"test {results.primary_name}, {results.probes[0]} probe; each link's row is the best so far on "
        f"{'each fold’s ' if results.folds else ''}validation; the steps add up to the last row's gain"
    )
    return table(["link", "what it adds", "row", "step [95 %]"], rows, caption=caption)


def _difference(row: RowResult, fit: ProbeResult, results: Results) -> str:
    score = fit.test[results.primary]
    return "–" if row.label == results.reference else difference(score.difference, score.difference_interval)


def _term_table(results: Results) -> Html:
    probe, metric, by_label = results.probes[0], results.primary, results.by_label
    wanted = dict.fromkeys([results.reference, "covariance", results.best_second_order])
    columns = [by_label[label] for label in wanted if label in by_label]
    splits, rows = ("train", "test") if results.folds is None else ("test",), []
    for j, term in enumerate(results.terms):
        name = term.name if term.name == term.label else f"{term.name} ({term.label})"
        counts = [str(term.positives[split]) for split in splits]
        rows.append([name, *counts, *(number(row.probes[probe].per_term[metric][j]) for row in columns)])
    caption = f"test {results.primary_name}, {probe} probe; counts of positives"
    if results.folds is not None:
        caption = f"test {results.primary_name}, {probe} probe, mean over folds; count of all positives"
    return table(["label", *splits, *(row.title for row in columns)], rows, caption=caption)


def _output_table(results: Results) -> Html:
    """The table of a report: the outputs as they are sorted, a column for each row, the gain of the chosen one."""
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
    return table(head, body, caption=caption)


def _with_interval(value: float, ends: Interval | None) -> Html:
    text = "" if ends is None else f" {soft(f'[{number(ends[0])}, {number(ends[1])}]')}"
    return Html(f"{number(value)}{text}")


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in tree.items():
        out += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return out
