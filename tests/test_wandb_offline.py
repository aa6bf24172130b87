"""What the tracker on W&B writes where there is no server: read back from the files, as wandb itself reads them."""

import base64
import csv
import hashlib
import importlib.util
import io
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image
from pytorch_lightning.callbacks import Callback
from tests.helpers import quick_config

from plugformer.cli.compose import compose
from plugformer.cli.main import main
from plugformer.errors import UserError
from plugformer.interfaces import Monitor
from plugformer.job import Job
from plugformer.registry import register
from plugformer.run_dir import RunDir, read_json
from plugformer.track import wandb_media, wandb_server
from plugformer.track.media import Media, MediaFile, read_media
from plugformer.track.names import Names
from plugformer.track.secrets import redact, redact_source
from plugformer.track.wandb_server import Server
from plugformer.train import wandb_logger
from plugformer.train.run import tracking, train
from plugformer.train.wandb_logger import Wandb, WandbLogger

STEP = "trainer/global_step"
SECRETS = {
    "variable": "planted-in-the-environment",
    "option": "planted-in-an-option",
    "flag": "planted-behind-a-flag",
    "address": "planted-in-an-address",
}
LOSS = Monitor("val/loss", "min")


@dataclass(frozen=True)
class Told:
    """A run directory, and the records of its run as wandb reads them."""

    run: RunDir
    records: list[dict[str, Any]]
    printed: str = ""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def about(self) -> dict[str, Any]:
        """What was said of the run last."""
        return self.of("run")[-1]

    @property
    def config(self) -> dict[str, Any]:
        return self.of("run")[0]["config"]["update"]

    @property
    def summary(self) -> dict[str, Any]:
        return {name: value for record in self.of("summary") for name, value in record.get("update", {}).items()}

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [record["item"] for record in self.of("history")]

    def values(self, metric: str) -> list[Any]:
        return [row[metric] for row in self.rows if metric in row]


