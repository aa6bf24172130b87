"""How far features are from the kernel that they estimate."""

from collections.abc import Callable

import torch
from torch import Tensor

from plugformer.interfaces import Mask
from plugformer_attention.diagnosing import few_samples, some_queries, visible_rows
from plugformer_attention.kernel.kernels import Kernel
from plugformer_attention.kernel.reference import average, log_scale_and_features

FARTHEST = 100.0  # logarithm of the largest ratio of an estimate to what it estimates that is told


def errors(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
    *,
    kernel: Kernel,
    log_exact: Callable[[Tensor, Tensor], Tensor],
    log_weight: Tensor | None = None,
    factor: float = 1.0,
) -> dict[str, float]:
    """`kernel_error`: how far the weights of the keys that a query sees are from exact ones, relative to their sum, the
    mean over queries. `output_error`: how far what comes out is, relative to its size.

    Args:
        q, k, v, mask: as in `forward`.
        kernel: the estimate.
        log_exact: of float64 queries and keys, the logarithm of what it estimates, `[batch, heads, queries, keys]`.
        log_weight: as in `attend`.
        factor: of the mean product of features that makes it the estimate.
    """
    if mask.start is not None:
        return {}
    q, k, v, mask = few_samples(q.double(), k.double(), v.double(), mask)
    log_weight = None if log_weight is None else log_weight[: len(q)]
    queries, keys = q.shape[2], k.shape[2]
    chosen = some_queries(q, keys, q.device)
    q, visible = q[:, :, chosen], visible_rows(mask, chosen, queries, keys)
    (scale_q, fq), (scale_k, fk) = log_scale_and_features(q, kernel), log_scale_and_features(k, kernel)
    log_true = log_exact(q, k).masked_fill(~visible, float("-inf"))
    top = log_true.amax(-1, keepdim=True).clamp(min=-1e30)  # of the keys that a query sees
    true = (log_true - top).exp()
    scale = (scale_q + scale_k.mT - top).clamp(max=FARTHEST).exp() * visible
    estimate = factor / fq.shape[-1] * (fq @ fk.mT) * scale

    counted = true.sum(-1) > 0
    if not counted.any():
        return {}
    nothing = torch.zeros_like(k[..., :1])
    tiny = torch.finfo(torch.float64).tiny
    exact, found = (average(products, nothing, v, visible, log_weight, tiny)[counted] for products in (true, estimate))
    kernel_error = ((estimate - true).abs().sum(-1) / true.sum(-1))[counted].mean()
    output_error = (found - exact).norm() / exact.norm().clamp(min=tiny)
    return {"kernel_error": float(kernel_error), "output_error": float(output_error)}
