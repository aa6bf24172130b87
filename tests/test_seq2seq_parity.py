"""With the same weights, our encoder-decoders are BART, T5 and Whisper of transformers: logits, gradients, what they
write."""

import json

import pytest
import torch
from tests.peers import IDS, SPECIALS, VALID, VOCAB, WRITERS, WRITTEN, WRITTEN_VALID, make_ours
from transformers import GenerationMixin, WhisperConfig, WhisperForConditionalGeneration

from plugformer.assemble import build_backbone
from plugformer.cli.compose import compose
from plugformer.decode.beam import beam_search
from plugformer.decode.choosing import Choice
from plugformer.decode.sampling import sample
from plugformer.decode.session import Session
from plugformer.interfaces import DataSpec, Grid, TokenSpec
from plugformer.model import Model, Trunk
from plugformer.registry import build
from plugformer.testing.comparing import noise
from plugformer.testing.family import tokenizer_of
from plugformer_text.embedding import TextEmbedding

ROOM = 8
WRITES = {"bart": {"seed": 1}, "t5": {"table": 1.0, "seed": 41}, "t5-1.1": {"seed": 10}, "whisper": {"seed": 9}}
EOS, PAD = SPECIALS["eos"], SPECIALS["pad"]


def randomise(theirs, *, seed=0, table=0.2):
    """Off the zeros and ones that hide a mistake, and far from the uniform distribution.

    Args:
        seed: with which it writes texts worth comparing.
        table: deviation of vectors of tokens.
    """
    with torch.no_grad():
        for number, (name, parameter) in enumerate(theirs.named_parameters()):
            if parameter.requires_grad:
                start = parameter if parameter.dim() == 1 else 0.0  # norms stay near one, and matrices near none
                scale = table if "shared" in name or "embed_tokens" in name else 0.2
                parameter.copy_(start + scale * noise(*parameter.shape, seed=number + 1000 * seed))
    return theirs.eval()


class Pair:
    """Our model and theirs, the source that both read, and how both are called with what is written.

    Attributes:
        named: tensors of theirs, such as gradients, as those of our parameters.
    """

    def __init__(self, ours, theirs, *, source, read, named):
        self.ours, self.theirs, self.source, self.read, self.named = ours.eval(), theirs, source, read, named

    def logits(self):
        trunk = self.ours.trunk
        memory = trunk.backbone.encode(trunk.embed(self.source))
        written = trunk.embed_target({"ids": WRITTEN, "valid": WRITTEN_VALID})
        ours = self.ours.task.logits(trunk, trunk.backbone(written, memory=memory))
        mask = WRITTEN_VALID.long()
        return ours, self.theirs(**self.read, decoder_input_ids=WRITTEN, decoder_attention_mask=mask).logits

    def session(self, cache="growing"):
        return Session(self.ours, room=ROOM, source=self.source, cache=cache)

    @property
    def begun(self):
        return torch.full((len(WRITTEN), 1), self.ours.task.start)

    def generated(self, **options):
        """What theirs writes, by source, as (tokens before eos, how it ended, score)."""
        made = GenerationMixin.generate(  # Whisper's own would look for time stamps
            self.theirs,
            **self.read,
            decoder_input_ids=self.begun,
            max_new_tokens=ROOM,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=PAD,
            eos_token_id=EOS,
            **options,
        )
        rows = made.sequences[:, 1:].tolist()
        scores = [None] * len(rows) if options.get("num_beams", 1) == 1 else made.sequences_scores.tolist()
        found = [
            (row[: row.index(EOS)], "eos", score) if EOS in row else (row, "length", score)
            for row, score in zip(rows, scores, strict=True)
        ]
        count = options.get("num_return_sequences", 1)
        return [found[first : first + count] for first in range(0, len(found), count)]


def writer(name):
    """A family's, with its weights as the family reads them."""
    theirs = randomise(WRITERS[name](), **WRITES[name])
    said = json.loads(theirs.config.to_json_string())
    family = build("family", {"name": said["model_type"]})
    ours = make_ours(family.composition(said))
    ours.load_state_dict(family.read(theirs.state_dict(), said))
    return Pair(
        ours,
        theirs,
        source={"ids": IDS, "valid": VALID},
        read={"input_ids": IDS, "attention_mask": VALID.long()},
        named=lambda tensors: family.read(tensors, said),
    )