def read(run: RunDir, printed: str = "") -> Told:
    """Once it is over: wandb writes in a process of its own, and is a little late."""
    (path,) = (run.path / "wandb").glob("offline-run-*")
    deadline = time.monotonic() + 30
    while True:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        records = [json.loads(line) for line in done.stdout.splitlines()]
        if any(record["type"] == "exit" for record in records):
            return Told(run, records, printed)
        assert time.monotonic() < deadline, f"there is no end to it: {done.stdout[-500:]}{done.stderr}"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Iterator[Path]:
    """Where wandb has everything of its own and no key; it forgets at the end what it was told."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(home / name))
        patch.setenv("HOME", str(home))
        patch.setenv("PLANTED_API_KEY", SECRETS["variable"])
        wandb.teardown()
        yield home
        wandb.teardown()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Told, Told]:
    """Two jobs of a sweep in one process, of which the second fails."""

    @register("callback", "fails")
    class Fails(Callback):
        """Ends in an error."""

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 1:
                raise RuntimeError("as it was told to")

    folder = tmp_path_factory.mktemp("sweeps") / "lr"
    argv = ["plugformer", "train", f"data.token={SECRETS['option']}", "--api-key", SECRETS["flag"]]
    argv += [f"init_from=https://me:{SECRETS['address']}@here/model", f"notes={SECRETS['variable']}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        with redirect_stdout(io.StringIO()) as printed:
            train(
                quick_config("logger=wandb", "trainer.media=4", f"run_dir={folder / '0'}"),
                job=Job(str(folder), 0, "optimizer.lr=0.1"),
            )
        with pytest.raises(RuntimeError, match="as it was told to"):
            train(
                quick_config(
                    "logger=wandb", "callback=[fails]", "trainer.log_every=1", f"run_dir={folder / '1'}", "seed=1"
                ),
                job=Job(str(folder), 1, f"optimizer.lr=0.2,run_dir={folder}/1,seed=1"),
            )
    return read(RunDir(folder / "0"), printed.getvalue()), read(RunDir(folder / "1"))


@pytest.fixture(scope="module")
def finished(two) -> Told:
    return two[0]


@pytest.fixture(scope="module")
def failed(two) -> Told:
    return two[1]


def tell(run: RunDir, *, config: dict[str, Any] | None = None, monitor: Monitor = LOSS, **options: Any) -> Any:
    """A tracker of a run that trains nothing; a context."""
    return tracking([Wandb(**{"mode": "offline"} | options).open(run, config or {})], monitor)


@pytest.fixture(scope="module")
def strange(tmp_path_factory) -> Told:
    """A run that logs what is no number, and shows things that are too large, gone, or of several types."""
    run = RunDir.create(tmp_path_factory.mktemp("strange") / "run")
    small, large = run.path / "small.png", run.path / "large.png"
    Image.new("RGB", (8, 8)).save(small)
    Image.effect_noise((90, 90), 100).save(large)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr(wandb_media, "MOST_BYTES", 1000)
        with tell(run) as (logger,):
            for step, loss in enumerate((2.0, 1.0, math.nan, 3.0)):
                logger.log_metrics({"train/loss": loss, "val/loss": loss, "val/accuracy": step / 4}, step=step)
            logger.log_metrics({"train/loss": math.inf}, step=4)
            pictures = [[MediaFile("image", path, "noise"), number] for number, path in enumerate((small, large))]
            logger.log_media(Media("val/samples", 3, ["image", "number"], pictures))
            logger.log_media(Media("val/mixed", 3, ["what"], [["text"], [1]]))
            logger.log_media(Media("val/gone", 3, ["image"], [[MediaFile("image", run.path / "gone.png")]]))
            logger.log_media(
                Media("val/long", 3, ["number"], [[number] for number in range(wandb_media.MOST_ROWS + 1)])
            )
            logger.log_metrics({"val/loss": 0.5}, step=5)
    return read(run, printed.getvalue())


# ------------------------------------------------------------------------------------------------ what a run is


def test_the_configuration_is_the_composition(finished):
    config = finished.run.read_config()
    assert {key: finished.config[key] for key in config} == config


def test_a_run_says_what_it_is_made_of(finished):
    about, run = finished.config["run"], finished.run
    assert about["plugins"] == redact(read_json(run.plugins))
    assert about["data"] == {key: read_json(run.data)[key] for key in ("fingerprint", "samples")}
    assert about["git"] == {"revision": read_json(run.environment)["git_revision"], "changed": run.git_diff.is_file()}
    assert about["directory"] == str(run.path)
    assert about["command"] == "plugformer train optimizer.lr=0.1"
    assert about["job"] == read_json(run.job)
    sent = Path(finished.run.path, read_json(run.tracked)["path"], "files")
    assert json.loads((sent / "environment.json").read_text())["packages"] == read_json(run.environment)["packages"]
    assert (sent / "git.diff").is_file() == run.git_diff.is_file()
    saved = {file["path"] for record in finished.of("files") for file in record["files"]}
    assert {"environment.json", *(["git.diff"] if run.git_diff.is_file() else [])} <= saved


def test_jobs_of_a_sweep_are_runs_of_one_group_named_by_their_overrides(finished, failed):
    assert [told.about["display_name"] for told in (finished, failed)] == [
        "optimizer.lr=0.1",
        "optimizer.lr=0.2,seed=1",
    ]
    assert [told.about["run_group"] for told in (finished, failed)] == ["lr", "lr"]
    assert finished.about["run_id"] != failed.about["run_id"]
    assert [told.config["seed"] for told in (finished, failed)] == [0, 1]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mine", "mine"),
        ("a/b/mine", "mine"),
        ("runs/2026-01-31/12-00-00", "2026-01-31/12-00-00"),
        ("x" * 200, "x" * 127 + "…"),
    ],
)
def test_a_run_is_named_after_its_folder(path, name, tmp_path):
    assert Names.of(RunDir(tmp_path / path)) == Names(name, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"project": "a/b"}, r"logger.wandb.project=a/b: W&B allows none of / .* in it; it has /\."),
        ({"entity": "me:you"}, r"logger.wandb.entity=me:you: W&B allows none"),
        ({"run_name": "x" * 129}, r"logger.wandb.run_name=x+: must be from 1 to 128 characters long"),
        ({"tags": ("", "a")}, r"logger.wandb.tags: each must be from 1 to 64 characters long, not ''"),
        ({"timeout": 0.0}, r"logger.wandb.timeout=0: must be greater than 0"),
        ({"timeout": math.nan}, r"logger.wandb.timeout=nan: must be greater than 0"),
    ],
)
def test_what_the_server_would_refuse_is_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        Wandb(**options)


# ------------------------------------------------------------------------------------------------ metrics


@pytest.mark.parametrize("which", [0, 1])
def test_the_history_is_that_of_the_csv_file(two, which):
    told = two[which]
    with told.run.metrics.open(newline="") as file:
        logged = {
            (int(row["step"]), name, float(value))
            for row in csv.DictReader(file)
            for name, value in row.items()
            if name != "step" and value
        }
    found = {
        (row[STEP], name, float(value))
        for row in told.rows
        for name, value in row.items()
        if name != STEP and not name.startswith("_") and isinstance(value, int | float) and "." not in name
    }
    assert found == logged
    assert len(logged) > 1


def test_metrics_are_drawn_over_optimiser_steps_and_the_best_is_kept(finished):
    defined = {metric.get("name", metric.get("glob_name")): metric for metric in finished.of("metric")}
    assert defined[STEP]["options"]["hidden"]
    assert {metric["step_metric"] for name, metric in defined.items() if name != STEP} == {STEP}
    assert "*" in defined
    assert defined["val/loss"]["summary"] == {"min": True, "last": True}
    assert defined["val/accuracy"]["summary"] == {"max": True, "last": True}
    assert "train/loss" not in defined
    losses = finished.values("val/loss")
    assert finished.summary["val/loss"] == {"min": min(losses), "last": losses[-1]}


def test_the_monitor_says_what_is_best(tmp_path):
    run = RunDir.create(tmp_path / "run")
    with tell(run, monitor=Monitor("val/unheard_of", "max")) as (logger,):
        logger.log_metrics({"val/unheard_of": 1.0, "val/other": 1.0}, step=0)
    defined = {metric.get("name"): metric.get("summary") for metric in read(run).of("metric")}
    assert defined["val/unheard_of"] == {"max": True, "last": True}
    assert "val/other" not in defined


def test_what_is_over_is_summed_up(finished):
    summary = read_json(finished.run.summary)
    for name in ("model/parameters", "train/steps", "train/seconds", "test/accuracy"):
        assert finished.summary[name] == pytest.approx(summary[name])


def test_what_is_no_number_is_logged_as_such_and_marks_the_run(strange):
    assert [value for value in strange.values("train/loss") if isinstance(value, str)] == ["NaN", "Infinity"]
    assert strange.values("val/loss") == [2.0, 1.0, "NaN", 3.0, 0.5]
    assert strange.summary["nonfinite"] == {"train/loss": 2, "val/loss": 2}
    assert strange.summary["val/loss"] == {"min": 0.5, "last": 0.5}
    assert strange.summary["val/accuracy"] == {"max": 0.75, "last": 0.75}
    assert strange.about["tags"] == ["non-finite"]
    (alert,) = strange.of("alert")
    assert alert["text"] == "train/loss is nan at step 2"


def test_a_run_of_numbers_is_not_marked(finished, failed):
    for told in (finished, failed):
        assert "tags" not in told.about
        assert "nonfinite" not in told.summary
        assert not told.of("alert")


# ------------------------------------------------------------------------------------------------ media


def test_everything_to_see_is_there(finished):
    """Each entry of the run directory's index is logged, and each file that wandb names exists."""
    logged = {
        (row[STEP], name.removesuffix("._type")) for row in finished.rows for name in row if name.endswith("._type")
    }
    assert logged == {(media.step, media.name) for media in read_media(finished.run)}
    assert logged
    files = Path(finished.run.path, read_json(finished.run.tracked)["path"], "files")
    paths = [value for row in finished.rows for name, value in row.items() if name.endswith(".path")]
    assert len(paths) == len(logged)
    for path in paths:
        assert (files / path).is_file()
    for entry in (entry for artifact in finished.of("artifact") for entry in artifact["manifest"]["contents"]):
        assert Path(entry["local_path"]).is_relative_to(finished.run.path)
        assert digest(Path(entry["local_path"])) == entry["digest"]


