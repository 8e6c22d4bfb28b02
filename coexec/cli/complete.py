"""Prints a script that completes verbs, options and their choices in bash, zsh or fish. It is made from the parser, so it knows every option."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

from .console import Console

HELP = "a script for the shell's TAB key"
EXAMPLES = (
    "coexec complete bash  # save it as ~/.local/share/bash-completion/completions/coexec",
    "coexec complete zsh   # save it as _coexec in a folder of $fpath",
    "coexec complete fish  # save it as ~/.config/fish/completions/coexec.fish",
)
#: A script, not argcomplete: completing then starts no Python, which takes a second on a board, and needs no package.
NOTES = """Start a new shell afterwards. The script knows every option and choice, and starts no Python when TAB is pressed."""

_BASH = """\
_coexec() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}} words=""
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "{verbs} --help --version" -- "$word"))
        return
    fi
    case "$verb $before" in
{choices}
    esac
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
        return
    fi
    case "$word" in
        -*) ;;
        *) COMPREPLY=($(compgen -f -- "$word")); return ;;
    esac
    case "$verb" in
{options}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o filenames -F _coexec coexec
"""
#: A line per verb, option and choice; `__fish_seen_subcommand_from` says which verb the line is of.
_FISH_VERB = "complete -c coexec -f -n __fish_use_subcommand -a {verb} -d {help}"
_FISH_OPTION = "complete -c coexec -n '__fish_seen_subcommand_from {verb}'{names}{takes} -d {help}"
_FISH_CHOICES = "complete -c coexec -f -n '__fish_seen_subcommand_from {verb}' -a {choices}"
#: zsh loads the file at the first TAB, as the function that is to complete, and so has to be given an answer then, too.
_ZSH = ("#compdef coexec\nautoload -U +X bashcompinit && bashcompinit\n"
        "{bash}if (( ${{+compstate}} )); then _bash_complete -o filenames -F _coexec; fi\n")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="bash|zsh|fish", help="the shell that is to complete")


def execute(options: argparse.Namespace, console: Console) -> int:
    text = script(options.shell)
    console.emit({"shell": options.shell, "script": text})
    console.result(text.rstrip("\n"))
    return 0


def script(shell: str) -> str:
    """The completion script of that shell."""
    from .main import make_parser

    parsers = make_parser()[1]
    if shell == "fish":
        return "\n".join(_fish(parsers)) + "\n"
    options, choices = [], []
    for verb, parser in parsers.items():
        names = [name for action in parser._actions for name in action.option_strings]
        options.append(f'        {verb}) words="{" ".join(names)}" ;;')
        for action in parser._actions:
            known = _choices(action)
            for name in (action.option_strings or [verb]) if known else ():
                choices.append(f'        "{verb} {name}") words="{" ".join(map(str, known))}" ;;')
    text = _BASH.format(verbs=" ".join(parsers), options="\n".join(options), choices="\n".join(choices))
    return _ZSH.format(bash=text) if shell == "zsh" else text


def _choices(action: argparse.Action) -> list[str]:
    """What may follow that option, or stand in that place; nothing where it is free."""
    from ..partition.strategies.base import strategies

    return list(action.choices or (strategies() if "--strategy" in action.option_strings else ()))


def _fish(parsers: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    """fish's lines, with what each verb and option is for."""
    from .main import verb as module

    for verb, parser in parsers.items():
        yield _FISH_VERB.format(verb=verb, help=shlex.quote(module(verb).HELP))
        for action in parser._actions:
            known = _choices(action)
            if not action.option_strings:
                if known:
                    yield _FISH_CHOICES.format(verb=verb, choices=shlex.quote(" ".join(known)))
                continue
            names = "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in action.option_strings)
            takes = f" -x -a {shlex.quote(' '.join(known))}" if known else "" if action.nargs == 0 else " -r"
            said = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
            yield _FISH_OPTION.format(verb=verb, names=names, takes=takes, help=shlex.quote(said))
