"""`python -m client load`: how fast a served model answers under load, from the moment at which requests were due.

The report is one JSON object. Times are in seconds, rates in requests a second.

    model, url, mode ("open" or "closed"), arrival, seed, concurrency, processes, files, objective_s, ok, problem
    environment      what it was measured on
    offered_per_s    null for a closed loop; achieved_per_s counts right answers
    answered         how many; errors: how many of each kind, none of which is in any latency
    checked, wrong   sampled answers to goldens that were compared with eager's; a sentence about each that differs
    latency_s        p50, p90, p99, p99.9, max
    lateness_p99_s   how late the generator itself was; rejection: why the run can't be believed, or null
    connections      the most that were open; waited_for_connection: requests that found none free, nor room for one
    generator_cpu    the share of a core that each process of the generator took
    by_second        for each second: offered, answered, failed, and p50_s and p99_s of what was due in it
    histogram        of the latencies in µs, as HdrHistogram writes it (V2, compressed, base64)
    trials           with --find-max: the other runs, each with its fields from above, its `rate` and its `outcome`
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client import Client
from client.connection import CONNECT_SECONDS
from client.errors import ClientError
from client.load.plan import Arrival, LoadOptions
from client.options import Artifacts, Store, Url, console, require
from inference.tools.commands import CannotCheck, no_crash_is_a_difference

if TYPE_CHECKING:
    from client.load.target import Target


def load(
    model: Annotated[str, typer.Argument(help="A served model, such as digits-onnx.")],
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR|FILE", help="What to send; may be repeated.  [default: the model's goldens]"),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Open loop: requests a second, sent when they are due.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Closed loop: connections, each with one request after the other.")
    ] = None,
    arrival: Annotated[Arrival, typer.Option(help="How an open loop's requests are spread.")] = "poisson",
    duration: Annotated[float, typer.Option(metavar="SECONDS", help="How long requests are sent.")] = 10.0,
    slo_p99: Annotated[
        float | None, typer.Option("--slo-p99", metavar="MS", help="The objective: 99 of 100 answers within this.")
    ] = None,
    find_max: Annotated[bool, typer.Option("--find-max", help="Find the highest rate that holds --slo-p99.")] = False,
    processes: Annotated[int | None, typer.Option(help="Generator processes.  [default: by rate and cores]")] = None,
    check_every: Annotated[int, typer.Option(min=1, help="Each so many-th request is a golden, and checked.")] = 50,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="An answer that takes longer is an error.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals.")] = 0,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="The report.  [default: load.json in the artifacts]")
    ] = None,
    artifacts: Artifacts = Path("artifacts"),
    store: Store = Path("model_store"),
    url: Url = None,
) -> None:
    """Measure a served model under load: --rate, --concurrency, or --slo-p99 MS --find-max.

    Exit code 0: measured; 1: errors, wrong answers, or an objective that is missed; 2: it could not be measured, or the
    generator itself was too slow.
    """
    objective = None if slo_p99 is None else slo_p99 / 1e3
    options = LoadOptions(rate, concurrency, arrival, duration, objective, find_max, processes, timeout, seed)
    require("load", "hdrh", "httptools", "matplotlib")
    from client.load.target import prepared

    with no_crash_is_a_difference(ClientError), Client(url, timeout=(CONNECT_SECONDS, timeout)) as client:
        target = prepared(client, model, store, data or [], check_every)
        problem = _load(target, options, output or artifacts / target.asker.contract.model / "load.json")
    if problem:
        print(f"{model}: {problem}", file=sys.stderr)
        raise typer.Exit(1)


def _load(target: "Target", options: LoadOptions, output: Path) -> str | None:
    """What the server did wrong; None where it did nothing wrong. Raises CannotCheck for what the generator did."""
    from client.load.campaign import Campaign
    from client.load.generators import Generators
    from client.load.report import table, write

    screen, count = console(), options.generators
    with Generators(target.address, target.requests, count) as generators:
        campaign = Campaign(generators, target, options, screen)
        held = campaign.highest() if options.find_max else campaign.single()
    if held:
        result, problem = held, campaign.problem(held)
        rejection = held.rejection if problem == held.rejection else None
    else:
        result = campaign.last
        problem = " ".join(filter(None, ["No rate holds the objective.", result.failure]))
        rejection = "The generator itself was late." if campaign.limited_by_generator else None
    loop = "Closed loop" if result.run.due is None else f"Open loop, {options.arrival} arrivals"
    sent_by = "1 process" if count == 1 else f"{count} processes"
    screen.print(table(result, f"{target.asker.model}: {loop}, {result.run.seconds:g} s, sent by {sent_by}"))
    picture = write(output, target, options, problem, result, campaign.trials)
    screen.print(f"The figures are in {output}, drawn in {picture}.", soft_wrap=True)
    if options.find_max and held:
        found = f"The highest rate that holds the objective: {held.offered:,.1f} a second."
        limited = " Above it the generator was late, so that the server may bear more."
        screen.print(found + limited * campaign.limited_by_generator, soft_wrap=True)
    if problem and rejection:
        raise CannotCheck(f"{rejection} The run is rejected. Give it more --processes, free cores, or a lower rate.")
    return problem
