"""Recipes: YAML to typed settings. A mistake is an error that names the line and the nearest key that exists."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from curation.stages import Settings, Stage, stage_class, stage_names


class Source(BaseModel):
    """One source of documents: which files, and which of a record's members mean what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[^/@\s][^/@]*$")
    path: str
    format: Literal["jsonl", "parquet", "huggingface"] | None = None  # None: from the file's suffix
    priority: int = 0  # order of sources, lowest first; then the recipe's order
    text: str = "text"
    id: str | None = None
    subset: str | None = None
    by: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    split: str | None = None  # of a Hugging Face data set
    streaming: bool = False  # read a Hugging Face data set as a stream (it is copied into work/ first)


class Output(BaseModel):
    """How documents are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["parquet", "jsonl.zst"] = "parquet"
    split: dict[Literal["validation", "test"], float] = Field(default_factory=dict)  # shares held out, by keyed hash
    file_bytes: int = Field(224 * 2**20, ge=2**20)  # compressed bytes a file is meant to reach: 128-512 MB suit readers

    @field_validator("split")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        if any(share < 0 for share in value.values()) or sum(value.values()) > 1:
            raise ValueError(f"output.split {value} must hold shares of at least 0 that sum to at most 1")
        return value


class Recipe(BaseModel):
    """A whole recipe; `stages` holds built stage objects."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(42, ge=0, lt=2**64)
    sources: list[Source] = Field(min_length=1)
    stages: list[Any]
    output: Output = Field(default_factory=Output)
    max_bad_fraction: float = Field(0.001, ge=0, le=1)
    max_document_bytes: int = Field(2**25, ge=1024, le=2**31 - 2**20)
    deviations: list[str] = Field(default_factory=list)  # from what the recipe reproduces, shown after a run

    @field_validator("sources")
    @classmethod
    def _names_are_unique(cls, value: list[Source]) -> list[Source]:
        names = [source.name for source in value]
        if len(set(names)) < len(names):
            raise ValueError(f"two sources have the same name: {sorted(n for n in names if names.count(n) > 1)[0]}")
        return value

    @property
    def built(self) -> list[Stage]:
        """The stages, in order."""
        return self.stages

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the output, as plain JSON: for run.json, task keys and the report."""
        plain = self.model_dump(mode="json", exclude={"stages"})
        plain["stages"] = [
            {"name": stage.name, "stage": type(stage).__name__, "version": stage.version, **stage.settings.model_dump(mode="json")}
            for stage in self.built
        ]
        return plain


def shipped_recipes() -> dict[str, str]:
    """The recipes that ship: name -> text of the file."""
    files = resources.files("pipelines").iterdir()
    return {file.name[:-5]: file.read_text() for file in sorted(files, key=lambda f: f.name) if file.name.endswith(".yaml")}


def load_recipe(name_or_path: str, input_path: str | None = None, settings: dict[str, Any] | None = None) -> Recipe:
    """The recipe `name_or_path` (a shipped name or a YAML file) with {input} filled in and `settings` applied.

    `settings` maps "STAGE.KEY" (or "output.KEY", "max_bad_fraction", ...) to a value. Raises ValueError on any mistake.
    """
    shipped = shipped_recipes()
    if name_or_path in shipped:
        text, where = shipped[name_or_path], f"{name_or_path}.yaml"
    elif Path(name_or_path).is_file():
        text, where = Path(name_or_path).read_text(), name_or_path
    else:
        near = _nearest(name_or_path, list(shipped))
        raise ValueError(f"no recipe {name_or_path!r}: neither a file nor one of {', '.join(shipped)}{near}")
    return parse_recipe(text, where, input_path, settings or {})


def parse_recipe(text: str, where: str, input_path: str | None, settings: dict[str, Any]) -> Recipe:
    """A recipe's text, checked; `where` names it in errors."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML: {error}") from None
    lines = _Lines(root, where)
    if not isinstance(plain, dict):
        raise ValueError(f"{where}: a recipe is a mapping with name, sources and stages")
    _check_keys(plain, Recipe, (), lines)
    for index, source in enumerate(_listed(plain, "sources", lines)):
        _check_keys(source, Source, ("sources", index), lines)
        if "{input}" in str(source.get("path", "")):
            if input_path is None:
                raise ValueError(f"{where}: the recipe reads {source['path']!r}: give --input")
            source["path"] = source["path"].replace("{input}", input_path.rstrip("/") or "/")
    _check_keys(plain.get("output") or {}, Output, ("output",), lines)
    stage_entries = [_stage_entry(entry, index, lines) for index, entry in enumerate(_listed(plain, "stages", lines))]
    _apply_settings(plain, stage_entries, settings)
    plain["stages"] = [_build(*entry, lines) for entry in stage_entries]
    names = [stage.name for stage in plain["stages"]]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}: two stages are called {name}; give one of them `as: ANOTHER_NAME`")
    plain["output"] = plain.get("output") or {}
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        raise ValueError(_explain(error, (), lines)) from None


