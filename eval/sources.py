"""Write one real data set, or `all`, as standard tables.

python -m eval.sources trec --output runs/tables
"""

import argparse
import os
from pathlib import Path

from covjax.jobs.cli import exit_on_input_error
from covjax.jobs.folder import claim
from covjax.sources import SOURCES, write_source

COMMAND = "python -m eval.sources"


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["all", *SOURCES])
    parser.add_argument("--output", type=Path, default=Path("runs/tables"), help="folder of the tables")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("COVJAX_SHARED", "../shared")))
    flags = parser.parse_args()
    with exit_on_input_error(COMMAND):
        names = SOURCES if flags.name == "all" else [flags.name]
        with claim(flags.output, COMMAND):
            for name in names:
                write_source(name, flags.output / f"{name}.csv.gz", flags.shared)


if __name__ == "__main__":
    main()
