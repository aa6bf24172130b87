"""Plugins of strangers: packages that pip really installs, files, and configurations that would like to run code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.helpers import QUICK, plugformer, quick_config

from plugformer.errors import UserError
from plugformer.recorded import load_config
from plugformer.registry import register_file
from plugformer.run_dir import RunDir

MINE = '''
from plugformer.interfaces import Mask
from plugformer.nn.full_attention import Full


class Mine(Full):
    """My attention.

    Args:
        my_option: what is mine.
    """

    def __init__(self, *, my_option: float = 0.5) -> None:
        super().__init__()
        self.my_option = my_option
'''
IMPOSTOR = '''
class Impostor:
    """Not an attention."""

    def __init__(self, *, width: int = 1) -> None: ...
'''
PACKAGES = {  # by module: version, entry point, source
    "stranger_mine": ("1.2", 'mine = "stranger_mine:Mine"', MINE),
    "stranger_broken": ("0.3", 'broken = "stranger_broken:Mine"', "raise RuntimeError('no such device')\n" + MINE),
    "stranger_impostor": ("0.4", 'impostor = "stranger_impostor:Impostor"', IMPOSTOR),
    "stranger_one": ("2.1", 'contested = "stranger_one:Mine"', MINE),
    "stranger_two": ("2.2", 'contested = "stranger_two:Mine"', MINE),
}
EVIL = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The environment of a process in which the packages are installed."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("site")
    for module, (version, entry_point, source) in PACKAGES.items():
        folder = sources / module
        folder.mkdir()
        (folder / f"{module}.py").write_text(source)
        (folder / "pyproject.toml").write_text(
            f'[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
            f'[project]\nname = "{module}"\nversion = "{version}"\n'
            f'[project.entry-points."plugformer.attention"]\n{entry_point}\n'
            f'[tool.hatch.build.targets.wheel]\ninclude = ["{module}.py"]\n'
        )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    folders = [str(sources / module) for module in PACKAGES]
    done = subprocess.run([*pip, *offline, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return os.environ | {"PYTHONPATH": str(target), "COLUMNS": "200"}


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory) -> Path:
    """A run that was trained with the stranger's attention."""
    path = tmp_path_factory.mktemp("runs") / "run"
    options = ["attention=mine", "attention.my_option=1", f"run_dir={path}"]
    done = plugformer("train", *QUICK, *options, env=installed, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return path


def test_a_listing_shows_the_good_and_names_the_bad(installed):
    done = plugformer("plugins", "attention", "--json", env=installed)
    assert done.returncode == 0, done.stderr
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)["attention"]}
    good = {"name": "mine", "package": "stranger_mine", "version": "1.2", "doc": "My attention.", "error": None}
    assert listed["mine"] == good
    assert listed["full"]["error"] is None
    assert listed["broken"]["error"].startswith(
        "attention=broken: stranger_broken:Mine of stranger_broken 0.3 can't be imported: RuntimeError: no such device"
    )
    assert "stranger_impostor 0.4 is not a subclass of" in listed["impostor"]["error"]
    assert "stranger_one 2.1" in listed["contested"]["error"]
    assert "stranger_two 2.2" in listed["contested"]["error"]


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["attention=mine", "attention.my_option=x"], ["attention.my_option=x: expected a number."]),
        (["attention=mine", "attention.my_optoin=1"], ["attention.my_option"]),
        (["attention=broken"], ["stranger_broken 0.3 can't be imported: RuntimeError: no such device"]),
        (["attention=impostor"], ["stranger_impostor 0.4 is not a subclass of plugformer.interfaces.Attention"]),
        (["attention=contested"], ["stranger_one 2.1: stranger_one:Mine", "stranger_two 2.2: stranger_two:Mine"]),
    ],
    ids=["mistyped", "misspelt", "broken", "impostor", "contested"],
)
def test_what_is_wrong_is_told_in_one_message(installed, overrides, messages):
    done = plugformer("check", *overrides, env=installed)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for message in messages:
        assert message in done.stderr


def test_a_run_records_whose_plugins_it_used(run):
    assert json.loads((run / "plugins.json").read_text())["attention"] == {
        "name": "mine",
        "entry_point": "stranger_mine:Mine",
        "package": "stranger_mine",
        "version": "1.2",
        "options": {"my_option": 1.0},
    }


def test_a_run_whose_package_is_gone_says_what_it_needs(run):
    with pytest.raises(UserError) as caught:
        load_config(run)
    first, *_, last = str(caught.value).splitlines()
    assert first.startswith(f"{run / 'config.yaml'}: attention=mine: no such plugin.")
    assert last == "  The run used attention=mine: stranger_mine:Mine of stranger_mine 1.2."
    (run / "plugins.json").rename(run / "plugins.away")  # the record helps, and isn't needed
    try:
        with pytest.raises(UserError, match="attention=mine: no such plugin"):
            load_config(run)
    finally:
        (run / "plugins.away").rename(run / "plugins.json")


def test_a_saved_configuration_runs_no_file(run, installed, tmp_path):
    evil = tmp_path / "evil.py"
    evil.write_text(EVIL)
    saved = run / "config.yaml"
    saved.write_text(yaml.safe_dump(yaml.safe_load(saved.read_text()) | {"plugins": [str(evil)]}))
    done = plugformer("evaluate", str(run), env=installed)
    assert done.returncode == 0, done.stderr
    assert not evil.with_suffix(".ran").exists()
    register_file(evil)
    assert evil.with_suffix(".ran").exists()  # it would have shown


def test_a_saved_configuration_names_no_path_to_code(tmp_path):
    config = quick_config()
    config["attention"]["_target_"] = "os.system"
    (tmp_path / "checkpoints").mkdir()
    RunDir(tmp_path).write_config(config)
    with pytest.raises(UserError, match=r"attention\._target_: no such option of attention=full\."):
        load_config(tmp_path)


def test_an_experiment_runs_no_file(tmp_path):
    evil = tmp_path / "evil.py"
    evil.write_text(EVIL)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(f"# @package _global_\nplugins: [{evil}]\n")
    for command in ("check", "train"):
        done = plugformer(command, "--config-dir", str(tmp_path), "experiment=evil", cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert f"{evil}" in done.stderr
        assert "command line" in done.stderr
        assert "Traceback" not in done.stderr
    assert not evil.with_suffix(".ran").exists()


def test_a_file_joins_a_run_from_the_command_line(tmp_path):
    source = MINE.replace("class Mine", '@register("attention", "my_own")\nclass Mine')
    (tmp_path / "my_attention.py").write_text("from plugformer.registry import register\n" + source)
    overrides = ["plugins=[my_attention.py]", "attention=my_own"]
    done = plugformer("check", *overrides, "attention.my_option=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "my_option=2.0" in done.stdout
    done = plugformer("check", *overrides, "attention.my_option=x", cwd=tmp_path)
    assert done.returncode == 2
    assert "attention.my_option=x: expected a number." in done.stderr
