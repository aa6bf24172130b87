"""Laws of backbones."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.interfaces import Backbone, Block, Grid, Layout, Memory, Tokens
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
    """The backbone around exact attention and learned positions.

    One that reads two sequences is held to each law with a source beside, and to those of a source.
    """

    kind = "backbone"
    grid: ClassVar[Grid] = Grid(("position",), (9,))
    source_length: ClassVar[int] = 7

    def new(self, **parts: Callable[..., Any]) -> Any:
        """
        Args:
            parts: what makes them, in place of the simplest.
        """
        return self.build(**self.parts() | parts)

    def parts(self) -> dict[str, Callable[..., Any]]:
        """What makes each part of a backbone."""

        def attention(**context: Any) -> Full:
            return Full()

        def position(*, dim: int, **context: Any) -> Learned:
            return Learned(dim=dim, grids=(self.grid,))

        return {
            "make_block": PreNorm,
            "make_attention": attention,
            "make_target_attention": attention,
            "make_cross_attention": attention,
            "make_norm": LayerNorm,
            "make_feed_forward": Mlp,
            "make_position": position,
            "make_target_position": position,
        }

    @cached_property
    def reads_two(self) -> bool:
        """Whether it is a decoder of one sequence beside an encoder of another."""
        return self.new().direction == "encoder_decoder"

    @cached_property
    def dim(self) -> int:
        return self.new().dim

    def tokens(self, x: Tensor, **parts: Any) -> Tokens:
        layout = Layout.of(Grid(self.grid.axes, (x.shape[1],)))
        return Tokens(x, Layout(layout.coordinates, layout.grid_index, (self.grid,)), **parts)

    def inputs(self, batch: int) -> Inputs:
        inputs = {"x": noise(batch, len(self.grid), self.dim)}
        return inputs | {"source": self.source(batch)} if self.reads_two else inputs

    def source(self, batch: int, *, seed: int = 7) -> Tensor:
        return noise(batch, self.source_length, self.dim, seed=seed)

    def memory(self, backbone: Backbone, source: Tensor | None = None, **parts: Any) -> Memory | None:
        """What it makes of a source, by default always the same; None where it reads no other sequence."""
        if not self.reads_two:
            return None
        return backbone.encode(self.tokens(self.source(2) if source is None else source, **parts))

    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        assert isinstance(module, Backbone)
        return module(self.tokens(inputs["x"]), memory=self.memory(module, inputs.get("source")))

    def test_keeps_shape_and_dtype(self) -> None:
        assert_same_dtypes(self)

    def test_sees_what_its_direction_says(self) -> None:
        backbone, x, cut = self.make(), self.inputs(2)["x"], 5
        memory = self.memory(backbone)
        out = backbone(self.tokens(x), memory=memory)
        future = torch.cat([x[:, :cut], 4 * noise(*x[:, cut:].shape, seed=1)], dim=1)
        moved = (backbone(self.tokens(future), memory=memory) - out)[:, :cut].abs().max()
        if backbone.direction == "bidirectional":
            assert moved > 1e-3, "a bidirectional backbone doesn't see what comes after"
        else:
            assert moved == 0, f"a {backbone.direction} backbone sees the future"
        past = torch.cat([noise(*x[:, :cut].shape, seed=1), x[:, cut:]], dim=1)
        moved = (backbone(self.tokens(past), memory=memory) - out)[:, -1].abs().max()
        assert moved > 1e-3, "the last token sees nothing of those before it"

    def test_every_token_sees_the_prefix(self) -> None:
        backbone, x = self.make(), self.inputs(2)["x"]
        applies_if(backbone.direction == "prefix", f"is {backbone.direction}")
        prefix = torch.tensor([4, 4])
        changed = torch.cat([x[:, :3], noise(*x[:, 3:4].shape, seed=1), x[:, 4:]], dim=1)
        moved = (backbone(self.tokens(changed, prefix=prefix)) - backbone(self.tokens(x, prefix=prefix)))[:, 0]
        assert moved.abs().max() > 1e-3

    def test_every_token_sees_all_of_the_source(self) -> None:
        """The first token too, and whichever token of the source it is."""
        applies_if(self.reads_two, "reads one sequence")
        backbone, x, source = self.make(), self.inputs(2)["x"], self.source(2)
        out = backbone(self.tokens(x), memory=self.memory(backbone, source))
        other = self.source(2, seed=8)
        for place in range(self.source_length):
            changed = torch.cat([source[:, :place], other[:, place : place + 1], source[:, place + 1 :]], 1)
            moved = backbone(self.tokens(x), memory=self.memory(backbone, changed)) - out
            assert moved.abs().amax(-1).min() > 1e-4, f"a token doesn't see token {place} of the source"

    def test_padding_changes_nothing(self) -> None:
        """Behind a sequence, or before it: its tokens say where they stand."""
        backbone, tokens, source = self.make(), self.tokens(self.inputs(2)["x"]), self.source(2)
        for padded, real in _padded(tokens):
            together = backbone(padded, memory=self.memory(backbone))
            for row, places in enumerate(real):
                memory = self.memory(backbone, source[row : row + 1])
                alone = backbone(_one(tokens, row).select(places[None]), memory=memory)
                assert_close(together[row : row + 1, places], alone)

    def test_padding_of_the_source_changes_nothing(self) -> None:
        applies_if(self.reads_two, "reads one sequence")
        backbone, tokens, source = self.make(), self.tokens(self.inputs(2)["x"]), self.tokens(self.source(2))
        for padded, real in _padded(source):
            together = backbone(tokens, memory=backbone.encode(padded))
            for row, places in enumerate(real):
                memory = backbone.encode(_one(source, row).select(places[None]))
                assert_close(together[row : row + 1], backbone(_one(tokens, row), memory=memory))

    def test_segments_do_not_see_each_other(self) -> None:
        """Packed documents, of both sequences where there are two; or it refuses them."""
        backbone, x, source, border = self.make(), self.inputs(2)["x"], self.source(2), 5
        of_source = (torch.arange(self.source_length) >= 3).long().expand(2, -1)
        segments = (torch.arange(len(self.grid)) >= border).long().expand(2, -1)

        def out(x: Tensor, source: Tensor) -> Tensor:
            memory = self.memory(backbone, source, segments=of_source)
            return backbone(self.tokens(x, segments=segments), memory=memory)

        changed = torch.cat([x[:, :border], noise(*x[:, border:].shape, seed=1)], dim=1)
        other = torch.cat([source[:, :3], self.source(2, seed=8)[:, 3:]], dim=1)
        try:
            before = out(x, source)
        except AssertionError:
            return applies_if(False, "takes no packed documents")
        assert_close(out(changed, other)[:, :border], before[:, :border])

    def test_steps_are_the_whole(self) -> None:
        backbone, x = self.make(), self.inputs(2)["x"]
        applies_if(backbone.direction in ("causal", "encoder_decoder"), f"is {backbone.direction}")
        state, memory, tokens = Growing(backbone.num_caches), self.memory(backbone), self.tokens(x)
        places = torch.arange(len(self.grid)).expand(2, -1).split([3, *[1] * (len(self.grid) - 3)], dim=1)
        steps = [backbone(tokens.select(place), memory=memory, state=state) for place in places]
        assert_close(torch.cat(steps, dim=1), backbone(tokens, memory=self.memory(backbone)))

    @torch.no_grad()
    def test_sequences_can_share_a_source(self) -> None:
        """Step by step: several for each from the second step on, and then some of these for others."""
        applies_if(self.reads_two, "reads one sequence")
        backbone, x, source, place = self.make(), noise(4, 6, self.dim), self.source(2), torch.arange(6)
        state, memory, rows = Growing(backbone.num_caches), self.memory(backbone, source), torch.tensor([0, 0, 1, 1])
        x[1::2, :3] = x[::2, :3]  # as they begin, two are one

        def step(x: Tensor, first: int, last: int, memory: Memory | None) -> Tensor:
            kept = place[first:last].expand(len(x), -1)
            return backbone(self.tokens(x).select(kept), memory=memory, state=state)

        assert memory is not None
        first = step(x[::2], 0, 3, memory)
        state.select(rows)
        memory = memory.repeat(2)
        second = step(x, 3, 5, memory)
        whole = backbone(self.tokens(x), memory=self.memory(backbone, source[rows]))
        assert_close(torch.cat([first[rows], second], 1), whole[:, :5])
        assert_close(backbone(self.tokens(x), memory=memory), whole)  # from their beginning, too
        chosen = torch.tensor([3, 0, 2])
        state.select(chosen)
        assert_close(step(x[chosen], 5, 6, memory.select(chosen)), whole[chosen, 5:])

    def test_normalises_once(self) -> None:
        """What comes out is normalised, by the last block or after it, not by both."""
        sides = 2 if self.reads_two else 1
        for make_block in (PreNorm, PostNorm):
            backbone = self.new(make_block=make_block).eval()
            blocks = _blocks(backbone)
            applies_if(len(blocks) == backbone.num_layers, "is not made of blocks alone")
            inside = {id(part) for block in blocks for part in block.modules()}
            after = [part for part in backbone.modules() if isinstance(part, LayerNorm) and id(part) not in inside]
            assert len(after) == (0 if make_block.normalised else sides)
            inputs = {key: 10 * value for key, value in self.inputs(2).items()}
            made = [self.call(backbone, inputs)]
            if (memory := self.memory(backbone, inputs.get("source"))) is not None:
                made.append(memory.hidden)
            for out in made:
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
        """And says of each what it is there for."""
        told: dict[str, list[tuple[Full, dict[str, Any]]]] = {}

        def telling(role: str) -> Callable[..., Full]:
            calls = told.setdefault(role, [])

            def make(**context: Any) -> Full:
                calls.append((Full(), context))
                return calls[-1][0]

            return make

        alone = "encoder" if self.new().direction in ("bidirectional", "encoder_decoder") else "decoder"
        backbone = self.new(
            make_attention=telling(alone),
            make_target_attention=telling("decoder"),
            make_cross_attention=telling("cross"),
        )
        for role, calls in told.items():
            mechanisms = backbone.mechanisms().get(role, ())
            assert {id(each) for each in mechanisms} == {id(made) for made, _ in calls}, f"those of the {role}"
            assert sorted({context["layer"] for _, context in calls}) == list(range(len(calls)))
            for _, context in calls:
                assert context["num_heads"] * context["head_dim"] == backbone.dim
                assert context["causal"] == (role == "decoder")

    def test_says_which_parts_it_has_no_use_for(self) -> None:
        """So that whoever chooses one is told."""
        made: set[str] = set()

        def noting(part: str, make: Callable[..., Any]) -> Callable[..., Any]:
            def noted(**context: Any) -> Any:
                made.add(part)
                return make(**context)

            return noted

        backbone = self.build(**{part: noting(part, make) for part, make in self.parts().items()})
        for kind in ("block", "attention", "norm", "feed_forward", "position", "cross_attention"):
            used = not made.isdisjoint({f"make_{kind}", f"make_target_{kind}"})
            applies = kind != "cross_attention" or self.reads_two
            assert not applies or used != (kind in backbone.unused), f"unused: {kind}"


def _blocks(backbone: nn.Module) -> list[Block]:
    return [module for module in backbone.modules() if isinstance(module, Block)]


def _padded(tokens: Tokens) -> Iterator[tuple[Tokens, list[Tensor]]]:
    """With padding in the first of two sequences, behind it or before it; and the places of what is real in each."""
    places = torch.arange(tokens.embeddings.shape[1])
    for first in (places[:4], places[-4:]):
        valid = torch.stack([torch.isin(places, first), torch.ones_like(places).bool()])
        yield replace(tokens, valid=valid), [first, places]


def _one(tokens: Tokens, row: int) -> Tokens:
    return replace(tokens, embeddings=tokens.embeddings[row : row + 1])
