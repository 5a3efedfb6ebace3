"""The command line: parsing here, work in `sciinv.run`; torch is imported only by the commands that need it.

Results go to stdout, messages to stderr. Exit codes: see `sciinv.errors`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sciinv import __version__
from sciinv.commands import catalogue, certify, compare, files, runs, train
from sciinv.errors import SciinvError

EPILOG = (
    "Exit codes: 0 ok, 1 bug, 2 usage, 3 bad input, 4 prior and data do not fit, 5 some items failed, 6 memory, disk "
    "or device, 7 numerical failure, 130 and 143 interrupted (state saved). Research use only: not a medical device, "
    "not for diagnosis."
)
app = typer.Typer(
    name="sciinv", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    epilog=EPILOG,
    help="From a measurement file to posterior samples, uncertainty maps and a report on how far to trust them.",
)  # fmt: skip
for module in (runs, compare, files, train, catalogue, certify):
    module.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sciinv {__version__}")
        typer.echo("Research use only. Not a medical device. Not for diagnosis or treatment.")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; the entry point of the ``sciinv`` script passes it to the
    shell.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("SCIINV_DEBUG") == "1"
    try:
        code = app(args=words, prog_name="sciinv", standalone_mode=False)
        return int(code or 0)
    except SciinvError as error:
        _tell(error, str(error), debug)
        return error.exit_code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except MemoryError as error:
        _tell(error, "out of memory. Try: a smaller --chunk, fewer --samples, or some --slices at a time", debug)
        return 6
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own errors, whatever library brings them
            _tell(error, f"{error.format_message()} Try: sciinv --help", debug)
            return int(getattr(error, "exit_code", 2))
        if type(error).__name__ == "Abort":  # what the parser makes of a KeyboardInterrupt
            return _interrupted(error.__cause__ or error, debug)
        text = " ".join(str(error).split())[:300]
        hint = "this is a bug in sciinv; please report it (--debug shows the traceback, log.jsonl keeps it)"
        _tell(error, f"unexpected {type(error).__name__}: {text or 'no message'}. {hint}", debug)
        return 1
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or hasattr(error, "exit_code"):  # `sciinv.run.signals.Interrupted`
            return _interrupted(error, debug)
        raise


def _interrupted(error: BaseException, debug: bool) -> int:
    text = "interrupted; what was finished is saved, the same command (or `sciinv resume OUT`) goes on"
    _tell(error, text, debug)
    return int(getattr(error, "exit_code", 130))


def _tell(error: BaseException, text: str, debug: bool) -> None:
    typer.echo(f"sciinv: {text}", err=True)
    if debug:
        import traceback

        typer.echo("".join(traceback.format_exception(error)), err=True)
