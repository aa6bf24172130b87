"""With the same weights, our encoder of spectrogram patches is the AST of transformers, hidden states and gradients."""

import re

import pytest
import torch
from transformers import ASTConfig, ASTModel

from plugformer.assemble import build_model
from plugformer.cli.compose import compose
from plugformer.interfaces import Audio, DataSpec
from plugformer.registry import build

RATE = 16_000
BINS, PATCH, OVERLAP = 26, 6, 2
EPS = 1e-6
OPTIONS = (
    *("backbone.dim=32", "backbone.num_layers=3", "backbone.num_heads=4", "backbone.num_registers=1"),
    *("feed_forward.expansion=3", f"norm.eps={EPS}", "position.order=raster", "task.pool=cls"),
    *("data=spoken_digits", "tokenizer=spectrogram", f"tokenizer.num_bins={BINS}"),
    *(f"tokenizer.patch_size={PATCH}", f"tokenizer.overlap={OVERLAP}", "tokenizer.padding=silence"),
)
SPEC = DataSpec(frozenset({"audio", "label"}), labels=tuple("abc"), rate=RATE, duration=0.2)

THEIRS_TO_OURS = [
    ("embeddings.patch_embeddings.projection", "trunk.embedding.stem"),
    (r"layers.(\d).attention.q_proj", r"trunk.backbone.blocks.\1.attention.query"),
    (r"layers.(\d).attention.k_proj", r"trunk.backbone.blocks.\1.attention.key"),
    (r"layers.(\d).attention.v_proj", r"trunk.backbone.blocks.\1.attention.value"),
    (r"layers.(\d).attention.o_proj", r"trunk.backbone.blocks.\1.attention.output"),
    (r"layers.(\d).layernorm_before", r"trunk.backbone.blocks.\1.attention_norm"),
    (r"layers.(\d).layernorm_after", r"trunk.backbone.blocks.\1.feed_forward_norm"),
    (r"layers.(\d).mlp.fc1", r"trunk.backbone.blocks.\1.feed_forward.expand"),
    (r"layers.(\d).mlp.fc2", r"trunk.backbone.blocks.\1.feed_forward.contract"),
    ("layernorm", "trunk.backbone.norm"),
]


def translated(theirs):
    """Their weights under our names and in our shapes. The class token is our task's, the distillation token our
    register, each with its position folded in: ours lie on no grid and have none."""
    theirs = dict(theirs)
    position = theirs.pop("embeddings.position_embeddings")[0]
    ours = {
        "task.pooling.vector": theirs.pop("embeddings.cls_token")[0, 0] + position[0],
        "trunk.backbone.registers.weight": theirs.pop("embeddings.distillation_token")[0] + position[1],
        "trunk.backbone.position.tables.0.0.weight": position[2:],
    }
    for name, tensor in theirs.items():
        for pattern, replacement in THEIRS_TO_OURS:
            new, found = re.subn(f"^{pattern}\\.", f"{replacement}.", name)
            if found:
                ours[new] = tensor.flatten(1) if tensor.dim() == 4 else tensor  # kernels are frequency × time in both
    return ours


@pytest.fixture(scope="module")
def parity():
    """Both models after one backward pass over the same waveforms, and both hidden states: ours first, whose register
    and class token stand in AST's order."""
    generator = torch.Generator().manual_seed(0)
    clips = [
        {"audio": Audio(0.1 * torch.randn(1, 2400 + 200 * n, generator=generator), RATE), "label": n % 3}
        for n in range(5)
    ]
    config = compose(list(OPTIONS))
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.assume(SPEC)
    tokenizer.fit(clips)
    rows, columns = tokenizer.spec.grid.shape
    theirs = ASTModel(
        ASTConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=96,
            patch_size=PATCH,
            frequency_stride=PATCH - OVERLAP,
            time_stride=PATCH - OVERLAP,
            num_mel_bins=BINS,
            max_length=PATCH + (columns - 1) * (PATCH - OVERLAP),
            layer_norm_eps=EPS,
        )
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    ours = build_model(config, tokenizer=tokenizer, data=SPEC).eval()
    left = ours.load_state_dict(translated((n, p.detach()) for n, p in theirs.named_parameters()), strict=False)
    assert not left.unexpected_keys
    statistics = {f"trunk.embedding.standardise.{name}" for name in ("mean", "std")}  # which AST's inputs already have
    assert set(left.missing_keys) == {"task.head.weight", "task.head.bias", *statistics}

    hidden = []
    backbone = ours.trunk.backbone
    backbone.blocks[-1].register_forward_hook(lambda module, inputs, output: hidden.append(backbone.norm(output)))
    inputs = tokenizer.collate([tokenizer.encode(clip) for clip in clips])
    ours.task(ours.trunk, {"inputs": inputs, "targets": {}, "index": torch.arange(5)})
    (own,) = hidden
    own = torch.cat([own[:, 1:2], own[:, :1], own[:, 2:]], 1)
    embedding = ours.trunk.embedding
    pictures = embedding.standardise(embedding.front_end(inputs["waveform"]))
    other = theirs(pictures.transpose(1, 2)).last_hidden_state
    assert other.shape == (5, rows * columns + 2, 32)
    weight = torch.randn(other.shape, generator=generator)
    for each in (own, other):
        (each * weight).sum().backward()
    return ours, theirs, own, other


def test_hidden_states_agree(parity):
    *_, ours, theirs = parity
    assert ours.std() > 0.1
    assert ours.std(0)[2:].max() > 0.1, "the clips are told apart"
    assert (ours - theirs).abs().max() < 1e-5


def test_gradients_of_all_parameters_agree(parity):
    ours, theirs, *_ = parity
    gradients = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    position = expected["embeddings.position_embeddings"][0]
    assert torch.equal(position[0], expected["embeddings.cls_token"][0, 0]), "one sum, so one gradient"
    for tokens in ("cls", "distillation"):  # whose gradients would be counted twice with those of their positions
        expected[f"embeddings.{tokens}_token"] = torch.zeros_like(expected[f"embeddings.{tokens}_token"])
    expected = translated(expected)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        scale = expected[name].abs().max()
        if not name.endswith("attention.key.bias"):  # softmax cancels it: both are rounding around zero
            assert scale > 1e-3, name
        assert (gradient - expected[name]).abs().max() < 1e-5 * max(1, scale), name
