"""What is given away as source: packages, what their README points to, nothing by chance."""

import shutil
import subprocess
import sys
import tarfile

from tests.house.test_house import ROOT, tracked_files

BUILD = "from setuptools import build_meta; build_meta.build_sdist('dist')"
# Made by setuptools of what `pyproject.toml` says.
MADE = {"PKG-INFO", "setup.cfg"}
BESIDES = {"README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in", "pyproject.toml"}


def test_an_sdist_holds_the_packages_what_their_readme_points_to_and_nothing_else(tmp_path):
    tree = tmp_path / "tree"
    tracked = {path.relative_to(ROOT).as_posix() for path in tracked_files()}
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)

    subprocess.run([sys.executable, "-c", BUILD], cwd=tree, check=True, capture_output=True)

    [archive] = (tree / "dist").glob("dledger-*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {each.name.split("/", 1)[1] for each in opened if each.isfile()}
    found = {name for name in names if not name.startswith("dledger.egg-info/")} - MADE
    folders = ("broker/", "dledger/", "docs/", "examples/")
    assert found == BESIDES | {name for name in tracked if name.startswith(folders)}
    assert {"broker/store/_columns.pyx", "broker/store/_sends.pxi"} <= found
