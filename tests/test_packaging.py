"""What is installed is what runs here."""

import configparser
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).parents[1]


def test_every_folder_with_modules_is_packaged():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    include = settings["options.packages.find"]["include"].split()
    packaged = set(find_packages(str(ROOT), include=include))
    folders = {path.parent.relative_to(ROOT) for top in ("curation", "pipelines") for path in (ROOT / top).rglob("*.py")}
    assert packaged == {".".join(folder.parts) for folder in folders}
