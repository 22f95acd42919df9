"""C2, and E1 and D2 on a network trained here: the pipeline of S4 on CIFAR-10 (JPEG q75), from its recipes.

    python benchmarks/s4.py                                  # what is not yet measured; hours, resumed anywhere
    python benchmarks/s4.py --networks vgg16 --seeds 0 --parts pipeline
    python benchmarks/tables.py                              # docs/s4.md from the records

``dense``: the network that the recipe's first step trains (once per machine, see `measuring/trained.py`);
``pipeline``: the recipe from there; ``files``: its files and the dense network's, fp32 and int8, timed in turns
and coded; ``control``: the dense network trained on for as many epochs as the pruned one is fine-tuned, with the
same options. The test images are
looked at once, at the end of each part. One line of JSON per (network, profile, seed, part) in
benchmarks/results/s4.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring.children import Report, add_sweep_options, run_child, sweep_or_one
from measuring.cifar import DATA
from measuring.records import RESULTS, Records, commit, to_do, versions
from measuring.trained import Log, jpeg_task, recipe_of, train, untrained

import neuroprune
from neuroprune.base.files import load_tensors, read_json
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.devices import DEVICES
from neuroprune.devices.facts import machine_facts
from neuroprune.export import EXPORTS
from neuroprune.export.compare import OnnxModule
from neuroprune.pipeline.run import run_recipe
from neuroprune.pipeline.steps.finetune import FinetuneConfig
from neuroprune.recover.fit import Distill, fit

FILE = RESULTS / "s4.jsonl"
KEY = ("network", "profile", "seed", "part")
NETWORKS, PARTS, SEEDS = ("resnet34", "vgg16"), ("dense", "pipeline", "files", "control"), (0, 1, 2)
SECONDS = 20.0


def work_of(network: str, profile: str, seed: int, part: str) -> Path:
    return Path(tempfile.gettempdir()) / f"neuroprune-s4-{network}-{profile}-{seed}-{part}-{os.getuid()}"


def dense_part(network: str, profile: str, seed: int) -> dict[str, Any]:
    _, facts = train(network, seed, profile)
    return {key: facts[key] for key in ("val", "test", "epochs", "config", "data", "threads")}


def pipeline_part(network: str, profile: str, seed: int) -> dict[str, Any]:
    """The recipe without its first step, whose result is loaded; its figures out of results.json."""
    weights, _ = train(network, seed, profile)
    changes = [f"model.weights={weights}", f"seed={seed}", "threads=1", "steps.train.epochs=0"]
    recipe, folder = recipe_of(network, profile, *changes), work_of(network, profile, seed, "pipeline")
    began = time.process_time()
    run_recipe(recipe, folder, resume=(folder / "state.json").exists(), progress=Log())
    results = read_json(folder / "results.json")
    return {
        "cpu_s_of_last_run": time.process_time() - began,
        "table": results["table"], "weights": results["weights"], "curves": results["curves"],
        "verdict": results["verdict"]["text"], "chosen": _chosen(results),
        "steps": [{key: step[key] for key in ("name", "seconds", "summary")} for step in results["steps"]],
    }  # fmt: skip


def _chosen(results: dict[str, Any]) -> str:
    return str(next(v["name"] for v in results["variants"] if v["role"] == "final"))


def files_part(network: str, profile: str, seed: int) -> dict[str, Any]:
    """Dense and pruned, fp32 and int8, in turns: ms, bytes, bytes coded, accuracy on the test images (D2, E1)."""
    folder, task = work_of(network, profile, seed, "pipeline"), jpeg_task(seed)
    ends = {"pruned fp32": "model.onnx", "pruned int8": "model.int8.onnx"}
    files = {"dense fp32": next(folder.glob("steps/*/dense.onnx"))}
    files |= {key: folder / "artifact" / end for key, end in ends.items()}
    with tempfile.TemporaryDirectory() as name:
        files["dense int8"] = Path(name) / "dense.int8.onnx"
        batches = [batch[0].numpy() for batch, _ in zip(task.train.epoch(None), range(4), strict=False)]
        quantize_onnx(files["dense fp32"], files["dense int8"], [(batch,) for batch in batches])
        inputs = [np.asarray(task.example_inputs[0][:1])]
        measured = DEVICES.get("local").measure(files, inputs, threads=1, seconds=SECONDS)
        sessions = {key: OnnxModule(EXPORTS.get("onnx").load(path)) for key, path in files.items()}
        coded = {key: neuroprune.pack(path, Path(name) / f"{key}.npc").target_bytes for key, path in files.items()}
        rows = {
            key: {
                "p50_ms": measured[key].cpu_p50_ms, "p90_ms": measured[key].cpu_p90_ms,
                "bytes": files[key].stat().st_size, "npc_bytes": coded[key],
                "accuracy": task.evaluate(sessions[key], task.test),
                "times_faster": measured["dense fp32"].cpu_p50_ms / measured[key].cpu_p50_ms,
            }
            for key in files
        }  # fmt: skip
        return {"times": rows}


def control_part(network: str, profile: str, seed: int) -> dict[str, Any]:
    """The dense network with the epochs and options of the recipe's fine-tuning, its former self as teacher."""
    weights, _ = train(network, seed, profile)
    options = next(call.config for call in recipe_of(network, profile).steps if call.name == "finetune")
    assert isinstance(options, FinetuneConfig)
    model, task = untrained(network, seed), jpeg_task(seed)
    model.load_state_dict(load_tensors(weights))
    teaching = options.distill
    config = options.fit_config(
        seed, options.epochs, Distill(options.temperature, options.alpha) if teaching else None
    )
    records = fit(
        model, task, config, teacher=copy.deepcopy(model) if teaching else None,
        checkpoint=work_of(network, profile, seed, "control"), progress=Log(),
    )  # fmt: skip
    return {
        "val": records[-1].val_metric, "test": task.evaluate(model, task.test),
        "epochs": [r.to_json() for r in records],
    }  # fmt: skip


MEASURES = {"dense": dense_part, "pipeline": pipeline_part, "files": files_part, "control": control_part}


def measure(options: argparse.Namespace, report: Report) -> None:
    torch.set_num_threads(1)
    part = options.parts[0]
    report.tell(status="done", **MEASURES[part](options.networks[0], options.profiles[0], options.seeds[0]))


def sweep(options: argparse.Namespace) -> None:
    records = Records(FILE, KEY)
    keys = [
        (network, profile, seed, part)
        for seed in options.seeds for profile in options.profiles
        for network in options.networks for part in options.parts
    ]  # fmt: skip
    for key in to_do(keys, records.by_key(), options.again, commit()):
        words = ["--networks", key[0], "--profiles", key[1], "--seeds", str(key[2]), "--parts", key[3]]
        record = run_child([__file__, "--one", *words], options.limit_s) | dict(zip(KEY, key, strict=True))
        record |= {"versions": versions("onnxruntime"), "cpu": machine_facts()["cpu"]}
        records.put(record)
        print(
            *key,
            record["status"],
            record.get("test"),
            record.get("verdict"),
            record.get("problem", ""),
            flush=True,
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--profiles", nargs="+", choices=("fast", "paper"), default=["fast"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add_sweep_options(parser, limit_s=36_000)
    return parser.parse_args()


def main() -> None:
    sweep_or_one(parsed(), sweep, measure, DATA)


if __name__ == "__main__":
    main()
