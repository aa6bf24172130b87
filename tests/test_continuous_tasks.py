"""Tasks that predict continuous tokens: nothing hidden is seen, and errors are what they are said to be."""

import itertools
import json
import math
from functools import cache

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from plugformer.assemble import build_backbone
from plugformer.cli.compose import compose
from plugformer.data.encoded import seeded
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Grid, Layout, Tokens, TokenSpec
from plugformer.model import Trunk
from plugformer.registry import build
from plugformer.testing.common import randomise, rows
from plugformer.testing.task import TaskSuite, made_up_embedding
from plugformer_tasks import grid_masks
from plugformer_tasks.grid_masks import block_mask, random_mask
from plugformer_tasks.neighbours import nearest_visible
from plugformer_tasks.next_token import Next
from plugformer_tasks.patch_output import PatchOutput
from plugformer_tasks.prefix_lm import places_of

LINE, SQUARE, WIDE = Grid(("time",), (24,)), Grid(("row", "column"), (6, 6)), Grid(("frequency", "time"), (4, 9))
GRIDS = {"line": LINE, "square": SQUARE, "wide": WIDE}
BACKBONES = {"mlm": "encoder", "mae": "encoder", "causal_lm": "decoder", "prefix_lm": "prefix_lm"}
MASKED, NEXT = ["mlm", "mae"], ["causal_lm", "prefix_lm"]


class TestSimMIM(TaskSuite):
    name = "mlm"
    options = {"masking": "blocks", "unit": 2, "loss": "l2", "normalise": False, "share": 0.3}  # noqa: RUF012


class TestDeeperMAE(TaskSuite):
    name = "mae"
    options = {"unit": 2, "decoder_dim": 12, "decoder_layers": 1, "decoder_heads": 3}  # noqa: RUF012


class TestLinearAIM(TaskSuite):
    name = "prefix_lm"
    options = {"normalise": False, "head_layers": 0, "min_share": 0.3}  # noqa: RUF012


def spec_of(grid=WIDE, token_dim=5):
    return TokenSpec(grid, token_dim=token_dim, pads=True)


@cache
def composed(backbone):
    return compose([f"backbone={backbone}", "backbone.dim=16", "backbone.num_layers=2", "backbone.num_heads=2"])


def make(name, *, tokens=None, seed=0, **options):
    """A task, and a trunk with a real backbone of learned positions, all weights off zero."""
    tokens = tokens or spec_of()
    backbone = build_backbone(composed(BACKBONES[name]), tokens)
    trunk = Trunk(embedding=made_up_embedding(tokens, dim=16), backbone=backbone)
    task = build("task", {"name": name, **options}, dim=16, tokens=tokens, data=DataSpec(frozenset()))
    return randomise(task, seed).eval(), randomise(trunk, seed + 1).eval()


