"""The whole run of a comparison in order, from the user's table to report and terminal."""

import dataclasses
import hashlib
import json
import os
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from covjax.comparison.config import RETRIEVAL, CompareConfig, choose_recipes, small_note
from covjax.comparison.datacard import DataCard, data_card
from covjax.comparison.distractors import add_distracted_rows, add_distracted_tokens, measure_distracted
from covjax.comparison.fold_model import keep_fold_winner, write_fold_predictions
from covjax.comparison.fold_scores import summarise_folds
from covjax.comparison.fold_text import folds_note, folds_plan, tested_text
from covjax.comparison.folds import fit_folds, fold_data
from covjax.comparison.layers import Choice, choose_layers, split_layers, tokens_by_layer
from covjax.comparison.model import keep_winner, write_predictions
from covjax.comparison.page import is_current
from covjax.comparison.probing import probe_names
from covjax.comparison.results import Results, read_results
from covjax.comparison.scoring import LOOKS, record_look, summarise
from covjax.comparison.source import Source, open_source
from covjax.comparison.verdict import table, verdict
from covjax.data import Dataset, assign_splits, check_splits, drop_rare, read_table
from covjax.data.dataset import label_name_notes, read_label_names
from covjax.data.pairs import seen_note
from covjax.data.targets import target_names_path
from covjax.errors import InputError
from covjax.extras import need
from covjax.jobs.distributed import check_folder, is_first, same, wait
from covjax.jobs.folder import RunFolder, claim, write_sealed
from covjax.notes import note, visible
from covjax.options import FEATURES, NUMBERS, decided_by
from covjax.recipes import Recipe
from covjax.sources import SOURCES, tokens_path, write_source

RUN = "covjax compare"
FIGURES = ("differences", "differences_all", "chain", "confusion", "measured", "rank", "terms")
FITTED = ("pools/*/rate-*/*/", "pools/*/rate-*/", "pools/*/", "features/*/", "probes/*/", "folds/*/*.json", "folds/*/")
OWNS = (
    *(*FITTED, *(f"layers/*/{pattern}" for pattern in FITTED), "layers/*/", "results.json", "report.html"),
    *(f"figures/{name}.png" for name in FIGURES),
    *("predictions.csv", "model/embedder/", "model/probe/", "model/"),
)


def compare(
    config: CompareConfig, force: bool = False, command: str = "", every: bool = False, activations: Any = None
) -> Results:
    """Run or finish a comparison; returns the results that also stand in `results.json`.

    In a job of several processes, which call this together, each encodes and pools its own sequences and fits its share
    of the probes; process 0 scores the test set and writes. All see the same output folder. `every` prints all rows.
    `activations` are those in memory that take the encoder's place; see `covjax.activations.files.given_arrays`.

    Raises InputError for bad data, a bad config, or an output folder that cannot be written or belongs to another
    comparison.
    """
    config.check()
    if config.sae_latents and not (Path(config.output) / "results.json").is_file():
        need("grain", "train", "sae_latents: training a sparse autoencoder")  # said before hours of work
    same("options", repr((config, force)))
    with claim(config.output, RUN, OWNS) as folder:
        return _compare(config, force, command, folder, every, activations)