def digest(path: Path) -> str:
    return base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()


def test_what_is_too_much_to_show_is_left_out_and_said(strange):
    assert strange.printed.count("large.png") == 1
    assert "isn't sent" in strange.printed
    tables = {artifact["name"].split("-")[2]: artifact["manifest"]["contents"] for artifact in strange.of("artifact")}
    (table,) = [entry["local_path"] for entry in tables["valsamples"] if entry["path"].endswith(".table.json")]
    rows = json.loads(Path(table).read_text())["data"]
    assert [type(row[0]) for row in rows] == [dict, type(None)]
    assert [row[1] for row in rows] == [0, 1]
    (table,) = [entry["local_path"] for entry in tables["vallong"] if entry["path"].endswith(".table.json")]
    assert len(json.loads(Path(table).read_text())["data"]) == wandb_media.MOST_ROWS


def test_trouble_with_the_tracker_is_no_trouble_of_the_run(strange):
    assert strange.printed.count("FileNotFoundError") == 1
    assert strange.values("val/mixed._type") == ["table-file"]
    assert strange.of("exit")[0].get("exit_code", 0) == 0


# ------------------------------------------------------------------------------------------------ checkpoints, lineage


def test_checkpoints_go_along_with_what_it_takes_to_use_them(finished):
    models = [artifact for artifact in finished.of("artifact") if artifact["type"] == "model"]
    assert [set(artifact["aliases"]) for artifact in models] == [{"best", "latest"}, {"last", "latest"}]
    assert {artifact["name"] for artifact in models} == {f"model-{finished.about['run_id']}"}
    for alias, artifact in zip(("best", "last"), models, strict=True):
        entries = {entry["path"]: entry for entry in artifact["manifest"]["contents"]}
        tokenizer = {path.relative_to(finished.run.path).as_posix() for path in finished.run.tokenizer.iterdir()}
        assert {f"checkpoints/{alias}.ckpt", "config.yaml", "plugins.json", "data.json"} | tokenizer <= set(entries)
        for name, entry in entries.items():
            assert Path(entry["local_path"]) == finished.run.path / name, "copied"
            assert digest(finished.run.path / name) == entry["digest"]
        assert json.loads(artifact["metadata"])["metrics"] == read_json(finished.run.summary)


