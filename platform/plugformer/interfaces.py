"""Every seam of Plugformer, and what passes between the parts.

    raw sample ─encode (worker)→ features ─collate→ batch ─embed (device)→ Tokens ─backbone→ hidden ─task→ Output

Axis names, wherever a shape is given:

    batch              samples in a batch; 1 where a tensor is the same for all of them
    length             tokens of a sequence; `queries` and `keys` where the two may differ
    dim                width of the residual stream
    heads, kv_heads    attention heads, and those that keys and values are projected to
    head_dim           width of one head
    axes               axes of the grid that tokens lie on: 1 for text, 2 for image patches and spectrogram patches
    channels, height, width, frames    of a raw image or waveform
    classes, vocab     of a label or a discrete token

Units: images are uint8, 0 to 255; waveforms float32, -1 to 1, at `rate` hertz; positions count tokens from 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Split = Literal["train", "val", "test"]
Direction = Literal["bidirectional", "causal", "prefix", "encoder_decoder"]
Features = dict[str, Tensor]


# ---------------------------------------------------------------------------------------------- data


class Audio(NamedTuple):
    waveform: Tensor  # float [channels, frames], -1 to 1
    rate: int  # hertz


class Sample(TypedDict, total=False):
    """One raw sample: what a data source has of it, keyed by modality and target."""

    id: str
    text: str
    image: Tensor  # uint8 [channels, height, width]
    audio: Audio
    label: int  # an index into DataSpec.labels
    target_text: str
    answers: tuple[int, ...]  # numbers of the words of `text` that are answers
    group: str  # samples of one group never stand on both sides of a split
    encoded: Features  # by Tokenizer.sequences


class Batch(TypedDict):
    inputs: Features
    targets: Features
    index: Tensor  # int [batch]: place of each sample in its split


@dataclass(frozen=True)
class DataSpec:
    """What is known of a data source before any sample is read.

    Attributes:
        keys: the keys its samples carry.
        labels: names of the classes, in the order of their indices; empty without labels.
        image: `(channels, height, width)` where all images share it.
        rate: sampling rate in hertz where all waveforms share it.
        duration: of the longest waveform in seconds, where it is known.
    """

    keys: frozenset[str]
    labels: tuple[str, ...] = ()
    image: tuple[int, int, int] | None = None
    rate: int | None = None
    duration: float | None = None


class UnreadSamples(Sequence[Sample]):
    """Samples that are read when they are asked for, and of which something is known before."""

    @abstractmethod
    def known(self, index: int) -> Sample:
        """What is known of the sample of this number unread: its `id` at least, and `label`, `target_text` and `group`
        where it has them."""


class DataSource(ABC):
    """Raw samples in three splits that never share a sample, the same for every run of the same options."""

    @property
    @abstractmethod
    def spec(self) -> DataSpec: ...

    @abstractmethod
    def samples(self, split: Split) -> Sequence[Sample] | Iterable[Sample]:
        """The samples of a split; a plain iterable where the data is streamed."""

    def verify(self) -> None:  # noqa: B027  # most data has nothing to verify
        """Look for samples that can't be read, before training starts.

        Raises:
            UserError: names every bad file.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A short hash that is equal for two runs if and only if they see the same samples in the same splits."""


# ---------------------------------------------------------------------------------------------- tokens


@dataclass(frozen=True)
class Grid:
    """The lattice that tokens lie on.

    Attributes:
        axes: names, as in `("position",)`, `("row", "column")`, `("frequency", "time")`.
        shape: how many places each axis has.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return prod(self.shape)

    def coordinates(self) -> Int[Tensor, "length axes"]:
        """Every place, in raster order."""
        return torch.cartesian_prod(*map(torch.arange, self.shape)).reshape(len(self), len(self.shape))

    def raster(self, coordinates: Int[Tensor, "*any axes"]) -> Int[Tensor, "*any"]:
        """The raster-order number of each place."""
        number = torch.zeros_like(coordinates[..., 0])
        for axis, size in enumerate(self.shape):
            number = number * size + coordinates[..., axis]
        return number


