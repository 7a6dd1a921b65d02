"""Fields of a config: the help text, what a field decides, and what values it may have, all where it is defined."""

import dataclasses
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


def check_options(config: Any) -> None:
    """Raise InputError naming the first field whose value is not allowed."""
    for field in dataclasses.fields(config):
        allowed = field.metadata.get("allowed")
        value = getattr(config, field.name)
        if allowed is not None and not allowed(value):
            raise InputError(f"{field.name}: {shown(value)} is not allowed; {field.metadata['rule']}")


def decided_by(config: Any, *what: str) -> dict[str, Any]:
    """The fields of a config, with their values, that decide one of `what`."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata.get("decides", NUMBERS) in what
    }
