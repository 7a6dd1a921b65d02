"""How the annotations of covjax are checked in every test run: by beartype, with NumPy's scalars taken for numbers."""

from collections.abc import Callable
from typing import Any

import beartype
import numpy as np

_check = beartype.beartype(
    conf=beartype.BeartypeConf(
        hint_overrides=beartype.FrozenDict(
            {
                bool: bool | np.bool_,
                int: int | np.integer,
                float: float | int | np.floating | np.integer,
            }
        )
    )
)
_checks: dict[tuple, Callable[..., Any]] = {}


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The check of a signature; jaxtyping calls it with functions that it makes of signatures alone, without a body.

    A function inside another is defined at every call of that one, and making its check takes a millisecond: equal
    signatures share one.
    """
    key = function.__module__, function.__qualname__, function.__code__, *function.__annotations__.items()
    if key not in _checks:
        _checks[key] = _check(function)
    return _checks[key]
