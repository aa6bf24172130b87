"""The suites catch what they are there for: each law fails on a plugin that is broken in just that way."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
import torch
from tests import faults
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW as Adam

from plugformer import testing
from plugformer.errors import UserError
from plugformer.interfaces import Capabilities, DataSpec, Mask, Memory, Monitor, Output, Position, Tokenizer, Tokens
from plugformer.nn.backbones import Decoder, Encoder, PrefixLM
from plugformer.nn.blocks import PostNorm, PreNorm
from plugformer.nn.encoder_decoder import EncoderDecoder
from plugformer.nn.feed_forward import Mlp
from plugformer.nn.full_attention import Full
from plugformer.nn.norms import LayerNorm
from plugformer.nn.positions import Learned
from plugformer.registry import register
from plugformer.testing import SUITES, suite
from plugformer.train.callbacks import EarlyStopping
from plugformer.train.csv_logger import Csv, CsvLogger
from plugformer.train.optimizers import AdamW
from plugformer.train.schedules import Cosine
from plugformer_huggingface.gpt2 import Gpt2
from plugformer_huggingface.t5 import T5
from plugformer_tasks.classification import Classification, Labels, MeanOfTokens
from plugformer_text.text_bytes import TextBytes
from plugformer_vision.digits import Digits
from plugformer_vision.vit_patch import VitPatch

BROKEN: list[Any] = []
# Who may say that a law is broken; an assertion that fails elsewhere, such as in the plugin, is an accident.
JUDGES = tuple(Path(module.__file__ or "").parent for module in (testing, torch.testing))


def breaks(kind: str, *, error: type[Exception] = AssertionError, **laws: type) -> None:
    """Each of these plugins must not pass the law under whose name it stands."""
    BROKEN.extend(pytest.param(kind, law, cls, error, id=f"{kind}-{law}") for law, cls in laws.items())


@pytest.mark.parametrize(("kind", "law", "cls", "error"), BROKEN)
def test_a_broken_plugin_is_caught(kind, law, cls, error, monkeypatch):
    monkeypatch.setattr("plugformer.registry._registered", {})
    register(kind, "broken")(cls)
    laws = type("Laws", (suite(kind),), {"name": "broken"})()
    laws.setup_method()
    try:
        with pytest.raises((error, SkipTest)) as raised:
            getattr(laws, f"test_{law}")()
    finally:
        laws.teardown_method()
    assert raised.type is error, f"left out: {raised.value}"
    if error is AssertionError:
        assert any(Path(raised.traceback[-1].path).is_relative_to(judge) for judge in JUDGES), raised.traceback[-1]


def test_every_law_is_broken():
    laws = {(kind, law[5:]) for kind in SUITES for law in dir(suite(kind)) if law.startswith("test_")}
    assert {case.values[:2] for case in BROKEN} == laws


# ---------------------------------------------------------------------------------------------- how things break


def broken(base: type, **members: Any) -> type:
    """A class with other members."""
    return type(base.__name__, (base,), {"__module__": __name__, **members})


def changed(base: type, change: Callable[[Any], Any]) -> type:
    """A plugin whose module goes through `change` once it is made."""
    maker = base.embedding if issubclass(base, Tokenizer) else base.__init__

    @wraps(maker)  # whose options are read
    def make(self, **options):
        module = maker(self, **options)
        change(self if module is None else module)
        return module

    return broken(base, **{maker.__name__: make})


def holding(base: type, **parts: Callable[[], Any]) -> type:
    """A plugin with other parts of these names."""
    return changed(base, lambda module: [setattr(module, name, make()) for name, make in parts.items()])


def giving(base: type, change: Callable[[Tensor], Tensor]) -> type:
    """A plugin of which what comes out goes through `change`."""
    return changed(base, lambda module: change_output(module, change))


def change_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    def on(made: Any) -> Any:
        if isinstance(made, Tokens):
            return replace(made, embeddings=change(made.embeddings))
        return replace(made, predictions=change(made.predictions)) if isinstance(made, Output) else change(made)

    if isinstance(module, Position):
        add = module.add
        module.add = lambda x, layout: on(add(x, layout))
    else:
        module.register_forward_hook(lambda module, arguments, made: on(made))


def deaf(base: type, **hears: Any) -> type:
    """A module that never hears of a part of masks and tokens."""

    def forward(self, *args, **kwargs):
        return base.forward(self, *(replace(x, **hears) if isinstance(x, Mask | Tokens) else x for x in args), **kwargs)

    return broken(base, forward=forward)


# ---------------------------------------------------------------------------------------------- the laws of all modules


def hide_a_number(module: nn.Module) -> None:
    own = torch.rand(())
    change_output(module, lambda x: x + own)


def drawn(value: Callable[[], float]) -> nn.Module:
    """A weight that starts as somebody else decides."""
    part: Any = nn.LayerNorm(1, bias=False)
    part.reset_parameters = lambda: nn.init.constant_(part.weight, value())
    return part


MODULES = {
    "tokenizer": VitPatch,
    "backbone": Encoder,
    "block": PreNorm,
    "attention": Full,
    "position": Learned,
    "norm": LayerNorm,
    "feed_forward": Mlp,
    "task": Classification,
}
for kind, base in MODULES.items():
    breaks(
        kind,
        repeats_itself=giving(base, lambda x: x + torch.rand(())),
        takes_each_sample_alone=giving(base, lambda x: x + x.mean(0)),
        reads_no_uninitialised_memory=giving(base, lambda x: x + 0 * torch.empty(x.shape)),
        checkpoint_holds_everything=changed(base, hide_a_number),
        gradients_are_finite_and_reach_every_weight=holding(base, unused=lambda: nn.Linear(1, 1)),
        first_weights_are_the_seeds=holding(base, drawn=lambda: drawn(lambda: float("nan"))),
    )
    breaks(kind, first_weights_are_the_seeds=holding(base, drawn=lambda: drawn(random.random)))
    if kind not in ("tokenizer", "task"):
        breaks(kind, keeps_shape_and_dtype=giving(base, lambda x: x.double()))

# ---------------------------------------------------------------------------------------------- inside a backbone

full, mean = Full.forward, partial(torch.mean, dim=2, keepdim=True)


def attending(forward: Callable[..., Tensor]) -> type:
    return broken(Full, forward=forward)


def change_for_good(self, q, *rest):
    self.short = getattr(self, "short", False) or q.shape[2] < 8
    return full(self, q, *rest) * (2 if self.short else 1)


def tile_heads(self, q, k, v, mask):
    return full(self, q, *(x.repeat(1, q.shape[1] // x.shape[1], 1, 1) for x in (k, v)), mask)


def hide_with_large_numbers(self, q, k, v, mask, bias=None):
    return F.scaled_dot_product_attention(q, k, v, -1e9 * ~mask.dense(q.shape[2], k.shape[2], q.device))


def able(**declared: Any) -> Capabilities:
    return replace(Full.capabilities, **declared)


class Silent(Full):
    """It has no base class that would refuse what it doesn't declare."""

    __call__ = nn.Module.__call__


