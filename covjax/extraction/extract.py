"""An extraction: pooled features, and token activations where asked, of many sequences; resumable at any point."""

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from covjax.data.letters import check_lengths, check_letters
from covjax.data.sequences import read_sequences
from covjax.data.store import (
    FORMAT,
    TOKEN_FORMAT,
    input_digest,
    read_run,
    read_shard,
    shard_fault,
    shard_path,
    token_path,
)
from covjax.encoders import load
from covjax.encoders.embed import batch_size, replicate
from covjax.errors import InputError
from covjax.extraction.config import ExtractConfig
from covjax.extraction.plan import Cuts, Work, make_plan, pass_windows
from covjax.extraction.shard import encode, pool_function, write_shard
from covjax.extras import need
from covjax.jobs.cli import parse_settings
from covjax.jobs.distributed import gather, is_first, once, share, wait
from covjax.jobs.folder import RunFolder, claim, write_sealed
from covjax.notes import note, progress
from covjax.options import FEATURES, NUMBERS, decided_by
from covjax.pooling import Pooler, get_pooler

RUN = "covjax extract"
OWNS = ("extraction.json", "shards/*/", "tokens/*.array_record")


def parse_pooler(text: str) -> Pooler:
    """The pooler of "name" or "name:option=value:option=value"; InputError for what `get_pooler` does not know."""
    name, _, settings = text.partition(":")
    try:
        options = parse_settings(settings)
    except InputError as error:
        raise InputError(f"poolers: {text!r}: {error}") from None
    return get_pooler(name, **options)


def extract(config: ExtractConfig, force: bool = False) -> Path:
    """Run or resume an extraction; returns its folder. Raises InputError for everything a user can put right.

    `force` removes first what an extraction left in the folder, once all that it reads has been checked.
    """
    config.check()
    if config.keep_tokens:
        need("array_record.python.array_record_module", "store", "keep_tokens: true")  # said before the work
    with claim(config.output, RUN, OWNS) as folder:
        return _extract(config, force, folder)


def _extract(config: ExtractConfig, force: bool, folder: RunFolder) -> Path:
    output = folder.path
    ids, sequences = read_sequences(config.data, config.genome)
    check_lengths(sequences, config.max_length, lambda i: ids[i])
    encoder = load(config.encoder, config.dtype)
    check_letters(Path(config.data).name, sequences, encoder, config.force_letters)
    cuts = Cuts(config, encoder, ids, sequences)
    poolers = {name: parse_pooler(name) for name in config.poolers}
    mesh = Mesh(np.array(jax.local_devices()), ("data",)) if jax.local_device_count() > 1 else None
    passing = pass_windows(config, encoder, cuts, poolers, mesh)
    plan = make_plan(config, encoder, cuts, passing)
    run = _describe(config, ids, sequences, encoder, poolers, len(plan.shards))
    inputs = {"data": config.data, "genome": config.genome, "encoder": config.encoder}
    folder.begin(run["identity"], force, inputs)
    once(lambda: _write_run(output, run))
    if mesh is not None:
        replicate(encoder, mesh)
    pool = pool_function(poolers, mesh)
    pool_one = pool_function(poolers) if mesh else pool
    work = Work(config, ids, sequences, cuts, encoder, pool, pool_one, passing, mesh, plan, run)
    complete = _find_complete(output, run)
    missing = np.flatnonzero(~complete)
    _refuse_too_large(work, missing)
    own = [int(missing[i]) for i in share(len(missing))]
    note(f"shards: {complete.sum()} of {len(complete)} complete in {output} and reused")
    if own:
        minutes = _estimate_seconds(work, own) / 60
        note(f"about {minutes:.1f} min on {jax.local_device_count()} device(s), without writing")
    total = sum(int(cuts.totals[plan.shards[shard]].sum()) for shard in own)
    with progress(total=total, unit="tok", unit_scale=True, disable=not is_first()) as bar:
        for shard in own:
            write_shard(work, shard, bar)
    wait()
    if is_first():
        _refuse_lost(output, run)
        print(f"{len(ids):,} sequences in {output}: {', '.join(run['features'])}")
    return output


