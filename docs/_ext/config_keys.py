"""Write the table of all config keys from the docstrings."""
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine import registry as mmengine_registry
from sphinx.application import Sphinx

import cyborgs_plugin  # noqa: F401  registers its components

PAGE = Path('reference', 'config_keys.md')
HEAD = """# Every config key

The components that this package registers, by the place of a config that takes
them, with the arguments of each. Text, types and defaults come from the code:
`docs/_ext/config_keys.py` writes this page at each `make docs`. Arguments of
the toolbox's own components are in its documentation.
"""
# Registry of mmengine, and where a config names what is in it.
PLACES = {
    'MODELS': 'Models, necks, heads, losses: `model`',
    'DATASETS': 'Data sets: `train_dataloader.dataset`',
    'DATA_SAMPLERS': 'Order of the images: `train_dataloader.sampler`',
    'TRANSFORMS': 'Transforms: `train_dataloader.dataset.pipeline`',
    'TASK_UTILS': 'Sources of masks: `default_hooks.mask_update.source`',
    'METRICS': 'Scores of masks: `default_hooks.mask_update.evaluator`',
    'HOOKS': 'Hooks: `default_hooks`, `custom_hooks`',
    'OPTIM_WRAPPERS': 'Precision: `optim_wrapper`',
    'OPTIM_WRAPPER_CONSTRUCTORS': 'Parameters: `optim_wrapper.constructor`',
    'OPTIMIZERS': 'Optimisers: `optim_wrapper.optimizer`',
    'PARAM_SCHEDULERS': 'Schedules: `param_scheduler`',
}


def components() -> dict[str, list[type]]:
    """All classes of this package that a config can name, by registry."""
    found: dict[str, list[type]] = {}
    for name, root in vars(mmengine_registry).items():
        if isinstance(root, mmengine_registry.Registry):
            classes = {
                kind
                for each in (root, *root.children.values())
                for kind in each.module_dict.values()
                if kind.__module__.startswith('cyborgs_plugin.')
            }
            if classes:
                found[name] = sorted(classes, key=lambda kind: kind.__name__)
    return found


def arguments(kind: type) -> Iterator[tuple[str, str, str]]:
    """Arguments that the docstring of a class explains.

    Args:
        kind (type): The class, with an ``Args`` section in Google style.

    Yields:
        tuple[str, str, str]: Name, type and meaning of each argument.
    """
    doc = inspect.getdoc(kind) or ''
    section = re.search(r'^Args:\n((?:    .*\n|\n)+)', doc + '\n', re.M)
    if section is None:
        return
    text = inspect.cleandoc(section[1])
    for item in re.split(r'\n(?=\S)', text):
        match = re.match(r'(\S+) \((.*?)\):\s+(.*)', item, re.S)
        if match is not None:
            name, type_, meaning = match.groups()
            yield name, ' '.join(type_.split()), ' '.join(meaning.split())


def default(kind: type, name: str) -> str:
    """The default of an argument as a config writes it, or 'required'."""
    for base in kind.__mro__:
        signature = inspect.signature(base.__init__)
        if name in signature.parameters:
            value: Any = signature.parameters[name].default
            if value is inspect.Parameter.empty:
                return 'required'
            return f'`{value!r}`'
    return ''


def markdown(text: str) -> str:
    """Turn the little reStructuredText of a docstring into Markdown."""
    text = re.sub(r':\w+:`~?(?:[\w.]*\.)?\s*([\w]+)`', r'`\1`', text)
    text = re.sub(r'`([^`<]+?)\s*<(\S+)>`_', r'[\1](\2)', text)
    return text.replace('``', '`').replace('|', '\\|')


def without_default(text: str) -> str:
    """Leave out the sentence that only repeats the default."""
    return re.sub(r'\s*Defaults to [^,]*\.$', '', text)


def page() -> str:
    """Lay out the page.

    Returns:
        str: Markdown, a table for each component.
    """
    found = components()
    lines = [HEAD]
    for registry, place in PLACES.items():
        lines.append(f'## {place}\n')
        for kind in found.pop(registry, []):
            summary = (inspect.getdoc(kind) or '').partition('\n\n')[0]
            lines += [f'### {kind.__name__}\n', markdown(summary) + '\n']
            rows = [
                f'| `{name}` | {markdown(type_)} | {default(kind, name)} | '
                f'{markdown(without_default(meaning))} |'
                for name, type_, meaning in arguments(kind)
            ]
            if rows:
                lines += ['| key | type | default | meaning |',
                          '|---|---|---|---|', *rows, '']
    if found:
        raise RuntimeError('docs/_ext/config_keys.py has no place for '
                           f'{sorted(found)}; add one to PLACES')
    return '\n'.join(lines)


def _write(app: Sphinx) -> None:
    path = Path(app.srcdir) / PAGE
    path.parent.mkdir(exist_ok=True)
    path.write_text(page(), encoding='utf-8')


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx: the page is written before pages are read."""
    app.connect('builder-inited', _write)
    return {'parallel_read_safe': True}
