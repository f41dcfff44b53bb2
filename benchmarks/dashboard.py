"""What the dashboard's queries return now, as a table: `python -m benchmarks.dashboard http://127.0.0.1:9090`.

The address is that of a Prometheus which scrapes a service under load. docs/metrics.md holds such a table.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import requests
import typer

DASHBOARD = Path(__file__).resolve().parent.parent / "serve/monitoring/grafana/dashboards/serving.json"
SHOWN = 4
UNITS = {"s": " s", "reqps": "/s", "bytes": " B", "percentunit": "", "none": ""}

# What Grafana would put in: all models, and a window that holds twelve scrapes.
VARIABLES = {"$__rate_interval": "1m", "$model": "[^:]+"}


@dataclass(frozen=True)
class Query:
    """One line of a panel's legend, for each series that `expression` returns."""

    panel: str
    expression: str
    legend: str
    unit: str

    @property
    def filled(self) -> str:
        """The expression without Grafana's variables."""
        text = self.expression
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        return text


@dataclass(frozen=True)
class Sample:
    labels: dict[str, str]
    value: float


def queries() -> list[Query]:
    return [
        Query(panel["title"], target["expr"], target["legendFormat"], panel["fieldConfig"]["defaults"]["unit"])
        for panel in json.loads(DASHBOARD.read_bytes())["panels"]
        for target in panel["targets"]
    ]


def ask(prometheus: str, expression: str) -> list[Sample]:
    """Raises ValueError with Prometheus's own words when it can't evaluate the expression."""
    answer = requests.get(f"{prometheus}/api/v1/query", params={"query": expression}, timeout=10).json()
    if answer["status"] != "success":
        raise ValueError(f"Prometheus can't evaluate {expression}: {answer['error']}")
    return [Sample(found["metric"], float(found["value"][1])) for found in answer["data"]["result"]]


def row(query: Query, samples: list[Sample]) -> str:
    """A row of the table, with the highest few of the series."""
    highest = sorted(samples, key=lambda sample: (-sample.value, _legend(query, sample)))[:SHOWN]
    lines = [f"{_legend(query, sample)}: {sample.value:.3g}{UNITS[query.unit]}" for sample in highest]
    more = [f"and {len(samples) - SHOWN} more"] if len(samples) > SHOWN else []
    expression = query.expression.replace("|", "\\|")
    return f"| {query.panel} | `{expression}` | {'<br>'.join(lines + more) or 'nothing'} |"


def _legend(query: Query, sample: Sample) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: sample.labels.get(found[1], ""), query.legend)


def main(
    prometheus: Annotated[str, typer.Argument(help="Address of a Prometheus, such as http://127.0.0.1:9090.")],
) -> None:
    """Print every query of the dashboard with the values that it returns, as a table in Markdown."""
    print("| panel | query | returned |\n|---|---|---|")
    for query in queries():
        print(row(query, ask(prometheus, query.filled)))


if __name__ == "__main__":
    typer.run(main)
