"""The test set scored once: values, intervals, contrasts between rows, and how often it was looked at."""

import datetime
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from covjax.activations import ArrayTokens
from covjax.comparison.chain import chain_pairs
from covjax.comparison.config import RETRIEVAL, CompareConfig
from covjax.comparison.features import Tables
from covjax.comparison.landmark_check import landmark_warnings
from covjax.comparison.mixtures import described
from covjax.comparison.outputs import measure_outputs
from covjax.comparison.probing import Probes, macro, metric_value, predictions, probe_names, task_of
from covjax.comparison.results import Contrast, Interval, Output, ProbeResult, Results, RowResult, Score, Term
from covjax.comparison.retrieval import unanswerable
from covjax.data import Dataset
from covjax.data.splits import SPLITS
from covjax.errors import InputError, shown
from covjax.jobs.disk import json_digest, read_line, sealed_line
from covjax.jobs.folder import write_text
from covjax.metrics import bootstrap_p_value, interval, resample_counts
from covjax.notes import progress
from covjax.probes.nonlinear import DECAYS
from covjax.recipes import Recipe
from covjax.recipes.base import BASELINE, COMPOSITION, CONTROL, ROLES, SECOND_ORDER, Weighted, row_name
from covjax.recipes.standard import QUADRATIC, TWINS, matched_rank


def planned_pairs(rows: Sequence[RowResult], reference: str, probe: str) -> dict[str, tuple[str, str]]:
    """Which row is compared with which: {name: (row, other row)}, every choice made on validation alone.

    `gain`, `over_baseline`, `over_control`, `over_composition`: the best second-order row minus the reference, the best
    other row of first order, the best control, the best composition row. The other four take the gain of a whole matrix
    W apart, W being the best row that has a shuffled twin:

        whole_gain    W − mean                           = quadratic + marginal + co_occurrence
        quadratic     first − mean,    first  = the best of mean, mean_outer, mean+mean_outer
        marginal      second − first,  second = the best of first and shuffled W
        co_occurrence W − second

    The three parts are a chain, so they add up exactly. A control that does not help on validation takes no part
    (its step is zero); a plain sum of (μμᵀ − mean), (shuffled W − mean) and a remainder would credit co-occurrence
    with what shuffled W loses because, unlike the mean, it is centred. Ties go to the simpler row, which stands
    first. Pairs whose rows are absent are left out.
    """
    validation = {row.label: row.probes[probe].validation for row in rows if probe in row.probes}
    roles = {row.label: row.role for row in rows}

    def best(labels: Sequence[str]) -> str:
        return max(labels, key=lambda label: validation[label])

    pairs = {}
    by_role = {role: [label for label in validation if roles[label] == role and label != reference] for role in ROLES}
    if by_role[SECOND_ORDER]:
        chosen = best(by_role[SECOND_ORDER])
        pairs["gain"] = (chosen, reference)
        if by_role[BASELINE]:
            pairs["over_baseline"] = (chosen, best(by_role[BASELINE]))
        if by_role[CONTROL]:
            pairs["over_control"] = (chosen, best(by_role[CONTROL]))
        if by_role[COMPOSITION]:
            pairs["over_composition"] = (chosen, best(by_role[COMPOSITION]))
    quadratic = [label for label in QUADRATIC if label in validation]
    wholes = [label for label, twin in TWINS.items() if label in validation and twin in validation]
    if wholes and quadratic:
        whole = best(wholes)
        first = best([reference, *quadratic])
        second = best([first, TWINS[whole]])
        pairs["whole_gain"] = (whole, reference)
        pairs["quadratic"] = (first, reference)
        pairs["marginal"] = (second, first)
        pairs["co_occurrence"] = (whole, second)
    return pairs


