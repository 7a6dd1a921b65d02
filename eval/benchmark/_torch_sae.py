"""A TopK sparse autoencoder in PyTorch, written from the formulas of Gao et al. 2024. Extra `parity`.

z = TopK(relu((x − b) Wᵉ + bᵉ)) as a dense matrix, x̂ = z W + b, mean squared error summed over features, Adam; the rows
of W are kept at norm 1, with their gradient projected. No auxiliary loss.
"""

import torch  # the caller reaches it as an attribute


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
