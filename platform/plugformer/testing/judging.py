"""Running the laws of a suite by hand, without pytest, and keeping what they found."""

import inspect
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from unittest import SkipTest

from plugformer.errors import UserError
from plugformer.interfaces import Capabilities
from plugformer.testing import suite
from plugformer.testing.common import ModuleSuite, Suite
from plugformer.testing.comparing import watch_deviation

Outcome = Literal["passed", "failed", "does not apply"]


@dataclass(frozen=True)
class Verdict:
    """What became of one law.

    Attributes:
        law: its name, as words.
        says: what it says, if it has more to say than its name.
        outcome: what became of it.
        why: of a law that failed, what was found; of one that doesn't apply, why not.
        deviation: the largest that its comparisons saw, from what should have been; None if it compares no numbers.
    """

    law: str
    says: str
    outcome: Outcome
    why: str
    deviation: float | None


def judge(kind: str, node: Mapping[str, Any]) -> Iterator[Verdict]:
    """Every law of a kind, tried on one of its plugins.

    Args:
        kind: of the plugin.
        node: `{"name": ..., **options}`.

    Raises:
        UserError: the plugin can't be built with these options, or doesn't say what it can do.
    """
    options = {key: value for key, value in node.items() if key != "name"}
    laws: type[Suite] = type("Judged", (suite(kind),), {"name": node["name"], "options": options})
    if issubclass(laws, ModuleSuite):
        _try_to_build(laws)
    for name in laws_of(laws):
        yield _try(laws, name)


def laws_of(laws: type) -> list[str]:
    """The names of its laws in the order they are written in, its own first and those that every kind shares last."""
    names = [name for cls in laws.__mro__ for name in vars(cls) if name.startswith("test_")]
    return list(dict.fromkeys(names))


def _try_to_build(laws: type[ModuleSuite]) -> None:
    trial = laws()
    trial.setup_method()
    try:
        made = trial.new()
        if trial.kind == "attention" and not isinstance(getattr(made, "capabilities", None), Capabilities):
            raise UserError(
                f"attention={trial.name}: {type(made).__name__} has no capabilities, and laws hold it to what it "
                "declares.\n  Add capabilities = Capabilities(...), from plugformer.interfaces, to the class."
            )
    except UserError:
        raise
    except Exception:  # a law will say so
        pass
    finally:
        trial.teardown_method()


def _try(laws: type[Suite], name: str) -> Verdict:
    trial = laws()
    outcome: Outcome
    with watch_deviation() as deviation:
        try:
            trial.setup_method()
            getattr(trial, name)()
            outcome, why = "passed", ""
        except SkipTest as reason:
            outcome, why = "does not apply", str(reason)
        except Exception as error:
            outcome, why = "failed", explain(error)
        finally:
            trial.teardown_method()
    says = (inspect.getdoc(getattr(laws, name)) or "").partition("\n\n")[0].replace("\n", " ")
    return Verdict(name.removeprefix("test_").replace("_", " "), says, outcome, why, deviation.worst)


def explain(error: Exception) -> str:
    """What was found; of an assertion without words, the assertion itself."""
    text = str(error).strip()
    if isinstance(error, AssertionError):
        text = text or str(traceback.extract_tb(error.__traceback__)[-1].line)
    else:
        text = f"{type(error).__name__}: {text}"
    return "\n".join([text, *getattr(error, "__notes__", ())])
