"""BigBird and the sliding window: patterns, shapes of batches, and what they cost."""

import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from plugformer.errors import UserError
from plugformer.interfaces import Attention, Grid, Layout, Mask
from plugformer.measure import peak_memory
from plugformer.nn.cache import KeyValueCache
from plugformer.nn.multi_head import MultiHeadAttention
from plugformer.nn.positions import NoPosition
from plugformer.registry import build
from plugformer.testing.comparing import assert_close, noise
from plugformer_attention.bigbird import BigBird
from plugformer_attention.local import Local
from plugformer_attention.sparse.flex import block_mask

HEADS = 2


def bigbird(**options: Any) -> BigBird:
    return BigBird(**{"num_heads": HEADS, "max_length": 64, "layer": 0, "seed": 0, "block_size": 4, **options})


MECHANISMS = {
    "bigbird": bigbird(),
    "bigbird with more globals": bigbird(num_window_blocks=1, num_random_blocks=2, num_global_blocks=3),
    "bigbird with blocks of 3": bigbird(block_size=3, num_window_blocks=5, num_random_blocks=1, num_global_blocks=0),
    "local": Local(window=3),
    "local of one token": Local(window=0),
    "local of all": Local(window=1000),
}
each_mechanism = pytest.mark.parametrize("module", MECHANISMS.values(), ids=MECHANISMS)


def qkv(length: int, *, batch: int = 2, seed: int = 0) -> list[Tensor]:
    return [noise(batch, HEADS, length, 8, seed=3 * seed + part).double() for part in range(3)]


def text(length: int, *, leading: int = 0) -> Layout:
    return behind(leading, Layout.of(Grid(("position",), (length - leading,))))


def behind(leading: int, layout: Layout, *, known: bool = True) -> Layout:
    """With tokens in front that lie on no grid."""
    coordinates = torch.zeros(1, leading, layout.coordinates.shape[2], dtype=torch.long)
    nowhere = Layout(coordinates, torch.full((1, leading), -1), layout.grids, leading if known else 0)
    return Layout.concatenate([nowhere, layout]) if leading else layout


def seen_by(module: Attention, length: int, mask: Mask, *, head: int = 0) -> Tensor:
    """Which keys each query sees, read off its weights; bool `[batch, queries, keys]`."""
    q, k, _ = qkv(length)
    v = torch.eye(length, dtype=torch.double).expand(2, HEADS, -1, -1)
    pad = torch.zeros(2, HEADS, length, length - 8, dtype=torch.double)
    q, k = torch.cat([q, pad], -1), torch.cat([k, pad], -1)
    return module(q, k, v, mask)[:, head] > 0


def assert_equals_plain(module: Attention, length: int, mask: Mask, *, queries: int | None = None) -> None:
    """Outputs and gradients of all queries that are no padding."""
    q, k, v = (part.requires_grad_() for part in qkv(length))
    q = q[:, :, length - (queries or length) :]
    real = torch.ones(2, length, dtype=torch.bool) if mask.valid is None else mask.valid
    weight = noise(*q.shape, seed=9).double() * real[:, None, -q.shape[2] :, None]
    results = []
    for out in (module(q, k, v, mask), module.plain(q, k, v, mask)):
        results.append([out * weight, *torch.autograd.grad((out * weight).sum(), (q, k, v))])
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, tolerance=1e-10)


# ---------------------------------------------------------------------------------------------- the plain version


