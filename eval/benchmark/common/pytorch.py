"""The same computations in PyTorch: pooling, a sparse autoencoder, and the peer of the device benchmark.

z = TopK(relu((x − b) Wᵉ + bᵉ)) as a dense matrix, x̂ = z W + b, mean squared error summed over features, Adam; the rows
of W are kept at norm 1, with their gradient projected. No auxiliary loss.

Plain: what the formula reads like and what padded batches need where padding may hold anything, namely the tokens
masked (or centred) first, then one linear map a side. Lean: mask or centre after the projection, the fewest passes over
the tokens that we know of.

Products of bfloat16 are added up in float32 and rounded to bfloat16, as PyTorch does.
"""

import functools
from collections.abc import Callable

import jax
import torch  # the caller reaches it as an attribute
from torch.nn.functional import linear


class TopKSAE(torch.nn.Module):
    """Parameters in the layout (features, latents) and (latents, features)."""

    def __init__(self, rows: torch.Tensor, bias: torch.Tensor, k: int):
        super().__init__()
        self.decoder = torch.nn.Parameter(rows.clone())
        self.encoder = torch.nn.Parameter(rows.T.contiguous())
        self.encoder_bias = torch.nn.Parameter(rows.new_zeros(len(rows)))
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


def spectral(kind, matrices, floor):
    """V f(s + floor) Vᵀ of every matrix."""
    s, v = torch.linalg.eigh(matrices)
    values = getattr(torch, kind)(s.clamp(min=0) + floor)
    return (v * values[:, None]) @ v.transpose(1, 2)


class Esm:
    """ESM-2 of transformers in bfloat16 with scaled dot-product attention."""

    def __init__(self, config: dict, weights: dict, where: torch.device):
        from transformers import EsmConfig, EsmModel

        options = {name: value for name, value in config.items() if name != "model_type"}
        options["attn_implementation"] = "sdpa"
        with where:  # what it draws first is replaced: quicker there
            model = EsmModel(EsmConfig(**options), add_pooling_layer=False)
        tensors = {name: torch.from_numpy(array.astype("float32")) for name, array in weights.items()}
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        missing = [name for name in missing if not any(part in name for part in ("inv_freq", "position", "contact"))]
        if unexpected or missing:
            raise ValueError(f"transformers has other tensors: missing {missing[:3]}, unexpected {unexpected[:3]}")
        frequencies = {name: value.clone() for name, value in model.named_buffers() if "inv_freq" in name}
        self.model, self.where = model.eval().to(where, torch.bfloat16), where
        for name, value in frequencies.items():  # bfloat16 would turn them by whole circles
            module, buffer = name.rpartition(".")[::2]
            setattr(model.get_submodule(module), buffer, value.to(where))

    @torch.no_grad()
    def states(self, tokens, mask):
        """The last layer of padded rows, as NumPy."""
        ids, seen = (torch.from_numpy(array.astype("int64")).to(self.where) for array in (tokens, mask))
        return self.model(ids, attention_mask=seen).last_hidden_state.float().cpu().numpy()

    @torch.no_grad()
    def run(self, rows, token_budget: int | None) -> list[torch.Tensor]:
        """Every batch padded to its longest row: as many rows as the budget allows, or 16."""
        results = []
        for batch in _batches(rows, token_budget):
            ids = torch.ones(len(batch), max(map(len, batch)), dtype=torch.int64)
            for i, row in enumerate(batch):
                ids[i, : len(row)] = torch.from_numpy(row.astype("int64"))
            ids = ids.to(self.where)
            results.append(self.model(ids, attention_mask=(ids != 1).long()).last_hidden_state)
        return results


def _batches(rows, token_budget: int | None):
    batch: list = []
    for row in rows:
        longest = max([len(row), *map(len, batch)])
        if batch and (len(batch) == 16 if token_budget is None else (len(batch) + 1) * longest > token_budget):
            yield batch
            batch = []
        batch.append(row)
    yield batch


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


def weighted_projected_moment(x, weights, left):
    """(XA)ᵀ(XA)/n of one sequence, masked tokens 0 after the projection."""
    y = torch.where(weights[:, None] > 0, x @ left, 0)
    return (y.T @ (y * weights[:, None].to(y.dtype))).float() / weights.sum()


def whole_second_moment(x):
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

    def spectral(self, kind: str, matrices: jax.Array, floor: float) -> Callable[[], torch.Tensor]:
        """log or sqrt of A + floor·I by `torch.linalg.eigh`."""
        return functools.partial(spectral, kind, self._tensor(matrices), floor)

    def esm(self, config: dict, weights: dict) -> "Esm":
        """ESM-2 of transformers with the same weights."""
        return Esm(config, weights, self.where)

    def _wraps(self) -> dict[str, Callable]:
        return {"eager": lambda f: f} | ({"torch.compile": torch.compile} if self.compiles else {})

    def _tensor(self, array: jax.Array, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A copy that never passes through the host."""
        return torch.from_dlpack(jax.block_until_ready(array)).to(self.where, dtype, copy=True)
