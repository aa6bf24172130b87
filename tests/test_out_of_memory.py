"""Too little memory: the run says what would take less, and that it does is true."""

import re
import weakref
from typing import Any, ClassVar

import pytest
import torch
from tests.helpers import quick_config

from plugformer.budget import estimate
from plugformer.compatibility import plugins_that
from plugformer.errors import RunFailed
from plugformer.nn.full_attention import Full
from plugformer.registry import register
from plugformer.train import out_of_memory
from plugformer.train.out_of_memory import OutOfMemory, memory_of, ran_out, readable, training_levers
from plugformer.train.run import train

FAR_TOO_MANY = 10**14
HUGE = ("backbone.dim=64", "tokenizer.patch_size=2")
CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.00 GiB is free."
)


class Greedy(Full):
    """Wants more memory than there is, in training or out of it."""

    when: ClassVar[str] = "training"
    held: ClassVar[Any] = None

    def forward(self, q, k, v, mask, bias=None):
        if self.training == (self.when == "training") and not q.is_meta and type(q) is torch.Tensor:
            kept = torch.zeros(7)
            type(self).held = weakref.ref(kept)
            torch.empty(FAR_TOO_MANY)
        return super().forward(q, k, v, mask, bias)


@pytest.fixture
def greedy(monkeypatch):
    monkeypatch.setattr("plugformer.registry._registered", {})
    monkeypatch.setattr("plugformer.train.run.pass_cost", lambda *_: None)  # which would run it, too
    register("attention", "greedy")(Greedy)
    return Greedy


def levers(text: str) -> dict[str, str]:
    """What it would take with each choice."""
    return dict(re.findall(r"^ +(\S+=\S+) +about ([\d.,]+ [GM]iB)", text, re.MULTILINE))


def test_a_run_that_runs_out_of_memory_says_what_takes_less(tmp_path, greedy, monkeypatch):
    monkeypatch.setattr(greedy, "when", "training")
    free = []
    monkeypatch.setattr(
        out_of_memory,
        "training_levers",
        lambda *given: [free.append(greedy.held() is None), training_levers(*given)][1],
    )
    with pytest.raises(RunFailed) as failed:
        train(quick_config(f"run_dir={tmp_path / 'run'}", *HUGE, "attention=greedy"))
    told = str(failed.value)
    first, second, *_ = told.splitlines()
    has = readable(memory_of(torch.device("cpu")))
    assert first == f"Out of memory in training at step 0 on cpu, which has {has}: {readable(4 * FAR_TOO_MANY)} more."
    now = estimate(quick_config(*HUGE, "attention=greedy"))
    assert f"A step of 16 samples at once, of 16 tokens, takes about {readable(now.memory)} = weights" in second
    found = levers(told)
    assert {"trainer.accumulate=2", "trainer.precision=bf16-true"} <= found.keys()
    assert free == [True], "what the error's traceback held is in the way of what comes"


def test_each_choice_goes_together_and_takes_what_is_said():
    config = quick_config(*HUGE)
    now = estimate(config)
    found = levers("\n".join(training_levers(config, total=now.memory // 2)))
    assert any(choice.startswith("block=") for choice in found)
    for choice, takes in found.items():
        budget = estimate(quick_config(*HUGE, choice))
        assert readable(budget.memory) == takes, choice
        assert budget.memory <= 0.9 * now.memory
    (rounds,) = [choice for choice in found if choice.startswith("trainer.accumulate=")]
    fits = estimate(quick_config(*HUGE, rounds)).memory <= 0.9 * (now.memory // 2)
    fewest = int(rounds.partition("=")[2])
    assert fits or fewest == 16
    fewer = estimate(quick_config(*HUGE, f"trainer.accumulate={fewest // 2}"))
    assert fewer.memory > 0.9 * (now.memory // 2), "fewer rounds would do"


def test_what_a_callback_refuses_is_not_offered():
    config, averaging = quick_config(*HUGE), quick_config(*HUGE, "callback=ema")
    assert out_of_memory._in_fewer_bits(config) is not None
    assert out_of_memory._in_fewer_bits(averaging) is None


def test_mechanisms_are_offered_whose_memory_grows_less():
    """Attention whose weights drop out holds them all; those that don't are the ones that say so."""
    long = ("attention.dropout=0.1", "tokenizer.image_size=32", "tokenizer.patch_size=1")
    found = levers("\n".join(training_levers(quick_config(*long), total=2**40)))
    leaner = plugins_that("attention", lambda cls: cls.capabilities.memory_exponent < 2)
    offered = [choice.partition("=")[2] for choice in found if choice.startswith("attention=")]
    assert offered
    assert set(offered) <= set(leaner)
    assert not set(out_of_memory._leaner_mechanisms(quick_config())) & {"full", "linear"}, "theirs grow no less"


def test_evaluation_has_a_size_of_its_own(tmp_path, greedy, monkeypatch):
    monkeypatch.setattr(greedy, "when", "evaluation")
    monkeypatch.setattr(out_of_memory, "training_levers", lambda *_: pytest.fail("it wasn't in training"))
    with pytest.raises(
        RunFailed, match=r"^Out of memory in evaluation at step 2 on cpu(.|\n)*loader.eval_batch_size=128"
    ):
        train(quick_config(f"run_dir={tmp_path / 'run'}", "attention=greedy"))


@pytest.mark.parametrize(
    ("error", "runs_out"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_other_errors_stay_as_they_are(error, runs_out):
    assert ran_out(error) == runs_out
    if not runs_out:
        with pytest.raises(type(error)) as raised, OutOfMemory({}).explained():
            raise error
        assert raised.value is error


def test_what_was_asked_for_is_told_in_the_same_units(monkeypatch):
    monkeypatch.setattr(out_of_memory, "training_levers", lambda *_: [])
    config = quick_config()
    for error, told in ((torch.OutOfMemoryError(CUDA), ": 2.5 GiB more."), (MemoryError(), ".")):
        with pytest.raises(RunFailed) as failed, OutOfMemory(config).explained():
            raise error
        first = str(failed.value).splitlines()[0]
        assert re.fullmatch(
            rf"Out of memory in training at step 0 on cpu, which has [\d.,]+ GiB{re.escape(told)}", first
        )
