"""The same computations in PyTorch: pooling and a sparse autoencoder.

z = TopK(relu((x − b) Wᵉ + bᵉ)) as a dense matrix, x̂ = z W + b, mean squared error summed over features, Adam; the rows
of W are kept at norm 1, with their gradient projected. No auxiliary loss.

Plain: what the formula reads like and what padded batches need where padding may hold anything, namely the tokens
masked (or centred) first, then one linear map a side. Lean: mask or centre after the projection, the fewest passes over
the tokens that we know of.
"""

import torch  # the caller reaches it as an attribute
from torch.nn.functional import linear


class TopKSAE(torch.nn.Module):
    """Parameters in the layout (features, latents) and (latents, features)."""

    def __init__(self, rows: torch.Tensor, bias: torch.Tensor, k: int):
        super().__init__()
        self.decoder = torch.nn.Parameter(rows.clone())
        self.encoder = torch.nn.Parameter(rows.T.contiguous())
        self.encoder_bias = torch.nn.Parameter(torch.zeros(len(rows)))
        self.decoder_bias = torch.nn.Parameter(bias.clone())
        self.k = k

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Latents of tokens, with their zeros."""
        pre = torch.relu((x - self.decoder_bias) @ self.encoder + self.encoder_bias)
        values, indices = torch.topk(pre, self.k, dim=1)
        return torch.zeros_like(pre).scatter(1, indices, values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstructed tokens."""
        return self.encode(x) @ self.decoder + self.decoder_bias


def train_step(model: TopKSAE, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> torch.Tensor:
    """One step; returns the loss before it, without waiting for it."""
    optimizer.zero_grad(set_to_none=True)
    loss = (model(x) - x).square().sum(1).mean()
    loss.backward()
    with torch.no_grad():
        rows, gradient = model.decoder, model.decoder.grad
        assert gradient is not None
        gradient -= (gradient * rows).sum(1, keepdim=True) * rows
        optimizer.step()
        rows.div_(rows.norm(dim=1, keepdim=True))
    return loss.detach()


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
