"""Optimisers against their formulas and peers, and learning rates over the steps."""

import copy
import math

import pytest
import torch
import transformers
from tests.helpers import quick_config
from torch import nn

from plugformer.assemble import build_model, read_checkpoint
from plugformer.budget import estimate, example_batch
from plugformer.errors import UserError
from plugformer.interfaces import ParameterGroups
from plugformer.nn.parameters import group_parameters
from plugformer.registry import build, offers
from plugformer.testing.comparing import assert_close, noise
from plugformer.train.optimizers import Adafactor, Lion, Muon
from plugformer.train.run import train
from plugformer.train.schedules import InverseSqrt, Wsd

# ---------------------------------------------------------------------------------------------- optimisers


class Small(nn.Module):
    """A hidden matrix between two that are not, as optimisers tell them apart."""

    def __init__(self):
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Linear(4, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 3)
        for number, parameter in enumerate(self.parameters()):
            nn.init.constant_(parameter, 0).data.add_(0.5 * noise(*parameter.shape, seed=number))

    def forward(self, x):
        return self.leave(torch.tanh(self.hidden(torch.tanh(self.enter(x)))))

    @property
    def groups(self):
        matrices = [self.enter.weight, self.hidden.weight, self.leave.weight]
        return ParameterGroups(matrices, [self.enter.bias, self.leave.bias], hidden=[self.hidden.weight])

    def differentiate(self, seed=0):
        self.zero_grad()
        (self(noise(8, 4, seed=seed)) - noise(8, 3, seed=seed + 100)).square().sum().backward()


def trained(make, steps=5):
    """Weights after some steps of what `make` makes of a model."""
    model = Small()
    optimizers = make(model)
    for step in range(steps):
        model.differentiate(step)
        for optimizer in optimizers:
            optimizer.step()
    return model.state_dict()


def assert_all_close(ours, theirs):
    for name, weight in ours.items():
        assert_close(weight, theirs[name], what=name)


def test_lion_is_the_formula_of_the_paper():
    lr, decay, beta1, beta2 = 0.01, 0.3, 0.8, 0.95
    ours = trained(lambda model: [Lion(lr=lr, weight_decay=decay, betas=(beta1, beta2)).build(model.groups)])
    model = Small()
    mean = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for step in range(5):
        model.differentiate(step)
        with torch.no_grad():  # Chen et al. 2023, algorithm 2
            for name, weight in model.named_parameters():
                update = (beta1 * mean[name] + (1 - beta1) * weight.grad).sign()
                weight.sub_(lr * (update + (0.0 if "bias" in name else decay) * weight))
                mean[name] = beta2 * mean[name] + (1 - beta2) * weight.grad
    assert_all_close(ours, model.state_dict())


@pytest.mark.parametrize(("lr", "clip", "decay"), [(1.0, 1.0, 0.0), (1e-2, 2.0, 0.1)])
def test_adafactor_is_that_of_transformers(lr, clip, decay):
    class Theirs(transformers.optimization.Adafactor):
        @staticmethod
        def _get_lr(group, state):
            return max(group["eps"][1], state["RMS"]) * min(lr, state["step"] ** -0.5)

    def theirs(model):
        both = [{"params": part, "weight_decay": 0.0} for part in (model.groups.decayed, model.groups.undecayed)]
        return [Theirs(both, lr=None, eps=(1e-30, 1e-3), clip_threshold=clip, relative_step=True, warmup_init=False)]

    ours = trained(lambda model: [Adafactor(lr=lr, clip=clip).build(model.groups)])
    assert_all_close(ours, trained(theirs))
    if decay:
        decayed = trained(lambda model: [Adafactor(lr=lr, clip=clip, weight_decay=decay).build(model.groups)], steps=1)
        kept = trained(lambda model: [Adafactor(lr=lr, clip=clip).build(model.groups)], steps=1)
        for name, weight in Small().named_parameters():
            assert_close(decayed[name], kept[name] - (0.0 if "bias" in name else lr * decay) * weight.detach())


