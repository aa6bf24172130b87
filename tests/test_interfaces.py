"""The laws of what passes between the parts: masks, layouts, tokens."""

import itertools
import subprocess
import sys

import pytest
import torch

from plugformer.interfaces import Grid, Layout, Mask, Tokens

TEXT = Grid(("position",), (5,))
PLANE = Grid(("row", "column"), (2, 3))
BOX = Grid(("frequency", "time", "channel"), (2, 3, 4))
PARTS = ("valid", "causal", "prefix", "segments", "query_segments")


def random_mask(parts, *, batch, queries, keys, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(high, *shape):
        return torch.randint(0, high, shape, generator=generator)

    return Mask(
        valid=draw(2, batch, keys).bool() if "valid" in parts else None,
        causal="causal" in parts,
        prefix=draw(keys + 1, batch) if "prefix" in parts else None,
        segments=draw(3, batch, keys) if {"segments", "query_segments"} & parts else None,
        query_segments=draw(3, batch, queries) if "query_segments" in parts else None,
    )


def sees(mask, sample, query, key, *, queries, keys):
    """The definition in words, for one pair."""
    place = keys - queries + query
    if mask.valid is not None and not mask.valid[sample, key]:
        return False
    if mask.segments is not None:
        own = mask.segments[sample, place] if mask.query_segments is None else mask.query_segments[sample, query]
        if own != mask.segments[sample, key]:
            return False
    in_prefix = mask.prefix is not None and key < mask.prefix[sample]
    return not mask.causal or key <= place or in_prefix


COMBINATIONS = [set(chosen) for size in range(6) for chosen in itertools.combinations(PARTS, size)]


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (2, 5), (1, 4)])
@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "+".join(sorted(parts)) or "nothing")
def test_dense_mask_is_what_its_parts_say_of_each_pair(parts, queries, keys):
    for seed in range(3):
        mask = random_mask(parts, batch=3, queries=queries, keys=keys, seed=seed)
        dense = mask.dense(queries, keys, torch.device("cpu"))
        if dense is None:
            dense = torch.ones(1, 1, queries, keys, dtype=torch.bool)
            assert mask.is_plain
        for sample, query, key in itertools.product(range(3), range(queries), range(keys)):
            expected = bool(sees(mask, sample, query, key, queries=queries, keys=keys))
            assert dense.expand(3, -1, -1, -1)[sample, 0, query, key].item() == expected, (sample, query, key)


def test_dense_mask_is_made_once_for_a_shape():
    mask = Mask(causal=True)
    cpu = torch.device("cpu")
    assert mask.dense(4, 4, cpu) is mask.dense(4, 4, cpu)
    assert mask.dense(2, 4, cpu).shape == (1, 1, 2, 4)


@pytest.mark.parametrize("grid", [TEXT, PLANE, BOX, Grid(("row", "column"), (1, 4))], ids=str)
def test_raster_undoes_coordinates(grid):
    places = grid.coordinates()
    assert places.shape == (len(grid), len(grid.shape))
    assert grid.raster(places).tolist() == list(range(len(grid)))
    assert places.tolist() == [list(place) for place in itertools.product(*map(range, grid.shape))]


def tokens_on(grid, *, batch=2, dim=3, seed=0, **parts):
    embeddings = torch.randn(batch, len(grid), dim, generator=torch.Generator().manual_seed(seed))
    return Tokens(embeddings, Layout.of(grid), **parts)


def named_places(layout, sample):
    """Where each token of a sample lies, read off without the class's own methods."""
    rows = zip(layout.grid_index[sample].tolist(), layout.coordinates[sample].tolist(), strict=True)
    return [None if index < 0 else (layout.grids[index], *place) for index, place in rows]


def places_of(grid, axes):
    return [(grid, *place, *[0] * (axes - len(place))) for place in grid.coordinates().tolist()]


def test_two_modalities_in_one_sequence_keep_their_grids():
    image, text = (
        tokens_on(PLANE, seed=0),
        tokens_on(TEXT, seed=1, valid=torch.tensor([[True] * 5, [True] * 2 + [False] * 3])),
    )
    both = Tokens.concatenate([image.prepend(torch.full((3,), 7.0)), text, image])
    assert torch.equal(both.embeddings[:, 0], torch.full((2, 3), 7.0))
    assert torch.equal(both.embeddings[:, 1:], torch.cat([image.embeddings, text.embeddings, image.embeddings], 1))
    assert both.layout.grids == (PLANE, TEXT)
    expected = [None, *places_of(PLANE, 2), *places_of(TEXT, 2), *places_of(PLANE, 2)]
    layout = both.layout
    layout = Layout(layout.coordinates.expand(2, -1, -1), layout.grid_index.expand(2, -1), layout.grids)
    assert named_places(layout, 0) == named_places(layout, 1) == expected
    assert both.valid.tolist() == [[True] * 18, [True] * 9 + [False] * 3 + [True] * 6]
    assert torch.equal(layout.on_grid(1)[0], torch.tensor([False] * 7 + [True] * 5 + [False] * 6))


