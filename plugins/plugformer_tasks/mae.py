"""Hidden tokens by an autoencoder whose encoder sees the others alone."""

from dataclasses import replace
from math import lcm
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import Tokens, TokenSpec, Trunk
from plugformer.nn.backbones import Encoder
from plugformer.nn.blocks import PreNorm
from plugformer.nn.feed_forward import Mlp
from plugformer.nn.full_attention import Full
from plugformer.nn.norms import LayerNorm
from plugformer.nn.positions import Sinusoidal
from plugformer_tasks.hidden_places import HiddenPlaces
from plugformer_tasks.masked_patches import MaskedPatches, MaskVector
from plugformer_tasks.patch_output import PatchOutput
from plugformer_tasks.places import placed, taken


class MaskedAutoencoder(MaskedPatches):
    """Encode the visible tokens alone; a light decoder predicts the hidden ones, raw (He et al. 2022, MAE).

    Which are hidden is drawn anew each time a sample is seen in training, and is always the same in validation. In
    prediction it is the same for all samples of as many tokens. The decoder is of use to this task alone: another one
    that begins from these weights leaves it out.

    Args:
        share: of the tokens that are hidden.
        masking: `random` hides squares, `blocks` rectangles of random size and shape (Bao et al. 2022, BEiT).
        unit: side in tokens of the squares that are hidden at once, or of one of the size of the smallest block; null
            for 1 or 4.
        normalise: whether each token that is to be predicted is brought to mean 0 and deviation 1 first.
        decoder_dim: width of the decoder; null for half the backbone's, or a little more where it must divide.
        decoder_layers: its blocks.
        decoder_heads: attention heads in each.

    Raises:
        UserError: an option out of range.
    """

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        share: float = 0.75,
        masking: Literal["random", "blocks"] = "random",
        unit: int | None = None,
        normalise: bool = True,
        decoder_dim: int | None = None,
        decoder_layers: int = 2,
        decoder_heads: int = 4,
    ) -> None:
        super().__init__()
        width = _width(decoder_dim, dim=dim, tokens=tokens, num_layers=decoder_layers, num_heads=decoder_heads)
        self.targets = HiddenPlaces(grid=tokens.grid, share=share, masking=masking, unit=unit)
        self.narrow = nn.Linear(dim, width)
        self.mask = MaskVector(dim=width)
        self.decoder = make_decoder(tokens, dim=width, num_layers=decoder_layers, num_heads=decoder_heads)
        self.output = PatchOutput(dim=width, tokens=tokens, normalise=normalise)

    def seen(self, length: int) -> int:
        return length - self.targets.number(length)

    def states(
        self, trunk: Trunk, tokens: Tokens, *, hidden: Int[Tensor, "batch hidden"], visible: Int[Tensor, "batch seen"]
    ) -> Float[Tensor, "batch hidden width"]:
        seen = tokens.select(visible.clamp(min=0))
        if tokens.valid is not None:
            seen = replace(seen, valid=visible >= 0)
        encoded = self.narrow(trunk.backbone(seen))
        everywhere = encoded.new_zeros(*tokens.embeddings.shape[:2], encoded.shape[2])
        whole = self.mask(placed(everywhere, visible, encoded), hidden)
        return taken(self.decoder(Tokens(whole, tokens.layout, tokens.valid)), hidden)


def make_decoder(tokens: TokenSpec, *, dim: int, num_layers: int, num_heads: int) -> Encoder:
    """The blocks of a ViT with fixed positions (He et al. 2022, section 3 and appendix A.1)."""

    def make_position(**context: Any) -> Sinusoidal:
        return Sinusoidal(dim=dim, grids=(tokens.grid,))

    return Encoder(
        make_block=PreNorm,
        make_attention=lambda **context: Full(),
        make_norm=LayerNorm,
        make_feed_forward=Mlp,
        make_position=make_position,
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
    )


def _width(asked: int | None, *, dim: int, tokens: TokenSpec, num_layers: int, num_heads: int) -> int:
    """
    Raises:
        UserError: numbers that can't be, or don't divide.
    """
    for name, value in {"decoder_layers": num_layers, "decoder_heads": num_heads}.items():
        if value < 1:
            raise UserError(f"task.{name}={value}: must be at least 1.")
    pairs = 2 * len(tokens.grid.axes)  # each axis has sines and cosines
    divisor = lcm(num_heads, pairs)
    if asked is None:
        return -(-dim // 2 // divisor) * divisor
    if asked < 1 or asked % divisor:
        raise UserError(
            f"task.decoder_dim={asked}: must be divisible by {divisor}, for {num_heads} heads and positions on "
            f"{len(tokens.grid.axes)} axes.\n  Set task.decoder_dim=null for half the backbone's width."
        )
    return asked