@pytest.mark.parametrize(("scale", "theirs"), [("adamw", "match_rms_adamw"), ("original", "original")])
def test_muon_is_muon_for_hidden_matrices_and_adamw_for_all_else(scale, theirs):
    ours = trained(lambda model: [Muon(lr=0.02, adamw_lr=0.003, weight_decay=0.1, scale=scale).build(model.groups)])

    def apart(model):
        rest = [
            {"params": [model.enter.weight, model.leave.weight], "weight_decay": 0.1},
            {"params": [model.enter.bias, model.leave.bias], "weight_decay": 0.0},
        ]
        muon = torch.optim.Muon([model.hidden.weight], lr=0.02, weight_decay=0.1, adjust_lr_fn=theirs)
        return [muon, torch.optim.AdamW(rest, lr=0.003)]

    expected = trained(apart)
    assert all(torch.equal(weight, expected[name]) for name, weight in ours.items())


def test_one_schedule_moves_every_rate_of_muon():
    model = Small()
    optimizer = Muon(lr=0.02, adamw_lr=0.003).build(model.groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for step in range(3):
        assert [group["lr"] * (step + 1) for group in optimizer.param_groups] == pytest.approx([0.02, 0.003, 0.003])
        inner = [group for part in optimizer.parts for group in part.param_groups]
        assert all(mine is its for mine, its in zip(optimizer.param_groups, inner, strict=True))
        model.differentiate(step)
        optimizer.step()
        scheduler.step()


def test_muon_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path):
    """Rates, which a schedule has changed, and states of both its parts."""
    first = Small()
    optimizer = Muon(lr=0.02).build(first.groups)
    for step in range(3):
        first.differentiate(step)
        optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state")
    loaded = torch.load(tmp_path / "state", weights_only=True)
    second = Small()
    resumed = Muon(lr=0.02).build(second.groups)
    second.load_state_dict(loaded["model"])
    resumed.load_state_dict(copy.deepcopy(loaded["optimizer"]))
    for model, its in ((first, optimizer), (second, resumed)):
        model.differentiate(7)
        its.step()
        its.zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(weight, second.state_dict()[name]) for name, weight in first.state_dict().items())
    assert len(resumed.state) == 5


@pytest.mark.parametrize("name", offers("optimizer"))
def test_a_closure_is_called_once_with_gradients(name):
    model, calls = Small(), []
    optimizer = build("optimizer", {"name": name}).build(model.groups)

    def closure():
        calls.append(torch.is_grad_enabled())
        model.differentiate()
        return 3.0

    assert optimizer.step(closure) == 3.0
    assert calls == [True]


@pytest.mark.parametrize("name", offers("optimizer"))
def test_trains_a_run_that_goes_on_from_its_checkpoint(name, tmp_path):
    summary, _ = train(quick_config(f"run_dir={tmp_path}", f"optimizer={name}", "schedule=inverse_sqrt"))
    assert math.isfinite(summary["test/loss"])
    (state,) = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["optimizer_states"]
    model = small_model()
    optimizer = build("optimizer", {"name": name}).build(group_parameters(model))
    optimizer.load_state_dict(state)
    held = {id(parameter) for parameter in optimizer.state}
    assert held == {id(parameter) for parameter in model.parameters()}


def small_model(*overrides):
    config = quick_config(*overrides)
    source, tokenizer = build("data", config["data"]), build("tokenizer", config["tokenizer"])
    tokenizer.assume(source.spec)
    return build_model(config, tokenizer=tokenizer, data=source.spec)


@pytest.mark.parametrize("name", offers("optimizer"))
def test_the_memory_of_an_optimizer_is_known_before_it_runs(name):
    config = quick_config(f"optimizer={name}")
    source, tokenizer = build("data", config["data"]), build("tokenizer", config["tokenizer"])
    tokenizer.assume(source.spec)
    model = build_model(config, tokenizer=tokenizer, data=source.spec)
    optimizer = build("optimizer", config["optimizer"]).build(group_parameters(model))
    model(example_batch(tokenizer, model.task.targets, 2)).loss.backward()
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert estimate(config).optimizer == sum(value.numel() * value.element_size() for value in kept)


