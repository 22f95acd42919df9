"""``neuroprune search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neuroprune.cli.options import Keep, Out, Resume, Set, guarded


@guarded
def search(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    strategy: Annotated[str, typer.Option(help="See: neuroprune list strategies")] = "dp",
    evaluations: Annotated[int, typer.Option(help="Points to evaluate, all runs and processes together.")] = 100,
    out: Out = None,
    resume: Resume = False,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    set_: Set = None,
    reward: Annotated[str, typer.Option(help="See: neuroprune list rewards")] = "accuracy",
    reward_weight: Annotated[float, typer.Option(help="Of sparsity or cost, in points of accuracy.")] = 20.0,
    recover: Annotated[
        str, typer.Option(help="Of each trial: none, batch-norm, refit (then batch norm) or closed-form.")
    ] = "refit",
    depth: Annotated[bool, typer.Option("--depth", help="Whole blocks may go.")] = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="Kernels may become 1x1.")] = False,
    keep: Keep = None,
    round_to: Annotated[int, typer.Option(help="Keep multiples of so many units.")] = 1,
    minimum: Annotated[int, typer.Option(help="Keep at least so many units of each group.")] = 1,
    examples: Annotated[int, typer.Option(help="Training examples for statistics, without labels.")] = 2048,
    fitted: Annotated[int, typer.Option(help="Of these for the recovery of each trial.")] = 256,
    agent: Annotated[str | None, typer.Option(help="Of --strategy rl: ddpg, sac or ppo.")] = None,
    ray: Annotated[str | None, typer.Option(help="Evaluate on a Ray cluster: auto, or its address.")] = None,
    workers: Annotated[int | None, typer.Option(help="Evaluations at a time on the cluster.")] = None,
) -> None:
    """Search for widths (blocks, kernels) within a recipe's budget: each trial cut and judged without training."""
    from neuroprune.base.progress import RichProgress
    from neuroprune.pipeline.arguments import default_out, resume_command
    from neuroprune.pipeline.recipe import load_recipe, shipped_recipes
    from neuroprune.pipeline.searching import SearchOptions, search_into, summary_lines
    from neuroprune.search.rewards import Reward
    from neuroprune.search.subject import Options

    path, shipped = Path(recipe), shipped_recipes().get(recipe)
    overrides = [*(set_ or []), *([] if seed is None else [f"seed={seed}"])]
    loaded = load_recipe(shipped if shipped is not None and not path.exists() else path, overrides)
    named: Any = recover
    trial = Options(tuple(keep or ()), round_to, minimum, depth, kernels, named, fitted)
    options = SearchOptions(
        strategy, evaluations, Reward(reward, reward_weight), trial, examples, agent, ray, workers
    )
    folder = out or default_out(f"{loaded.header.name}-{strategy}", resume)
    done = search_into(
        folder, loaded, options, resume=resume, progress=RichProgress(),
        command=resume_command(folder, given=out is not None),
    )  # fmt: skip
    typer.echo("\n".join(summary_lines(done, folder)))
