"""Every mistake in a recipe is answered with file, line and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroprune.base.errors import UserError
from neuroprune.pipeline.recipe import load_recipe, parse_recipe, recipe_from, shipped_recipes

GOOD = """\
name: small
seed: 3
model: {spec: "neuroprune.tasks.nets:tiny_resnet", kwargs: {width: 8}}
data:
  spec: digits
  limit: 200
steps:
  - train: {epochs: 2, lr: 1e-2}
  - initialise
  - score:
      criterion: l2
  - select: {ratio: 0.5}
  - cut:
  - finetune: {epochs: 1, stage: "6. Fine-tune"}
"""


def fails(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_recipe(text, "r.yaml", overrides)
    return str(caught.value)


def test_a_good_recipe_is_read_whole() -> None:
    recipe = parse_recipe(GOOD, "r.yaml")
    assert [call.name for call in recipe.steps] == ["train", "initialise", "score", "select", "cut", "finetune"]
    assert recipe.header.seed == 3
    assert recipe.header.data is not None
    assert recipe.header.data.limit == 200
    assert recipe.steps[0].config.model_dump()["lr"] == 0.01  # YAML 1.1 reads 1e-2 as text
    assert recipe.steps[5].config.stage == "6. Fine-tune"
    assert recipe.text == GOOD


def test_plain_data_gives_the_same_recipe_as_text() -> None:
    recipe = parse_recipe(GOOD, "r.yaml")
    assert recipe_from(recipe.to_json()).digest() == recipe.digest()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seed: 3", "sed: 3", ["unknown key 'sed'", "r.yaml:2", "did you mean 'seed'"]),
        ("limit: 200", "limt: 200", ["unknown key 'limt'", "r.yaml:6", "did you mean 'limit'"]),
        ("epochs: 2", "epoch: 2", ["unknown key 'epoch' in step train", "r.yaml:8", "did you mean 'epochs'"]),
        ("- initialise", "- initialize", ["unknown step 'initialize'", "r.yaml:9", "did you mean 'initialise'"]),
        ("epochs: 2", "epochs: many", ["epochs in step train", "r.yaml:8", "value: many"]),
        ("epochs: 2", "epochs: -1", ["epochs in step train", "greater than or equal to 0", "r.yaml:8"]),
        ("criterion: l2", "criterion: l3", ["criterion", "r.yaml:11", "did you mean 'l2'"]),
        (
            "- initialise\n",
            "- initialise\n  - rounds: {granularity: weight, criterion: fpgm}\n",
            ["criterion in step rounds", "'fpgm' scores whole units", "r.yaml:10"],
        ),
        ("ratio: 0.5", "ratio: 1.5", ["ratio in step select", "less than 1", "r.yaml:12", "value: 1.5"]),
        ("ratio: 0.5", "scope: globl", ["scope in step select", "r.yaml:12", "did you mean 'global'"]),
        ("seed: 3", "seed: 3\nseed: 4", ["'seed' stands twice", "r.yaml:3"]),
        ("seed: 3", "seed: [3", ["not valid YAML", "r.yaml:"]),
        ("- initialise", "- 7", ["a step is one name with its options", "r.yaml:9"]),
        ("- initialise", "- initialise: 7", ["takes options", "r.yaml:9"]),
        ("seed: 3", "budget: {latncy: 0.5}", ["unknown budget 'latncy'", "r.yaml:2", "did you mean 'latency'"]),
        ("seed: 3", "budget: {latency: 3}", ["ratio above 1", "r.yaml:2"]),
        ("seed: 3", "budget: {memory: 0.5}", ["memory budget", "r.yaml:2", "latency, size, macs or params"]),
        ("seed: 3", "device: locl", ["unknown device 'locl'", "r.yaml:2", "did you mean 'local'"]),
        ("seed: 3", "attempts: 2", ["fit_budget", "r.yaml:2"]),
        ("  - initialise\n", "", ["'cut' needs", "selection"]),
    ],
)
def test_mistakes_name_line_and_mend(old: str, new: str, expected: list[str]) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if old == "  - initialise\n":
        text = text.replace("  - select: {ratio: 0.5}\n", "")
    message = fails(text)
    for part in expected:
        assert part in message, message


@pytest.mark.parametrize("text", ["", "just a word", "- a\n- list", "name: x", "name: x\nsteps: []"])
def test_no_recipe_at_all(text: str) -> None:
    assert "mend" in fails(text)


def test_overrides_reach_header_nested_keys_and_steps() -> None:
    recipe = parse_recipe(
        GOOD, "r.yaml", ["seed=7", "model.kwargs.width=4", "steps.train.epochs=9", "steps.5.stage=cutting"]
    )
    assert recipe.header.seed == 7
    assert recipe.header.model is not None
    assert recipe.header.model.kwargs == {"width": 4}
    assert recipe.steps[0].config.model_dump()["epochs"] == 9
    assert recipe.steps[4].config.stage == "cutting"
    assert parse_recipe(recipe.text).digest() == recipe.digest()  # what is stored is what runs


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sed=7", ["unknown key 'sed'", "--set sed=7", "'seed'"]),
        ("steps.train.epoch=7", ["unknown key 'epoch'", "--set steps.train.epoch=7", "'epochs'"]),
        ("steps.tran.epochs=7", ["no step 'tran'", "did you mean 'train'"]),
        ("steps.train=7", ["names no option"]),
        ("seed", ["cannot read --set seed"]),
        ("seed.x=1", ["plain value"]),
        ("name.x.y=1", ["nothing lies under"]),
        ("seed=[", ["cannot read the value"]),
    ],
)
def test_bad_overrides(override: str, expected: list[str]) -> None:
    message = fails(GOOD, override)
    for part in expected:
        assert part in message, message


def test_a_step_that_stands_twice_is_named_by_number() -> None:
    text = GOOD + "  - finetune: {epochs: 2}\n"
    assert "steps.6, steps.7" in fails(text, "steps.finetune.epochs=4")
    assert parse_recipe(text, "r", ["steps.7.epochs=4"]).steps[6].config.model_dump()["epochs"] == 4


def test_two_cuts_are_refused() -> None:
    assert "cuts twice" in fails(GOOD + "  - cut\n")


def test_missing_file_offers_the_shipped_recipes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="demo") as caught:
        load_recipe(tmp_path / "no.yaml")
    assert "no.yaml" in str(caught.value)


def test_shipped_recipes_are_valid() -> None:
    recipes = shipped_recipes()
    assert {"demo", "neuroprune", "process-flow"} <= set(recipes)
    for path in recipes.values():
        assert load_recipe(path).steps


def test_recipes_at_the_top_of_the_checkout_are_the_packaged_ones() -> None:
    top = Path(__file__).resolve().parents[2] / "recipes"
    assert top.resolve() == next(iter(shipped_recipes().values())).parent


PROFILES = (
    GOOD
    + """\