@dataclass(frozen=True)
class TokenSpec:
    """What a tokenizer's tokens are, known once it is fitted.

    Attributes:
        grid: the largest grid its tokens can lie on.
        vocab_size: number of distinct tokens, for discrete tokens.
        token_dim: numbers in one raw token (a flattened patch), for continuous tokens.
        specials: ids of special tokens by role: `pad`, `mask`, `bos`, `eos` …
        pads: whether sequences of a batch may be padded to one length.
        overlaps: whether a raw token shares numbers with its neighbours, from which it could be copied.
        mixes: whether samples of a training batch may be mixed with each other.
        packs: whether a sequence may hold several samples, or a part of one.
        segments: whether tokens say which document of their sequence they belong to.
        words: whether features say which word each token belongs to.
        sentinels: ids of tokens that no text has, in their order, to stand for what was taken out of it.
        around: roles of the special tokens that stand around each document, `bos` and `eos`.
    """

    grid: Grid
    vocab_size: int | None = None
    token_dim: int | None = None
    specials: Mapping[str, int] = field(default_factory=dict)
    pads: bool = False
    overlaps: bool = False
    mixes: bool = False
    packs: bool = False
    segments: bool = False
    words: bool = False
    sentinels: tuple[int, ...] = ()
    around: frozenset[str] = frozenset()

    @property
    def token_kind(self) -> Literal["discrete", "continuous"]:
        return "discrete" if self.vocab_size is not None else "continuous"


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch lie.

    Attributes:
        coordinates: int `[batch, length, axes]`; sequences of several modalities are padded to the most axes.
        grid_index: int `[batch, length]`, which of `grids` a token lies on; -1 for tokens that lie on none, such as a
            class token.
        grids: the grids, one a modality.
        leading: how many tokens at the front are known to lie on no grid; there may be others elsewhere.
    """

    coordinates: Int[Tensor, "batch length axes"]
    grid_index: Int[Tensor, "batch length"]
    grids: tuple[Grid, ...]
    leading: int = 0
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` makes of this layout: for all layers once, not once a layer. Nothing that has a gradient.

        If `key` holds the id of an object, what is made must hold the object, or the id may become another's.
        """
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @classmethod
    def of(cls, grid: Grid, device: torch.device | None = None) -> Layout:
        """All places of one grid in raster order, the same for every sample of a batch."""
        coordinates = grid.coordinates()[None].to(device)
        return cls(coordinates, torch.zeros_like(coordinates[..., 0]), (grid,))

    def on_grid(self, number: int) -> Bool[Tensor, "batch length"]:
        return self.grid_index == number

    def last(self, length: int) -> Layout:
        """Of the last tokens alone."""
        gone = self.coordinates.shape[1] - length
        if not gone:
            return self
        coordinates, index = self.coordinates[:, gone:], self.grid_index[:, gone:]
        return Layout(coordinates, index, self.grids, leading=max(0, self.leading - gone))

    def of_samples(self, rows: Int[Tensor, "chosen"]) -> Layout:
        """Of these samples of the batch; where it is the same for all, it stays so."""
        if self.coordinates.shape[0] == 1 and self.grid_index.shape[0] == 1:
            return self
        batch = max(self.coordinates.shape[0], self.grid_index.shape[0])
        coordinates, index = (part.expand(batch, *part.shape[1:])[rows] for part in (self.coordinates, self.grid_index))
        return Layout(coordinates, index, self.grids, self.leading)

    def select(self, index: Int[Tensor, "batch kept"]) -> Layout:
        return Layout(_take(self.coordinates, index), _take(self.grid_index, index), self.grids)

    @staticmethod
    def concatenate(layouts: Sequence[Layout]) -> Layout:
        """One after the other along the sequence. Layouts that share a grid keep sharing it."""
        grids = tuple(dict.fromkeys(grid for layout in layouts for grid in layout.grids))
        batch = max(layout.coordinates.shape[0] for layout in layouts)
        axes = max(layout.coordinates.shape[2] for layout in layouts)
        coordinates, indices = [], []
        for layout in layouts:
            lacking = axes - layout.coordinates.shape[2]
            coordinates.append(nn.functional.pad(layout.coordinates, (0, lacking)).expand(batch, -1, -1))
            index = layout.grid_index
            if layout.grids != grids:
                renumber = index.new_tensor([grids.index(grid) for grid in layout.grids] + [-1])
                index = renumber[index]  # the last entry serves index -1
            indices.append(index.expand(batch, -1))
        return Layout(torch.cat(coordinates, 1), torch.cat(indices, 1), grids, _leading(layouts))


@dataclass(frozen=True)
class Mask:
    """Which keys each query may see, by parts; never a dense tensor until a mechanism asks for one.

    A key is visible if every part that is present allows it. Queries are the *last* tokens of the keys where there are
    fewer of them (decoding with a cache), unless `start` or `query_segments` say otherwise (a cache of fixed size,
    cross-attention).

    Attributes:
        valid: bool `[batch, keys]`, True for real tokens, False for padding; None if nothing is padded.
        causal: a query sees its own place and those before it.
        prefix: int `[batch]`, the number of leading tokens that every query sees even if `causal`.
        segments: int `[batch, keys]`, documents packed into one sequence; a query sees its own segment only.
        query_segments: int `[batch, queries]` where queries are not the last keys.
        layout: where the keys lie, for mechanisms whose pattern follows the grid.
        query_layout: where the queries lie; None if they are the last keys.
        start: int scalar, the place of the first query among the keys, where room for later tokens follows them.
    """

    valid: Bool[Tensor, "batch keys"] | None = None
    causal: bool = False
    prefix: Int[Tensor, "batch"] | None = None
    segments: Int[Tensor, "batch keys"] | None = None
    query_segments: Int[Tensor, "batch queries"] | None = None
    layout: Layout | None = None
    query_layout: Layout | None = None
    start: Int[Tensor, ""] | None = None
    _dense: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def is_plain(self) -> bool:
        """Whether nothing but `causal` restricts what is seen, and the queries are the last keys."""
        return self.valid is None and self.prefix is None and self.segments is None and self.start is None

    def queries(self, length: int) -> Layout:
        """Where the queries lie, `length` of them; `layout` is known."""
        assert self.layout is not None, "nobody knows where the keys lie"
        return self.layout.last(length) if self.query_layout is None else self.query_layout

    def dense(self, queries: int, keys: int, device: torch.device) -> Bool[Tensor, "batch 1 queries keys"] | None:
        """The same as one tensor, for mechanisms that are quadratic anyway; None if everything is visible.

        It is made once for a batch, not once a layer.
        """
        if self.is_plain and (queries == 1 or not self.causal):  # the last token sees all
            return None
        place = (queries, keys, device)
        if place not in self._dense:
            self._dense[place] = self._make_dense(queries, keys, device)
        return self._dense[place]

    def select(self, rows: Int[Tensor, "chosen"]) -> Mask:
        """That of these samples of the batch."""
        return Mask(
            valid=None if self.valid is None else self.valid[rows],
            causal=self.causal,
            prefix=None if self.prefix is None else self.prefix[rows],
            segments=None if self.segments is None else self.segments[rows],
            query_segments=None if self.query_segments is None else self.query_segments[rows],
            layout=None if self.layout is None else self.layout.of_samples(rows),
            query_layout=None if self.query_layout is None else self.query_layout.of_samples(rows),
            start=self.start,
        )

    def _make_dense(self, queries: int, keys: int, device: torch.device) -> Tensor:
        visible = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device)
        if self.causal:
            key = torch.arange(keys, device=device)
            query = key[keys - queries :, None] if self.start is None else key[:queries, None] + self.start
            visible = visible & (key <= query)
            if self.prefix is not None:
                visible = visible | (key < self.prefix[:, None, None, None])
        if self.segments is not None:
            assert self.start is None, "room for later tokens belongs to no segment"
            own = self.segments[:, keys - queries :] if self.query_segments is None else self.query_segments
            visible = visible & (own[:, None, :, None] == self.segments[:, None, None, :])
        if self.valid is not None:
            visible = visible & self.valid[:, None, None, :]
        return visible


