"""Laws of blocks."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import Block, Cache, Mask, Memory
from plugformer.nn.cache import KeyValueCache
from plugformer.nn.feed_forward import Mlp
from plugformer.nn.full_attention import Full
from plugformer.nn.multi_head import MultiHeadAttention
from plugformer.nn.norms import LayerNorm
from plugformer.nn.positions import NoPosition
from plugformer.testing.common import Inputs, ModuleSuite, assert_same_dtypes, randomise
from plugformer.testing.comparing import applies_if, assert_close, noise


class BlockSuite(ModuleSuite):
    """The block around exact attention, and around attention to an encoder where it crosses."""

    kind = "block"
    dim: ClassVar[int] = 16
    length: ClassVar[int] = 9

    memory_length: ClassVar[int] = 5

    def new(self) -> Any:
        return self.build(**self.parts(), cross_attention=self.heads())

    def parts(self) -> dict[str, Any]:
        """All but attention to an encoder."""
        return {
            "attention": self.heads(),
            "feed_forward": Mlp(dim=self.dim),
            "make_norm": lambda: LayerNorm(dim=self.dim),
            "dropout": 0.5,
        }

    def heads(self) -> MultiHeadAttention:
        return MultiHeadAttention(dim=self.dim, num_heads=2, mechanism=Full(), position=NoPosition())

    def inputs(self, batch: int) -> Inputs:
        inputs = {"x": noise(batch, self.length, self.dim)}
        return inputs | {"memory": self.hidden(batch)} if self.new().crosses else inputs

    def hidden(self, batch: int, *, seed: int = 7) -> Tensor:
        """Of an encoder."""
        return noise(batch, self.memory_length, self.dim, seed=seed)

    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        memory = Memory(inputs["memory"], Mask()) if "memory" in inputs else None
        return module(inputs["x"], Mask(), memory=memory)

    def test_keeps_shape_and_dtype(self) -> None:
        assert_same_dtypes(self)

    def test_passes_the_mask_on(self) -> None:
        block, x = self.make(), self.inputs(2)["x"]
        changed = torch.cat([x[:, :5], noise(2, self.length - 5, self.dim, seed=1)], dim=1)
        valid = (torch.arange(self.length) < 5).expand(2, -1)
        for mask in (Mask(causal=True), Mask(valid=valid)):
            assert torch.equal(block(x, mask)[:, :5], block(changed, mask)[:, :5])
        assert not torch.equal(block(x, Mask())[:, :5], block(changed, Mask())[:, :5])

    def chain(self, blocks: Sequence[Block], x: Tensor, mask: Mask, caches: Sequence[Cache | None]) -> Tensor:
        return type(blocks[0]).chain(blocks, x, mask, memory=self.memory(blocks[0]), caches=caches)

    def memory(self, block: Block) -> Memory | None:
        """Always the same, for two sequences; None where it doesn't cross."""
        return Memory(self.hidden(2).to(next(block.parameters())), Mask()) if block.crosses else None

    def test_a_chain_of_one_is_the_block(self) -> None:
        block, x = self.make(), self.inputs(2)["x"]
        alone = block(x, Mask(causal=True), memory=self.memory(block))
        assert torch.equal(self.chain([block], x, Mask(causal=True), [None]), alone)

    def test_steps_are_the_whole(self) -> None:
        """Of a chain of two blocks."""
        blocks, x, caches = [self.make(0), self.make(1)], self.inputs(2)["x"], [KeyValueCache(), KeyValueCache()]
        steps = [self.chain(blocks, new, Mask(causal=True), caches) for new in x.split([3] + [1] * 6, dim=1)]
        assert_close(torch.cat(steps, dim=1), self.chain(blocks, x, Mask(causal=True), [None, None]))

    def test_gradients_are_those_of_what_it_computes(self) -> None:
        """In training, of a chain of two blocks: a small change of everything changes what comes out as they say."""
        blocks = [self.make(seed).double().train() for seed in range(2)]
        x, into = self.inputs(2)["x"].double().requires_grad_(), noise(2, self.length, self.dim, seed=1).double()
        leaves, step = [x, *(parameter for block in blocks for parameter in block.parameters())], 1e-5
        ways = [noise(*leaf.shape, seed=number).double() for number, leaf in enumerate(leaves)]

        def out() -> Tensor:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # drops the same each time
                return (self.chain(blocks, x, Mask(causal=True), [None, None]) * into).sum()

        gradients = torch.autograd.grad(out(), leaves)
        expected = torch.stack([(gradient * way).sum() for gradient, way in zip(gradients, ways, strict=True)]).sum()
        moved = []
        with torch.no_grad():
            for side in (1, -2):  # from where they were
                for leaf, way in zip(leaves, ways, strict=True):
                    leaf.add_(way, alpha=side * step)
                moved.append(out())
        actual = (moved[0] - moved[1]) / (2 * step)
        assert_close(actual / expected, torch.ones_like(actual), tolerance=1e-4)

    def test_does_not_ignore_a_memory(self) -> None:
        """One without attention to an encoder refuses what an encoder made."""
        block, x = randomise(self.build(**self.parts())).eval(), self.inputs(2)["x"]
        try:
            out = block(x, Mask(), memory=Memory(self.hidden(2), Mask()))
        except (AssertionError, UserError):
            return
        assert not torch.equal(out, block(x, Mask()))

    def test_every_token_sees_what_the_memory_allows(self) -> None:
        """Where it crosses, even if it is causal in itself."""
        block, x, hidden = self.make(), self.inputs(2)["x"], self.hidden(2)
        applies_if(block.crosses, "doesn't cross")
        out = block(x, Mask(causal=True), memory=Memory(hidden, Mask()))
        changed = torch.cat([hidden[:, :3], self.hidden(2, seed=8)[:, 3:]], 1)
        moved = block(x, Mask(causal=True), memory=Memory(changed, Mask())) - out
        assert moved.abs().amax(-1).min() > 1e-4, "a token doesn't see the last of the memory"
        valid = (torch.arange(self.memory_length) < 3).expand(2, -1)
        hidden_part, changed_part = (
            block(x, Mask(causal=True), memory=Memory(each, Mask(valid=valid))) for each in (hidden, changed)
        )
        assert torch.equal(hidden_part, changed_part), "it sees padding of the memory"

    def test_is_normalised_if_it_says_so(self) -> None:
        block, inputs = self.new().eval(), {key: 10 * value for key, value in self.inputs(2).items()}
        out = self.call(block, inputs)
        deviation = max(out.mean(-1).abs().max().item(), (out.std(-1, correction=0) - 1).abs().max().item())
        assert block.normalised == (deviation < 1e-3), f"normalised={block.normalised}, off by {deviation:.1e}"

    def test_drops_in_training_only(self) -> None:
        block, inputs = self.make(), self.inputs(2)
        assert not torch.equal(self.call(block.train(), inputs), self.call(block.eval(), inputs))
