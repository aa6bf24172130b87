"""What mechanisms tell of themselves, held to plain computations of it."""

import math
from collections import Counter

import pytest
import torch
from tests.helpers import quick_config

from plugformer.assemble import build_model, preview
from plugformer.data.loaders import make_loader
from plugformer.interfaces import Attention, Grid, Layout, Mask
from plugformer.nn.full_attention import Full
from plugformer.registry import build
from plugformer.testing.comparing import noise
from plugformer.testing.heads import HeadsSuite
from plugformer.train.diagnostics import calls_of, diagnose, first_samples
from plugformer_attention import diagnosing
from plugformer_attention.lsh import reference as lsh
from plugformer_attention.sparse.reference import Choice, bigbird_visibility, local_visibility

HEADS, DIM = 4, 8
OPTIONS = {
    "reformer_lsh": {"num_rounds": 2, "num_buckets": 4, "chunk_length": 8},
    "local": {"window": 5},
    "bigbird": {"block_size": 8, "num_random_blocks": 1, "num_global_blocks": 1},
    "performer": {"num_features": 32},
    "random_feature": {"num_features": 32},
}
LENGTH = 83


def ways(name):
    """A mechanism, what it is given, and whether that is causal."""
    suite = type("Laws", (HeadsSuite,), {"name": name, "options": OPTIONS[name]})()
    for module, causal in suite.ways():
        for mask in suite.masks(LENGTH, causal=causal).values():
            yield module, suite.heads(LENGTH), mask


def every(mask):
    """Which keys every query that counts may see."""
    visible = mask.dense(LENGTH, LENGTH, torch.device("cpu"))
    visible = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool) if visible is None else visible
    visible = visible.expand(2, HEADS, -1, -1)
    return visible if mask.valid is None else visible & mask.valid[:, None, :, None]


def share(logits, visible, seen):
    """Of the weights of what is visible, that of what is seen."""
    weights = logits.masked_fill(~visible, -math.inf).softmax(-1)
    rows = visible.any(-1)
    return (weights * seen).sum(-1)[rows].mean().item()


@pytest.fixture(params=[None, 7], ids=["all", "few"])
def few(request, monkeypatch):
    """How many queries are looked at, if not all."""
    if request.param:
        monkeypatch.setattr(diagnosing, "PAIRS", request.param * 2 * HEADS * 96)
    return request.param


def test_coverage_of_hashing_is_what_it_sees_of_all_weights(few):
    for module, (q, k, v), mask in ways("reformer_lsh"):
        seen = lsh.visible(module.hashing(q), mask, module._order(mask), module.chunk_length).any(0)
        logits = q @ lsh.normalised(q).mT / DIM**0.5 + lsh.SELF * torch.eye(LENGTH)
        told = module.diagnose(q, k, v, mask)["coverage"]
        tolerance = 0.2 if few else 1e-5
        assert told == pytest.approx(share(logits, every(mask), seen), abs=tolerance)


def test_entropy_of_buckets_is_what_it_is_by_hand():
    for module, (q, k, v), mask in ways("reformer_lsh"):
        bucket, entropies = module.hashing(q), []
        for sample in range(2):
            real = slice(None) if mask.valid is None else mask.valid[sample]
            for found in bucket[:, sample].flatten(0, 1):
                counts = Counter(found[real].tolist())
                total = counts.total()
                entropy = -sum(count / total * math.log(count / total) for count in counts.values())
                entropies.append(entropy / math.log(min(4, total)))
        assert module.diagnose(q, k, v, mask)["bucket_entropy"] == pytest.approx(sum(entropies) / len(entropies))


def seen_by(module, q, k, mask):
    if hasattr(module, "window"):
        return local_visibility(module.window, q, k, mask)
    choice = Choice(module.block_size, module.num_window_blocks, module.num_global_blocks, module.draws)
    return bigbird_visibility(choice, q, k, mask)


@pytest.mark.parametrize("name", ["local", "bigbird"])
def test_coverage_of_a_pattern_is_what_it_sees_of_all_weights(name, few):
    for module, (q, k, v), mask in ways(name):
        expected = share(q @ k.mT / DIM**0.5, every(mask), seen_by(module, q, k, mask))
        told = module.diagnose(q, k, v, mask)["coverage"]
        assert told == pytest.approx(expected, abs=0.2 if few else 1e-5)
        assert expected < 0.99


@pytest.mark.parametrize("name", ["local", "bigbird"])
def test_coverage_follows_the_grid_and_padding_in_front(name):
    module = build("attention", {"name": name, **OPTIONS[name]}, num_heads=HEADS, max_length=128, layer=0, seed=0)
    plane = Layout.of(Grid(("row", "column"), (8, 10)))
    nowhere = Layout(torch.zeros(1, 3, 2, dtype=torch.long), torch.full((1, 3), -1), plane.grids, leading=3)
    q, k, v = (noise(2, HEADS, LENGTH, DIM, seed=seed) for seed in range(3))
    behind = torch.arange(LENGTH) >= torch.tensor([[0], [20]])
    for mask in (
        Mask(layout=Layout.concatenate([nowhere, plane])),
        Mask(valid=behind),
        Mask(valid=behind, causal=True),
    ):
        expected = share(q @ k.mT / DIM**0.5, every(mask), seen_by(module, q, k, mask))
        assert module.diagnose(q, k, v, mask)["coverage"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["local", "bigbird", "reformer_lsh"])
