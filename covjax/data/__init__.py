"""Reading labelled sequences and splitting them honestly."""

from covjax.data.splits import align, assign_splits, check_splits, drop_rare
from covjax.data.table import Dataset, read_table

__all__ = ["Dataset", "align", "assign_splits", "check_splits", "drop_rare", "read_table"]
