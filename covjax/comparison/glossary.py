"""The words of a report and what they mean, as `docs/glossary.md` has them; a page shows those that it uses."""

import html
import re

from covjax.comparison.page import Html, escape

WORDS = {
    "token": "a unit that the model reads: a residue, a nucleotide, a piece of a word",
    "encoder": "the frozen foundation model; it gives one vector per token",
    "layer": "the step of the encoder whose output is taken; −1 is the last",
    "feature": "one number of a token's vector; an encoder has d of them",
    "pooler": "a function from the tokens of one sequence to one vector",
    "recipe": "a row of the comparison: it standardises the tokens, fits what the pooler needs, and pools",
    "mean, μ": "the average of the tokens",
    "second moment, M": "the average of x xᵀ over the tokens: which features are large together",
    "covariance, Σ": "M − μμᵀ: the second moment around the mean",
    "spectrum": "the eigenvalues of Σ; √Σ and log(Σ + εI) flatten it, and ε keeps the logarithm finite",
    "co-occurrence": "features being active in the same token, which only Σ and M can see",
    "control": "a pool of the same size that cannot see co-occurrence: μμᵀ, or Σ after each feature is shuffled "
    "across tokens",
    "composition": "counts of letters, k-mers (stretches of k letters) or words; it needs no encoder",
    "probe": "a linear model on pooled vectors, logistic or ridge; its penalty λ keeps weights small",
    "group": "sequences that belong together (near copies, a family) and are never divided by a split",
    "interval": "the range of 95 % of the differences when test groups are drawn again (bootstrap), both rows on "
    "the same draw; with folds it comes from the spread over folds, corrected for shared training sequences",
    "fold": "one of k parts of the data; each is the test set once, while probes are fitted on the rest",
    "AUPRC, AUROC, MCC, R², Fmax": "metrics: the area under the precision-recall curve and the ROC curve; Matthews' "
    "correlation of classes; explained variance; the best F score over thresholds",
    "latent": "one unit of a sparse autoencoder (SAE), active in only a few tokens",
    "FVU": "fraction of variance unexplained: an autoencoder's error over the variance; 0 is perfect",
    "Tucker, CP": "two ways to write many second moments with a few shared directions",
}
# Further spellings in pages, by word; a single Latin letter would stand for too much.
ALSO: dict[str, tuple[str, ...]] = {"spectrum": ("log(Σ", "sqrt Σ", "√Σ"), "latent": ("SAE",), "mean, μ": ("mean",)}


def words_of(markup: str) -> dict[str, str]:
    """The words that the page's text uses, in the order of the glossary."""
    text = html.unescape(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", markup, flags=re.DOTALL))

    def used(word: str) -> bool:
        spellings = [each for each in word.split(", ") if len(each) > 1 or not each.isascii()]
        return any(
            re.search(rf"(?<!\w){re.escape(each)}", text, re.IGNORECASE) for each in (*spellings, *ALSO.get(word, ()))
        )

    return {word: meaning for word, meaning in WORDS.items() if used(word)}


def definitions(markup: str) -> Html:
    """The words of a page's text as a list for its end."""
    items = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in words_of(markup).items())
    return Html(f"<dl>{items}</dl>")