def _compare(
    config: CompareConfig, force: bool, command: str, folder: RunFolder, every: bool, activations: Any
) -> Results:
    start, output = time.monotonic(), folder.path
    check_folder(output)
    table, tokens_file = (config.data, "") if config.data else _source_table(config, output)
    if activations is None and not config.activations:
        config = dataclasses.replace(config, activations=tokens_file)
    is_encoded = activations is None and not config.activations
    names = config.table_options
    data = read_table(table, config.task, **names, needs_sequence=is_encoded, covariates=config.covariates)
    if config.protocol == RETRIEVAL and data.partners:
        raise InputError("protocol: retrieval of pairs is not defined; compare them with --protocol probes")
    names_file = config.label_names or ("" if config.data else _source_names(table))
    label_names = read_label_names(names_file)  # bad names are said before hours of work, not after
    if label_names and data.task == "multiclass":
        raise InputError(
            f"label_names: {names_file}: {data.name} has classes, which the report calls what the table calls them; "
            "write the names into the column, or leave --label-names out"
        )
    _tell("note", data, [*data.notes, *label_name_notes(label_names, data, names_file)])
    data, source = open_source(config, data, activations)
    _tell("note", data, source.notes)
    folds: list[Dataset] = []
    if config.folds:
        config = dataclasses.replace(config, landmarks=0)
        data, folds = fold_data(config, data)
        _tell("note", data, [folds_plan(config, len(data))])
    else:
        _tell("note", data, filter(None, [folds_note(config, len(data), data.splits is not None)]))
        data = drop_rare(assign_splits(data, config.shares, config.seed), config.min_positives)
        check_splits(data)
    _tell("note", data, [data.grouping] if data.grouping else [])
    if data.partners and not folds:
        _tell("note", data, [seen_note(data)])
    _tell("warning", data, data.warnings)
    manifest = _manifest(config, data, source, label_names)
    same("data", manifest["data"]["fingerprint"])
    same("encoder", manifest["encoder"]["weights_digest"])
    source.check(data)
    decisive = decided_by(config, FEATURES)
    mesh = Mesh(np.array(jax.local_devices()), ("sequences",)) if jax.local_device_count() > 1 else None
    tokens = tokens_by_layer(config, data, source, mesh)
    some, has_special = next(iter(tokens.values())), any(each.has_special for each in tokens.values())
    test = len((folds or [data])[0].rows("test"))
    rows = choose_recipes(config, some.features, has_special, test, bool(data.sequences), some.kind)
    unit = "pairs" if data.partners else "sequences"
    _tell("note", data, filter(None, [small_note(config, len(rows), test, unit)]))
    kind = {name: manifest["device"][name] for name in ("platform", "kind")}  # how many may change
    features = manifest | {"config": decisive, "device": kind}
    del features["label_names"]
    inputs = {
        "data": config.data,
        "encoder": config.encoder,
        "activations": config.activations,
        "label_names": config.label_names,
    }
    plain, enlarged = tokens, data
    if config.distractors:
        tokens, enlarged = add_distracted_tokens(config, data, tokens), add_distracted_rows(data, config.distractors)
        features["distractors"] = list(config.distractors)
    folder.begin(_identity(config, data, features, rows), force, inputs, grows="rows")
    layers = split_layers(config, tokens, rows, features, output)
    settings = decided_by(config, FEATURES, NUMBERS)
    if folds:
        if is_first():  # the folds' files hold test values
            record_look(output, settings, manifest, command)
        fits, choice = fit_folds(layers, data, folds)
    else:
        choice = choose_layers(layers, enlarged)
    if is_first():

        def summary(manifest: dict[str, Any], looks: int) -> Results:
            if folds:
                return summarise_folds(config, data, folds, some, rows, fits, manifest, looks, label_names)
            rest = choice.tables, choice.probes, manifest, looks, label_names
            results = summarise(config, data, choice.home[rows[0].name].tokens, rows, *rest)
            return dataclasses.replace(
                results, distractors=measure_distracted(config, enlarged, rows, choice.probes, results)
            )

        results = _score(summary, choice, settings, manifest, command, output)
    wait()  # while process 0 scores the test set
    if not is_first():
        results = read_results(output / "results.json")
    if folds:
        keep_fold_winner(choice, data, fits, results, output)
        write_fold_predictions(output / "predictions.csv", data, folds, fits, results)
    else:
        tables, home = choice.tables_of(results.winner, enlarged), choice.home[results.winner]
        home = dataclasses.replace(home, tokens=plain[home.number])
        keep_winner(home, data, tables, choice.probes, results, output)
        if is_first() and config.protocol != RETRIEVAL:
            write_predictions(output / "predictions.csv", data, choice.probes, results)
    if is_first():
        if not is_current(output / "report.html", results):
            _write_page(results, None if folds else data_card(data, results, choice.probes), output)
        seconds = time.monotonic() - start
        note(f"report: {output / 'report.html'}   model: {output / 'model'}   ({seconds:.0f} s)")
        _answer(results, every)
    wait()
    return results


