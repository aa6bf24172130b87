"""Options that only one kind of token has."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from plugformer.errors import UserError
from plugformer.interfaces import Task, TokenSpec


def refuse_other_kind(
    task: type[Task], tokens: TokenSpec, *, discrete: Mapping[str, Any], continuous: Mapping[str, Any]
) -> None:
    """
    Args:
        task: whose options.
        tokens: that it is to work with.
        discrete, continuous: the values of those options that are of tokens of one kind alone.

    Raises:
        UserError: one that is of the other kind doesn't have its default value, and would have no effect.
    """
    other, options = ("continuous", continuous) if tokens.token_kind == "discrete" else ("discrete", discrete)
    parameters = inspect.signature(task).parameters
    for name, value in options.items():
        if value != parameters[name].default:
            raise UserError(
                f"task.{name}={value if isinstance(value, str) else json.dumps(value)}: is of {other} tokens; those of "
                f"this tokenizer are {tokens.token_kind}. Leave it out."
            )
