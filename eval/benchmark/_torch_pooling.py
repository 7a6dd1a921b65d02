"""The same statistics in plain PyTorch, written from the formulas: what a careful user would write. Extra `parity`."""

import torch  # the caller reaches it as an attribute


def projected_moment(x, mask, left, right):
    """C = (XA)ᵀ(XB)/n for a padded batch: two linear maps, a mask, a batched product."""
    a = (x @ left) * mask[..., None]
    b = x @ right
    return a.transpose(1, 2) @ b / mask.sum(1)[:, None, None]


def projected_moments_one_by_one(sequences, left, right):
    """The same for ragged sequences, one at a time: no padding."""
    return [(x @ left).T @ (x @ right) / len(x) for x in sequences]


def attention_covariance(x, mask, query, basis):
    """Σ α_i (y_i − ȳ)(y_i − ȳ)ᵀ with α = softmax(x q) over kept tokens and y = Aᵀx."""
    logits = (x @ query)[..., 0].masked_fill(mask == 0, -torch.inf)
    alpha = torch.softmax(logits, dim=1)
    y = x @ basis
    deviation = y - torch.einsum("bt,btr->br", alpha, y)[:, None]
    return torch.einsum("bt,bti,btj->bij", alpha, deviation, deviation)


def second_moment(x, mask):
    """XᵀX/n, d × d."""
    return (x * mask[..., None]).transpose(1, 2) @ x / mask.sum(1)[:, None, None]
