"""The runs of one `client load`: one that was asked for, or the search for the highest rate."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from client.load import find_max
from client.load.arrivals import schedule
from client.load.generators import Generators, Run
from client.load.options import LoadOptions
from client.load.report import heading, line
from client.load.result import Result
from client.load.target import Target

WARM_UP_SECONDS, WARM_UP_CONNECTIONS = 1.0, 4
ESTIMATE_SECONDS, ESTIMATE_CONNECTIONS = 3.0, 32


class Campaign:
    def __init__(self, generators: Generators, target: Target, options: LoadOptions, screen: Console) -> None:
        self.generators, self.target, self.options, self.screen = generators, target, options, screen
        self.trials: list[dict[str, Any]] = []

    def single(self) -> Result:
        """The run that was asked for, after a short one that nobody counts."""
        options = self.options
        self._closed(WARM_UP_CONNECTIONS, min(WARM_UP_SECONDS, options.duration), "Warming up")
        if options.concurrency is not None:
            return self._closed(options.concurrency, options.duration, "Measuring")
        assert options.rate is not None
        return self._run(self._open(options.rate, options.seed, options.duration), "Measuring")

    def highest(self) -> Result | None:
        """The run at the highest rate that holds the objective, and held it again for twice as long.

        None where no rate does; what became of each is in `trials`, and of the last run in `last`.
        """
        options = self.options
        estimate = self._closed(ESTIMATE_CONNECTIONS, min(ESTIMATE_SECONDS, options.duration), "Estimating")
        if estimate.failure:
            self._note(estimate, estimate.failure)
            return None
        said = f"Closed loop over {ESTIMATE_CONNECTIONS} connections: {estimate.achieved:,.1f} a second."
        self.screen.print(said, heading(), sep="\n", soft_wrap=True)
        found = find_max.bisect(estimate.achieved, lambda rate: self._trial(rate, options.duration) is not None)
        held: list[Result] = []

        def again(rate: float) -> bool:
            result = self._trial(rate, 2 * options.duration)
            held.extend([result] if result else [])
            return result is not None

        return held[0] if found and find_max.confirm(found, again) else None

    @property
    def limited_by_generator(self) -> bool:
        """Whether the lowest rate that did not hold failed for the generator's own lateness."""
        verdicts = {trial["rate"]: trial for trial in self.trials}  # the last one, where a rate was tried again
        failed = [trial for trial in verdicts.values() if trial["outcome"] != "holds"]
        lowest = min(failed, key=lambda trial: float(trial["rate"] or 0), default=None)
        return lowest is not None and lowest["outcome"] == lowest["rejection"]

    def _trial(self, rate: float, seconds: float) -> Result | None:
        """The run, if it held the objective. It is repeated once where the generator was late, and ends when lost."""
        for _ in range(2):
            seed = self.options.seed + len(self.trials)
            result = self._run(self._open(rate, seed, seconds), f"{rate:,.1f}/s", ends_when_lost=True)
            outcome = self._note(result, self.problem(result) or "holds", rate)
            if outcome == "holds":
                return result
            if outcome != result.rejection:
                break
        return None

    def problem(self, result: Result) -> str | None:
        """What is to be said against a run; None where it came out well."""
        missed = None if self.options.objective is None else result.misses(self.options.objective)
        if result.failure or (self.options.objective is not None and not missed):
            return result.failure
        return result.rejection or missed

    def _note(self, result: Result, outcome: str, rate: float | None = None) -> str:
        self.trials.append({"rate": rate, "outcome": outcome, **result.as_json()})
        if rate is not None:
            self.screen.print(line(result, outcome), soft_wrap=True)
        return outcome

    def _open(self, rate: float, seed: int, seconds: float) -> Run:
        due = schedule(rate, seconds, self.options.arrival, seed)
        return Run(seconds, self.options.timeout, due=due, objective=self.options.objective or float("inf"))

    def _closed(self, connections: int, seconds: float, title: str) -> Result:
        return self._run(Run(seconds, self.options.timeout, connections), title)

    def _run(self, run: Run, title: str, ends_when_lost: bool = False) -> Result:
        """With `ends_when_lost` it ends when so much is slow, or anything has failed, that it can't hold any more."""
        most_slow = 0.01 * len(run.due) if ends_when_lost and run.due is not None else float("inf")
        with _progress(run.seconds) as shown:
            task = shown.add_task(title, total=run.seconds, said="")

            def progress(now: float, answered: int, failed: int, slow: int) -> bool:
                said = f"{answered:,} answered" + (f", {failed:,} failed" if failed else "")
                shown.update(task, completed=min(max(now, 0), run.seconds), said=said)
                return ends_when_lost and (failed > 0 or slow > most_slow)

            seen = self.generators.run(run, progress)
        self.last = Result.of(run, seen, *self.target.check(seen))
        return self.last


def _progress(seconds: float) -> Progress:
    """On stderr, for a person."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[said]}"))
    hidden = seconds < 0.5 or not console.is_terminal
    return Progress(*columns, console=console, disable=hidden, transient=True, redirect_stdout=sys.stdout.isatty())
