"""The metrics of a trained model on a split."""

from pathlib import Path

import pytorch_lightning as pl

from plugformer.assemble import load_run
from plugformer.config import Config
from plugformer.data.loaders import make_loader
from plugformer.errors import UserError
from plugformer.interfaces import DataSource, Split
from plugformer.ranks import Rank
from plugformer.registry import build
from plugformer.run_dir import RunDir, read_json
from plugformer.settings import LoaderSettings, TrainerSettings
from plugformer.train import report
from plugformer.train.known_ranks import KnownRanks
from plugformer.train.run import make_module, used_samples
from plugformer.train.trainer import interruptible, quieten


@interruptible()
def evaluate(path: str | Path, config: Config, *, split: Split, checkpoint: str) -> dict[str, float]:
    """
    Args:
        path: a run directory.
        config: its composition, perhaps with overrides.
        split: whose samples are used, as they are.
        checkpoint: `best` or `last`.

    Raises:
        UserError: not a run directory, damaged, or of plugins that aren't installed.
    """
    settings, loading = TrainerSettings(**config["trainer"]), LoaderSettings(**config["loader"])
    tokenizer, model = load_run(path, config, checkpoint=checkpoint)
    source: DataSource = build("data", config["data"])
    trained_on = read_json(RunDir(path).data)["labels"]
    if list(source.spec.labels) != trained_on:
        raise UserError(f"The data has the labels {list(source.spec.labels)}, the model was trained on {trained_on}.")
    source.verify()
    batches = make_loader(
        used_samples(source, split, config),
        tokenizer=tokenizer,
        targets=model.task.targets,
        batch_size=loading.eval_batch_size,
        num_workers=loading.num_workers,
        bucket=loading.bucket,
    )
    quieten()
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,
        deterministic=settings.deterministic,
        limit_test_batches=settings.limit_batches,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=False,
        plugins=[KnownRanks(Rank(), devices=1)],
    )
    summary = make_module(config, model).evaluate(trainer, batches, split=split, checkpoint=None)
    report.console.print(report.metrics_table(summary))
    return summary
