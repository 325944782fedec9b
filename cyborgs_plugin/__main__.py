"""The front door: every tool by its name, with or without a checkout.

cyborgs pretrain PHOTOS --out RUN
python -m cyborgs_plugin pretrain PHOTOS --out RUN
"""
import argparse
import ast
import os.path as osp
import runpy
import sys
import textwrap
from difflib import get_close_matches
from pathlib import Path

from . import commands

TOOLS = Path(osp.dirname(osp.abspath(__file__)), '.mim', 'tools')


def find_tools() -> dict[str, Path]:
    """The tools by name; the demo works only in a checkout."""
    return {
        path.stem: path
        for path in sorted(TOOLS.rglob('*.py')) if path.stem != 'demo'
        and "__name__ == '__main__'" in path.read_text(encoding='utf-8')
    }


def main() -> None:
    """Run the tool named by the first argument with the other arguments."""
    name = osp.splitext(osp.basename(sys.argv[0]))[0]
    by_script = name == 'cyborgs'
    door = ['cyborgs'] if by_script else ['python', '-m', 'cyborgs_plugin']
    tools = find_tools()
    if not tools:
        sys.exit(f'{TOOLS} holds no tools: install the package (`make setup` '
                 'or `pip install -e .` in a checkout)')
    short = {word: tools[tool] for word, tool in commands.SHORT.items()
             if tool in tools}
    parser = argparse.ArgumentParser(
        prog=' '.join(door),
        usage='%(prog)s COMMAND [ARGUMENTS]',
        description='Pretrain the backbone of a detector on photographs '
        'without labels. Works offline; nothing is sent anywhere.',
        epilog=_listing(door, short, tools),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False)
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        parser.print_help()
        sys.exit(0 if len(sys.argv) > 1 else 2)
    path = {**tools, **short}.get(sys.argv[1])
    if path is None:
        names = list(dict.fromkeys([*short, *tools]))
        near = get_close_matches(sys.argv[1], names, 1)
        print(f'There is no tool {sys.argv[1]!r}'
              + (f'; did you mean {near[0]!r}?' if near else '.')
              + f' There are {", ".join(names)}',
              file=sys.stderr)
        sys.exit(2)
    if by_script:
        commands.DOOR[:] = door
    sys.argv = [str(path), *sys.argv[2:]]
    # as Python does for a script: neighbouring files can be imported
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name='__main__')


def _listing(door: list[str], short: dict[str, Path],
             tools: dict[str, Path]) -> str:
    """The commands with what they do, and the names of the other tools."""
    lines = ['commands:']
    for word, path in short.items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
        lines.append(f'  {word:14}{(text or "").splitlines()[0]}')
    others = ' '.join(name for name in tools
                      if tools[name] not in short.values())
    return '\n'.join([
        *lines, '', 'other tools, by their names:', *(
            f'  {line}' for line in textwrap.wrap(others, 72)),
        '', f'`{" ".join(door)} COMMAND --help` explains one.'
    ])



if __name__ == '__main__':
    main()