class Blurred(Full):
    def __init__(self, *, blur: float = 0.0) -> None:
        super().__init__()
        self.blur = blur

    def forward(self, q, k, v, mask):
        return full(self, q, k, v, mask) + self.blur


class Redrawn(Full):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("own", torch.zeros(3))


def replace_own(self, step):
    self.own = torch.full((3,), float(step))


def buffered(make: Callable[[int, int], Tensor]) -> type:
    def build(self, *, layer: int = 0, seed: int = 0) -> None:
        Full.__init__(self)
        self.register_buffer("own", make(seed, layer))

    return broken(Full, __init__=build)


def forget_padding_in_steps(self, q, k, v, mask):
    return full(self, q, k, v, mask if q.shape == k.shape else replace(mask, valid=None))


def take_padding_for_right(self, q, k, v, mask):
    if mask.valid is not None:
        mask = replace(mask, valid=torch.arange(k.shape[2]) < mask.valid.sum(1, keepdim=True))
    return full(self, q, k, v, mask)


def have_no_plain_causal_version(self, q, k, v, mask):
    if mask.causal:
        raise NotImplementedError("not yet")
    return self.exact(q, k, v, mask)


def drop_by_numpy(self, q, k, v, mask):
    return full(self, q, k, v, mask) * float(np.random.rand())


