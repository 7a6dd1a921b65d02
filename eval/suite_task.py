"""A task of a finished suite, opened again: its results, its settings, its table and where its tokens come from."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from covjax.comparison.config import CompareConfig
from covjax.comparison.results import Results, read_results
from covjax.comparison.source import Source, open_source
from covjax.data import Dataset, assign_splits, drop_rare, read_table
from covjax.errors import InputError
from covjax.sources import tokens_path
from covjax.tasks.configs import TASK_CONFIGS


class SuiteTask(NamedTuple):
    """A task of a suite; `data` has its splits, and `source` gives the tokens of any of its rows."""

    name: str
    config: CompareConfig
    results: Results
    data: Dataset
    source: Source


def find_tasks(folder: Path, names: str = "") -> list[Path]:
    """The folders of the finished tasks of a suite, by name; `names` (`NAME,NAME`) picks some.

    Raises InputError where there is none, and for a name without results.
    """
    finished = {path.parent.name: path.parent for path in sorted(folder.glob("*/results.json"))}
    if not finished:
        raise InputError(f"suite: no results in {folder}; make them with covjax tasks all --output {folder}")
    wanted = names.split(",") if names else list(finished)
    if absent := [name for name in wanted if name not in finished]:
        raise InputError(f"tasks: {absent[0]!r} has no results in {folder}; there are {', '.join(finished)}")
    return [finished[name] for name in wanted]


def open_task(folder: Path) -> SuiteTask:
    """The task whose results stand in `folder`, which has its name, with the table that lies there.

    Raises InputError for a folder that is not called as a built-in task, and where the table or the encoder is another
    than that of the results.
    """
    results = read_results(folder / "results.json")
    if folder.name not in TASK_CONFIGS:
        raise InputError(f"tasks: {folder.name!r} is not built in; there are {', '.join(sorted(TASK_CONFIGS))}")
    table = folder / results.manifest["data"]["file"]
    tokens = tokens_path(table)
    config = dataclasses.replace(TASK_CONFIGS[folder.name](), activations=str(tokens) if tokens.is_file() else "")
    data = read_table(
        table,
        config.task,
        **config.table_options,
        needs_sequence=not config.activations,
        covariates=config.covariates,
    )
    data, source = open_source(config, data)
    data = drop_rare(assign_splits(data, config.shares, config.seed), config.min_positives)
    if data.fingerprint() != results.manifest["data"]["fingerprint"]:
        raise InputError(f"tasks: {table} is not the table of {folder / 'results.json'}; run the task again")
    if source.describe(data)["weights_digest"] != results.manifest["encoder"]["weights_digest"]:
        raise InputError(f"tasks: {folder.name}: the encoder is not that of its results; run the task again")
    return SuiteTask(folder.name, config, results, data, source)


def measure_tasks(
    suite: Path,
    names: str,
    path: Path,
    measure: Callable[[SuiteTask], dict[str, Any]],
    is_current: Callable[[str, dict[str, Any]], bool] = lambda name, entry: True,
) -> dict[str, dict[str, Any]]:
    """The entries of the JSON file `path` by task, after those were measured that are named, absent or not current.

    The file is written after every task, so that a run that was stopped goes on. Raises InputError as `find_tasks` and
    `open_task`.
    """
    entries = json.loads(path.read_text()) if path.is_file() else {}
    for folder in find_tasks(suite, names):
        name = folder.name
        if names or name not in entries or not is_current(name, entries[name]):
            entries[name] = measure(open_task(folder))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    return entries
