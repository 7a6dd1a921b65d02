"""The command `covjax`: one name for everything that a person can do with the library, from any folder."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

# Name → the function that takes the arguments after it, imported when it is called, and one line of help.
COMMANDS = {
    "compare": ("covjax.comparison.command:main", "compare all pools on a table of labelled sequences"),
    "embed": ("covjax.embedding_command:embed_main", "write one embedding for every sequence of a file"),
    "predict": ("covjax.embedding_command:predict_main", "apply the model of a comparison to new sequences"),
    "explain": ("covjax.explanation.command:main", "show on a page what a model's score comes from"),
    "dashboard": ("covjax.dashboards.command:main", "show on a page what an autoencoder's latents are active on"),
    "extract": ("covjax.extraction.command:main", "pool many sequences, resumable; can also keep tokens"),
    "train": ("covjax.autoencoder_command:main", "train an autoencoder on token activations, or a sweep of them"),
    "train encoder": ("covjax.training.command:main", "train a small language model on a genome or on proteins"),
    "tasks": ("covjax.tasks.run:main", "list the built-in tasks, or compare pools on them"),
    "info": ("covjax.info:main", "list versions, devices, encoders, extras, and what is missing"),
}
ALIASES = {"train autoencoder": "train"}
EXAMPLES = (
    "covjax info",
    "covjax compare --config quickstart",
    "covjax compare my.csv --output runs/mine",
    "covjax compare --help",
)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run a sub-command, or print the help or the version; exit status 2 and one line for an unknown command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    quiet = ["--quiet"] if argv[:1] == ["--quiet"] else []
    name, *rest = argv[len(quiet) :] or ["--help"]
    if name in ("-h", "--help"):
        print(help_text())
    elif name == "--version":
        from covjax import __version__

        print(f"covjax {__version__}")
    elif name in COMMANDS:
        if rest and (both := f"{name} {rest[0]}") in (*COMMANDS, *ALIASES):
            name, rest = ALIASES.get(both, both), rest[1:]
        module, function = COMMANDS[name][0].split(":")
        return getattr(importlib.import_module(module), function)([*rest, *quiet])
    else:
        _refuse(name)
    return None


def help_text() -> str:
    """What `covjax --help` prints."""
    return "\n".join(
        [
            "usage: covjax COMMAND [options]",
            "",
            "Second-moment (covariance) pooling of frozen foundation-model embeddings.",
            "",
            *(f"    {example}" for example in EXAMPLES),
            "",
            "commands:",
            *(f"  {name:<14}{text}" for name, (_, text) in COMMANDS.items()),
            "",
            "options:",
            "  --help    this text; after a command: its options",
            "  --version version of covjax",
            "  --quiet   no progress and no notes; results and errors stay",
        ]
    )


def _refuse(name: str) -> NoReturn:
    kind = "option" if name.startswith("-") else "command"
    near = difflib.get_close_matches(name, [*COMMANDS, "--help", "--version", "--quiet"], 1)
    guess = f"; did you mean {near[0]}?" if near else ""
    shown = name if len(name) <= 100 else f"{name[:100]}…"
    print(f"covjax: error: unknown {kind} {shown!r}{guess} (see covjax --help)", file=sys.stderr)
    raise SystemExit(2)
