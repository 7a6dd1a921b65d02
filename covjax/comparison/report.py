"""One self-contained HTML page from `results`."""

from pathlib import Path
from typing import Any

from covjax.comparison.verdict import number, signed, verdict
from covjax.jobs.folder import write_text
from covjax.notes import page_text as _e
from covjax.recipes.base import CONTROL, TRAINED
from covjax.recipes.standard import LIGHT_WIDTH

STYLE = """
:root{--ink:#1b1b1b;--soft:#666;--line:#ddd;--good:#00614a;--bad:#a33c00}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--ink);background:#fff;
 max-width:64rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin-top:2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.3rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{border-bottom:2px solid var(--ink);vertical-align:bottom}
tr.role td{background:#f4f4f4;font-weight:600;text-align:left}
.interval{color:var(--soft);font-size:.92em}
.above{color:var(--good);font-weight:600}.below{color:var(--bad);font-weight:600}
figure{margin:1.5rem auto;max-width:40rem}figure svg{width:100%;height:auto;display:block}
caption{text-align:left;padding:.3rem 0}
figcaption,.note{color:var(--soft);font-size:.9rem}
details pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.75rem;background:#f7f7f7;padding:.6rem}
@media print{body{max-width:none;padding:0;font-size:11pt}.scroll{overflow:visible}table{font-size:8pt}
 th,td{padding:.15rem .25rem}figure,tr{break-inside:avoid}h2{break-after:avoid}
 figure{max-width:24rem;margin:.8rem auto}}
"""

CAPTIONS = {
    "differences": "Every pooler minus {reference} on the test set. Bars: difference; black lines: 95 % paired "
    "bootstrap interval over groups. A bar whose line crosses zero is not evidence.",
    "rank": "Test metric against the rank at which the covariance, or its square root, is truncated; the basis (PCA of "
    "the mean covariance, the Tucker autoencoder, random) comes from the training sequences. Grey lines: "
    "{reference}. Bands: 95 % bootstrap interval of the value itself.",
    "terms": "One point a label.",
}


def write_report(results: dict[str, Any], figures: dict[str, str], path: Path) -> None:
    """Write the HTML page: the terminal's verdict, table, figures, how to read it, manifest. No network."""
    parts = [
        page_start(results["name"]),
        f"<h1>{_e(results['name'])}: is covariance pooling better than {_e(results['reference'])}?</h1>",
        f"<p><b>{_e(verdict(results))}</b></p>",
        f"<p>Values are of the {_e(results['probes'][0])} probe. {_e(_strongest(results))}</p>",
        f"<p class='note'>{_e(_setting(results))}</p>",
        *[
            f"<h2>All poolers, {_e(p)} probe</h2><div class='scroll'>{_table(results, p)}</div>"
            for p in results["probes"]
        ],
        f"<p class='note'>{_e(_how_to_read(results))}</p>",
        *[f"<p class='note'>Warning: {_e(text)}</p>" for text in results["warnings"]],
        "<h2>Figures</h2>",
    ]
    for name, svg in figures.items():
        caption = CAPTIONS[name].format(reference=_e(results["reference"]))
        parts.append(f"<figure role='img' aria-label='{caption}'>{svg}<figcaption>{caption}</figcaption></figure>")
    if results["terms"]:
        parts += ["<h2>Per label</h2><div class='scroll'>", _term_table(results), "</div>"]
    manifest = "\n".join(_e(f"{key}: {value}") for key, value in _flat(results["manifest"]))
    parts += [f"<h2>Manifest</h2><details open><summary>What made these numbers</summary><pre>{manifest}</pre>"]
    parts += ["</details></body></html>"]
    write_text(path, "\n".join(parts))


