"""`plugformer train [overrides]`: one run, or a sweep with -m."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from plugformer.cli.compose import as_hydra_takes_it, compose, compose_sweep, parse, register_files
from plugformer.conf_dir import conf_dir
from plugformer.config import check_config
from plugformer.errors import UserError, message
from plugformer.job import Job
from plugformer.run_dir import RunDir


def main(argv: list[str]) -> int:
    flags = get_args_parser().parse_args(argv)
    for flag in ("config_path", "config_name", "package", "experimental_rerun"):
        if getattr(flags, flag):
            raise UserError(f"--{flag.replace('_', '-')}: not possible here. Add files with --config-dir DIR.")
    asks = any((flags.help, flags.hydra_help, flags.info, flags.shell_completion))
    if flags.multirun and flags.cfg:
        raise UserError("--cfg shows one composition: leave out -m.")
    if asks:
        register_files(parse(flags.overrides))
    elif flags.multirun:
        compose_sweep(flags.overrides, flags.config_dir)
    else:
        config = compose(flags.overrides, flags.config_dir)
        if not flags.cfg:
            RunDir(config["run_dir"]).check_free()
    exit_codes: list[int] = []
    _launch(_as_hydra_takes_them(argv, flags.overrides), exit_codes)
    return max(exit_codes, default=0)


def _as_hydra_takes_them(argv: list[str], overrides: list[str]) -> list[str]:
    taken = {text: as_hydra_takes_it(override) for text, override in zip(overrides, parse(overrides), strict=True)}
    return [taken.get(argument, argument) for argument in argv]


def _launch(argv: list[str], exit_codes: list[int]) -> None:
    """Hand over to Hydra, which composes each job and calls it."""

    def job(composed: DictConfig) -> float | None:
        code, value = _run_job(composed)
        exit_codes.append(code)
        return value

    own = sys.argv
    sys.argv = [own[0], *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    finally:
        sys.argv = own


def _run_job(composed: DictConfig) -> tuple[int, float | None]:
    """Train as composed. In a sweep, what goes wrong is told and the next job has its turn."""
    job = HydraConfig.get()
    sweeping = job.mode == RunMode.MULTIRUN
    if sweeping:
        print(f"\n[job {job.job.num}] {job.job.override_dirname}")
    try:
        config = check_config(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
        config["run_dir"] = job.runtime.output_dir
        which = Job(job.sweep.dir, job.job.num, job.job.override_dirname) if sweeping else None
        return 0, _train(config, which)
    except Exception as error:
        if not sweeping:
            raise SystemExit(_fail(error)) from None
        return _fail(error), None


def _train(config: dict[str, Any], job: Job | None) -> float:
    from plugformer.train.run import train  # heavy: torch and Lightning

    summary, monitor = train(config, job=job)
    return summary[monitor.metric]


def _fail(error: Exception) -> int:
    if "--traceback" in sys.orig_argv:
        traceback.print_exception(error)
    print(f"plugformer: {message(error)}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1
