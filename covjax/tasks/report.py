"""The suite's report: one self-contained HTML page, `suite.md` and `suite.json` from its summary."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covjax.comparison.report import STYLE, page_start
from covjax.jobs.folder import write_text
from covjax.notes import page_text as _e
from covjax.tasks.figures import AGAINST, PART_NAMES, draw_suite, interval_text, markdown, p_text
from covjax.tasks.summary import COMPACT, NOTE_PERCENT, PARTS, Results, summarise_suite, verdict

WIDE = """
body{max-width:82rem}p,ul{max-width:64rem}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem}
.panels figure{margin:0}figure.wide{max-width:56rem;overflow-x:auto}figure.wide svg{min-width:36rem}
.grid th:first-child,.grid td:first-child{position:sticky;left:0;background:#fff;z-index:1}
.grid td{vertical-align:top}.grid tr.role td{background:#f4f4f4}
.grid .interval,.grid .seeds{display:block;color:var(--soft);font-size:.85em}
.grid th:first-child,.grid td:first-child{box-shadow:inset 0 -1px var(--line)}
.best{border-bottom:2px solid var(--ink);font-weight:600}.chosen{background:#eef4fb}
td.text{text-align:left;white-space:normal;min-width:16rem}td.text .interval{display:inline}
.left th{text-align:left}
@media(max-width:40rem){.left thead{display:none}.left td{display:block;box-shadow:none!important;border:0}
 .left td:first-child{font-weight:600}.left tr{border-bottom:1px solid var(--line)}}
td.text ul{margin:0;padding-left:1rem}
"""
WORDS = {"above": "above", "below": "below", "undecided": "not distinguishable from", "no interval": "not above"}


def write_suite(tasks: Results, runs: Sequence[Mapping[str, Any]], output: Path, command: str = "") -> dict[str, Any]:
    """Write `report.html`, `suite.md`, `suite.json` and `figures/` into `output`; return what `suite.json` holds.

    `tasks` are the results of the complete tasks, `runs` one record for every task that was asked for (see
    `covjax.tasks.run`), complete or not.
    """
    summary = summarise_suite(tasks) if tasks else {}
    suite = {
        "command": command,
        "runs": list(runs),
        "summary": summary,
        "manifests": {key: results["manifest"] for key, results in tasks.items()},
    }
    write_text(output / "suite.json", json.dumps(suite, indent=1, ensure_ascii=False))
    write_text(output / "suite.md", markdown(suite))
    svgs = draw_suite(summary, output / "figures") if tasks else {}
    write_text(output / "report.html", page(suite, svgs))
    return suite


def page(suite: dict[str, Any], svgs: dict[str, str]) -> str:
    """The HTML page: no scripts, no network; links lead to the tasks' own reports beside it."""
    parts = [
        page_start("Suite", STYLE + WIDE),
        "<h1>Covariance pooling over all tasks</h1>",
        *_incomplete(suite["runs"]),
    ]
    if summary := suite["summary"]:
        for section in (_planned, _poolers, _ranks, _curves, _decomposition, _losses, _compactness, _tracks, _warnings):
            parts += section(summary, svgs)
    parts += _runs(suite)
    return "\n".join([*parts, "</body></html>"])


def _note(text: str) -> str:
    return f"<p class='note'>{text}</p>"


def _figure(svgs: dict[str, str], name: str, caption: str) -> str:
    svg = svgs.get(name, "")
    label, text = f"aria-label='{_e(caption)}'", f"<figcaption>{_e(caption)}</figcaption>"
    return f"<figure class='wide' role='img' {label}>{svg}{text}</figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    cells = "".join(f"<th>{each}</th>" for each in head)
    body = "".join(
        "<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>" for row in rows
    )
    table = f"<table class='{kind}'><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='scroll'>{table}</div>"


def _signed(entry: Mapping[str, Any], value: str = "value") -> str:
    """A difference, green above zero and orange below it where its interval says so, with the interval."""
    kind = verdict(dict(entry))
    shown = f"<span class='{kind if kind in ('above', 'below') else ''}'>{entry[value]:+.3f}</span>"
    return f"{shown} <span class='interval'>{interval_text(entry['interval'])}</span>"


def _incomplete(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    missing = [run for run in runs if run["status"] != "complete"]
    if not missing:
        return []
    items = "".join(f"<li><b>{_e(run['task'])}</b>: {_e(run['reason'])}</li>" for run in missing)
    return [f"<p class='below'>{len(missing)} of {len(runs)} tasks are not in this report:</p><ul>{items}</ul>"]


def _resolution(tested: list[dict[str, Any]]) -> str:
    """What Holm cannot show, where so few resamples leave the smallest p of a single task too large for it."""
    smallest = min(2 / (1 + entry["resamples"]) for entry in tested)
    if smallest * len(tested) <= 0.05:
        return ""
    return f" (With so few resamples no gain can stand: the smallest p of one of {len(tested)} is {smallest:.2g}.)"


def _planned(summary: dict[str, Any], svgs: dict[str, str]) -> list[str]:
    reference = summary["headline"][0]["reference"]
    planned = {name: {e["task"]: e for e in entries} for name, entries in summary["planned"].items()}
    counts = []
    for name, entries in planned.items():
        found = [entry["verdict"] for entry in entries.values()]
        against = AGAINST[name].format(reference=reference)
        counts.append(
            f"against {against} {found.count('above')} of {len(found)} above, {found.count('below')} below"
            + (f", {found.count('no interval')} without interval" if "no interval" in found else "")
        )
    holm = [e for e in planned["gain"].values() if e["p_holm"] is not None]
    surviving = sum(e["p_holm"] <= 0.05 and e["value"] > 0 for e in holm)
    text = f"The second-order pooler chosen on validation, by 95 % interval: {'; '.join(counts)}."
    if holm:
        text += f" After Holm's correction the gain over {reference} stands in {surviving} of {len(holm)} tasks."
        text += _resolution(holm)
    rows = []
    for task in summary["headline"]:
        base, gain = task["cells"][reference]["value"], planned["gain"].get(task["task"])
        row = [f"<td title='{_e(task['name'])}'>{_e(task['task'])}</td>", _e(task["metric"]), f"{base:.3f}"]
        row.append(f"{base + gain['value']:.3f} <span class='interval'>{_e(gain['row'])}</span>" if gain else "–")
        row += [_planned_cell(entries.get(task["task"]), reference) for entries in planned.values()]
        rows.append(row)
    head = ["task", "metric", reference, "chosen"]
    head += [f"minus {text.format(reference=reference)}" for text in AGAINST.values()]
    return [
        f"<p>{_e(text)}</p>",
        _figure(
            svgs,
            "planned",
            "The pre-declared comparisons. Points: difference on the test set; lines: 95 % paired "
            "bootstrap interval over groups; filled and coloured where the interval excludes zero.",
        ),
        _table(head, rows, "grid"),
        _note(
            "Row, control and composition are each chosen on validation. p: two-sided bootstrap, adjusted by Holm "
            "over the tasks within each comparison; tasks that share data or an encoder are not independent, which "
            "Holm allows. “(no interval)”: the task's results hold no paired resamples of that pair."
        ),
    ]


def _planned_cell(entry: Mapping[str, Any] | None, reference: str) -> str:
    if entry is None:
        return "–"
    p = "" if entry["p_holm"] is None else f" <span class='interval'>Holm p {_e(p_text(entry['p_holm']))}</span>"
    other = "" if entry["other"] == reference else f" <span class='interval'>{_e(entry['other'])}</span>"
    return _signed(entry) + p + other


def _poolers(summary: dict[str, Any], svgs: dict[str, str]) -> list[str]:
    tasks = summary["headline"]
    roles: dict[str, list[str]] = {}
    for task in tasks:
        for label, cell in task["cells"].items():
            if label not in roles.setdefault(cell["role"], []):
                roles[cell["role"]].append(label)
    head = ["pooler"] + [
        f"{_e(t['task'])}<br><span class='interval'>{_e(t['metric'])}, {_e(t['probe'])}</span>" for t in tasks
    ]
    rows: list[list[str]] = []
    for role, labels in roles.items():
        rows.append([f"<td class='role' colspan='{len(tasks) + 1}'><b>{_e(role)}</b></td>"])
        rows += [[_e(label), *[_cell(task, label) for task in tasks]] for label in labels]
    return [
        "<h2>Tasks × poolers</h2>",
        _table(head, rows, "grid"),
        _note(
            "Test metric, and the difference to the reference with its 95 % paired interval: green above zero, orange "
            "below. Underlined: the highest on the test set (of these rows; a description, not a choice). Blue ground: "
            "chosen on validation. Truncated rows stand under “Metric against rank”."
        ),
    ]


def _cell(task: Mapping[str, Any], label: str) -> str:
    if (cell := task["cells"].get(label)) is None:
        return "<td>–</td>"
    value = f"{cell['value']:.3f}"
    if label == task["best"]:
        value = f"<span class='best'>{value}</span>"
    delta = "" if label == task["reference"] else "<br>" + _signed(cell, "difference")
    seeds = cell["seeds"]
    spread = f"<span class='seeds'>{len(seeds)} seeds {min(seeds):.3f}–{max(seeds):.3f}</span>" if seeds else ""
    return f"<td class='{'chosen' if label == task['chosen'] else ''}'>{value}{delta}{spread}</td>"


def _ranks(summary: dict[str, Any], svgs: dict[str, str]) -> list[str]:
    found = summary["mean_ranks"]
    if "missing" in found:
        return ["<h2>Mean ranks over tasks</h2>", _note(f"Not available: {_e(found['missing'])}.")]
    f = "∞" if found["f"] is None else f"{found['f']:.2f}"
    return [
        "<h2>Mean ranks over tasks</h2>",
        f"<p>{len(found['ranks'])} poolers that all {found['tasks']} tasks have. Friedman χ² = "
        f"{found['chi_square']:.2f} (p {_e(p_text(found['p_chi_square']))}); Iman–Davenport F = {f} "
        f"(p {_e(p_text(found['p_f']))}). Two poolers differ at 0.05 by Nemenyi's test where their mean ranks are "
        f"{found['critical_difference']:.2f} apart.</p>",
        _figure(
            svgs,
            "mean_ranks",
            "Mean rank on the test metric, 1 is best. Bars join poolers whose mean ranks do not "
            "differ by the critical difference (Demšar 2006). Colours: role of the row, as in the table.",
        ),
    ]


def _curves(summary: dict[str, Any], svgs: dict[str, str]) -> list[str]:
    if not summary["rank_curves"]:
        return []
    panels = []
    for entry in summary["rank_curves"]:
        label = f"{entry['task']}: {entry['metric']} against rank"
        panels.append(f"<figure role='img' aria-label='{_e(label)}'>{svgs.get('rank-' + entry['task'], '')}</figure>")
    return [
        "<h2>Metric against rank</h2>",
        f"<div class='panels'>{''.join(panels)}</div>",
        _note(
            "Covariance truncated in a basis from the training sequences (PCA: of their mean covariance), the whole "
            "matrix last; dashed: mean. Bands: 95 % bootstrap interval of the value itself."
        ),
    ]


def _decomposition(summary: dict[str, Any], svgs: dict[str, str]) -> list[str]:
    entries = summary["decomposition"]
    if not entries:
        return []
    names = ("whole_gain", *PARTS)
    rows = []
    for entry in entries:
        row = [_e(entry["task"]), _e(entry["metric"]), _e(entry["whole_gain"]["row"])]
        rows.append(row + [_part(name, entry[name]) for name in names])
    partial = any(entry[name]["interval"] is None for entry in entries for name in names)
    return [
        "<h2>What the gain of a whole matrix is made of</h2>",
        "<p>W: the row among whole Σ, √Σ and log(Σ+εI) that is best on validation. Its gain over mean is taken apart "
        "in a chain, each link chosen on validation:</p>"
        "<ul><li>first = the best of mean, μμᵀ and mean + μμᵀ. <b>Quadratic features of the mean</b> = first − mean."
        "</li><li>second = the better of first and W after each feature is shuffled within its sequence. "
        "<b>Marginals</b> = second − first: what remains when co-occurrence is destroyed.</li>"
        "<li><b>Co-occurrence</b> = W − second.</li></ul>"
        "<p>W − mean = (first − mean) + (second − first) + (W − second): the parts add up exactly. A control that does "
        "not help on validation counts as zero: the plain difference shuffled W − mean is negative where W, being "
        "centred, lacks the mean, and would credit co-occurrence with it. The differences of every control to the "
        "mean stand under “Tasks × poolers”.</p>",
        _figure(
            svgs,
            "decomposition",
            "Test gain of the whole matrix (diamond) and its parts; negative parts pile up to the left of zero.",
        ),
        _table(["task", "metric", "W", "whole gain", *[PART_NAMES[name] for name in PARTS]], rows, "grid"),
        *(
            [_note("“(no interval)”: differences only; the task's results hold no paired resamples of that pair.")]
            if partial
            else []
        ),
    ]


def _part(name: str, entry: Mapping[str, Any]) -> str:
    if entry["row"] == entry["other"]:
        return "0 <span class='interval'>none on validation</span>"
    control = f" <span class='interval'>{_e(entry['row'])}</span>" if name in ("quadratic", "marginal") else ""
    return _signed(entry) + control


def _losses(summary: dict[str, Any], svgs: dict[str, str]) -> list[str]:
    entries = summary["losses"]
    if not entries:
        return [
            "<h2>Where second order loses</h2>",
            "<p>Nowhere: in every task it is above all it is compared with.</p>",
        ]
    reference = summary["headline"][0]["reference"]
    rows = []
    for entry in entries:
        verdicts = [_sentence(each, reference) for each in entry["not_above"]]
        facts = [_e(fact) for fact in entry["facts"]] or ["no fact in the results explains it"]
        rows.append([_e(entry["task"]), _list(verdicts), _list(facts)])
    return [
        "<h2>Where second order loses</h2>",
        "<p>Every task where the chosen second-order row is not shown to be above the reference, the control or "
        "composition; the facts are computed from that task's numbers.</p>",
        _table(["task", "the chosen row …", "facts"], rows, "grid left"),
    ]


def _list(items: Sequence[str]) -> str:
    return f"<td class='text'><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul></td>"


def _sentence(entry: Mapping[str, Any], reference: str) -> str:
    against = reference if entry["other"] == reference else AGAINST[entry["name"]]
    name = "" if entry["other"] in (reference, "composition") else f", {entry['other']}"
    return f"{_e(entry['row'])} is {WORDS[entry['verdict']]} {_e(against + name)}: {_signed(entry)}"


def _compactness(summary: dict[str, Any], svgs: dict[str, str]) -> list[str]:
    rows = []
    for entry in summary["compactness"]:
        row = [_e(entry["task"]), _e(entry["metric"])]
        for name in ("compact", "whole"):
            each = entry[name]
            row += [f"{_e(each['row'])} <span class='interval'>{each['num_features']:,}</span>", _signed(each, "gain")]
        row.append("no gain to keep" if entry["share"] is None else f"{100 * entry['share']:.0f} %")
        rows.append(row)
    if not rows:
        return []
    return [
        f"<h2>At most {COMPACT:,} numbers a sequence</h2>",
        _table(["task", "metric", "compact", "gain", "whole matrix", "gain", "share kept"], rows, "grid"),
        _note(
            f"The best second-order row of at most {COMPACT:,} numbers and the best whole matrix, each chosen on "
            "validation; share of the whole matrix's gain over mean that the compact row keeps. At narrow encoders "
            "the whole matrix is itself compact. “No gain to keep”: the whole matrix's interval is not above zero."
        ),
    ]


def _tracks(summary: dict[str, Any], svgs: dict[str, str]) -> list[str]:
    entries = summary["relative_r2"]
    if not entries:
        return []
    items = "".join(f"<li>{relative_line(entry)}</li>" for entry in entries)
    return [
        "<h2>R² gain in percent of the mean's</h2>",
        f"<p>Regression tasks, every second-order pool over mean; beside it the research note's +{NOTE_PERCENT} % on "
        f"genomic tracks (Dooms, Wang, Pearce 2026).</p><ul>{items}</ul>",
    ]


def relative_line(entry: Mapping[str, Any]) -> str:
    """One regression task: the mean's R² and what every second-order pool gains, in percent of it."""
    base = f"<b>{_e(entry['task'])}</b> ({entry['targets']:,} targets; R² of mean {entry['reference_r2']:.3f}): "
    if entry["reference_r2"] <= 0:
        rows = ", ".join(f"{_e(label)} {row['r2']:.3f}" for label, row in entry["rows"].items())
        return base + f"not positive, so no percentage; R² {rows}"
    shown = ", ".join(f"{_e(label)} {row['percent']:+.1f} %" for label, row in entry["rows"].items())
    if "chosen" not in entry:
        return base + shown
    label, (low, high) = entry["chosen"]["row"], entry["chosen"]["interval"]
    percent = entry["rows"][label]["percent"]
    reached = "reached" if percent >= NOTE_PERCENT else "not reached"
    verdict = f"{_e(label)}, [{low:+.1f}, {high:+.1f}] %; +{NOTE_PERCENT} %: {reached}"
    return f"{base}{shown}. Chosen on validation: {verdict}"


def _warnings(summary: dict[str, Any], svgs: dict[str, str]) -> list[str]:
    rows = [[_e(task), _list([_e(text) for text in texts])] for task, texts in summary["warnings"].items()]
    if not rows:
        return []
    return ["<h2>Warnings of the tasks</h2>", _table(["task", "warnings"], rows, "grid left")]


def _runs(suite: dict[str, Any]) -> list[str]:
    rows = []
    for run in suite["runs"]:
        name = _e(run["task"])
        link = f"<a href='{name}/report.html'>{name}</a>" if run["status"] == "complete" else name
        seconds = "–" if run["seconds"] is None else f"{run['seconds']:,.0f}"
        note = run["reason"] or ("reused" if run["reused"] else "")
        rows.append([link, _e(run["status"]), seconds, f"<td class='text'>{_e(note)}</td>"])
    total = sum(run["seconds"] or 0 for run in suite["runs"])
    rows.append(["<td><b>all</b></td>", "", f"<b>{total:,.0f}</b>", ""])
    lines = [f"suite command: {suite['command']}"]
    for key, manifest in suite["manifests"].items():
        lines += ["", f"[{key}]"]
        lines += [f"{name}: {json.dumps(manifest[name], ensure_ascii=False)}" for name in manifest]
    return [
        "<h2>Time</h2>",
        _table(["task", "status", "seconds", "note"], rows),
        _note(
            "Seconds of the attempt that finished the task, in a process of its own; a reused task shows the time it "
            "took when it was made (– where it was not made by the suite)."
        ),
        "<h2>Manifest</h2><details><summary>What made these numbers</summary>",
        f"<pre>{chr(10).join(map(_e, lines))}</pre></details>",
    ]
