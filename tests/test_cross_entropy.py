"""Chunked cross-entropy against torch's."""

import importlib.util
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from plugformer.nn.cross_entropy import cross_entropy, likeliest

TOKENS, DIM, VOCAB = 13, 6, 11
CHUNKS = [1, 4, 13, 100]
PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.linear)
OPTIONS = [{}, {"z_loss": 0.1}, {"label_smoothing": 0.2}, {"z_loss": 0.3, "label_smoothing": 0.1}]


def parts(dtype=torch.float64, *, bias=True, grad=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(TOKENS, DIM), (VOCAB, DIM), *([(VOCAB,)] if bias else [])]
    found = [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    target = torch.randint(VOCAB, (TOKENS,), generator=generator)
    counts = torch.rand(TOKENS, generator=generator, dtype=torch.float64) * (torch.arange(TOKENS) % 3 > 0)
    return [part.requires_grad_(grad) for part in found], target, counts


def plain(hidden, weight, bias, target, counts, *, z_loss=0.0, label_smoothing=0.0):
    """With all logits at once."""
    logits = F.linear(hidden, weight, bias).to(torch.promote_types(hidden.dtype, torch.float32))
    losses = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    losses = losses + z_loss * logits.logsumexp(-1).square()
    return (losses * counts).sum() / counts.sum()


def call(found, target, **options):
    hidden, weight, *bias = found
    return cross_entropy(hidden, weight, target, bias=bias[0] if bias else None, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_value_and_gradients_are_those_of_torch(chunk, bias, options):
    found, target, counts = parts(bias=bias)
    made = call(found, target, counts=counts, chunk=chunk, **options)
    hidden, weight, *shift = found
    expected = plain(hidden, weight, shift[0] if shift else None, target, counts, **options)
    torch.testing.assert_close(made.loss, expected, atol=1e-12, rtol=1e-12)
    ours, theirs = (torch.autograd.grad(3 * loss, found) for loss in (made.loss, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_are_those_of_finite_differences(options):
    found, target, counts = parts()
    assert torch.autograd.gradcheck(lambda *them: call(them, target, counts=counts, chunk=4, **options).loss, found)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_tells_of_each_token_how_likely_it_was(chunk):
    """Without what is added to the loss, and without gradient."""
    found, target, counts = parts()
    logits = F.linear(*found)
    made = call(found, target, counts=counts, chunk=chunk, z_loss=1.0, label_smoothing=0.5)
    torch.testing.assert_close(made.nats, F.cross_entropy(logits, target, reduction="none"), atol=1e-12, rtol=1e-12)
    assert torch.equal(made.correct, logits.argmax(-1) == target)
    assert made.correct.any()
    assert not made.correct.all()
    assert not made.nats.requires_grad


def test_all_tokens_count_alike_without_counts():
    found, target, _ = parts()
    expected = F.cross_entropy(F.linear(*found), target)
    torch.testing.assert_close(call(found, target).loss, expected)
    for ones in (torch.ones(TOKENS, dtype=torch.bool), torch.ones(TOKENS, dtype=torch.long)):
        assert torch.equal(call(found, target, counts=ones).loss, call(found, target).loss)


def test_what_counts_for_nothing_changes_nothing():
    found, target, counts = parts()
    loss = call(found, target, counts=counts).loss
    (gradient,) = torch.autograd.grad(loss, found[:1])
    assert not gradient[counts == 0].any()
    assert gradient[counts > 0].all()
    other = target.where(counts > 0, 0)
    assert torch.equal(call(found, other, counts=counts).loss, loss)


def test_nothing_that_counts_is_no_loss():
    found, target, counts = parts()
    loss = call(found, target, counts=0 * counts, z_loss=1.0).loss
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, found):
        assert not gradient.any()


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_makes_only_the_gradients_that_are_wanted(wanted):
    found, target, counts = parts(grad=False)
    for part, wants in zip(found, wanted, strict=True):
        part.requires_grad_(wants)
    loss = call(found, target, counts=counts, chunk=5).loss
    kept = [saved is not None for saved in loss.grad_fn.saved_tensors]
    assert kept == list(wanted)
    loss.backward()
    alone = [None if part.grad is None else part.grad.clone() for part in found]
    together, _, _ = parts()
    call(together, target, counts=counts).loss.backward()
    for one, other, wants in zip(alone, together, wanted, strict=True):
        assert (one is not None) == wants
        if wants:
            torch.testing.assert_close(one, other.grad)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, and how many products are taken."""

    def __init__(self):
        super().__init__()
        self.largest = self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.numel())
        self.products += function._overloadpacket in PRODUCTS
        return made


@pytest.mark.parametrize("chunk", [8, 32])
def test_never_holds_more_logits_than_those_of_a_chunk(chunk):
    """Forward and backward."""
    tokens, dim, vocab = 200, 4, 50
    hidden, weight = torch.randn(tokens, dim, requires_grad=True), torch.randn(vocab, dim, requires_grad=True)
    with Largest() as seen:
        cross_entropy(hidden, weight, torch.arange(tokens) % vocab, chunk=chunk, z_loss=0.1).loss.backward()
    assert seen.largest == max(chunk * vocab, tokens * dim)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_on_no_gradient_where_none_is_recorded(mode):
    found, target, counts = parts()
    with Largest() as seen, mode():
        made = call(found, target, counts=counts, chunk=5)
    assert seen.products == 3  # the logits of each chunk
    assert not made.loss.requires_grad
    assert torch.equal(made.loss, call(found, target, counts=counts, chunk=5).loss)


# bfloat16 has 8 bits of mantissa: products of numbers around 1 differ by about 2**-8 from the exact ones.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_types_and_sums_in_float32_at_least(dtype):
    found, target, counts = parts(dtype)
    made = call(found, target, counts=counts, chunk=4)
    made.loss.backward()
    assert (made.loss.dtype, made.nats.dtype) == (torch.float32, torch.float32)
    exact, _, _ = parts()
    expected = plain(*exact, target, counts)
    expected.backward()
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(made.loss, expected.float(), atol=tolerance, rtol=tolerance)
    for part, other in zip(found, exact, strict=True):
        assert part.grad.dtype == dtype
        torch.testing.assert_close(part.grad.double(), other.grad, atol=tolerance, rtol=tolerance)


def test_takes_products_in_the_type_of_autocast():
    found, target, counts = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        made = call(found, target, counts=counts, chunk=4)
        expected = plain(*found, target, counts)
    ours, theirs = (torch.autograd.grad(loss, found) for loss in (made.loss, expected))
    torch.testing.assert_close(made.loss, expected.float(), atol=1e-5, rtol=1e-5)
    exact = call(found, target, counts=counts).loss
    assert (made.loss - exact).abs() > 1e-5, "not in bfloat16"
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, atol=0.01, rtol=0.03)  # chunks are added up in float32 here


def test_leaves_autocasts_copy_of_the_weight_alone():
    """One made here, where no gradient is recorded, would cut off whoever uses the weight afterwards."""
    (hidden, weight), target, _ = parts(torch.float32, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        cross_entropy(hidden, weight, target)
        assert F.linear(hidden.detach(), weight).requires_grad


def test_needs_no_numbers_to_be_measured():
    with FakeTensorMode(allow_non_fake_inputs=True):
        hidden, weight = torch.randn(9, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
        made = cross_entropy(hidden, weight, torch.zeros(9, dtype=torch.long), counts=torch.ones(9), chunk=2)
        made.loss.backward()
    assert hidden.grad.shape == (9, 4)


def test_is_one_graph():
    spec = importlib.util.spec_from_file_location("unchecked", sys.modules[cross_entropy.__module__].__file__)
    unchecked = importlib.util.module_from_spec(spec)  # for the checks of annotations in tests can't be compiled
    spec.loader.exec_module(unchecked)
    (hidden, weight, bias), target, counts = parts(torch.float32)

    def loss(hidden, weight, bias):
        return unchecked.cross_entropy(hidden, weight, target, bias=bias, counts=counts, chunk=5).loss

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ours, plainly = (torch.autograd.grad(f(hidden, weight, bias), [hidden, weight, bias]) for f in (compiled, loss))
    for one, other in zip(ours, plainly, strict=True):
        torch.testing.assert_close(one, other)
    torch._dynamo.reset()


@pytest.mark.parametrize("chunk", CHUNKS)
def test_likeliest_are_the_first_of_the_sorted_probabilities(chunk):
    (hidden, weight, bias), _, _ = parts()
    entries, probabilities = likeliest(hidden, weight, bias=bias, count=3, chunk=chunk)
    expected = F.linear(hidden, weight, bias).softmax(-1).sort(-1, descending=True)
    assert torch.equal(entries, expected.indices[:, :3])
    torch.testing.assert_close(probabilities, expected.values[:, :3])
    assert not probabilities.requires_grad
