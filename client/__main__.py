"""`python -m client`: ask a running server. Exit code 2 means that it could not be asked."""

import sys

import typer

from client.compare.command import compare
from client.errors import ClientError
from client.load.command import load
from client.models import models
from client.predict import predict
from client.verify.command import verify
from inference.tools.commands import run

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
for command in (predict, verify, compare, load, models):
    app.command()(command)


def main() -> None:
    try:
        run(app)
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
