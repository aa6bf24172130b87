"""Position tables between grids of other shapes: against transformers, and what interpolation must not change."""

import pytest
import torch
from tests.test_vit_parity import translated
from transformers import ViTConfig, ViTForImageClassification

from plugformer.assemble import build_model
from plugformer.cli.compose import compose
from plugformer.interfaces import DataSpec, Grid, Layout
from plugformer.nn.positions import Learned
from plugformer.registry import build
from plugformer.testing.comparing import noise

DIM = 6
GROWN = [((4,), (9,)), ((4, 4), (8, 8)), ((3, 5), (6, 7)), ((2, 3, 4), (3, 5, 6))]
SHRUNK = [(new, old) for old, new in GROWN]


def grid(*shape):
    return Grid(tuple(f"axis {number}" for number in range(len(shape))), shape)


def resized(weights, old, new, order="raster"):
    """Weights of positions on one grid brought to another, as the module that holds them."""
    position = Learned(dim=DIM, grids=(grid(*new),), order=order)
    position.load_state_dict(position.resized(weights, (grid(*old),)))
    return position


def learned(old, table=None, order="raster", dtype=torch.float32):
    """Weights of positions; `table` gives those of each table, by the number of its places."""
    position = Learned(dim=DIM, grids=(grid(*old),), order=order).to(dtype)
    table = table or (lambda places: noise(places, DIM))
    return {name: table(len(tensor)).to(dtype) for name, tensor in position.state_dict().items()}


def told(position, shape):
    """What each place is told, `[*shape, dim]`."""
    places = Layout.of(grid(*shape))
    return position.add(torch.zeros(1, len(places.grids[0]), DIM), places)[0].unflatten(0, shape).detach()


@pytest.mark.parametrize("order", ["raster", "axes"])
@pytest.mark.parametrize(("old", "new"), [*GROWN, *SHRUNK], ids=str)
def test_constant_tables_stay_constant(old, new, order):
    vector = noise(DIM)
    position = resized(learned(old, lambda places: vector.expand(places, DIM), order), old, new, order)
    for table in position.parameters():
        torch.testing.assert_close(table.detach(), vector.expand(len(table), DIM))


@pytest.mark.parametrize("order", ["raster", "axes"])
@pytest.mark.parametrize(("old", "new"), GROWN, ids=str)
def test_equal_grids_change_nothing(old, new, order):
    for shape in (old, new):
        weights = learned(shape, order=order)
        for name, table in resized(weights, shape, shape, order).state_dict().items():
            assert torch.equal(table, weights[name])


@pytest.mark.parametrize(
    ("old", "new", "order"),
    [
        ((4,), (8,), "raster"),
        ((2, 3, 4), (4, 6, 8), "raster"),
        ((4,), (8,), "axes"),
        ((4, 5), (8, 10), "axes"),
        ((2, 3, 4), (4, 6, 8), "axes"),
    ],
    ids=str,
)
def test_what_grows_evenly_goes_on_doing_so(old, new, order):
    """Inside, where there are neighbours on both sides; places are told where they lie within the whole.

    Two axes in raster order are bicubic as transformers has it, which bends straight lines.
    """
    if order == "raster":
        slope = noise(len(old), DIM)
        weights = {"tables.0.0.weight": grid(*old).coordinates().float() @ slope}
    else:
        slope = noise(DIM).expand(len(old), DIM)
        weights = learned(old, lambda places: torch.arange(places)[:, None] * slope[0], order)
    found = told(resized(weights, old, new, order), new)
    inside = tuple(slice(1, size - 1) for size in new)
    places = grid(*new).coordinates().float()
    expected = ((places + 0.5) / 2 - 0.5) @ slope
    torch.testing.assert_close(found[inside], expected.unflatten(0, new)[inside])


@pytest.mark.parametrize("order", ["raster", "axes"])
@pytest.mark.parametrize(("old", "new"), [*GROWN, *SHRUNK], ids=str)
def test_mirrored_tables_give_mirrored_tables(old, new, order):
    """No side of the grid is favoured."""
    axes = tuple(range(len(old)))

    def mirrored(table):
        shape = old if order == "raster" else (len(table),)
        return table.unflatten(0, shape).flip(tuple(range(len(shape)))).flatten(0, -2)

    weights = learned(old, order=order)
    flipped = {name: mirrored(table) for name, table in weights.items()}
    torch.testing.assert_close(
        told(resized(flipped, old, new, order), new), told(resized(weights, old, new, order), new).flip(axes)
    )


