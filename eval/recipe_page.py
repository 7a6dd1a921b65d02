"""The page of recipes and poolers, docs/recipes.md, made from the code's registries and the words below.

python -m eval.recipe_page > docs/recipes.md

Names, titles, roles, options and the poolers' lines come from the code; a recipe without words here is an error.
"""

import re
from typing import NamedTuple

from covjax.pooling.base import _FACTORIES, pooler_options
from covjax.recipes import all_recipes
from covjax.recipes.base import ROLES, Pooled, Recipe, RecipeSettings, Referenced

FEATURES = 64  # width of the encoder whose recipes are listed, so that names which depend on a width are listed too


class Words(NamedTuple):
    """What the code does not say about a recipe; `size` is a formula in d, the encoder's number of features."""

    formula: str
    size: str
    cost: str
    when: str
    source: str = ""


WHOLE = "d(d + 1)/2"
LINEAR, SQUARE, CUBE = "O(nd)", "O(nd²)", "O(nd² + d³)"
AIM = "To see whether a gain of Σ comes from co-occurrence."
RIVAL = "To compare Σ with another kind of pool of the same width."
WORDS = {
    "mean": Words("μ = Σ xᵢ / n", "d", LINEAR, "The usual choice; every other row is compared with it."),
    "mean_std": Words(
        "μ and √(Σ (xᵢ − μ)² / n), side by side",
        "2d",
        LINEAR,
        "Cheap; the strongest first-order row of the quickstart.",
    ),
    "max": Words(
        "the largest value of every feature", "d", LINEAR, "One token decides, such as a motif or a rare word."
    ),
    "first": Words("x₁", "d", LINEAR, "To see how much the first token alone tells."),
    "cls": Words(
        "the token that the model puts before the sequence",
        "d",
        LINEAR,
        "Models whose CLS token was trained to stand for the sequence.",
    ),
    "last": Words("xₙ", "d", LINEAR, "Causal models, whose last token has seen all the others."),
    "sae_mean": Words(
        "mean of a sparse autoencoder's latents", "latents", "O(nd·latents)", "Features that can be interpreted."
    ),
    "sae_max": Words(
        "maximum of a sparse autoencoder's latents",
        "latents",
        "O(nd·latents)",
        "Features that can be interpreted, where one token decides.",
    ),
    "attention": Words(
        "Σ aᵢVᵀxᵢ, a = softmax over tokens of qᵀxᵢ; q and V trained",
        "d",
        SQUARE,
        "Many labelled sequences, and only a few tokens that matter.",
        "Lin et al. 2017",
    ),
    "attention_QUERIES_queries": Words(
        "`attention` with several queries q, side by side",
        "QUERIES·d",
        SQUARE,
        "To compare Σ with an equally wide pool that is trained on the labels.",
    ),
    "light_attention": Words(
        "softmax-weighted mean and maximum of two convolutions",
        "2d to d = 64, then 128",
        "O(nd²) in convolutions",
        "Many labelled sequences, and the place in the sequence matters.",
        "Stärk et al. 2021",
    ),
    "learned_sliced_wasserstein": Words(
        "quantiles along trained directions",
        "512",
        "O(nd·slices)",
        "To compare Σ with another kind of pool.",
        "NaderiAlizadeh and Singh 2025",
    ),
    "regional_mean": Words(
        "means of 4 parts of equal length", "4d", LINEAR, "The place matters, as for splice sites and signal peptides."
    ),
    "dct": Words(
        "first 4 cosine coefficients of every feature's series",
        "4d",
        LINEAR,
        "Features change slowly along the sequence.",
    ),
    "power_means": Words(
        "(Σ xᵢᵖ / n)^(1/p), p = 1, 2, 3, ∞, −∞",
        "5d",
        LINEAR,
        "Each feature's own distribution matters.",
        "Rücklé et al. 2018",
    ),
    "standardised_moments": Words(
        "mean, deviation, skewness, kurtosis",
        "4d",
        LINEAR,
        "Each feature's own distribution matters, described by moments.",
        "Rouvier et al. 2021",
    ),
    "sliced_wasserstein": Words(
        "16 quantiles along 128 random directions",
        "2048",
        "O(nd·slices)",
        "The whole distribution of the tokens matters, and its form is unknown.",
        "NaderiAlizadeh and Singh 2025",
    ),
    "kernel_mean": Words(
        "mean of 1,024 random Fourier features",
        "2048",
        "O(nd·frequencies)",
        "The whole distribution of the tokens matters, compared by a Gaussian kernel.",
        "Rahimi and Recht 2007",
    ),
    "vlad": Words(
        "residuals from the nearest of 32 centres",
        "32d",
        "O(nd·centres)",
        "Tokens form clusters.",
        "Jégou et al. 2012",
    ),
    "fisher_vector": Words(
        "gradient of a mixture's likelihood, 16 components",
        "32d",
        "O(nd·components)",
        "Tokens form clusters; the best rival on the quickstart.",
        "Sánchez et al. 2013",
    ),
    "whitened_mean": Words("(μ − m)ᵀW, W = C^(−½) of all tokens", "d", SQUARE, "Features have very unequal scales."),
    "mean_rbf": Words(
        "μ under a probe with an RBF kernel", "d", LINEAR, "To see whether a richer probe explains a gain."
    ),
    "mean_mlp": Words("μ under a network of 128 units", "d", LINEAR, "To see whether a richer probe explains a gain."),
    "second_moment": Words("M = Σ xᵢxᵢᵀ / n", WHOLE, SQUARE, "Mean and covariance in one matrix."),
    "covariance": Words(
        "Σ = M − μμᵀ",
        WHOLE,
        SQUARE,
        "As a reference for √Σ. A few large directions dominate it; on the quickstart it does no better than the mean.",
        "Torki 2018; Dooms et al. 2026",
    ),
    "sqrt_covariance": Words(
        "(Σ + 10⁻⁶I)^½",
        WHOLE,
        CUBE,
        "Try it first, together with log(Σ + εI); it has no ε to choose.",
        "Li et al. 2017",
    ),
    "log_covariance": Words(
        "log(Σ + εI)",
        WHOLE,
        CUBE,
        "Try it first; the best row on protein function.",
        "Arsigny et al. 2007; Dooms et al. 2026",
    ),
    "sqrt_covariance_COUNT_components": Words(
        "the first principal components of √Σ", "COUNT", CUBE, "Vectors must be small enough to store and search."
    ),
    "log_covariance_COUNT_components": Words(
        "the first principal components of log(Σ + εI)",
        "COUNT",
        CUBE,
        "Vectors must be small enough to store and search.",
    ),
    "mean+sqrt_covariance": Words("μ and √Σ, side by side", f"d + {WHOLE}", CUBE, "The mean also matters."),
    "mean+log_covariance": Words("μ and log(Σ + εI), side by side", f"d + {WHOLE}", CUBE, "The mean also matters."),
    "sae_cooccurrence": Words(
        "means of the products of pairs of latents of one token",
        "pairs",
        "O(nd·latents)",
        "Co-occurrence that can be interpreted.",
    ),
    "projected": Words(
        "upper triangle of AᵀΣA, A trained, with 32 columns",
        "528",
        "O(nd·32)",
        "Small vectors, and many labelled sequences.",
    ),
    "pca_covariance_RANK": Words(
        "AᵀΣA, A the tokens' principal components",
        "RANK(RANK + 1)/2",
        "O(nd·RANK)",
        "Small vectors. On protein function, rank 32 and below were worse than the mean.",
    ),
    "pca_sqrt_covariance_RANK": Words(
        "(AᵀΣA)^½, A the tokens' principal components", "RANK(RANK + 1)/2", "O(nd·RANK)", "Small vectors."
    ),
    "tucker_covariance_RANK": Words(
        "AᵀΣA, A the basis of the exact Tucker autoencoder",
        "RANK(RANK + 1)/2",
        "O(nd·RANK)",
        "Small vectors. On the quickstart it is no better than PCA.",
    ),
    "tucker_sqrt_covariance_RANK": Words(
        "(AᵀΣA)^½, A the basis of the exact Tucker autoencoder", "RANK(RANK + 1)/2", "O(nd·RANK)", "Small vectors."
    ),
    "random_covariance_RANK": Words(
        "AᵀΣA, A random", "RANK(RANK + 1)/2", "O(nd·RANK)", "To see whether fitting a basis is worth it."
    ),
    "random_sqrt_covariance_RANK": Words(
        "(AᵀΣA)^½, A random", "RANK(RANK + 1)/2", "O(nd·RANK)", "To see whether fitting a basis is worth it."
    ),
    "regional_covariance": Words(
        "Σ of 4 parts of equal length", f"4{WHOLE}", SQUARE, "Co-occurrence and place matter."
    ),
    "regional_sqrt_covariance": Words("√Σ of 4 parts", f"4{WHOLE}", CUBE, "Co-occurrence and place matter."),
    "lagged_covariance": Words(
        "mean of (xᵢ − μ)(xᵢ₊₁ − μ)ᵀ", "d²", SQUARE, "Features of neighbouring tokens occur together."
    ),
    "gaussian": Words(
        "([[M, μ], [μᵀ, 1]])^½", "(d + 1)(d + 2)/2", CUBE, "To have μ and Σ in one matrix.", "Wang, Li and Zhang 2017"
    ),
    "signed_sqrt": Words(
        "M, the signed root of each number, unit length", WHOLE, SQUARE, "When √Σ is too slow.", "Lin et al. 2015"
    ),
    "isqrt_covariance": Words(
        "5 Newton–Schulz steps towards √Σ",
        WHOLE,
        CUBE,
        "GPUs and TPUs, since it needs only matrix products.",
        "Li et al. 2018",
    ),
    "whitened_covariance": Words("WᵀΣW, W = (mean Σ)^(−½)", WHOLE, CUBE, "Differences from the average Σ matter."),
    "tangent_space": Words(
        "log(G^(−½)(Σ + εG)G^(−½)), G the log-Euclidean mean",
        WHOLE,
        CUBE,
        "Like log(Σ + εI), but relative to the average.",
        "Barachant et al. 2012; Arsigny et al. 2007",
    ),
    "affine_tangent_space": Words(
        "as `tangent_space`, with G the affine-invariant mean",
        f"{WHOLE} to d = 64, then 2080",
        CUBE,
        "Like `tangent_space`, on at most 64 principal components.",
        "Moakher 2005",
    ),
    "mean_outer": Words("μμᵀ", WHOLE, SQUARE, f"{AIM} It has as many numbers, but no co-occurrence."),
    "mean+mean_outer": Words("μ and μμᵀ, side by side", f"d + {WHOLE}", SQUARE, f"{AIM} The strongest control."),
    "shuffled_covariance": Words("Σ after each feature is shuffled across the tokens", WHOLE, SQUARE, AIM),
    "shuffled_sqrt_covariance": Words("√Σ after each feature is shuffled across the tokens", WHOLE, CUBE, AIM),
    "shuffled_log_covariance": Words("log(Σ + εI) after each feature is shuffled across the tokens", WHOLE, CUBE, AIM),
    "composition": Words(
        "shares of letters, k-mers or words",
        "number of different k-mers",
        "O(n)",
        "Always, to see whether a model is needed at all.",
    ),
    "auto": Words(
        "mean, regional mean, √Σ and log(Σ + εI), mixed in shares chosen on validation",
        f"5d + 2{WHOLE}",
        CUBE,
        "One row for every task; it never counts as evidence.",
    ),
    "auto_COUNT_components": Words(
        "the first principal components of `auto`",
        "COUNT",
        CUBE,
        "One row for every task, with vectors small enough to store.",
    ),
    "sliced_wasserstein_matched": Words(
        "like `sliced_wasserstein`, with more directions", f"about {WHOLE}", "O(nd³)", RIVAL
    ),
    "kernel_mean_matched": Words("like `kernel_mean`, with more frequencies", f"about {WHOLE}", "O(nd³)", RIVAL),
    "vlad_matched": Words("like `vlad`, with more centres", f"about {WHOLE}", SQUARE, RIVAL),
    "fisher_vector_matched": Words("like `fisher_vector`, with more components", f"about {WHOLE}", SQUARE, RIVAL),
}
PLACES = (
    (r"_\d+_components$", "_COUNT_components"),
    (r"_\d+_queries$", "_QUERIES_queries"),
    (r"_\d+$", "_RANK"),
)
HEADINGS = {
    "baseline": "First order and other baselines",
    "second order": "Second order",
    "control": "Controls",
    "composition": "Composition",
    "mixture": "Mixtures",
}
POOLERS = """\
`vech` is the upper triangle of a symmetric matrix as a vector, with its off-diagonal numbers multiplied by √2. w are
the tokens' weights, n is their sum. Options without a default must be given."""
START = """# Recipes and poolers

A *recipe* turns the tokens of a sequence into one vector. Its name goes into `--rows`, `covjax embed --recipe` and
`Embedder(recipe=…)`. A *pooler* is the function at its core; its name goes into `covjax.get_pooler`. The difference:
a recipe first standardises the tokens with the mean and deviation of the training tokens, and fits what the pooler
needs.

x₁ … xₙ are the tokens of a sequence, d is the encoder's number of features, μ and Σ are the mean and covariance of
the tokens, and M = Σ + μμᵀ. Costs are for one sequence, without the encoder. Of a symmetric matrix only the upper
triangle is kept, with its off-diagonal numbers multiplied by √2. For measured values see [results](results.md),
[rivals](rivals.md) and [every pool on every task](suite.md).

`RANK` and `COUNT` stand for any whole number, as in `pca_covariance_16` and `log_covariance_512_components`, `QUERIES`
for 4 or 16. A comparison has the ranks and counts of `--ranks` and `--components`. This page is made by
`python -m eval.recipe_page > docs/recipes.md`.
"""


