"""Ridge by conjugate gradients for expensive kernels: all penalties and outputs share the products with it.

The dual system of ridge is (HKH + nλs² I) α = Hy, H the centring and s² the mean squared norm of the centred samples.
The residuals of all penalties and outputs, each preconditioned for its own penalty, span the directions of a step; the
product of the kernel with these is asked for once; as a product with more columns costs little more, the images of the
last directions fill a step up (block Krylov). Every system is solved in the span of all directions so far
(Galerkin), which for one penalty and one output is the preconditioned method of Hestenes and Stiefel (1952). The
preconditioner is a Nyström approximation of the kernel, as in Falkon (Rudi, Carratino and Rosasco 2017).
"""

import dataclasses
from collections.abc import Generator, Sequence

import numpy as np
from jaxtyping import Float

from covjax.probes.coordinates import KernelSpace, row_blocks

RESIDUAL = 3e-5  # of the targets' norm, at which a system is solved
_NEW = 1e-6  # share of a candidate outside of the span, below which it is rounding
_INDEPENDENT = 1e-10  # of the largest squared norm, below which a direction is rounding of the others


@dataclasses.dataclass(frozen=True)
class System:
    """A kernel that ridge is solved with: that of the products, plus the inner products of the features `beside` it.

    `square` is the mean squared norm of its centred samples. `landmarks` precondition it: a space of Nyström
    coordinates, and the kernel of the samples with the landmarks, which that space takes.
    """

    square: float
    beside: Float[np.ndarray, "n b"] | None = None
    landmarks: tuple[KernelSpace, Float[np.ndarray, "n m"]] | None = None

    def precondition(self, residual: Float[np.ndarray, "n k"], ridge: float) -> Float[np.ndarray, "n k"]:
        """Nearly (HKH + `ridge` I)⁻¹ `residual`, up to a factor; the columns sum to 0."""
        if self.landmarks is None:
            return residual
        space, kernel = self.landmarks
        square = float(space.scale) ** 2
        shrunk = (square / (ridge + square * len(residual) * space.eigenvalues))[:, None]
        weights = space.dual @ (shrunk * (space.dual.T @ _inner(kernel, residual)))
        return _centred(residual - _product(kernel, weights))


@dataclasses.dataclass(frozen=True)
class Solved:
    """The `directions` of all steps, orthonormal columns that sum to 0, and the relative residuals of every system.

    A residual is the largest over the outputs; a system is solved at a penalty where it is at most `RESIDUAL`.
    """

    directions: Float[np.ndarray, "n c"]
    residuals: Float[np.ndarray, "systems penalties"]
    steps: int


def conjugate_directions(
    systems: Sequence[System],
    targets: Float[np.ndarray, "n k"],
    penalties: Sequence[float],
    columns: int,
    most: int,
) -> Generator[np.ndarray, np.ndarray, Solved]:
    """Yield at most `columns` new directions a step, be sent the kernel's product with them, until all is solved.

    Penalties are relative to each system's `square`. Ends, too, after `most` steps, or where the residuals span no new
    direction; what is not solved then has a residual above `RESIDUAL`.
    """
    y, steps = _unit(targets), 0
    n = len(y)
    space = _Span(n, systems)
    residuals = np.ones((len(systems), len(penalties)))
    rest = {place: y for place in np.ndindex(*residuals.shape)}
    more = _centred(np.random.default_rng(0).normal(size=(n, columns)))
    while steps < most and (residuals > RESIDUAL).any():
        candidates = []
        for (i, j), residual in rest.items():
            if residuals[i, j] > RESIDUAL:
                ridge = n * penalties[j] * systems[i].square
                size = np.linalg.norm(residual)
                direction = systems[i].precondition(_leading(residual, columns), ridge)
                candidates.append(direction * (size / max(float(np.linalg.norm(direction)), np.finfo(float).tiny)))
        new = space.extension(np.concatenate(candidates, axis=1), more, columns)
        if not new.shape[1]:
            break
        image = yield new
        space.extend(new, image)
        steps += 1
        more = systems[0].precondition(_centred(np.asarray(image, np.float64)), n * min(penalties) * systems[0].square)
        for i, system in enumerate(systems):
            ridges = [n * penalty * system.square for penalty in penalties]
            for j, residual in enumerate(space.residuals(i, y, ridges)):
                rest[i, j], residuals[i, j] = residual, _largest(residual)
    return Solved(space.directions, residuals, steps)


def span_residuals(
    directions: Float[np.ndarray, "n c"],
    images: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n k"],
    ridges: Sequence[float],
) -> list[float]:
    """The relative residual of the solution in the span of directions with kernel products `images`, by ridge."""
    images = _centred(np.asarray(images, np.float64))
    inner = _inner(directions, images)
    return [_largest(rest) for rest in _remainders(directions, images, inner, _unit(targets), ridges)]


