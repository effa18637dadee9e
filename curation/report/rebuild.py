"""How a run is repeated: its resolved recipe as the YAML that `curate run` reads, and the command."""

from __future__ import annotations

import glob
import shlex
from typing import Any

import yaml

_ADDED = ("name", "stage", "version", "versions", "code")  # to a stage's settings, by what describes a run


def recipe_yaml(recipe: dict[str, Any], input_path: str | None) -> str:
    """A resolved recipe (run.json's) as a recipe's file: it resolves to the same again, with {input} where the input lay."""
    plain = {key: value for key, value in recipe.items() if key not in ("sources", "stages")}
    sources = [_without_nothing({**source, "path": _placed(source["path"], input_path)}) for source in recipe["sources"]]
    stages = []
    for stage in recipe["stages"]:
        settings = {key: value for key, value in stage.items() if key not in _ADDED}
        name = {} if stage["name"] == stage["stage"] else {"as": stage["name"]}
        stages.append({stage["stage"]: {**name, **settings}})
    content = {"name": plain.pop("name"), "seed": plain.pop("seed"), "sources": sources, "stages": stages}
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 110, "default_flow_style": None}
    return str(yaml.dump({**content, **_without_nothing(plain)}, Dumper=_PlainDumper, **options))


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors, which recipes refuse."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _without_nothing(mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value not in (None, {}, [])}


def _placed(path: str, input_path: str | None) -> str:
    """The path with {input} for the input's place, written as a recipe has it or with its glob characters escaped."""
    if input_path is None:
        return path
    for place in (input_path.rstrip("/"), glob.escape(input_path).rstrip("/")):
        if place and (path == place or path.startswith(place + "/")):
            return "{input}" + path[len(place) :]
    return path


def rebuild_command(run: dict[str, Any]) -> str:
    """The command that repeats the run of `run` (run.json) once its recipe is in recipe.yaml; into another folder."""
    input_path, recipe = run["input"]["path"], run["recipe"]
    arguments = ["curate", "run", "recipe.yaml"]
    if input_path is not None and any("{input}" in _placed(source["path"], input_path) for source in recipe["sources"]):
        arguments += ["--input", input_path]
    arguments += ["--output", "rebuilt"]
    if run["limit"] is not None:
        arguments += ["--limit", str(run["limit"])]
    return shlex.join(arguments)


def uses_files(recipe: dict[str, Any]) -> list[dict[str, str]]:
    """The Python files that stages of one's own read: {"stage", "file", "sha256"} each; a rebuild needs them too."""
    return [
        {"stage": stage["name"], "file": stage["file"], "sha256": stage["versions"].get("file_sha256", "not recorded")}
        for stage in recipe["stages"]
        if stage["stage"] == "python"
    ]