class _Lines:
    """Line numbers of keys, from the composed YAML nodes."""

    def __init__(self, root: yaml.Node | None, where: str) -> None:
        self.root = root
        self.where = where

    def at(self, path: tuple[Any, ...]) -> str:
        node, line = self.root, 1
        for step in path:
            if isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == str(step)]
                if not found:
                    break
                line, node = found[0][0].start_mark.line + 1, found[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                break
        return f"{self.where}, line {line}"


def _listed(plain: dict[str, Any], key: str, lines: _Lines) -> list[Any]:
    value = plain.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{lines.at((key,))}: `{key}` must be a list")
    return value


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, 1, 0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def _check_keys(mapping: Any, model: type[BaseModel], path: tuple[Any, ...], lines: _Lines) -> None:
    if not isinstance(mapping, dict):
        raise ValueError(f"{lines.at(path)}: expected `key: value` pairs, found {mapping!r}")
    known = list(model.model_fields)
    for key in mapping:
        if key not in known:
            near = _nearest(str(key), known) or f"; known keys: {', '.join(known) or 'none'}"
            raise ValueError(f"{lines.at((*path, key))}: unknown key {key!r}{near}")


def _stage_entry(entry: Any, index: int, lines: _Lines) -> tuple[int, str, str, dict[str, Any]]:
    """(index, stage, name, settings) of one item of `stages`."""
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError(f"{lines.at(('stages', index))}: a stage is written `- NAME: {{settings}}`")
    ((stage, given),) = entry.items()
    if stage not in stage_names():
        near = _nearest(str(stage), stage_names()) or f"; known stages: {', '.join(stage_names())}"
        raise ValueError(f"{lines.at(('stages', index, stage))}: unknown stage {stage!r}{near}")
    settings = dict(given or {})
    name = settings.pop("as", stage)
    _check_keys(settings, stage_class(stage).settings_class, ("stages", index, stage), lines)
    return index, stage, name, settings


def _apply_settings(plain: dict[str, Any], stages: list[tuple[int, str, str, dict[str, Any]]], settings: dict[str, Any]) -> None:
    by_name = {name: (stage, given) for _, stage, name, given in stages}
    top = {key for key in Recipe.model_fields if key not in ("name", "sources", "stages", "output")}
    for key, value in settings.items():
        head, _, rest = key.partition(".")
        if head in by_name and rest:
            stage, given = by_name[head]
            known = list(stage_class(stage).settings_class.model_fields)
            if rest not in known:
                near = _nearest(rest, known) or f"; known keys: {', '.join(known) or 'none'}"
                raise ValueError(f"--set {key}: {head} has no setting {rest!r}{near}")
            given[rest] = value
        elif head == "output" and rest.split(".")[0] in Output.model_fields:
            target = plain.setdefault("output", {})
            *parents, last = rest.split(".")
            for parent in parents:
                target = target.setdefault(parent, {})
            target[last] = value
        elif key in top:
            plain[key] = value
        else:
            choices = [f"{name}.{field}" for name, (stage, _) in by_name.items() for field in stage_class(stage).settings_class.model_fields]
            near = _nearest(key, choices + sorted(top)) or f"; settings are STAGE.KEY with STAGE one of {', '.join(by_name)}"
            raise ValueError(f"--set {key}: no such setting{near}")


def _build(index: int, stage: str, name: str, given: dict[str, Any], lines: _Lines) -> Stage:
    cls = stage_class(stage)
    try:
        settings: Settings = cls.settings_class.model_validate(given)
    except ValidationError as error:
        raise ValueError(_explain(error, ("stages", index, stage), lines)) from None
    return cls(name, settings)


def _explain(error: ValidationError, path: tuple[Any, ...], lines: _Lines) -> str:
    first = error.errors()[0]
    location = (*path, *first["loc"])
    field = ".".join(str(step) for step in location if step != "stages")
    shown = f" (got {first['input']!r})" if first["type"] != "missing" and not isinstance(first["input"], dict) else ""
    return f"{lines.at(location)}: {field}: {first['msg'].removeprefix('Value error, ')}{shown}"
