"""The suite as Markdown: what was declared before, then every pooler on every task."""

from collections.abc import Mapping, Sequence
from typing import Any

AGAINST = {"gain": "{reference}", "over_control": "the best control", "over_composition": "composition"}


def interval_text(interval: Sequence[float] | None) -> str:
    """Both ends with their sign; says so where there is none."""
    return "(no interval)" if interval is None else f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"


def p_text(value: float | None) -> str:
    """Three decimals; a dash where there is none."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def markdown(suite: dict[str, Any]) -> str:
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
    lines += _row(["task", "metric", reference, "chosen on validation", "value", *columns, f"Holm p vs {reference}"])
    lines += _row(["---"] * (6 + len(columns)))
    planned = {name: {e["task"]: e for e in entries} for name, entries in summary["planned"].items()}
    for task in tasks:
        cells = [task["task"], task["metric"], f"{task['cells'][reference]['value']:.3f}", task["chosen"] or "–"]
        found = [planned[name].get(task["task"]) for name in AGAINST]
        cells.append(f"{task['cells'][reference]['value'] + found[0]['value']:.3f}" if found[0] else "–")
        cells += [f"{e['value']:+.3f} {interval_text(e['interval'])}" if e else "–" for e in found]
        cells.append(p_text(found[0]["p_holm"] if found[0] else None))
        lines += _row(cells)
    lines += [
        "",
        *_row(["pooler", *[f"{t['task']} ({t['metric']})" for t in tasks]]),
        *_row(["---"] * (len(tasks) + 1)),
    ]
    for label in dict.fromkeys(label for task in tasks for label in task["cells"]):
        lines += _row([label, *[_markdown_cell(task, label) for task in tasks]])
    if summary["warnings"]:
        lines += ["", "Warnings:", ""]
        lines += [f"- {task}: {'; '.join(texts)}" for task, texts in summary["warnings"].items()]
    return "\n".join([*lines, ""])


def _row(cells: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"]


def _markdown_cell(task: Mapping[str, Any], label: str) -> str:
    if (cell := task["cells"].get(label)) is None:
        return "–"
    value = f"**{cell['value']:.3f}**" if label == task["best"] else f"{cell['value']:.3f}"
    return (
        value
        if label == task["reference"]
        else f"{value} ({cell['difference']:+.3f} {interval_text(cell['interval'])})"
    )