@each_mechanism
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("length", [1, 3, 17, 41])
def test_a_sequence_equals_the_plain_version(module: Attention, causal: bool, length: int) -> None:
    place = torch.arange(length)
    valid = place < torch.tensor([[max(1, length // 2)], [length]])
    segments = (place >= torch.tensor([[length // 3], [length // 2]])).long()
    for leading in {0, min(1, length - 1), min(5, length - 1)}:
        layout = text(length, leading=leading)
        assert_equals_plain(module, length, Mask(causal=causal, layout=layout))
        mask = Mask(causal=causal, layout=layout, valid=valid, segments=segments)
        assert_equals_plain(module, length, mask)
        if causal and length > 1:
            for queries in (1, length // 8, length // 2):  # few, and so many that blocks are worth while
                assert_equals_plain(module, length, mask, queries=max(1, queries))


@each_mechanism
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_padding_in_front_equals_the_plain_version(module: Attention, causal: bool) -> None:
    """Blocks are counted from the first real token, behind those that lie on no grid."""
    length, place = 41, torch.arange(41)
    segments = (place >= torch.tensor([[20], [30]])).long()
    for leading in (0, 5):
        valid = (place < leading) | (place >= torch.tensor([[leading + 7], [leading]]))
        for parts in ({}, {"segments": segments}):
            mask = Mask(causal=causal, layout=text(length, leading=leading), valid=valid, **parts)
            for queries in (length, 20, 4, 1) if causal else (length,):
                assert_equals_plain(module, length, mask, queries=queries)


@each_mechanism
def test_padding_before_all_sees_nothing(module: Attention) -> None:
    valid = torch.arange(41) >= torch.tensor([[7], [0]])
    q, k, v = qkv(41)
    assert not module(q, k, v, Mask(causal=True, valid=valid))[0, :, :7].any()
    assert not module(q[:, :, :3], k, v, Mask(causal=True, valid=valid, start=torch.tensor(4)))[0].any()


@each_mechanism
def test_room_behind_tokens_on_no_grid_is_not_seen(module: Attention) -> None:
    """Nor is one of them seen by those before it."""
    q, k, v = qkv(41)
    layout = text(41, leading=5)
    whole = module(q, k, v, Mask(causal=True, layout=layout))
    for start, count in ((0, 1), (2, 8), (5, 3), (40, 1)):
        out = module(q[:, :, start : start + count], k, v, Mask(causal=True, layout=layout, start=torch.tensor(start)))
        assert_close(out, whole[:, :, start : start + count], tolerance=1e-10, what=f"{count} from {start} on")


@each_mechanism
def test_few_queries_share_keys(module: Attention) -> None:
    """Heads that draw blocks of their own too."""
    q, k, v = qkv(41)
    mask = Mask(causal=True, valid=torch.arange(41) >= torch.tensor([[7], [0]]))
    shared = k[:, :1], v[:, :1]
    repeated = (part.expand_as(k) for part in shared)
    assert_close(module(q[:, :, -3:], *shared, mask), module(q[:, :, -3:], *repeated, mask), tolerance=1e-10)


@pytest.mark.parametrize("kv_heads", [1, HEADS])
@pytest.mark.parametrize("name", ["bigbird", "local"])
def test_a_step_costs_what_it_sees(name: str, kv_heads: int) -> None:
    """With keys in memory of any size: as many operations, and as much memory, at 64 times the length."""
    module = build("attention", {"name": name}, num_heads=HEADS, max_length=64, layer=0, seed=0)
    wrapper = MultiHeadAttention(
        dim=8 * HEADS, num_heads=HEADS, num_kv_heads=kv_heads, mechanism=module, position=NoPosition()
    )
    costs = []
    for length in (1024, 65536):
        cache = KeyValueCache(room=8)
        cache.extend(*(noise(1, kv_heads, length, 8, seed=seed) for seed in range(2)))
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            peak = peak_memory(partial(wrapper, noise(1, 1, 8 * HEADS), Mask(causal=True), cache=cache))
        costs.append((counter.get_total_flops(), peak))
    assert costs[0] == costs[1]


def test_lists_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few queries at a time, whose keys would need more memory together."""
    q, k, v = qkv(100)
    for module in MECHANISMS.values():
        together = module(q[:, :, -9:], k, v, Mask(causal=True))
        with monkeypatch.context() as patch:
            patch.setattr("plugformer_attention.sparse.few.AT_ONCE", 1)
            assert_close(module(q[:, :, -9:], k, v, Mask(causal=True)), together, tolerance=1e-10)


@each_mechanism
@pytest.mark.parametrize("shape", [(4, 4), (7, 5), (3, 12), (2, 3, 5)], ids=str)
def test_a_grid_equals_the_plain_version(module: Attention, shape: tuple[int, ...]) -> None:
    whole = Layout.of(Grid(("depth", "row", "column")[-len(shape) :], shape))
    size = len(whole.grids[0])
    assert_equals_plain(module, size, Mask(layout=whole))
    assert_equals_plain(module, size, Mask(layout=whole, causal=True))

    # As a masked autoencoder has it: some of the tokens, in any order, behind others that lie on no grid.
    kept = torch.stack([noise(size, seed=seed).argsort()[: size // 2] for seed in range(2)])
    both = Layout(whole.coordinates.expand(2, -1, -1), whole.grid_index.expand(2, -1), whole.grids)
    part, length = behind(2, both.select(kept)), size // 2 + 2
    assert_equals_plain(module, length, Mask(layout=part))
    place = torch.arange(length)
    valid, segments = place < torch.tensor([[length - 3], [length]]), (place > torch.tensor([[3], [5]])).long()
    assert_equals_plain(module, length, Mask(layout=part, valid=valid, segments=segments))

    # One that lies on no grid may stand anywhere, if all places of the grid are taken.
    assert_equals_plain(module, size + 1, Mask(layout=behind(1, whole, known=False)))


def test_more_stray_tokens_than_there_is_room_for_are_refused() -> None:
    layout = Layout.of(Grid(("row", "column"), (4, 4)))
    stray = Layout(layout.coordinates, layout.grid_index - (torch.arange(16) > 9).long(), layout.grids)
    with pytest.raises(RuntimeError, match="lie on no grid than stand at the front"):
        bigbird()(*qkv(16), Mask(layout=stray))


# ---------------------------------------------------------------------------------------------- patterns


def test_bigbird_sees_what_the_paper_says() -> None:
    """Window, first and last block, and random blocks: distinct, and of no other kind."""
    module, blocks = bigbird(max_length=160), 40
    seen = seen_by(module, 160, Mask())[0].unflatten(1, (blocks, 4)).all(-1).unflatten(0, (blocks, 4))
    assert torch.equal(seen.any(1), seen.all(1)), "tokens of a block see the same blocks"
    seen = seen[:, 0]
    assert seen[[0, -1]].all()
    for block in range(2, blocks - 2):
        assert seen[block, [0, block - 1, block, block + 1, -1]].all()
        assert seen[block].sum() == 3 + 2 + 3


def test_random_blocks_are_any_of_those_left() -> None:
    """Each with the same probability, over many seeds."""
    counts = torch.zeros(12)
    for seed in range(200):
        module = bigbird(seed=seed, num_global_blocks=0, num_random_blocks=2)
        counts += seen_by(module, 48, Mask())[0, 20].view(12, 4).all(-1)
    window, others = counts[4:7], torch.cat([counts[:4], counts[7:]])
    assert (window == 200).all()
    expected = 200 * 2 / 9
    assert (others - expected).abs().max() < 4 * (expected * 7 / 9) ** 0.5


def test_heads_layers_and_seeds_draw_their_own() -> None:
    first = bigbird().draws
    assert torch.equal(first, bigbird().draws)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert not torch.equal(first, bigbird(layer=1).draws)
    assert not torch.equal(first, bigbird(seed=1).draws)
    assert torch.equal(first[:2], bigbird(num_random_blocks=2).draws)


def test_draws_survive_every_type() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(bigbird().to(dtype).draws, bigbird().draws)


def test_a_sequence_longer_than_the_draws_works() -> None:
    assert_equals_plain(bigbird(max_length=8), 41, Mask())
    for queries in (41, 20, 3):
        assert_equals_plain(bigbird(max_length=8), 41, Mask(causal=True), queries=queries)


@each_mechanism
@pytest.mark.parametrize("axis", [0, 1])
def test_padding_of_a_spectrogram_changes_nothing(module: Attention, axis: int) -> None:
    """A recording of 9 frames comes out as it does alone, beside one of 20."""
    long, short = Grid(("frequency", "time"), (5, 20)), Grid(("frequency", "time"), (5, 9))
    layout = Layout.of(long)
    order = layout.coordinates[0, :, axis].argsort(stable=True)[None]
    layout = layout.select(order)
    valid = layout.coordinates[..., 1] < torch.tensor([[9], [20]])
    alone = Layout.of(short).select(Layout.of(short).coordinates[0, :, axis].argsort(stable=True)[None])
    parts = qkv(100)
    together = module(*parts, Mask(layout=layout, valid=valid))[0, :, valid[0]]
    assert_close(together, module(*(part[:1, :, valid[0]] for part in parts), Mask(layout=alone))[0], tolerance=1e-10)


def test_the_window_is_a_ball_on_the_grid() -> None:
    plane = Layout.of(Grid(("row", "column"), (11, 13)))
    place = plane.coordinates[0]
    distance = (place[:, None] - place).abs().amax(-1)
    for window in (0, 1, 4):
        assert torch.equal(seen_by(Local(window=window), 143, Mask(layout=plane))[0], distance <= window)
    # With no random and no global blocks, BigBird's window is such a ball of tiles.
    module = bigbird(num_random_blocks=0, num_global_blocks=0)
    tiles = (place[:, None] // 2 - place // 2).abs().amax(-1)
    assert torch.equal(seen_by(module, 143, Mask(layout=plane))[0], tiles <= 1)


def test_the_window_is_a_window_on_a_line() -> None:
    place = torch.arange(143)
    for layout in (None, text(143)):
        seen = seen_by(Local(window=70), 143, Mask(layout=layout))[0]
        assert torch.equal(seen, (place[:, None] - place).abs() <= 70)
        seen = seen_by(Local(window=70), 143, Mask(layout=layout, causal=True))[0]
        assert torch.equal(seen, (place <= place[:, None]) & (place[:, None] - place <= 70))


# ---------------------------------------------------------------------------------------------- on other devices


@each_mechanism
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_flex_attention_sees_the_same(module: Attention, causal: bool) -> None:
    """The mask that FlexAttention is given on CUDA, evaluated here for every pair."""
    length, place = 41, torch.arange(41)
    valid, segments = place < torch.tensor([[29], [41]]), (place > torch.tensor([[8], [30]])).long()
    for leading, parts in ((0, {}), (5, {"valid": valid}), (1, {"valid": valid, "segments": segments})):
        for queries in (length, 20) if causal else (length,):
            mask = Mask(layout=text(length, leading=leading), causal=causal, **parts)
            caught: list[Tensor] = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("plugformer_attention.sparse.blockwise.attend", through_flex)
                q, k, v = qkv(length)
                caught.append(module(q[:, :, length - queries :], k, v, mask))
            expected = module(q[:, :, length - queries :], k, v, mask)
            real = (valid if parts else torch.ones(2, length, dtype=torch.bool))[:, None, length - queries :, None]
            assert_close(caught[0] * real, expected * real, tolerance=1e-10)


def through_flex(q: Tensor, k: Tensor, v: Tensor, pattern: Any) -> Tensor:
    """Masked softmax over what the block mask visits and its rule allows."""
    made, size = block_mask(pattern, q, k), pattern.block_size
    batch, heads, queries, keys = (torch.arange(count) for count in (*q.shape[:3], k.shape[2]))
    places = torch.broadcast_tensors(batch[:, None, None, None], heads[:, None, None], queries[:, None], keys)
    allowed = made.mask_mod(*places)
    visible = torch.zeros_like(allowed)
    for number, indices, whole in (
        (made.kv_num_blocks, made.kv_indices, False),
        (made.full_kv_num_blocks, made.full_kv_indices, True),
    ):
        visits = torch.zeros_like(indices, dtype=torch.bool)
        visits.scatter_(3, indices.long(), torch.arange(indices.shape[3]) < number[..., None])
        visits = visits.repeat_interleave(size, 2).repeat_interleave(size, 3)
        visible |= visits & (allowed | whole)
    logits = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~visible, float("-inf"))
    return logits.softmax(-1).nan_to_num() @ v


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_as_exact_as_its_inputs(dtype: torch.dtype) -> None:
    for module in (bigbird(), Local(window=3)):
        parts = [(8 * part).to(dtype).requires_grad_() for part in qkv(41)]
        exact = [part.detach().double().requires_grad_() for part in parts]
        out, expected = module(*parts, Mask()), module(*exact, Mask())
        assert out.dtype == dtype
        assert_close(out.double(), expected, tolerance=2e-2)
        for actual, gradient in zip(
            torch.autograd.grad(out.sum(), parts), torch.autograd.grad(expected.sum(), exact), strict=True
        ):
            assert (actual.double() - gradient).abs().max() < 0.02 * gradient.abs().max() + 0.05


PLANE = behind(1, Layout.of(Grid(("row", "column"), (4, 4))))
MASKS = {
    "plain": Mask(),
    "causal": Mask(causal=True),
    "padded": Mask(valid=torch.arange(17) < torch.tensor([[9], [17]])),
    "plane": Mask(layout=PLANE),
}


@each_mechanism
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_shapes_are_known_without_numbers(module: Attention, mask: Mask) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        q = torch.empty(2, HEADS, 17, 8, requires_grad=True)
        out = module(q, q, q, mask)
        out.sum().backward()
        assert (out.shape, out.device.type) == (q.shape, "cpu")
        assert q.grad is not None


@pytest.mark.slow
def test_compiles_without_a_graph_break() -> None:
    """In a process of its own, where annotations aren't checked: torch.compile can't look into the checks."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


COMPILED = """
import torch
from plugformer.interfaces import Grid, Layout, Mask
from plugformer_attention.bigbird import BigBird
from plugformer_attention.local import Local

plane = Layout.of(Grid(("row", "column"), (4, 4)))
valid = torch.arange(16) < torch.tensor([[9], [16]])
for module in (BigBird(num_heads=2, max_length=64, layer=0, seed=0, block_size=4), Local(window=3)):
    for mask in (Mask(), Mask(causal=True), Mask(valid=valid), Mask(layout=plane)):
        torch.compiler.reset()
        parts = [torch.randn(2, 2, 16, 8, requires_grad=True) for _ in range(3)]
        results = []
        for forward in (module.forward, torch.compile(module.forward, backend="aot_eager", fullgraph=True)):
            out = forward(*parts, mask)
            results.append([out, *torch.autograd.grad(out.square().sum(), parts)])
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected)
    # A step with memory of fixed size is one graph for all places.
    torch.compiler.reset()
    step = torch.compile(module.forward, backend="aot_eager", fullgraph=True, dynamic=False)
    q, k, v = (torch.randn(2, 2, count, 8) for count in (1, 60, 60))
    for start in (3, 17, 40):
        mask = Mask(causal=True, start=torch.tensor(start), valid=torch.arange(60) > torch.tensor([[-1], [2]]))
        with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile" if start > 3 else "default"):
            torch.testing.assert_close(step(q, k, v, mask), module(q, k, v, mask))
"""


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_window_blocks": 4}, "attention.num_window_blocks=4 is even.*\n.*3 or 5"),
        ({"block_size": 0}, "attention.block_size=0 is too small.*\n.*1 or more"),
        ({"num_random_blocks": -1}, "attention.num_random_blocks=-1 is too small.*\n.*0 or more"),
    ],
)
def test_options_that_make_no_pattern_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        bigbird(**options)


def test_a_negative_window_is_refused() -> None:
    with pytest.raises(UserError, match=r"attention.window=-1 is negative"):
        Local(window=-1)


def test_two_images_on_one_grid_are_refused():
    """They would lie on the same places."""
    image = Layout.of(Grid(("row", "column"), (4, 4)))
    both = Mask(layout=Layout.concatenate([image, image]))
    q, k, v = (noise(1, 4, 32, 8, seed=part) for part in range(3))
    for node in ({"name": "local"}, {"name": "bigbird"}):
        mechanism = build("attention", node, num_heads=4, max_length=64, layer=0, seed=0)
        with pytest.raises(RuntimeError, match="two tokens lie on one place of the grid, such as those of two images"):
            mechanism(q, k, v, both)