@dataclass(frozen=True)
class Tokens:
    """Embedded tokens on their way into a backbone.

    Attributes:
        embeddings: float `[batch, length, dim]`.
        layout: where they lie.
        valid: bool `[batch, length]`, True for real tokens; None if nothing is padded.
        prefix: int `[batch]`, as in Mask.
        segments: int `[batch, length]`, as in Mask.
        raw: float `[batch, length, token_dim]`, continuous tokens as they were before they were embedded, which a task
            can learn to predict; None for discrete ones, and where tokens of other kinds were added.
    """

    embeddings: Float[Tensor, "batch length dim"]
    layout: Layout
    valid: Bool[Tensor, "batch length"] | None = None
    prefix: Int[Tensor, "batch"] | None = None
    segments: Int[Tensor, "batch length"] | None = None
    raw: Float[Tensor, "batch length token_dim"] | None = None

    @property
    def real(self) -> Bool[Tensor, "batch length"]:
        """`valid`, even if nothing is padded."""
        if self.valid is not None:
            return self.valid
        return torch.ones(self.embeddings.shape[:2], dtype=torch.bool, device=self.embeddings.device)

    def mask(self, *, causal: bool) -> Mask:
        """How these tokens may see each other."""
        prefix = self.prefix if causal else None
        return Mask(valid=self.valid, causal=causal, prefix=prefix, segments=self.segments, layout=self.layout)

    def prepend(self, vectors: Float[Tensor, "*count dim"]) -> Tokens:
        """With more tokens at the front that lie on no grid, such as a class token."""
        batch, _, dim = self.embeddings.shape
        embeddings = vectors.reshape(-1, dim).expand(batch, -1, dim)
        count = embeddings.shape[1]
        coordinates = torch.zeros_like(self.layout.coordinates[:1, :1]).expand(-1, count, -1)
        nowhere = Layout(coordinates, torch.full_like(coordinates[..., 0], -1), self.layout.grids, leading=count)
        segments = None if self.segments is None else self.segments[:, :1].expand(-1, count)
        prefix = None if self.prefix is None else self.prefix + count
        return replace(Tokens.concatenate([Tokens(embeddings, nowhere, segments=segments), self]), prefix=prefix)

    def select(self, index: Int[Tensor, "batch kept"]) -> Tokens:
        """Only the tokens at these places, in this order; they keep their coordinates."""
        return Tokens(
            _take(self.embeddings, index),
            self.layout.select(index),
            None if self.valid is None else _take(self.valid, index),
            self.prefix,
            None if self.segments is None else _take(self.segments, index),
            None if self.raw is None else _take(self.raw, index),
        )

    @staticmethod
    def concatenate(parts: Sequence[Tokens]) -> Tokens:
        """Several modalities as one sequence. Segments go on only if every part has them; prefixes are the caller's."""
        embeddings = torch.cat([part.embeddings for part in parts], 1)
        layout = Layout.concatenate([part.layout for part in parts])
        valid = None
        if any(part.valid is not None for part in parts):
            valid = torch.cat([part.real for part in parts], 1)
        segments = [part.segments for part in parts if part.segments is not None]
        assert len(segments) in (0, len(parts)), "segments of some parts only"
        return Tokens(embeddings, layout, valid, segments=torch.cat(segments, 1) if segments else None)


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    """`tensor [batch, length, ...]` at `index [batch, kept]`."""
    tensor = tensor.expand(index.shape[0], *tensor.shape[1:])
    wide = index.reshape(*index.shape, *[1] * (tensor.dim() - 2)).expand(*index.shape, *tensor.shape[2:])
    return tensor.gather(1, wide)


