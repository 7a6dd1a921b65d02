"""Compare covariance pooling with mean pooling and the controls, on one data set, from one command.

    covjax compare --config quickstart
    covjax compare my.csv --output runs/mine
    covjax compare my.csv --encoder facebook/esm2_t6_8M_UR50D

Frozen tokens of one encoder are pooled in every way, the same two linear probes are fitted on each, the penalty is
chosen on validation from one grid, and the test set is scored once: `test-looks.jsonl` in the output folder keeps a
record of the settings it was scored under. Batches are split over all devices of the machine, with --distributed
sequences and probes over several processes.
Exit status 2 and one line for bad input.
"""

import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from covjax import checkpoint, encoders
from covjax.activations import EncodedTokens
from covjax.cli import exit_on_input_error, parse
from covjax.comparison.config import CompareConfig
from covjax.comparison.features import make_features
from covjax.comparison.figures import draw_figures
from covjax.comparison.looks import record_look
from covjax.comparison.probing import fit_probes
from covjax.comparison.report import text_table, write_report
from covjax.comparison.results import UNGROUPED, read_label_names, summarise
from covjax.comparison.rows import choose_recipes
from covjax.data import Dataset, assign_splits, check_splits, read_table
from covjax.data.write import new_text
from covjax.distributed import check_folder, is_first, job, once, same, wait
from covjax.errors import InputError
from covjax.extras import need
from covjax.notes import note, silence
from covjax.options import FEATURES, NUMBERS, decided_by
from covjax.sources import write_source

MAIN_OPTIONS = ("data", "task", "encoder", "layer", "output", "name", "label_names", "max_length", "rows")


def main(argv: Sequence[str] | None = None, command: str = "covjax compare") -> None:
    """Run the command line under the name it was typed by; see the module's docstring."""
    argv = sys.argv[1:] if argv is None else argv
    from covjax.tasks.configs import CONFIGS  # built of this module's parts

    with exit_on_input_error(command):
        given = {each.split("=")[0] for each in argv}
        if {"--suite", "--distributed"} <= given:
            raise InputError(
                "distributed: the tasks of --suite are jobs of their own; start each with --config and --distributed"
            )
        if "--suite" in given:
            from covjax.tasks import run as suite  # with statistics of many tasks, which one comparison does not need

            raise SystemExit(suite.main(argv, command))
        config, flags = parse(
            command, __doc__ or "", CompareConfig, argv, MAIN_OPTIONS, distributed=True, built_in=CONFIGS
        )
        with silence(flags.quiet), job(command, flags.distributed):
            compare(config, force=flags.force, command=f"{command} {shlex.join(argv)}")