breaks(
    "attention",
    padding_changes_nothing=deaf(Full, valid=None),
    every_query_sees_the_prefix=deaf(Full, prefix=None),
    segments_do_not_see_each_other=deaf(Full, segments=None),
    takes_every_length=attending(lambda self, q, *rest: F.pad(full(self, q, *rest), (0, 0, 0, -q.shape[2] % 4))),
    remembers_no_other_length=attending(change_for_good),
    takes_tokens_of_a_plane_and_of_none=attending(lambda self, q, k, v, mask: v / (1 + mask.layout.grid_index).min()),
    groups_queries=attending(tile_heads),
    takes_a_bias=attending(lambda self, q, k, v, mask, bias=None: full(self, q, k, v, mask)),
    attends_to_another_sequence=attending(lambda self, q, k, v, mask: full(self, q, k, v + mean(q), mask)),
    steps_are_the_whole=attending(lambda _, q, k, v, m: F.scaled_dot_product_attention(q, k, v, is_causal=m.causal)),
    steps_are_the_whole_beside_padding=attending(forget_padding_in_steps),
    is_as_causal_as_it_declares=attending(lambda self, q, k, v, m: full(self, q, k, v, m) + 1e-4 * mean(v.detach())),
    sees_other_tokens=attending(lambda self, q, k, v, mask: v),
    padding_is_not_seen_wherever_it_stands=attending(take_padding_for_right),
    no_visible_key_gives_zeros=attending(hide_with_large_numbers),
    refuses_what_it_does_not_declare=broken(Full, capabilities=able(segments=False), __call__=nn.Module.__call__),
    equals_its_plain_version=broken(Full, plain=lambda self, q, k, v, mask: 2 * self.exact(q, k, v, mask)),
    is_exact_with_its_exact_options=giving(Full, lambda x: 1.001 * x),
    comes_ever_closer_to_exact=broken(Blurred, finer_options=[{"blur": 0.1}, {"blur": 0.3}, {"blur": 0.01}]),
    its_kernel_is_unbiased=broken(Full, kernel=lambda self, q, k: q @ k.transpose(-1, -2)),
    draws_nothing_in_evaluation=attending(lambda self, *parts: full(self, *parts) + 0 * torch.rand(())),
    random_buffers_are_the_seeds=buffered(lambda seed, layer: torch.rand(3)),
    redraws_by_seed_and_step_alone=broken(Redrawn, before_step=lambda self, step: self.own.normal_()),
    can_be_replayed=attending(drop_by_numpy),
    stays_finite_with_large_logits=attending(lambda self, q, k, v, mask: (q @ k.mT).exp() @ v),
    diagnoses_without_a_trace=broken(Full, diagnose=lambda self, q, k, v, mask: {"drawn": float(torch.rand(()))}),
    memory_grows_no_faster_than_claimed=attending(lambda self, q, k, v, m: full(self, q, k, v, m) + (q @ k.mT).mean()),
)
breaks(
    "attention",
    is_as_causal_as_it_declares=attending(lambda self, q, k, v, m: full(self, q, k, v, m) + mean(v - v.detach())),
    equals_its_plain_version=attending(lambda self, q, k, v, m: full(self, q, k, v.detach() + (v - v.detach()) / 2, m)),
    comes_ever_closer_to_exact=broken(Blurred, finer_options=[{"blur": 0.1}, {"blur": 0.09}]),
    random_buffers_are_the_seeds=buffered(lambda seed, layer: torch.full((3,), seed)),
    redraws_by_seed_and_step_alone=broken(Redrawn, before_step=replace_own),
    can_be_replayed=attending(lambda self, q, k, v, m: full(self, q, k, v, m) + (1e4 * q).sin()),
    sees_other_tokens=attending(lambda self, q, k, v, m: full(self, q, k, v, replace(m, causal=True))),
    stays_finite_with_large_logits=attending(lambda self, q, k, v, m: full(self, q, k, v, m) + (q.square() * 1e3)),
    gradients_are_finite_and_reach_every_weight=attending(lambda self, q, k, v, m: full(self, q.detach(), k, v, m)),
)
breaks(
    "attention",
    is_as_causal_as_it_declares=attending(lambda self, q, k, v, m: full(self, q, k, v, m) + self.training * mean(v)),
)
breaks("attention", gradients_are_finite_and_reach_every_weight=attending(lambda self, q, k, v, m: v.detach()))
breaks("attention", diagnoses_without_a_trace=broken(Full, diagnose=lambda self, *parts: {"mass": float("nan")}))
breaks("attention", diagnoses_without_a_trace=broken(Full, diagnose=lambda self, *parts: {"val/mass": 1.0}))
breaks(
    "attention",
    equals_its_plain_version=broken(Full, plain=have_no_plain_causal_version),
    error=NotImplementedError,
)
breaks("attention", is_as_causal_as_it_declares=broken(Full, capabilities=able(causality="gradient")))
breaks("attention", is_as_causal_as_it_declares=broken(Silent, capabilities=able(causality="none")))
breaks("attention", refuses_what_it_does_not_declare=broken(Silent, capabilities=able(cross_attention=False)))
breaks(
    "attention",
    needs_nothing_that_it_does_not_declare=attending(lambda self, q, k, v, mask, bias: v),
    error=TypeError,
)
breaks(
    "attention",
    padding_in_front_changes_nothing=faults.CountsBlocksFromThePadding,
    sees_nothing_of_room_for_later_tokens=faults.ForgetsTheStart,
    a_step_leaves_what_is_remembered_as_it_was=faults.AddsInPlace,
    sequences_can_be_chosen_while_decoding=faults.PutsHeadsFirst,
    goes_on_beyond_its_longest=faults.StopsAtItsLongest,
)
breaks(
    "attention",
    goes_on_beyond_its_longest=faults.RefusesOnlyTheWhole,
    its_state_keeps_its_size=faults.RemembersEverything,
)