def _leading(layouts: Sequence[Layout]) -> int:
    """Of layouts one after the other; those behind count only while all before them lie nowhere."""
    total = 0
    for layout in layouts:
        total += layout.leading
        if layout.leading < layout.coordinates.shape[1]:
            break
    return total


class Embedding(nn.Module, ABC):
    """The learned half of a tokenizer, on the device: collated features to tokens. It knows nothing of positions.

    Attributes:
        table: float `[vocab, dim]`, a vector for each discrete token, which a task may tie its output to; else None.
        picture_axes: what the height and the width of a `picture` stand for, as in `("frequency", "time")`, if it is a
            chart: one channel in colours, from the bottom left. None if it is an image.
    """

    table: nn.Parameter | None = None
    picture_axes: ClassVar[tuple[str, str] | None] = None

    @abstractmethod
    def forward(self, features: Features) -> Tokens:
        """
        Args:
            features: as `Tokenizer.collate` makes them. Discrete tokens stand under `ids`, int `[batch, length]`, and
                where not all are real, `valid`, bool of the same shape; under `positions`, int of the same shape, may
                stand their places, where they aren't 0, 1, 2 … Continuous tokens are all places of their grid in
                raster order, and `valid` says likewise which are real; they come back with `Tokens.raw`.
        """

    def picture(self, raw: Float[Tensor, "batch length token_dim"]) -> Float[Tensor, "batch channels height width"]:
        """What continuous tokens show, from 0 to 1: one channel of shades or three of colour; NaN where a number is."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to show")


class Tokenizer(ABC):
    """The half of a tokenizer that runs on the CPU, in a loader's workers; a plain object that pickles small.

    Life: made from its options, then either `fit` on training samples or `load`ed; from then on `spec` holds and the
    other methods work. `assume` stands in for `fit` where no sample may be read: shapes are right, statistics neutral.

    Attributes:
        modality: the key of a Sample that it reads.
        training_options: names of those options that vary or mix training samples, or say where work is done, and
            don't change what a token means.
    """

    modality: ClassVar[str]
    training_options: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def spec(self) -> TokenSpec: ...

    @abstractmethod
    def assume(self, data: DataSpec) -> None:
        """Take everything that decides a shape from `data`.

        Raises:
            UserError: the options can't go with this data, such as patches that don't divide its images.
        """

    @abstractmethod
    def fit(self, samples: Iterable[Sample]) -> None:
        """Learn a vocabulary or statistics from training samples."""

    @abstractmethod
    def encode(self, sample: Sample, *, augment: bool = False) -> Features:
        """One sample as unbatched CPU tensors. Randomness (only if `augment`) is drawn from torch's generator.

        Discrete tokens stand under `ids`, int `[length]`. A tokenizer of text may add `words`, int `[length]`, the
        number of the word each token belongs to (-1: none), and `bytes`, int `[length]`, how many bytes of UTF-8 each
        token stands for. Continuous tokens are all places of the spec's grid in raster order; where not all are real,
        `valid`, bool `[length]`, says which.
        """

    def sequences(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """What is encoded one by one: the samples themselves, or what a packing tokenizer makes of them."""
        return samples

    def length_hint(self, sample: Sample) -> int:
        """Grows with the number of tokens, without the cost of encoding: samples of like size make a batch."""
        return 1

    @abstractmethod
    def collate(self, features: Sequence[Features]) -> Features:
        """A batch of encoded samples, padded where their lengths differ."""

    def mix(self, batch: Features) -> Features:
        """Say how the samples of a collated training batch are mixed, if `spec.mixes`; the embedding then does it.

        Randomness is drawn from torch's generator. To the features come `partner`, int `[batch]`, the sample that each
        is mixed with, and `own`, float `[batch]`, its own share of the mixture.
        """
        return batch

    @abstractmethod
    def example(self) -> Features:
        """Encoded features of the longest sample there can be, made up, to measure a model with."""

    @abstractmethod
    def embedding(self, *, dim: int) -> Embedding:
        """A new embedding of these tokens."""

    @abstractmethod
    def read(self, source: str) -> Sample:
        """A sample from what stands on a command line: a path or, for text, the text itself.

        Raises:
            UserError: it can't be read.
        """

    def prompt(self, source: str) -> Features:
        """What stands on a command line as the beginning of a sequence: as `encode`, without what marks an end.

        Raises:
            UserError: nothing to begin with, or it can't be read.
        """
        raise NotImplementedError(f"{type(self).__name__} has no beginnings")

    def decode(self, ids: Int[Tensor, "length"]) -> str:
        """Back to what was tokenized, where tokens are discrete."""
        raise NotImplementedError(f"{type(self).__name__} can't be inverted")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was learned into an existing folder."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""


# ---------------------------------------------------------------------------------------------- inside a backbone

Causality = Literal["none", "gradient", "strict"]


@dataclass(frozen=True)
class Capabilities:
    """What a mechanism can do. What it can't is refused by name before any data is read; nothing is ever ignored.

    Attributes:
        causality: `none`: can't be causal. `gradient`: no gradient reaches a future token, but future tokens may
            change the value of past outputs. `strict`: no future token changes any past output in any way.
        cross_attention: queries may come from another sequence than keys.
        key_padding, prefix, segments: the parts of a Mask it honours besides `causal`.
        additive_bias: accepts `bias`, added to the logits before the softmax.
        grouped_query: takes fewer key-value heads than query heads as they are; others get them repeated.
        shared_query_key: keys are the queries; the wrapper then projects no keys.
        min_length: the shortest sequence it takes.
        block_length: it works in blocks of this many tokens, and pads to them itself.
        decoding: how it goes on token by token: not at all, by `forward` over cached keys and values, or by `step`
            from a state of its own.
        room: it honours `Mask.start`, as caches of fixed size need it.
        state_grows: its state holds more with every token, and is not of one size.
        divides: its heads know nothing of each other, so that each of several processes may have some of them; what it
            holds of a head's own it keeps or forgets by `keep_heads`.
        replays: called again with the same inputs, generators and `nn.replay` decisions, it does the same in training,
            as blocks need that recompute what they don't keep.
        time_exponent, memory_exponent: growth with the length that it claims, 1.0 for linear.
    """

    causality: Causality = "none"
    cross_attention: bool = False
    key_padding: bool = False
    prefix: bool = False
    segments: bool = False
    additive_bias: bool = False
    grouped_query: bool = False
    shared_query_key: bool = False
    min_length: int = 1
    block_length: int | None = None
    decoding: Literal["none", "cache", "state"] = "none"
    room: bool = False
    state_grows: bool = False
    divides: bool = False
    replays: bool = True
    time_exponent: float = 2.0
    memory_exponent: float = 2.0


class Attention(nn.Module, ABC):
    """A mechanism alone: heads in, heads out. Projections, rotary positions and caches are its wrapper's.

    Attributes:
        capabilities: on the class; on the instance as well where they depend on its options.
        exact_options: options with which it computes `exact`, at least up to 64 tokens; None if there are none.
        finer_options: options, from coarse to fine, along which it comes ever closer to `exact`.
    """

    capabilities: Capabilities
    exact_options: ClassVar[Mapping[str, Any] | None] = None
    finer_options: ClassVar[Sequence[Mapping[str, Any]]] = ()

    @abstractmethod
    def forward(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch kv_heads keys head_dim"],
        v: Float[Tensor, "batch kv_heads keys head_dim"],
        mask: Mask,
        bias: Float[Tensor, "batch heads queries keys"] | None = None,
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        """`bias` is only ever given to mechanisms that declare `additive_bias`.

        A query that may see no key at all gets zeros.
        """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Tensor | None = None) -> Tensor:
        """`forward`, which is never asked for what the mechanism doesn't declare, and so can't ignore it.

        Raises:
            NotImplementedError: a part of the mask, a bias, or keys of another sequence that it doesn't declare.
        """
        if undeclared := _undeclared(self.capabilities, q, k, mask, bias):
            raise NotImplementedError(f"{type(self).__name__} doesn't declare {undeclared}, and was asked for it")
        return super().__call__(q, k, v, mask) if bias is None else super().__call__(q, k, v, mask, bias)

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, state: Any, valid: Bool[Tensor, "batch new"] | None = None
    ) -> tuple[Tensor, Any]:
        """Some tokens further, for mechanisms that decode by `state`; causal.

        Args:
            q, k, v: of the new tokens, as in `forward`; the first step may be a whole prompt.
            state: what the step before returned; None before the first. It stays as it was. All its tensors have the
                batch as their first axis, so that sequences can be chosen from it.
            valid: which of the new tokens are real; None if all are.
        """
        raise NotImplementedError(f"{type(self).__name__} declares decoding={self.capabilities.decoding!r}")

    def before_step(self, step: int) -> None:  # most mechanisms draw nothing anew
        """Called in training before each optimiser step with its number, from 0: for what is drawn anew now and then.

        What is drawn depends on the mechanism's seed and `step` alone, so that every rank draws the same.
        """

    def keep_heads(self, first: int, count: int) -> None:  # most hold nothing of a head's own
        """Forget all heads but these, in place and for good: the others are other processes'.

        The wrapper then gives it these alone, and they must do what they do among all, also with what is drawn later.
        """

    def diagnose(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Mapping[str, float]:
        """What is worth knowing of how it works on these, by name, such as how far it is from what it approximates.

        Called now and then in evaluation, with what `forward` was given; figures of all layers are averaged.
        """
        return {}

    def plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """What `forward` computes in evaluation, by the plainest means, however slow: `forward` is held to it."""
        raise NotImplementedError(f"{type(self).__name__} has no plain version")

    def exact(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """What it approximates: softmax attention, unless a subclass says otherwise."""
        visible = mask.dense(q.shape[2], k.shape[2], q.device)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if visible is not None:
            logits = logits.masked_fill(~visible, float("-inf"))
        return logits.softmax(-1).nan_to_num() @ v

    def kernel(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch heads queries keys"]:
        """An estimate of exp(q·k / √head_dim), for mechanisms whose mean estimate over seeds is exactly that."""
        raise NotImplementedError(f"{type(self).__name__} estimates no kernel")


def _undeclared(can: Capabilities, q: Tensor, k: Tensor, mask: Mask, bias: Tensor | None) -> str:
    """The first thing that is asked for and not declared; empty if there is none. It reads no tensor's contents."""
    queries, keys = q.shape[2], k.shape[2]
    decodes = can.decoding == "cache" and mask.causal and queries < keys  # the queries are the last keys
    asked = {
        "causality": mask.causal and can.causality == "none",
        "key_padding": mask.valid is not None and not can.key_padding,
        "prefix": mask.prefix is not None and not can.prefix,
        "segments": mask.segments is not None and not can.segments,
        "room": mask.start is not None and not can.room,
        "additive_bias": bias is not None and not can.additive_bias,
        "cross_attention": not can.cross_attention
        and ((queries != keys and not decodes) or mask.query_segments is not None),
    }
    return next((part for part, wanted in asked.items() if wanted), "")