def contrasts(
    rows: Sequence[RowResult],
    reference: str,
    probe: str,
    metric: str,
    draws: Mapping[str, Float[np.ndarray, "resamples"]] | None = None,
    groups: int = 0,
    pairs: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Contrast]:
    """The planned differences on the test set, by name, or those of the given `pairs` of rows.

    `draws` are the bootstrapped metric of every row by label, on the same resamples (paired) of `groups` test groups.
    Without them the interval and p-value are known only against the reference, where the rows carry them; elsewhere
    they are None.
    """
    tests = {row.label: row.probes[probe].test[metric] for row in rows if probe in row.probes}
    out = {}
    pairs = planned_pairs(rows, reference, probe) if pairs is None else pairs
    for name, (label, other) in pairs.items():
        ends: Interval | None = None
        p_value: float | None = None
        if label == other:
            ends, p_value = (0.0, 0.0), 1.0
        elif draws is not None:
            difference = np.asarray(draws[label]) - np.asarray(draws[other])
            ends, p_value = interval(difference), bootstrap_p_value(difference, groups)
        elif other == reference:
            ends, p_value = tests[label].difference_interval, tests[label].p_value
        out[name] = Contrast(label, other, tests[label].value - tests[other].value, ends, p_value)
    return out


REFERENCE = "mean"
PLANNED = ("over_baseline", "over_control", "over_composition")  # what the chosen row is shown beside, output by output
FEW_GROUPS = 20


def summarise(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    recipes: tuple[Recipe, ...],
    tables: Tables,
    probes: Probes,
    manifest: dict[str, Any],
    looks: int,
    label_names: Mapping[str, str],
) -> Results:
    """Score the test rows once per pooler and probe.

    Intervals: percentiles of `config.resamples` bootstrap resamples of whole groups, the same ones for every pooler,
    so that differences to the reference are paired. A pool trained with several seeds counts with the mean of its
    metrics over the seeds, in every resample too. `looks`: under how many settings the test set was scored, these
    included (`record_look`). `label_names`: what reports call the labels (`covjax.data.read_label_names`).
    """
    task, names = task_of(config, data), probe_names(config, data)
    test = data.rows("test")
    truth = data.targets[test]
    rows_of = {split: data.rows(split) for split in SPLITS}
    groups = {split: len({data.groups[i] for i in own}) for split, own in rows_of.items()}
    has_terms = data.task == "multilabel" and config.protocol != RETRIEVAL
    terms = count_terms(data, label_names, rows_of) if has_terms else ()
    counts = resample_counts([data.groups[i] for i in test], config.resamples, config.seed)
    rows: list[RowResult] = []
    constant, networks = set[str](), set[str]()  # rows with equal training vectors, and with a network as probe
    reference: dict[tuple[str, str], tuple[float, np.ndarray]] = {}
    planned: dict[str, np.ndarray] = {}  # draws of what the planned contrasts compare
    shown_rows = [recipe for recipe in recipes if row_name(recipe) == recipe.name]
    seeds_of = {row.name: [each.name for each in recipes if row_name(each) == row.name] for row in shown_rows}
    for recipe in progress(shown_rows, desc=f"{'score test':>12}", unit="recipe"):
        labels = seeds_of[recipe.name]
        is_network = getattr(recipe, "probe", "") == "mlp"
        grid = DECAYS if is_network else config.penalties
        edges = min(grid), max(grid)
        by_probe = {}
        for name in names:
            fits = [probes[label][name] for label in labels]
            shown = next((fit for fit in fits if fit.penalty in edges), fits[0])  # of the seeds
            scores = [predictions(task, name, fit.scores[test]) for fit in fits]
            test_scores, per_term = {}, {}
            for key, (_, metric) in task.metrics.items():
                values = np.mean([np.atleast_1d(metric(truth, each)) for each in scores], axis=0)
                draws = np.mean([macro_draws(metric(truth, each, counts)) for each in scores], axis=0)
                value = float(macro(values))
                if (name, key) == (names[0], task.primary):
                    planned[recipe.name] = draws
                base, base_draws = reference.setdefault((name, key), (value, draws))  # the first row is the reference
                seeds = None
                if len(scores) > 1:
                    seeds = tuple(metric_value(metric, truth, each) for each in scores)
                test_scores[key] = Score(
                    value,
                    resampled_interval(draws, data, task.metrics[key][0]),
                    value - base,
                    resampled_interval(draws - base_draws, data, task.metrics[key][0]),
                    bootstrap_p_value(draws - base_draws, groups["test"]),
                    seeds,
                )
                if terms or len(values) > 1:
                    per_term[key] = tuple(values.tolist())
            by_probe[name] = ProbeResult(
                penalty=shown.penalty,
                at_edge=shown.penalty in edges,
                validation=float(np.mean([max(fit.validation) for fit in fits])),
                validation_path=tuple(shown.validation),
                converged=all(fit.converged for fit in fits),
                test=test_scores,
                per_term=per_term,
            )
        table, title = tables[recipe.name], recipe.title
        if isinstance(recipe, Weighted):
            title += f": {described(recipe.parts, table.shares)}"
        size = table.num_features
        described_as = recipe.name, title, recipe.role, recipe.family, recipe.rank
        rows.append(RowResult(*described_as, by_probe, size, solver=table.solver))
        if table.is_constant(rows_of["train"]):
            constant.add(recipe.name)
        if is_network:
            networks.add(recipe.name)
        del table  # before the next one is read
    compared = REFERENCE, names[0], task.primary, planned, groups["test"]
    differences = contrasts(rows, *compared)
    chain = contrasts(rows, *compared, chain_pairs(rows, REFERENCE, names[0]))
    outputs: tuple[Output, ...] = ()
    if data.task == "regression" and len(data.target_names) > 1:
        ends = [differences[name].other for name in PLANNED if name in differences]
        shown_scores = {
            label: [predictions(task, names[0], probes[each][names[0]].scores[test]) for each in seeds_of[label]]
            for label in dict.fromkeys([REFERENCE, differences["gain"].row, *ends])
        }
        called = [(label, label_names.get(label, label)) for label in data.target_names]
        outputs = measure_outputs(task.metrics[task.primary][1], truth, shown_scores, counts, called)
    solvers = {row.label for row in rows if row.solver}
    labels = [recipe.name for recipe in recipes if row_name(recipe) in solvers]
    solved = landmark_warnings(config, data, tables, labels)
    warnings = (*_warnings(rows, constant, networks, data, groups["test"], looks), *solved)
    sizes: dict[str, float] = {split: len(data.rows(split)) for split in SPLITS}
    parts = {"sizes": sizes, "groups": groups, "terms": terms, "warnings": warnings, "outputs": outputs}
    return assemble(config, data, tokens, rows, differences, chain, looks, manifest, parts)


