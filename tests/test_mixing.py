"""Samples of a batch mixed with each other."""

from itertools import pairwise

import pytest
import torch
from torchvision.transforms import v2

from plugformer.data.collate import Collate
from plugformer.data.loaders import make_loader
from plugformer.data.mixing import blend, check_mixing, draw_boxes, draw_mixing, paste
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec
from plugformer.testing.comparing import draws_nothing
from plugformer_tasks.classification import Classification
from plugformer_vision.vit_patch import VitPatch

BOTH = {"mixup": 0.4, "cutmix": 1.0}


def pictures(count=6, channels=3, height=10, width=14):
    torch.manual_seed(5)
    return torch.rand(count, channels, height, width)


def samples(count=24):
    torch.manual_seed(6)
    images = torch.randint(256, (count, 3, 8, 12), dtype=torch.uint8)
    return [{"id": str(n), "image": image, "label": n % 3} for n, image in enumerate(images)]


def fitted(**options):
    tokenizer = VitPatch(**options)
    tokenizer.fit(samples())
    return tokenizer


def mixed(x, batch):
    return paste(x, batch) if "box" in batch else blend(x, batch)


# ---------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_of_the_beta_distribution(alpha):
    torch.manual_seed(0)
    own = draw_mixing(20_000, alpha=alpha)["own"].double()
    assert own.min() >= 0
    assert own.max() <= 1
    assert abs(own.mean() - 0.5) < 0.01
    assert abs(own.var() - 1 / (4 * (2 * alpha + 1))) < 0.005  # αβ / (α+β)²(α+β+1)


@pytest.mark.parametrize("draw", [draw_mixing, lambda size, alpha: draw_boxes(size, height=9, width=7, alpha=alpha)])
def test_every_sample_is_a_partner_once(draw):
    batch = draw(50, alpha=1.0)
    assert batch["partner"].sort().values.tolist() == list(range(50))
    assert batch["own"].dtype == torch.float32
    assert draw(1, alpha=0.001)["own"].isfinite().all()


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_impossible_shares_are_refused(alpha):
    with pytest.raises(UserError, match=rf"tokenizer.mixup={alpha}: must be greater than 0, or 0 to mix nothing"):
        check_mixing(cutmix=0.0, mixup=alpha)


def test_own_is_the_share_of_pixels_that_are_kept():
    torch.manual_seed(1)
    batch = draw_boxes(500, height=10, width=14, alpha=1.0)
    kept = paste(torch.arange(500.0)[:, None, None, None].expand(-1, 1, 10, 14), batch)
    for number, (partner, own) in enumerate(zip(batch["partner"], batch["own"], strict=True)):
        share = (kept[number] == number).float().mean()
        torch.testing.assert_close(share, torch.tensor(1.0) if partner == number else own)


# ---------------------------------------------------------------------------------------------- mixtures


def test_a_mixture_that_is_all_its_own_is_the_sample():
    x, partner = pictures(), torch.arange(6).roll(1)
    assert torch.equal(blend(x, {}), x)
    assert torch.equal(blend(x, {"partner": partner, "own": torch.ones(6)}), x)
    assert torch.equal(blend(x, {"partner": partner, "own": torch.zeros(6)}), x[partner])
    assert torch.equal(paste(x, {"partner": partner, "box": torch.tensor([[3, 5, 3, 9]] * 6)}), x)
    assert torch.equal(paste(x, {"partner": partner, "box": torch.tensor([[0, 0, 10, 14]] * 6)}), x[partner])


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_mixing_is_torchvisions(monkeypatch, cut, seed):
    """Its transforms draw one share for a batch and make pairs of neighbours: ours do the same with the same draws."""
    drawn = {}
    inner = (v2.CutMix if cut else v2.MixUp)(num_classes=3, alpha=1.0)
    make_params = inner.make_params
    monkeypatch.setattr(inner, "make_params", lambda inputs: drawn.setdefault("params", make_params(inputs)))
    torch.manual_seed(seed)
    x, labels = pictures(), torch.tensor([0, 1, 2, 0, 1, 2])
    expected, soft = inner(x, labels)
    own = torch.full((6,), drawn["params"]["lam_adjusted" if cut else "lam"])
    batch = {"partner": torch.arange(6).roll(1), "own": own}
    if cut:
        left, top, right, bottom = drawn["params"]["box"]
        batch["box"] = torch.tensor([[top, left, bottom, right]] * 6)
    torch.testing.assert_close(mixed(x, batch), expected)

    task = Classification(dim=4, data=DataSpec(frozenset({"label"}), labels=("a", "b", "c")))
    logits = torch.randn(6, 3)
    torch.testing.assert_close(task._loss(logits, labels, batch), torch.nn.functional.cross_entropy(logits, soft))


