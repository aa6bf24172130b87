"""Minimal replicas of faults that public implementations of attention have had, each beside the same thing mended."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plugformer.interfaces import Attention, Capabilities, Mask
from plugformer.nn.initialise import seed_for
from plugformer.nn.replay import decide


class Dense(Attention):
    """Softmax attention by one large matrix."""

    capabilities = Capabilities(causality="strict", key_padding=True, segments=True)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        return self.exact(q, k, v, mask)


class IgnoresCausal(Dense):
    """Accepts a causal mask and forgets it, as linformer, lambda and orthoformer of xFormers did."""

    def forward(self, q, k, v, mask):
        return self.exact(q, k, v, Mask(valid=mask.valid, segments=mask.segments))


class DropsTheMask(Dense):
    """A registered function that is handed no mask at all, as through transformers' AttentionInterface."""

    def forward(self, q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v)


class DropsThePadding(Dense):
    """The same with the padding alone."""

    def forward(self, q, k, v, mask):
        return self.exact(q, k, v, Mask(causal=mask.causal, segments=mask.segments))


class TakesPaddingForRight(Dense):
    """Counts the real tokens and takes them for the first ones."""

    def forward(self, q, k, v, mask):
        valid = mask.valid
        if valid is not None:
            valid = torch.arange(valid.shape[1]) < valid.sum(1, keepdim=True)
        return self.exact(q, k, v, Mask(valid=valid, causal=mask.causal, segments=mask.segments))


class LeaksInTraining(Dense):
    """Something of the whole sequence, such as a statistic, in training alone."""

    def forward(self, q, k, v, mask):
        out = self.exact(q, k, v, mask)
        return out + 0.1 * v.mean(2, keepdim=True) if self.training else out


class ForgetsCausalBesideSegments(Dense):
    """One part of the mask replaces the other."""

    def forward(self, q, k, v, mask):
        causal = mask.causal and mask.segments is None
        return self.exact(q, k, v, Mask(valid=mask.valid, causal=causal, segments=mask.segments))


class HidesItsBlocks(Dense):
    """Causal between blocks of 64 and not within one, and it declares no blocks."""

    def forward(self, q, k, v, mask):
        out = self.exact(q, k, v, mask)
        if mask.is_plain and mask.causal and q.shape[2] > 64:
            block = torch.arange(q.shape[2]) // 64
            out = F.scaled_dot_product_attention(q, k, v, block[:, None] >= block)
        return out


class ClaimsToBeLinear(Dense):
    """The large matrix, and a claim of memory that grows with the length alone."""

    capabilities = Capabilities(causality="strict", key_padding=True, segments=True, memory_exponent=1.0)


class HonoursRoom(Dense):
    """For caches of fixed size: it knows where among the keys its queries stand."""

    capabilities = Capabilities(causality="strict", key_padding=True, segments=True, decoding="cache", room=True)


class ForgetsTheStart(HonoursRoom):
    """Takes the queries for the last keys, whatever room for later ones follows them."""

    def forward(self, q, k, v, mask):
        return self.exact(q, k, v, Mask(valid=mask.valid, causal=mask.causal, segments=mask.segments))


class Blocks(Attention):
    """Exact within blocks of 8 and the block before."""

    capabilities = Capabilities(causality="strict", block_length=8)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        return self.attend(q, k, v, self.visible(q.shape[2], mask))

    def visible(self, length: int, mask: Mask) -> Tensor:
        place = torch.arange(length)
        apart = place[:, None] // 8 - place // 8
        near = (apart.abs() <= 1) & ((apart >= 0) | (not mask.causal))
        return near & (place[:, None] >= place) if mask.causal else near

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, visible)


class ForgetsTheDiagonal(Blocks):
    """Causal between blocks and not within one, as transformers' BigBird is in its default mode as a decoder."""

    def visible(self, length, mask):
        place = torch.arange(length)
        apart = place[:, None] // 8 - place // 8
        return (apart.abs() <= 1) & ((apart >= 0) | (not mask.causal))


