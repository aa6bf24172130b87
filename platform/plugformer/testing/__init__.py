"""The laws of every kind of plugin, for its author's tests.

    from plugformer.testing.attention import AttentionSuite

    class TestMine(AttentionSuite):
        name = "mine"
        options = {"window": 4}

pytest then runs every law against `attention=mine`. A law that doesn't apply, because the plugin declares that it can't
do what the law is about, is skipped.
"""

import importlib
import pkgutil
import sys

SUITES = {
    "data": "plugformer.testing.data:DataSuite",
    "tokenizer": "plugformer.testing.tokenizer:TokenizerSuite",
    "backbone": "plugformer.testing.backbone:BackboneSuite",
    "block": "plugformer.testing.block:BlockSuite",
    "attention": "plugformer.testing.attention:AttentionSuite",
    "position": "plugformer.testing.position:PositionSuite",
    "norm": "plugformer.testing.token_wise:NormSuite",
    "feed_forward": "plugformer.testing.token_wise:FeedForwardSuite",
    "task": "plugformer.testing.task:TaskSuite",
    "optimizer": "plugformer.testing.optimisation:OptimizerSuite",
    "schedule": "plugformer.testing.optimisation:ScheduleSuite",
    "logger": "plugformer.testing.training:LoggerSuite",
    "callback": "plugformer.testing.training:CallbackSuite",
    "family": "plugformer.testing.family:FamilySuite",
}

if "pytest" in sys.modules:  # whose messages show the values in a failed assertion only if it is told
    sys.modules["pytest"].register_assert_rewrite(
        *(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
    )


def suite(kind: str) -> type:
    """The laws of a kind, as a class to subclass."""
    module, _, name = SUITES[kind].partition(":")
    return getattr(importlib.import_module(module), name)
