"""LSH attention: what it must be besides what every mechanism must (`test_plugins`)."""

import math
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from plugformer.errors import UserError
from plugformer.interfaces import Mask
from plugformer.nn.cache import select_state
from plugformer.nn.multi_head import MultiHeadAttention
from plugformer.nn.positions import NoPosition
from plugformer.nn.replay import Replay
from plugformer.registry import build
from plugformer.testing.comparing import assert_close, noise
from plugformer_attention.lsh.attention import normalised
from plugformer_attention.lsh.hashing import MOST_AT_ONCE, choose_num_buckets, factorise
from plugformer_attention.lsh.memory import Grown
from plugformer_attention.reformer_lsh import ReformerLSH

ROOT = Path(__file__).parent.parent
HEADS, SIZE = 3, 16


def make(*, causal: bool = True, max_length: int = 64, layer: int = 0, seed: int = 0, **options: Any) -> ReformerLSH:
    context = {"num_heads": HEADS, "head_dim": SIZE, "causal": causal, "max_length": max_length}
    return build("attention", {"name": "reformer_lsh", **options}, layer=layer, seed=seed, **context).eval()


def heads(length: int, *, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Queries, which are keys as well, and values."""
    q, v = (noise(batch, HEADS, length, SIZE, seed=2 * seed + part).to(dtype) for part in range(2))
    return (2 * q).requires_grad_(), v.requires_grad_()


def results(compute: Any, q: Tensor, v: Tensor, mask: Mask) -> list[Tensor]:
    """Output and gradients."""
    out = compute(q, q, v, mask)
    return [out, *torch.autograd.grad(out, (q, v), noise(*out.shape, seed=9).to(out.dtype))]


def assert_same_results(one: list[Tensor], other: list[Tensor], tolerance: float = 1e-10) -> None:
    for name, actual, expected in zip(("output", "query gradient", "value gradient"), one, other, strict=True):
        assert_close(actual, expected, tolerance=tolerance, what=name)


def padding(length: int) -> Tensor:
    """On the left of one sequence, inside the other."""
    place = torch.arange(length)
    return torch.stack([place >= length // 4, place % 5 != 3])


def segments(length: int) -> Tensor:
    """In a row, and mixed."""
    place = torch.arange(length)
    return torch.stack([place * 3 // length - 1, place % 3])


# ---------------------------------------------------------------------------------------------- by the book


@pytest.mark.parametrize("causality", ["strict", "gradient"])
@pytest.mark.parametrize("chunk_length", [1, 5, 16, 64])
def test_is_the_plain_version(causality, chunk_length):
    """Outputs and gradients, with chunks that divide the length, that don't, and that are longer."""
    for num_buckets, num_rounds in ((6, 1), (2, 3), (1, 2)):
        options = {"num_buckets": num_buckets, "num_rounds": num_rounds, "chunk_length": chunk_length}
        mechanism = make(causality=causality, **options)
        for length, causal in product((1, 17, 40), (True, False)):
            everything = {"valid": padding(length), "segments": segments(length)}
            for parts in ({}, {"valid": padding(length)}, {"segments": segments(length)}, everything):
                q, v = heads(length)
                mask = Mask(causal=causal, **parts)
                assert_same_results(results(mechanism, q, v, mask), results(mechanism.plain, q, v, mask))


def test_is_the_same_in_tiles(monkeypatch):
    """Of one block, as of all blocks of a round."""
    q, v = heads(45)
    for causality, causal in product(("strict", "gradient"), (True, False)):
        mechanism, mask = make(causality=causality, chunk_length=4, num_buckets=4), Mask(causal=causal)
        together = results(mechanism, q, v, mask)
        with monkeypatch.context() as patch:
            patch.setattr("plugformer_attention.lsh.attention.CACHED", 1)
            assert_same_results(results(mechanism, q, v, mask), together)


def test_hashes_to_the_nearest_direction():
    """Or the opposite one, by the largest of [xR, -xR]; each head and round by directions of its own."""
    mechanism, (q, _) = make(num_buckets=6, num_rounds=2), heads(40)
    rotated = torch.einsum("bhld,rhdk->rbhlk", q, mechanism.hashing.rotations.double())
    assert torch.equal(mechanism.hashing(q), torch.cat([rotated, -rotated], -1).argmax(-1).int())
    assert len(torch.unique(mechanism.hashing.rotations.flatten(0, 1)[..., 0], dim=0)) == 2 * HEADS


def test_near_vectors_share_buckets():
    """The more often, the smaller their angle, also where a hash is a product of two."""
    x = noise(1, HEADS, 500, SIZE)
    for num_buckets in (16, 144):
        hashing = make(num_buckets=num_buckets, num_rounds=8, max_length=1000).hashing
        assert hashing(x).max() < num_buckets
        shared = [(hashing(x) == hashing(x + far * noise(*x.shape, seed=1))).float().mean() for far in (0, 0.1, 1, 3)]
        assert shared[0] == 1
        assert all(near > 1.05 * far for near, far in pairwise(shared))
        assert shared[-1] < shared[1] / 4


def test_many_buckets_cost_little():
    hashing = make(num_buckets=4096, max_length=2**17).hashing
    assert hashing.factors == (64, 64)
    assert hashing.rotations.shape[-1] == 64
    assert len(hashing(noise(1, HEADS, 3000, SIZE)).unique()) > 1500


# ---------------------------------------------------------------------------------------------- exact, and peers


@pytest.mark.parametrize("causal", [True, False])
def test_one_bucket_is_exact(causal):
    """Attention to all others but oneself, which reformer-pytorch has as well."""
    peers = pytest.importorskip("reformer_pytorch.reformer_pytorch")
    q, v = heads(48)
    mechanism, mask = make(causal=causal, **ReformerLSH.exact_options), Mask(causal=causal)
    exact = results(mechanism.exact, q, v, mask)
    assert_same_results(results(mechanism, q, v, mask), exact)

    def peer(q: Tensor, _: Tensor, v: Tensor, __: Mask) -> Tensor:
        return peers.FullQKAttention(causal=causal)(q.flatten(0, 1), v.flatten(0, 1))[0].view(q.shape)

    assert_same_results(results(peer, q, v, mask), exact, tolerance=1e-6)


def test_is_what_reformer_pytorch_computes(monkeypatch):
    """Given the same buckets, and kept within them: several rounds, causal by sorted chunks."""
    peers = pytest.importorskip("reformer_pytorch.reformer_pytorch")
    mechanism, (q, v) = make(causality="gradient", num_rounds=3, chunk_length=8, num_buckets=6), heads(48)
    theirs = peers.LSHAttention(bucket_size=8, n_hashes=3, causal=True, attend_across_buckets=False)
    offset = 6 * torch.arange(3)[:, None, None, None]
    bucket = (mechanism.hashing(q) + offset).permute(1, 2, 0, 3).flatten(2).flatten(0, 1).long()
    monkeypatch.setattr(theirs, "hash_vectors", lambda *_, **__: bucket)

    def peer(q: Tensor, _: Tensor, v: Tensor, __: Mask) -> Tensor:
        return theirs(q.flatten(0, 1), v.flatten(0, 1))[0].view(q.shape)

    mask = Mask(causal=True)
    assert_same_results(results(mechanism, q, v, mask), results(peer, q, v, mask), tolerance=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_more_rounds_come_closer(causal):
    errors = []
    for options in ReformerLSH.finer_options:
        error = torch.zeros(())
        for seed in range(8):
            (q, v), mask = heads(48, seed=seed), Mask(causal=causal)
            mechanism = make(causal=causal, seed=seed, **options)
            error = error + (mechanism(q, q, v, mask) - mechanism.exact(q, q, v, mask)).detach().square().mean()
        errors.append(error.item())
    assert all(finer < coarser for coarser, finer in pairwise(errors))
    assert errors[-1] < errors[0] / 4


def test_attends_to_itself_only_where_there_is_nothing_else():
    q, v = heads(40)
    mechanism, mask = make(chunk_length=8, num_buckets=8, num_rounds=2), Mask(causal=True)
    assert torch.equal(mechanism(q, q, v, mask)[:, :, 0], v[:, :, 0])
    bucket = mechanism.hashing(q)
    earlier = (bucket[..., :, None] == bucket[..., None, :]).tril(-1).any(-1).any(0)
    influence = torch.autograd.grad(mechanism(q, q, v, mask).sum(), v)[0]
    assert 0 < (~earlier).sum() < earlier.numel() / 2
    for place in (~earlier).nonzero()[:5].tolist():
        at = tuple(place)
        assert torch.equal(mechanism(q, q, v, mask)[at], v[at])
        changed = v.detach().clone()
        changed[at] += 1
        assert torch.equal(mechanism(q, q, changed, mask)[at], changed[at])
    for place in earlier.nonzero()[:5].tolist():
        at = tuple(place)
        changed = v.detach().clone()
        changed[at] += 1
        assert torch.equal(mechanism(q, q, changed, mask)[at], mechanism(q, q, v, mask)[at])
    assert influence.isfinite().all()


# ---------------------------------------------------------------------------------------------- the past alone


def test_strict_is_strict_to_the_bit():
    """Over several chunks a bucket, where what comes after is resampled, scaled, or all of one direction."""
    mechanism, mask = make(chunk_length=16, num_buckets=4, max_length=256), Mask(causal=True)
    q, v = (part.detach() for part in heads(256, batch=1, dtype=torch.float32))
    before = mechanism(q, q, v, mask)
    for cut in (1, 40, 128, 201, 255):
        for future in (noise(1, HEADS, 256 - cut, SIZE, seed=5), q[:, :, :1].expand(-1, -1, 256 - cut, -1)):
            for scale in (0, 1, 4, 30):
                q2, v2 = (torch.cat([part[:, :, :cut], scale * future], 2) for part in (q, v))
                moved = (mechanism(q2, q2, v2, mask) - before)[:, :, :cut].abs().max()
                assert moved <= 1e-7, f"the future from {cut} on moves the past by {moved}"


def test_sorted_chunks_are_gradient_causal_only():
    """Future tokens move past ones between chunks: the fault of the classic form, which is declared."""
    mechanism, mask, (q, v) = make(causality="gradient", chunk_length=4, num_buckets=4), Mask(causal=True), heads(48)
    assert mechanism.capabilities.causality == "gradient"
    assert make().capabilities.causality == ReformerLSH.capabilities.causality == "strict"
    out = mechanism(q, q, v, mask)[:, :, :24]
    assert not any(part[:, :, 24:].any() for part in torch.autograd.grad(out.sum(), (q, v)))
    other = torch.cat([q[:, :, :24], noise(2, HEADS, 24, SIZE, seed=7).double()], 2)
    assert (mechanism(other, other, v, mask)[:, :, :24] - out).abs().max() > 1e-3


# ---------------------------------------------------------------------------------------------- padding, and decoding


@pytest.mark.parametrize("causality", ["strict", "gradient"])
def test_padding_moves_no_token_between_chunks(causality):
    """On either side, and whatever it holds."""
    for causal in (True, False):
        mechanism, (q, v) = make(causality=causality, chunk_length=4, num_buckets=6), heads(30)
        alone = results(mechanism, q, v, Mask(causal=causal))[0]
        for left, right in ((0, 1), (0, 34), (7, 0), (9, 5)):
            valid = torch.cat([torch.zeros(left), torch.ones(30), torch.zeros(right)]).bool().expand(2, -1)
            padded = [torch.nn.functional.pad(part, (0, 0, left, right), value=3.0) for part in (q, v)]
            out = mechanism(padded[0], *padded, Mask(causal=causal, valid=valid))
            assert_close(out[:, :, left : left + 30], alone, tolerance=1e-10)
            assert not out[:, :, :left].any()
            assert not out[:, :, left + 30 :].any()


@pytest.mark.parametrize("prompt", [1, 2, 30, 61])
def test_steps_are_the_whole_with_padding_before(prompt):
    """A prompt, some tokens at once, then one after the other, over many chunks a bucket."""
    mechanism, (q, v) = make(chunk_length=4, num_buckets=4, num_rounds=3), heads(64)
    valid = torch.arange(64) >= torch.tensor([[0], [5]])
    state, outputs = None, []
    steps = [prompt, 3, *[1] * (61 - prompt)]
    parts = zip(*(part.split(steps, 2) for part in (q, v)), valid.split(steps, 1), strict=True)
    for new_q, new_v, new_valid in parts:
        out, state = mechanism.step(new_q, new_q, new_v, state, new_valid)
        outputs.append(out)
    assert_close(torch.cat(outputs, 2), mechanism(q, q, v, Mask(causal=True, valid=valid)), tolerance=1e-10)


def test_what_has_grown_stays_as_it_was():
    """Tokens are added to memory got ahead, unless another way to go on has been there first."""
    first = Grown(noise(2, 3, 4), 1).extend(noise(2, 1, 4, seed=1))
    before = first.seen.clone()
    one, other = (first.extend(noise(2, 2, 4, seed=seed)) for seed in (2, 3))
    assert one.seen.data_ptr() == first.seen.data_ptr() != other.seen.data_ptr()
    assert torch.equal(first.seen, before)
    for grown, seed in ((one, 2), (other, 3)):
        assert torch.equal(grown.seen, torch.cat([before, noise(2, 2, 4, seed=seed)], 1))
    rows = torch.tensor([1, 1, 0])
    chosen = select_state(one, rows)
    assert torch.equal(chosen.extend(noise(3, 1, 4)).seen, torch.cat([one.seen[rows], noise(3, 1, 4)], 1))
    copies = set()
    for _ in range(1000):
        first = first.extend(noise(2, 1, 4))
        copies.add(first.seen.data_ptr())
    assert len(copies) < 15


def test_sorted_chunks_decode_nothing():
    mechanism, (q, v) = make(causality="gradient"), heads(5)
    assert mechanism.capabilities.decoding == "none"
    with pytest.raises(NotImplementedError, match="decoding='none'"):
        mechanism.step(q, q, v, None)


# ---------------------------------------------------------------------------------------------- drawn hashes


def test_hashes_are_the_seeds_and_the_layers():
    """Whatever else is drawn, in training as in evaluation."""
    first = make().hashing.rotations
    torch.rand(3)
    assert torch.equal(make().train().hashing.rotations, first)
    for other in (make(layer=1), make(seed=1)):
        assert (other.hashing.rotations != first).all()


def test_hashes_again_when_asked():
    """By the seed and the step alone: going on from a checkpoint, at any step, draws the same."""
    steady, moving, late = make(), make(rehash_every=10), make(rehash_every=10)
    drawn = []
    for step in range(25):
        steady.before_step(step)
        moving.before_step(step)
        if not drawn or not torch.equal(drawn[-1], moving.hashing.rotations):
            drawn.append(moving.hashing.rotations.clone())
            assert step % 10 == 0
    assert torch.equal(steady.hashing.rotations, drawn[0])
    assert len(drawn) == 3
    late.before_step(24)
    assert torch.equal(late.hashing.rotations, drawn[2])
    late.before_step(3)
    assert torch.equal(late.hashing.rotations, drawn[0])


def test_a_checkpoint_knows_which_rotations_it_holds():
    moving, fresh = make(rehash_every=10), make(rehash_every=10)
    moving.before_step(35)
    fresh.load_state_dict(moving.state_dict())
    fresh.before_step(0)
    assert torch.equal(fresh.hashing.rotations, make().hashing.rotations)


def test_steps_of_large_queries_in_half_precision():
    """Whose squares are larger than any number of float16."""
    mechanism, (q, v) = make(), heads(20)
    q, v = (400 * q / q.norm(dim=-1, keepdim=True)).detach().half(), v.detach().half()
    whole, state, outputs = mechanism(q, q, v, Mask(causal=True)), None, []
    for new_q, new_v in zip(q.split(1, 2), v.split(1, 2), strict=True):
        out, state = mechanism.step(new_q, new_q, new_v, state)
        outputs.append(out)
    assert_close(torch.cat(outputs, 2).float(), whole.float(), tolerance=1e-2)


def test_buckets_are_replayed():
    """A rounding error while recomputing changes no bucket, or the gradient would be of another function."""
    mechanism, (q, v), mask = make(chunk_length=4, num_buckets=8), heads(40), Mask(causal=True)
    replay = Replay(q.device)
    with replay.first():
        first = mechanism(q, q, v, mask)
    mechanism.hashing.draw(1)
    assert not torch.equal(mechanism(q, q, v, mask), first)
    with replay.again():
        assert torch.equal(mechanism(q, q, v, mask), first)


# ---------------------------------------------------------------------------------------------- precision, size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_finite_and_near(dtype):
    """With logits up to 200, and for vectors of zeros."""
    for causal in (True, False):
        mechanism, mask = make(chunk_length=8), Mask(causal=causal)
        q, v = heads(50)
        q = (50 * q).detach().to(dtype).requires_grad_()
        q.data[:, :, 20:24] = 0
        v = v.detach().to(dtype).requires_grad_()
        mine = results(mechanism, q, v, mask)
        assert all(part.isfinite().all() and part.dtype == dtype for part in mine)
        assert_close(mine[0].double(), mechanism.plain(q.double(), q.double(), v.double(), mask), tolerance=0.02)


def test_autocast_rounds_no_product():
    mechanism, (q, v), mask = make(chunk_length=8), heads(50, dtype=torch.float32), Mask(causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        within = results(mechanism, q, v, mask)
    assert_same_results(within, results(mechanism, q, v, mask), tolerance=0.0)


def test_keeps_one_row_a_token():
    """Between the passes: queries, values, outputs, and a few numbers a token and round."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    rounds, length = 8, 256
    mechanism, (q, v) = make(num_rounds=rounds, max_length=256), heads(length, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mechanism(q, q, v, Mask(causal=True))
    tokens = 2 * HEADS * length
    assert sum(kept.values()) <= 3 * 4 * tokens * SIZE + 12 * tokens * rounds + 4 * tokens


def test_projections_reach_it_uncopied():
    """And both passes work through the wrapper, without a projection of keys."""
    mechanism = make(chunk_length=8)
    wrapper = MultiHeadAttention(dim=HEADS * SIZE, num_heads=HEADS, mechanism=mechanism, position=NoPosition())
    assert wrapper.key is None
    wrapper(noise(2, 40, HEADS * SIZE), Mask(causal=True)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in wrapper.parameters())


def test_needs_no_storage():
    mask = Mask(causal=True, valid=torch.ones(2, 100, dtype=torch.bool, device="meta"))
    with torch.device("meta"):
        q, v = torch.randn(2, HEADS, 100, SIZE), torch.randn(2, HEADS, 100, SIZE)
        assert make(max_length=100)(q, q, v, mask).shape == q.shape
    with FakeTensorMode(allow_non_fake_inputs=True):
        q, v = (torch.randn(2, HEADS, 100, SIZE, requires_grad=True) for _ in range(2))
        make(max_length=100)(q, q, v, Mask()).sum().backward()
        assert q.grad.shape == q.shape


COMPILED = """
import torch
from tests.test_reformer_lsh import Mask, heads, make, padding, results, assert_same_results, segments
for causality, causal in (("strict", True), ("gradient", True), ("gradient", False)):
    mechanism, (q, v) = make(causality=causality, chunk_length=16), heads(50, dtype=torch.float32)
    mask = Mask(causal=causal, valid=padding(50), segments=segments(50))
    compiled = torch.compile(mechanism, fullgraph=True, backend="BACKEND")
    assert_same_results(results(compiled, q, v, mask), results(mechanism, q, v, mask), tolerance=1e-5)
    torch._dynamo.reset()
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_is_one_graph(backend):
    """In a process where shapes in annotations are not checked."""
    code = COMPILED.replace("BACKEND", backend)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=600)


# ---------------------------------------------------------------------------------------------- options


def test_chooses_buckets_by_the_longest_sequence():
    """About two a chunk, always a number that can be hashed to."""
    assert make(max_length=4096).hashing.num_buckets == 128
    assert make(max_length=64).hashing.num_buckets == 2
    for max_length, chunk_length in product((1, 63, 1000, 4097, 12345, 65536, 10**6), (1, 16, 64, 100)):
        chosen = choose_num_buckets(max_length, chunk_length)
        factors = factorise(chosen)
        assert math.prod(factors) == chosen
        assert all(factor % 2 == 0 and factor <= 2 * max(MOST_AT_ONCE, math.isqrt(chosen)) for factor in factors)
        assert chosen == 2 or 0.7 < chosen * chunk_length / (2 * max_length) < 1.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_buckets": 7}, r"attention.num_buckets=7: .*even.*\n  Set it to 6, 8, or to null"),
        ({"num_buckets": 0}, r"attention.num_buckets=0: .*\n  Set it to 2, or to null"),
        ({"num_buckets": 130}, r"attention.num_buckets=130: .*multiple of 4.*\n  Set it to 128 or 132"),
        ({"num_rounds": 0}, "attention.num_rounds=0: must be at least 1"),
        ({"chunk_length": 0}, "attention.chunk_length=0: must be at least 1"),
        ({"rehash_every": -1}, "attention.rehash_every=-1: rotations can.t be drawn anew so often"),
    ],
)
def test_refuses_what_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_warns_of_buckets_without_company():
    with pytest.warns(UserWarning, match=r"attention.num_buckets=100 for at most 64 tokens.*Usual is 2\."):
        make(num_buckets=100)


def test_keys_have_length_one():
    keys = normalised(noise(4, SIZE).double())
    assert_close(keys.norm(dim=-1), torch.ones(4).double(), tolerance=1e-6)
