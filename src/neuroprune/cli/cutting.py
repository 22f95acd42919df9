"""``neuroprune inspect`` and ``prune``: one cut, without data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from neuroprune.cli.options import (
    Args,
    Criterion,
    Inputs,
    Keep,
    Model,
    Out,
    Weights,
    guarded,
)

if TYPE_CHECKING:
    pass


@guarded
def inspect(
    model: Model,
    input_: Inputs,
    arg: Args = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which units can be removed together, and what stays whole and why."""
    from neuroprune.graph import cost, trace
    from neuroprune.pipeline.arguments import constructor_arguments, made_up_inputs
    from neuroprune.pipeline.structure import trace_lines
    from neuroprune.pruning import provable
    from neuroprune.tasks.models import load_model

    network = load_model(model, kwargs=constructor_arguments(arg))
    inputs = made_up_inputs(input_)
    found = provable(network, trace(network, inputs), inputs)
    counted = cost(network, inputs)
    if as_json:
        groups = [
            {
                "name": g.name, "units": g.size, "kind": g.kind, "statistics": g.statistics,
                "tensors": [[s.tensor, s.dim] for s in g.slices],
            }
            for g in found.groups
        ]  # fmt: skip
        refused = [vars(r) for r in found.refused]
        typer.echo(json.dumps({"cost": vars(counted), "groups": groups, "refused": refused}, indent=2))
        return
    typer.echo("\n".join(trace_lines(found, counted)))


@guarded
def prune(
    model: Model,
    input_: Inputs,
    ratio: Annotated[float, typer.Option(help="Share of the units that goes, 0 to below 1.")] = 0.5,
    out: Out = None,
    weights: Weights = None,
    arg: Args = None,
    criterion: Criterion = "l2",
    scope: Annotated[str, typer.Option(help="local: in every group; global: one threshold for all")] = "local",
    granularity: Annotated[
        str,
        typer.Option(
            help="channel (everything), head, head_dim, conv_group, rows of --round-to channels, or block"
        ),
    ] = "channel",
    round_to: Annotated[int, typer.Option(help="Keep multiples of so many units.")] = 1,
    keep: Keep = None,
    on_refuse: Annotated[str, typer.Option(help="report, or raise: end with exit code 2")] = "report",
    tier: Annotated[
        str, typer.Option(help="module: the network's own class; exported: a graph, literal sizes changed too")
    ] = "module",
    seed: int = 0,
) -> None:
    """Cut a network once, without data: plan.json, model.safetensors (or .pt2), report.json; proven exact."""
    from neuroprune.pipeline.arguments import constructor_arguments, default_out, made_up_inputs, name_of
    from neuroprune.pipeline.structure import prune_into, summary_of
    from neuroprune.tasks.models import load_model

    folder, arguments = out or default_out(name_of(model)), constructor_arguments(arg)
    facts = {"model": model, "arguments": arguments, "weights": weights and str(weights), "inputs": input_}
    network = load_model(model, weights=weights, kwargs=arguments)
    options = {
        "ratio": ratio, "criterion": criterion, "scope": scope, "granularity": granularity, "round_to": round_to,
        "keep": keep or [], "on_refuse": on_refuse, "seed": seed,
        "tier": tier,
    }  # fmt: skip
    done = prune_into(folder, network, made_up_inputs(input_), options, facts)
    typer.echo("\n".join(summary_of(done, folder)))
