"""Subjective or objective sentences, from all-MiniLM-L6-v2.

    python -m eval.compare --config configs/tasks/subj.py

1,500 / 500 / 1,000 sentences; those that share eight words in a row stand on one side. Needs COVJAX_SHARED, or
--data with a table of the same columns.

3 minutes on two cores. Test MCC, logistic probe: mean 0.820; chosen on validation log(Σ+εI)
0.848, +0.028 [-0.000, +0.061]; against the best control, mean + μμᵀ, +0.029 [-0.001, +0.061].
"""

from eval.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole and truncated covariance of 384 features; composition is the bag of words."""
    return CompareConfig(
        name="subjectivity, all-MiniLM-L6-v2",
        source="subj",
        encoder="all-MiniLM-L6-v2",
        composition_k=1,
        max_length=1000,
        sizes=(1500, 500, 1000),
        ranks=(16, 32, 64, 90),
        token_budget=8192,
        max_memory_gib=4.0,
        output="runs/subj",
    )