class Position(nn.Module):
    """Where tokens stand, told to the model in whichever of three ways a subclass overrides.

    Attributes:
        adds_bias: whether `bias` gives one; decides which mechanisms it can go with.
        bounded: whether it knows no places beyond the grids it was made for.
    """

    adds_bias: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    def add(self, x: Float[Tensor, "batch length dim"], layout: Layout) -> Float[Tensor, "batch length dim"]:
        """Absolute positions: into the embeddings, once."""
        return x

    def rotate(self, x: Float[Tensor, "batch heads length head_dim"], layout: Layout) -> Tensor:
        """Rotary positions: applied to queries and keys in every layer."""
        return x

    def bias(self, queries: Layout, keys: Layout) -> Float[Tensor, "batch heads queries keys"] | None:
        """Relative positions: added to the logits in every layer."""
        return None

    def keep_heads(self, first: int, count: int) -> None:
        """Forget all heads but these, in place and for good: the others are other processes'."""
        if self.adds_bias:
            raise NotImplementedError(f"{type(self).__name__} biases each head and can't be divided")

    def resized(self, weights: Mapping[str, Tensor], grids: tuple[Grid, ...]) -> Mapping[str, Tensor]:
        """Weights of such positions, learned on other grids, brought to its own; those it can't bring stay as they are.

        Args:
            weights: by the names of its `state_dict`.
            grids: those they were learned on.
        """
        return weights