def changing(change: Callable[[Tensor], Tensor]) -> Any:
    """Weights of other grids, each changed."""
    return lambda self, weights, grids: {name: change(tensor) for name, tensor in weights.items()}


breaks(
    "position",
    takes_each_grid_by_itself=broken(Learned, add=lambda self, x, layout: x / layout.grid_index.float().std()),
    goes_by_coordinates_not_by_order=broken(Learned, add=lambda self, x, layout: x + torch.arange(x.shape[1])[:, None]),
    tells_nothing_to_tokens_that_lie_nowhere=broken(Learned, add=lambda self, x, layout: x + 1),
    tells_the_last_tokens_what_it_tells_the_whole=broken(Learned, add=lambda self, x, layout: x + x.shape[1]),
    gives_a_bias_if_it_says_so=broken(Learned, adds_bias=True),
    keeps_weights_of_its_own_grids=broken(Learned, resized=changing(lambda table: table + 1e-6)),
    brings_weights_of_another_grid_to_its_own_or_leaves_them=broken(Learned, resized=changing(lambda table: table[1:])),
    leaves_weights_of_other_axes=broken(Learned, resized=changing(lambda table: table.flip(0))),
)
breaks(
    "norm",
    stays_finite=broken(LayerNorm, forward=lambda self, x: x / x.std(-1, keepdim=True)),
    takes_each_token_alone=giving(LayerNorm, lambda x: x - x.mean(1, keepdim=True)),
)
breaks(
    "feed_forward",
    takes_each_token_alone=giving(Mlp, lambda x: x.cumsum(1)),
    drops_in_training_only=holding(Mlp, dropout=nn.Identity),
)

# ---------------------------------------------------------------------------------------------- backbones and blocks


class MiscountsLayers(Encoder):
    @wraps(Encoder.__init__)
    def __init__(self, *, make_attention, **options):
        super().__init__(make_attention=lambda **context: make_attention(**context | {"layer": 0}), **options)