def test_a_run_that_failed_has_none(failed):
    assert not [artifact for artifact in failed.of("artifact") if artifact["type"] == "model"]


def test_checkpoints_stay_here_if_they_hold_a_secret_or_nobody_wants_them(tmp_path, capsys):
    for name, options, config in (
        ("secret", {}, {"data": {"name": "hub", "token": "planted-in-the-composition"}}),
        ("unwanted", {"artifacts": False}, {}),
    ):
        run = RunDir.create(tmp_path / name)
        (run.checkpoints / "best.ckpt").write_bytes(b"weights")
        with tell(run, config=config, **options):
            pass
        assert not read(run).of("artifact")
    assert capsys.readouterr().out.count("the composition holds a secret") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"planted-in-the-c" in path.read_bytes()]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_run_knows_whose_weights_it_began_with(finished, tmp_path, checkpoint):
    run = RunDir.create(tmp_path / "run")
    begins = finished.run.checkpoint("last") if checkpoint else finished.run.path
    with tell(run, config={"init_from": str(begins)}):
        pass
    mine = finished.about["run_id"]
    reference = f"plugformer/model-{mine}:{'last' if checkpoint else 'best'}"
    assert read(run).config["run"]["init_from"]["wandb"] == {"reference": reference, "run": mine, "uploaded": False}