def test_concatenation_is_associative():
    a, b, c = tokens_on(TEXT), tokens_on(PLANE, seed=1), tokens_on(BOX, seed=2)
    left = Tokens.concatenate([Tokens.concatenate([a, b]), c])
    right = Tokens.concatenate([a, Tokens.concatenate([b, c])])
    assert torch.equal(left.embeddings, right.embeddings)
    assert left.layout.grids == right.layout.grids
    assert torch.equal(left.layout.coordinates, right.layout.coordinates)
    assert torch.equal(left.layout.grid_index, right.layout.grid_index)


def test_concatenation_refuses_segments_of_some_parts():
    with pytest.raises(AssertionError, match="segments of some parts only"):
        Tokens.concatenate([tokens_on(TEXT, segments=torch.zeros(2, 5, dtype=torch.long)), tokens_on(TEXT)])


def test_selected_tokens_keep_everything_they_had():
    valid, segments = torch.tensor([[True] * 4 + [False] * 2, [True] * 6]), torch.tensor([[0, 0, 1, 1, 1, 2]] * 2)
    tokens = tokens_on(PLANE, valid=valid, segments=segments)
    index = torch.tensor([[5, 0, 3], [1, 1, 4]])
    kept = tokens.select(index)
    for sample, chosen in enumerate(index.tolist()):
        assert torch.equal(kept.embeddings[sample], tokens.embeddings[sample][chosen])
        assert named_places(kept.layout, sample) == [places_of(PLANE, 2)[place] for place in chosen]
        assert kept.valid[sample].tolist() == valid[sample][chosen].tolist()
        assert kept.segments[sample].tolist() == segments[sample][chosen].tolist()


@pytest.mark.parametrize("length", [1, 4, 11])
def test_last_is_the_end_of_the_sequence(length):
    layout = Tokens.concatenate([tokens_on(PLANE), tokens_on(TEXT)]).layout
    last = layout.last(length)
    assert named_places(last, 0) == named_places(layout, 0)[-length:]


def test_a_prepended_token_joins_the_first_segment_and_the_prefix():
    segments = torch.tensor([[3, 3, 4, 4, 4], [5, 5, 5, 5, 6]])
    tokens = tokens_on(TEXT, valid=torch.ones(2, 5).bool(), segments=segments, prefix=torch.tensor([2, 0]))
    longer = tokens.prepend(torch.zeros(3))
    assert longer.segments.tolist() == [[3, 3, 3, 4, 4, 4], [5, 5, 5, 5, 5, 6]]
    assert longer.prefix.tolist() == [3, 1]
    assert longer.valid.all()
    assert longer.layout.grid_index[:, 0].eq(-1).all()


def test_leading_tokens_are_counted_as_long_as_they_are_known():
    image = tokens_on(PLANE)
    both = image.prepend(torch.zeros(3)).prepend(torch.zeros(2, 3))
    assert both.layout.leading == 3
    assert both.layout.grid_index[:, :3].eq(-1).all()
    assert [both.layout.last(length).leading for length in (9, 7, 4)] == [3, 1, 0]
    assert Tokens.concatenate([both, both]).layout.leading == 3
    nowhere = both.layout.select(torch.zeros(2, 1, dtype=torch.long))
    assert nowhere.leading == 0, "what was selected is known to the device alone"


def test_prefix_matters_to_a_causal_mask_only():
    tokens = tokens_on(TEXT, prefix=torch.tensor([2, 0]))
    assert torch.equal(tokens.mask(causal=True).prefix, tokens.prefix)
    assert tokens.mask(causal=False).is_plain
    assert tokens.mask(causal=False).layout is tokens.layout


def test_interfaces_import_the_standard_library_and_torch_alone():
    """What torch itself brings along is torch's affair."""
    program = (
        "import sys, torch; before = set(sys.modules); import plugformer.interfaces;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plugformer"]
