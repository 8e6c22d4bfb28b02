"""Prints a script that completes verbs, options and their choices in bash or zsh. It is made from the parser, so it knows every option.

A script, not argcomplete: completing then starts no Python, which takes a second on a board, and needs no package.
"""

from __future__ import annotations

import argparse

from .console import Console

HELP = "a script for the shell's TAB key"
EXAMPLES = (
    "coexec complete bash         save it as ~/.local/share/bash-completion/completions/coexec",
    "coexec complete zsh          save it as _coexec in a folder of $fpath",
)

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
_ZSH = "#compdef coexec\nautoload -U +X bashcompinit && bashcompinit\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), metavar="bash|zsh")


def execute(options: argparse.Namespace, console: Console) -> int:
    text = script(options.shell)
    console.emit({"shell": options.shell, "script": text})
    console.result(text.rstrip("\n"))
    return 0


def script(shell: str) -> str:
    """The completion script of that shell."""
    from ..partition.strategies.base import strategies
    from .main import make_parser

    parsers = make_parser()[1]
    options, choices = [], []
    for verb, parser in parsers.items():
        names = [name for action in parser._actions for name in action.option_strings]
        options.append(f'        {verb}) words="{" ".join(names)}" ;;')
        for action in parser._actions:
            known = list(action.choices or (strategies() if "--strategy" in action.option_strings else ()))
            for name in (action.option_strings or [verb]) if known else ():
                choices.append(f'        "{verb} {name}") words="{" ".join(map(str, known))}" ;;')
    text = _BASH.format(verbs=" ".join(parsers), options="\n".join(options), choices="\n".join(choices))
    return (_ZSH if shell == "zsh" else "") + text
