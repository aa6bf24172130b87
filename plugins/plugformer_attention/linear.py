"""Linear attention."""

from jaxtyping import Bool, Float
from torch import Tensor

from plugformer.interfaces import Attention, Mask
from plugformer_attention.kernel import reference
from plugformer_attention.kernel.attention import CAPABILITIES, advance, attend
from plugformer_attention.kernel.causal import KernelState
from plugformer_attention.kernel.kernels import Kernel


class Linear(Attention):
    """Linear attention with features elu(x) + 1 (Katharopoulos et al. 2020, section 3.2)."""

    capabilities = CAPABILITIES

    def __init__(self) -> None:
        super().__init__()

    def forward(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch heads keys head_dim"],
        v: Float[Tensor, "batch heads keys head_dim"],
        mask: Mask,
        bias: Tensor | None = None,
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        """
        Raises:
            UserError: queries of packed samples and keys of other packed samples.
        """
        return attend(q, k, v, mask, _kernel(q))

    def step(
        self,
        q: Float[Tensor, "batch heads new head_dim"],
        k: Float[Tensor, "batch heads new head_dim"],
        v: Float[Tensor, "batch heads new head_dim"],
        state: KernelState | None,
        valid: Bool[Tensor, "batch new"] | None = None,
    ) -> tuple[Float[Tensor, "batch heads new head_dim"], KernelState]:
        return advance(q, k, v, state, valid, _kernel(q))

    def plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        return reference.attend(q, k, v, mask, _kernel(q))

    exact = plain  # it approximates nothing else


def _kernel(q: Tensor) -> Kernel:
    """Nothing is projected, and nothing scaled."""
    return Kernel("elu", q.new_empty(q.shape[-1], 0), 1.0)
