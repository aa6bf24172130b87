"""The command line: what it answers to good and bad input, with which exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers import QUICK, plugformer

from plugformer.cli.compose import compose, config_groups
from plugformer.cli.main import COMMANDS, main
from plugformer.config import known_keys
from plugformer.errors import UserError
from plugformer.registry import PARTS, offers

HEAVY = ("torch", "torchvision", "torchaudio", "transformers", "wandb", "pytorch_lightning")


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, ""), err
    assert err.startswith("plugformer: ")
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train position=sinusodial", "position=sinusodial: no such plugin. Did you mean sinusoidal?"),
        ("train task.pool=clss", "task.pool=clss: expected one of cls, mean. Did you mean cls?"),
        ("train tokenizer.patch_sze=2", "Did you mean tokenizer.patch_size?"),
        ("train +tokenizer.patch_sze=2", "Did you mean tokenizer.patch_size?"),
        ("train ++tokenizer.patch_sze=2", "Did you mean tokenizer.patch_size?"),
        ("train optimizer.lr=fast", "optimizer.lr=fast: expected a number."),
        ("train experiment=digts", "experiment=digts: no such choice. Did you mean digits?"),
        ("train size=smal", "size=smal: no such choice. Did you mean small?"),
        ("train trainer.max_epoch=3", "Did you mean trainer.max_epochs?"),
        ("train atention=full", "Did you mean attention?"),
        ("train seed", "seed: not an override; the equals sign is missing; expected KEY=VALUE."),
        ("train ~attention", "The composition has no attention. Choose one with attention=NAME."),
        ("trian", "trian: no such command. Did you mean train?"),
        ("train seed=1,2", "seed=1,2: several values are a sweep. Add -m to run them all."),
        ("train -m seed=1,2,abc", "seed=abc: expected an integer."),
        ("train -m position=learned,sinusodial", "position=sinusodial: no such plugin. Did you mean sinusoidal?"),
        ("train -m --cfg job seed=1,2", "--cfg shows one composition: leave out -m."),
        ("plugins atention", "atention: no such kind of plugin. Did you mean attention?"),
        ("evaluate run optimizer.lr=3", "optimizer.lr=3: has no effect on a trained model's metrics. Leave it out."),
        ("evaluate run init_from=other", "init_from=other: has no effect on a trained model's metrics."),
        ("evaluate run loader.train_share=0.5", "loader.train_share=0.5: has no effect on split=test."),
    ],
)
def test_a_mistake_gets_one_message_before_anything_runs(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *arguments.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_folder_that_is_no_run_directory_is_refused(capsys, tmp_path, command):
    assert "not a run directory" in refused(capsys, command, str(tmp_path), *["x"] * (command == "predict"))


def test_a_run_directory_in_use_is_refused(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert "holds a run already" in refused(capsys, "train", f"run_dir={tmp_path}")


def test_a_folder_that_nothing_can_be_written_into_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    said = refused(capsys, "train", f"run_dir={tmp_path / 'file' / 'run'}")
    assert f"run_dir={tmp_path}/file/run: can't be written, because {tmp_path}/file can't." in said


@pytest.mark.parametrize(
    ("override", "says"), [("tokenizer.patch_size=3", "1, 2, 4, 8"), ("backbone.num_heads=5", "num_heads")]
)
def test_sizes_that_do_not_divide_are_refused_by_name(capsys, override, says):
    assert says in refused(capsys, "check", override)


def typos() -> list[tuple[str, str]]:
    """Overrides with one letter dropped, swapped or doubled, and what was meant."""
    config = compose([])
    keys = [key for key in known_keys(config) if "." in key]
    cases = [(f"{sign}{wrong}=1", key) for sign in ("", "+") for key in keys[::3] for wrong in misspell(key)]
    cases += [(f"{wrong}=x", group) for group in (*PARTS, *config_groups()) for wrong in misspell(group)]
    cases += [(f"{kind}={wrong}", name) for kind in PARTS for name in offers(kind) for wrong in misspell(name)]
    cases += [("task.pool=" + wrong, "mean") for wrong in misspell("mean")]
    return cases[::9]


def misspell(word: str) -> list[str]:
    i = len(word) - 2
    return [word[:i] + word[i + 1 :], word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i] + word[i:]]


def test_the_name_that_was_meant_is_suggested_first():
    cases = typos()
    assert len(cases) >= 40
    missed = []
    for override, meant in cases:
        try:
            compose([override])
        except UserError as error:
            if f"Did you mean {meant}?" not in str(error):
                missed.append((override, meant, str(error)))
        else:
            missed.append((override, meant, "was accepted"))
    assert len(missed) <= 0.1 * len(cases), missed


@pytest.mark.parametrize("arguments", [*([command, "--help"] for command in COMMANDS), ["train", "task.pol=cls"]])
def test_help_and_misspelt_options_import_nothing_heavy(arguments):
    script = (
        "import sys\nfrom plugformer.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', *sorted({{*sys.modules}} & {{*{HEAVY!r}}}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["HEAVY"], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("plugformer tr", "train"),
        ("plugformer train posi", "position="),
        ("plugformer train position=s", "position=sinusoidal"),
        ("plugformer train tokenizer.patch", "tokenizer.patch_size="),
    ],
)
def test_completion(line, offered):
    env = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    assert offered in plugformer("-sc", "query=bash", env=env).stdout.split()


def test_a_failed_job_does_not_end_a_sweep(tmp_path):
    (tmp_path / "picky.py").write_text(
        "from plugformer.nn.full_attention import Full\nfrom plugformer.registry import register\n\n"
        '@register("attention", "picky")\nclass Picky(Full):\n    def __init__(self, *, value: int = 0) -> None:\n'
        '        super().__init__()\n        if value == 1:\n            raise RuntimeError("not one")\n'
    )
    done = plugformer(
        "train", "-m", "plugins=[picky.py]", "attention=picky", "attention.value=0,1,2", "run_dir=sweep", *QUICK,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "RuntimeError: not one" in done.stderr
    assert sorted(path.parent.name for path in tmp_path.glob("sweep/*/summary.json")) == ["0", "2"]


def test_a_warning_is_one_line_without_source(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import warnings\nfrom plugformer.nn.full_attention import Full\nfrom plugformer.registry import register\n\n\n"
        "@register('attention', 'mine')\nclass Mine(Full):\n    def __init__(self) -> None:\n"
        "        super().__init__()\n        warnings.warn('mine is slow.')\n"
    )
    done = plugformer("check", "plugins=[mine.py]", "attention=mine", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "plugformer: mine is slow.\n")


def test_every_plugin_shows_where_its_source_is(capsys):
    for kind in PARTS:
        for name in offers(kind):
            with pytest.raises(SystemExit, match="0"):
                main(["plugins", kind, name, "--json"])
            shown = json.loads(capsys.readouterr().out)
            assert "class " in "".join(Path(shown["file"]).read_text().splitlines()[shown["line"] - 1 :][:3])