def test_axes_keep_their_own_tables():
    """An axis that stays as long as it was keeps its table, bit for bit."""
    weights = learned((4, 5), order="axes")
    brought = Learned(dim=DIM, grids=(grid(4, 9),), order="axes").resized(weights, (grid(4, 5),))
    assert torch.equal(brought["tables.0.0.weight"], weights["tables.0.0.weight"])
    assert brought["tables.0.1.weight"].shape == (9, DIM)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("order", ["raster", "axes"])
def test_tables_keep_their_type(dtype, order):
    for old, new in [*GROWN, *SHRUNK]:
        weights = learned(old, order=order, dtype=dtype)
        position = Learned(dim=DIM, grids=(grid(*new),), order=order)
        exact = position.resized({name: table.double() for name, table in weights.items()}, (grid(*old),))
        for name, table in position.resized(weights, (grid(*old),)).items():
            assert table.dtype == dtype
            torch.testing.assert_close(table.double(), exact[name], atol=torch.finfo(dtype).eps * 4, rtol=1e-2)


@pytest.mark.parametrize(
    ("theirs", "ours", "orders"),
    [
        (Grid(("row", "column"), (4, 4)), Grid(("frequency", "time"), (8, 8)), ("raster", "raster")),
        (Grid(("time",), (16,)), Grid(("frequency", "time"), (8, 8)), ("raster", "raster")),
        (grid(4, 4), grid(8, 8), ("axes", "raster")),
        (grid(4, 4), grid(8, 8), ("raster", "axes")),
    ],
    ids=str,
)
def test_what_is_of_other_axes_or_another_order_stays_as_it_is(theirs, ours, orders):
    weights = Learned(dim=DIM, grids=(theirs,), order=orders[0]).state_dict()
    brought = Learned(dim=DIM, grids=(ours,), order=orders[1]).resized(weights, (theirs,))
    assert brought.keys() == weights.keys()
    assert all(brought[name] is weights[name] for name in weights)


def test_each_of_several_grids_is_resized_by_itself():
    old, new = (grid(4, 4), grid(5)), (grid(8, 8), grid(5))
    weights = Learned(dim=DIM, grids=old).state_dict()
    brought = Learned(dim=DIM, grids=new).resized(weights, old)
    assert brought["tables.0.0.weight"].shape == (64, DIM)
    assert brought["tables.1.0.weight"] is weights["tables.1.0.weight"]


# ---------------------------------------------------------------------------------------------- against transformers


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 28), (20, 24)], ids=str)
def test_a_vit_on_larger_images_says_what_transformers_does(height, width):
    """Hidden states of a model that was made for 16 × 16 pixels."""
    eps = 1e-6
    theirs = ViTForImageClassification(
        ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=16,
            patch_size=4, layer_norm_eps=eps, num_labels=5,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for number, parameter in enumerate(theirs.parameters()):
            parameter.copy_(0.3 * noise(*parameter.shape, seed=number))
    weights, class_position = translated((name, p.detach()) for name, p in theirs.named_parameters())
    weights["task.pooling.vector"] = weights["task.pooling.vector"] + class_position

    sizes = ["backbone.dim=32", "backbone.num_layers=2", "backbone.num_heads=4", "feed_forward.expansion=3"]
    config = compose([*sizes, "tokenizer.patch_size=4", f"norm.eps={eps}", "task.pool=cls", "position.order=raster"])
    spec = DataSpec(frozenset({"image", "label"}), labels=tuple("abcde"), image=(3, height, width))
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.assume(spec)
    ours = build_model(config, tokenizer=tokenizer, data=spec).eval()
    position = "trunk.backbone.position."
    table = {"tables.0.0.weight": weights[f"{position}tables.0.0.weight"]}
    brought = ours.trunk.backbone.position.resized(table, (Grid(("row", "column"), (4, 4)),))
    assert not ours.load_state_dict(
        weights | {f"{position}{name}": tensor for name, tensor in brought.items()}, strict=False
    ).unexpected_keys

    images = torch.randint(0, 256, (3, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()
    hidden = []
    ours.trunk.backbone.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    with torch.inference_mode():
        ours({"inputs": {"image": images}, "targets": {}, "index": torch.arange(3)})
        expected = theirs.vit(images / 255, interpolate_pos_encoding=True).last_hidden_state
    assert expected.shape == (3, height * width // 16 + 1, 32)
    assert (hidden[0] - expected).abs().max() < 1e-5