def assemble(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    rows: Sequence[RowResult],
    differences: dict[str, Contrast],
    chain: dict[str, Contrast],
    looks: int,
    manifest: dict[str, Any],
    parts: Mapping[str, Any],
) -> Results:
    """The results of scored rows and their contrasts; `parts` are further fields of `Results`."""
    task, names = task_of(config, data), probe_names(config, data)
    return Results(
        name=config.name,
        task=data.task,
        reference=REFERENCE,
        primary=task.primary,
        primary_name=task.metrics[task.primary][0],
        metrics={key: name for key, (name, _) in task.metrics.items()},
        probes=names,
        num_targets=len(data.target_names),
        encoder_features=tokens.features,
        matched_rank=matched_rank(tokens.features),
        composition_unit="word" if data.is_text else "letter" if config.composition_k == 1 else "k-mer",
        best_second_order=differences["gain"].row,
        contrasts=differences,
        chain=chain,
        rows=tuple(rows),
        test_looks=looks,
        grouping=data.grouping,
        one_family=data.one_family,
        manifest=manifest,
        **{**parts, "sizes": parts["sizes"] | {"median_tokens": tokens.median_tokens()}},
    )


def resampled_interval(draws: np.ndarray, data: Dataset, metric: str) -> Interval:
    """The interval of resampled values; InputError with a remedy where the test set is too small for one."""
    try:
        return interval(draws)
    except InputError as error:
        unit, test = "pairs" if data.partners else "sequences", data.targets[data.rows("test")]
        what = f"{len(test)} test {unit} are too few"
        if data.task != "regression":
            rare = int(test.sum(0).argmin())
            what += f" (of {shown(data.target_names[rare], 40)} there {'is' if test[:, rare].sum() == 1 else 'are'} "
            what += f"{int(test[:, rare].sum())})"
        more = "" if data.task == "regression" else " of every class"
        raise InputError(
            f"{data.name}: {metric}: {what} for an interval: {error}; add test {unit}{more}, or where the file has no "
            "split column give the test set a larger share: --shares 0.6,0.15,0.25"
        ) from None