def _score(
    summary: Callable[[dict[str, Any], int], Results],
    choice: Choice,
    settings: dict[str, Any],
    manifest: dict[str, Any],
    command: str,
    output: Path,
) -> Results:
    """The results of an earlier run that is the same, or those of a look at the test set, written at once."""
    results = _complete_results(output / "results.json", manifest)
    looks = record_look(output, settings, manifest, command)
    if results is not None:
        if looks < results.test_looks:
            print(f"note: {output / LOOKS}: {results.test_looks - looks} looks are missing", file=sys.stderr)
        note(f"results: complete in {output / 'results.json'}, reused")
        return results
    results = choice.enter(summary(manifest | {"command": command}, looks))
    write_sealed(output / "results.json", results.dump())  # before figures and pages, which take longer and may fail
    return results


def _write_page(results: Results, card: DataCard | None, output: Path) -> None:
    from covjax.comparison.figures import draw_figures  # Matplotlib takes a second, and may have nothing to draw
    from covjax.comparison.report import write_report

    write_report(results, draw_figures(results, output / "figures", card), output / "report.html", card)


def _answer(results: Results, every: bool) -> None:
    """The last lines of a run: warnings, a table of a screen, the verdict."""
    for warning in results.warnings:
        note(f"warning: {visible(warning)}")
    print(f"\n{visible(results.title)}: test {results.primary_name}, {tested_text(results)}")
    print(table(results, every))
    print(f"\n{textwrap.fill(visible(verdict(results)), 79, break_on_hyphens=False)}")


def _tell(kind: str, data: Dataset, texts: Iterable[str]) -> None:
    for text in texts if is_first() else ():
        note(f"{kind}: {data.name}: {text}")


def _identity(
    config: CompareConfig, data: Dataset, features: dict[str, Any], rows: tuple[Recipe, ...]
) -> dict[str, Any]:
    """What the features and probes of a folder have in common; rows may come to those that are there."""
    probes = {"penalties": config.penalties, "probes": probe_names(config, data)}
    return features | probes | {"rows": {row.name: repr(row) for row in rows}}


def _source_table(config: CompareConfig, output: Path) -> tuple[Path, str]:
    """The built-in data set as a table in the output folder, and its file of tokens ("": it has sequences).

    Both are made once; the name says which data set and how large.
    """
    path = output / f"{'-'.join([config.source, *map(str, config.sizes)])}.csv.gz"
    has_tokens = config.source in SOURCES and SOURCES[config.source].tokens is not None
    if is_first() and not (path.is_file() and (tokens_path(path).is_file() or not has_tokens)):
        write_source(config.source, path, os.environ.get("COVJAX_SHARED", "../shared"), config.source_sizes)
    wait()
    return path, str(tokens_path(path)) if has_tokens else ""


def _source_names(table: str | Path) -> str:
    """The names of a built-in data set's outputs, beside its table; nothing where they have none."""
    path = target_names_path(table)
    return str(path) if path.is_file() else ""


def _complete_results(path: Path, manifest: dict[str, Any]) -> Results | None:
    """Results of an earlier run under the same manifest; None where there are none or anything differs."""
    try:
        results = read_results(path)
    except FileNotFoundError:
        return None
    except InputError as error:
        print(f"note: {error}; made again from the checkpoints", file=sys.stderr)
        return None
    unchanged = {key: value for key, value in results.manifest.items() if key != "command"} == manifest
    return results if unchanged else None


def _manifest(config: CompareConfig, data: Dataset, source: Source, label_names: dict[str, str]) -> dict[str, Any]:
    names = repr(sorted(label_names.items()))
    return {
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
        "label_names": hashlib.sha256(names.encode()).hexdigest(),
        "data": {"file": data.name, "sequences": len(data), "task": data.task, "fingerprint": data.fingerprint()},
        "encoder": source.describe(data),
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
        },
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("covjax", "jax", "flax", "optax", "numpy", "orbax-checkpoint")},
    }
