"""Laws of positions."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.interfaces import Grid, Layout
from plugformer.testing.common import Inputs, ModuleSuite, assert_same_dtypes, randomise
from plugformer.testing.comparing import assert_close, noise

TEXT = Grid(("position",), (9,))
PLANE = Grid(("row", "column"), (3, 4))
LARGER = Grid(("row", "column"), (5, 7))


class PositionSuite(ModuleSuite):
    """
    Attributes:
        several: grids that it is tried on together and one by one.
        dim, num_heads: of the model.
    """

    kind = "position"
    several: ClassVar[tuple[Grid, ...]] = (PLANE, TEXT)
    dim: ClassVar[int] = 24
    num_heads: ClassVar[int] = 2

    def new(self, *grids: Grid) -> Any:
        head_dim = self.dim // self.num_heads
        return self.build(dim=self.dim, num_heads=self.num_heads, head_dim=head_dim, grids=grids or self.several)

    def layout(self, *, batch: int = 1) -> Layout:
        """A token that lies nowhere, then every place of every grid."""
        first = Layout.of(self.several[0])
        nowhere = Layout(first.coordinates[:, :1] * 0, torch.full((1, 1), -1), self.several)
        together = Layout.concatenate([nowhere, *map(Layout.of, self.several)])
        coordinates, index = together.coordinates, together.grid_index
        return Layout(coordinates.expand(batch, -1, -1), index.expand(batch, -1), together.grids)

    def inputs(self, batch: int) -> Inputs:
        layout = self.layout(batch=batch)
        x = noise(batch, layout.grid_index.shape[1], self.dim)
        return {"x": x, "coordinates": layout.coordinates, "grid_index": layout.grid_index}

    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        """All three ways at once, as numbers a token."""
        layout = Layout(inputs["coordinates"], inputs["grid_index"], self.several)
        return self.tell(module, inputs["x"], layout)

    def tell(self, position: Any, x: Tensor, layout: Layout) -> Tensor:
        out = position.add(x, layout)
        heads = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        out = out + position.rotate(heads, layout).transpose(1, 2).flatten(2)
        bias = position.bias(layout, layout)
        return out if bias is None else out + (bias @ heads).transpose(1, 2).flatten(2).to(out.dtype)

    def test_keeps_shape_and_dtype(self) -> None:
        assert_same_dtypes(self)

    def test_takes_each_grid_by_itself(self) -> None:
        for grid in self.several:
            x, layout = noise(2, len(grid), self.dim), Layout.of(grid)
            out = self.tell(self.new(grid).eval(), x, layout)
            assert out.shape == x.shape
            assert out.isfinite().all()

    def test_goes_by_coordinates_not_by_order(self) -> None:
        """Tokens in another order, with their coordinates, are told the same; each sample in its own order."""
        position, inputs = self.make(), self.inputs(2)
        length = inputs["x"].shape[1]
        order = torch.stack([torch.randperm(length, generator=torch.Generator().manual_seed(n)) for n in range(2)])
        layout = self.layout(batch=2)
        x = inputs["x"].gather(1, order[..., None].expand(-1, -1, self.dim))
        expected = self.call(position, inputs).gather(1, order[..., None].expand(-1, -1, self.dim))
        assert_close(self.tell(position, x, layout.select(order)), expected)

    def test_tells_nothing_to_tokens_that_lie_nowhere(self) -> None:
        """Neither what is added nor a rotation touches them."""
        position, x, layout = self.make(), self.inputs(2)["x"], self.layout()
        heads = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        assert torch.equal(position.add(x, layout)[:, 0], x[:, 0])
        assert torch.equal(position.rotate(heads, layout)[:, :, 0], heads[:, :, 0])

    def test_gives_a_bias_if_it_says_so(self) -> None:
        position, layout = self.make(), self.layout()
        bias = position.bias(layout, layout)
        assert (bias is not None) == position.adds_bias
        if bias is not None:
            length = layout.grid_index.shape[1]
            assert bias.shape in [(1, heads, length, length) for heads in (1, self.num_heads)]

    def test_tells_the_last_tokens_what_it_tells_the_whole(self) -> None:
        """As when decoding with a cache, where only what is new is told its place."""
        position, x, layout = self.make(), self.inputs(1)["x"], self.layout()
        heads = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        whole = position.bias(layout, layout)
        for new in (1, 5):
            last = layout.last(new)
            assert_close(position.add(x[:, -new:], last), position.add(x, layout)[:, -new:])
            assert_close(position.rotate(heads[:, :, -new:], last), position.rotate(heads, layout)[:, :, -new:])
            if whole is not None:
                assert_close(position.bias(last, layout), whole[:, :, -new:])

    # ------------------------------------------------------------------------------------------ weights of other grids

    def test_keeps_weights_of_its_own_grids(self) -> None:
        """Bit for bit, whether one grid or several."""
        for grids in (self.several, *((grid,) for grid in self.several)):
            weights = randomise(self.new(*grids)).state_dict()
            brought = self.new(*grids).resized(weights, grids)
            assert brought.keys() == weights.keys()
            for name, tensor in weights.items():
                assert torch.equal(brought[name], tensor), f"{name} changed"

    def test_brings_weights_of_another_grid_to_its_own_or_leaves_them(self) -> None:
        """A tensor has the shape of its own then, or is untouched; its own weights have no part in it."""
        weights, own = randomise(self.new(PLANE)).state_dict(), self.new(LARGER)
        brought = own.resized(weights, (PLANE,))
        assert brought.keys() == weights.keys()
        for name, tensor in own.state_dict().items():
            if name in weights and not torch.equal(brought[name], weights[name]):
                assert (brought[name].shape, brought[name].dtype) == (tensor.shape, tensor.dtype), name
        other: Any = randomise(self.new(LARGER), seed=1)
        again = other.resized(weights, (PLANE,))
        assert all(torch.equal(again[name], tensor) for name, tensor in brought.items())

    def test_leaves_weights_of_other_axes(self) -> None:
        weights = randomise(self.new(PLANE)).state_dict()
        brought = self.new(TEXT).resized(weights, (PLANE,))
        assert all(torch.equal(brought[name], tensor) for name, tensor in weights.items())