def macro_draws(draws: np.ndarray) -> np.ndarray:
    """`macro` of resampled values by label; those of one number are as they are."""
    return macro(draws) if draws.ndim == 2 else draws


def _warnings(
    rows: Sequence[RowResult],
    constant: Collection[str],
    networks: Collection[str],
    data: Dataset,
    groups: int,
    looks: int,
) -> list[str]:
    texts, unit = [*look_warnings(looks), *data.warnings], "pairs" if data.partners else "sequences"
    if RETRIEVAL in rows[0].probes:
        train = data.rows("train")
        for split in ("validation", "test"):
            if count := unanswerable(data.targets, train, data.rows(split)):
                texts.append(
                    f"retrieval: {count} of {len(data.rows(split))} {split} sequences share no label with a training "
                    "sequence; as queries they are left out"
                )
    if groups < FEW_GROUPS:
        texts.append(f"{groups} groups in the test set: bootstrap intervals over so few are too narrow")
    for row in rows:
        if row.label in constant:
            texts.append(f"{row.label}: equal for all training {unit}; its probe predicts a constant")
    for row in rows:
        for name, fit in row.probes.items():
            if fit.at_edge:
                texts.append(edge_warning(row.label, name, fit))
            if not fit.converged:
                why = "was best at its last step" if row.label in networks else "L-BFGS stopped before its tolerance"
                texts.append(f"{row.label}, {name}: {why}")
    return texts


def edge_warning(label: str, probe: str, fit: ProbeResult) -> str:
    """What is said of a row's probe whose penalty is the first or the last of the grid."""
    return f"{label}, {probe}: penalty {fit.penalty:g} is at the edge of the grid"


def look_warnings(looks: int) -> list[str]:
    """A warning where the test set was scored under several settings."""
    if looks <= 1:
        return []
    return [
        f"the test set was scored under {looks} settings from this folder (test-looks.jsonl): to choose between "
        "them by these numbers is selection on test"
    ]


def count_terms(data: Dataset, names: Mapping[str, str], rows: Mapping[str, Int[np.ndarray, "_"]]) -> tuple[Term, ...]:
    """Every label with its name and its positives among the named `rows`."""
    counts = {split: data.targets[own].sum(0) for split, own in rows.items()}
    return tuple(
        Term(label, names.get(label, label), {split: int(counts[split][j]) for split in counts})
        for j, label in enumerate(data.target_names)
    )


LOOKS = "test-looks.jsonl"


def record_look(folder: Path, settings: dict[str, Any], manifest: dict[str, Any], command: str) -> int:
    """Note that the test set is scored under these settings; how many settings were scored from this folder.

    `settings` are the fields that decide numbers (`covjax.options.decided_by`).

    The same config, data and encoder again, which give the same numbers, are no new look; neither names and places
    nor the machine count. Other data do, such as another split of the same. --force removes all but this record.

    Raises InputError for a record that cannot be read.
    """
    data, encoder = manifest["data"]["fingerprint"], manifest["encoder"]
    layer = encoder.get("layers", encoder["layer"])
    digest = json_digest([data, encoder["weights_digest"], layer, settings])
    path = folder / LOOKS
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path.exists() else []
        looks = [look for line in lines if (look := read_line(line)) is not None]
    except (OSError, ValueError):
        lines, looks = [""], []
    if len(looks) < len(lines):
        raise InputError(
            f"output: {path} is damaged, was changed, or is of another version of covjax; it records every look at the "
            "test set: put it back, or use --output OTHER"
        )
    known = {look["settings"] for look in looks}
    if digest not in known:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        look = {"time": now, "data": data, "settings": digest, "command": command}
        write_text(path, "".join(sealed_line(each) + "\n" for each in [*looks, look]))
        known.add(digest)
    return len(known)
