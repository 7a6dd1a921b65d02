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

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from covjax.comparison.config import CompareConfig, comparison_title
from covjax.errors import InputError
from covjax.jobs.cli import exit_on_input_error, parse
from covjax.notes import note, silence, visible

MAIN_OPTIONS = ("data", "task", "encoder", "layer", "layers", "output", "name", "label_names", "max_length", "rows")


def main(argv: Sequence[str] | None = None, command: str = "covjax compare") -> None:
    """Run the command line under the name it was typed by; see the module's docstring."""
    argv = sys.argv[1:] if argv is None else argv
    from covjax.tasks.configs import CONFIGS, titled  # built of this package's parts

    with exit_on_input_error(command):
        given = {each.split("=")[0] for each in argv}
        if {"--suite", "--distributed"} <= given:
            raise InputError(
                "distributed: the tasks of --suite are jobs of their own; start each with --config and --distributed"
            )
        if "--suite" in given:
            from covjax.tasks import run as suite

            raise SystemExit(suite.main(argv, command))
        config, flags = parse(
            command,
            __doc__ or "",
            CompareConfig,
            argv,
            MAIN_OPTIONS,
            distributed=True,
            built_in=CONFIGS,
            switches={"all": "print all rows"},
        )
        config = titled(config)
        with silence(flags.quiet):
            if not flags.distributed:  # before the seconds that JAX's import takes
                title = comparison_title(config.name, Path(config.data or "").name)
                note(f"{visible(title)}: output {visible(config.output)}")
            from covjax.comparison.compare import compare
            from covjax.jobs.distributed import job

            with job(command, flags.distributed):
                compare(config, force=flags.force, every=flags.all, command=f"{command} {shlex.join(argv)}")


if __name__ == "__main__":
    main()
