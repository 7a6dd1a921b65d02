"""`python -m eval.benchmark NAME [options]`: runs `main(argv)` of the module eval.benchmark.NAME."""

import importlib
import pkgutil
import sys

import eval.benchmark


def names() -> list[str]:
    """Modules of this package that are benchmarks; its sub-package holds what they share."""
    modules = pkgutil.iter_modules(eval.benchmark.__path__)
    return sorted(module.name for module in modules if not module.ispkg and module.name != "__main__")


def main(argv: list[str]) -> int | None:
    """Dispatch; exit status 2 and the list of benchmarks for anything else."""
    if not argv or argv[0] not in names():
        print(f"usage: python -m eval.benchmark {{{','.join(names())}}} [options]", file=sys.stderr)
        return 2
    return importlib.import_module(f"eval.benchmark.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
