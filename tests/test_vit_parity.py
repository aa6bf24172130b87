"""With the same weights, our ViT is the one of transformers: hidden states, logits and gradients."""

import re

import pytest
import torch
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from plugformer.assemble import build_model
from plugformer.cli.compose import compose
from plugformer.interfaces import DataSpec
from plugformer.registry import build

SIZES = ("backbone.dim=32", "backbone.num_layers=3", "backbone.num_heads=4", "feed_forward.expansion=3")
EPS = 1e-6
SPEC = DataSpec(frozenset({"image", "label"}), labels=tuple("abcde"), image=(3, 16, 16))

THEIRS_TO_OURS = [
    ("vit.embeddings.patch_embeddings.projection", "trunk.embedding.projection"),
    (r"vit.layers.(\d).attention.q_proj", r"trunk.backbone.blocks.\1.attention.query"),
    (r"vit.layers.(\d).attention.k_proj", r"trunk.backbone.blocks.\1.attention.key"),
    (r"vit.layers.(\d).attention.v_proj", r"trunk.backbone.blocks.\1.attention.value"),
    (r"vit.layers.(\d).attention.o_proj", r"trunk.backbone.blocks.\1.attention.output"),
    (r"vit.layers.(\d).layernorm_before", r"trunk.backbone.blocks.\1.attention_norm"),
    (r"vit.layers.(\d).layernorm_after", r"trunk.backbone.blocks.\1.feed_forward_norm"),
    (r"vit.layers.(\d).mlp.fc1", r"trunk.backbone.blocks.\1.feed_forward.expand"),
    (r"vit.layers.(\d).mlp.fc2", r"trunk.backbone.blocks.\1.feed_forward.contract"),
    ("vit.layernorm", "trunk.backbone.norm"),
    ("classifier", "task.head"),
]


def translated(theirs):
    """Their weights, or gradients, under our names and in our shapes; what is left is the class token's position."""
    theirs = dict(theirs)
    position = theirs.pop("vit.embeddings.position_embeddings")
    ours = {
        "task.pooling.vector": theirs.pop("vit.embeddings.cls_token")[0, 0],
        "trunk.backbone.position.tables.0.0.weight": position[0, 1:],
    }
    for name, tensor in theirs.items():
        for pattern, replacement in THEIRS_TO_OURS:
            new, found = re.subn(f"^{pattern}\\.", f"{replacement}.", name)
            if found:
                ours[new] = tensor.flatten(1) if tensor.dim() == 4 else tensor
    return ours, position[0, 0]


@pytest.fixture(scope="module")
def parity():
    """Both models after one backward pass over the same images, both hidden states, both logits: ours first."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    theirs = ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=96,
            image_size=16,
            patch_size=4,
            layer_norm_eps=EPS,
            num_labels=5,
        )
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    config = compose([*SIZES, "tokenizer.patch_size=4", f"norm.eps={EPS}", "task.pool=cls", "position.order=raster"])
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.fit([{"image": image} for image in images[:3]])
    ours = build_model(config, tokenizer=tokenizer, data=SPEC).eval()
    weights, class_position = translated((name, p.detach()) for name, p in theirs.named_parameters())
    weights["task.pooling.vector"] = weights["task.pooling.vector"] + class_position
    left = ours.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys
    assert set(left.missing_keys) == {"trunk.embedding.mean", "trunk.embedding.std"}

    hidden = []
    ours.trunk.backbone.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    theirs.vit.register_forward_hook(lambda module, inputs, output: hidden.append(output.last_hidden_state))
    output = ours({"inputs": {"image": images}, "targets": {"label": labels}, "index": torch.arange(6)})
    output.loss.backward()
    mean, std = (torch.tensor(values)[:, None, None] for values in (tokenizer.mean, tokenizer.std))
    logits = theirs(pixel_values=(images.float() / 255 - mean) / std).logits
    F.cross_entropy(logits, labels).backward()
    return ours, theirs, *hidden, output.predictions, logits


def test_hidden_states_agree(parity):
    _, _, ours, theirs, _, _ = parity
    assert ours.shape == (6, 17, 32)
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-5


def test_logits_agree(parity):
    *_, ours, theirs = parity
    assert ours.std(0).min() > 0.01, "the images are told apart"
    assert (ours - theirs).abs().max() < 1e-5


def test_gradients_of_all_parameters_agree(parity):
    ours, theirs, *_ = parity
    expected, class_position = translated((name, p.grad) for name, p in theirs.named_parameters())
    assert torch.equal(class_position, expected["task.pooling.vector"]), "one sum, so one gradient"
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        if not name.endswith("attention.key.bias"):  # softmax cancels it: both are rounding around zero
            assert gradient.abs().max() > 1e-4, name
        assert (gradient - expected[name]).abs().max() < 1e-5, name