def repeat_a_block(backbone: Encoder) -> None:
    backbone.blocks = nn.ModuleList([backbone.blocks[0]] * 2)


def forget(self, x, mask, memory=None, cache=None):
    return PreNorm.forward(self, x, mask)


def reading(change: Callable[[Tokens], Tokens]) -> type:
    """An encoder and decoder of which the source goes through `change`."""
    return broken(EncoderDecoder, encode=lambda self, tokens: EncoderDecoder.encode(self, change(tokens)))


def all_but_the_last(tokens: Tokens) -> Tokens:
    batch, length, _ = tokens.embeddings.shape
    return tokens.select(torch.arange(length - 1).expand(batch, -1))


def tile_the_memory(self, tokens, *, memory, state=None):
    tiled = Memory(memory.hidden.repeat(memory.copies, 1, 1), memory.mask)
    return EncoderDecoder.forward(self, tokens, memory=tiled, state=state)


def call_all_decoders(self):
    every = EncoderDecoder.mechanisms(self)
    return every | {"decoder": [*every["decoder"], *every["cross"]], "cross": []}


def see_every_document(self, tokens, *, memory, state=None):
    mask = replace(memory.mask, segments=None, query_segments=None)
    return self.decoder(tokens, memory=replace(memory, mask=mask), state=state)


def cross_to_padding(self, x, memory, cache):
    return PreNorm.cross(self, x, Memory(memory.hidden, Mask()), cache)


breaks(
    "backbone",
    steps_are_the_whole=broken(Decoder, forward=lambda self, tokens, memory, state=None: Decoder.forward(self, tokens)),
    every_token_sees_the_prefix=deaf(PrefixLM, prefix=None),
    sees_what_its_direction_says=broken(Encoder, direction="causal"),
    padding_changes_nothing=deaf(Encoder, valid=None),
    segments_do_not_see_each_other=deaf(Encoder, segments=None),
    normalises_once=holding(Encoder, norm=nn.Identity),
    tells_each_mechanism_what_the_core_knows=MiscountsLayers,
    blocks_start_from_different_weights=changed(Encoder, repeat_a_block),
    every_token_sees_all_of_the_source=reading(all_but_the_last),
    padding_of_the_source_changes_nothing=reading(lambda tokens: replace(tokens, valid=None)),
    sequences_can_share_a_source=broken(EncoderDecoder, forward=tile_the_memory),
    says_which_parts_it_has_no_use_for=broken(Encoder, unused=frozenset({"block"})),
)
breaks(
    "backbone",
    sees_what_its_direction_says=changed(EncoderDecoder, lambda both: setattr(both.decoder, "causal", False)),
    padding_changes_nothing=deaf(EncoderDecoder, valid=None),
    normalises_once=changed(EncoderDecoder, lambda both: setattr(both.encoder, "norm", nn.Identity())),
    tells_each_mechanism_what_the_core_knows=broken(EncoderDecoder, mechanisms=call_all_decoders),
    segments_do_not_see_each_other=broken(EncoderDecoder, forward=see_every_document),
    gradients_are_finite_and_reach_every_weight=reading(
        lambda tokens: replace(tokens, embeddings=tokens.embeddings.detach())
    ),
)
breaks(
    "backbone",
    sees_what_its_direction_says=broken(Decoder, direction="bidirectional"),
    normalises_once=holding(Encoder, norm=lambda: LayerNorm(dim=64)),
)
breaks(
    "block",
    passes_the_mask_on=deaf(PreNorm, causal=False),
    steps_are_the_whole=broken(PreNorm, forward=forget),
    does_not_ignore_a_memory=broken(PreNorm, forward=forget),
    every_token_sees_what_the_memory_allows=broken(PreNorm, cross=cross_to_padding),
    is_normalised_if_it_says_so=broken(PostNorm, normalised=False),
    drops_in_training_only=holding(PreNorm, dropout=nn.Identity),
    a_chain_of_one_is_the_block=broken(PreNorm, chain=classmethod(lambda cls, blocks, x, mask, memory, caches: x)),
    gradients_are_those_of_what_it_computes=giving(PreNorm, lambda x: x.detach() / 2 + x / 2),
)

