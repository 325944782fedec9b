"""Run a tool of the package from any folder, with or without a checkout.

python -m cyborgs_plugin train cyborgs_plugin::cyborgs_small_data.py ...
"""
import os.path as osp
import runpy
import sys
from pathlib import Path

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
    tools = find_tools()
    if not tools:
        sys.exit(f'{TOOLS} holds no tools: install the package (`make setup` '
                 'or `pip install -e .` in a checkout)')
    names = 'Tools: ' + ', '.join(tools)
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        print(f'Usage: python -m cyborgs_plugin TOOL [ARGUMENTS]\n{names}\n'
              '`python -m cyborgs_plugin TOOL --help` explains one.')
        sys.exit(0 if len(sys.argv) > 1 else 2)
    if sys.argv[1] not in tools:
        print(f'There is no tool {sys.argv[1]!r}. {names}', file=sys.stderr)
        sys.exit(2)
    path = tools[sys.argv[1]]
    sys.argv = [str(path), *sys.argv[2:]]
    # as Python does for a script: neighbouring files can be imported
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name='__main__')


if __name__ == '__main__':
    main()