class SwitchesForGood(Blocks):
    """Full attention from the first short batch on, as transformers' BigBird."""

    switched = False

    def forward(self, q, k, v, mask):
        self.switched |= q.shape[2] < 8
        causal = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
        everything = causal if mask.causal else torch.ones_like(causal)
        return self.attend(q, k, v, everything if self.switched else self.visible(q.shape[2], mask))


class PaddedBlocks(Blocks):
    """The same, of sequences that begin where their first real token stands."""

    capabilities = Capabilities(causality="strict", key_padding=True, block_length=8)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        if mask.valid is None:
            return super().forward(q, k, v, mask)
        place = torch.arange(q.shape[2]) - self.begin(mask.valid)[:, None]
        apart = (place[:, :, None] // 8 - place[:, None] // 8).abs()
        visible = (apart <= 1) & mask.valid[:, None] & ((place[:, :, None] >= place[:, None]) | (not mask.causal))
        return self.attend(q, k, v, visible[:, None]).masked_fill(~visible.any(-1)[:, None, :, None], 0.0)

    def begin(self, valid: Tensor) -> Tensor:
        return valid.byte().argmax(1)


class CountsBlocksFromThePadding(PaddedBlocks):
    """A prompt comes out otherwise in a batch with a longer one."""

    def begin(self, valid):
        return torch.zeros(len(valid), dtype=torch.long)


class Linear(Attention):
    """Katharopoulos et al. 2020, with the state of every token kept."""

    capabilities = Capabilities(causality="strict", time_exponent=1.0, memory_exponent=1.0)
    tokens = 2  # the axis of them in [batch, heads, tokens, features, head_dim]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        states = k[..., :, None] * v[..., None, :]
        states = states.cumsum(self.tokens) if mask.causal else states.sum(2, keepdim=True)
        norms = k.cumsum(2) if mask.causal else k.sum(2, keepdim=True)
        return (q[..., None, :] @ states).squeeze(-2) / (q * norms).sum(-1, keepdim=True)


class LinearSteps(Linear):
    """The same, token by token as well."""

    capabilities = Capabilities(causality="strict", decoding="state", time_exponent=1.0, memory_exponent=1.0)

    def __init__(self, *, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: Any, valid: Any = None) -> tuple[Tensor, Any]:
        k, new = F.elu(k) + 1, torch.cat([v, torch.ones_like(v[..., :1])], -1)
        keys = k[..., :, None] * new[..., None, :]
        sums = keys.cumsum(2) if state is None else keys.cumsum(2) + self.unpacked(state)[:, :, None]
        out = ((F.elu(q) + 1)[..., None, :] @ sums).squeeze(-2)
        return out[..., :-1] / out[..., -1:], self.packed(sums[:, :, -1], state)

    def packed(self, sums: Tensor, before: Any) -> Any:
        return sums

    def unpacked(self, state: Any) -> Tensor:
        return state


class AddsInPlace(LinearSteps):
    """One memory for all states: a beam, or a token that was rejected, changes the past of the others."""

    def packed(self, sums, before):
        return sums if before is None else before.copy_(sums)


class PutsHeadsFirst(LinearSteps):
    """Samples stand along the second axis of its state, so that beams choose heads."""

    def packed(self, sums, before):
        return sums.transpose(0, 1)

    def unpacked(self, state):
        return state.transpose(0, 1)


class RemembersEverything(LinearSteps):
    """It needs a sum alone, and keeps all sums so far."""

    def packed(self, sums, before):
        return sums[:, None] if before is None else torch.cat([before, sums[:, None]], 1)

    def unpacked(self, state):
        return state[:, -1]

    def step(self, q, k, v, state, valid=None):
        outputs = []
        for q_, k_, v_ in zip(q.split(1, 2), k.split(1, 2), v.split(1, 2), strict=True):
            out, state = super().step(q_, k_, v_, state)
            outputs.append(out)
        return torch.cat(outputs, 2), state


class StopsAtItsLongest(LinearSteps):
    """What comes after the longest sequence is written over the last token, as into a table that is full."""

    def step(self, q, k, v, state, valid=None):
        sums, length = (None, 0) if state is None else state
        out, after = super().step(q, k, v, sums)
        return out, (after if length < self.max_length else sums, length + q.shape[2])


class RefusesOnlyTheWhole(LinearSteps):
    """A sequence longer than it was made for is refused, and its steps are not."""

    def forward(self, q, k, v, mask):
        assert q.shape[2] <= self.max_length, "too long"
        return super().forward(q, k, v, mask)


class SumsTheWrongAxis(Linear):
    """The cumulative sum runs over features and not over tokens, as in xFormers' causal FAVOR."""

    tokens = 3


class Favor(Attention):
    """Positive features (Choromanski et al. 2021), one direction a feature."""

    capabilities = Capabilities(causality="strict", time_exponent=1.0, memory_exponent=1.0)

    def __init__(self, *, head_dim: int, layer: int = 0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed_for(seed, "favor", layer))
        self.register_buffer("directions", torch.randn(head_dim, 16, generator=generator))

    def features(self, x: Tensor, stabiliser: Any) -> Tensor:
        x = x / x.shape[-1] ** 0.25
        logits = x @ self.directions.float() - x.square().sum(-1, keepdim=True) / 2
        return (logits - stabiliser(logits).detach()).exp() + 1e-4

    def stabilise_keys(self, logits: Tensor) -> Tensor:
        return torch.zeros(())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        q = self.features(q.float(), lambda logits: logits.amax(-1, keepdim=True))
        k = self.features(k.float(), self.stabilise_keys)
        states, norms = k[..., :, None] * v[..., None, :].float(), k
        states, norms = (x.cumsum(2) if mask.causal else x.sum(2, keepdim=True) for x in (states, norms))
        return ((q[..., None, :] @ states).squeeze(-2) / (q * norms).sum(-1, keepdim=True)).to(v.dtype)


class StabilisesByTheWholeSequence(Favor):
    """The largest of all keys is taken off, those of the future too, as in performer-pytorch."""

    def stabilise_keys(self, logits):
        return logits.amax((-2, -1), keepdim=True)


class SortedChunks(Attention):
    """LSH attention (Kitaev et al. 2020) of one round, within chunks of 8 sorted by bucket."""

    capabilities = Capabilities(causality="gradient", shared_query_key=True, block_length=8)

    def __init__(self, *, head_dim: int, layer: int = 0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed_for(seed, "lsh", layer))
        self.register_buffer("rotation", torch.randn(head_dim, 4, generator=generator))

    def rotations(self) -> Tensor:
        return self.rotation

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        length = q.shape[2]
        order = decide(lambda: self.sort(q))
        visible = self.chunk(order)[..., :, None] == self.chunk(order)[..., None, :]
        place = torch.arange(length)
        visible = visible & (place[:, None] >= place) if mask.causal else visible
        return F.scaled_dot_product_attention(q, F.normalize(k, dim=-1), v, visible)

    def sort(self, q: Tensor) -> Tensor:
        rotated = q @ self.rotations().to(q.dtype)
        return torch.cat([rotated, -rotated], -1).argmax(-1).sort(dim=-1, stable=True).indices

    def chunk(self, order: Tensor) -> Tensor:
        """Of each token, by its place in the order."""
        return order.argsort(-1) // 8


class SortedChunksAsStrict(SortedChunks):
    """The same, said to be strict, as every public causal Reformer is understood to be."""

    capabilities = Capabilities(causality="strict", shared_query_key=True, block_length=8)


class HashesAnew(SortedChunks):
    """Other rotations at every call, as transformers' Reformer without a seed."""

    def rotations(self):
        return torch.randn(self.rotation.shape)


class DrawsFromTheRun(SortedChunks):
    """Rotations from the run's generator: another on each rank."""

    def __init__(self, *, head_dim: int, layer: int = 0, seed: int = 0) -> None:
        super().__init__(head_dim=head_dim, layer=layer, seed=seed)
        nn.init.normal_(self.rotation)
