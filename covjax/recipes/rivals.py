"""Rivals of the standard rows: pools of order, pools of the distribution, and other second-order pools.

Regional means and power means are rows of every comparison; the others are compared if `--rows` names them.
"""

from collections.abc import Iterator

from covjax.recipes.base import (
    BASELINE,
    SECOND_ORDER,
    Options,
    Pooled,
    Probed,
    Recipe,
    RecipeSettings,
    Referenced,
    recipes,
)

BINS = 4
TANGENT_RANK = 64  # the affine-invariant mean iterates over as many matrices as it is of: few components


@recipes
def order(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Pools that know where a token is: a gain that they have too comes from position."""
    bins: Options = (("bins", BINS),)
    root: Options = (("pool", "sqrt_covariance"), ("options", (("ridge", settings.ridge),)))
    yield Pooled(name="regional_mean", title="regional mean", role=BASELINE, pooler="regional", options=bins)
    yield Pooled(name="dct", title="DCT", role=BASELINE, pooler="dct", options=(("k", BINS),), optional=True)
    for name, title, pooler, options in (
        ("regional_covariance", "regional Σ", "regional", (*bins, ("pool", "covariance"))),
        ("regional_sqrt_covariance", "regional sqrt Σ", "regional", (*bins, *root)),
        ("lagged_covariance", "lag-1 covariance", "lagged_covariance", (("lags", (1,)),)),
    ):
        yield Pooled(name=name, title=title, role=SECOND_ORDER, pooler=pooler, options=options, optional=True)


def _referenced(
    role: str, name: str, title: str, pooler: str, options: Options, reference: str, fitting: Options
) -> Referenced:
    return Referenced(
        name=name,
        title=title,
        role=role,
        pooler=pooler,
        options=options,
        reference=reference,
        fitting=fitting,
        optional=True,
    )


@recipes
def distribution(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Pools of the distribution of the tokens, about as wide as the covariance of 64 features if possible."""
    yield Pooled(name="power_means", title="power means", role=BASELINE, pooler="power_means")
    both: Options = (("parts", ("mean_std", "standardised_moments")),)
    slices: Options = (("slices", 128), ("points", 16))
    for name, title, pooler, options in (
        ("standardised_moments", "moments of order 1 to 4", "hybrid", both),
        ("sliced_wasserstein", "sliced Wasserstein", "sliced_wasserstein", slices),
    ):
        yield Pooled(name=name, title=title, role=BASELINE, pooler=pooler, options=options, optional=True)
    for name, title, options, reference, fitting in (
        ("kernel_mean", "kernel mean", (("frequencies", 1024),), "median_distance", ()),
        ("vlad", "VLAD", (), "kmeans", (("count", 32),)),
        ("fisher_vector", "Fisher vector", (), "gaussian_mixture", (("count", 16),)),
        ("whitened_mean", "whitened mean", (), "token_covariance", (("ridge", settings.eps),)),
    ):
        yield _referenced(BASELINE, name, title, name, options, reference, fitting)


@recipes
def matched(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Pools of the distribution as wide as a covariance, d(d + 1)/2 numbers, to within one unit of their own.

    A unit is a frequency (2 numbers), a slice (16), a centre (d) or a component of the mixture (2d). Where the number
    of features is not known yet there are none.
    """
    if features is None:
        return
    width = features * (features + 1) // 2
    slices: Options = (("slices", max(1, width // 16)), ("points", 16))
    yield Pooled(
        name="sliced_wasserstein_matched",
        title="sliced Wasserstein, as wide as Σ",
        role=BASELINE,
        pooler="sliced_wasserstein",
        options=slices,
        optional=True,
    )
    for pooler, title, options, reference, fitting in (
        ("kernel_mean", "kernel mean", (("frequencies", max(1, width // 2)),), "median_distance", ()),
        ("vlad", "VLAD", (), "kmeans", (("count", max(1, width // features)),)),
        ("fisher_vector", "Fisher vector", (), "gaussian_mixture", (("count", max(1, width // (2 * features))),)),
    ):
        title = f"{title}, as wide as Σ"
        yield _referenced(BASELINE, f"{pooler}_matched", title, pooler, options, reference, fitting)


@recipes
def richer_probes(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """The mean with nonlinear probes: a gain that they have too comes from a richer probe, not from second order."""
    for kind, title in (("rbf", "mean, RBF kernel"), ("mlp", "mean, MLP")):
        yield Probed(name=f"mean_{kind}", title=title, role=BASELINE, part="mean", probe=kind, optional=True)


@recipes
def second_order(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Other normalisations of a second moment."""
    ridge: Options = (("ridge", settings.ridge),)
    eps: Options = (("eps", settings.eps),)
    for name, title, options in (
        ("gaussian", "Gaussian", ridge),
        ("signed_sqrt", "bilinear, signed sqrt", ()),
        ("isqrt_covariance", "iSQRT-COV", ridge),
    ):
        yield Pooled(name=name, title=title, role=SECOND_ORDER, pooler=name, options=options, optional=True)
    for name, title, pooler, options, reference, fitting in (
        ("whitened_covariance", "whitened Σ", "whitened_covariance", (), "mean_covariance", (("ridge", settings.eps),)),
        ("tangent_space", "tangent space", "tangent_space", eps, "log_euclidean_mean", eps),
        (
            "affine_tangent_space",
            "tangent space, affine-invariant",
            "tangent_space",
            eps,
            "frechet_mean",
            (*eps, ("rank", TANGENT_RANK)),
        ),
    ):
        yield _referenced(SECOND_ORDER, name, title, pooler, options, reference, fitting)
