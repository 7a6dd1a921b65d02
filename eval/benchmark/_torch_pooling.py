"""The same statistics in PyTorch, written from the formulas, in two forms. Extra `parity`.

Plain: what the formula reads like and what padded batches need where padding may hold anything, namely the tokens
masked (or centred) first, then one linear map a side. Lean: mask or centre after the projection, the fewest passes over
the tokens that we know of.
"""

import torch  # the caller reaches it as an attribute
from torch.nn.functional import linear


def plain_projected_moment(x, mask, left, right):
    """C = (XA)ᵀ(XB)/n for a padded batch: masked tokens, two linear maps, a batched product."""
    x = x * mask[..., None]
    return torch.bmm(linear(x, left.T).transpose(1, 2), linear(x, right.T)) / mask.sum(1)[:, None, None]


def plain_attention_covariance(x, mask, query, basis):
    """Σ α_i (Aᵀ(x_i − x̄))(Aᵀ(x_i − x̄))ᵀ with α = softmax(x q) over kept tokens: centred tokens, then projected."""
    alpha = torch.softmax(linear(x, query.T)[..., 0].masked_fill(mask == 0, -torch.inf), dim=1)[..., None]
    centred = x - (alpha * x).sum(1, keepdim=True)
    return torch.bmm(linear(alpha * centred, basis.T).transpose(1, 2), linear(centred, basis.T))


def whole_attention_covariance(x, mask, query, basis):
    """The same by its definition: the d × d covariance under α, then AᵀΣA."""
    alpha = torch.softmax(linear(x, query.T)[..., 0].masked_fill(mask == 0, -torch.inf), dim=1)[..., None]
    centred = x - (alpha * x).sum(1, keepdim=True)
    return basis.T @ torch.bmm((alpha * centred).transpose(1, 2), centred) @ basis


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
