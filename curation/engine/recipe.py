"""Recipes: YAML to typed settings. A mistake is an error that names the line and the nearest key that exists."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from curation import storage
from curation.documents import RESERVED_COLUMNS
from curation.stages import Settings, Stage, stage_class, stage_names
from curation.stages.python import UserCodeError

_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Source(BaseModel):
    """One source of documents: which files, and which of a record's members mean what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[^/@\s\x00-\x1f][^/@\x00-\x1f]*$")
    path: str
    format: Literal["jsonl", "parquet", "huggingface"] | None = None  # None: from the file's suffix
    priority: int = Field(0, ge=-(2**31), lt=2**31)  # order of sources, lowest first; then the recipe's order
    text: str = "text"
    id: str | None = None
    subset: str | None = None
    by: str | None = None
    columns: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(default_factory=dict)
    split: str | None = None  # of a Hugging Face data set
    streaming: bool = False  # read a Hugging Face data set as a stream (it is copied into work/ first)
    license: str | None = Field(None, min_length=1, max_length=200)  # for the data card; None: unknown

    @field_validator("columns")
    @classmethod
    def _own_names(cls, value: dict[str, str]) -> dict[str, str]:
        taken = sorted(set(value) & RESERVED_COLUMNS)
        if taken:
            raise ValueError(f"{taken[0]!r} is a column that every document has; choose another name")
        return value

    @model_validator(mode="after")
    def _data_set_options(self) -> Source:
        if (self.split is not None or self.streaming) and self.format != "huggingface":
            raise ValueError(f"source {self.name}: `split` and `streaming` belong to `format: huggingface`")
        return self


class Output(BaseModel):
    """How documents are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["parquet", "jsonl.zst"] = "parquet"
    split: dict[Literal["validation", "test"], float] = Field(default_factory=dict)  # shares held out, by keyed hash
    file_bytes: int = Field(default=224 * 2**20, ge=2**20)  # compressed bytes that a file is meant to reach

    @field_validator("split")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(0 <= share <= 1 for share in value.values()) or sum(value.values()) > 1:
            raise ValueError(f"shares must be at least 0 and sum to at most 1, not {value}")
        return value


class Published(BaseModel):
    """Figures that somebody published for the same job, to stand beside ours where the input is comparable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    # Of each source: documents of the published input, and the share of its bytes that were removed as duplicates.
    sources: dict[str, tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0, le=1)]]]
    overall: float = Field(ge=0, le=1)  # that share over all sources


class Recipe(BaseModel):
    """A whole recipe; `stages` holds built stage objects."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(42, ge=0, lt=2**64)
    sources: list[Source] = Field(min_length=1)
    stages: list[Any]
    output: Output = Output()
    max_bad_fraction: float = Field(0.001, ge=0, le=1)
    max_document_bytes: int = Field(2**25, ge=1024, le=2**31 - 2**20)
    deviations: list[str] = Field(default_factory=list)  # from what the recipe reproduces, shown after a run
    published: Published | None = None

    @field_validator("sources")
    @classmethod
    def _names_are_unique(cls, value: list[Source]) -> list[Source]:
        names = [source.name for source in value]
        if len(set(names)) < len(names):
            raise ValueError(f"two sources have the same name: {sorted(n for n in names if names.count(n) > 1)[0]}")
        return value

    @field_validator("stages")
    @classmethod
    def _annotates_once(cls, value: list[Stage]) -> list[Stage]:
        annotating = [stage.name for stage in value if getattr(stage.settings, "action", "") == "annotate"]
        if len(annotating) > 1:
            raise ValueError(f"{' and '.join(annotating)} would write the same columns; only one stage may annotate")
        return value

    @property
    def built(self) -> list[Stage]:
        """The stages, in order."""
        return self.stages

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the output, as plain JSON: for run.json, task keys and the report."""
        plain = self.model_dump(mode="json", exclude={"stages"})
        plain["stages"] = [stage.recorded() for stage in self.built]
        return plain


def shipped_recipes() -> dict[str, str]:
    """The recipes that ship: name -> text of the file."""
    files = [file for file in resources.files("pipelines").iterdir() if file.name.endswith(".yaml")]
    named = {file.name.removesuffix(".yaml"): file for file in files}
    return {name: named[name].read_text(encoding="utf-8") for name in sorted(named)}


