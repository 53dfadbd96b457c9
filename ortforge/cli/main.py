"""The ``ortforge`` command: registers one verb per module and turns errors into messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from ortforge import __version__
from ortforge.cli import cache, compare, explain, init, plan, plugins, report, repro, run, schema
from ortforge.cli.shared import Shared
from ortforge.errors import ExitCode, OrtforgeError, nearest

__all__ = ["app", "main"]


class _Verbs(TyperGroup):
    """The verbs of this package, and those that third-party plugins bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_third_party()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        return _third_party().get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None:
            close = nearest(args[0], self.list_commands(ctx))
            hint = f" Perhaps you meant {close!r}." if close else ""
            ctx.fail(f"there is no verb {args[0]!r}.{hint} 'ortforge --help' lists them all.")
        return super().resolve_command(ctx, args)


def _third_party() -> dict[str, click.Command]:
    """Return the verbs of third-party plugins; costs a look at the installed entry points when there are none."""
    from ortforge.plugin_manager import third_party_commands

    return third_party_commands()


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which model variant is correct and fast on which ONNX Runtime build: one file, one run, one verdict per cell.",
    epilog="First steps: 'ortforge init model.onnx', then 'ortforge run'.",
)


@app.callback()
def _common(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    plugin: Annotated[
        list[str] | None, typer.Option("-p", metavar="no:NAME", help="Leave a plugin out; may be repeated.")
    ] = None,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Leave all third-party plugins out.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"ortforge {__version__}")
        raise typer.Exit
    ctx.obj = Shared(debug=debug, blocked=tuple(plugin or ()), third_party=not no_plugins)


for _module in (init, plan, run, report, compare, explain, repro, plugins, cache, schema):
    _module.register(app)


def main() -> None:
    """Run the command line; never shows a traceback unless ``--debug`` is given."""
    try:
        app()
    except OrtforgeError as error:
        _complain(f"ortforge: {error}", error.exit_code)
    except BrokenPipeError:
        # The reader went away (ortforge report | head): nothing is wrong, and nothing more can be written.
        sys.stderr.close()
        sys.exit(ExitCode.PASS)
    except Exception as error:
        text = f"ortforge: a defect: {type(error).__name__}: {error}\n"
        _complain(f"{text}Please report it with the output of the same command under 'ortforge --debug'.", 70)


def _complain(message: str, code: int) -> Any:
    if "--debug" in sys.argv:
        traceback.print_exc()
    typer.echo(message, err=True)
    sys.exit(int(code))


if __name__ == "__main__":
    main()