def test_boxes_are_torchvisions(monkeypatch):
    """Of the same share and the same middle."""
    torch.manual_seed(3)
    for _ in range(50):
        share, row, column = torch.rand(()), torch.randint(10, ()), torch.randint(14, ())
        draws = iter([column[None], row[None]])
        inner = v2.CutMix(num_classes=3)
        monkeypatch.setattr(inner._dist, "sample", lambda shape, share=share: share.reshape(1))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_, draws=draws, **__: next(draws))
            theirs = inner.make_params([pictures()])
        with monkeypatch.context() as patch:
            patch.setattr("plugformer.data.mixing.Beta.sample", lambda _, shape, share=share: share.reshape(1))
            middle = (torch.stack([row, column]) + 0.5) / torch.tensor([10, 14])
            patch.setattr(torch, "rand", lambda *_, middle=middle: middle[None])
            ours = draw_boxes(1, height=10, width=14, alpha=1.0)
        left, top, right, bottom = theirs["box"]
        assert ours["box"].tolist() == [[top, left, bottom, right]]
        assert ours["own"].item() == pytest.approx(theirs["lam_adjusted"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mixing_keeps_the_numbers_type(dtype):
    batch = draw_boxes(6, height=10, width=14, alpha=1.0)
    x = pictures().to(dtype)
    assert blend(x, batch).dtype == paste(x, batch).dtype == dtype


# ---------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("options", [{"mixup": 0.3}, {"cutmix": 1.0}])
def test_embedding_mixes_normalised_pixels(options):
    tokenizer = fitted(**options)
    assert tokenizer.spec.mixes
    embedding = tokenizer.embedding(dim=8)
    plain = tokenizer.collate([tokenizer.encode(sample) for sample in samples(6)])
    torch.manual_seed(0)
    batch = tokenizer.mix(plain)
    assert ("box" in batch) == ("cutmix" in options)
    assert torch.equal(batch["image"], plain["image"]), "pixels are mixed on the device"
    mean, std = (torch.tensor(values)[:, None, None] for values in (tokenizer.mean, tokenizer.std))
    expected = tokenizer.patches.cut(mixed((plain["image"] / 255 - mean) / std, batch))
    torch.testing.assert_close(embedding(batch).raw, expected)
    torch.testing.assert_close(embedding(batch).embeddings, embedding.projection(expected))


def test_a_batch_gets_one_or_the_other_with_equal_chance():
    tokenizer, batch = fitted(**BOTH), {"image": torch.zeros(2, 3, 8, 12, dtype=torch.uint8)}
    torch.manual_seed(0)
    with draws_nothing(but="torch"):
        cut = sum("box" in tokenizer.mix(batch) for _ in range(1000))
    assert 450 < cut < 550
    assert not fitted().spec.mixes


def batches(num_workers=0, seed=3, **options):
    loader = make_loader(
        samples(), tokenizer=fitted(**options), targets=None, batch_size=6, num_workers=num_workers, seed=seed
    )
    return [batch["inputs"] for batch in loader]


def test_mixing_does_not_depend_on_workers():
    here, there = batches(**BOTH), batches(num_workers=2, **BOTH)
    assert {"box" in batch for batch in here} == {False, True}
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one["own"], other["own"]) for one, other in pairwise(here))


def test_evaluation_never_mixes():
    assert all(batch.keys() == {"image"} for batch in batches(seed=None, **BOTH))
    assert not Collate(tokenizer=fitted(), targets=None, mix=True).mix
