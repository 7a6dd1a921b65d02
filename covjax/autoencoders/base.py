"""What every autoencoder is, and autoencoders by kind: `make_autoencoder("topk", …)`."""

import inspect
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import check_whole

Metrics = Mapping[str, Float[Array, ""]]


@runtime_checkable
class Autoencoder(Protocol):
    """A Flax NNX module that `covjax.training.autoencoder` can train.

    `examples` says what one training example is: "tokens" (x is (batch, features)) or "sequences" (x is
    (batch, tokens, features) with weights (batch, tokens), 0 on padding).
    """

    examples: str

    def loss(self, x: Array, weights: Array | None = None) -> tuple[Float[Array, ""], Metrics]:
        """Training loss, differentiable by the `nnx.Param`s, and scalars to log (fvu, l0, dead, …)."""

    def project_gradients(self, gradients: Any) -> Any:
        """Change the gradients (an `nnx.State` of the parameters) before the optimiser sees them."""

    def after_step(self, x: Array, weights: Array | None = None) -> None:
        """Update in place, from the last training batch, what is not a parameter (thresholds, counters, norms)."""


@runtime_checkable
class Initialised(Protocol):
    """An autoencoder that looks at data before its first step: a scale, a geometric median, a basis."""

    def initialise(self, batches: Sequence[tuple[Array, Array | None]]) -> None:
        """Set parameters and statistics in place from some training batches (x, weights); called outside `jit`."""


@runtime_checkable
class Evaluated(Protocol):
    """An autoencoder with its own figures for held-out data, which must not depend on the batches.

    Without these methods the loop averages the metrics of `loss` over the batches.
    """

    def evaluate(self, x: Array, weights: Array | None = None) -> Any:
        """Sums over the examples of a batch, a pytree of arrays; sums of several batches are added."""

    def summarise(self, sums: Any) -> Mapping[str, float]:
        """The figures of a data set from its sums."""


_FACTORIES: dict[str, Callable[..., Autoencoder]] = {}
# Every factory has these; everything else in its signature is an option of the kind.
_GIVEN = ("features", "seed")
# What an option of that annotation may be: "False" is a true string, and 3.5 passes for a rank until NumPy sees it.
_PLAIN: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool), "a whole number"),
    float: (lambda value: isinstance(value, numbers.Real) and not isinstance(value, bool), "a number"),
}


def register_autoencoder(kind: str) -> Callable[[Callable[..., Autoencoder]], Callable[..., Autoencoder]]:
    """Register under `kind` a class or function `(features, *, seed, **options)` that makes an `Autoencoder`.

    Raises:
        InputError: the name is taken, or the signature lacks `features` or `seed`.
    """

    def enter(factory: Callable[..., Autoencoder]) -> Callable[..., Autoencoder]:
        if kind in _FACTORIES:
            raise InputError(f"autoencoder {kind!r} is already registered")
        if missing := [name for name in _GIVEN if name not in _parameters(factory)]:
            raise InputError(f"autoencoder {kind!r}: the factory takes no {missing[0]!r}")
        _FACTORIES[kind] = factory
        return factory

    return enter


def autoencoder_kinds() -> tuple[str, ...]:
    """All registered names, sorted."""
    return tuple(sorted(_FACTORIES))


def autoencoder_options(kind: str) -> dict[str, inspect.Parameter]:
    """The options of `make_autoencoder(kind, …)` with their defaults; raises InputError for an unknown name."""
    if kind not in _FACTORIES:
        raise InputError(f"kind: {kind!r} is not known; allowed: {', '.join(autoencoder_kinds())}")
    return {name: parameter for name, parameter in _parameters(_FACTORIES[kind]).items() if name not in _GIVEN}


def source_file(kind: str) -> Path | None:
    """The file that registered a kind; None for covjax's own kinds, or if it is unknown."""
    factory = _FACTORIES[kind]
    function = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    module = sys.modules.get(factory.__module__)
    code = getattr(inspect.unwrap(function), "__code__", None)  # a config file is no module that is known by its name
    name = getattr(module, "__file__", None) or getattr(code, "co_filename", None) or ""
    file = Path(name).resolve()
    return None if not file.is_file() or file.is_relative_to(Path(__file__).parents[1]) else file


def _parameters(factory: Callable) -> dict[str, inspect.Parameter]:
    # The signature of a Flax module's class is that of its metaclass: (*args, **kwargs).
    function = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    return {name: parameter for name, parameter in inspect.signature(function).parameters.items() if name != "self"}


def make_autoencoder(kind: str, features: int, *, seed: int = 0, **options: Any) -> Autoencoder:
    """A new autoencoder of `features`-wide tokens; `seed` sets its initial parameters.

    Raises:
        InputError: unknown name, unknown or missing option, or a bad value; the message lists what is allowed.
    """
    allowed = autoencoder_options(kind)
    check_whole(features, "features", 1)
    check_whole(seed, "seed", 0)
    if unknown := sorted(set(options) - set(allowed)):
        raise InputError(f"{kind}: no option {unknown[0]!r}; allowed: {', '.join(allowed) or 'none'}")
    missing = [name for name, p in allowed.items() if p.default is inspect.Parameter.empty and name not in options]
    if missing:
        raise InputError(f"{kind}: the option {missing[0]!r} is needed; options: {', '.join(allowed)}")
    for name, value in options.items():
        if (wanted := _PLAIN.get(allowed[name].annotation)) and not wanted[0](value):
            raise InputError(f"{kind}: {name} {value!r} is not {wanted[1]}")
    return _FACTORIES[kind](features, seed=seed, **options)
