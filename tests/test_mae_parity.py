"""With the same weights and the same patches hidden, our MAE is the one of transformers.

Their class token is a register of ours, and in their decoder, too, one that stands for what their encoder made of it.
"""

import re
from types import SimpleNamespace

import pytest
import torch
from einops import rearrange
from torch import nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from plugformer.assemble import build_model
from plugformer.cli.compose import compose
from plugformer.data.encoded import seeded
from plugformer.interfaces import DataSpec, Layout
from plugformer.registry import build

EPS = 1e-6
SPEC = DataSpec(frozenset({"image"}), image=(3, 16, 16))
COMPOSED = (
    "task=mae",
    *("task.decoder_dim=16", "task.decoder_layers=2", "task.decoder_heads=2"),
    *("backbone.dim=32", "backbone.num_layers=3", "backbone.num_heads=4", "backbone.num_registers=1"),
    *("tokenizer.patch_size=4", "position=learned", "position.order=raster", f"norm.eps={EPS}"),
)
THEIRS_TO_OURS = [
    ("vit.embeddings.patch_embeddings.projection", "trunk.embedding.projection"),
    ("vit.layernorm", "trunk.backbone.norm"),
    (r"vit.layers.(\d)", r"trunk.backbone.blocks.\1"),
    ("decoder.decoder_embed", "task.narrow"),
    (r"decoder.decoder_layers.(\d)", r"task.decoder.blocks.\1"),
    ("decoder.decoder_norm", "task.decoder.norm"),
    ("decoder.decoder_pred", "task.output.linear"),
]
IN_A_BLOCK = {
    "attention.q_proj": "attention.query",
    "attention.k_proj": "attention.key",
    "attention.v_proj": "attention.value",
    "attention.o_proj": "attention.output",
    "layernorm_before": "attention_norm",
    "layernorm_after": "feed_forward_norm",
    "mlp.fc1": "feed_forward.expand",
    "mlp.fc2": "feed_forward.contract",
}


def translated(theirs):
    """Their weights under our names and in our shapes, without the decoder's fixed positions."""
    theirs = {name: parameter.detach() for name, parameter in theirs.named_parameters()}
    del theirs["decoder.decoder_pos_embed"]
    positions = theirs.pop("vit.embeddings.position_embeddings")[0]
    ours = {
        "trunk.backbone.registers.weight": theirs.pop("vit.embeddings.cls_token")[0] + positions[:1],
        "trunk.backbone.position.tables.0.0.weight": positions[1:],
        "task.mask.vector": theirs.pop("decoder.mask_token")[0, 0],
    }
    for name, tensor in theirs.items():
        for pattern, replacement in THEIRS_TO_OURS:
            new, found = re.subn(f"^{pattern}\\.", f"{replacement}.", name)
            if found:
                for part, our_part in IN_A_BLOCK.items():
                    new = new.replace(f".{part}.", f".{our_part}.")
                ours[new] = tensor.flatten(1) if tensor.dim() == 4 else tensor
    for name in ("task.output.linear.weight", "task.output.linear.bias"):  # their pixels come before their channels
        ours[name] = rearrange(ours[name], "(row column channel) ... -> (channel row column) ...", row=4, column=4)
    return ours


@pytest.fixture(scope="module")
def parity():
    """What both make of the same images, encoders and decoders."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 16, 16), generator=generator, dtype=torch.uint8)
    theirs = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=64,
            image_size=16,
            patch_size=4,
            layer_norm_eps=EPS,
            mask_ratio=0.75,
            norm_pix_loss=True,
        )
    ).eval()
    theirs.decoder.initialize_weights(16)
    fixed = theirs.decoder.decoder_pos_embed[0, 1:].clone()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    config = compose(COMPOSED)
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.fit([{"image": image} for image in images[:3]])
    ours = build_model(config, tokenizer=tokenizer, data=SPEC).eval()
    position = ours.task.decoder.position.add(torch.zeros(1, 16, 16), Layout.of(tokenizer.spec.grid))[0]
    with torch.no_grad():  # whose order of channels is ours
        theirs.decoder.decoder_pos_embed.copy_(torch.cat([torch.zeros(1, 16), position])[None])
    left = ours.load_state_dict(translated(theirs), strict=False)
    assert not left.unexpected_keys
    assert set(left.missing_keys) == {"trunk.embedding.mean", "trunk.embedding.std"}

    drawn = []
    for number in range(5):
        with seeded(number):
            drawn.append(ours.task.targets.encode({}, {}))
    targets = ours.task.targets.collate(drawn)
    noise = torch.arange(16) / 100 + torch.stack([torch.isin(torch.arange(16), row) for row in targets["hidden"]])
    mean, std = (torch.tensor(values)[:, None, None] for values in (tokenizer.mean, tokenizer.std))
    pixels = (images.float() / 255 - mean) / std

    encoded = []
    ours.trunk.backbone.register_forward_hook(lambda module, inputs, output: encoded.append(output))
    with torch.no_grad():
        expected, seen = theirs(pixel_values=pixels, noise=noise), theirs.vit(pixel_values=pixels, noise=noise)
        made = []
        for number in range(5):
            ours.task.decoder.registers = nn.Embedding.from_pretrained(
                ours.task.narrow(seen.last_hidden_state[number, :1])
            )
            one = slice(number, number + 1)
            chosen = {key: value[one] for key, value in targets.items()}
            made.append(ours({"inputs": {"image": images[one]}, "targets": chosen, "index": torch.tensor([number])}))
    return SimpleNamespace(
        encoded=(torch.cat(encoded), seen.last_hidden_state[:, 1:]),
        predicted=(torch.cat([each.predicted for each in made]), expected.logits),
        loss=(torch.stack([each.loss for each in made]).mean(), expected.loss),
        hidden=targets["hidden"],
        mask=expected.mask,
        positions=(position, fixed),
    )


def test_the_same_patches_are_hidden(parity):
    assert torch.equal(torch.zeros(5, 16).scatter(1, parity.hidden, 1.0), parity.mask)


def test_encoders_agree(parity):
    ours, theirs = parity.encoded
    assert ours.shape == (5, 4, 32)
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-5


def test_reconstructions_agree(parity):
    ours, theirs = parity.predicted
    theirs = rearrange(theirs, "batch place (pixel channel) -> batch place (channel pixel)", channel=3)
    theirs = theirs.gather(1, parity.hidden[..., None].expand(-1, -1, 48))
    assert ours.std(0).mean() > 0.005, "the images are told apart"
    assert (ours - theirs).abs().max() < 1e-5


def test_losses_agree(parity):
    ours, theirs = parity.loss
    assert abs(ours - theirs) < 1e-5


def test_fixed_positions_agree(parity):
    """Theirs are of the column first."""
    ours, theirs = parity.positions
    assert (ours - theirs.roll(8, 1)).abs().max() < 1e-6
