"""The suite's report: one self-contained HTML page, `suite.md` and `suite.json` from its summary."""

import json
from collections.abc import Sequence
from pathlib import Path

from covjax.comparison.glossary import definitions
from covjax.comparison.page import (
    Cell,
    Html,
    Row,
    escape,
    fold,
    interval_text,
    listing,
    markdown_table,
    note,
    page,
    relative,
    section,
    table,
)
from covjax.jobs.folder import write_text
from covjax.tasks.figures import draw_suite
from covjax.tasks.records import RunRecord, Suite, TaskRecord
from covjax.tasks.sections import AGAINST, p_text, sections, three
from covjax.tasks.summary import Tasks, summarise_suite

WIDE = """
body{max-width:82rem}p,ul{max-width:64rem}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem}
.panels figure{margin:0}
.grid td{vertical-align:top}
.grid .interval,.grid .seeds{display:block;color:var(--soft);font-size:.85em}
.best{border-bottom:2px solid var(--ink);font-weight:600}.chosen{background:#eef4fb}
td.text{text-align:left;white-space:normal;min-width:16rem}td.text .interval{display:inline}
.left th{text-align:left}
@media(max-width:40rem){.left thead{display:none}.left td,.left td:first-child{display:block;max-width:none;border:0}
 .left td:first-child{font-weight:600}.left td:last-child{border-bottom:1px solid var(--line)}}
td.text ul{margin:0;padding-left:1rem}
"""


def write_suite(tasks: Tasks, runs: Sequence[RunRecord], output: Path, command: str = "") -> Suite:
    """Write `report.html`, `suite.md`, `suite.json` and `figures/` into `output`; return what `suite.json` holds.

    `tasks` are the results of the complete tasks, `runs` one record for every task that was asked for, complete or not.
    """
    suite: Suite = {
        "command": command,
        "runs": list(runs),
        "summary": summarise_suite(tasks) if tasks else {},
        "manifests": {key: results.manifest for key, results in tasks.items()},
    }
    write_text(output / "suite.json", json.dumps(suite, indent=1, ensure_ascii=False))
    write_text(output / "suite.md", markdown(suite))
    svgs = draw_suite(suite["summary"], output / "figures") if tasks else {}
    # No scripts, no network; links lead to the tasks' own reports beside it.
    parts = ["<h1>Covariance pooling over all tasks</h1>", *_incomplete(runs)]
    parts += sections(suite["summary"], svgs) if tasks else []
    words = section("Words", definitions("".join(parts)))
    write_text(output / "report.html", page("Suite", [*parts, words, *_runs(suite)], WIDE))
    return suite


def _incomplete(runs: Sequence[RunRecord]) -> list[str]:
    missing = [run for run in runs if run["status"] != "complete"]
    if not missing:
        return []
    items = [Html(f"<b>{escape(run['task'])}</b>: {escape(run['reason'])}") for run in missing]
    text = f"<b>{len(missing)} of {len(runs)} tasks are not in this report:</b>"
    return [f"<div class='doubt'>{text}{listing(items)}</div>"]


def _runs(suite: Suite) -> list[str]:
    rows: list[Row] = []
    for run in suite["runs"]:
        name = escape(run["task"])
        link = Html(f"<a href='{name}/report.html'>{name}</a>") if run["status"] == "complete" else name
        seconds = "–" if run["seconds"] is None else f"{run['seconds']:,.0f}"
        reason = run["reason"] or ("reused" if run["reused"] else "")
        rows.append([link, run["status"], seconds, Cell(reason, "text")])
    total = sum(run["seconds"] or 0 for run in suite["runs"])
    rows.append([Html("<b>all</b>"), "", Html(f"<b>{total:,.0f}</b>"), ""])
    lines = [relative(f"suite command: {suite['command']}")]
    for key, manifest in suite["manifests"].items():
        lines += ["", f"[{key}]"]
        lines += [f"{name}: {relative(json.dumps(manifest[name], ensure_ascii=False))}" for name in manifest]
    seconds = note(
        "Seconds of the attempt that finished the task, in its own process; a reused task shows the time it took "
        "when it was made (– where it was not made by the suite)."
    )
    made_of = f"<pre>{chr(10).join(map(escape, lines))}</pre>"
    return [
        section("Time", table(["task", "status", "seconds", "note"], rows), seconds),
        section("Manifest", fold("What made these numbers", made_of)),
    ]


def markdown(suite: Suite) -> str:
    """The suite as Markdown: the planned comparisons, tasks × poolers, the incomplete tasks."""
    lines = [f"Command: `{suite['command']}`", ""]
    missing = [run for run in suite["runs"] if run["status"] != "complete"]
    if missing:
        lines += ["Not complete:", "", *[f"- {run['task']}: {run['reason']}" for run in missing], ""]
    if not suite["summary"]:
        return "\n".join(lines)
    summary = suite["summary"]
    tasks, reference = summary["headline"], summary["headline"][0]["reference"]
    columns = [f"minus {text.format(reference=reference)} [95 %]" for text in AGAINST.values()]
    head = ["task", "metric", reference, "chosen on validation", "value", *columns, f"Holm p vs {reference}"]
    planned = {name: {e["task"]: e for e in entries} for name, entries in summary["planned"].items()}
    rows = []
    for task in tasks:
        base = task["cells"][reference]["value"]
        entries = [planned[name].get(task["task"]) for name in AGAINST]
        gain = entries[0]
        cells = [task["task"], task["metric"], f"{base:.3f}", task["chosen"] or "–"]
        cells.append(f"{base + gain['value']:.3f}" if gain else "–")
        cells += [f"{e['value']:+.3f} {interval_text(e['interval'], three)}" if e else "–" for e in entries]
        cells.append(p_text(gain["p_holm"] if gain else None))
        rows.append(cells)
    labels = dict.fromkeys(label for task in tasks for label in task["cells"])
    lines += [
        markdown_table(head, rows),
        "",
        markdown_table(
            ["pooler", *[f"{t['task']} ({t['metric']})" for t in tasks]],
            [[label, *[_markdown_cell(task, label) for task in tasks]] for label in labels],
        ),
    ]
    if summary["warnings"]:
        lines += ["", "Warnings:", ""]
        lines += [f"- {task}: {'; '.join(texts)}" for task, texts in summary["warnings"].items()]
    return "\n".join([*lines, ""])


def _markdown_cell(task: TaskRecord, label: str) -> str:
    if (cell := task["cells"].get(label)) is None:
        return "–"
    value = f"**{cell['value']:.3f}**" if label == task["best"] else f"{cell['value']:.3f}"
    if label == task["reference"]:
        return value
    return f"{value} ({cell['difference']:+.3f} {interval_text(cell['interval'], three)})"
