"""The accelerator benchmark's peer: the same statistics in plain PyTorch, bfloat16 tokens. Extra `parity`.

Products of bfloat16 are added up in float32 and rounded to bfloat16, as PyTorch does.
"""

import functools
from collections.abc import Callable

import jax
import torch

from eval.benchmark._torch import TopKSAE, train_step

Forms = dict[str, Callable[[], torch.Tensor]]


def device(platform: str) -> torch.device | None:
    """PyTorch's name for the device that JAX calls `platform`; None where PyTorch does not see it."""
    if platform == "gpu":
        return torch.device("cuda") if torch.cuda.is_available() else None
    return torch.device("cpu") if platform == "cpu" else None


def wait(_: object) -> None:
    """Until the accelerator has done what was queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def projected_moment(x, weights, left):
    """(XA)ᵀ(XA)/n of one sequence, masked tokens 0 after the projection."""
    y = torch.where(weights[:, None] > 0, x @ left, 0)
    return (y.T @ (y * weights[:, None].to(y.dtype))).float() / weights.sum()


def second_moment(x):
    """XᵀX/n of one sequence."""
    return (x.T @ x).float() / len(x)


def masked_second_moment(x, weights):
    """XᵀX/n of one sequence with masked tokens 0."""
    x = torch.where(weights[:, None] > 0, x, 0)
    return ((x * weights[:, None].to(x.dtype)).T @ x).float() / weights.sum()


def padded_projected_moments(x, mask, left):
    """(XA)ᵀ(XA)/n of every sequence of a padded batch."""
    y = torch.where(mask[..., None], x @ left, 0)
    return torch.bmm(y.transpose(1, 2), y).float() / mask.sum(1)[:, None, None]


def tucker_loss(left, x):
    """‖S − A C Aᵀ‖² − ‖S‖², C = AᵀSA, S = XᵀX/n, through the projected tokens."""
    y = (x @ left.to(x.dtype)).float()
    c, p = y.T @ y / len(x), left.T @ left
    return ((p @ c) * (c @ p)).sum() - 2 * c.square().sum()


class _TuckerStep:
    """Loss, gradient and Adam; calling it takes one step and returns the loss before it."""

    def __init__(self, loss: Callable, left: torch.Tensor, x: torch.Tensor):
        self.left, self.x, self.loss = left.clone().requires_grad_(), x, loss
        self.adam = torch.optim.Adam([self.left], lr=1e-3)

    def __call__(self) -> torch.Tensor:
        self.adam.zero_grad(set_to_none=True)
        loss = torch.stack([self.loss(self.left, x) for x in self.x]).mean()
        loss.backward()
        self.adam.step()
        return loss.detach()


class Peer:
    """Timed forms of every case on copies of our arrays: "eager" and, where asked, "torch.compile"."""

    def __init__(self, where: torch.device, compiles: bool):
        self.where, self.compiles = where, compiles

    def statistic(self, name: str, *arrays: jax.Array) -> Forms:
        """One of this module's functions by name; matrices come as bfloat16, weights as they are."""
        function = globals()[name]
        tensors = [self._tensor(a, torch.bfloat16 if a.ndim > 1 and a.dtype != bool else None) for a in arrays]
        return {form: functools.partial(wrap(function), *tensors) for form, wrap in self._wraps().items()}

    def tucker(self, left: jax.Array, x: jax.Array) -> Forms:
        """Steps of the Tucker loss."""
        tokens = self._tensor(x, torch.bfloat16)
        return {
            form: _TuckerStep(wrap(tucker_loss), self._tensor(left), tokens) for form, wrap in self._wraps().items()
        }

    def sparse(self, rows: jax.Array, k: int, x: jax.Array) -> Forms:
        """Steps of the TopK autoencoder in float32."""
        start, tokens = self._tensor(rows), self._tensor(x, torch.float32)
        steps: Forms = {}
        for form, wrap in self._wraps().items():
            model = TopKSAE(start, torch.zeros(start.shape[1], device=self.where), k)
            adam = torch.optim.Adam(model.parameters(), lr=1e-3)
            steps[form] = functools.partial(train_step, wrap(model), adam, tokens)
        return steps

    def _wraps(self) -> dict[str, Callable]:
        return {"eager": lambda f: f} | ({"torch.compile": torch.compile} if self.compiles else {})

    def _tensor(self, array: jax.Array, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A copy that never passes through the host."""
        return torch.from_dlpack(jax.block_until_ready(array)).to(self.where, dtype, copy=True)
