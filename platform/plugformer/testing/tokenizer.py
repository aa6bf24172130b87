"""Laws of tokenizers."""

import copy
import pickle
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Features, Sample, Tokens
from plugformer.testing.common import Inputs, ModuleSuite
from plugformer.testing.comparing import assert_close, assert_same, draws_nothing
from plugformer.testing.samples import SPEC, make_samples


class TokenizerSuite(ModuleSuite):
    """The tokenizer and its embedding.

    Attributes:
        data: what is known of the samples before they are read.
        dim: of the embeddings.
    """

    kind = "tokenizer"
    data: ClassVar[DataSpec] = SPEC
    dim: ClassVar[int] = 8

    def samples(self) -> list[Sample]:
        return make_samples(8)

    def fitted(self) -> Any:
        tokenizer = self.build()
        tokenizer.fit(self.samples())
        return tokenizer

    def new(self) -> nn.Module:
        return self.fitted().embedding(dim=self.dim)

    def encoded(self) -> list[Features]:
        tokenizer = self.fitted()
        return [tokenizer.encode(sample) for sample in self.samples()]

    def inputs(self, batch: int) -> Inputs:
        return self.fitted().collate(self.encoded()[:batch])

    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        """Embeddings of real tokens; zeros at padding, which is nobody's."""
        tokens = module(inputs)
        return tokens.embeddings if tokens.valid is None else tokens.embeddings * tokens.valid[..., None]

    def statistics(self, tokenizer: Any) -> dict[str, Tensor]:
        """What a new embedding takes from fitting."""
        return dict(tokenizer.embedding(dim=self.dim).named_buffers())

    # ------------------------------------------------------------------------------------------ fitting

    def test_fits_on_a_stream(self) -> None:
        """Samples that can be read but once teach it the same."""
        streamed = self.build()
        streamed.fit(iter(self.samples()))
        listed = self.fitted()
        assert streamed.spec == listed.spec
        assert_same(self.statistics(streamed), self.statistics(listed))
        for sample in self.samples():
            assert_same(streamed.encode(sample), listed.encode(sample))

    def test_assumes_the_shapes_that_it_will_have(self) -> None:
        assumed, fitted = self.build(), self.fitted()
        assumed.assume(self.data)
        assert assumed.spec.token_kind == fitted.spec.token_kind
        assert (assumed.spec.grid, assumed.spec.token_dim) == (fitted.spec.grid, fitted.spec.token_dim)
        assert (assumed.spec.pads, assumed.spec.packs) == (fitted.spec.pads, fitted.spec.packs)
        with torch.device("meta"):
            embedding = assumed.embedding(dim=self.dim)
        for (name, parameter), other in zip(embedding.named_parameters(), self.new().parameters(), strict=True):
            assert parameter.shape == other.shape, f"{name} has another shape before fitting"

    def test_comes_back_from_its_files(self) -> None:
        """And from being sent to a loader's worker."""
        first = self.fitted()
        first.save(self.folder)
        loaded = self.build()
        loaded.load(self.folder)
        for other in (loaded, pickle.loads(pickle.dumps(first))):
            assert other.spec == first.spec
            assert_same(self.statistics(other), self.statistics(first))
            for sample in self.samples():
                assert_same(other.encode(sample), first.encode(sample))
            inputs, embedding = self.inputs(3), other.embedding(dim=self.dim)
            embedding.load_state_dict(self.make().state_dict())
            assert torch.equal(self.call(embedding.eval(), inputs), self.call(self.make(), inputs))

    # ------------------------------------------------------------------------------------------ encoding

    def test_encodes_without_a_trace(self) -> None:
        """The same each time, from no generator, leaving the sample as it was."""
        tokenizer = self.fitted()
        for sample in self.samples():
            untouched = copy.deepcopy(sample)
            with draws_nothing():
                first = tokenizer.encode(sample)
            assert_same(tokenizer.encode(sample), first)
            assert_same(dict(sample), dict(untouched))
            assert all(value.device.type == "cpu" for value in first.values())

    def test_varies_by_torchs_generator_alone(self) -> None:
        tokenizer, sample = self.fitted(), self.samples()[0]
        torch.manual_seed(1)
        with draws_nothing(but_torch=True):
            first = tokenizer.encode(sample, augment=True)
        torch.manual_seed(1)
        assert_same(tokenizer.encode(sample, augment=True), first)

    def test_reads_what_is_not_there_with_a_message(self) -> None:
        tokenizer = self.fitted()
        if tokenizer.modality != "text":
            message = ""
            try:
                tokenizer.read("no/such/file.xyz")
            except UserError as error:
                message = str(error)
            assert "no/such/file.xyz" in message, "a file that isn't there is not named"

    # ------------------------------------------------------------------------------------------ tokens

    def test_tokens_lie_on_the_grid(self) -> None:
        tokenizer, tokens = self.fitted(), self.make()(self.inputs(8))
        grid, layout = tokenizer.spec.grid, tokens.layout
        batch, length, dim = tokens.embeddings.shape
        assert (batch, dim) == (8, self.dim)
        assert layout.grids == (grid,)
        assert layout.coordinates.shape[1:] == (length, len(grid.axes))
        assert layout.grid_index.shape == layout.coordinates.shape[:2]
        for sample in range(8):
            places = self._places(tokens, sample)
            assert (places >= 0).all()
            assert (places < torch.tensor(grid.shape)).all()
            assert len(places.unique(dim=0)) == len(places), "two tokens lie on one place"

    def test_pads_only_if_it_says_so(self) -> None:
        tokens = self.make()(self.inputs(8))
        assert tokens.valid is None or self.fitted().spec.pads
        assert tokens.segments is None or self.fitted().spec.packs

    def test_example_is_the_longest(self) -> None:
        tokenizer, embedding = self.fitted(), self.make()
        example = embedding(tokenizer.collate([tokenizer.example()])).embeddings.shape[1]
        assert embedding(self.inputs(8)).embeddings.shape[1] <= example <= len(tokenizer.spec.grid)

    def test_a_batch_does_not_change_a_sample(self) -> None:
        tokenizer, embedding, encoded = self.fitted(), self.make(), self.encoded()
        together = embedding(tokenizer.collate(encoded))
        for number, features in enumerate(encoded):
            alone = embedding(tokenizer.collate([features]))
            assert torch.equal(self._places(alone, 0), self._places(together, number))
            assert_close(_real(alone, 0), _real(together, number))

    def _places(self, tokens: Tokens, sample: int) -> Tensor:
        """Coordinates of one sample's real tokens that lie on the grid."""
        layout, batch = tokens.layout, tokens.embeddings.shape[0]
        on = layout.on_grid(0).expand(batch, -1)[sample]
        real = on if tokens.valid is None else on & tokens.valid[sample]
        return layout.coordinates.expand(batch, -1, -1)[sample][real]


def _real(tokens: Tokens, sample: int) -> Tensor:
    embeddings = tokens.embeddings[sample]
    return embeddings if tokens.valid is None else embeddings[tokens.valid[sample]]