def page_start(title: str, style: str = STYLE) -> str:
    """The head of a page that needs no network, up to the start of its body."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>\n"
        f"<title>{_e(title)} – covjax</title><style>{style}</style></head><body>"
    )


def _strongest(results: dict[str, Any]) -> str:
    """The control that is best on the test set, which validation need not have chosen."""
    probe = results["probes"][0]
    scores = {
        row["title"]: row["probes"][probe]["test"][results["primary"]]
        for row in results["rows"]
        if row["role"] == CONTROL
    }
    if not scores:
        return "No control was asked for (--rows): whether a gain is co-occurrence is open."
    title = max(scores, key=lambda name: scores[name]["value"])
    return (
        f"The strongest control on the test set, {title}, reaches {number(scores[title]['value'])} "
        f"({signed(scores[title]['difference'])})."
    )


def _setting(results: dict[str, Any]) -> str:
    sizes = results["sizes"]
    manifest, groups = results["manifest"], results["groups"]
    alone = all(groups[split] == sizes[split] for split in groups)
    grouped = "each a group of its own" if alone else f"split by group ({groups['test']:,} in the test set)"
    if results.get("grouping"):
        grouped += f" ({results['grouping']})"
    unit = "target" if results["task"] == "regression" else "label"
    encoder = manifest["encoder"]
    source = f"frozen encoder {encoder['name']}"
    if encoder.get("source") == "activations":
        source = f"activations of {encoder['name']}"
    if encoder["layer"] is not None:
        source += f", layer {encoder['layer']}"
    return (
        f"{sizes['train']:,} train, {sizes['validation']:,} validation, {sizes['test']:,} test sequences, {grouped}; "
        f"{results['num_targets']} {unit if results['num_targets'] == 1 else unit + 's'}; {source}, "
        f"{results['encoder_features']} features a token, standardised by the training tokens; the penalty of each "
        "probe chosen on validation from one grid."
    )


def _how_to_read(results: dict[str, Any]) -> str:
    labels = {row["label"] for row in results["rows"]}
    text = (
        f"Δ: pooler minus {results['reference']} on the same test groups, with the 95 % interval of "
        f"{results['manifest']['config']['resamples']:,} paired group-bootstrap resamples. Green: the interval lies "
        "above zero; orange: below. Controls: the outer product of the mean has the covariance's quadratic features "
        "but no co-occurrence; shuffling each feature within the sequence keeps every marginal and destroys it. "
        "A gain over the reference that does not also beat the controls is not covariance."
    )
    if any(label in TRAINED for label in labels):
        text += (
            " Trained pools (attention, light attention, projected) are fitted on the task with AdamW, all with the "
            "same steps and grid, then frozen and probed like every other row; their value is the mean over seeds "
            f"{', '.join(map(str, results['manifest']['config']['seeds']))}, and light attention sees the first "
            f"{LIGHT_WIDTH} principal components where a token has more features."
        )
    if any(label.startswith(("sae", "tucker")) for label in labels):
        text += " Tucker bases and sparse autoencoders (SAE) come from the training sequences' tokens, without labels."
    return text


def _table(results: dict[str, Any], probe: str) -> str:
    metrics = results["metrics"]
    cells = ["<table><thead><tr><th>pooler</th><th>features</th>"]
    cells += [f"<th>{_e(name)}</th>" for name in metrics.values()]
    cells.append(f"<th>Δ {_e(results['primary_name'])} [95 %]</th><th>penalty</th></tr></thead><tbody>")
    role = None
    for row in results["rows"]:
        if row["role"] != role:
            role = row["role"]
            cells.append(f"<tr class='role'><td colspan='{len(metrics) + 4}'>{_e(role)}</td></tr>")
        fit = row["probes"][probe]
        cells.append(f"<tr><td>{_e(row['title'])}</td><td>{row['num_features']:,}</td>")
        cells += [f"<td>{_number(fit['test'][metric]['value'])}</td>" for metric in metrics]
        cells.append(f"<td>{_difference(row, fit, results)}</td><td>{fit['penalty']:g}</td></tr>")
    return "".join(cells) + "</tbody></table>"


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _difference(row: dict[str, Any], fit: dict[str, Any], results: dict[str, Any]) -> str:
    if row["label"] == results["reference"]:
        return "–"
    score = fit["test"][results["primary"]]
    low, high = score["difference_interval"]
    kind = "above" if low > 0 else "below" if high < 0 else ""
    interval = f"<span class='interval'>[{signed(low)}, {signed(high)}]</span>"
    return f"<span class='{kind}'>{signed(score['difference'])}</span> {interval}"


def _term_table(results: dict[str, Any]) -> str:
    probe, metric = results["probes"][0], results["primary"]
    rows = {row["label"]: row for row in results["rows"]}
    wanted = dict.fromkeys([results["reference"], "covariance", results["best_second_order"]])
    shown = [label for label in wanted if label in rows]
    head = "".join(f"<th>{_e(rows[label]['title'])}</th>" for label in shown)
    cells = [f"<table><thead><tr><th>label</th><th>train</th><th>test</th>{head}</tr></thead><tbody>"]
    for j, term in enumerate(results["terms"]):
        name = term["name"] if term["name"] == term["label"] else f"{term['name']} ({term['label']})"
        counts = term["positives"]
        cells.append(f"<tr><td>{_e(name)}</td><td>{counts['train']}</td><td>{counts['test']}</td>")
        cells += [f"<td>{_number(rows[label]['probes'][probe]['per_term'][metric][j])}</td>" for label in shown]
        cells.append("</tr>")
    caption = (
        f"<caption class='note'>test {_e(results['primary_name'])}, {_e(probe)} probe; counts of positives</caption>"
    )
    return "".join(cells).replace("<table>", f"<table>{caption}", 1) + "</tbody></table>"


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in tree.items():
        out += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return out
