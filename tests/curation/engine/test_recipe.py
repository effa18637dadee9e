"""Recipes: a mistake names its line and what was probably meant; what is accepted is what runs."""

import pytest

from curation.engine.recipe import load_recipe, parse_recipe, shipped_recipes

RECIPE = """\
name: mine
sources:
  - name: web
    path: "{input}/web/*.jsonl"
stages:
  - normalize: {scheme: ftfy_nfc}
  - length: {minimum_characters: 200}
  - exact
  - minhash:
      ngram: 13
      bands: 9
output:
  split: {validation: 0.01, test: 0.01}
"""


def parse(text=RECIPE, input_path="data", **settings):
    return parse_recipe(
        text, "mine.yaml", input_path, {key.replace("__", "."): value for key, value in settings.items()}
    )


def stages(recipe):
    return {stage.name: stage.settings for stage in recipe.built}


def test_a_recipe_without_mistakes_is_read_with_the_defaults_of_its_stages():
    recipe = parse()
    assert [stage.name for stage in recipe.built] == ["normalize", "length", "exact", "minhash"]
    assert recipe.sources[0].path == "data/web/*.jsonl"
    assert (stages(recipe)["minhash"].rows, recipe.max_bad_fraction) == (13, 0.001)


MISTAKES = [
    ("ngram: 13", "ngrams: 13", "mine.yaml, line 10: unknown key 'ngrams'; did you mean 'ngram'?"),
    ("minhash:", "minhsh:", "mine.yaml, line 9: unknown stage 'minhsh'; did you mean 'minhash'?"),
    ("    path:", "    pth:", "mine.yaml, line 4: unknown key 'pth'; did you mean 'path'?"),
    ("output:", "outputs:", "mine.yaml, line 12: unknown key 'outputs'; did you mean 'output'?"),
    ("  split:", "  splits:", "mine.yaml, line 13: unknown key 'splits'; did you mean 'split'?"),
    ("{scheme: ftfy_nfc}", "{banana: 1}", "line 6: unknown key 'banana'; known keys: scheme"),
    ("ngram: 13", "ngram: 0", "line 10: minhash.ngram: Input should be greater than or equal to 1 (got 0)"),
    ("bands: 9", "bands: 99", "line 9: minhash: bands x rows = 1287 is more than permutations = 128"),
    ("bands: 9", "keep: frist", "line 11: minhash.keep: keep: 'frist' is none of first, longest"),
    ("bands: 9", "keep: 5", "line 11: minhash.keep: Input should be a valid string (got 5)"),
    ("validation: 0.01", "validation: 2", "line 13: output.split: shares must be at least 0 and sum to at most 1"),
    ("validation: 0.01", "valid: 0.01", "line 13: output.split.valid: Input should be 'validation' or 'test'"),
    (
        "  - exact\n",
        "  - exact\n  - exact\n",
        "line 8: two stages are called exact; give one of them `as: ANOTHER_NAME`",
    ),
    ("  - exact\n", "  - exact: [1]\n", "line 8: the settings of exact are `key: value` pairs, not [1]"),
    ("  - exact\n", "  - 7\n", "line 8: a stage is written `- NAME: {settings}`"),
    ("  - exact\n", "  - exact: {as: 'a.b'}\n", "line 8: as: 'a.b' is no name"),
    ("bands: 9", "ngram: 9", "line 11: 'ngram' is given twice"),
    ("name: web", "name: a/b", "line 3: sources.0.name: String should match pattern"),
    ("name: mine\n", "", "name: Field required"),
    ("name: mine\n", "name: [\n", "mine.yaml, line 3: not valid YAML"),
    ("stages:", "stages: none\nseed:", "`stages` must be a list"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES, ids=[wrong.strip() for _, wrong, _ in MISTAKES])
def test_a_mistake_is_an_error_that_names_the_line_and_the_remedy(right, wrong, message):
    assert right in RECIPE
    with pytest.raises(ValueError) as caught:
        parse(RECIPE.replace(right, wrong, 1))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "just words", "3", "- a\n- b", "\0", "&a [*a]", "name: {a: b}"])
