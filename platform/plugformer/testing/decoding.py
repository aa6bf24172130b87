"""Laws on decoding: token by token, from what is remembered of those before."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from plugformer.interfaces import Mask
from plugformer.nn.cache import KeyValueCache
from plugformer.testing.comparing import applies_if, assert_close, noise
from plugformer.testing.heads import HeadsSuite


class DecodingLaws(HeadsSuite):
    def test_steps_are_the_whole(self) -> None:
        """Prompt and single tokens, each with what is remembered, come out as the whole sequence does."""
        self._decodes()
        for options in self.grains():
            self._compare_steps(self.make(causal=True, **options), None)

    def test_steps_are_the_whole_beside_padding(self) -> None:
        """The same in a batch whose shorter prompt is padded on the left."""
        self._decodes()
        applies_if(self.can.key_padding, "declares that it can't honour padding")
        for options in self.grains():
            self._compare_steps(self.make(causal=True, **options), self._padding())

    def test_goes_on_beyond_its_longest(self) -> None:
        """Past the length that it was made for, steps are the whole as well, unless it refuses such a length."""
        self._decodes()
        for options in self.grains():
            module = self.make(causal=True, max_length=max(8, self.can.min_length), **options)
            if self._refuses(partial(self._whole, module, None)):
                told = "refuses a sequence longer than it was made for, and decodes it all the same"
                assert self._refuses(partial(self._step_by_step, module, None, self._prompts()[-1])), told
            else:
                self._compare_steps(module, None)

    def test_a_step_leaves_what_is_remembered_as_it_was(self) -> None:
        """Two ways to go on from one state come out as if each were the only one."""
        self._decodes()
        applies_if(self.can.decoding == "state", "has no state of its own")
        module, prompt = self.make_causal(), self.heads(self.short)
        ways = [[self.heads(1, seed=seed) for seed in range(first, first + 3)] for first in (1, 4)]
        alone = [self._in_turn(module, prompt, [way])[0] for way in ways]
        for out, expected in zip(self._in_turn(module, prompt, ways), alone, strict=True):
            assert_close(out, expected, what="another way to go on from the same state")

    def test_its_state_keeps_its_size(self) -> None:
        """Every token is worth the same memory: none."""
        self._decodes()
        applies_if(self.can.decoding == "state", "has no state of its own")
        applies_if(not self.can.state_grows, "declares that its state grows")
        module, sizes = self.make_causal(), []
        for length in (self.short, self.short + self.block + 1):
            state = module.step(*self.heads(length), None)[1]
            sizes.append([list(part.shape) for part in tree_leaves(state) if isinstance(part, Tensor)])
        assert sizes[0] == sizes[1], f"its state has the shapes {sizes[0]} and, of a longer sequence, {sizes[1]}"

    def test_sequences_can_be_chosen_while_decoding(self) -> None:
        """As in beam search: in another order, some several times, each goes on as it would have."""
        self._decodes()
        module, length, rows = self.make_causal(), self.short, torch.tensor([1, 0, 1])
        parts, prompt = self.heads(length), max(length - 3, self.can.min_length)
        for valid in (None, self._padding())[: 1 + self.can.key_padding]:
            chosen = [part[rows] for part in parts]
            whole = module(*chosen, self._causal(length, None if valid is None else valid[rows]))
            memory = Memory(self, module)
            memory.step([part[:, :, :prompt] for part in parts], None if valid is None else valid[:, :prompt])
            for part in tree_leaves(memory.cache.state):
                told = f"its state holds a tensor {list(getattr(part, 'shape', []))}, of a batch of {len(parts[0])}"
                first = not isinstance(part, Tensor) or part.shape[:1] == parts[0].shape[:1]
                assert first, f"{told}: the batch must be the first axis"
            memory.select(rows)
            for place in range(prompt, length):
                new = [part[:, :, place : place + 1] for part in chosen]
                out = memory.step(new, None if valid is None else valid[rows, place : place + 1])
                what = f"token {place} of sequences that were chosen"
                assert_close(out, whole[:, :, place : place + 1], what=what)

    def test_sees_nothing_of_room_for_later_tokens(self) -> None:
        """Where a cache of fixed size holds anything behind the queries, they come out as if there were nothing."""
        applies_if(self.can.room, "declares that it can't honour room behind the queries")
        length = self.short
        q, k, v = self.heads(length)
        k, v = (torch.cat([part, 10 * noise(*part.shape, seed=7 + number)], 2) for number, part in enumerate((k, v)))
        for options in self.grains():
            module = self.make(causal=True, **options)
            for valid in (None, self._padding())[: 1 + self.can.key_padding]:
                whole = module(q, k[:, :, :length], v[:, :, :length], self._causal(length, valid))
                longer = None if valid is None else torch.cat([valid, torch.ones_like(valid)], 1)
                for start, count in ((0, 1), (1, 4), (length - 5, 3), (length - 1, 1)):
                    mask, here = (
                        self._causal(2 * length, longer, start=torch.tensor(start)),
                        slice(start, start + count),
                    )
                    out, expected = module(q[:, :, here], k, v, mask), whole[:, :, here]
                    if valid is not None:
                        padding = ~valid[:, None, here, None]
                        out, expected = (each.masked_fill(padding, 0.0) for each in (out, expected))
                    assert_close(out, expected, what=f"{count} queries from place {start} on, with room behind them")

    # ------------------------------------------------------------------------------------------ how it is done

    def _decodes(self) -> None:
        applies_if(self.can.decoding != "none", "declares that it can't decode")

    def _refuses(self, attend: Callable[[], Tensor]) -> bool:
        try:
            attend()
        except Exception:  # in whichever words
            return True
        return False

    def _padding(self) -> Tensor:
        return torch.arange(self.short) >= torch.tensor([[0], [3]])

    def _prompts(self) -> list[int]:
        return sorted({max(prompt, self.can.min_length) for prompt in (1, self.short - 12)})

    def _causal(self, length: int, valid: Tensor | None, **parts: Any) -> Mask:
        return self.mask(length, causal=True, valid=valid, **parts)

    def _whole(self, module: Any, valid: Tensor | None) -> Tensor:
        return module(*self.heads(self.short), self._causal(self.short, valid))

    def _step_by_step(self, module: Any, valid: Tensor | None, prompt: int) -> Tensor:
        steps = [prompt] + [1] * (self.short - prompt)
        parts = zip(*(part.split(steps, dim=2) for part in self.heads(self.short)), strict=True)
        valids = [None] * len(steps) if valid is None else valid.split(steps, dim=1)
        memory = Memory(self, module)
        return torch.cat([memory.step(new, real) for new, real in zip(parts, valids, strict=True)], dim=2)

    def _compare_steps(self, module: Any, valid: Tensor | None) -> None:
        whole = self._whole(module, valid)
        for prompt in self._prompts():
            out, expected = self._step_by_step(module, valid, prompt), whole
            if valid is not None:
                out, expected = (each.masked_fill(~valid[:, None, :, None], 0.0) for each in (out, expected))
            assert_close(out, expected, what=f"prompt of {prompt}")

    def _in_turn(self, module: Any, prompt: Sequence[Tensor], ways: Sequence[Any]) -> list[Tensor]:
        """Several ways to go on, a token of each at a time, from a state for which there may be memory ahead."""
        before = module.step(*(part[:, :, :-1] for part in prompt), None)[1]
        states = [module.step(*(part[:, :, -1:] for part in prompt), before)[1]] * len(ways)
        outputs: list[list[Tensor]] = [[] for _ in ways]
        for tokens in zip(*ways, strict=True):
            for turn, token in enumerate(tokens):
                out, states[turn] = module.step(*token, states[turn])
                outputs[turn].append(out)
        return [torch.cat(out, dim=2) for out in outputs]


class Memory:
    """What is remembered between steps of a mechanism, as its wrapper does it.

    Args:
        suite: of the mechanism.
        module: the mechanism.
    """

    def __init__(self, suite: HeadsSuite, module: Any) -> None:
        self.suite, self.module, self.cache = suite, module, KeyValueCache()
        self.valid: Tensor | None = None
        self.length = 0

    def step(self, parts: Sequence[Tensor], valid: Tensor | None) -> Tensor:
        """Go on with new queries, keys and values, of which these are real."""
        q, k, v = parts
        self.length += q.shape[2]
        if self.suite.can.decoding == "state":
            out, self.cache.state = self.module.step(q, k, v, self.cache.state, valid)
            return out
        if valid is not None:
            self.valid = valid if self.valid is None else torch.cat([self.valid, valid], 1)
        return self.module(q, *self.cache.extend(k, v), self.suite.mask(self.length, causal=True, valid=self.valid))

    def select(self, rows: Tensor) -> None:
        self.cache.select(rows)
        self.valid = None if self.valid is None else self.valid[rows]
