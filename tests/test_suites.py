"""The suites catch what they are there for: each law fails on a plugin that is broken in just that way."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from plugformer.interfaces import Capabilities, DataSpec, Layout, Mask, Monitor, Position
from plugformer.nn.blocks import PostNorm, PreNorm
from plugformer.nn.encoder import Encoder
from plugformer.nn.feed_forward import Mlp
from plugformer.nn.full_attention import Full
from plugformer.nn.norms import LayerNorm
from plugformer.nn.positions import Learned
from plugformer.testing import suite
from plugformer.train.callbacks import EarlyStopping
from plugformer.train.csv_logger import Csv, CsvLogger
from plugformer.train.optimizers import AdamW
from plugformer.train.schedules import Cosine
from plugformer_tasks.classification import Classification
from plugformer_vision.digits import Digits
from plugformer_vision.vit_patch import VitPatch

Law = tuple[str, type]
BROKEN: list[tuple[str, str, type, dict[str, Any]]] = []


def breaks(kind: str, law: str, **options: Any) -> Callable[[type], type]:
    """The class below is a plugin of this kind that must not pass this law."""

    def collect(cls: type) -> type:
        BROKEN.append((kind, law, cls, options))
        return cls

    return collect


@pytest.mark.parametrize(
    ("kind", "law", "cls", "options"), BROKEN, ids=lambda value: value.__name__ if isinstance(value, type) else ""
)
def test_a_broken_plugin_is_caught(kind, law, cls, options):
    pass
