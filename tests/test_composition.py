"""From overrides to a composition: what is taken, what is refused, and what configuration files may not do."""

from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Literal

import pytest

from plugformer import registry
from plugformer.cli.compose import as_hydra_takes_it, compose, config_groups, parse
from plugformer.cli.main import main
from plugformer.config import SETTINGS, check_config
from plugformer.errors import UserError, nearest
from plugformer.options import coerce
from plugformer.registry import PARTS, find, offers, register


def refusal(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("=3", "=3: not an override; the key is missing; expected KEY=VALUE."),
        ("seed=[1", "seed=[1: not an override; expected KEY=VALUE.\n  no viable alternative"),
        ("+attention=full", "+attention=full: a group needs no +. Write attention=full."),
        ("++attention=full", "++attention=full: a group needs no +. Write attention=full."),
        ("+seed=1", "+seed=1: seed is there already. Write seed=1."),
        ("+experment=digits", "experment: no such option. Did you mean experiment?"),
        ("size@attention=small", "size@attention=small: a part has one place only. Write size=small."),
        ("size=3", "size=3: no such choice.\n  Possible: base, large, small, tiny"),
        ("attention=3", "attention=3: no such plugin.\n  Installed: "),
        ("attention={nme:full}", "attention.nme: no such option."),
        ("attention=null", "The composition has no attention. Choose one with attention=NAME."),
        ("trainer.lr=1", "trainer.lr: no such option. Did you mean optimizer.lr?"),
        (
            "logger.mode=online",
            "logger.mode: no such option. Did you mean logger.wandb.mode?\n  Possible: logger.wandb.arti",
        ),
        ("seed.x=1", "seed.x: seed holds nothing to set singly. Set it as a whole, as seed=VALUE."),
        (
            "callback.early_stopping.patience=3",
            "callback.early_stopping.patience: callback=early_stopping is not chosen. Add callback=[early_stopping].",
        ),
        (
            "callback=[early_stopping] callback.early_stopping.patience=x",
            "callback.early_stopping.patience=x: expected an integer.",
        ),
        ("hydra.jb.chdir=true", "hydra.jb.chdir: no such option. Did you mean hydra.job.chdir?"),
        ("+hydra.jb.chdir=true", "hydra.jb.chdir: no such option. Did you mean hydra.job.chdir?"),
        ("++hydra.job.chdr=true", "hydra.job.chdr: no such option. Did you mean hydra.job.chdir?"),
        ("plugins=mine.py", "plugins=mine.py: expected a list of files, such as plugins=[my_attention.py]."),
    ],
)
def test_a_wrong_override_is_answered_with_the_right_one(overrides, says):
    assert refusal(compose, overrides.split()).startswith(says)


@pytest.mark.parametrize("kind", [kind for kind in PARTS if PARTS[kind].context])
@pytest.mark.parametrize("sign", ["", "+"])
def test_what_the_core_fills_in_cannot_be_set(kind, sign):
    chosen = [f"{kind}={min(offers(kind))}"] if PARTS[kind].optional else []
    for word in sorted(PARTS[kind].context):
        told = refusal(compose, [*chosen, f"{sign}{kind}.{word}=1"])
        assert told == f"{kind}.{word}: is filled in by the core and can't be set."


@pytest.mark.parametrize("group", config_groups())
def test_null_chooses_nothing_of_a_group_of_files(group):
    if group in SETTINGS:
        assert compose([f"{group}=null"])[group] == vars(SETTINGS[group]())
    else:
        assert compose([f"{group}=null", "run_dir=a"]) == compose(["run_dir=a"])


def test_null_is_a_choice_in_a_sweep():
    (override,) = parse(["experiment=null,digits"])
    assert as_hydra_takes_it(override) == "experiment=[],digits"
    (override,) = parse(["trainer.max_steps=null,3"])
    assert as_hydra_takes_it(override) == "trainer.max_steps=null,3"


def test_what_is_left_out_has_its_default():
    whole = compose(["run_dir=a"])
    assert compose(["run_dir=a", "~seed", "~trainer", "~optimizer.lr", "~tokenizer.overlap"]) == whole
    assert check_config(whole) == whole


# ---------------------------------------------------------------------------------------------- configuration files


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "experiment").mkdir()

    def write(text: str) -> str:
        (tmp_path / "experiment" / "theirs.yaml").write_text(f"# @package _global_\n{text}\n")
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("hydra: {callbacks: {theirs: {_target_: shutil.rmtree, path: x}}}", "hydra.callbacks.theirs._target_"),
        ("hydra: {launcher: {_target_: os.system}}", "hydra.launcher._target_"),
        ("hydra: {job: {env_set: {PATH: x}}}", "hydra.job.env_set.PATH"),
        ("hydra: {job_logging: {handlers: {a: {class: os.system}}}}", "hydra.job_logging.handlers.a.class"),
    ],
)
def test_a_configuration_file_makes_hydra_call_nothing(folder, text, key):
    told = refusal(compose, ["experiment=theirs"], folder(text))
    assert told.startswith(f"{key}=")
    assert told.endswith(": a configuration file sets this, and only the command line may.")
    told = refusal(compose, ["experiment=theirs", f"hydra.searchpath=[file://{folder(text)}]"])
    assert told.startswith(f"{key}=")


