"""A wrong recipe is refused with the file, the key, the value and the nearest right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from imglish.errors import RecipeError
from imglish.recipe import Recipe, Section, content_fields, load_recipe, make_recipe

SOURCE = {"name": "a", "format": "folder", "kind": "pair", "path": "x"}
MINIMAL = {"name": "x", "source": [SOURCE]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            MINIMAL | {"train": {"leraning_rate": 1.0}},
            "unknown key train.leraning_rate; did you mean train.learning_rate?",
        ),
        (MINIMAL | {"sead": 1}, "unknown key sead; did you mean seed?"),
        (
            {"name": "x", "source": [SOURCE | {"lisence": "MIT"}]},
            "unknown key source.0.lisence; did you mean source.0.licence?",
        ),
        (
            {"name": "x", "source": [SOURCE | {"kind": "pear"}]},
            "source.0.kind = 'pear': Input should be 'pair', 'image' or 'text'",
        ),
        ({"name": "x", "source": [SOURCE, SOURCE]}, "two sources are called 'a'; give each its own name"),
        ({"name": "x"}, "missing key source"),
        ({"name": "x", "source": []}, "source: Tuple should have at least 1 item"),
        (MINIMAL | {"decide": {"validation_share": 1.5}}, "decide.validation_share = 1.5: Input should be less than 1"),
        (MINIMAL | {"tokenize": {"visual": {"size": 100}}}, "tokenize.visual: size 100 is not a multiple of patch 16"),
        (MINIMAL | {"seed": "1"}, "seed = '1': Input should be a valid integer"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe(values, "r.toml")
    assert said in str(caught.value) and str(caught.value).startswith("r.toml: ")


def test_overrides_are_toml_values_or_plain_words(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('name = "x"\n[[source]]\nname = "a"\nformat = "folder"\nkind = "pair"\npath = "x"\n')
    recipe = load_recipe(
        file, ["seed=3", "train.learning_rate=0.5", "version=two", 'decide.rule.language.languages=["de","fr"]']
    )
    assert (recipe.seed, recipe.train.learning_rate, recipe.version) == (3, 0.5, "two")
    assert recipe.decide.rule == {"language": {"languages": ("de", "fr")}}
    assert (recipe.root, recipe.work) == (str(tmp_path), str(tmp_path / "corpus"))
    with pytest.raises(RecipeError, match="'seed' is not key=value"):
        load_recipe(file, ["seed"])
    with pytest.raises(RecipeError, match="name is not a section"):
        load_recipe(file, ["name.x=1"])


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RecipeError, match=r"bad\.toml: not TOML"):
        load_recipe(tmp_path / "bad.toml")


def test_run_fields_never_enter_the_content() -> None:
    content = content_fields(make_recipe(MINIMAL))
    assert not {"root", "work", "run"} & set(content)
    assert "timeout" not in content["fetch"] and "max_bytes" in content["fetch"]
    assert "buckets" not in content["decide"] and "rounds" not in content["pack"]


def test_every_field_of_every_section_is_documented() -> None:
    sections = list(Section.__subclasses__())
    assert Recipe in sections and len(sections) > 10
    for section in sections:
        for name, info in section.model_fields.items():
            is_section = isinstance(info.annotation, type) and issubclass(info.annotation, Section)
            assert info.description or is_section or section is Recipe, f"{section.__name__}.{name}"


def test_the_recipes_of_the_repository_load() -> None:
    found = sorted(Path("recipes").glob("*.toml"))
    assert found
    for file in found:
        assert load_recipe(file).source


@pytest.mark.parametrize(
    ("visual", "said"),
    [
        ({"type": "vqkdd"}, r"tokenize\.visual\.type = 'vqkdd': use 'codebook', 'vqkd', 'plugin'"),
        ({"type": "vqkd", "wieghts": "x"}, r"unknown key tokenize\.visual\.wieghts; did you mean .*visual\.weights"),
        ({"type": "vqkd", "train": {"widht": 3}}, r"unknown key .*train\.widht; did you mean .*visual\.train\.width"),
        ({"type": "plugin"}, r"missing key tokenize\.visual\.plugin"),
        ({"wieghts": "x"}, r"unknown key tokenize\.visual\.wieghts"),
    ],
)
def test_each_type_of_visual_tokenizer_has_its_own_keys(visual: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make_recipe(MINIMAL | {"tokenize": {"visual": visual}})


def test_the_default_visual_tokenizer_keeps_the_content_it_always_had() -> None:
    fields = content_fields(make_recipe(MINIMAL).tokenize.visual)
    names = ["type", "size", "patch", "codes", "sample_images", "iterations"]
    assert (list(fields), fields["type"]) == (names, "codebook")
