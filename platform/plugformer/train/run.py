"""One run from a checked composition to its summary."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from plugformer import __version__
from plugformer.assemble import build_model, load_tokenizers, preview
from plugformer.budget import PassCost, pass_cost
from plugformer.config import Config, provenance
from plugformer.data.fingerprint import fingerprint
from plugformer.data.loaders import check_divides, indexable, make_loader
from plugformer.data.share import take_share
from plugformer.data.splits import SPLITS
from plugformer.data.target import target_samples, warn_if_cut
from plugformer.environment import record_environment
from plugformer.errors import Stopped
from plugformer.interfaces import DataSource, Monitor, Sample, Split, Tokenizer
from plugformer.job import Job
from plugformer.launch import status
from plugformer.model import Model
from plugformer.nn.depth import freeze
from plugformer.nn.initialise import seed_for
from plugformer.nn.parameters import count_parameters, weights_dtype
from plugformer.ranks import Rank
from plugformer.registry import build
from plugformer.run_dir import RunDir, plain, write_json
from plugformer.settings import LoaderSettings, TrainerSettings
from plugformer.track.logger import Tracker
from plugformer.train import report
from plugformer.train.callbacks import check_callbacks
from plugformer.train.checkpoints import Checkpoints
from plugformer.train.diagnostics import Diagnostics
from plugformer.train.group import joined, wait_for_all
from plugformer.train.module import TrainingModule
from plugformer.train.out_of_memory import OutOfMemory
from plugformer.train.processes import check_processes
from plugformer.train.resume import check_same, goes_on, lines, take_up
from plugformer.train.resume_records import last_progress
from plugformer.train.signals import StopSignals, stop_signals
from plugformer.train.strategies import data_rank
from plugformer.train.telemetry import Telemetry
from plugformer.train.trainer import interruptible, make_trainer
from plugformer.train.watch import LossWatch
from plugformer.weights.beginning import Beginning
from plugformer.weights.summary import match_lines


@interruptible()
def train(config: Config, *, job: Job | None = None) -> tuple[dict[str, float], Monitor]:
    """Train a model, test its best checkpoint and write the run directory.

    Args:
        config: a checked composition; its `run_dir` must not hold a run yet, unless its `resume` says so, too.
        job: which of a sweep it is, if it is one.

    Returns:
        The summary, final metrics as `split/metric`, those of val and test being the best checkpoint's; and which of
        them says how good the run is.

    Raises:
        UserError: parts that can't be combined, or data that can't be read; before training starts.
    """
    rank, settings = Rank.of(), TrainerSettings(**config["trainer"])
    check_processes(rank, settings)
    with status.ending(config["run_dir"]), joined(rank, settings.accelerator), stop_signals() as signals:
        try:
            with ExitStack() as held:
                return _train(config, rank, job, signals, held)
        except Stopped:
            if rank.first:
                report.stopped(RunDir(config["run_dir"]))
            raise


def _train(
    config: Config, rank: Rank, job: Job | None, signals: StopSignals, held: ExitStack
) -> tuple[dict[str, float], Monitor]:
    settings, loading = TrainerSettings(**config["trainer"]), LoaderSettings(**config["loader"])
    sharing = data_rank(rank, settings)
    check_divides(loading.batch_size, accumulate=settings.accumulate, world=sharing.world)
    callbacks = [build("callback", node) for node in config.get("callback", {}).values()]
    check_callbacks(callbacks, settings)
    nodes = {"csv": {"name": "csv"}} | config.get("logger", {})
    trackers = [build("logger", node) for node in nodes.values()] if rank.first else []
    source: DataSource = build("data", config["data"])
    tokenizer, sketch = preview(config, source=source)
    going_on = goes_on(config)
    beginning = None if going_on else Beginning.of(config, source=source, tokenizer=tokenizer, model=sketch)

    source.verify()
    samples = {split: used_samples(source, split, config) for split in SPLITS}
    target, training_samples = sketch.task.target_tokenizer, samples["train"]
    if settings.overfit_batches:
        count = min(settings.overfit_batches * loading.batch_size, len(training_samples))
        few = [training_samples[index] for index in range(count)]  # not every Sequence takes slices
        samples = dict.fromkeys(SPLITS, few)
    data = describe_data(config, source, samples)
    if rank.first:
        held.enter_context(RunDir(config["run_dir"]).claimed())
        check_same(config)
    if rank.first and not going_on:
        fit_tokenizers(tokenizer, target, training_samples, source=source)
        if beginning is not None:
            beginning.check_tokenizer(tokenizer, target)
        run = RunDir.create(config["run_dir"], again=config["resume"] is not None)
        status.begin(run)
        record(config, run, job, data=data, tokenizer=tokenizer, target=target)
    wait_for_all()
    if going_on or not rank.first:
        run = RunDir.open(config["run_dir"])
        load_tokenizers(run, tokenizer, target)
    progress = last_progress(run) if going_on else None

    pl.seed_everything(config["seed"], verbose=False)
    del os.environ["PL_GLOBAL_SEED"]  # by which Lightning would seed all ranks alike once more
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a tenth of a small step
    model = build_model(config, tokenizer=tokenizer, data=source.spec, target_tokenizer=target)
    begun = [] if beginning is None else begin(model, beginning, run, settings, rank)
    freeze(model.trunk, model.task, settings.freeze)
    cost, parameters = pass_cost(model, tokenizer), count_parameters(model)  # of the whole model, not of a part
    if rank.first:
        costs = describe_model(model, tokenizer, cost, batch_size=loading.batch_size)
        write_json(run.model, {**costs, "monitor": asdict(model.task.monitor)})
    came_from = {} if progress is None else progress.record
    origin = came_from.get("init_from") if beginning is None else beginning.origin
    module = make_module(config, model, origin=origin, world=sharing.world)
    del beginning  # it holds all its weights
    if sharing.world > 1:
        torch.manual_seed(seed_for(config["seed"], "rank", sharing.number))  # else each would drop out the same
    loader = partial(
        make_loader,
        tokenizer=tokenizer,
        targets=model.task.targets,
        rank=sharing,
        num_workers=loading.num_workers,
        bucket=loading.bucket,
    )
    training = loader(
        samples["train"],
        batch_size=loading.batch_size,
        rounds=settings.accumulate,
        seed=None if settings.overfit_batches else config["seed"],
    )
    if progress is not None and rank.first:
        take_up(run, config, progress, data=data, schedule=module.schedule, batches=len(training))
        status.begin(run)
    evaluation = {
        split: loader(samples[split], batch_size=loading.eval_batch_size, once=True) for split in ("val", "test")
    }
    watch = LossWatch(run, on_bad_loss=settings.on_bad_loss, spike=settings.spike, save_every=settings.save_every)
    opened, memory = [tracker.open(run, config) for tracker in trackers], OutOfMemory(config)
    with tracking(opened, model.task.monitor) as loggers, memory.explained():
        trainer = make_trainer(
            settings,
            run=run,
            rank=rank,
            monitor=model.task.monitor,
            loggers=loggers,
            callbacks=[*callbacks, Telemetry(cost=cost, precision=settings.precision), Diagnostics(), watch, memory],
            training=training,
            signals=signals,
        )
        if rank.first:
            report.start(config, samples=samples, model=model, tokenizer=tokenizer, device=trainer.strategy.root_device)
            report.say(*begun, *(lines(progress, config, world=rank.world) if progress else ()))
            report.rates(model, settings)

        started = time.perf_counter()
        checkpoint = None if progress is None else progress.checkpoint
        trainer.fit(module, training, evaluation["val"], ckpt_path=checkpoint, weights_only=True)
        seconds = time.perf_counter() - started
        epochs: Any = trainer.fit_loop.epoch_progress.current
        epochs.completed = epochs.processed  # where nothing was left to train, Lightning thinks of the epoch before
        saved = cast("Checkpoints | None", trainer.checkpoint_callback)
        summary = {
            "train/loss": float(trainer.callback_metrics["train/loss"]) if saved is None else saved.loss,
            "train/epochs": trainer.current_epoch,
            "train/steps": trainer.global_step,
            "train/seconds": round(seconds + (0.0 if saved is None else saved.seconds), 3),
            "model/parameters": parameters,
        }
        best = None if settings.fast_dev_run else "best"
        for split, batches in evaluation.items():
            summary |= module.evaluate(trainer, batches, split=split, checkpoint=best)
        if rank.first:
            write_json(run.summary, summary)
            report.write_tables(module.tables, run)
    if rank.first:
        report.end(summary, run)
    return summary, model.task.monitor


@contextmanager
def tracking(loggers: list[Logger], monitor: Monitor) -> Iterator[list[Logger]]:
    """Loggers of one run, those that are trackers begun and, however it ends, closed."""
    with ExitStack() as closing:
        for tracker in loggers:
            if isinstance(tracker, Tracker):
                closing.push(partial(_close, tracker))
                tracker.begin(monitor)
        yield loggers


def _close(tracker: Tracker, kind: type[BaseException] | None, *_: object) -> None:
    tracker.close(failed=kind is not None)


def fit_tokenizers(
    tokenizer: Tokenizer, target: Tokenizer | None, training: Sequence[Sample], *, source: DataSource
) -> None:
    """Learn vocabularies and statistics; one that is used for both learns of what is read and of what is written.

    Args:
        tokenizer: of what is read.
        target: of what is written, perhaps the same; None where nothing is.
        training: samples, of which those that are files are read for `tokenizer` alone.
        source: their origin.
    """
    writes = target is not None and "target_text" in source.spec.keys
    if target is tokenizer and writes:
        tokenizer.fit(chain(training, target_samples(training)))
    else:
        tokenizer.fit(training)
    if target is not None and target is not tokenizer:
        target.fit(target_samples(training))
    if target is not None and writes:
        warn_if_cut(target, training)


def used_samples(source: DataSource, split: Split, config: Config) -> Sequence[Sample]:
    """The samples of a split; of training, those that the run is to learn from.

    Raises:
        UserError: they are streamed.
    """
    loading = LoaderSettings(**config["loader"])
    samples = indexable(source.samples(split), config["data"]["name"])
    if split != "train":
        return samples
    labelled = bool(source.spec.labels)
    return take_share(samples, share=loading.train_share, seed=loading.train_share_seed, labelled=labelled)


def begin(model: Model, beginning: Beginning, run: RunDir, settings: TrainerSettings, rank: Rank) -> list[str]:
    """Give a new model the weights it begins from, and write down which; back come lines that say so."""
    found = beginning.fill(model.to(weights_dtype(settings.precision)))
    if rank.first:
        write_json(run.init_from, {**beginning.origin, **found.record()})
    return match_lines(model, beginning.weights, found)


def describe_model(
    model: Model, tokenizer: Tokenizer, cost: PassCost | None, *, batch_size: int
) -> dict[str, int | None]:
    """How large it is, and what an optimiser step on samples of the longest kind costs."""
    return {
        "parameters": count_parameters(model),
        "trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "flops": None if cost is None else cost.flops * batch_size,
        "tokens": len(tokenizer.spec.grid),
    }


def make_module(
    config: Config, model: Model, *, origin: Mapping[str, str] | None = None, world: int = 1
) -> TrainingModule:
    """A model with its optimiser and schedule.

    Args:
        config: a checked composition.
        model: as it is to be trained.
        origin: where its first weights are from.
        world: processes that share the data.
    """
    begun = {} if origin is None else {"init_from": origin}
    if config["trainer"]["compile"]:
        model.compile()
    return TrainingModule(
        model=model,
        optimizer=build("optimizer", config["optimizer"]),
        schedule=build("schedule", config["schedule"]),
        layer_decay=config["trainer"]["layer_decay"],
        world=world,
        record=plain({"version": __version__, "config": config, "plugins": provenance(config), **begun}),
    )


def record(
    config: Config,
    run: RunDir,
    job: Job | None,
    *,
    data: Mapping[str, Any],
    tokenizer: Tokenizer,
    target: Tokenizer | None,
) -> None:
    """Write down what the run is made of, before it starts."""
    run.write_config(config)
    if job is not None:
        write_json(run.job, asdict(job))
    write_json(run.plugins, provenance(config))
    record_environment(run)
    write_json(run.data, data)
    tokenizer.save(run.tokenizer)
    if target not in (None, tokenizer):
        run.target_tokenizer.mkdir()
        target.save(run.target_tokenizer)


def describe_data(config: Config, source: DataSource, samples: Mapping[Split, Sequence[Sample]]) -> dict[str, Any]:
    """Which data the run is of, for data.json."""
    sizes = {split: len(samples[split]) for split in SPLITS}
    name = source.fingerprint()
    loading = LoaderSettings(**config["loader"])
    if loading.train_share < 1:
        name = fingerprint([name, f"{loading.train_share}", f"{loading.train_share_seed}"])
    return {"labels": list(source.spec.labels), "samples": sizes, "fingerprint": name}
