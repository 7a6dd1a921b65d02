"""Linear probes on pooled features, both fitted in the same rotated coordinates over the same penalty grid."""

from covjax.probes.attribution import plot_contributions, quadratic_form, token_contributions, top_feature_pairs
from covjax.probes.coordinates import DualProbe, KernelSpace, LinearProbe, RowSpace, Space, kernel_space, row_space
from covjax.probes.end_to_end import TokenProbe, fit_token_probe
from covjax.probes.logistic import LogisticPath, fit_logistic_path, fit_logistic_rows, logistic_path
from covjax.probes.logistic_stream import StreamPath, fit_logistic_stream
from covjax.probes.minibatch import Budget
from covjax.probes.ridge import fit_ridge_moments, fit_ridge_path, ridge_path
from covjax.probes.ridge_blocks import fit_ridge_blocks
from covjax.probes.sparse import SparseProbe, fit_sparse_probe
from covjax.probes.variant import BilinearReadout, VariantProbe, load_variant_probe

__all__ = [
    "BilinearReadout",
    "Budget",
    "DualProbe",
    "KernelSpace",
    "LinearProbe",
    "LogisticPath",
    "RowSpace",
    "Space",
    "SparseProbe",
    "StreamPath",
    "TokenProbe",
    "VariantProbe",
    "fit_logistic_path",
    "fit_logistic_rows",
    "fit_logistic_stream",
    "fit_ridge_blocks",
    "fit_ridge_moments",
    "fit_ridge_path",
    "fit_sparse_probe",
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