# ---------------------------------------------------------------------------------------------- data and tokenizers

samples = Digits.samples
OTHER, TEXTS = DataSpec(frozenset({"id"}), image=(3, 8, 8)), DataSpec(frozenset({"id", "text"}))
LastTwice = broken(list, __iter__=lambda self: itertools.chain(list.__iter__(self), self[-1:]))


def splitting(change: Callable[[list[Any], Digits], Any]) -> type:
    return broken(Digits, samples=lambda self, split: change(samples(self, split), self))


Parrot = splitting(lambda own, source: [sample | {"text": "the same"} for sample in own])
breaks(
    "data",
    passes_its_own_inspection=broken(Digits, verify=lambda self: ["digits/3 can't be read"]),
    says_what_samples_carry=broken(Digits, spec=property(lambda self: OTHER)),
    splits_share_nothing=splitting(lambda own, source: own + source._all[-1:]),
    is_the_same_for_every_run=splitting(lambda own, source: [own[n] for n in torch.randperm(len(own))]),
    draws_nothing_from_the_runs_generators=splitting(lambda own, source: [own[n] for n in torch.randperm(len(own))]),
    a_split_is_a_sequence=splitting(lambda own, source: LastTwice(own)),
    texts_are_texts_and_stand_in_one_split=broken(Parrot, spec=property(lambda self: TEXTS)),
    can_be_read_again=splitting(lambda own, source: iter(own)),
    every_label_is_trained=splitting(lambda own, source: [sample for sample in own if sample["label"] != 9]),
)
breaks(
    "data",
    says_what_samples_carry=splitting(lambda own, source: [sample | {"label": 10} for sample in own]),
    splits_share_nothing=splitting(lambda own, source: [sample | {"group": "me"} for sample in own]),
    is_the_same_for_every_run=broken(Digits, fingerprint=lambda self: f"{len(vars(self))}"),
)
breaks("data", goes_to_a_loaders_worker=splitting(lambda own, source: (sample for sample in own)), error=TypeError)


class ForgetsTheMean(VitPatch):
    def load(self, folder):
        super().load(folder)
        self.mean = [0.0] * 3


def fit_twice(self, samples):
    VitPatch.fit(self, samples)
    self.mean = [float(len(list(samples)))] * 3


def roll(self, sample, augment=False):
    return {"image": sample["image"].roll(random.randrange(256))}


def telling(change: Callable[[Tokens], dict[str, Any]]) -> type:
    def hook(module: nn.Module, arguments: Any, made: Tokens) -> Tokens:
        return replace(made, **change(made))

    return changed(VitPatch, lambda module: module.register_forward_hook(hook))


