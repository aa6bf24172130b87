"""What kernel attention computes, by the plainest means: dense products of features, in double precision."""

import torch
from torch import Tensor

from plugformer.interfaces import Mask
from plugformer_attention.kernel.attention import refuse_packed_memory
from plugformer_attention.kernel.kernels import Kernel, away_from_zero


def log_scale_and_features(x: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """φ(x) as `[..., tokens, 1]` and `[..., tokens, features]`, whose product with e^(the first) it is."""
    x = x.double() * kernel.temperature**0.5
    logits, norm = x @ kernel.projection.double(), x.square().sum(-1, keepdim=True) / 2
    nothing = torch.zeros_like(norm)
    if kernel.features == "positive":
        largest = logits.amax(-1, keepdim=True).detach()
        return largest - norm, (logits - largest).exp()
    if kernel.features in ("trigonometric", "gaussian"):
        waves = torch.cat([logits.sin(), logits.cos()], -1) * 2**0.5
        return norm if kernel.features == "trigonometric" else nothing, waves
    if kernel.features == "relu":
        return nothing, logits.relu()
    assert kernel.features == "elu"
    return nothing, torch.nn.functional.elu(x) + 1


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, kernel: Kernel, log_weight: Tensor | None = None) -> Tensor:
    """Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j) over the keys that a query sees."""
    (_, fq), (scale, fk) = log_scale_and_features(q, kernel), log_scale_and_features(k, kernel)
    products = fq @ fk.mT
    if kernel.features in ("trigonometric", "gaussian"):
        products = products / fq.shape[-1]
    return average(products, scale, v, _dense(mask, products), log_weight, kernel.map.smallest).to(q.dtype)


def attend_exactly(q: Tensor, k: Tensor, v: Tensor, mask: Mask, features: str, log_weight: Tensor | None) -> Tensor:
    """The same with the kernel that Gaussian or rectified features estimate."""
    products, scale = exact_products(q, k, features), torch.zeros_like(k[..., :1], dtype=torch.float64)
    return average(products, scale, v, _dense(mask, products), log_weight, 1e-20).to(v.dtype)


def exact_products(q: Tensor, k: Tensor, features: str) -> Tensor:
    """The kernel itself."""
    q, k = q.double(), k.double()
    if features == "gaussian":
        return (-torch.cdist(q, k).square() / 2).exp()
    # Of the first order (Cho and Saul 2009, equation 6).
    lengths = q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :]
    cosine = (q @ k.mT / lengths).clamp(-1, 1)
    return lengths * ((1 - cosine.square()).sqrt() + (torch.pi - cosine.arccos()) * cosine)


def _dense(mask: Mask, products: Tensor) -> Tensor | None:
    refuse_packed_memory(mask)
    return mask.dense(products.shape[2], products.shape[3], products.device)


def average(
    products: Tensor, scale: Tensor, v: Tensor, visible: Tensor | None, log_weight: Tensor | None, smallest: float
) -> Tensor:
    """Of the values of visible keys, by weights `products · e^scale`."""
    logs = scale.mT if log_weight is None else scale.mT + log_weight.unsqueeze(-2)
    logs = logs.expand_as(products)
    if visible is not None:
        logs = logs.masked_fill(~visible, float("-inf"))
    weights = products * (logs - logs.amax(-1, keepdim=True).detach().clamp_min(-1e30)).exp()
    return weights @ v.double() / away_from_zero(weights.sum(-1, keepdim=True), smallest)


def kernel(q: Tensor, k: Tensor, kernel: Kernel) -> Tensor:
    """φ(q)·φ(k), of which the mean over draws is exp(τ q·k)."""
    (scale_q, fq), (scale_k, fk) = log_scale_and_features(q, kernel), log_scale_and_features(k, kernel)
    return (fq @ fk.mT * (scale_q + scale_k.mT).exp() / fq.shape[-1]).to(q.dtype)