@pytest.mark.parametrize("reference", ["wandb:", "wandb:model", "wandb:me/plugformer/model", "wandb:a/b/c/d:best"])
def test_a_reference_that_is_none_is_told_from_one(reference, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", reference])
    assert stopped.value.code == 2
    assert f"{reference}: not an artifact; expected wandb:ENTITY/PROJECT/NAME:ALIAS" in capsys.readouterr().err


def test_an_artifact_can_only_be_had_online(tmp_path):
    config = quick_config("init_from=wandb:me/plugformer/model-1:best", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"can only be had online: no API key is set .*\n.*give its run directory"):
        train(config)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------ how it ends


def test_a_run_ends_once_with_its_exit_code(finished, failed):
    assert [told.of("exit")[0].get("exit_code", 0) for told in (finished, failed)] == [0, 1]
    assert [len(told.of("exit")) for told in (finished, failed)] == [1, 1]


def test_one_line_says_where_a_run_is_and_what_to_do_with_it(finished):
    path = finished.run.path / read_json(finished.run.tracked)["path"]
    said = [
        line for line in finished.printed.splitlines() if line.startswith("wandb:") and str(finished.run.path) in line
    ]
    assert said == [
        f"wandb: offline, no API key is set (`wandb login`, or WANDB_API_KEY). See the run with `wandb leet {path}`, "
        f"send it with `wandb sync {path}`."
    ]


def test_of_two_at_one_run_id_the_second_gets_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_RUN_ID", "thesame")
    wandb.teardown()
    runs = [RunDir.create(tmp_path / name) for name in ("first", "second")]
    with tell(runs[0]) as (first,), tell(runs[1]) as (second,):
        assert first.version == "thesame"
        assert second.version != "thesame"
    assert f"thesame is in use by another process; this run gets {second.run.id}" in capsys.readouterr().out
    with tell(RunDir.create(tmp_path / "third")) as (third,):
        assert third.version == "thesame"
    monkeypatch.delenv("WANDB_RUN_ID")
    wandb.teardown()


# ------------------------------------------------------------------------------------------------ secrets


def test_no_secret_is_in_what_was_written(two, folder):
    """Neither in the environment's values nor in the command line, both of which the run directory may hold."""
    assert all(secret in two[0].run.environment.read_text() for secret in SECRETS.values())
    written = [path for told in two for path in (told.run.path / "wandb").rglob("*") if path.is_file()]
    written += [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    for path in written:
        content = path.read_bytes()
        for secret in SECRETS.values():
            assert secret.encode() not in content, path


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("data.api_key=abc", "data.api_key=***"),
        ("++data.hf_token=abc", "++data.hf_token=***"),
        ('{"password": "a b, c", "x": 1}', '{"password": ***, "x": 1}'),
        ("url=https://me:pass@here/x", "url=https://***@here/x"),
        ("postgresql://u:p@h:5/x", "postgresql://***@h:5/x"),
        ("postgresql://u:p@q@h:5/x", "postgresql://***@h:5/x"),
        ("url=https://token@here/x", "url=https://***@here/x"),
        ("https://here,me@there", "https://here,me@there"),
        (f"x={'hf_' + 'a' * 34}", "x=***"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
        ("tokenizer.vocab_size=300", "tokenizer.vocab_size=300"),
        ("tokenizer.mask_token=[MASK]", "tokenizer.mask_token=[MASK]"),
        ("target_tokenizer=text_bytes", "target_tokenizer=text_bytes"),
        ("task.max_new_tokens=8", "task.max_new_tokens=8"),
        ("keys=3", "keys=3"),
        ("https://example.org/a@b", "https://example.org/a@b"),
    ],
)
def test_a_secret_is_what_its_name_or_form_says(text, left):
    assert redact(text) == left


def test_secrets_hide_in_no_depth(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "four.square")
    told = {
        "a": [{"secret": "x", "n": 1}],
        "b": ("--auth-token", "x", "y"),
        "c": "four-square four.square",
        "secret": 3,
    }
    left = {"a": [{"secret": "***", "n": 1}], "b": ["--auth-token", "***", "y"], "c": "four-square ***", "secret": 3}
    assert redact(told) == left


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ('password = "hunter2"', "password = ***"),
        ("API_KEY=0123456789abcdef", "API_KEY=***"),
        ('os.environ["HF_TOKEN"] = "hunter2"', 'os.environ["HF_TOKEN"] = ***'),
        ("run(api_key=api_key, token=token)", "run(api_key=api_key, token=token)"),
        ("token: str = tokens[0]", "token: str = tokens[0]"),
    ],
)
def test_source_text_stays_what_it_is_but_for_secrets(line, left):
    assert redact_source(line) == left