def load_recipe(
    recipe: str | Mapping[str, Any], input_path: str | None = None, settings: dict[str, Any] | None = None
) -> Recipe:
    """The recipe `recipe` (a shipped name, a YAML file, or its content as Python data) with {input} and `settings` applied.

    `settings` maps "STAGE.KEY" (or "output.KEY", "max_bad_fraction", ...) to a value. Raises ValueError on any mistake.
    """
    if isinstance(recipe, Mapping):
        return _checked(_as_read_from_yaml(recipe, ()), _Keys(None, "the recipe"), input_path, settings or {})
    name_or_path = recipe
    shipped = shipped_recipes()
    if name_or_path in shipped:
        text, where = shipped[name_or_path], f"{name_or_path}.yaml"
    elif Path(name_or_path).is_file():
        try:
            text, where = Path(name_or_path).read_text(encoding="utf-8"), name_or_path
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{name_or_path}: the recipe cannot be read: {error}") from None
    else:
        near = _nearest(name_or_path, list(shipped))
        raise ValueError(f"no recipe {name_or_path!r}: neither a file nor one of {', '.join(shipped)}{near}")
    return parse_recipe(text, where, input_path, settings or {})


def parse_recipe(text: str, where: str, input_path: str | None, settings: dict[str, Any]) -> Recipe:
    """A recipe's text, checked; `where` names it in errors."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        plain = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{where}{line}: not valid YAML: {error.problem or error.context}") from None
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply for a recipe") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML: {error}") from None
    lines = _Lines(root, where)
    if not isinstance(plain, dict):
        raise ValueError(f"{where}: a recipe is a mapping with name, sources and stages")
    _refuse_repeated_keys(root, where, set())
    return _checked(plain, lines, input_path, settings)


def _checked(plain: dict[str, Any], lines: _Lines, input_path: str | None, settings: dict[str, Any]) -> Recipe:
    """The recipe with the content `plain`, which is changed on the way; `lines` says where a key stands."""
    _check_keys(plain, Recipe, (), lines)
    _check_sources(plain, input_path, lines)
    if plain.get("published") is not None:
        _check_keys(plain["published"], Published, ("published",), lines)
    plain["output"] = plain.get("output") or {}
    _check_keys(plain["output"], Output, ("output",), lines)
    entries = [_stage_entry(entry, index, lines) for index, entry in enumerate(_listed(plain, "stages", lines))]
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            raise ValueError(
                f"{lines.at(entry.path)}: two stages are called {entry.name}; give one of them `as: ANOTHER_NAME`"
            )
    _apply_settings(plain, entries, settings)
    plain["stages"] = [_build(entry, lines, settings) for entry in entries]
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        raise ValueError(_explain(error, (), "", lines, settings)) from None


def _check_sources(plain: dict[str, Any], input_path: str | None, lines: _Lines) -> None:
    """Check the keys of every source, and fill {input} in."""
    sources = _listed(plain, "sources", lines)
    uses_input = False
    for index, source in enumerate(sources):
        _check_keys(source, Source, ("sources", index), lines)
        path = source.get("path")
        if isinstance(path, str) and "{input}" in path:
            if input_path is None:
                raise ValueError(f"{lines.where}: the recipe reads {path!r}: give --input")
            # An existing folder is meant as it is written, even with a `[` in its name.
            place = input_path if storage.is_pattern(input_path) or storage.is_remote(input_path) else glob.escape(input_path)
            alone = path == "{input}"
            source["path"] = path.replace("{input}", (input_path if alone else place).rstrip("/")) or "/"
            uses_input = True
    if input_path is not None and not uses_input:
        raise ValueError(
            f"{lines.where}: no source reads {{input}}, so that --input {input_path} has no meaning; leave it out"
        )


@dataclass
class _StageEntry:
    """One item of `stages`: which stage, under which name, with which settings; `path` leads to it in the YAML."""

    path: tuple[Any, ...]
    stage: str
    name: str
    given: dict[str, Any]

    @property
    def known(self) -> list[str]:
        """The settings that the stage has."""
        return list(stage_class(self.stage).settings_class.model_fields)


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


class _Keys(_Lines):
    """Places in a recipe that is Python data."""

    def at(self, path: tuple[Any, ...]) -> str:
        steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path]
        return ": ".join(filter(None, [self.where, "".join(steps).lstrip(".")]))


def _as_read_from_yaml(value: Any, path: tuple[Any, ...]) -> Any:
    """A copy of Python data with the types that YAML has. ValueError where there is no such type."""
    if isinstance(value, Mapping):
        return {str(key): _as_read_from_yaml(one, (*path, str(key))) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_read_from_yaml(one, (*path, index)) for index, one in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{_Keys(None, 'the recipe').at(path)}: {value!r} is nothing that a recipe can hold")


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


def _refuse_repeated_keys(node: yaml.Node | None, where: str, met: set[int]) -> None:
    """YAML readers keep the last of two equal keys without a word; and aliases can make a small file endless."""
    if node is None:
        return
    if id(node) in met:
        raise ValueError(f"{where}, line {node.start_mark.line + 1}: anchors and aliases are not read; write it out")
    met.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(child, where, met)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ValueError(f"{where}, line {key.start_mark.line + 1}: {key.value!r} is given twice")
                seen.add(key.value)
            _refuse_repeated_keys(value, where, met)


def _stage_entry(entry: Any, index: int, lines: _Lines) -> _StageEntry:
    """One item of `stages`, its keys checked."""
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError(f"{lines.at(('stages', index))}: a stage is written `- NAME: {{settings}}`")
    ((stage, given),) = entry.items()
    path = ("stages", index, stage)
    if stage not in stage_names():
        near = _nearest(str(stage), stage_names()) or f"; known stages: {', '.join(stage_names())}"
        raise ValueError(f"{lines.at(path)}: unknown stage {stage!r}{near}")
    if not isinstance(given, dict | None):
        raise ValueError(f"{lines.at(path)}: the settings of {stage} are `key: value` pairs, not {given!r}")
    settings = dict(given or {})
    if stage == "python" and isinstance(settings.get("file"), str):
        settings["file"] = os.path.abspath(os.path.join(os.path.dirname(lines.where), settings["file"]))  # beside the recipe
    name = settings.pop("as", stage)
    if not isinstance(name, str) or not _STAGE_NAME.fullmatch(name):
        raise ValueError(f"{lines.at((*path, 'as'))}: as: {name!r} is no name; use letters, digits, - and _")
    _check_keys(settings, stage_class(stage).settings_class, path, lines)
    return _StageEntry(path, stage, name, settings)


def _apply_settings(plain: dict[str, Any], entries: list[_StageEntry], settings: dict[str, Any]) -> None:
    """Put `settings` where they belong in the recipe."""
    by_name = {entry.name: entry for entry in entries}
    top = sorted(set(Recipe.model_fields) - {"name", "sources", "stages", "output"})
    for key, value in settings.items():
        head, _, rest = key.partition(".")
        if head in by_name and rest:
            entry = by_name[head]
            outer, _, inner = rest.partition(".")
            if entry.stage == "python" and outer == "settings" and inner:
                entry.given[outer] = {**(entry.given.get(outer) or {}), inner: value}
                continue
            if rest not in entry.known:
                near = _nearest(rest, entry.known) or f"; known keys: {', '.join(entry.known) or 'none'}"
                raise ValueError(f"--set {key}: {head} has no setting {rest!r}{near}")
            entry.given[rest] = value
        elif head == "output" and rest in Output.model_fields:
            plain["output"][rest] = value
        elif head == "output" and rest in ("split.validation", "split.test"):
            split = rest.removeprefix("split.")
            plain["output"]["split"] = {**(plain["output"].get("split") or {}), split: value}
        elif key in top:
            plain[key] = value
        else:
            choices = [f"{entry.name}.{field}" for entry in entries for field in entry.known]
            choices += [f"output.{field}" for field in Output.model_fields]
            near = _nearest(key, choices + top) or f"; settings are STAGE.KEY with STAGE one of {', '.join(by_name)}"
            raise ValueError(f"--set {key}: no such setting{near}")


def _build(entry: _StageEntry, lines: _Lines, settings: dict[str, Any]) -> Stage:
    cls = stage_class(entry.stage)
    try:
        checked: Settings = cls.settings_class.model_validate(entry.given)
    except ValidationError as error:
        raise ValueError(_explain(error, entry.path, entry.name, lines, settings)) from None
    try:
        return cls(entry.name, checked)
    except UserCodeError as error:
        field = ".".join([entry.name, *error.setting])
        where = f"--set {field}" if field in settings else lines.at((*entry.path, *error.setting))
        raise ValueError(f"{where}: {'' if field in settings else f'{field}: '}{error}") from None


def _explain(error: ValidationError, path: tuple[Any, ...], stage: str, lines: _Lines, settings: dict[str, Any]) -> str:
    """The first mistake: where it is (a line of the recipe, or a setting given beside it), what it is, its value."""
    first = error.errors()[0]
    location = [step for step in first["loc"] if "[" not in str(step) and step not in ("str", "int", "float")]
    field = ".".join(map(str, ([stage] if stage else []) + location))
    given = next((key for key in settings if field == key or field.startswith(f"{key}.")), None)
    where = f"--set {given}" if given else f"{lines.at((*path, *location))}: {field}" if field else lines.at(path)
    shown = f" (got {first['input']!r})" if first["type"] != "missing" and not isinstance(first["input"], dict) else ""
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{shown}"
