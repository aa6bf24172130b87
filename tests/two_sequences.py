"""Small models that write one sequence for another, for several test files."""

from functools import cache

import torch
from torch import Tensor

from plugformer.assemble import build_model, preview
from plugformer.cli.compose import compose
from plugformer.decode.session import Session
from plugformer.model import Model
from plugformer.registry import build

COMPOSITION = ("data=hangul_names", "tokenizer=text_bytes", "tokenizer.max_length=16", "task=seq2seq")
SIZES = ("backbone=encoder_decoder", "backbone.dim=16", "backbone.num_layers=2")
SOURCE = {
    "ids": torch.randint(0, 256, (3, 7), generator=torch.Generator().manual_seed(1)),
    "valid": torch.arange(7) < torch.tensor([[7], [4], [2]]),
}
IDS = torch.randint(0, 256, (3, 8), generator=torch.Generator().manual_seed(0))
PROMPT = 2


@cache
def model(*overrides: str) -> Model:
    """In evaluation and double precision, its weights off the zeros, ones and small numbers that hide a mistake."""
    config = compose([*COMPOSITION, *SIZES, *overrides])
    source, tokenizer = build("data", config["data"]), build("tokenizer", config["tokenizer"])
    tokenizer.assume(source.spec)
    made, generator = build_model(config, tokenizer=tokenizer, data=source.spec), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made.double().eval()


def rows(source: dict[str, Tensor], which: Tensor) -> dict[str, Tensor]:
    return {key: part[which] for key, part in source.items()}


def logits(
    made: Model, *chunks: int, source=SOURCE, ids: Tensor = IDS, valid: Tensor | None = None, **options
) -> Tensor:
    """Of what follows the prompt and each token after it."""
    session = Session(made, source=source, room=ids.shape[1] - PROMPT, **options)
    prompt, *rest = ids.split([PROMPT, *chunks], 1)
    return torch.cat([session.start(prompt, valid), *(session.step(new) for new in rest)], 1)


def check(*overrides: str) -> None:
    """What the command line does before it reads any data."""
    config = compose([*COMPOSITION, *SIZES, *overrides])
    preview(config, source=build("data", config["data"]))
