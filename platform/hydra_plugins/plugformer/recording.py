"""Sweeps that are written down: whatever sweeper and launcher of Hydra's run one, its jobs are recorded first."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from plugformer.config import check_config
from plugformer.errors import UserError
from plugformer.job import Job
from plugformer.launch.frozen import Frozen
from plugformer.launch.sweep import Planned, Sweep


class RecordSweep(Callback):
    """Puts a `RecordingLauncher` before the launcher that was chosen."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with open_dict(config.hydra):
            target = f"{RecordingLauncher.__module__}.{RecordingLauncher.__qualname__}"
            config.hydra.launcher = {"_target_": target, "_recursive_": False, "chosen": config.hydra.launcher}


class RecordingLauncher(Launcher):
    """Writes down each batch of jobs, composed, and lets another launcher run it.

    Args:
        chosen: that launcher's configuration.
    """

    def __init__(self, *, chosen: DictConfig) -> None:
        self.chosen = chosen

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        with open_dict(config.hydra):
            config.hydra.launcher = self.chosen
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        sweep = Sweep(self.config.hydra.sweep.dir)
        if initial_job_idx == 0:
            sweep.check_free()
        sweep.add(
            self._planned(number, list(overrides)) for number, overrides in enumerate(job_overrides, initial_job_idx)
        )
        return self.launcher.launch(job_overrides, initial_job_idx)

    def _planned(self, number: int, overrides: list[str]) -> Planned:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config.hydra):
            config.hydra.job.id = config.hydra.job.num = number
        its, before = config.hydra, HydraConfig.instance().cfg
        path = Path(str(its.sweep.dir), str(its.sweep.subdir)).absolute()
        with open_dict(config.hydra):
            config.hydra.runtime.output_dir = str(path)
        named = Planned(number, str(its.job.override_dirname), overrides, str(its.sweep.subdir), None)
        HydraConfig.instance().set_config(config)  # which `${hydra:…}` speaks of
        try:
            with open_dict(config):
                del config["hydra"]
            checked = check_config(OmegaConf.to_container(config, resolve=True)) | {"run_dir": str(path)}
        except UserError as error:
            return replace(named, refused=str(error))
        finally:
            HydraConfig.instance().cfg = before
        return replace(named, frozen=Frozen.here(checked, Job(str(its.sweep.dir), number, named.name)).record())