def test_hidden_matrices_are_those_inside_the_backbone():
    model = small_model("position.order=axes", "backbone.qk_norm=rms")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = group_parameters(model)
    assert {id(parameter) for parameter in groups.hidden} <= {id(parameter) for parameter in groups.decayed}
    maps = [f"attention.{part}" for part in ("query", "key", "value", "output")]
    maps += ["feed_forward.expand", "feed_forward.contract"]
    assert {names[id(p)] for p in groups.hidden} == {f"trunk.backbone.blocks.0.{part}.weight" for part in maps}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adafactor", {"lr": 0.0}, "optimizer.lr=0.0: must be greater than 0."),
        ("adafactor", {"clip": 0.5}, "optimizer.clip=0.5: must be at least 1."),
        ("adafactor", {"beta2_decay": 0.8}, "optimizer.beta2_decay=0.8: must be from -1 to below 0."),
        ("lion", {"lr": -1.0}, "optimizer.lr=-1.0: must be greater than 0."),
        ("lion", {"betas": [0.9, 1.0]}, "optimizer.betas=(0.9, 1.0): each is from 0 to below 1."),
        ("muon", {"adamw_lr": 0.0}, "optimizer.adamw_lr=0.0: must be greater than 0."),
        ("muon", {"momentum": 1.0}, "optimizer.momentum=1.0: is from 0 to below 1."),
        ("adamw", {"weight_decay": -0.1}, "optimizer.weight_decay=-0.1: must not be negative."),
    ],
)
def test_options_of_an_optimizer_that_can_not_be(name, options, message):
    with pytest.raises(UserError) as error:
        build("optimizer", {"name": name, **options})
    assert str(error.value) == message


# ---------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("warmup", [0, 9, 0.25])
def test_inverse_sqrt_is_the_formula_of_the_paper(warmup):
    """Up to the factor that its learning rate is."""
    schedule, total = InverseSqrt(warmup=warmup), 40
    theirs = (warmup if isinstance(warmup, int) else 10) + 1
    highest = theirs**-0.5
    for step in range(total):
        number = step + 1
        assert schedule.factor(step, total) * highest == pytest.approx(min(number**-0.5, number * theirs**-1.5))


def test_inverse_sqrt_does_not_know_the_end():
    schedule = InverseSqrt(warmup=10)
    assert [schedule.factor(step, 50) for step in range(50)] == [schedule.factor(step, 5000) for step in range(50)]


@pytest.mark.parametrize("shape", ["linear", "sqrt"])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_wsd_rises_stays_and_falls(shape, final):
    schedule = Wsd(warmup=0.1, decay=0.2, shape=shape, final=final)
    factors = [schedule.factor(step, 100) for step in range(101)]
    assert factors[:10] == [(step + 1) / 11 for step in range(10)]
    assert factors[10:81] == [1.0] * 71
    for step in range(80, 101):
        progress = (step - 80) / 20
        lost = progress if shape == "linear" else progress**0.5
        assert factors[step] == pytest.approx(final + (1 - final) * (1 - lost))


def test_wsd_counts_in_steps_and_shares_alike():
    def factors(**options):
        return [Wsd(**options).factor(step, 200) for step in range(201)]

    assert factors(warmup=10, decay=40) == factors(warmup=0.05, decay=0.2)
    assert factors(warmup=10, decay=0) == [*factors(warmup=10, decay=40)[:10], *[1.0] * 191]


def test_wsd_of_a_run_too_short_for_its_decay_warms_up_all_the_same():
    factors = [Wsd(warmup=4, decay=50).factor(step, 10) for step in range(11)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, *(1 - step / 6 for step in range(7))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.5}, "schedule.decay=1.5: a share from 0.0 to 1.0, or a whole number of steps."),
        ({"decay": -1}, "schedule.decay=-1: a share from 0.0 to 1.0, or a whole number of steps."),
        ({"warmup": 0.5, "decay": 0.6}, "schedule.warmup=0.5 and schedule.decay=0.6 are more than all steps together."),
        ({"final": 2.0}, "schedule.final=2.0: a share of the full rate, from 0.0 to 1.0."),
    ],
)
def test_options_of_a_schedule_that_can_not_be(options, message):
    with pytest.raises(UserError) as error:
        build("schedule", {"name": "wsd", **options})
    assert str(error.value) == message