# ---------------------------------------------------------------------------------------------- Whisper

BINS, FRAMES, DIM, LAYERS = 10, 14, 32, 2
SIDE = {
    "self_attn.{}_proj": "attention.{}",
    "encoder_attn.{}_proj": "cross_attention.{}",
}
PROJECTIONS = {"q": "query", "k": "key", "v": "value", "out": "output"}
MODULES = {
    "self_attn_layer_norm": "attention_norm",
    "encoder_attn_layer_norm": "cross_attention_norm",
    "fc1": "feed_forward.expand",
    "fc2": "feed_forward.contract",
    "final_layer_norm": "feed_forward_norm",
    **{theirs.format(short): ours.format(name) for theirs, ours in SIDE.items() for short, name in PROJECTIONS.items()},
}


def named_as_ours(tensors):
    """Whisper's under our names. Its keys have no bias, ours has one of zeros; its sinusoids are a table of ours."""
    found = {}
    for name, tensor in tensors.items():
        side, _, rest = name.removeprefix("model.").partition(".")
        if name == "proj_out.weight":  # tied
            continue
        if rest.startswith("layers."):
            _, number, module = rest.split(".", 2)
            module, _, kind = module.rpartition(".")
            found[f"trunk.backbone.{side}.blocks.{number}.{MODULES[module]}.{kind}"] = tensor
            if module.endswith("k_proj"):
                found[f"trunk.backbone.{side}.blocks.{number}.{MODULES[module]}.bias"] = torch.zeros(len(tensor))
            continue
        module, _, kind = rest.rpartition(".")
        ours = {
            "conv1": "trunk.embedding.stem.first",
            "conv2": "trunk.embedding.stem.second",
            "embed_tokens": "trunk.target_embedding.lookup",
            "embed_positions": f"trunk.backbone.{side}.position.tables.0.0",
            "layer_norm": f"trunk.backbone.{side}.norm",
        }
        found[f"{ours[module]}.{kind}"] = tensor
    return found


def whisper():
    """Whisper's from log-mel frames, which its feature extractor has normalised."""
    theirs = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=VOCAB,
            num_mel_bins=BINS,
            d_model=DIM,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS + 1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=40,
            decoder_ffn_dim=40,
            max_source_positions=FRAMES // 2,
            max_target_positions=ROOM + 2,
            pad_token_id=PAD,
            bos_token_id=SPECIALS["bos"],
            eos_token_id=EOS,
            decoder_start_token_id=SPECIALS["bos"],
            begin_suppress_tokens=None,
        )
    )
    randomise(theirs, **WRITES["whisper"])
    ours = make_whisper()
    statistics = {f"trunk.embedding.standardise.{name}" for name in ("mean", "std")}
    left = ours.load_state_dict(named_as_ours(theirs.state_dict()), strict=False)
    assert set(left.missing_keys) == statistics
    assert not left.unexpected_keys
    frames = noise(3, BINS, FRAMES, seed=5)
    return Pair(ours, theirs, source={"spectrogram": frames}, read={"input_features": frames}, named=named_as_ours)


