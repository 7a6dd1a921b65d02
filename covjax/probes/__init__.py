"""Linear probes on pooled features, both fitted in the same rotated coordinates over the same penalty grid."""

from covjax.probes.logistic import LogisticPath, fit_logistic_path
from covjax.probes.ridge import fit_ridge_path
from covjax.probes.rowspace import LinearProbe, RowSpace, row_space

__all__ = ["LinearProbe", "LogisticPath", "RowSpace", "fit_logistic_path", "fit_ridge_path", "row_space"]
