"""Linear probes on pooled features, both fitted in the same rotated coordinates over the same penalty grid."""

from covjax.probes.logistic import LogisticPath, fit_logistic_path
from covjax.probes.ridge import fit_ridge_path
from covjax.probes.rowspace import LinearProbe, RowSpace, row_space
from covjax.probes.variant import VariantProbe, load_variant_probe

__all__ = [
    "LinearProbe",
    "LogisticPath",
    "RowSpace",
    "VariantProbe",
    "fit_logistic_path",
    "fit_ridge_path",
    "load_variant_probe",
    "row_space",
]