def make_whisper():
    config = compose(
        [
            *("data=spoken_digits", "tokenizer=spectrogram", f"tokenizer.num_bins={BINS}", "tokenizer.stem=conv"),
            *("tokenizer.patch_size=[null,2]", "tokenizer.padding=silence", "target_tokenizer=text_bytes"),
            *("task=seq2seq", "task.start=bos", "backbone=encoder_decoder", f"backbone.dim={DIM}"),
            *(f"backbone.num_layers={LAYERS}", f"backbone.num_decoder_layers={LAYERS + 1}", "backbone.num_heads=4"),
            *("block=pre_norm", "norm=layer", "position=learned", "feed_forward=mlp", "feed_forward.expansion=1.25"),
        ]
    )
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.assume(DataSpec(frozenset({"audio"}), rate=16_000, duration=(FRAMES - 1) / 100))  # hops of 10 ms
    assert tokenizer.spec.grid.shape == (1, FRAMES // 2), tokenizer.spec.grid
    tokens = TokenSpec(
        Grid(("position",), (ROOM + 2,)),
        vocab_size=VOCAB,
        specials=SPECIALS,
        pads=True,
        around=frozenset({"bos", "eos"}),
    )
    backbone = build_backbone(config, tokenizer.spec, tokens)
    trunk = Trunk(
        embedding=tokenizer.embedding(dim=DIM),
        backbone=backbone,
        target_embedding=TextEmbedding(vocab_size=VOCAB, dim=DIM, grid=tokens.grid),
    )
    task = build("task", config["task"], dim=DIM, tokens=tokens, target_tokenizer=tokenizer_of(tokens))
    return Model(trunk=trunk, task=task)


# ---------------------------------------------------------------------------------------------- the same numbers


@pytest.fixture(scope="module", params=[*WRITERS, "whisper"])
def pair(request):
    return whisper() if request.param == "whisper" else writer(request.param)


def test_logits_agree(pair):
    """With padding in the source and in what is written."""
    with torch.no_grad():
        ours, theirs = (each[WRITTEN_VALID] for each in pair.logits())
    assert theirs.std(0).min() > 0.1, "the tokens are told apart"
    assert (ours - theirs).abs().max() < 1e-5


def test_gradients_of_all_parameters_agree(pair):
    """Where a tensor of ours is a multiple of theirs, its gradient is that part of theirs."""
    for model in (pair.ours, pair.theirs):
        model.zero_grad()
    for logits in pair.logits():
        (logits * noise(*logits.shape, seed=9))[WRITTEN_VALID].mean().backward()
    parameters = dict(pair.theirs.named_parameters())
    expected = pair.named({name: its.grad for name, its in parameters.items() if its.grad is not None})
    multiples = pair.named({name: torch.ones_like(its) for name, its in parameters.items()})
    checked = set()
    for name, parameter in pair.ours.named_parameters():
        if name not in expected:
            assert name == "trunk.backbone.encoder.position.tables.0.0.weight", name  # Whisper learns none
            continue
        if name.endswith("attention.key.bias"):  # softmax cancels it: both are rounding around zero
            assert parameter.grad.abs().max() < 1e-6, name
            continue
        gradient = parameter.grad * multiples[name] ** 2
        assert gradient.abs().max() > 1e-5, name
        assert (gradient - expected[name]).abs().max() < 1e-5 * max(1, expected[name].abs().max()), name
        checked.add(name)
    assert len(checked) > 40


# ---------------------------------------------------------------------------------------------- the same texts


@pytest.mark.parametrize("cache", ["growing", "fixed", "none"])
def test_greedy_decoding_is_that_of_transformers(pair, cache):
    made = sample(pair.session(cache), pair.begun, choice=Choice(), room=ROOM, eos=EOS)
    assert [(each.ids, each.ended) for each in made] == [each[:2] for (each,) in pair.generated()]


@pytest.mark.parametrize(
    ("length_penalty", "early_stopping"), [(-0.7, False), (0.0, "never"), (1.0, True), (1.0, False), (2.0, "never")]
)
def test_beams_are_those_of_transformers(pair, length_penalty, early_stopping):
    options = {"num_beams": 4, "length_penalty": length_penalty, "early_stopping": early_stopping}
    made = beam_search(pair.session(), pair.begun, num_samples=4, room=ROOM, eos=EOS, choice=Choice(), **options)
    expected = pair.generated(num_return_sequences=4, **options)
    assert [[(each.ids, each.ended) for each in group] for group in made] == [
        [each[:2] for each in group] for group in expected
    ]
    for group, others in zip(made, expected, strict=True):
        ranks = [each.score / (len(each.ids) + (each.ended == "eos")) ** length_penalty for each in group]
        assert ranks == pytest.approx([each[2] for each in others], rel=1e-5)


def test_what_is_written_is_worth_comparing(pair):
    """Texts of several lengths, others for other sources, with more than one token in them."""
    found = pair.generated(num_beams=4, num_return_sequences=4, length_penalty=0.0)
    assert len({len(ids) for group in found for ids, *_ in group}) > 2
    assert len({tuple(tuple(ids) for ids, *_ in group) for group in found}) > 1
    assert any(len(set(ids)) > 1 for group in found for ids, *_ in group)
    assert {ended for group in found for _, ended, _ in group} >= {"eos"}
