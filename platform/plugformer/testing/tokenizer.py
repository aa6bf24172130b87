"""Laws of tokenizers."""

import copy
import pickle
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Features, Sample, Tokens
from plugformer.testing.common import Inputs, ModuleSuite
from plugformer.testing.comparing import applies_if, assert_close, assert_same, draws_nothing
from plugformer.testing.samples import SPEC, make_samples

WILD = [
    "",
    " ",
    "  two  spaces \n\n\tand more ",
    "한국어 🎉 Ünïcödé e\u0301 中文",
    "nothing\0here",
    "👩‍👩‍👧 ﬁne ½",
    "[MASK] [PAD]<pad><mask>[CLS] <s></s> <unk> [UNK] <|endoftext|> <bos><eos>",
]


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
        assert assumed.spec == fitted.spec
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
        with draws_nothing(but="torch"):
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

    def test_sequences_are_no_longer_than_it_says(self) -> None:
        """Packed or not; packing loses nothing, and is the same each time."""
        tokenizer = self.fitted()
        sequences, again = tokenizer.sequences(self.samples()), tokenizer.sequences(self.samples())
        if not tokenizer.spec.packs:
            assert len(sequences) == len(self.samples())
        for sequence, same in zip(sequences, again, strict=True):
            features = tokenizer.encode(sequence)
            assert_same(tokenizer.encode(same), features)
            assert "segments" not in features or tokenizer.spec.segments
        tokens = self.make()(tokenizer.collate([tokenizer.encode(sequence) for sequence in sequences]))
        assert tokens.embeddings.shape[1] <= len(tokenizer.spec.grid)
        assert tokens.segments is None or tokenizer.spec.segments

    # ------------------------------------------------------------------------------------------ discrete tokens

    def discrete(self) -> Any:
        tokenizer = self.fitted()
        applies_if(tokenizer.spec.token_kind == "discrete", "its tokens are continuous")
        return tokenizer

    def texts(self) -> list[str]:
        """Those of the samples, and others that it was not fitted on."""
        applies_if(self.build().modality == "text", "its samples are no text")
        return [*(sample["text"] for sample in self.samples()), *WILD]

    def test_tokens_are_of_the_vocabulary(self) -> None:
        tokenizer = self.discrete()
        spec = tokenizer.spec
        assert set(spec.specials.values()) <= set(range(spec.vocab_size))
        for features in [*self.encoded(), tokenizer.example()]:
            ids = features["ids"]
            assert (ids.dtype, ids.ndim) == (torch.int64, 1)
            assert ids.min() >= 0
            assert ids.max() < spec.vocab_size
            for key in {"words", "bytes"} & features.keys():
                assert (features[key].dtype, features[key].shape) == (torch.int64, ids.shape)
            assert "words" in features or not spec.words

    def test_table_has_a_row_for_each_token(self) -> None:
        tokenizer, embedding = self.discrete(), self.make()
        if embedding.table is not None:
            assert embedding.table.shape == (tokenizer.spec.vocab_size, self.dim)
            assert [id(parameter) for parameter in embedding.parameters()].count(id(embedding.table)) == 1

    def test_bytes_add_up_to_the_text(self) -> None:
        """So that bits per byte can be compared between tokenizers."""
        tokenizer = self.discrete()
        for text in self.texts():
            features = tokenizer.encode({"text": text})
            applies_if("bytes" in features, "doesn't tell bytes")
            assert features["bytes"].min() >= 0
            if not set(features["ids"].tolist()) <= set(tokenizer.spec.specials.values()):
                assert features["bytes"].sum() == len(text.encode()), f"of {text!r}"

    def test_decodes_what_it_encoded(self) -> None:
        tokenizer = self.discrete()
        applies_if(getattr(tokenizer, "lossless", False), "doesn't claim to be lossless")
        for text in self.texts():
            assert tokenizer.decode(tokenizer.encode({"text": text})["ids"]) == text

    def test_no_text_becomes_a_special_token(self) -> None:
        """Whatever it is called; but a text may be unknown."""
        tokenizer, texts = self.discrete(), self.texts()
        specials = {role: number for role, number in tokenizer.spec.specials.items() if role != "unk"}
        names = [tokenizer.decode(torch.tensor([number])) for number in specials.values()]
        around = [number for number in tokenizer.encode(self.samples()[0])["ids"] if number in specials.values()]
        for text in [*texts, *names, f"a {''.join(names)} b", " ".join(names)]:
            ids = tokenizer.encode({"text": text})["ids"]
            assert [number for number in ids if number in specials.values()] == around, f"in {text!r}"

    def _places(self, tokens: Tokens, sample: int) -> Tensor:
        """Coordinates of one sample's real tokens that lie on the grid."""
        layout, batch = tokens.layout, tokens.embeddings.shape[0]
        on = layout.on_grid(0).expand(batch, -1)[sample]
        real = on if tokens.valid is None else on & tokens.valid[sample]
        return layout.coordinates.expand(batch, -1, -1)[sample][real]


def _real(tokens: Tokens, sample: int) -> Tensor:
    embeddings = tokens.embeddings[sample]
    return embeddings if tokens.valid is None else embeddings[tokens.valid[sample]]
