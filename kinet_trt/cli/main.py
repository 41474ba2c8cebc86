"""The command line. Each command has a module in :mod:`kinet_trt.cli.commands`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib.metadata import version as package_version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kinet_trt.cli.commands.bench import bench
from kinet_trt.cli.commands.build import build
from kinet_trt.cli.commands.compare import compare
from kinet_trt.cli.commands.count import count
from kinet_trt.cli.commands.demo import demo
from kinet_trt.cli.commands.doctor import doctor
from kinet_trt.cli.commands.evaluate import evaluate
from kinet_trt.cli.commands.export import export
from kinet_trt.cli.commands.import_weights import import_weights
from kinet_trt.cli.commands.inspect import inspect
from kinet_trt.cli.commands.live import live
from kinet_trt.cli.commands.package import package
from kinet_trt.cli.commands.regions import regions
from kinet_trt.cli.commands.report import report
from kinet_trt.cli.commands.train import train
from kinet_trt.core.errors import KinetError
from kinet_trt.core.logs import be_quiet, be_verbose, to_terminal
from kinet_trt.core.notice import NOTICE
from kinet_trt.core.telemetry import switch_off


class Commands(TyperGroup):
    """The commands. ``--verbose`` and ``--quiet`` are accepted before and after the name of a command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        general = [option for option in self.params if option.name in ("verbose", "quiet")]
        for command in self.commands.values():
            command.params += general


app = typer.Typer(
    name="kinet-trt",
    help=f"Count nuclei in Ki67-stained tissue. {NOTICE}",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "count": count,
    "live": live,
    "eval": evaluate,
    "compare": compare,
    "bench": bench,
    "train": train,
    "regions": regions,
    "import-weights": import_weights,
    "export": export,
    "report": report,
    "inspect": inspect,
    "doctor": doctor,
    "build": build,
    "package": package,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Run the command line. A :class:`KinetError` is printed as one message and gives exit status 1."""
    switch_off()
    to_terminal()
    for stream in (sys.stdout, sys.stderr):
        # A file name with characters that the terminal cannot encode (Windows' code pages) must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KinetError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kinet-trt {package_version('kinet-trt')}")
        raise typer.Exit


def _verbose(wanted: bool) -> None:
    if wanted:
        be_verbose()


def _quiet(wanted: bool) -> None:
    if wanted:
        be_quiet()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", callback=_verbose, expose_value=False, help="Print more details."),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", callback=_quiet, expose_value=False, help="Print no progress and no notes."),
    ] = False,
) -> None:
    del version, verbose, quiet
