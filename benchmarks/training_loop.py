"""A training step of Plugformer against one of a loop in plain PyTorch: the same model, batches, optimiser and rates.

A round is `--steps` steps of either after a few that don't count, from the end of one step to the end of the last, so
that loading, logging and whatever else happens between steps counts. The order of the two alternates, the first round
is left out, and both must end with the same weights.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.table import Table

from plugformer import build, register
from plugformer.assemble import build_model
from plugformer.cli.compose import compose
from plugformer.config import Config
from plugformer.data.loaders import make_loader
from plugformer.interfaces import DataSource, DataSpec, Sample, Split, Tokenizer
from plugformer.model import Model
from plugformer.nn.parameters import group_parameters
from plugformer.run_dir import RunDir
from plugformer.settings import LoaderSettings, TrainerSettings
from plugformer.train.run import make_module
from plugformer.train.trainer import make_trainer

UNCOUNTED = 2


@register("data", "noise")
class Noise(DataSource):
    """Colour images of random pixels with random labels."""

    def __init__(self, *, num_samples: int, image_size: int) -> None:
        shape = (num_samples, 3, image_size, image_size)
        self.images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        self.num_samples = num_samples

    @property
    def spec(self) -> DataSpec:
        labels = tuple(map(str, range(10)))
        return DataSpec(frozenset({"image", "label"}), labels=labels, image=tuple(self.images.shape[1:]))  # type: ignore[arg-type]

    def samples(self, split: Split) -> Sequence[Sample]:
        count = self.num_samples if split == "train" else 1
        return [{"image": self.images[i], "label": i % 10} for i in range(count)]

    def fingerprint(self) -> str:
        return f"noise-{self.num_samples}"


class Clock(Callback):
    """Notes when each training step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.ends.append(time.perf_counter())


def plugformer_loop(config: Config, model: Model, tokenizer: Tokenizer, source: DataSource) -> list[float]:
    """When each step ended, as `plugformer.train.run.train` trains."""
    settings, loading, clock = TrainerSettings(**config["trainer"]), LoaderSettings(**config["loader"]), Clock()
    targets = model.task.targets
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir.create(Path(folder) / "run")
        module = make_module(config, model)
        training = make_loader(
            list(source.samples("train")),
            tokenizer=tokenizer,
            targets=targets,
            batch_size=loading.batch_size,
            seed=config["seed"],
        )
        validation = make_loader(list(source.samples("val")), tokenizer=tokenizer, targets=targets, batch_size=1)
        trainer = make_trainer(
            settings,
            run=run,
            monitor=model.task.monitor,
            loggers=[build("logger", node).open(run, config) for node in config["logger"].values()],
            callbacks=[clock],
            training=training,
        )
        trainer.fit(module, training, validation)
    return clock.ends


def plain_loop(config: Config, model: Model, tokenizer: Tokenizer, source: DataSource) -> list[float]:
    """When each step ended, written by hand."""
    batches = make_loader(
        list(source.samples("train")),
        tokenizer=tokenizer,
        targets=model.task.targets,
        batch_size=config["loader"]["batch_size"],
        seed=config["seed"],
    )
    optimizer = build("optimizer", config["optimizer"]).build(group_parameters(model))
    schedule = build("schedule", config["schedule"])
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, len(batches)))
    ends = []
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        model(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip"])
        optimizer.step()
        rates.step()
        ends.append(time.perf_counter())
    return ends


LOOPS: dict[str, Callable[[Config, Model, Tokenizer, DataSource], list[float]]] = {
    "Plugformer": plugformer_loop,
    "plain PyTorch": plain_loop,
}


def measure(config: Config, rounds: int) -> list[dict[str, float]]:
    """Seconds a step of each loop, round by round, the first left out."""
    source: DataSource = build("data", config["data"])
    tokenizer: Tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.fit(source.samples("train"))
    pl.seed_everything(config["seed"], verbose=False)
    torch.use_deterministic_algorithms(config["trainer"]["deterministic"])
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as in training
    model = build_model(config, tokenizer=tokenizer, data=source.spec)
    measured = []
    for number in range(rounds + 1):
        seconds, weights = {}, []
        for name in list(LOOPS)[:: 1 if number % 2 else -1]:
            trained = copy.deepcopy(model)
            torch.manual_seed(config["seed"])
            ends = LOOPS[name](config, trained, tokenizer, source)
            seconds[name] = (ends[-1] - ends[UNCOUNTED - 1]) / (len(ends) - UNCOUNTED)
            weights.append(torch.nn.utils.parameters_to_vector(trained.parameters()).detach())
        torch.testing.assert_close(*weights)
        measured.append(seconds)
    return measured[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"dim": 256, "layers": 6, "heads": 8, "batch-size": 64, "image-size": 64, "patch-size": 4}
    for name, default in (defaults | {"steps": 3, "rounds": 5, "threads": torch.get_num_threads()}).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    samples = chosen.batch_size * (UNCOUNTED + chosen.steps)
    config = compose(
        [
            *(f"data={'noise'}", f"data.num_samples={samples}", f"data.image_size={chosen.image_size}"),
            *(f"backbone.dim={chosen.dim}", f"backbone.num_layers={chosen.layers}"),
            *(f"backbone.num_heads={chosen.heads}", f"tokenizer.patch_size={chosen.patch_size}"),
            *(f"loader.batch_size={chosen.batch_size}", "trainer=cpu", "trainer.max_epochs=1"),
            *("trainer.progress=false", f"trainer.log_every={min(10, chosen.steps)}"),  # so that some step logs
        ]
    )
    measured = measure(config, chosen.rounds)
    ratios = [seconds["Plugformer"] / seconds["plain PyTorch"] for seconds in measured]
    steps = {name: [1000 * seconds[name] for seconds in measured] for name in LOOPS}
    table = Table("", "median", "min", "max")
    for name, values in steps.items():
        table.add_row(f"{name}, ms a step", *(f"{value:.2f}" for value in (median(values), min(values), max(values))))
    table.add_row("ratio", *(f"{value:.4f}" for value in (median(ratios), min(ratios), max(ratios))))
    Console().print(table)
    result = {"benchmark": "training_loop", **vars(chosen), "ms_per_step": steps, "ratio": ratios}
    print(json.dumps(result | {"median_ratio": median(ratios)}))


if __name__ == "__main__":
    main()
