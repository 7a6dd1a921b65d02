"""Type of a question, six classes (TREC), from all-MiniLM-L6-v2.

    python -m eval.compare --config configs/tasks/trec.py

1,500 / 500 questions and the official 500 test questions; training questions that stand among them are left out. Needs
COVJAX_SHARED, or --data with a table of the same columns.

4 minutes on two cores. Test MCC, logistic probe: mean 0.842; chosen on validation log(Σ+εI) 0.947, +0.105 [+0.073,
+0.139]; against the best control, mean + μμᵀ, +0.082 [+0.052, +0.115].
"""

from eval.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole and truncated covariance of 384 features; composition is the bag of words."""
    return CompareConfig(
        name="TREC question type, all-MiniLM-L6-v2",
        source="trec",
        encoder="all-MiniLM-L6-v2",
        composition_k=1,
        max_length=1000,
        sizes=(1500, 500, 500),
        ranks=(16, 32, 64, 90),
        token_budget=8192,
        max_memory_gib=4.0,
        output="runs/trec",
    )
