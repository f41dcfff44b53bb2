"""The runs of one `client load`: one that was asked for, or the search for the highest rate that holds an objective."""

from collections.abc import Callable
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from client.load.generators import Generators
from client.load.plan import LoadOptions, Run, schedule
from client.load.report import heading, line
from client.load.result import Result
from client.load.target import Target
from client.options import progress_bar

WARM_UP_SECONDS, WARM_UP_CONNECTIONS = 1.0, 4
ESTIMATE_SECONDS, ESTIMATE_CONNECTIONS = 3.0, 32

RESOLUTION = 1.03  # between the highest rate that holds and the lowest that does not
STEPS = 14
FIRST = 0.8  # of the estimate
UP, DOWN = 1.25, 0.6
LOWEST = 0.02  # of the estimate: below it the objective is out of reach
CONFIRMATIONS = 4

T = TypeVar("T")


def search_highest_rate(estimate: float, holds: Callable[[float], object]) -> float | None:
    """The highest rate found to hold, None where none does: from `estimate` up or down, then halving by ratio.

    It ends within `RESOLUTION`, or after `STEPS` trials.
    """
    rate, good, bad = FIRST * estimate, 0.0, float("inf")
    for _ in range(STEPS):
        if holds(rate):
            good = rate
        else:
            bad = rate
        if bad <= good * RESOLUTION or bad < LOWEST * estimate:
            break
        lower = (good * bad) ** 0.5 if good else bad * DOWN
        rate = good * UP if bad == float("inf") else lower
    return good or None


def confirm(rate: float, trial: Callable[[float], T | None]) -> T | None:
    """What `trial` gives for `rate`, or for the first of some lower ones, in steps that double, that holds again.

    A rate that held once may have been lucky, and the luckier, the closer the search came to the limit.
    """
    lower = (rate / float(RESOLUTION ** (2**attempt - 1)) for attempt in range(CONFIRMATIONS))
    return next(filter(None, map(trial, lower)), None)


class Campaign:
    def __init__(self, generators: Generators, target: Target, options: LoadOptions, screen: Console) -> None:
        self.generators, self.target, self.options, self.screen = generators, target, options, screen
        self.trials: list[dict[str, Any]] = []

    def single(self) -> Result:
        """The run that was asked for, after a short one that does not count."""
        options = self.options
        self._closed(WARM_UP_CONNECTIONS, min(WARM_UP_SECONDS, options.duration), "Warming up")
        if options.concurrency is not None:
            return self._closed(options.concurrency, options.duration, "Measuring")
        assert options.rate is not None
        return self._open(options.rate, options.seed, options.duration, "Measuring")

    def highest(self) -> Result | None:
        """The run at the highest rate that holds the objective, and held it again for twice as long.

        None where no rate does; what became of each is in `trials`, and of the last run in `last`.
        """
        duration = self.options.duration
        estimate = self._closed(ESTIMATE_CONNECTIONS, min(ESTIMATE_SECONDS, duration), "Estimating")
        if estimate.failure:
            self.trials.append({"rate": None, "outcome": estimate.failure, **estimate.as_json()})
            return None
        sentence = f"Closed loop over {ESTIMATE_CONNECTIONS} connections: {estimate.achieved:,.1f} a second."
        self.screen.print(sentence, heading(), sep="\n", soft_wrap=True)
        found = search_highest_rate(estimate.achieved, lambda rate: self._trial(rate, duration))
        return confirm(found, lambda rate: self._trial(rate, 2 * duration)) if found else None

    @property
    def limited_by_generator(self) -> bool:
        """Whether the lowest rate that did not hold failed for the generator's own lateness."""
        verdicts = {trial["rate"]: trial for trial in self.trials}  # the last one, where a rate was tried again
        failed = [trial for trial in verdicts.values() if trial["outcome"] != "holds"]
        lowest = min(failed, key=lambda trial: float(trial["rate"] or 0), default=None)
        return lowest is not None and lowest["outcome"] == lowest["rejection"]

    def problem(self, result: Result) -> str | None:
        """What is to be said against a run; None where it came out well."""
        missed = None if self.options.objective is None else result.misses(self.options.objective)
        if result.failure or (self.options.objective is not None and not missed):
            return result.failure
        return result.rejection or missed

    def _trial(self, rate: float, seconds: float) -> Result | None:
        """The run, if it held the objective. It is repeated once where the generator was late, and ends when lost."""
        for _ in range(2):
            seed = self.options.seed + len(self.trials)
            result = self._open(rate, seed, seconds, f"{rate:,.1f}/s", ends_when_lost=True)
            outcome = self.problem(result) or "holds"
            self.trials.append({"rate": rate, "outcome": outcome, **result.as_json()})
            self.screen.print(line(result, outcome), soft_wrap=True)
            if outcome == "holds":
                return result
            if outcome != result.rejection:
                break
        return None

    def _open(self, rate: float, seed: int, seconds: float, title: str, ends_when_lost: bool = False) -> Result:
        due = schedule(rate, seconds, self.options.arrival, seed)
        run = Run(seconds, self.options.timeout, due=due, objective=self.options.objective or float("inf"))
        return self._run(run, title, 0.01 * len(due) if ends_when_lost else None)

    def _closed(self, connections: int, seconds: float, title: str) -> Result:
        return self._run(Run(seconds, self.options.timeout, connections), title)

    def _run(self, run: Run, title: str, most_slow: float | None = None) -> Result:
        """With `most_slow` it ends when more are slow, or anything has failed: the objective can't hold any more."""
        before, after = TextColumn("{task.description}"), TextColumn("{task.fields[counts]}")
        shown = progress_bar(before, BarColumn(), TimeElapsedColumn(), after, hidden=run.seconds < 0.5, transient=True)
        with shown:
            task = shown.add_task(title, total=run.seconds, counts="")

            def progress(now: float, answered: int, failed: int, slow: int) -> bool:
                counts = f"{answered:,} answered" + (f", {failed:,} failed" if failed else "")
                shown.update(task, completed=min(max(now, 0), run.seconds), counts=counts)
                return most_slow is not None and (failed > 0 or slow > most_slow)

            observed = self.generators.run(run, progress)
        self.last = Result(run, observed, *self.target.check(observed))
        return self.last