def test_nothing_is_missed_with_exact_options(name):
    suite = type("Laws", (HeadsSuite,), {"name": name})()
    module = suite.make(**type(suite.new()).exact_options)
    assert module.diagnose(*suite.heads(60), Mask())["coverage"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["performer", "random_feature"])
def test_errors_of_features_are_those_of_weights_and_outputs(name, few):
    for module, (q, k, v), mask in ways(name):
        told = module.diagnose(q, k, v, mask)
        visible = every(mask)
        if name == "performer":
            true, estimate = (q @ k.mT / DIM**0.5).exp(), module.kernel(q, k)
        else:
            q1, k1 = module._unit(q), module._unit(k)
            true = (-torch.cdist(q1, k1).square() / 2).exp()
            directions = q1.new_tensor(module.projection.directions.detach().numpy())
            waves = [torch.cat([(x @ directions).sin(), (x @ directions).cos()], -1) for x in (q1, k1)]
            estimate = waves[0] @ waves[1].mT / directions.shape[-1]
        rows = visible.any(-1)
        kernel = ((estimate - true).abs() * visible).sum(-1)[rows] / (true * visible).sum(-1)[rows]
        assert told["kernel_error"] == pytest.approx(kernel.mean().item(), rel=0.5 if few else 1e-3)
        real = rows[..., None]
        out, exact = (part * real for part in (module.plain(q, k, v, mask), module.exact(q, k, v, mask)))
        expected = ((out - exact).norm() / exact.norm()).item()
        assert told["output_error"] == pytest.approx(expected, rel=0.5 if few else 1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "performer"},
        {"name": "performer", "features": "trigonometric"},
        {"name": "random_feature"},
        {"name": "random_feature", "features": "arccos"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_more_features_are_closer_to_the_kernel(options):
    q, k, v = (noise(2, HEADS, 40, DIM, seed=seed) / 2 for seed in range(3))
    errors = []
    for number in (64, 1024, 16384):
        context = {"num_heads": HEADS, "head_dim": DIM, "layer": 0, "seed": 0, "causal": False, "max_length": 64}
        told = build("attention", {**options, "num_features": number}, **context).diagnose(q, k, v, Mask())
        errors.append((told["kernel_error"], told["output_error"]))
    for finer, coarser in zip(errors[1:], errors, strict=False):
        assert all(better < worse / 1.5 for better, worse in zip(finer, coarser, strict=True)), errors
    assert all(error < 0.2 for error in errors[-1]), errors


def test_half_precision_and_large_logits_make_no_nan():
    for name, options in OPTIONS.items():
        context = {"num_heads": HEADS, "head_dim": DIM, "layer": 0, "seed": 0, "causal": True, "max_length": 128}
        module = build("attention", {"name": name, **options}, **context)
        q, k, v = (noise(1, HEADS, 40, DIM, seed=seed).bfloat16() * 50 for seed in range(3))
        told = module.diagnose(q, q if name == "reformer_lsh" else k, v, Mask(causal=True))
        assert told
        assert all(math.isfinite(value) for value in told.values()), name


# ---------------------------------------------------------------------------------------------- in a model


class Telling(Attention):
    """Tells which layer it is, and what it was given."""

    capabilities = Full.capabilities

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, q, k, v, mask, bias=None):
        return self.exact(q, k, v, mask)

    def diagnose(self, q, k, v, mask):
        return {"number": float(self.number), "samples": float(len(q)), f"of_{self.number}": q.sum().item()}


def test_figures_are_the_means_of_the_layers_that_tell_them():
    config = quick_config("backbone.num_layers=3")
    source = build("data", config["data"])
    tokenizer, _ = preview(config, source=source)
    samples = [source.samples("val")[number] for number in range(6)]
    tokenizer.fit(samples)
    model = build_model(config, tokenizer=tokenizer, data=source.spec).eval()
    (batch,) = make_loader(samples, tokenizer=tokenizer, targets=model.task.targets, batch_size=6)
    assert diagnose(calls_of(model, batch)) == {}
    blocks = model.trunk.backbone.blocks
    for number in (0, 2):  # the other one has nothing to tell
        blocks[number].attention.mechanism = Telling(number)
    given = {}
    hook = blocks[2].attention.mechanism.register_forward_pre_hook(lambda _, args: given.update(q=args[0]))
    with torch.no_grad():
        told = diagnose(calls_of(model, first_samples(batch, 4)))
    hook.remove()
    assert told.keys() == {"number", "samples", "of_0", "of_2"}
    assert (told["number"], told["samples"]) == (1, 4)
    assert told["of_2"] == given["q"].sum().item()
    assert not any(blocks[number].attention.mechanism._forward_pre_hooks for number in range(3))