profiles:
  quick:
    steps.train.epochs: 1
    data.limit: 50
    steps.6.lr: 0.5
  broken: {steps.train.epoks: 3}
"""
)


def test_a_profile_is_a_set_of_changes_and_the_command_line_has_the_last_word() -> None:
    plain, quick = parse_recipe(PROFILES), parse_recipe(PROFILES, profile="quick")
    assert plain.digest() == parse_recipe(GOOD).digest()
    assert quick.header.data is not None
    assert (quick.header.data.limit, quick.steps[0].config.model_dump()["epochs"]) == (50, 1)
    assert quick.steps[5].config.model_dump()["lr"] == 0.5
    assert parse_recipe(quick.text).digest() == quick.digest()  # the run folder's copy needs no profile
    last = parse_recipe(PROFILES, overrides=["data.limit=70"], profile="quick")
    assert last.header.data is not None
    assert last.header.data.limit == 70


@pytest.mark.parametrize(
    ("profile", "text", "expected"),
    [
        ("quik", PROFILES, ["no profile 'quik'", "did you mean 'quick'", "its profiles: quick, broken"]),
        ("quick", GOOD, ["no profile 'quick'", "its profiles: none"]),
        ("broken", PROFILES, ["unknown key 'epoks' in step train", "r.yaml:20", "did you mean 'epochs'"]),
        ("x", GOOD + "profiles: [x]\n", ["profiles are names with the keys they change", "r.yaml:15"]),
        ("x", GOOD + "profiles: {x: {steps.cat.k: 1}}\n", ["profile x: steps.cat.k", "no step 'cat'", "'cut'"]),
    ],
)
def test_profiles_that_cannot_be_are_answered(profile: str, text: str, expected: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe(text, "r.yaml", (), profile)
    for words in expected:
        assert words in str(caught.value)