class Cache(ABC):
    """What one attention layer remembers of the tokens before, while decoding step by step.

    Attributes:
        state: of a mechanism that decodes by `Attention.step`; None before its first step.
    """

    state: Any = None

    @abstractmethod
    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Remember new keys and values `[batch, kv_heads, new, head_dim]`; all that may be seen come back."""


class DecodingState(ABC):
    """What a backbone remembers of the tokens so far while decoding step by step; each step adds to it.

    Attributes:
        caches: one a block.
        begun: whether there was a step.
    """

    caches: Sequence[Cache]
    begun: bool = False

    @abstractmethod
    def extend(self, new: Tokens, *, causal: bool) -> Mask:
        """Remember where new tokens stand; back comes how they may see all so far.

        A prefix must be whole in the first step: to later tokens it is past like all before them.
        """

    @abstractmethod
    def drop(self, count: int) -> None:
        """Forget the last tokens. Not possible where a mechanism decodes from a state."""

    @abstractmethod
    def select(self, rows: Int[Tensor, "chosen"]) -> None:
        """Go on with these sequences of the batch, some perhaps several times."""


@dataclass(frozen=True)
class Memory:
    """An encoder's output, for a decoder to attend to.

    Attributes:
        hidden: float `[batch, keys, dim]`.
        mask: how decoder queries may see it: its padding and, if packed, segments; `layout` says where its keys lie.
        copies: sequences of the decoder that attend to each, one after the other in its batch, such as beams.
    """

    hidden: Float[Tensor, "batch keys dim"]
    mask: Mask
    copies: int = 1
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: Any, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What a layer makes of this memory while decoding, such as keys and values: once, not once a step.

        All of it begins with the batch axis.
        """
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def repeat(self, copies: int) -> Memory:
        """The same, for so many times as many sequences."""
        repeated = replace(self, copies=self.copies * copies)
        repeated._made.update(self._made)
        return repeated

    def select(self, rows: Int[Tensor, "chosen"]) -> Memory:
        """That of these sequences of the decoder's batch."""
        rows = rows.div(self.copies, rounding_mode="floor")
        chosen = Memory(self.hidden[rows], self.mask.select(rows))
        chosen._made.update({key: tuple(part[rows] for part in made) for key, made in self._made.items()})
        return chosen


class Block(nn.Module, ABC):
    """One layer of a backbone.

    Attributes:
        normalised: whether what it returns is normalised already, so that a backbone must not do it once more.
        recomputes: whether its backward pass runs its parts once more, so that they must be able to do the same again.
        crosses: whether it takes `cross_attention`, and then attends to `memory`.
    """

    normalised: ClassVar[bool]
    recomputes: ClassVar[bool] = False
    crosses: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        mask: Mask,
        *,
        memory: Memory | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch length dim"]: ...

    @classmethod
    def chain(
        cls,
        blocks: Sequence[Block],
        x: Float[Tensor, "batch length dim"],
        mask: Mask,
        *,
        memory: Memory | None = None,
        caches: Sequence[Cache | None],
    ) -> Float[Tensor, "batch length dim"]:
        """Several blocks of this class, one after the other."""
        for block, cache in zip(blocks, caches, strict=True):
            x = block(x, mask, memory=memory, cache=cache)
        return x


Role = Literal["encoder", "decoder", "cross"]