def test_a_configuration_file_may_say_what_a_sweep_is(folder):
    text = "seed: 7\nhydra: {sweeper: {params: {seed: '1,2'}}, mode: MULTIRUN}"
    assert compose(["experiment=theirs"], folder(text))["seed"] == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("plugins: [a.py]", "plugins=[a.py]: a configuration file lists these"),
        ("tokenizer: {patch_sze: 3}", "tokenizer.patch_sze: no such option of tokenizer=vit_patch. Did you mean "),
        ("tokeniser: {patch_size: 3}", "tokeniser: no such part of a run. Did you mean tokenizer?"),
        ("attention: full", "attention=full: expected options, not a single value. A configuration file chooses"),
        ("seed: 1.5", "seed=1.5: expected an integer."),
    ],
)
def test_a_configuration_file_is_checked_like_overrides(folder, text, says):
    assert refusal(compose, ["experiment=theirs"], folder(text)).startswith(says)


def test_a_folder_of_files_that_is_not_there_is_named(tmp_path):
    missing = str(tmp_path / "missing")
    assert refusal(compose, [], missing) == f"--config-dir {missing}: no such folder."


@pytest.mark.parametrize("flag", ["--config-name", "--config-path", "--experimental-rerun"])
def test_another_composition_cannot_be_slipped_in(flag, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", flag, "theirs"])
    assert capsys.readouterr().err == f"plugformer: {flag}: not possible here. Add files with --config-dir DIR.\n"


# ---------------------------------------------------------------------------------------------- values, names, offers


@pytest.mark.parametrize(
    ("value", "hint", "says"),
    [
        (True, Literal[1, 3], "p=true: expected one of 1, 3."),
        (1.0, Literal[1, 3], "p=1.0: expected one of 1, 3."),
        ("simpel", Literal["simple"] | None, "p=simpel: expected one of simple or null. Did you mean simple?"),
        (["a"], tuple[int, int] | list[int], "p[0]=a: expected an integer."),
    ],
)
def test_of_several_types_none_is_stretched(value, hint, says):
    assert refusal(coerce, value, hint, "p") == says


def test_a_list_is_tried_as_each_type_that_it_could_be():
    assert coerce(["a"], list[int] | list[str], "p") == ["a"]
    assert coerce("2", Literal[1, 2], "p") == 2


@pytest.mark.parametrize(
    ("word", "meant"),
    [("lr", "a.lr"), ("b.lr", "a.lr"), ("b.width", "b.Width"), ("b.lenght", "b.length"), ("a.other", None)],
)
def test_siblings_are_nearer_than_names_elsewhere(word, meant):
    assert nearest(word, ["a", "b", "a.lr", "a.length", "b.length", "b.Width"]) == meant


@pytest.fixture
def packages(monkeypatch):
    """Stands in for what is installed; nothing that a test finds or registers stays."""
    installed = []
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "distributions", lambda: installed)
    monkeypatch.setattr(registry, "_installed", registry._installed.__wrapped__)
    return installed


def test_a_class_that_also_registers_itself_is_offered_once(packages):
    full = find_full(packages)
    assert len(offers("attention")["full"]) == 1
    register("attention", "full")(full)
    assert [plugin.package for plugin in offers("attention")["full"]] == ["theirs"]


def find_full(packages) -> type:
    point = EntryPoint("full", "plugformer.nn.full_attention:Full", "plugformer.attention")
    packages.append(SimpleNamespace(name="theirs", version="1", entry_points=[point]))
    return find("attention", "full").load()


def test_a_package_with_an_unknown_kind_is_told(packages):
    point = EntryPoint("mine", "theirs:Mine", "plugformer.atention")
    packages.append(SimpleNamespace(name="theirs", version="1.2", entry_points=[point]))
    says = r"theirs 1\.2: its plugin mine is not seen\. atention: no such kind of plugin\. Did you mean attention\?"
    with pytest.warns(UserWarning, match=says):
        assert offers("attention") == {}


def test_a_package_with_damaged_metadata_harms_no_other(packages):
    class Damaged:
        name = "damaged"

        @property
        def entry_points(self):
            raise TypeError("not a pair")

    packages.append(Damaged())
    with pytest.warns(UserWarning, match=r"damaged: its entry points can't be read \(not a pair\)"):
        find_full(packages)
