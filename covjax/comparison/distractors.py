"""The test set once more with tokens of other sequences behind each of its own: what every row still knows."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from covjax.activations import ArrayTokens
from covjax.activations.distractors import DistractedTokens
from covjax.comparison.config import CompareConfig
from covjax.comparison.probing import Probes, metric_value, predictions, probe_names, task_of
from covjax.comparison.results import Distracted, Results, Score
from covjax.comparison.scoring import macro_draws
from covjax.data import Dataset
from covjax.embedding.plan import GIB
from covjax.errors import InputError
from covjax.metrics import bootstrap_p_value, interval, resample_counts
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import Composition, Covariates, SpecialToken, row_name


def split_name(share: float) -> str:
    """What the split of the rows with this share of foreign tokens is called."""
    return f"distractors {float(share)!r}"


def add_distracted_rows(data: Dataset, shares: Sequence[float]) -> Dataset:
    """The data and, share by share, its test rows again, in splits of their own: probes are fitted without them."""
    test, count = data.rows("test"), len(shares)
    assert data.splits is not None
    every = np.concatenate([np.arange(len(data)), *[test] * count])
    names = np.repeat([split_name(share) for share in shares], len(test))

    def again(column: Sequence) -> tuple:
        return tuple(column[row] for row in every) if column else ()

    return dataclasses.replace(
        data,
        ids=again(data.ids),
        sequences=again(data.sequences),
        groups=again(data.groups),
        lines=again(data.lines),
        targets=data.targets[every],
        covariates=None if data.covariates is None else data.covariates[every],
        splits=np.concatenate([data.splits, names]),
    )


def add_distracted_tokens(
    config: CompareConfig, data: Dataset, tokens: Mapping[int | None, ArrayTokens]
) -> dict[int | None, ArrayTokens]:
    """The tokens of `add_distracted_rows`, at every layer.

    Raises InputError where the longest sequence takes more than a quarter of the memory, and as `DistractedTokens`.
    """
    settings = data.rows("test"), data.groups, config.distractors, config.seed
    some, share = next(iter(tokens.values())), max(config.distractors)
    longest = int(np.asarray(some.lengths)[data.rows("test")].max()) / (1 - share)
    if 4 * longest * some.features > config.memory_gib * GIB / 4:
        raise InputError(
            f"distractors: at a share of {share:.10g} the longest test sequence has {longest:,.0f} tokens of "
            f"{some.features:,} features, over a quarter of {config.memory_gib:.2g} GiB; give a smaller share, or more "
            "--max-memory-gib"
        )
    return {layer: DistractedTokens(each, *settings) for layer, each in tokens.items()}


def measure_distracted(
    config: CompareConfig,
    data: Dataset,
    recipes: Sequence[Recipe],
    probes: Probes,
    results: Results,
) -> tuple[Distracted, ...]:
    """Values of the primary metric and first probe at every share, and differences from the reference there.

    `data` are those of `add_distracted_rows`. Resamples are those of the test set: the same groups of test sequences.
    Rows that see no tokens are left out, the model's own special token among them, which is the same at every share. A
    row trained with several seeds counts with their mean.
    """
    task, name = task_of(config, data), probe_names(config, data)[0]
    metric = task.metrics[task.primary][1]
    counts = resample_counts([data.groups[row] for row in data.rows("test")], config.resamples, config.seed)
    tokenless = {recipe.name for recipe in recipes if isinstance(recipe, Composition | Covariates | SpecialToken)}
    rows = [recipe for recipe in recipes if tokenless.isdisjoint((recipe.name, *parts_of(recipe)))]
    seeds: dict[str, list[str]] = {}
    for recipe in rows:
        seeds.setdefault(row_name(recipe), []).append(recipe.name)
    out = []
    for share in config.distractors:
        own = data.rows(split_name(share))
        truth = data.targets[own]
        scores: dict[str, Score] = {}
        draws: dict[str, np.ndarray] = {}
        for label, replicas in seeds.items():
            shown = [predictions(task, name, probes[each][name].scores[own]) for each in replicas]
            value = float(np.mean([metric_value(metric, truth, each) for each in shown]))
            resampled = [metric(truth, each, counts) for each in shown]
            draws[label] = np.mean([macro_draws(each) for each in resampled], axis=0)
            base = scores[results.reference].value if scores else value
            difference = draws[label] - draws[results.reference]
            scores[label] = Score(
                value,
                interval(draws[label]),
                value - base,
                interval(difference),
                bootstrap_p_value(difference, results.groups["test"]),
            )
        out.append(Distracted(share, scores))
    return tuple(out)