# ------------------------------------------------------------------------------------------------ on, off, no server


def test_it_is_on_unless_another_is_chosen():
    assert list(compose([])["logger"]) == ["wandb"]
    assert list(compose(["logger=csv"])["logger"]) == ["csv"]
    assert list(compose(["logger=[csv,wandb]"])["logger"]) == ["csv", "wandb"]


@pytest.mark.parametrize("how", ["option", "environment"])
def test_disabled_is_nothing_at_all(how, tmp_path, monkeypatch):
    if how == "environment":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    run = RunDir.create(tmp_path / "run")
    logger = Wandb(mode="auto" if how == "environment" else "disabled").open(run, {})
    assert not isinstance(logger, WandbLogger)
    logger.log_metrics({"train/loss": 1.0}, step=0)
    assert not (run.path / "wandb").exists()


def test_wandb_is_imported_when_a_run_is_opened_and_no_earlier(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("plugformer.track.wandb_", "wandb."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails
    spec = importlib.util.spec_from_file_location("again", wandb_logger.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    with pytest.raises(ImportError):
        again.Wandb().open(RunDir.create(tmp_path / "run"), {})


def server(port: int) -> Server:
    return Server(f"http://127.0.0.1:{port}", "0" * 40, True)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes requests and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_server_that_isnt_there_is_found_out(silent, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = listening.getsockname()[1]
    assert "can't be reached (" in (server(closed).ask() or "")
    monkeypatch.setattr(wandb_server, "PATIENCE", 0.2)
    assert server(silent).ask() == f"127.0.0.1:{silent} doesn't answer"
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: time.sleep(2) or []
    )  # a name that takes long to look up
    started = time.monotonic()
    assert "doesn't answer" in (Server("http://nowhere.example", "0" * 40, True).ask() or "")
    assert time.monotonic() - started < 1.5


def test_behind_a_proxy_that_is_gone_a_run_goes_on_offline(tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = listening.getsockname()[1]
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    wandb.teardown()
    with tell(RunDir.create(tmp_path / "run"), mode="auto"):
        pass
    assert "wandb: offline, wandb.example can't be reached (" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"mode=online: wandb.example can't be reached \(.*\n.*mode=auto"):
        train(quick_config("logger=wandb", "logger.wandb.mode=online", f"run_dir={tmp_path / 'other'}"))
    assert not (tmp_path / "other").exists(), "it is refused before there is anything of it"
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name)
    wandb.teardown()


def test_a_malformed_key_is_said_to_be_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    wandb.teardown()
    with tell(RunDir.create(tmp_path / "run"), mode="auto"):
        pass
    assert "offline, WANDB_API_KEY invalid: API key must have 40+ characters, has 5." in capsys.readouterr().out
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()