def compare(config: CompareConfig, force: bool = False, command: str = "") -> dict[str, Any]:
    """Run or finish a comparison; returns the results that also stand in `results.json`.

    In a job of several processes, which call this together, each encodes and pools its own sequences and fits its share
    of the probes; process 0 scores the test set and writes. All see the same output folder.

    Raises InputError for bad data, a bad config, or an output folder that cannot be written or belongs to another
    comparison.
    """
    start = time.monotonic()
    config.check()
    if config.sae_latents:
        need("grain", "train", "sae_latents: training a sparse autoencoder")  # said before hours of work
    same("options", repr((config, force)))
    read_label_names(config.label_names)  # what cannot be read is said before hours of work, not after
    output = Path(config.output)
    once(lambda: _check_output(output))
    check_folder(output)
    table = config.data or _source_table(config, output)
    data = assign_splits(read_table(table, config.task), config.shares, config.seed)
    check_splits(data)
    if not data.has_group_column:
        note(f"note: {data.name}: {UNGROUPED}")
    encoder = encoders.load(config.encoder)
    manifest = _manifest(config, data, encoder)
    same("data", manifest["data"]["fingerprint"])
    same("encoder", manifest["encoder"]["weights_digest"])
    _check_lengths(config, data)
    _check_letters(encoder, data)
    if force:
        once(lambda: _remove(output))
    decisive = decided_by(config, FEATURES)
    mesh = Mesh(np.array(jax.local_devices()), ("sequences",)) if jax.local_device_count() > 1 else None
    layer = manifest["encoder"]["layer"]
    tokens = EncodedTokens(encoder, data.sequences, layer, config.token_budget, config.max_memory_gib, mesh)
    rows = choose_recipes(config, tokens.features, tokens.has_special)
    kind = {name: manifest["device"][name] for name in ("platform", "kind")}  # how many may change
    tables = make_features(config, data, tokens, rows, output, manifest | {"config": decisive, "device": kind})
    probes = fit_probes(config, data, tables, output, manifest)
    if not is_first():
        wait()  # while process 0 scores the test set and writes
        return json.loads((output / "results.json").read_text(encoding="utf-8"))
    results = _complete_results(output / "results.json", manifest)
    if results is None:
        looks = record_look(output, decided_by(config, FEATURES, NUMBERS), manifest, command)
        results = summarise(config, data, tokens, rows, tables, probes, manifest | {"command": command}, looks)
    else:
        note(f"results: complete in {output / 'results.json'}, reused")
    svgs = draw_figures(results, output / "figures")
    with new_text(output / "results.json") as file:
        file.write(json.dumps(results, indent=1, ensure_ascii=False))
    write_report(results, svgs, output / "report.html")
    print(f"\n{results['name']}: test {results['primary_name']}, {len(data.rows('test'))} test sequences")
    print(text_table(results))
    for warning in results["warnings"]:
        print(f"warning: {warning}")
    seconds = time.monotonic() - start
    print(f"\nreport: {output / 'report.html'}   numbers: {output / 'results.json'}   ({seconds:.0f} s)")
    wait()
    return results


def _remove(output: Path) -> None:
    for stage in ("pools", "features", "probes"):
        checkpoint.remove(output / stage)
    (output / "results.json").unlink(missing_ok=True)


def _source_table(config: CompareConfig, output: Path) -> Path:
    """The built-in data set as a table in the output folder, made once; its name says which and how large."""
    path = output / f"{'-'.join([config.source, *map(str, config.sizes)])}.csv.gz"
    if is_first() and not path.is_file():
        write_source(config.source, path, os.environ.get("COVJAX_SHARED", "../shared"), config.source_sizes)
    wait()
    return path


def _complete_results(path: Path, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Results of an earlier run under the same manifest; None where there are none or anything differs."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        unchanged = {key: value for key, value in results["manifest"].items() if key != "command"} == manifest
    except (OSError, ValueError, KeyError):
        return None
    return results if unchanged else None


def _check_output(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output: {output}: cannot be written: {error.strerror}") from None


def _check_lengths(config: CompareConfig, data: Dataset) -> None:
    for i, sequence in enumerate(data.sequences):
        if len(sequence) > config.max_length:
            raise InputError(
                f"{data.name}: row {i + 2} ({data.ids[i]}): {len(sequence)} letters, more than max_length "
                f"{config.max_length}; raise --max-length or shorten it yourself (nothing is cropped silently)"
            )


def _check_letters(encoder: Any, data: Dataset) -> None:
    for i, sequence in enumerate(data.sequences):
        try:
            encoder.encode(sequence)
        except InputError as error:
            raise InputError(f"{data.name}: row {i + 2} ({data.ids[i]}): {error}") from None


def _layer(layer: int, num_layers: int) -> int:
    if not -num_layers <= layer < num_layers:
        raise InputError(f"layer: {layer} is not one of {-num_layers} … {num_layers - 1}")
    return layer % num_layers


def _manifest(config: CompareConfig, data: Dataset, encoder: Any) -> dict[str, Any]:
    return {
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
        "data": {"file": data.name, "sequences": len(data), "task": data.task, "fingerprint": data.fingerprint()},
        "encoder": {
            "name": encoder.name,
            "layer": _layer(config.layer, encoder.num_layers),
            "weights_digest": encoder.weights_digest,
            "dtype": "float32",
        },
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
        },
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("covjax", "jax", "flax", "optax", "numpy", "orbax-checkpoint")},
    }


if __name__ == "__main__":
    main()
