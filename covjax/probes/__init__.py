"""Linear probes on pooled features, both fitted in the same rotated coordinates over the same penalty grid."""

from covjax.probes.attribution import plot_contributions, quadratic_form, token_contributions, top_feature_pairs
from covjax.probes.bilinear import BilinearReadout
from covjax.probes.dual import fit_ridge_blocks
from covjax.probes.joint import fit_ridge_moments
from covjax.probes.kernelspace import DualProbe, KernelSpace, kernel_space
from covjax.probes.logistic import LogisticPath, fit_logistic_path, logistic_path
from covjax.probes.minibatch import Budget
from covjax.probes.ridge import fit_ridge_path, ridge_path
from covjax.probes.rowspace import LinearProbe, RowSpace, row_space
from covjax.probes.space import Space
from covjax.probes.spread import fit_logistic_rows
from covjax.probes.stream import StreamPath, fit_logistic_stream
from covjax.probes.tokens import TokenProbe, fit_token_probe
from covjax.probes.variant import VariantProbe, load_variant_probe

__all__ = [
    "BilinearReadout",
    "Budget",
    "DualProbe",
    "KernelSpace",
    "LinearProbe",
    "LogisticPath",
    "RowSpace",
    "Space",
    "StreamPath",
    "TokenProbe",
    "VariantProbe",
    "fit_logistic_path",
    "fit_logistic_rows",
    "fit_logistic_stream",
    "fit_ridge_blocks",
    "fit_ridge_moments",
    "fit_ridge_path",
    "fit_token_probe",
    "kernel_space",
    "load_variant_probe",
    "logistic_path",
    "plot_contributions",
    "quadratic_form",
    "ridge_path",
    "row_space",
    "token_contributions",
    "top_feature_pairs",
]