breaks(
    "tokenizer",
    tokens_lie_on_the_grid=telling(lambda made: {"layout": made.layout.select(torch.zeros(8, 64, dtype=torch.long))}),
    pads_only_if_it_says_so=telling(lambda made: {"valid": made.embeddings[..., 0].isfinite()}),
    fits_on_a_stream=broken(VitPatch, fit=fit_twice),
    assumes_the_shapes_that_it_will_have=broken(VitPatch, assume=lambda self, data: VitPatch.assume(self, OTHER)),
    comes_back_from_its_files=ForgetsTheMean,
    encodes_without_a_trace=broken(VitPatch, encode=lambda self, x, augment=False: {"image": x["image"].sub_(1)}),
    varies_by_torchs_generator_alone=broken(VitPatch, encode=roll),
    reads_what_is_not_there_with_a_message=broken(VitPatch, read=lambda self, source: self.example()),
    example_is_the_longest=broken(VitPatch, example=lambda self: {"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}),
    a_batch_does_not_change_a_sample=giving(VitPatch, lambda x: x / len(x)),
)
breaks("tokenizer", encodes_without_a_trace=broken(VitPatch, encode=roll))


def encoding(change: Callable[[Tensor], dict[str, Tensor]]) -> type:
    def encode(self, sample, augment=False):
        features = TextBytes.encode(self, sample)
        return features | change(features["ids"])

    return broken(TextBytes, encode=encode)


breaks(
    "tokenizer",
    sequences_are_no_longer_than_it_says=broken(VitPatch, sequences=lambda self, samples: samples[1:]),
    tokens_are_of_the_vocabulary=encoding(lambda ids: {"ids": ids + 256}),
    table_has_a_row_for_each_token=broken(
        TextBytes, embedding=lambda self, dim: TextBytes.embedding(self, dim=2 * dim)
    ),
    bytes_add_up_to_the_text=encoding(lambda ids: {"bytes": torch.ones_like(ids)}),
    decodes_what_it_encoded=broken(TextBytes, decode=lambda self, ids: TextBytes.decode(self, ids).lower()),
    no_text_becomes_a_special_token=encoding(lambda ids: {"ids": ids.masked_fill(ids == ord("<"), int(ids[0]))}),
)

# ---------------------------------------------------------------------------------------------- tasks


def sum_losses(self, trunk, batch):
    made = Classification.forward(self, trunk, batch)
    return replace(made, loss=torch.zeros(()) if made.loss is None else made.loss * made.weight)


def count_samples(self, trunk, batch, output, split):
    return {"counts": [len(batch["index"])] * len(batch["index"])}


def pooling(pool: Callable[..., Tensor]) -> type:
    return holding(Classification, pooling=broken(MeanOfTokens, forward=pool))


ArrivesAsAnother = broken(Labels, __reduce__=lambda self: (Labels, ()), encode=lambda *_: {"label": torch.tensor(0)})
FloatExample = broken(Labels, example=lambda self, inputs: {"label": torch.tensor(0.0)})


def show_a_tuple(self, trunk, batch, output, *, tokenizer):
    return [{"target": (1, 2)}] * len(batch["index"])


breaks(
    "task",
    padding_changes_nothing=pooling(lambda self, hidden, tokens: hidden.mean(1)),
    targets_go_to_a_loaders_worker=holding(Classification, targets=ArrivesAsAnother),
    example_is_like_its_targets=holding(Classification, targets=FloatExample),
    monitor_is_a_metric_and_knows_its_better_side=holding(Classification, monitor=lambda: Monitor("val/f1", "min")),
    loss_teaches_the_whole_model=changed(Classification, lambda task: change_output(task.pooling, Tensor.detach)),
    loss_is_a_mean_over_its_weight=broken(Classification, forward=sum_losses),
    predicts_without_targets=broken(Classification, forward=sum_losses),
    metrics_take_what_it_predicts=broken(Classification, tables=lambda self, values: {}),
    metrics_are_new_each_time=broken(Classification, metrics=cache(Classification.metrics)),
    compares_each_sample_alone=broken(Classification, compared=count_samples),
    describes_in_plain_words=broken(Classification, describe=lambda self, output: [(1, 2)] * len(output.predictions)),
    tells_the_loss_of_each_sample=broken(Classification, losses=lambda self, output: output.loss.expand(6)),
    shows_plain_values_or_pictures=broken(Classification, show=show_a_tuple),
)
breaks("task", padding_changes_nothing=pooling(lambda self, x, tokens: (x * tokens.valid[..., None]).mean(1)))

# ---------------------------------------------------------------------------------------------- training


def forget_undecayed(self, groups):
    return Adam(groups.decayed)


def hide_steps(self, groups):
    optimizer, steps = AdamW.build(self, groups), itertools.count(1)
    optimizer.register_step_pre_hook(lambda adam, *_: adam.param_groups[0].update(lr=0.1 / next(steps)))
    return optimizer


breaks(
    "optimizer",
    holds_every_parameter_once=broken(AdamW, build=forget_undecayed),
    a_step_moves_every_parameter=broken(AdamW, build=forget_undecayed),
    decays_only_what_is_to_be_decayed=broken(AdamW, build=lambda self, its: Adam(its.decayed + its.undecayed)),
    lowers_a_loss=broken(AdamW, build=lambda self, its: Adam(its.with_decay(0.0), maximize=True)),
    goes_on_from_its_state=broken(AdamW, build=hide_steps),
)
breaks("optimizer", takes_models_without_one_of_the_groups=broken(AdamW, build=forget_undecayed), error=ValueError)
breaks(
    "schedule",
    is_a_factor_at_every_step=broken(Cosine, factor=lambda self, step, total_steps: step / total_steps),
    reaches_the_full_rate=broken(Cosine, factor=lambda self, step, total_steps: 0.5),
    warms_up=broken(Cosine, factor=lambda self, step, total_steps: 1.0),
    depends_on_the_step_alone=broken(Cosine, factor=lambda self, step, total_steps: random.random()),
)
breaks(
    "logger",
    opens_a_logger_of_lightning=broken(Csv, open=lambda self, run, config: SimpleNamespace(name="mine")),
    goes_through_a_fit=broken(Csv, open=lambda self, run, config: run.path.with_name("log").touch() or CsvLogger(run)),
    writes_every_row=broken(Csv, open=lambda self, run, config: LosesTheLastRow(run)),
)
LosesTheLastRow = broken(CsvLogger, finalize=lambda self, status: self.save())
KeepsAnObject = broken(EarlyStopping, state_dict=lambda self: {"path": Path("best")})
breaks("callback", goes_through_a_fit_and_on_from_its_checkpoint=KeepsAnObject, error=UserError)


# ---------------------------------------------------------------------------------------------- families


class NamesAStranger(Gpt2):
    def composition(self, config: Any) -> Any:
        return super().composition(config) | {"weather": {"name": "fair"}}


class WritesAnotherEps(Gpt2):
    def their_config(self, *arguments: Any) -> Any:
        return super().their_config(*arguments) | {"layer_norm_epsilon": 0.5}


class NeedsNoSizes(Gpt2):
    def composition(self, config: Any) -> Any:
        return super().composition({**self.example, **config})


class SaysOneReason(Gpt2):
    def reasons(self, *arguments: Any) -> Any:
        yield from itertools.islice(super().reasons(*arguments), 1)


class ForgetsWhatIsTooMuch(Gpt2):
    def form(self, config: Any, tokens: Any, weights: Any) -> Any:
        return super().form(config, tokens, {name: weights[name] for name in weights if "further" not in name})


class ReadsAsFloats(Gpt2):
    def read(self, weights: Any, config: Any) -> Any:
        return {name: tensor.float() for name, tensor in super().read(weights, config).items()}


class WritesOneMore(Gpt2):
    def write(self, weights: Any, config: Any) -> Any:
        return {name: tensor + 1 for name, tensor in super().write(weights, config).items()}


class ReadsInPlace(Gpt2):
    def read(self, weights: Any, config: Any) -> Any:
        next(iter(weights.values())).add_(1)
        return super().read(weights, config)


class ReadsStrangers(Gpt2):
    def read(self, weights: Any, config: Any) -> Any:
        return {**super().read(weights, config), **{name: weights[name] for name in weights if "another" in name}}


class NamesNothing(Gpt2):
    def read(self, weights: Any, config: Any) -> Any:
        try:
            return super().read(weights, config)
        except UserError:
            raise UserError("Something is missing.") from None


class WritesAnyVocabulary(T5):
    def reasons(self, config: Any, tokens: Any) -> Any:
        yield from super().reasons({kind: config[kind] for kind in config if kind != "target_tokenizer"}, tokens)


breaks(
    "family",
    composition_is_part_of_a_composition=NamesAStranger,
    form_is_read_as_the_same_composition=WritesAnotherEps,
    model_types_are_nobody_elses=Gpt2,
    a_config_without_sizes_is_refused=NeedsNoSizes,
    refusal_names_every_reason=SaysOneReason,
    refuses_weights_of_another_model=ForgetsWhatIsTooMuch,
    what_is_written_is_read_bit_for_bit=ReadsAsFloats,
    what_is_read_is_written_bit_for_bit=WritesOneMore,
    changes_nothing_that_it_is_given=ReadsInPlace,
    leaves_out_what_has_no_place=ReadsStrangers,
    says_which_tensors_are_missing=NamesNothing,
    refuses_a_vocabulary_of_its_own_for_what_is_written=WritesAnyVocabulary,
)
