"""Numbers that a module computes with and that nobody learns."""

from collections.abc import Callable

from torch import Tensor, nn


class Constants(nn.Module):
    """Its buffers go where a model goes, but keep their precision; no checkpoint holds those that options tell.

    A window rounded to bfloat16 would be another window, and a waveform's logarithms have no use for fewer than 24
    bits: what such a module computes is of float32 at least, whatever the precision of the model.
    """

    def keep(self, name: str, value: Tensor, *, learned: bool = False) -> None:
        """A buffer; of what was `learned` from data, a model goes on with what it was trained with."""
        self.register_buffer(name, value, persistent=learned)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)
