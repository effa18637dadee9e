"""The pages in docs/ and the README name what is there."""

import re
from pathlib import Path

import pytest

from curation.engine.recipe import Output, Recipe, Source
from curation.stages import stage_class, stage_names

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/recipes.md").read_text()


@pytest.mark.parametrize("model", [Recipe, Source, Output, *(stage_class(name).settings_class for name in stage_names())])
def test_every_key_of_a_recipe_is_documented(model):
    assert [key for key in model.model_fields if f"`{key}`" not in PAGE] == []


@pytest.mark.parametrize(
    "page", ["README.md", "docs/recipes.md", "docs/bad-inputs.md", "docs/questions.md", "benchmarks/README.md"]
)
def test_links_and_test_files_that_a_page_names_exist(page):
    text = (ROOT / page).read_text()
    named = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"\btests/[\w/]+\.py\b", text)
    missing = [name for name in named if not ((ROOT / page).parent / name).exists() and not (ROOT / name).exists()]
    assert missing == []
