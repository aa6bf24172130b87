"""Laws of backbones."""

from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.interfaces import Block, Grid, Layout, Tokens
from plugformer.nn.blocks import PostNorm, PreNorm
from plugformer.nn.cache import Growing
from plugformer.nn.feed_forward import Mlp
from plugformer.nn.full_attention import Full
from plugformer.nn.initialise import initialise
from plugformer.nn.norms import LayerNorm
from plugformer.nn.positions import Learned
from plugformer.testing.common import Inputs, ModuleSuite, assert_same_dtypes
from plugformer.testing.comparing import applies_if, assert_close, noise


class BackboneSuite(ModuleSuite):
    """The backbone around exact attention and learned positions."""

    kind = "backbone"
    grid: ClassVar[Grid] = Grid(("position",), (9,))

    def new(self, *, make_block: Any = PreNorm, make_attention: Any = lambda **context: Full()) -> Any:
        return self.build(
            make_block=make_block,
            make_attention=make_attention,
            make_norm=LayerNorm,
            make_feed_forward=Mlp,
            make_position=lambda *, dim, **context: Learned(dim=dim, grids=(self.grid,)),
        )

    @cached_property
    def dim(self) -> int:
        return self.new().dim

    def tokens(self, x: Tensor, **parts: Any) -> Tokens:
        layout = Layout.of(Grid(self.grid.axes, (x.shape[1],)))
        return Tokens(x, Layout(layout.coordinates, layout.grid_index, (self.grid,)), **parts)

    def inputs(self, batch: int) -> Inputs:
        return {"x": noise(batch, len(self.grid), self.dim)}

    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        return module(self.tokens(inputs["x"]))

    def test_keeps_shape_and_dtype(self) -> None:
        assert_same_dtypes(self)

    def test_sees_what_its_direction_says(self) -> None:
        backbone, x, cut = self.make(), self.inputs(2)["x"], 5
        future = torch.cat([x[:, :cut], 4 * noise(*x[:, cut:].shape, seed=1)], dim=1)
        moved = (backbone(self.tokens(future)) - backbone(self.tokens(x)))[:, :cut].abs().max()
        if backbone.direction in ("causal", "prefix"):
            assert moved == 0, f"a {backbone.direction} backbone sees the future"
        else:
            assert moved > 1e-3, f"a {backbone.direction} backbone doesn't see what comes after"
        past = torch.cat([noise(*x[:, :cut].shape, seed=1), x[:, cut:]], dim=1)
        moved = (backbone(self.tokens(past)) - backbone(self.tokens(x)))[:, -1].abs().max()
        assert moved > 1e-3, "the last token sees nothing of those before it"

    def test_every_token_sees_the_prefix(self) -> None:
        backbone, x = self.make(), self.inputs(2)["x"]
        applies_if(backbone.direction == "prefix", f"is {backbone.direction}")
        prefix = torch.tensor([4, 4])
        changed = torch.cat([x[:, :3], noise(*x[:, 3:4].shape, seed=1), x[:, 4:]], dim=1)
        moved = (backbone(self.tokens(changed, prefix=prefix)) - backbone(self.tokens(x, prefix=prefix)))[:, 0]
        assert moved.abs().max() > 1e-3

    def test_padding_changes_nothing(self) -> None:
        backbone, x, real = self.make(), self.inputs(2)["x"], 6
        alone = backbone(self.tokens(x[:1, :real]))
        valid = torch.arange(len(self.grid)) < torch.tensor([[real], [len(self.grid)]])
        together = backbone(self.tokens(x, valid=valid))
        assert_close(together[:1, :real], alone)
        assert_close(together[1:], backbone(self.tokens(x[1:])))

    def test_segments_do_not_see_each_other(self) -> None:
        backbone, x, border = self.make(), self.inputs(1)["x"], 5
        segments = (torch.arange(len(self.grid)) >= border).long()[None]
        changed = torch.cat([x[:, :border], noise(*x[:, border:].shape, seed=1)], dim=1)
        out, other = (backbone(self.tokens(part, segments=segments)) for part in (x, changed))
        assert_close(other[:, :border], out[:, :border])

    def test_steps_are_the_whole(self) -> None:
        backbone, x = self.make(), self.inputs(2)["x"]
        applies_if(backbone.direction == "causal", f"is {backbone.direction}")
        state = Growing(backbone.num_layers)
        tokens = self.tokens(x)
        places = torch.arange(len(self.grid)).expand(2, -1).split(1, dim=1)
        steps = [backbone(tokens.select(place), state=state) for place in places]
        assert_close(torch.cat(steps, dim=1), backbone(tokens))

    def test_normalises_once(self) -> None:
        """What comes out is normalised, by the last block or after it, not by both."""
        for make_block in (PreNorm, PostNorm):
            backbone = self.new(make_block=make_block).eval()
            inside = {id(part) for block in _blocks(backbone) for part in block.modules()}
            after = [part for part in backbone.modules() if isinstance(part, LayerNorm) and id(part) not in inside]
            assert len(after) == (0 if make_block.normalised else 1)
            out = self.call(backbone, {"x": 10 * self.inputs(2)["x"]})
            assert_close(out.std(-1, correction=0), torch.ones(out.shape[:2]), tolerance=1e-3)

    def test_blocks_start_from_different_weights(self) -> None:
        """As far as they are drawn, that is, change with the seed."""
        backbone, other = self.new(), self.new()
        initialise(backbone, seed=0)
        initialise(other, seed=1)
        pairs = zip(backbone.parameters(), other.parameters(), strict=True)
        drawn = {id(parameter) for parameter, its in pairs if not torch.equal(parameter, its)}
        every = [module for _, module in backbone.named_modules(remove_duplicate=False) if isinstance(module, Block)]
        for first, second in combinations(every, 2):
            theirs = dict(second.named_parameters())
            for name, parameter in first.named_parameters():
                same = name in theirs and torch.equal(parameter, theirs[name])
                assert not (same and id(parameter) in drawn), f"two blocks start from the same {name}"

    def test_tells_each_mechanism_what_the_core_knows(self) -> None:
        told: list[dict[str, Any]] = []

        def make_attention(**context: Any) -> Full:
            told.append(context)
            return Full()

        backbone = self.new(make_attention=make_attention)
        assert sorted({context["layer"] for context in told}) == list(range(len(_blocks(backbone))))
        for context in told:
            assert context["num_heads"] * context["head_dim"] == backbone.dim
            if backbone.direction != "encoder_decoder":
                assert context["causal"] == (backbone.direction != "bidirectional")


def _blocks(backbone: nn.Module) -> list[Block]:
    return [module for module in backbone.modules() if isinstance(module, Block)]
