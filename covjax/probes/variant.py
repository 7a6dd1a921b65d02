"""Bilinear readouts, and the probe of a variant from its difference to the reference."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from covjax.errors import DtypeError, InputError
from covjax.inputs import host_array, is_torch
from covjax.pooling.learned import check_sizes, projection
from covjax.projected import projected_moment
from covjax.spectral import spectral_compression
from covjax.tokens import HIGHEST, TokensLike, WeightsLike


class BilinearReadout(nnx.Module):
    """feat_h = a_hᵀ C b_h with C = (XA)ᵀ(XB)/n, everything learned; a pooler of `units` numbers.

    `tied` sets B = A (C symmetric, a_h and b_h still apart); `center` is None or "sequence" (C = AᵀΣB).
    """

    name = "bilinear_readout"
    permutation_invariant = True

    def __init__(
        self,
        features: int,
        rank: int = 32,
        units: int = 128,
        tied: bool = True,
        center: str | None = "sequence",
        seed: int = 0,
    ):
        check_sizes(features=features, rank=rank, units=units)
        if center not in (None, "sequence"):
            raise InputError(f"center must be None or 'sequence', got {center!r}")
        rngs = nnx.Rngs(seed)

        def random(rows: int, columns: int) -> nnx.Param[Array]:
            return nnx.Param(jax.random.normal(rngs.params(), (rows, columns)) / columns**0.5)

        self.left = projection(rngs, features, rank)
        self.right = None if tied else projection(rngs, features, rank)
        self.a, self.b = random(units, rank), random(units, rank)
        self.center = center

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "units"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        right = None if self.right is None else self.right[...]
        c = projected_moment(x, self.left[...], right, weights, center=self.center)
        left = jnp.matmul(self.a[...], c, precision=HIGHEST)
        return jnp.sum(left * self.b[...], axis=1)


DIRECTIONS = ("fwd", "bwd")
NUM_ITERS, EPS = 3, 1e-3  # as published


# Checked below, with a message of its own.
ActivationsLike = Annotated[Any, Float[Array, "batch 2 2 positions features"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VariantProbe:
    """Parameters in PyTorch's layout, x @ weightᵀ + bias; the first axis of the projections is DIRECTIONS.

    Call it on activations (batch, 2 directions, 2 views: variant and reference, positions, features).
    """

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    left: Float[Array, "2 hidden features"]
    left_bias: Float[Array, "2 hidden"]
    right: Float[Array, "2 hidden features"]
    right_bias: Float[Array, "2 hidden"]
    head_left: Float[Array, "units hidden"]
    head_right: Float[Array, "units hidden"]
    out: Float[Array, "2 units"]
    out_bias: Float[Array, "2"]

    def __call__(self, x: ActivationsLike) -> tuple[Float[Array, "batch units"], Float[Array, "batch 2"]]:
        """Embedding and logits, float32 or wider.

        Raises:
            TypeError: `x` is not floating point.
            InputError: `x` has another shape than (batch, 2, 2, positions >= 1, features).
        """
        if is_torch(x) or isinstance(x, list):
            x = host_array(x, "x")  # type: ignore[assignment]
        dtype = getattr(x, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise DtypeError(f"x must be a floating-point array, got {dtype or type(x).__name__}")
        features = self.left.shape[2]
        if x.ndim != 5 or tuple(x.shape[1:3]) != (2, 2) or x.shape[3] < 1 or x.shape[4] != features:
            raise InputError(
                f"x must have shape (batch, 2 directions, 2 views, positions >= 1, {features} features), "
                f"got {tuple(x.shape)}"
            )
        return jax.vmap(self._one)(jnp.asarray(x))

    def _one(self, x):
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        difference = x[:, 0] - x[:, 1]  # (directions, positions, features)

        def project(weight, bias):
            return jnp.einsum("zkd,zhd->zkh", difference, weight, precision=HIGHEST) + bias[:, None]

        left, right = project(self.left, self.left_bias), project(self.right, self.right_bias)
        c = jnp.einsum("zki,zkj->ij", left, right, precision=HIGHEST) / x.shape[2]
        c = spectral_compression(c, NUM_ITERS, EPS)
        embedding = jnp.einsum("ui,ij,uj->u", self.head_left, c, self.head_right, precision=HIGHEST)
        return embedding, jnp.matmul(self.out, embedding, precision=HIGHEST) + self.out_bias


def load_variant_probe(path: str | Path) -> VariantProbe:
    """Read the probe from a safetensors file with tensors in PyTorch's layout, widened to float32.

    Tensors: proj_{left,right}_{fwd,bwd}.weight (hidden, features) and .bias (hidden), head_{left,right}.weight
    (units, hidden), out.weight (2, units), out.bias (2). Features, hidden and units are read off the file.

    Raises:
        InputError: no such file, not safetensors, a tensor that is missing, unexpected, of another shape, not floating
            point or not finite.
    """
    tensors = _read(Path(path))
    first, head = (_tensor(tensors, path, name) for name in ("proj_left_fwd.weight", "head_left.weight"))
    for name, array in (("proj_left_fwd.weight", first), ("head_left.weight", head)):
        if array.ndim != 2 or 0 in array.shape:
            raise InputError(f"{path}: tensor {name} has shape {array.shape}, expected a matrix")
    (hidden, features), units = first.shape, head.shape[0]
    shapes: dict[str, tuple[int, ...]] = {}
    for side in ("left", "right"):
        for direction in DIRECTIONS:
            shapes[f"proj_{side}_{direction}.weight"] = (hidden, features)
            shapes[f"proj_{side}_{direction}.bias"] = (hidden,)
        shapes[f"head_{side}.weight"] = (units, hidden)
    shapes |= {"out.weight": (2, units), "out.bias": (2,)}
    if odd := sorted(set(tensors) - set(shapes)):
        raise InputError(f"{path}: unexpected tensor {odd[0]}; expected {', '.join(shapes)}")
    values = {}
    for name, shape in shapes.items():
        array = _tensor(tensors, path, name)
        if array.shape != shape:
            raise InputError(f"{path}: tensor {name} has shape {array.shape}, expected {shape}")
        values[name] = jnp.asarray(array)

    def both(side: str, kind: str):
        return jnp.stack([values[f"proj_{side}_{direction}.{kind}"] for direction in DIRECTIONS])

    return VariantProbe(
        left=both("left", "weight"),
        left_bias=both("left", "bias"),
        right=both("right", "weight"),
        right_bias=both("right", "bias"),
        head_left=values["head_left.weight"],
        head_right=values["head_right.weight"],
        out=values["out.weight"],
        out_bias=values["out.bias"],
    )


def _read(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="flax") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None


def _tensor(tensors: dict[str, Array], path: str | Path, name: str) -> np.ndarray:
    if name not in tensors:
        raise InputError(f"{path}: tensor {name} is missing")
    array = tensors[name]
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"{path}: tensor {name} is {array.dtype}, expected floating point")
    values = np.asarray(array).astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: tensor {name} holds {int((~np.isfinite(values)).sum())} NaN or infinite values")
    return values
