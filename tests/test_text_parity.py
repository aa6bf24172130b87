"""With the same weights, our BERT, GPT-2 and Llama are those of transformers: hidden states, logits and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from plugformer.assemble import build_backbone
from plugformer.cli.compose import compose
from plugformer.interfaces import Grid, Layout, Tokens, TokenSpec
from plugformer.nn.initialise import initialise

VOCAB, LENGTH, DIM, HIDDEN, LAYERS = 11, 9, 32, 40, 3
TEXT = Grid(("position",), (LENGTH,))
SIZES = (f"backbone.dim={DIM}", f"backbone.num_layers={LAYERS}", "backbone.num_heads=4")
IDS = torch.randint(0, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(0))
VALID = torch.arange(LENGTH) < torch.tensor([[LENGTH], [6], [4]])


class Ours(nn.Module):
    """A table of tokens, a backbone, and a matrix from hidden states to logits, which may be the table."""

    def __init__(self, *overrides: str, tied: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, DIM)
        self.backbone = build_backbone(compose([*SIZES, *overrides]), TokenSpec(TEXT, vocab_size=VOCAB, pads=True))
        self.head = nn.Linear(DIM, VOCAB, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self) -> tuple[Tensor, Tensor]:
        hidden = self.backbone(Tokens(self.table(IDS), Layout.of(TEXT), valid=VALID))
        return hidden, self.head(hidden)


# Where each of our parameters stands in theirs, as a name and what makes it of the tensor: always a view of it.
Place = tuple[str, Callable[[Tensor], Tensor]]


def as_it_is(tensor: Tensor) -> Tensor:
    return tensor


class Bert:
    overrides = (
        *("backbone=encoder", "backbone.embedding_norm=true", "block=post_norm", "norm=layer", "norm.eps=1e-12"),
        *(
            "position=learned",
            "feed_forward=mlp",
            f"feed_forward.expansion={HIDDEN / DIM}",
            "feed_forward.activation=gelu",
        ),
    )
    tied = True

    def make(self) -> Any:
        config = transformers.BertConfig(
            vocab_size=VOCAB,
            hidden_size=DIM,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            intermediate_size=HIDDEN,
            max_position_embeddings=LENGTH,
            pad_token_id=None,  # or its row of the table gets no gradient
        )
        model = transformers.BertModel(config, add_pooling_layer=False)
        model.embeddings.token_type_embeddings.weight.requires_grad_(False).zero_()  # one segment is none
        return model

    def call(self, model: Any) -> tuple[Tensor, Tensor]:
        hidden = model(IDS, attention_mask=VALID.long()).last_hidden_state
        return hidden, hidden @ model.embeddings.word_embeddings.weight.T

    def places(self) -> dict[str, Place]:
        names = {
            "table.weight": "embeddings.word_embeddings.weight",
            "backbone.position.tables.0.0.weight": "embeddings.position_embeddings.weight",
        }
        modules = {"backbone.embedding_norm": "embeddings.LayerNorm"}
        for n in range(LAYERS):
            ours, theirs = f"backbone.blocks.{n}", f"encoder.layer.{n}"
            modules |= {
                f"{ours}.attention.{part}": f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")
            }
            modules[f"{ours}.attention.output"] = f"{theirs}.attention.output.dense"
            modules[f"{ours}.attention_norm"] = f"{theirs}.attention.output.LayerNorm"
            modules[f"{ours}.feed_forward.expand"] = f"{theirs}.intermediate.dense"
            modules[f"{ours}.feed_forward.contract"] = f"{theirs}.output.dense"
            modules[f"{ours}.feed_forward_norm"] = f"{theirs}.output.LayerNorm"
        both = [(f"{o}.{kind}", f"{t}.{kind}") for o, t in modules.items() for kind in ("weight", "bias")]
        return {ours: (theirs, as_it_is) for ours, theirs in [*names.items(), *both]}


class Gpt2:
    overrides = (
        *("backbone=decoder", "block=pre_norm", "norm=layer", "norm.eps=1e-5", "position=learned"),
        *("feed_forward=mlp", f"feed_forward.expansion={HIDDEN / DIM}", "feed_forward.activation=gelu_tanh"),
    )
    tied = True

    def make(self) -> Any:
        config = transformers.GPT2Config(
            vocab_size=VOCAB,
            n_positions=LENGTH,
            n_embd=DIM,
            n_layer=LAYERS,
            n_head=4,
            n_inner=HIDDEN,
            bos_token_id=None,
            eos_token_id=None,
        )
        return transformers.GPT2LMHeadModel(config)

    def call(self, model: Any) -> tuple[Tensor, Tensor]:
        out = model(IDS, attention_mask=VALID.long(), output_hidden_states=True)
        return out.hidden_states[-1], out.logits

    def places(self) -> dict[str, Place]:
        found: dict[str, Place] = {
            "table.weight": ("transformer.wte.weight", as_it_is),
            "backbone.position.tables.0.0.weight": ("transformer.wpe.weight", as_it_is),
        }

        def norm(ours: str, theirs: str) -> None:
            found.update({f"{ours}.{kind}": (f"{theirs}.{kind}", as_it_is) for kind in ("weight", "bias")})

        def linear(ours: str, theirs: str, part: int = 0, parts: int = 1) -> None:
            """Their matrices are transposed, and those of queries, keys and values side by side."""
            found[f"{ours}.weight"] = (f"{theirs}.weight", lambda weight: weight.T.chunk(parts)[part])
            found[f"{ours}.bias"] = (f"{theirs}.bias", lambda bias: bias.chunk(parts)[part])

        norm("backbone.norm", "transformer.ln_f")
        for n in range(LAYERS):
            ours, theirs = f"backbone.blocks.{n}", f"transformer.h.{n}"
            norm(f"{ours}.attention_norm", f"{theirs}.ln_1")
            for number, part in enumerate(("query", "key", "value")):
                linear(f"{ours}.attention.{part}", f"{theirs}.attn.c_attn", number, 3)
            linear(f"{ours}.attention.output", f"{theirs}.attn.c_proj")
            norm(f"{ours}.feed_forward_norm", f"{theirs}.ln_2")
            linear(f"{ours}.feed_forward.expand", f"{theirs}.mlp.c_fc")
            linear(f"{ours}.feed_forward.contract", f"{theirs}.mlp.c_proj")
        return found


class Llama:
    overrides = (
        *("backbone=decoder", "backbone.num_kv_heads=2", "backbone.bias=false", "block=pre_norm"),
        *("norm=rms", "norm.eps=1e-6", "position=rope", "position.base=10000"),
        *("feed_forward=glu", f"feed_forward.expansion={HIDDEN / DIM}", "feed_forward.activation=silu"),
    )
    tied = False

    def make(self) -> Any:
        config = transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=DIM,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=HIDDEN,
            max_position_embeddings=LENGTH,
            rms_norm_eps=1e-6,
            bos_token_id=None,
            eos_token_id=None,
        )
        return transformers.LlamaForCausalLM(config)

    call = Gpt2.call

    def places(self) -> dict[str, Place]:
        names = {"table": "model.embed_tokens", "backbone.norm": "model.norm", "head": "lm_head"}
        parts = {
            **{f"attention.{ours}": f"self_attn.{ours[0]}_proj" for ours in ("query", "key", "value", "output")},
            "feed_forward.gate": "mlp.gate_proj",
            "feed_forward.expand": "mlp.up_proj",
            "feed_forward.contract": "mlp.down_proj",
            "attention_norm": "input_layernorm",
            "feed_forward_norm": "post_attention_layernorm",
        }
        for n in range(LAYERS):
            names |= {f"backbone.blocks.{n}.{ours}": f"model.layers.{n}.{theirs}" for ours, theirs in parts.items()}
        return {f"{ours}.weight": (f"{theirs}.weight", as_it_is) for ours, theirs in names.items()}


@torch.no_grad()
def copy(ours: Ours, theirs: nn.Module, places: dict[str, Place], *, to_ours: bool) -> None:
    """Every parameter of either, or it is told."""
    mine, its = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert mine.keys() == places.keys()
    assert {name for name, parameter in its.items() if parameter.requires_grad} == {name for name, _ in places.values()}
    for name, (place, view) in places.items():
        if to_ours:
            mine[name].copy_(view(its[place]))
        else:
            view(its[place]).copy_(mine[name])


@pytest.fixture(
    scope="module",
    params=[(family, way) for family in (Bert, Gpt2, Llama) for way in ("to ours", "to theirs")],
    ids=lambda param: f"{param[0].__name__}-{param[1]}",
)
def parity(request):
    """Both models after one backward pass over the same tokens, and (hidden states, logits) of both: ours first."""
    family, way = request.param[0](), request.param[1]
    ours, theirs = Ours(*family.overrides, tied=family.tied), family.make()
    initialise(ours, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # off the zeros and ones that hide a mistake
        for parameter in [*ours.parameters(), *(p for p in theirs.parameters() if p.requires_grad)]:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    places = family.places()
    copy(ours, theirs, places, to_ours=way == "to ours")
    outputs = [ours.eval()(), family.call(theirs.eval())]
    for _, logits in outputs:
        F.cross_entropy(logits[:, :-1][VALID[:, 1:]], IDS[:, 1:][VALID[:, 1:]]).backward()
    return ours, theirs, places, *outputs


def test_hidden_states_agree(parity):
    *_, (ours, _), (theirs, _) = parity
    assert ours.shape == (3, LENGTH, DIM)
    assert ours[VALID].std() > 0.1
    assert (ours - theirs)[VALID].abs().max() < 1e-5


def test_logits_agree(parity):
    *_, (_, ours), (_, theirs) = parity
    assert ours[VALID].std(0).min() > 0.1, "the tokens are told apart"
    assert (ours - theirs)[VALID].abs().max() < 1e-5


def test_gradients_of_all_parameters_agree(parity):
    ours, theirs, places, *_ = parity
    its = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        place, view = places[name]
        if not name.endswith("attention.key.bias"):  # softmax cancels it: both are rounding around zero
            assert parameter.grad.abs().max() > 1e-4, name
        assert (parameter.grad - view(its[place].grad)).abs().max() < 1e-5, name
