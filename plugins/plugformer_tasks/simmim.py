"""Masked tokens for continuous tokens: SimMIM."""

from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor

from plugformer.interfaces import Tokens, TokenSpec, Trunk
from plugformer_tasks.grid_masks import Masking
from plugformer_tasks.hidden_places import HiddenPlaces
from plugformer_tasks.masked_patches import MaskedPatches, MaskVector
from plugformer_tasks.patch_output import Loss, PatchOutput
from plugformer_tasks.places import taken


class SimMIM(MaskedPatches):
    """A learned vector stands where tokens are hidden, and a linear map predicts them (Xie et al. 2022).

    Positions come to it in the backbone as to any other token.
    """

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        share: float,
        masking: Masking,
        unit: int | None,
        loss: Loss,
        normalise: bool,
    ) -> None:
        super().__init__()
        self.targets = HiddenPlaces(grid=tokens.grid, share=share, masking=masking, unit=unit)
        self.mask = MaskVector(dim=dim)
        self.output = PatchOutput(dim=dim, tokens=tokens, normalise=normalise, loss=loss)

    def states(
        self, trunk: Trunk, tokens: Tokens, *, hidden: Int[Tensor, "batch hidden"], visible: Int[Tensor, "batch seen"]
    ) -> Float[Tensor, "batch hidden dim"]:
        masked = replace(tokens, embeddings=self.mask(tokens.embeddings, hidden))
        return taken(trunk.backbone(masked), hidden)