def key(name: str) -> str:
    """A recipe's name with words in the place of rank, number of queries and components: its entry on the page."""
    for pattern, place in PLACES:
        if re.search(pattern, name):
            return re.sub(pattern, place, name)
    return name


def listed() -> list[Recipe]:
    """Every recipe of an encoder with a known width, the wide and the matched ones among them, once for each entry."""
    wide = RecipeSettings(
        bases=("pca", "tucker", "random"),
        trained=("attention", "light_attention", "projected", "attention_4_queries", "learned_sliced_wasserstein"),
        sae_latents=1024,
        seeds=(0,),
    )
    every = [*all_recipes(wide), *all_recipes(wide, FEATURES)]
    return sorted({key(recipe.name): recipe for recipe in every}.values(), key=lambda r: ROLES.index(r.role))


def numbers(size: str, features: int) -> int | None:
    """The value of a size's formula; None where it is no formula of d alone."""
    text = size.replace("d²", "d*d")
    text = re.sub(r"(\d)(?=[d(])", r"\1*", re.sub(r"d(?=\()", "d*", text))
    text = re.sub(r"\)(?=\()", ")*", text)
    return int(eval(text, {"d": features})) if re.fullmatch(r"[d\d+*/() ]+", text) else None


def recipe_lines(recipe: Recipe) -> list[str]:
    """The entry of one recipe."""
    name = key(recipe.name)
    words = WORDS[name]
    sizes = [numbers(words.size, features) for features in (64, 320, 1280)]
    shown = f" ({', '.join(f'{n:,}' for n in sizes)} at d = 64, 320, 1,280)" if None not in sizes else ""  # type: ignore[str-format]
    lines = [f"### {name}", "", f"- **Formula.** {words.formula}", f"- **Size.** {words.size}{shown}"]
    lines.insert(2, f"- **Name in reports.** {recipe.title if key(recipe.name) == recipe.name else _shown(recipe)}")
    lines += [f"- **Cost.** {words.cost}", f"- **When to use it.** {words.when}"]
    if isinstance(recipe, Referenced):
        fitted = recipe.reference.replace("_", " ").replace("kmeans", "k-means")
        lines.append(f"- **Fitted without labels.** {fitted} of the training tokens")
    if isinstance(recipe, Pooled):
        lines.append(f"- **Pooler.** [`{recipe.pooler}`](#poolers)")
    if words.source:
        lines.append(f"- **Source.** {words.source}")
    if recipe.optional:
        lines.append("- Compared only if `--rows` names it.")
    return [*lines, ""]


def _shown(recipe: Recipe) -> str:
    """The title with the entry's word in the place of its number."""
    word = next(word for word in ("COUNT", "QUERIES", "RANK") if word in key(recipe.name))
    return re.sub(r"\d+", word, recipe.title)


def pooler_row(name: str) -> str:
    """One row of the table of poolers: its options with their defaults, and the first line of its docstring."""
    options = ", ".join(
        key if option.default is option.empty else f"{key}={option.default!r}"
        for key, option in pooler_options(name).items()
    )
    first = (_FACTORIES[name].__doc__ or "").split("\n\n")[0].strip()
    text = re.sub(r"\s+", " ", first).replace("|", "\\|")
    return f"| `{name}` | {f'`{options}`' if options else ''} | {text} |"


def page() -> str:
    """The whole page."""
    lines = [*START.splitlines(), ""]
    recipes = listed()
    for role, heading in HEADINGS.items():
        lines += [f"## {heading}", ""]
        for recipe in recipes:
            lines += recipe_lines(recipe) if recipe.role == role else []
    lines += ["## Poolers", "", POOLERS, "", "| pooler | options | what it gives |"]
    lines += ["|---|---|---|", *(pooler_row(name) for name in sorted(_FACTORIES))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
