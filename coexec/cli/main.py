"""coexec VERB ...: finds the verb, runs it, and turns every failure into one line and an exit code."""

from __future__ import annotations

import importlib
import logging
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import Any

from .. import __version__, settings
from ..errors import CoexecError, UsageError, suggest
from . import options
from .console import Console, silence

#: In the order of --help. Each is a module beside this one with HELP, NOTES, EXAMPLES, arguments(parser) and execute(options, console);
#: ON_A_BOARD has the examples that need one.
VERBS = ("doctor", "profile", "plan", "simulate", "run", "bench", "report", "evaluate", "validate", "cache", "complete")

INTERRUPTED, PIPE_CLOSED = 130, 141

DESCRIPTION = """Runs an ONNX model on the CPU and the OpenCL GPU at once, splitting every operator between the two."""

EPILOG = """first steps:
  coexec doctor                          what this machine has, and what is missing
  coexec run model.onnx --random         run a model on made-up input
  coexec bench model.onnx                CPU alone, GPU alone and both, side by side
  coexec report model.onnx               a page with pictures of the plan and of a run
  coexec VERB --help                     options and examples of a verb

"""
EXIT_CODES = """exit codes:
  0 ok  1 failure  2 usage  3 no device  4 unsupported model  5 numeric mismatch  6 hang or time-out  7 profile mismatch  130 Ctrl-C"""


def verb(name: str) -> Any:
    """The module of that verb."""
    return importlib.import_module(f".{name}", __package__)


def make_parser() -> tuple[options.Parser, dict[str, options.Parser]]:
    """The whole command line, and its verbs' parsers by name."""
    parser = options.Parser(prog="coexec", description=DESCRIPTION, epilog=EPILOG + EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"coexec {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=options.Parser)
    parsers = {}
    for name in VERBS:
        module = verb(name)
        examples = "\n".join(f"  {line}" for line in (*module.EXAMPLES, *getattr(module, "ON_A_BOARD", ())))
        epilog = f"notes:\n{textwrap.indent(module.NOTES, '  ')}\n\nexamples:\n{examples}\n\n{EXIT_CODES}"
        parsers[name] = verbs.add_parser(name, help=module.HELP, description=module.__doc__, epilog=epilog)
        module.arguments(parsers[name])
        options.common(parsers[name])
    return parser, parsers


def parse(arguments: Sequence[str]) -> Any:
    """The options. Raises UsageError for a wrong one, SystemExit after --help and --version."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
        raise UsageError(f"unknown verb '{arguments[0]}'", hint=suggest(arguments[0], VERBS))
    parser, parsers = make_parser()
    found, unknown = parser.parse_known_args(arguments)
    if unknown:
        (parsers[found.verb] if found.verb else parser).refuse(unknown)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(as_json="--json" in arguments)
    try:
        code = _run(arguments, console)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        silence(sys.stdout)
        return PIPE_CLOSED
    except OSError as error:  # a full disk, noticed by the last flush
        silence(sys.stdout)
        print(f"coexec: error: cannot write the output: {error.strerror}", file=sys.stderr)
        return CoexecError.exit_code
    except KeyboardInterrupt:
        print("coexec: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: Sequence[str], console: Console) -> int:
    try:
        found = parse(arguments)
        if found.verb is None:
            raise UsageError("a verb is missing", expected=", ".join(VERBS), hint="see `coexec --help`")
        console = Console(found.json, found.quiet, found.verbose)
        logging.basicConfig(format="coexec: %(message)s", level=logging.ERROR if found.quiet else logging.WARNING)
        for name in settings.SETTINGS:  # an unreadable variable is said now, not halfway through
            settings.get(name)
        with settings.override(**_overrides(found)):
            return verb(found.verb).execute(found, console)
    except SystemExit as leaving:  # --help and --version
        return int(leaving.code or 0)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except CoexecError as error:
        return _failed(console, str(error), type(error).__name__, error.exit_code)
    except MemoryError:
        return _failed(console, "not enough memory; try fewer --threads, a smaller --shape or a smaller model", "MemoryError", 1)
    except OSError as error:
        return _failed(console, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", "OSError", 1)
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return _failed(console, f"internal error: {words}; set COEXEC_DEBUG=1 for the traceback, and report it", type(error).__name__, 1)


def _overrides(found: Any) -> dict[str, Any]:
    """Options that are settings too: everything below reads them there."""
    named = {"opencl": getattr(found, "gpu", None), "threads": getattr(found, "threads", None)}
    return {name: value for name, value in named.items() if value}


def _debugging() -> bool:
    try:
        return settings.get("debug") > 0
    except UsageError:  # COEXEC_DEBUG itself is unreadable: that is the message to show, without a traceback
        return False


def _failed(console: Console, message: str, kind: str, code: int) -> int:
    if _debugging():
        traceback.print_exc(file=console.err)
    print(f"coexec: {console.style('error:', 'red', console.err)} {message}", file=console.err)
    console.emit({"error": {"type": kind, "message": message, "exit_code": code}})
    return code