class Backbone(nn.Module, ABC):
    """Tokens to hidden states.

    Attributes:
        direction: what a token may see. Of an `encoder_decoder`, `encode` reads one sequence, and `forward` is the
            decoder of another.
        dim: width of its hidden states.
        num_layers: its blocks.
        unused: kinds of parts that it has no use for with its options, so that a composition must not choose them.
        goes_back: whether tokens can be dropped while decoding, as far as its mechanisms can.
    """

    direction: ClassVar[Direction]
    dim: int
    num_layers: int
    unused: frozenset[str] = frozenset()
    goes_back: bool = True

    @property
    def num_caches(self) -> int:
        """Layers that remember something while decoding, all of them unless it says otherwise."""
        return self.num_layers

    def encode(self, tokens: Tokens) -> Memory:
        """What the encoder of an `encoder_decoder` makes of a source, for `forward` to attend to."""
        raise NotImplementedError(f"{type(self).__name__} has no encoder of another sequence")

    def mechanisms(self) -> Mapping[Role, Sequence[Attention]]:
        """Its attention mechanisms: those that see a whole sequence, those that see what came before, and those from
        a decoder to an encoder."""
        role: Role = "encoder" if self.direction == "bidirectional" else "decoder"
        return {role: [module for module in self.modules() if isinstance(module, Attention)]}

    @abstractmethod
    def forward(
        self, tokens: Tokens, *, memory: Memory | None = None, state: DecodingState | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """
        Args:
            tokens: the sequence; with `state`, only what is new of it.
            memory: an encoder's output, for decoders.
            state: of the tokens before, while decoding step by step.
        """


# ---------------------------------------------------------------------------------------------- tasks


class Token(int):
    """The id of a discrete token in what a task describes; people are told what the tokenizer decodes it to."""


@dataclass(frozen=True)
class Needs:
    """What a task can't do without.

    Attributes:
        directions: the backbones it can work with.
        token_kinds: the tokens it can work with.
        keys: what samples must carry besides the tokenizer's modality.
        whole_samples: whether each sequence must be one sample, so that tokens must not be packed.
        separate_tokens: whether raw tokens must share no numbers with their neighbours.
    """

    directions: frozenset[Direction]
    token_kinds: frozenset[str] = frozenset({"discrete", "continuous"})
    keys: frozenset[str] = frozenset()
    whole_samples: bool = False
    separate_tokens: bool = False


@dataclass(frozen=True)
class Monitor:
    """The metric that says which checkpoint is best, as `split/metric`."""

    metric: str
    mode: Literal["min", "max"]


@dataclass
class Output:
    """What a task makes of a batch.

    Attributes:
        loss: scalar; None where the batch has no targets.
        predictions: for metrics and for `Task.describe`, such as logits `[batch, classes]`.
        targets: in the shape that goes with `predictions`; None where the batch has none.
        weight: how many items `loss` is the mean of, so that a mean over batches is exact; a scalar tensor where only
            the batch's numbers tell.
        pictures: what there is to see of a batch without targets, by a caption each: raw tokens `[batch, length,
            token_dim]`, NaN where nothing is shown.
    """

    loss: Tensor | None
    predictions: Tensor
    targets: Tensor | None
    weight: int | Tensor
    pictures: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Confusion:
    """Which classes were taken for which.

    Attributes:
        labels: names of all classes.
        pairs: int `[pairs, 2]`, the true and the predicted class of all that occurred, each pair once.
        counts: int `[pairs]`, how often.
    """

    labels: tuple[str, ...]
    pairs: Int[Tensor, "pairs 2"]
    counts: Int[Tensor, "pairs"]


@runtime_checkable  # for the checks of annotations in tests
class Trunk(Protocol):
    """What a task is given to work with: a model without its head.

    Attributes:
        target_embedding: of a decoder's own tokens; None where they are embedded as the encoder's are.
    """

    embedding: Embedding
    backbone: Backbone
    target_embedding: Embedding | None

    def embed(self, features: Features) -> Tokens: ...

    def embed_target(self, features: Features) -> Tokens: ...

    @property
    def target_table(self) -> nn.Parameter | None: ...


class Targets(ABC):
    """What a task wants to learn of a sample. Runs in a loader's workers, so it holds no weights."""

    @abstractmethod
    def encode(self, sample: Sample, inputs: Features) -> Features:
        """The targets of one sample as unbatched CPU tensors.

        Args:
            sample: as it is.
            inputs: its features. What is random, such as which tokens are hidden, is drawn from torch's generator,
                whose seed is the sample's own in this epoch.
        """

    @abstractmethod
    def collate(self, features: Sequence[Features]) -> Features:
        """A batch of encoded targets, padded where their lengths differ."""

    def example(self, inputs: Features) -> Features:
        """Targets that could go with these features, made up, to measure a model with."""
        return self.encode({}, inputs)


class Task(nn.Module, ABC):
    """Head, objective and metrics: it tells how a batch becomes a loss.

    Attributes:
        needs: what it asks of the other parts; known before any data is read.
        monitor: by which metric checkpoints are chosen.
        targets: what it wants to learn of each sample.
        generates: whether it can go on with a sequence of discrete tokens, or write one for another; then it has
            `logits`.
        target_tokenizer: of the texts that it learns to write, where it does; fitted once it is.
        start: of a task that writes one sequence for another, the token that each begins with.
        mixes: whether it knows what to learn from samples that are mixed, as in `Tokenizer.mix`.
    """

    needs: Needs
    monitor: Monitor
    targets: Targets
    generates: bool = False
    mixes: bool = False
    target_tokenizer: Tokenizer | None = None
    start: int = 0

    @abstractmethod
    def forward(self, trunk: Trunk, batch: Batch) -> Output: ...

    def seen(self, length: int) -> int:
        """How many of so many tokens the backbone is given."""
        return length

    def logits(self, trunk: Trunk, hidden: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch places vocab"]:
        """Of the token that follows each place."""
        raise NotImplementedError(f"{type(self).__name__} generates nothing")

    def source(self, inputs: Features) -> Features:
        """Collated inputs, as they are to be read where a sequence is to be written for them."""
        return inputs

    def prompted(self, tokens: Tokens, length: int) -> Tokens:
        """Tokens of which the first `length` are a prompt, as they go into the backbone."""
        return tokens

    @abstractmethod
    def metrics(self) -> Mapping[str, Any]:
        """New torchmetrics by name, updated with `Output.predictions` and `Output.targets` after every batch, and with
        those of `compared` that they name."""

    def compared(self, trunk: Trunk, batch: Batch, output: Output, *, split: Split) -> Mapping[str, Any]:
        """What else metrics are given in evaluation, by name, such as texts that were written and what they should be.

        Called once a batch of a split, with the output of `forward`.
        """
        return {}

    def tables(self, values: Mapping[str, Tensor]) -> dict[str, list[list[Any]]]:
        """Metrics that are more than one number, as rows for a CSV file: `{name: rows}`, the first row a header."""
        return {}

    def confusion(self, values: Mapping[str, Tensor]) -> Confusion | None:
        """What was taken for what, from the same metrics; None where nothing is."""
        return None

    def losses(self, output: Output) -> Float[Tensor, "batch"] | None:
        """Of an output of evaluation, with targets: the loss of each sample alone; None where it can't be told."""
        return None

    @abstractmethod
    def describe(self, output: Output) -> list[dict[str, Any]]:
        """Predictions as plain values for JSON, one dict a sample."""

    def show(self, trunk: Trunk, batch: Batch, output: Output, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """What a person wants to see of each sample besides the sample and its loss, by the names of a table's columns.

        Called now and then in evaluation, with a few samples and the output of `forward` for them. Values are plain, as
        those of `describe`, or pictures: mappings as `Output.pictures`, of one sample.

        Args:
            trunk: in evaluation mode; nothing has a gradient.
            batch: with targets.
            output: of `forward`.
            tokenizer: of what was read.
        """
        return self.describe(output)


# ---------------------------------------------------------------------------------------------- weights


class Family(ABC):
    """Another library's models that ours can equal, weight for weight.

    Names of our tensors are those of `Model.state_dict`: `trunk.embedding…`, `trunk.backbone…`, `task…`.

    Attributes:
        model_types: what their config.json may say under `model_type`.
        example: the config.json of a tiny one, to try the laws on.
    """

    model_types: ClassVar[frozenset[str]]
    example: ClassVar[Mapping[str, Any]]

    @abstractmethod
    def composition(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What a run must say to be such a model: by kind, the plugin's `name` and those options that matter.

        Args:
            config: their config.json.

        Raises:
            UserError: it says something that ours can't be.
        """

    @abstractmethod
    def read(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Their tensors under our names and in our shapes; those that have no place with us are left out."""

    @abstractmethod
    def form(self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """The config.json of a run's model as one of theirs.

        Args:
            config: the run's composition.
            tokens: of its tokenizer.
            weights: of its model, by our names.

        Raises:
            UserError: it can't be one of theirs; the message says every reason, a line each.
        """

    @abstractmethod
    def write(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Our tensors under their names and in their shapes, for `config` as `form` made it."""


# ---------------------------------------------------------------------------------------------- optimisation


@dataclass(frozen=True)
class ParameterGroups:
    """Parameters by whether weight decay applies to them.

    Attributes:
        decayed, undecayed: all of them, each once.
        hidden: those of `decayed` that are matrices between hidden states, for optimisers that treat a matrix as such.
    """

    decayed: list[nn.Parameter]
    undecayed: list[nn.Parameter]
    hidden: list[nn.Parameter] = field(default_factory=list)

    def with_decay(self, weight_decay: float) -> list[dict[str, Any]]:
        """In the form that torch optimisers take."""
        groups = [(self.decayed, weight_decay), (self.undecayed, 0.0)]
        return [{"params": parameters, "weight_decay": decay} for parameters, decay in groups if parameters]


class Optimizer(ABC):
    """Makes a torch optimiser; the class's options are the optimiser's.

    Attributes:
        elementwise: whether a number's step depends on its own gradients alone, so that parts of a tensor can be
            trained apart.
    """

    elementwise: ClassVar[bool] = False

    @abstractmethod
    def build(self, groups: ParameterGroups) -> torch.optim.Optimizer: ...


class Schedule(ABC):
    """The learning rate over time, as a factor."""

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """What the learning rate is multiplied by at optimiser step `step`, from 0 to `total_steps - 1`."""