def draw_batch(task, *, count=3, grid=WIDE, token_dim=5, real=None, seed=0):
    """Random tokens, in each row of the grid so many of them real, with the task's targets."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {"values": torch.randn(count, len(grid), token_dim, generator=generator)}
    if real is not None:
        inputs["valid"] = grid.coordinates()[:, -1] < torch.tensor(real)[:, None]
    targets = []
    for number in range(count):
        with seeded(number):
            targets.append(task.targets.encode({}, rows(inputs, number)))
    return {"inputs": inputs, "targets": task.targets.collate(targets), "index": torch.arange(count)}


def marks(places, length):
    """bool [batch, length]: where these places are."""
    return torch.stack([torch.isin(torch.arange(length), row) for row in places])


# ---------------------------------------------------------------------------------------------- which tokens are hidden


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("mask", [random_mask, block_mask])
@pytest.mark.parametrize("unit", [1, 2, 4])
def test_exactly_so_many_real_tokens_are_hidden(mask, grid, unit):
    for seed, part in enumerate((1.0, 0.6, 0.2)):
        with seeded(seed):
            valid = torch.rand(len(grid)) < part
            valid[seed] = True
            for number in {0, 1, int(valid.sum()) // 2, int(valid.sum())}:
                hidden = mask(grid, valid, number, unit=unit)
                assert hidden.sum() == number
                assert not (hidden & ~valid).any()


@pytest.mark.parametrize(("grid", "unit"), [(LINE, 1), (SQUARE, 1), (SQUARE, 2), (WIDE, 2)])
def test_every_token_is_as_likely_to_be_hidden_at_random(grid, unit):
    valid, count = torch.ones(len(grid), dtype=torch.bool), 600
    with seeded(0):
        hidden = torch.stack([random_mask(grid, valid, len(grid) // 3, unit=unit) for _ in range(count)])
    share = hidden.float().mean(0)
    if unit == 1 or all(size % unit == 0 for size in grid.shape):  # squares cut by the edge count for less
        torch.testing.assert_close(share, torch.full_like(share, 1 / 3), atol=0.08, rtol=0)
    assert (share > 0.2).all()


def test_units_are_hidden_as_a_whole_but_the_last():
    for seed in range(20):
        with seeded(seed):
            hidden = random_mask(SQUARE, torch.ones(36, dtype=torch.bool), 22, unit=2).view(3, 2, 3, 2)
        assert sorted(hidden.sum((1, 3)).flatten().tolist()) == [0, 0, 0, 2, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_blocks_are_rectangles_inside_what_is_real(grid, monkeypatch):
    """Their union is hidden; the last is cut at its end."""
    drawn, draw = [], grid_masks._block
    monkeypatch.setattr(grid_masks, "_block", lambda *a, **k: drawn.append((draw(*a, **k), k)) or drawn[-1][0])
    valid = grid.coordinates()[:, -1] < grid.shape[-1] - 2
    sizes, number = [], int(valid.sum()) // 2
    for seed in range(100):
        drawn.clear()
        with seeded(seed):
            hidden = block_mask(grid, valid, number, unit=2)
        union = torch.zeros(grid.shape, dtype=torch.bool)
        for block, asked in drawn:
            before = union.clone()
            union[block] = True
            sides = [side.stop - side.start for side in block]
            assert all(0 <= side.start < side.stop <= size for side, size in zip(block, grid.shape, strict=True))
            assert block[-1].stop <= grid.shape[-1] - 2
            assert asked["smallest"] == min(2 ** len(grid.shape), number - int(before.sum()))
            sizes.append(math.prod(sides))
            if len(sides) == 1:
                assert asked["smallest"] <= sides[0] <= asked["largest"]
        lacking = number - int(before.sum())
        last = (union & ~before).flatten().nonzero()[:lacking, 0]
        assert torch.equal(hidden, before.flatten().index_fill(0, last, True))
    assert len(set(sizes)) > 4
    assert max(sizes) > number / 2


def test_blocks_are_of_all_shapes_and_lie_anywhere():
    grid = Grid(("row", "column"), (40, 40))
    shapes, counts = [], torch.zeros(40, 40)
    for seed in range(200):
        with seeded(seed):
            hidden = block_mask(grid, torch.ones(1600, dtype=torch.bool), 144, unit=12).view(40, 40)
        high, wide = int(hidden.any(1).sum()), int(hidden.any(0).sum())
        shapes.append(high / wide)
        counts += hidden
    assert 0.25 < min(shapes) < 0.4
    assert 2.5 < max(shapes) < 4
    assert sum(shape < 1 for shape in shapes) == pytest.approx(100, abs=28)
    assert (counts[10:30, 10:30] > 0).all()


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("masking", ["random", "blocks"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_share_is_kept_and_something_is_hidden_and_something_visible(name, masking, share):
    targets = make(name, share=share, masking=masking)[0].targets
    for real in (2, 3, 11, 36):
        for seed in range(2):
            with seeded(seed):
                valid = torch.zeros(36, dtype=torch.bool).index_fill(0, torch.randperm(36)[:real], True)
                made = targets.encode({}, {"valid": valid})
            assert len(made["hidden"]) == min(max(1, round(share * real)), real - 1)
            assert sorted(torch.cat(list(made.values())).tolist()) == valid.nonzero()[:, 0].tolist()
    lone = targets.encode({}, {"valid": torch.arange(36) == 5})
    assert {key: value.tolist() for key, value in lone.items()} == {"hidden": [], "visible": [5]}
    whole = targets.encode({}, {})
    assert {key: len(value) for key, value in whole.items()} == {
        key: len(value) for key, value in targets.example({}).items()
    }


def test_shares_are_those_of_the_papers():
    assert make("mlm")[0].targets.share == 0.6
    assert make("mae")[0].targets.share == 0.75
    discrete = TokenSpec(LINE, vocab_size=9, specials={"mask": 0})
    assert build("task", {"name": "mlm"}, dim=4, tokens=discrete, data=None).targets.share == 0.15


@pytest.mark.parametrize("name", MASKED)
def test_what_is_hidden_depends_on_the_draw_alone(name):
    targets, found = make(name)[0].targets, []
    for seed in (1, 2, 1):
        with seeded(seed):
            found.append(targets.encode({}, {})["hidden"].tolist())
    assert found[0] == found[2] != found[1]


# ---------------------------------------------------------------------------------------------- nothing leaks


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("real", [None, (9, 4, 6)], ids=["whole", "padded"])
def test_what_is_hidden_changes_no_prediction(name, real):
    task, trunk = make(name)
    batch = draw_batch(task, real=real)
    hidden, visible = (marks(batch["targets"][key], len(WIDE)) for key in ("hidden", "visible"))
    before = task(trunk, batch).predicted
    values = batch["inputs"]["values"]
    for changed, what in ((hidden, "hidden"), (~hidden & ~visible, "padding"), (visible, "visible")):
        other = values.where(~changed[..., None], values.flip(0) * 3 + 1)
        after = task(trunk, batch | {"inputs": batch["inputs"] | {"values": other}}).predicted
        counts = batch["targets"]["hidden"] >= 0
        if what == "visible":
            assert ((after != before).any(-1) | ~counts).all()
        else:
            assert torch.equal(after[counts], before[counts]), what


@pytest.mark.parametrize("name", NEXT)
@pytest.mark.parametrize("real", [None, (9, 4, 6)], ids=["whole", "padded"])
def test_the_future_changes_no_prediction(name, real):
    task, trunk = make(name)
    batch = draw_batch(task, real=real)
    values = batch["inputs"]["values"]
    valid = batch["inputs"].get("valid", torch.ones(values.shape[:2], dtype=torch.bool))
    expected = task(trunk, batch)
    counts = expected.targets[..., 0] > 0
    for place in range(len(WIDE)):
        other = values.clone()
        other[:, place] = values[:, place] * 3 + 1
        after = task(trunk, batch | {"inputs": batch["inputs"] | {"values": other}}).predicted
        same = (after == expected.predicted).all(-1)
        assert (same | ~counts)[:, :place].all()
        assert (~same | ~counts)[valid[:, place], place:].all()


@pytest.mark.parametrize("real", [None, (9, 1, 6)], ids=["whole", "padded"])
def test_the_encoder_of_an_autoencoder_sees_exactly_what_is_visible(real):
    task, trunk = make("mae")
    batch, seen = draw_batch(task, real=real), []
    trunk.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    task(trunk, batch)
    embedded, visible = trunk.embed(batch["inputs"]), batch["targets"]["visible"]
    assert seen[0].raw is None
    for number, places in enumerate(visible):
        real_places = places[places >= 0]
        valid = torch.ones(len(places), dtype=torch.bool) if seen[0].valid is None else seen[0].valid[number]
        assert torch.equal(seen[0].embeddings[number][valid], embedded.embeddings[number][real_places])
        assert torch.equal(seen[0].layout.coordinates[number][valid], WIDE.coordinates()[real_places])
    assert (seen[0].valid is None) == (real is None)
    if real is None:
        assert seen[0].embeddings.shape[1] == len(WIDE) - round(0.75 * len(WIDE))


# ---------------------------------------------------------------------------------------------- what is learned


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize("normalise", [True, False])
def test_simmim_is_its_definition(loss, normalise):
    task, trunk = make("mlm", loss=loss, normalise=normalise)
    batch = draw_batch(task)
    tokens, hidden = trunk.embed(batch["inputs"]), marks(batch["targets"]["hidden"], len(WIDE))
    simmim = task.simmim
    masked = tokens.embeddings.where(~hidden[..., None], simmim.mask.vector)
    predicted = simmim.output.linear(trunk.backbone(Tokens(masked, tokens.layout)))
    target = tokens.raw
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    expected = (F.l1_loss if loss == "l1" else F.mse_loss)(predicted[hidden], target[hidden])
    output = task(trunk, batch)
    torch.testing.assert_close(output.loss, expected)
    assert output.weight == hidden.sum()


@pytest.mark.parametrize("name", NEXT)
@pytest.mark.parametrize("head_layers", [0, 2])
def test_next_tokens_are_predicted_in_raster_order_without_padding(name, head_layers):
    """As in a sequence of the real tokens alone, seen in a plain loop."""
    task, trunk = make(name, head_layers=head_layers, normalise=False)
    batch = draw_batch(task, real=(9, 4, 6))
    prefix = batch["targets"].get("prefix")
    tokens, errors = trunk.embed(batch["inputs"]), []
    for number, valid in enumerate(batch["inputs"]["valid"]):
        places = valid.nonzero()[:, 0]
        alone = tokens.embeddings[number, places][None]
        first = 1 if prefix is None else int((places < prefix[number]).sum())
        known = {} if prefix is None else {"prefix": torch.tensor([first])}
        layout = Layout.of(WIDE).select(places[None])
        hidden = trunk.backbone(Tokens(alone, layout, **known))
        for layer in task.output.layers:
            hidden = hidden + layer.mlp(layer.norm(hidden))
        predicted, raw = task.output.linear(hidden)[0], tokens.raw[number, places]
        errors += [F.mse_loss(predicted[i - 1], raw[i]) for i in range(first, len(places))]
    output = task(trunk, batch)
    torch.testing.assert_close(output.loss, torch.stack(errors).mean())
    assert output.weight == len(errors)


def test_next_is_the_next_real_token_of_its_document():
    with seeded(0):
        valid, segments = torch.rand(40, 12) < 0.6, torch.randint(2, (40, 12)).cumsum(1)
    for some in (None, valid), (None, None), (segments, valid), (segments, None):
        given = Tokens(torch.zeros(40, 12, 2), Layout.of(Grid(("time",), (12,))), some[1], segments=some[0])
        found = Next.of(given)
        for row in range(40):
            real = [i for i in range(12) if some[1] is None or valid[row, i]]
            pairs = [
                p for p in itertools.pairwise(real) if some[0] is None or segments[row, p[0]] == segments[row, p[1]]
            ]
            counted = found.counts[row].nonzero()[:, 0]
            assert list(zip(counted.tolist(), found.place[row][counted].tolist(), strict=True)) == pairs


def test_a_prefix_takes_the_places_up_to_its_last_token():
    real = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 1, 0]]).bool()
    found = [places_of(real, torch.tensor([count, count])).tolist() for count in range(4)]
    assert found == [[0, 0], [1, 3], [2, 4], [5, 5]]


def test_normalised_targets_have_mean_0_and_deviation_1():
    raw = torch.randn(4, 7, 5) * (1 + 9 * torch.rand(4, 7, 1)) + 3
    output = PatchOutput(dim=4, tokens=spec_of(), normalise=True)
    target = output.target(raw)
    torch.testing.assert_close(target.mean(-1), torch.zeros(4, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(-1), torch.ones(4, 7), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.shown(target, raw), raw)
    assert not output.target(torch.full((1, 5), 3.0)).any()
    assert torch.equal(PatchOutput(dim=4, tokens=spec_of(), normalise=False).target(raw), raw)


# ---------------------------------------------------------------------------------------------- how good it is


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_neighbour_is_the_nearest_visible_token_and_the_first_of_several(grid):
    coordinates = grid.coordinates()
    with seeded(0):
        orders = [torch.randperm(len(grid)) for _ in range(6)]
    hidden = torch.stack([order[:9].sort().values for order in orders])
    visible = torch.stack(
        [F.pad(order[9 : 9 + n].sort().values, (0, 8 - n), value=-1) for n, order in enumerate(orders, 1)]
    )
    found = nearest_visible(coordinates[None], hidden, visible)
    for row in range(6):
        there = [int(place) for place in visible[row] if place >= 0]
        for asked, nearest in zip(hidden[row], found[row], strict=True):
            distance = {place: int((coordinates[place] - coordinates[asked]).square().sum()) for place in there}
            assert int(nearest) == min(there, key=lambda place: (distance[place], place))


def measured(task, outputs):
    metrics = task.metrics()
    for output in outputs:
        for metric in metrics.values():
            metric.update(output.predictions, output.targets)
    return {name: metric.compute() for name, metric in metrics.items()}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("normalise", [True, False])
def test_metrics_are_their_definitions_over_a_whole_split(name, normalise):
    task, trunk = make(name, normalise=normalise)
    batches = [draw_batch(task, real=real, count=len(real), seed=len(real)) for real in ((9, 4, 6), (2, 9), (1,))]
    errors, targets, copies = [], [], []
    for batch in batches:
        output, raw = task(trunk, batch), batch["inputs"]["values"]
        head = task.simmim.output if name == "mlm" else task.output
        for row in range(len(raw)):
            valid = batch["inputs"]["valid"][row]
            if name in MASKED:
                asked = [(n, int(p)) for n, p in enumerate(batch["targets"]["hidden"][row]) if p >= 0]
                visible = batch["targets"]["visible"][row : row + 1]
                near = nearest_visible(WIDE.coordinates()[None], batch["targets"]["hidden"][row : row + 1], visible)[0]
                asked = [(n, p, int(near[n])) for n, p in asked]
            else:
                pairs = list(itertools.pairwise(valid.nonzero()[:, 0].tolist()))
                first = 1 if name == "causal_lm" else int(batch["targets"]["prefix"][row])
                asked = [(a, b, a) for a, b in pairs if b >= first]
            for n, place, copied in asked:
                target = head.target(raw[row, place])
                targets.append(target)
                errors.append((output.predicted[row, n] - target).square().mean())
                copies.append((head.target(raw[row, copied]) - target).square().mean())
    targets, error = torch.stack(targets), torch.stack(errors).mean()
    values = measured(task, [task(trunk, batch) for batch in batches])
    torch.testing.assert_close(values["error"], error)
    torch.testing.assert_close(values["against_mean"], error / (targets - targets.mean(0)).square().mean())
    torch.testing.assert_close(values["against_neighbour"], error / torch.stack(copies).mean())


@pytest.mark.parametrize("name", BACKBONES)
def test_there_is_no_error_against_what_makes_none(name):
    """Where all tokens are the same, as in an empty picture."""
    task, trunk = make(name, normalise=False)
    batch = draw_batch(task)
    batch["inputs"]["values"] = torch.full_like(batch["inputs"]["values"], 0.7)
    output = task(trunk, batch)
    values = measured(task, [output])
    assert values["error"] > 0
    assert [values[key].tolist() for key in ("against_mean", "against_neighbour")] == [[], []]
    assert task.describe(output)[0]["against_neighbour"] is None


def test_nothing_is_told_of_nothing():
    task, trunk = make("mae")
    batch = draw_batch(task, count=1)
    valid = (torch.arange(len(WIDE)) == 3)[None]
    batch |= {"inputs": batch["inputs"] | {"valid": valid}}
    batch |= {"targets": task.targets.collate([task.targets.encode({}, {"valid": valid[0]})])}
    output = task(trunk, batch)
    assert (output.loss.item(), output.weight.item()) == (0, 0)
    assert task.describe(output) == [{"hidden": 0, "error": None, "against_neighbour": None}]
    assert {value.numel() for value in measured(task, [output]).values()} == {0}


@pytest.mark.parametrize("name", BACKBONES)
def test_describes_each_sample_by_itself(name):
    task, trunk = make(name)
    batch = draw_batch(task, real=(9, 4, 6))
    described = task.describe(task(trunk, batch))
    for number, told in enumerate(described):
        alone = task(trunk, rows(batch, slice(number, number + 1)))
        values = measured(task, [alone])
        assert told.pop("hidden" if name in MASKED else "predicted") == alone.weight
        assert told == {key: pytest.approx(values[key].item(), rel=1e-5) for key in ("error", "against_neighbour")}


# ---------------------------------------------------------------------------------------------- in prediction


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("real", [None, (9, 4, 9)], ids=["whole", "padded"])
def test_the_same_tokens_are_hidden_of_every_input(name, real):
    task, trunk = make(name)
    batch = draw_batch(task, real=real) | {"targets": {}}
    state = torch.get_rng_state()
    output = task(trunk, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert output.loss.isfinite()
    raw, pictures = batch["inputs"]["values"], output.pictures
    assert list(pictures) == ["original", "masked", "reconstruction"]
    valid = batch["inputs"].get("valid", torch.ones(raw.shape[:2], dtype=torch.bool))
    masked = pictures["masked"].isnan().all(-1)
    hidden = masked & valid
    assert torch.equal(hidden[0], hidden[2])
    assert hidden.sum(1).tolist() == [each["hidden"] for each in task.describe(output)]
    assert torch.equal(pictures["original"].isnan().any(-1), ~valid)
    assert torch.equal(pictures["original"][valid], raw[valid])
    visible = valid & ~hidden
    for name_of, shown in pictures.items():
        assert torch.equal(shown[visible], raw[visible]), name_of
        assert shown[~valid].isnan().all()
    guessed = pictures["reconstruction"]
    assert torch.equal(guessed.isnan().any(-1), ~valid)
    error = (guessed[hidden] - raw[hidden]).square().mean(-1) / raw[hidden].var(-1)
    torch.testing.assert_close(error.mean(), measured(task, [output])["error"], rtol=1e-3, atol=0)
    assert not task(trunk, draw_batch(task)).pictures


@pytest.mark.parametrize("name", NEXT)
def test_pictures_show_each_next_token_as_it_was_predicted(name):
    task, trunk = make(name, normalise=False, **({"min_share": 0.5, "max_share": 0.5} if name == "prefix_lm" else {}))
    batch = draw_batch(task, real=(9, 4, 6)) | {"targets": {}}
    output = task(trunk, batch)
    raw, valid = batch["inputs"]["values"], batch["inputs"]["valid"]
    assert list(output.pictures) == ["original", "predicted"]
    for picture in output.pictures.values():
        assert torch.equal(picture.isnan().any(-1), ~valid)
    assert torch.equal(output.pictures["original"][valid], raw[valid])
    for row in range(3):
        places = valid[row].nonzero()[:, 0]
        first = 1 if name == "causal_lm" else len(places) // 2
        shown = output.pictures["predicted"][row, places]
        assert torch.equal(shown[:first], raw[row, places[:first]])
        assert torch.equal(shown[first:], output.predicted[row, places[first - 1 : -1]])
    assert not task.train()(trunk, batch).pictures


@pytest.mark.parametrize("name", BACKBONES)
def test_describes_what_is_predicted_in_plain_numbers(name):
    task, trunk = make(name)
    batch = draw_batch(task)
    for given in (batch, batch | {"targets": {}}):
        found = task.describe(task(trunk, given))
        assert json.loads(json.dumps(found, allow_nan=False)) == found


# ---------------------------------------------------------------------------------------------- what it is for


@pytest.mark.parametrize("name", BACKBONES)
def test_tasks_say_what_they_need_of_each_kind(name):
    continuous = make(name)[0]
    assert continuous.needs.separate_tokens
    assert continuous.mixes == (name in NEXT)
    assert not continuous.generates
    if name != "mae":
        tokens = TokenSpec(LINE, vocab_size=9, specials={"mask": 0})
        discrete = build("task", {"name": name}, dim=4, tokens=tokens, data=None)
        assert not discrete.needs.separate_tokens
        assert not discrete.mixes
        assert discrete.generates == (name in NEXT)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("mlm", "whole_words", "true"),
        ("mlm", "tied", "false"),
        ("mlm", "mask_share", "0.5"),
        ("mlm", "chunk", "7"),
        ("causal_lm", "z_loss", "0.1"),
        ("prefix_lm", "label_smoothing", "0.1"),
    ],
)
def test_options_of_the_other_kind_are_refused_by_name(name, option, value):
    with pytest.raises(UserError) as told:
        make(name, **{option: json.loads(value)})
    assert str(told.value) == (
        f"task.{option}={value}: is of discrete tokens; those of this tokenizer are continuous. Leave it out."
    )


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("mlm", "masking", "blocks"),
        ("mlm", "unit", 2),
        ("causal_lm", "head_layers", 3),
        ("prefix_lm", "normalise", False),
    ],
)
def test_options_of_continuous_tokens_are_refused_of_discrete_ones(name, option, value):
    tokens = TokenSpec(LINE, vocab_size=9, specials={"mask": 0})
    with pytest.raises(UserError, match=f"^task.{option}=.*: is of continuous tokens; .* are discrete. Leave it out.$"):
        build("task", {"name": name, option: value}, dim=4, tokens=tokens, data=None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlm", {"share": 0.0}, "task.share=0.0: of continuous tokens, must be more than 0 and less than 1."),
        ("mae", {"share": 1.0}, "task.share=1.0: of continuous"),
        ("mae", {"unit": 0}, "task.unit=0: must be at least 1."),
        ("causal_lm", {"head_layers": -1}, "task.head_layers=-1: must not be negative."),
        ("mae", {"decoder_layers": 0}, "task.decoder_layers=0: must be at least 1."),
        (
            "mae",
            {"decoder_dim": 10},
            "task.decoder_dim=10: must be divisible by 4, for 4 heads and positions on 2 axes.",
        ),
        ("mae", {"decoder_dim": 8, "decoder_heads": 3}, "task.decoder_dim=8: must be divisible by 12, for 3 heads"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(UserError) as told:
        make(name, **options)
    assert str(told.value).startswith(message)


def test_blocks_need_a_grid_of_two_axes_at_most():
    with pytest.raises(UserError, match=r"^task.masking=blocks: .* 1 or 2 axes; that of this tokenizer has 3.\n  Set "):
        make("mae", tokens=spec_of(Grid(("row", "column", "time"), (2, 2, 2))), masking="blocks")


@pytest.mark.parametrize("name", BACKBONES)
def test_single_numbers_have_no_deviation(name):
    with pytest.raises(
        UserError, match=r"^task.normalise=true: .* single numbers, which have no deviation.\n  Set task."
    ):
        make(name, tokens=spec_of(token_dim=1))
    task, trunk = make(name, tokens=spec_of(token_dim=1), normalise=False)
    assert task(trunk, draw_batch(task, token_dim=1)).loss.isfinite()


@pytest.mark.parametrize("dim", [16, 24, 36, 50])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_decoder_is_about_half_as_wide_unless_it_is_said(dim, grid):
    task = build("task", {"name": "mae", "decoder_heads": 3}, dim=dim, tokens=spec_of(grid), data=None)
    assert dim / 2 <= task.decoder.dim < dim / 2 + 12
    assert task.decoder.num_layers == 2


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_works_in_other_types(name, dtype):
    task, trunk = make(name)
    batch = draw_batch(task, real=(9, 4, 6))
    expected = task(trunk, batch).loss
    batch["inputs"]["values"] = batch["inputs"]["values"].to(dtype)
    output = task.to(dtype)(trunk.to(dtype), batch)
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(output.loss.float(), expected, atol=tolerance, rtol=tolerance)
    output.loss.backward()
    assert all(parameter.grad.dtype == dtype for parameter in [*task.parameters(), *trunk.parameters()])
    shown = task(trunk, batch | {"targets": {}}).pictures
    assert {picture.dtype for picture in shown.values()} == {dtype}


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes_depend_on_no_numbers(name):
    """So that it can be measured without any, and compiled."""
    task, trunk = make(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        example = {"values": torch.zeros(36, 5), "valid": torch.ones(36, dtype=torch.bool)}
        targets = task.targets.collate([task.targets.example(example)] * 3)
        inputs = {key: value.expand(3, *value.shape) for key, value in example.items()}
        task.train()(trunk, {"inputs": inputs, "targets": targets, "index": torch.arange(3)}).loss.backward()
