"""Pooled features, and token activations where asked, of many sequences; resumable at any point.

    covjax extract proteins.fasta.gz --output runs/proteins
    covjax extract proteins.fasta --poolers mean,log_covariance:eps=0.01

Sequences are sorted by length and dealt into shards; every shard is written whole or not at all. The same command
again reads every shard and makes those anew that are missing or damaged.
Batches are split over all devices; with --distributed shards are dealt over processes, each with its own devices, and
`output` is a folder that all see. With --window long sequences are cut, with --halo tokens of context on each side.
Read the result with `covjax.data.store.load_features(output, "-1/mean")` and `TokenStore(output, layer)`.
"""

from collections.abc import Sequence

from covjax.extraction.config import ExtractConfig
from covjax.jobs.cli import run_job

MAIN_OPTIONS = ("data", "encoder", "layers", "poolers", "output")


def main(argv: Sequence[str], command: str = "covjax extract") -> int:
    """The command under the name it was typed by; exit status 2 and one line for a user's error."""
    return run_job(command, __doc__ or "", ExtractConfig, argv, MAIN_OPTIONS, _run)


def _run(config: ExtractConfig, force: bool) -> None:
    from covjax.extraction.extract import extract

    extract(config, force)
