"""How the commands read their arguments and print their help; imports nothing that takes time."""

import argparse
import re
import sys
import textwrap
from typing import Any, NoReturn

FORM = "auto (SLURM, GKE, Cloud TPU, Open MPI) or HOST:PORT,COUNT,INDEX"  # of --distributed


class _Help(argparse.RawDescriptionHelpFormatter):
    """80 columns whatever the terminal; examples, which are indented, stay as they are."""

    def __init__(self, prog: str):
        super().__init__(prog, width=80, max_help_position=26)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        wrap = textwrap.TextWrapper(width, initial_indent=indent, subsequent_indent=indent)
        return "\n\n".join(each if each.startswith("    ") else wrap.fill(each) for each in paragraphs)


class Parser(argparse.ArgumentParser):
    """argparse with one line for an error, and with values that begin with a minus: `--layers -1,-2`."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As of argparse, which takes for an option what begins with a minus and is not a plain number."""
        given = list(sys.argv[1:] if args is None else args)
        options = self._option_string_actions
        joined: list[str] = []
        while given:
            first = given.pop(0)
            valued = first in options and options[first].nargs != 0
            if valued and options[first].nargs == "?":  # a switch: what follows it may be a file
                first = f"{first}={given.pop(0) if given and given[0].lower() in ('true', 'false') else 'true'}"
            elif valued and given and re.match("-[^-]", given[0]) and given[0] not in options:
                first = f"{first}={given.pop(0)}"
            joined.append(first)
        return super().parse_known_args(joined, namespace)

    def error(self, message: str) -> NoReturn:
        """End the command with one line and status 2."""
        print(f"{self.prog}: error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


class CommandParser(Parser):
    """The parser of a command with the option that all have; its help is 80 columns wide."""

    def __init__(self, command: str, description: str, positional: str = ""):
        usage = " ".join(filter(None, [command, positional, "[options]"]))
        super().__init__(command, usage, description, formatter_class=_Help, allow_abbrev=False)
        self.add_argument("--quiet", action="store_true", help="no progress and no notes; results and errors stay")