def _unit(targets: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n outputs"]:
    """Centred targets of norm 1, without those that are constant."""
    y = np.asarray(targets, np.float64) - np.mean(targets, axis=0, dtype=np.float64)
    norms = np.linalg.norm(y, axis=0)
    return y[:, norms > 0] / norms[norms > 0]


def _largest(residual: Float[np.ndarray, "n k"]) -> float:
    return float(np.linalg.norm(residual, axis=0).max(initial=0))


def _remainders(
    directions: Float[np.ndarray, "n c"],
    images: Float[np.ndarray, "n c"],
    inner: Float[np.ndarray, "c c"],
    y: Float[np.ndarray, "n k"],
    ridges: Sequence[float],
) -> list[Float[np.ndarray, "n k"]]:
    """What the solution in the span of directions leaves of y, for every ridge; `inner` is of directions and images."""
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    rotated, out = vectors.T @ _inner(directions, y), []
    for ridge in ridges:
        alpha = vectors @ (rotated / (values + ridge)[:, None])
        out.append(y - _product(images, alpha) - ridge * _product(directions, alpha))
    return out


class _Span:
    """Directions, their images under every system's centred kernel, and the inner products of the two."""

    def __init__(self, n: int, systems: Sequence[System]):
        self.systems, self.directions = systems, np.empty((n, 0), np.float32)
        self.images = [np.empty((n, 0), np.float32) for _ in systems]
        self.inner = [np.empty((0, 0)) for _ in systems]

    def extension(
        self, candidates: Float[np.ndarray, "n c"], more: Float[np.ndarray, "n m"], count: int
    ) -> Float[np.ndarray, "n new"]:
        """At most `count` orthonormal columns outside of the span: those of the candidates, then of `more`."""
        new = _outside(self.directions, candidates, count)
        both = np.concatenate([self.directions, new], axis=1)
        new = np.concatenate([new, _outside(both, more, count - new.shape[1])], axis=1)
        return new.astype(np.float32)

    def extend(self, new: Float[np.ndarray, "n new"], image: Float[np.ndarray, "n new"]) -> None:
        """Add directions and the kernel's product with them."""
        self.directions = np.concatenate([self.directions, new], axis=1)
        for i, system in enumerate(self.systems):
            own = np.asarray(image, np.float64)
            if system.beside is not None:
                own = own + _product(system.beside, _inner(system.beside, new))
            own = _centred(own).astype(np.float32)
            border = _inner(self.directions, own)
            old = len(self.inner[i])
            inner = np.empty((len(border), len(border)))
            inner[:old, :old], inner[:, old:], inner[old:, :old] = self.inner[i], border, border[:old].T
            self.inner[i], self.images[i] = inner, np.concatenate([self.images[i], own], axis=1)

    def residuals(self, system: int, y: Float[np.ndarray, "n k"], ridges: Sequence[float]) -> list[np.ndarray]:
        """The residual of y after the solution in the span, for every ridge."""
        return _remainders(self.directions, self.images[system], self.inner[system], y, ridges)


def _outside(
    directions: Float[np.ndarray, "n c"], columns: Float[np.ndarray, "n k"], count: int
) -> Float[np.ndarray, "n new"]:
    """At most `count` orthonormal columns, outside of the span of directions, that hold most of the columns."""
    before = np.linalg.norm(columns, axis=0)

    def rest(columns):
        return columns - _product(directions, _inner(directions, columns))

    columns = rest(rest(columns))
    columns = columns[:, np.linalg.norm(columns, axis=0) > _NEW * before]
    if not columns.shape[1] or count < 1:
        return np.empty((len(columns), 0))
    values, vectors = np.linalg.eigh(columns.T @ columns)
    keep = np.flatnonzero(values > _INDEPENDENT * values[-1])[::-1][:count]
    new = np.linalg.qr(_centred(columns @ vectors[:, keep]))[0]
    return np.linalg.qr(_centred(rest(new)))[0]


def _leading(residual: Float[np.ndarray, "n k"], count: int) -> Float[np.ndarray, "n c"]:
    """Combinations of the columns that hold most of them, where there are more than `count`."""
    if residual.shape[1] <= count:
        return residual
    return residual @ np.linalg.eigh(residual.T @ residual)[1][:, -count:]


def _centred(columns: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    return columns - columns.mean(0)


def _inner(left: Float[np.ndarray, "n a"], right: Float[np.ndarray, "n b"]) -> Float[np.ndarray, "a b"]:
    """leftᵀ right in float64, a block of rows at a time."""
    out = np.zeros((left.shape[1], right.shape[1]))
    for part in row_blocks(len(left), left.shape[1] + right.shape[1]):
        out += left[part].T.astype(np.float64) @ right[part].astype(np.float64)
    return out


def _product(left: Float[np.ndarray, "n a"], right: Float[np.ndarray, "a b"]) -> Float[np.ndarray, "n b"]:
    """left @ right in float64, a block of rows at a time."""
    out = np.empty((len(left), right.shape[1]))
    for part in row_blocks(*left.shape):
        out[part] = left[part].astype(np.float64) @ right
    return out
