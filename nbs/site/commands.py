"""The list of verbs and options on the page about the command line, made from the command itself."""

from collections.abc import Iterator

import typer


def _cell(text) -> str:
    return ' '.join(str(text or '').split()).replace('|', '\\|')


def _parameter(parameter) -> str:
    "One parameter of a verb as a row of a Markdown table."
    is_option = parameter.param_type_name == 'option'
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name]
    default = parameter.default
    if parameter.required:
        shown = 'required'
    elif default is False or default == '' or not isinstance(default, (str, int, float)):
        shown = ''
    else:
        shown = f'`{default}`'
    return f'| {", ".join(f"`{n}`" for n in names)} | {shown} | {_cell(parameter.help)} |'


def _verbs(command, name: str) -> Iterator[str]:
    "One section per verb; a group of verbs has a section for each."
    if not getattr(command, 'hidden', False):
        verbs = getattr(command, 'commands', None)
        if not verbs:
            yield f'### {name}\n\n{_cell(command.help)}\n'
            rows = [_parameter(p) for p in command.params if not getattr(p, 'hidden', False)]
            if rows:
                yield '\n'.join(['| parameter | default | what it is |', '|---|---|---|', *rows, ''])
        for verb, below in (verbs or {}).items():
            yield from _verbs(below, f'{name} {verb}')


def command_reference(app: typer.Typer) -> str:
    "Markdown for all verbs of the command."
    return '\n## All verbs\n\n' + '\n'.join(_verbs(typer.main.get_command(app), 'tracenb'))