def _describe(config, ids, sequences, encoder, poolers, shards) -> dict[str, Any]:
    widths = [encoder.features(layer) for layer in config.layers]
    features = {
        f"{layer}/{name}": jax.eval_shape(
            pooler, jax.ShapeDtypeStruct((4, width), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
        ).size
        for layer, width in zip(config.layers, widths)
        for name, pooler in poolers.items()
    }
    identity = decided_by(config, FEATURES, NUMBERS) | {
        "input": input_digest(ids, sequences),
        "weights": encoder.weights_digest,
        "jax": jax.__version__,
        "covjax": version("covjax"),
        "device": jax.devices()[0].device_kind,
    }
    identity["format"] = TOKEN_FORMAT if config.keep_tokens else FORMAT
    kept = list(config.layers) if config.keep_tokens else []
    return json.loads(
        json.dumps(
            {
                "identity": identity,
                "sequences": len(ids),
                "ids": ids,
                "shards": shards,
                "features": features,
                "token_layers": kept,
                "token_widths": widths if kept else [],
            }
        )
    )


def _write_run(output: Path, run: dict[str, Any]) -> None:
    """Write what the folder holds, unless just that stands there."""
    path = output / "extraction.json"
    if path.is_file():
        try:
            if read_run(output) == run:
                return
        except InputError:
            print(f"note: {path}: changed or damaged; made again", file=sys.stderr)
    write_sealed(path, run)


def _find_complete(output: Path, run: dict[str, Any]) -> np.ndarray:
    """Which shards are sound, each read by one process; those that are not are named, and made again."""
    own = list(share(run["shards"]))
    bad = []
    for shard in own:
        if fault := shard_fault(output, shard, run):
            print(f"note: {fault}; shard {shard} is made again", file=sys.stderr)
        bad.append(fault is not None)
    complete = np.zeros(run["shards"], bool)
    # All must deal from one list: what the others complete meanwhile would shift it.
    complete[gather(np.array(own, np.int64))] = ~gather(np.array(bad, bool))
    return complete


def _refuse_too_large(work: Work, missing: np.ndarray) -> None:
    """Print the size; the whole output is held against the limit, what is missing of it against the disk."""
    config, run = work.config, work.run
    tokens = work.cuts.cores
    own, features, widths = int(tokens.sum()), sum(run["features"].values()), sum(run["token_widths"])
    token_bytes = 2 * widths + 9 if widths else 0  # with the letters and where they stand
    size = 4 * run["sequences"] * features + own * token_bytes
    rows = [row for shard in missing for row in work.plan.shards[shard]]
    to_come = 4 * len(rows) * features + int(tokens[rows].sum()) * token_bytes
    seen = int(work.cuts.lengths.sum())
    batches = _batches(work, range(len(work.plan.shards)))
    padded = sum(edge * size * n for edge, (size, n) in batches.items())
    note(
        f"{run['sequences']:,} sequences, {own:,} tokens ({seen - own:,} more as context of windows) in "
        f"{len(batches)} shapes ({1 - seen / padded:.0%} of the encoder's tokens are padding); "
        f"output about {size / 2**30:.3g} GiB, {to_come / 2**30:.3g} of it to come"
    )
    free = shutil.disk_usage(config.output).free
    if size > config.max_output_gib * 2**30:
        raise InputError(f"output: about {size / 2**30:.3g} GiB, more than max_output_gib {config.max_output_gib}")
    if to_come > 0.95 * free:
        raise InputError(
            f"output: about {to_come / 2**30:.3g} GiB to come, but only {free / 2**30:.3g} GiB are free on the disk"
        )


def _refuse_lost(output: Path, run: dict[str, Any]) -> None:
    for shard in range(run["shards"]):
        path = shard_path(output, shard)
        if read_shard(output, shard, run) is None or (run["token_layers"] and not token_path(output, shard).is_file()):
            raise InputError(
                f"output: {path} is not there at the end: it was removed, or the processes have several folders; the "
                "same command makes it again"
            )
    if read_run(output) != run:
        raise InputError(f"output: {output}: another extraction wrote there meanwhile; use --output OTHER")


def _batches(work: Work, shards: Iterable[int]) -> dict[int, tuple[int, int]]:
    """{row length: (rows of a batch, batches)}."""
    sizes: dict[int, int] = {}
    counts: Counter[int] = Counter()
    for shard in shards:
        for edge, rows in work.rows(shard).items():
            size = sizes.setdefault(edge, batch_size(work.config.token_budget, edge, work.mesh))
            counts[edge] += -(-len(rows) // size)
    return {edge: (size, counts[edge]) for edge, size in sizes.items()}


def _estimate_seconds(work: Work, missing: list[int]) -> float:
    """One batch of every shape, timed after its compilation (which the run needs anyway), times their numbers."""
    seconds = 0.0
    for edge, (size, count) in _batches(work, missing).items():
        shard, row = next((shard, rows[edge][0]) for shard in missing if edge in (rows := work.rows(shard)))
        flat = [w for i in work.plan.shards[shard] for w in work.cuts[i]]
        chosen = [flat[i] for i in row] * size
        for timed in (False, True):
            start = time.perf_counter()
            for _, layers, mask in encode(work, chosen):
                if (passing := work.passing_of(shard)) is None:
                    jax.block_until_ready(work.pool(layers, mask))
                else:
                    passing.add(-1, layers, mask)
                    passing.finish(-1)
            seconds += count * (time.perf_counter() - start) * timed
    return seconds