def test_what_is_no_recipe_at_all_is_an_error_of_one_line(text):
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        parse(text)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("minhash.ngrams", 5, "--set minhash.ngrams: minhash has no setting 'ngrams'; did you mean 'ngram'?"),
        ("minhsh.ngram", 5, "--set minhsh.ngram: no such setting; did you mean 'minhash.ngram'?"),
        ("minhash.ngram", 0, "--set minhash.ngram: Input should be greater than or equal to 1 (got 0)"),
        ("minhash.keep", ["longest", "frist"], "--set minhash.keep: keep: 'frist' is none of"),
        ("output.fromat", "parquet", "--set output.fromat: no such setting; did you mean 'output.format'?"),
        ("output.format", "csv", "--set output.format: Input should be 'parquet' or 'jsonl.zst' (got 'csv')"),
        ("output.split.validation", 2, "shares must be at least 0"),
        ("max_bad_fracton", 0.1, "did you mean 'max_bad_fraction'?"),
        ("name", "other", "--set name: no such setting"),
        ("exact.x", 1, "exact has no setting 'x'; known keys: none"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(key, value, message):
    with pytest.raises(ValueError) as caught:
        parse_recipe(RECIPE, "mine.yaml", "data", {key: value})
    assert message in str(caught.value)


def test_settings_reach_stages_output_and_the_recipe_itself():
    recipe = parse(
        minhash__keep=["longest", "first"], output__format="jsonl.zst", output__split__test=0.5, max_bad_fraction=0.25
    )
    assert stages(recipe)["minhash"].keep_rules == ["longest", "first"]
    assert recipe.output.format == "jsonl.zst"
    assert recipe.output.split == {"validation": 0.01, "test": 0.5}
    assert recipe.max_bad_fraction == 0.25


def test_settings_reach_a_recipe_whose_output_is_empty():
    text = RECIPE.replace("  split: {validation: 0.01, test: 0.01}\n", "")
    assert parse(text, output__split__test=0.5).output.split == {"test": 0.5}


def test_a_stage_used_twice_is_set_by_the_name_that_it_was_given():
    twice = RECIPE.replace("  - exact\n", "  - length: {as: longer}\n")
    settings = stages(parse(twice, longer__minimum_characters=500))
    assert (settings["length"].minimum_characters, settings["longer"].minimum_characters) == (200, 500)


def test_input_is_asked_for_when_a_source_reads_it_and_refused_when_none_does():
    with pytest.raises(ValueError, match="give --input"):
        parse(input_path=None)
    fixed = RECIPE.replace("{input}", "/data")
    assert parse(fixed, input_path=None).sources[0].path == "/data/web/*.jsonl"
    with pytest.raises(ValueError, match="leave it out"):
        parse(fixed, input_path="data")


@pytest.mark.parametrize(
    ("input_path", "path"),
    [("my data/", "my data/web/*.jsonl"), ("/", "/web/*.jsonl"), ("s3://bucket/a//", "s3://bucket/a/web/*.jsonl")],
)
def test_input_is_filled_in_as_a_path(input_path, path):
    assert parse(input_path=input_path).sources[0].path == path


def test_an_unknown_recipe_names_those_that_ship_and_the_nearest():
    with pytest.raises(ValueError) as caught:
        load_recipe("slimpajama-relesed")
    assert "did you mean 'slimpajama-released'?" in str(caught.value)
    assert "slimpajama-verified" in str(caught.value)


def test_a_recipe_file_that_is_not_text_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ValueError, match=r"recipe\.yaml: the recipe cannot be read"):
        load_recipe(str(path))


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_recipe_that_ships_says_its_own_name_fits_one_screen_and_states_every_setting_that_differs(name):
    text = shipped_recipes()[name]
    recipe = load_recipe(name, "data")
    assert recipe.name == name
    assert len(text.splitlines()) <= 50
    assert max(map(len, text.splitlines())) <= 120
    assert recipe.deviations
    settings = stages(recipe)["minhash"]
    stated = {"unit", "ngram", "permutations", "bands", "rows", "seed", "scheme", "keep", "verify"}
    assert stated <= settings.model_fields_set
    assert settings.model_dump(exclude=settings.model_fields_set) == type(settings)().model_dump(
        exclude=settings.model_fields_set
    )


def test_the_recipes_that_ship_hold_the_published_constants():
    for name in shipped_recipes():
        recipe = load_recipe(name, "data")
        settings = stages(recipe)
        assert settings["length"].minimum_characters == 200
        assert (settings["minhash"].unit, settings["minhash"].ngram, settings["minhash"].seed) == ("character", 13, 1)
        assert sum(recipe.output.split.values()) == pytest.approx(0.0017)
        assert [source.name for source in sorted(recipe.sources, key=lambda source: source.priority)] == [
            "commoncrawl", "c4", "github", "book", "arxiv", "wikipedia", "stackexchange",
        ]  # fmt: skip
    bands = {name: stages(load_recipe(name, "data"))["minhash"] for name in shipped_recipes()}
    assert (bands["slimpajama"].bands, bands["slimpajama"].rows) == (9, 13)
    released = bands["slimpajama-released"]
    assert (released.bands, released.rows, released.scheme, released.bridge_removed) == (9, 13, "legacy", True)
    verified = bands["slimpajama-verified"]
    assert (verified.verify, verified.threshold) == ("exact", 0.8)
    assert 1 - (1 - verified.threshold**verified.rows) ** verified.bands >= 0.99


HEAD = "name: small\nsources: [{name: a, path: x.jsonl%s}]\nstages: [%s]\n"


@pytest.mark.parametrize("name", ["id", "rank", "text", "meta", "n_duplicates", "is_kept"])
def test_a_lifted_column_may_not_replace_one_that_every_document_has(name):
    with pytest.raises(ValueError, match=f"'{name}' is a column that every document has"):
        parse_recipe(HEAD % (f", columns: {{{name}: meta.k}}", "exact: {}"), "small.yaml", None, {})


def test_only_one_stage_may_annotate():
    stages = "minhash: {action: annotate}, minhash: {as: again, action: annotate}"
    with pytest.raises(ValueError, match="minhash and again would write the same columns"):
        parse_recipe(HEAD % ("", stages), "small.yaml", None, {})


@pytest.mark.parametrize(("settings", "idle"), [("threshold: 0.9", True), ("threshold: 0.9, verify: exact", False), ("", False)])
def test_a_threshold_that_changes_nothing_is_remarked(settings, idle):
    recipe = parse_recipe(HEAD % ("", f"minhash: {{{settings}}}"), "small.yaml", None, {})
    assert ("has no effect" in str(recipe.built[0].settings.remark)) == idle


def test_aliases_are_refused_before_they_can_grow():
    bomb = "name: &a [x]\n" + "".join(f"k{n}: &b{n} [*a, *a]\n" for n in range(3))
    with pytest.raises(ValueError, match=r"line \d+: anchors and aliases are not read"):
        parse_recipe(bomb, "bomb.yaml", None, {})
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_recipe("name: " + "[" * 5000, "deep.yaml", None, {})


def test_shares_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="shares must be at least 0"):
        parse_recipe(HEAD % ("", "exact: {}"), "small.yaml", None, {"output.split.test": float("nan")})
