"""Signals [N, channels, length] of the user's own, from the file to the int8 network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuroprune.base.files import read_json
from neuroprune.compression.artifact import verify_artifact
from neuroprune.pipeline.recipe import load_recipe, shipped_recipes
from neuroprune.pipeline.run import run_recipe


def test_a_three_axis_sensor_through_the_recipe_for_spoken_digits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(240) % 4
    time = np.arange(48) / 48
    waves = [np.sin(2 * np.pi * (2 + 2 * label) * time) for label in y]
    x = np.stack([np.outer(rng.uniform(0.5, 1.5, 3), wave) for wave in waves])
    x += 0.3 * rng.normal(size=x.shape)  # [240, 3, 48]
    np.savez(tmp_path / "sensor.npz", x=x.astype(np.float32), y=y)
    changes = ["train.epochs=10", "rounds.rounds=2", "rounds.epochs=2", "finetune.epochs=2", "measure.seconds=0.1"]
    recipe = load_recipe(
        shipped_recipes()["spoken-digits"],
        [f"data.spec=npz:{tmp_path}/sensor.npz", "model.kwargs={width: 8, channels: 3, classes: 4}"]
        + [f"steps.{change}" for change in changes],
    )
    run_recipe(recipe, tmp_path / "out")
    results = read_json(tmp_path / "out" / "results.json")
    rows = {row["metric"]: row for row in results["table"]}
    assert rows["Accuracy (test)"]["before"] > 80
    assert rows["Parameters"]["after"] < 0.8 * rows["Parameters"]["before"]
    assert {v["name"] for v in results["variants"]} == {"dense fp32", "compressed fp32", "compressed int8"}
    assert verify_artifact(tmp_path / "out" / "artifact").ok
