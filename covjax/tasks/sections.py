"""The sections of the suite's page, each from the summary alone."""

from collections.abc import Mapping, Sequence

from covjax.comparison.page import Cell, Html, Row, difference, escape, figure, listing, note, signed, soft, table
from covjax.tasks.figures import PART_NAMES
from covjax.tasks.records import ContrastRecord, R2Record, Summary, TaskRecord
from covjax.tasks.summary import COMPACT, NOTE_PERCENT, PARTS

AGAINST = {"gain": "{reference}", "over_control": "the best control", "over_composition": "composition"}
TESTS = {False: "bootstrap over groups", True: "of folds the corrected resampled t-test"}
UNKNOWN = "“(no interval)”: differences only; the task's results hold no paired resamples of that pair."
WORDS = {"above": "above", "below": "below", "undecided": "not distinguishable from", "no interval": "not above"}


def sections(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    """All sections that have data, in the order of the page."""
    parts = (_planned, _poolers, _ranks, _curves, _decomposition, _losses, _compactness, _tracks, _warnings)
    return [f"<section>{''.join(texts)}</section>" for part in parts if (texts := part(summary, svgs))]


def three(value: float) -> str:
    """A difference with three decimals, as a column of many tasks has it; one that rounds to zero keeps a digit."""
    return signed(value) if 0 < abs(value) < 0.0005 else f"{value:+.3f}"


def p_text(value: float | None) -> str:
    """Three decimals; a dash where there is none."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _delta(entry: ContrastRecord) -> Html:
    return difference(entry["value"], entry["interval"], three)


def _wide(svgs: Mapping[str, str], name: str, caption: str) -> Html:
    return figure(svgs.get(name, ""), caption, "wide")


def resolution(tested: Sequence[ContrastRecord]) -> str:
    """What Holm cannot show, where so few resamples leave the smallest p of a single task too large for it."""
    counts = [count for entry in tested if (count := entry["resamples"]) is not None]
    smallest = min((2 / (1 + count) for count in counts), default=0.0)
    if len(counts) < len(tested) or smallest * len(tested) <= 0.05:
        return ""
    return f" (With so few resamples no gain can pass: the smallest p of one of {len(tested)} is {smallest:.2g}.)"


def _planned(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    reference = summary["headline"][0]["reference"]
    planned = {name: {e["task"]: e for e in entries} for name, entries in summary["planned"].items()}
    counts = []
    for name, entries in planned.items():
        sides = [entry["verdict"] for entry in entries.values()]
        against = AGAINST[name].format(reference=reference)
        counts.append(
            f"against {against} {sides.count('above')} of {len(sides)} above, {sides.count('below')} below"
            + (f", {sides.count('no interval')} without interval" if "no interval" in sides else "")
        )
    holm = [e for e in planned["gain"].values() if e["p_holm"] is not None]
    surviving = sum((e["p_holm"] or 0) <= 0.05 and e["value"] > 0 for e in holm)
    text = f"The second-order pooler chosen on validation, by 95 % interval: {'; '.join(counts)}."
    if holm:
        text += f" After Holm's correction the gain over {reference} remains in {surviving} of {len(holm)} tasks."
        text += resolution(holm)
    rows: list[Row] = []
    for task in summary["headline"]:
        base, gain = task["cells"][reference]["value"], planned["gain"].get(task["task"])
        row: list[str | Cell] = [Cell(task["task"], title=task["name"]), task["metric"], f"{base:.3f}"]
        row.append(Html(f"{base + gain['value']:.3f} {soft(gain['row'])}") if gain else "–")
        row += [_planned_cell(entries.get(task["task"]), reference) for entries in planned.values()]
        rows.append(row)
    resamples = [entry["resamples"] for entries in planned.values() for entry in entries.values()]
    how = " and ".join(TESTS[folded] for folded in (False, True) if folded in [each is None for each in resamples])
    head = ["task", "metric", reference, "chosen"]
    head += [f"minus {text.format(reference=reference)}" for text in AGAINST.values()]
    return [
        f"<p class='answer'>{escape(text)}</p>",
        _wide(
            svgs,
            "planned",
            f"The pre-declared comparisons. Points: difference on the test set; lines: 95 % paired interval ({how}); "
            "filled and coloured where the interval excludes zero.",
        ),
        table(head, rows, "grid"),
        note(
            f"Row, control and composition are each chosen on validation. p: two-sided ({how}), adjusted by Holm "
            "over the tasks within each comparison; tasks that share data or an encoder are not independent, which "
            "Holm allows. “(no interval)”: the task's results hold no paired resamples of that pair."
        ),
    ]


def _planned_cell(entry: ContrastRecord | None, reference: str) -> str:
    if entry is None:
        return "–"
    p = "" if entry["p_holm"] is None else f" {soft('Holm p ' + p_text(entry['p_holm']))}"
    other = "" if entry["other"] == reference else f" {soft(entry['other'])}"
    return Html(_delta(entry) + p + other)


def _poolers(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    tasks = summary["headline"]
    roles: dict[str, list[str]] = {}
    for task in tasks:
        for label, cell in task["cells"].items():
            if label not in roles.setdefault(cell["role"], []):
                roles[cell["role"]].append(label)
    heads = [Html(escape(t["task"]) + "<br>" + soft(f"{t['metric']}, {t['probe']}")) for t in tasks]
    rows: list[Row | str] = []
    for role, labels in roles.items():
        rows.append(role)
        rows += [[label, *[_cell(task, label) for task in tasks]] for label in labels]
    return [
        "<h2>Tasks × poolers</h2>",
        table(["pooler", *heads], rows, "grid"),
        note(
            "Test metric, and the difference to the reference with its 95 % paired interval: green above zero, orange "
            "below. Underlined: the highest on the test set (of these rows; a description, not a choice). Blue ground: "
            "chosen on validation. Truncated rows are under “Metric against rank”."
        ),
    ]


def _cell(task: TaskRecord, label: str) -> Cell:
    if (cell := task["cells"].get(label)) is None:
        return Cell("–")
    value = f"{cell['value']:.3f}"
    if label == task["best"]:
        value = f"<span class='best'>{value}</span>"
    delta = "" if label == task["reference"] else f"<br>{difference(cell['difference'], cell['interval'], three)}"
    seeds = cell["seeds"]
    spread = f"<span class='seeds'>{len(seeds)} seeds {min(seeds):.3f}–{max(seeds):.3f}</span>" if seeds else ""
    return Cell(Html(value + delta + spread), "chosen" if label == task["chosen"] else "")


def _ranks(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    test = summary["mean_ranks"]
    if "missing" in test:
        return ["<h2>Mean ranks over tasks</h2>", note(f"Not available: {test['missing']}.")]
    f = "∞" if test["f"] is None else f"{test['f']:.2f}"
    return [
        "<h2>Mean ranks over tasks</h2>",
        f"<p>{len(test['ranks'])} poolers that all {test['tasks']} tasks have. Friedman χ² = "
        f"{test['chi_square']:.2f} (p {escape(p_text(test['p_chi_square']))}); Iman–Davenport F = {f} "
        f"(p {escape(p_text(test['p_f']))}). Two poolers differ at 0.05 by Nemenyi's test where their mean ranks are "
        f"{test['critical_difference']:.2f} apart.</p>",
        _wide(
            svgs,
            "mean_ranks",
            "Mean rank on the test metric, 1 is best. Bars join poolers whose mean ranks do not "
            "differ by the critical difference (Demšar 2006). Colours: role of the row, as in the table.",
        ),
    ]


def _curves(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    if not summary["rank_curves"]:
        return []
    panels = []
    for entry in summary["rank_curves"]:
        label = f"{entry['task']}: {entry['metric']} against rank"
        panels.append(figure(svgs.get(f"rank-{entry['task']}", ""), label, shown=False))
    return [
        "<h2>Metric against rank</h2>",
        f"<div class='panels'>{''.join(panels)}</div>",
        note(
            "Covariance truncated in a basis from the training sequences (PCA: of their mean covariance), the whole "
            "matrix last; dashed: mean. Band: 95 % interval of the value itself, of the first line alone."
        ),
    ]


def _decomposition(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    entries = summary["decomposition"]
    if not entries:
        return []
    rows: list[Row] = []
    partial = False
    for entry in entries:
        contrasts = [entry["whole_gain"], entry["quadratic"], entry["marginal"], entry["co_occurrence"]]
        partial = partial or any(each["interval"] is None for each in contrasts)
        parts = [_part(each, is_control) for each, is_control in zip(contrasts, (False, True, True, False))]
        rows.append([entry["task"], entry["metric"], entry["whole_gain"]["row"], *parts])
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
        "mean are under “Tasks × poolers”.</p>",
        _wide(
            svgs,
            "decomposition",
            "Test gain of the whole matrix (diamond) and its parts; negative parts pile up to the left of zero.",
        ),
        table(["task", "metric", "W", "whole gain", *[PART_NAMES[name] for name in PARTS]], rows, "grid"),
        *([note(UNKNOWN)] if partial else []),
    ]


def _part(entry: ContrastRecord, is_control: bool) -> str:
    if entry["row"] == entry["other"]:
        return Html(f"0 {soft('none on validation')}")
    return Html(f"{_delta(entry)} {soft(entry['row'])}") if is_control else _delta(entry)


def _losses(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    entries = summary["losses"]
    if not entries:
        return [
            "<h2>Where second order loses</h2>",
            "<p>Nowhere: in every task it is above all it is compared with.</p>",
        ]
    reference = summary["headline"][0]["reference"]
    rows: list[Row] = []
    for entry in entries:
        verdicts = [_sentence(each, reference) for each in entry["not_above"]]
        facts = entry["facts"] or ["no fact in the results explains it"]
        rows.append([entry["task"], Cell(listing(verdicts), "text"), Cell(listing(facts), "text")])
    return [
        "<h2>Where second order loses</h2>",
        "<p>Every task where the chosen second-order row is not shown to be above the reference, the control or "
        "composition; the facts are computed from that task's numbers.</p>",
        table(["task", "the chosen row …", "facts"], rows, "grid left"),
    ]


def _sentence(entry: ContrastRecord, reference: str) -> Html:
    against = reference if entry["other"] == reference else AGAINST[entry["name"]]
    name = "" if entry["other"] in (reference, "composition") else f", {entry['other']}"
    return Html(f"{escape(entry['row'])} is {WORDS[entry['verdict']]} {escape(against + name)}: {_delta(entry)}")


def _compactness(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    rows = []
    for entry in summary["compactness"]:
        row = [entry["task"], entry["metric"]]
        for each in (entry["compact"], entry["whole"]):
            size = soft(f"{each['num_features']:,}")
            row += [Html(f"{escape(each['row'])} {size}"), difference(each["gain"], each["interval"], three)]
        row.append("no gain to keep" if entry["share"] is None else f"{100 * entry['share']:.0f} %")
        rows.append(row)
    if not rows:
        return []
    return [
        f"<h2>At most {COMPACT:,} numbers a sequence</h2>",
        table(["task", "metric", "compact", "gain", "whole matrix", "gain", "share kept"], rows, "grid"),
        note(
            f"The best second-order row of at most {COMPACT:,} numbers and the best whole matrix, each chosen on "
            "validation; share of the whole matrix's gain over mean that the compact row keeps. At narrow encoders "
            "the whole matrix is itself compact. “No gain to keep”: the whole matrix's interval is not above zero."
        ),
    ]


def _tracks(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    entries = summary["relative_r2"]
    if not entries:
        return []
    return [
        "<h2>R² gain in percent of the mean's</h2>",
        f"<p>Regression tasks, every second-order pool over mean; beside it the research note's +{NOTE_PERCENT} % on "
        f"genomic tracks (Dooms, Wang, Pearce 2026).</p>{listing(list(map(relative_line, entries)))}",
    ]


def relative_line(entry: R2Record) -> Html:
    """One regression task: the mean's R² and what every second-order pool gains, in percent of it."""
    base = f"<b>{escape(entry['task'])}</b> ({entry['targets']:,} targets; R² of mean {entry['reference_r2']:.3f}): "
    if entry["reference_r2"] <= 0:
        rows = ", ".join(f"{escape(label)} {row['r2']:.3f}" for label, row in entry["rows"].items())
        return Html(f"{base}not positive, so no percentage; R² {rows}")
    shown = ", ".join(f"{escape(label)} {row['percent']:+.1f} %" for label, row in entry["rows"].items())
    if "chosen" not in entry:
        return Html(base + shown)
    label, (low, high) = entry["chosen"]["row"], entry["chosen"]["interval"]
    percent = entry["rows"][label]["percent"]
    reached = "reached" if percent is not None and percent >= NOTE_PERCENT else "not reached"
    chosen = f"{escape(label)}, [{low:+.1f}, {high:+.1f}] %; +{NOTE_PERCENT} %: {reached}"
    return Html(f"{base}{shown}. Chosen on validation: {chosen}")


def _warnings(summary: Summary, svgs: Mapping[str, str]) -> list[str]:
    rows: list[Row] = [[task, Cell(listing(texts), "text")] for task, texts in summary["warnings"].items()]
    if not rows:
        return []
    return ["<h2>Warnings of the tasks</h2>", table(["task", "warnings"], rows, "grid left")]
