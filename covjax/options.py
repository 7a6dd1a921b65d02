"""Fields of a config: the help text, what a field decides, and what values it may have, all where it is defined."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from typing import Any

from covjax.errors import InputError, shown

# What another value of a field changes: pooled features; only what is fitted on or computed from them; nothing (names,
# places, limits, and what a digest in the manifest says better).
FEATURES, NUMBERS, NOTHING = "features", "numbers", "nothing"


def option(
    default: Any, text: str, decides: str = NUMBERS, allowed: Callable[[Any], bool] | None = None, rule: str = ""
) -> Any:
    """A dataclass field with its help text, what it `decides`, and a test of its values that `rule` says in words."""
    return dataclasses.field(
        default=default, metadata={"help": text, "decides": decides, "allowed": allowed, "rule": rule}
    )


def at_least(least: float) -> dict[str, Any]:
    """The `allowed` and `rule` of a number with a lower limit: `option(4, "steps", **at_least(1))`."""
    return {"allowed": lambda value: value >= least, "rule": f">= {least}"}


def one_of(*names: str) -> dict[str, Any]:
    """The `allowed` and `rule` of a name: `option("a", "which", **one_of("a", "b"))`."""
    return {"allowed": lambda value: value in names, "rule": " or ".join(names)}


def check_options(config: Any) -> None:
    """Raise InputError naming the first field whose value is of another type than it says, or is not allowed."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        allowed = field.metadata.get("allowed")
        value = getattr(config, field.name)
        if wanted := _misfit(value, hints[field.name]):
            raise InputError(f"{field.name}: {shown(value)} is {type(value).__name__}, {wanted} is needed")
        if allowed is not None and not allowed(value):
            raise InputError(f"{field.name}: {shown(value)} is not allowed; {field.metadata['rule']}")


def _misfit(value: Any, hint: Any) -> str:
    """What a field takes, where the value is not of that kind; else nothing."""
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return "" if any(not _misfit(value, part) for part in parts) else " or ".join(_name(part) for part in parts)
    if typing.get_origin(hint) is tuple:
        kinds = [parts[0]] * len(value) if parts[-1] is ... and isinstance(value, tuple) else parts
        fits = isinstance(value, tuple) and len(value) == len(kinds)
        fits = fits and not any(_misfit(each, kind) for each, kind in zip(value, kinds))
        return "" if fits else f"a tuple of {_name(parts[0])}"
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number and math.isfinite(value) else "a finite number"
    if hint in (int, str, bool, types.NoneType):
        fits = isinstance(value, hint) and (hint is not int or not isinstance(value, bool))
        return "" if fits else _name(hint)
    return ""


def _name(hint: Any) -> str:
    return {int: "a whole number", str: "text", bool: "True or False", types.NoneType: "None"}.get(
        hint, "a finite number"
    )


def decided_by(config: Any, *what: str) -> dict[str, Any]:
    """The fields of a config, with their values, that decide one of `what`."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata.get("decides", NUMBERS) in what
    }
