"""Contract and registry of poolers: the tokens of one sequence in, one float32 vector of fixed size out."""

import dataclasses
import inspect
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.moments import Moments
from covjax.tokens import TokensLike, WeightsLike, prepare_tokens


@runtime_checkable
class Pooler(Protocol):
    """What every pooler offers: `pooler(tokens, weights)` gives one vector. Use `jax.vmap` for batches.

    A pooler is hashable if it has no parameters, and a Flax NNX module if it has.

    If it needs nothing but the moments of the tokens, it may also have `of_moments` (see `moment_function`).
    """

    @property
    def name(self) -> str:
        """The registered name."""

    @property
    def permutation_invariant(self) -> bool:
        """Whether the vector is the same for every order of the tokens."""

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence; tokens of weight 0 do not exist, a token of weight 2 is a token seen twice."""


@dataclasses.dataclass(frozen=True)
class FunctionPooler:
    """A pooler without parameters: `function(x, w, **options)` on checked, masked float32 tokens.

    `from_moments(moments, **options)` gives the same from the tokens' moments, if that is possible.
    `from_factor(x, w, **options)`, of a pooler that gives the vech of a matrix, is its `factor`.
    """

    name: str
    function: Callable[..., Array]
    permutation_invariant: bool = True
    options: tuple[tuple[str, Hashable], ...] = ()
    from_moments: Callable[..., Array] | None = None
    from_factor: Callable[..., Array] | None = None

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `Pooler`); raises TypeError and InputError like `covjax.moments`."""
        return self.function(*prepare_tokens(x, weights), **dict(self.options))

    @property
    def of_moments(self) -> Callable[[Moments], Array] | None:
        """See `moment_function`."""
        return None if self.from_moments is None else partial(self.from_moments, **dict(self.options))

    def factor(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "features columns"]:
        """F whose FFᵀ is the pooled matrix up to a multiple of I that is the same for all sequences, longest last."""
        assert self.from_factor is not None
        return self.from_factor(*prepare_tokens(x, weights), **dict(self.options))


def moment_function(pooler: Pooler) -> Callable[[Moments], Float[Array, "k"]] | None:
    """The pooler as a function of the tokens' moments; None if it needs the tokens themselves.

    It pools sequences that are too long for memory, whose moments are added up window by window.
    """
    return getattr(pooler, "of_moments", None)


_FACTORIES: dict[str, Callable[..., Pooler]] = {}


def register(name: str) -> Callable[[Callable[..., Pooler]], Callable[..., Pooler]]:
    """Register a factory with keyword-only options under `name`.

    Raises:
        InputError: the name is taken.
    """

    def enter(factory: Callable[..., Pooler]) -> Callable[..., Pooler]:
        if name in _FACTORIES:
            raise InputError(f"pooler {name!r} is already registered")
        _FACTORIES[name] = factory
        return factory

    return enter


def pooler_names() -> tuple[str, ...]:
    """All registered names, sorted."""
    return tuple(sorted(_FACTORIES))


def pooler_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of `get_pooler(name, …)` with their defaults; raises InputError for an unknown name."""
    if name not in _FACTORIES:
        raise InputError(f"unknown pooler {name!r}; allowed: {', '.join(pooler_names())}")
    return dict(inspect.signature(_FACTORIES[name]).parameters)


def get_pooler(name: str, **options: Any) -> Pooler:
    """Make the pooler registered under `name`.

    `covjax.pooling.pooler_options(name)` lists its options with their defaults; docs/recipes.md says what every pooler
    computes, how many numbers it gives and what it costs.

    Raises:
        InputError: unknown name, unknown or missing option, or a bad value; the message lists what is allowed.
    """
    allowed = pooler_options(name)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise InputError(f"pooler {name!r} has no option {unknown[0]!r}; allowed: {', '.join(allowed) or 'none'}")
    missing = [key for key, p in allowed.items() if p.default is inspect.Parameter.empty and key not in options]
    if missing:
        raise InputError(f"pooler {name!r} needs the option {missing[0]!r}; options: {', '.join(allowed)}")
    return _FACTORIES[name](**options)
