"""The repository is what its README and its configuration say it is."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tree() -> list[str]:
    """The paths of the README's tree below its first line, folders with a slash at the end."""
    blocks = re.findall(
        r"^```[^\n]*\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    (block,) = [block for block in blocks if "pyproject.toml" in block and "platform/" in block]
    _, *lines = block.splitlines()
    paths, parents = [], []
    for line in lines:
        assert re.fullmatch(r"( {2})+\S+ +\S.*", line), f"no caption: {line}"
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        parents = [*parents[:depth], line.split()[0]]
        assert len(parents) == depth + 1, f"no parent: {line}"
        paths.append("".join(parents))
    return paths


def known_to_git() -> set[str]:
    """Every file and folder that a clone has or, once committed, will have."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    folders = {f"{parent.as_posix()}/" for file in files for parent in file.parents if parent.name}
    return folders | {file.as_posix() for file in files}


def in_process(code: str, cwd: Path) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, timeout=120).stdout


def test_everything_in_the_readme_tree_exists():
    paths = tree()
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path


def test_the_readme_tree_leaves_nothing_out():
    """Wherever it goes into a folder, it names all that is there but hidden files."""
    paths = tree()
    opened = {"", *(f"{Path(path).parent.as_posix()}/" for path in paths if Path(path).parent.name)}
    assert {"", "platform/", "platform/plugformer/", "plugins/"} <= opened
    for path in known_to_git():
        parent = f"{Path(path).parent.as_posix()}/" if Path(path).parent.name else ""
        if parent in opened and not Path(path).name.startswith("."):
            assert path in paths


def test_platform_is_still_the_standard_library_module():
    answer = in_process("import platform; print(platform.__file__, platform.system())", ROOT)
    assert Path(answer.split()[0]).parent == Path(os.__file__).parent
    assert not [path for root in ("platform", "plugins") for path in (ROOT / root).glob("*.py")]
    assert not [path for path in (ROOT / "platform").rglob("*.py") if re.match(r"conftest|test_", path.name)]
    assert not (ROOT / "platform" / "hydra_plugins" / "__init__.py").exists()


def test_the_core_names_no_plugin_package():
    packages = [folder.name for folder in (ROOT / "plugins").iterdir() if (folder / "__init__.py").exists()]
    assert packages
    for path in (ROOT / "platform").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [name for name in packages if name in text], path


def test_import_contracts_hold():
    command = Path(sys.executable).with_name("lint-imports")
    linted = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert linted.returncode == 0, linted.stdout


def test_constraints_pin_whatever_the_project_depends_on():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {}
    for line in filter(None, lines):
        name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9._!+-]+)", line).groups()
        pinned[canonicalize_name(name)] = version
    extras = PROJECT["project"]["optional-dependencies"].values()
    for text in [*PROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)]:
        needed = Requirement(text)
        assert needed.specifier.contains(pinned[canonicalize_name(needed.name)]), text


def test_configuration_files_are_found_from_anywhere(tmp_path):
    found = in_process("from plugformer.conf_dir import conf_dir; print(conf_dir())", tmp_path)
    assert (Path(found.strip()) / "config.yaml").is_file()


def test_the_wheel_holds_all_that_a_run_needs(tmp_path):
    hatchling = pytest.importorskip("hatchling.builders.wheel")
    (wheel,) = hatchling.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    kinds = ("*.py", "*.js", "*.css")
    sources = [path for root in ("platform", "plugins") for kind in kinds for path in (ROOT / root).rglob(kind)]
    shipped = {path.relative_to(ROOT).as_posix().partition("/")[2] for path in sources}
    shipped |= {f"plugformer/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    code = {name for name in held if ".dist-info/" not in name}
    assert code == shipped
    assert "hydra_plugins/__init__.py" not in held
    assert "plugformer/conf/config.yaml" in held
