"""What the texts link to and tell to run exists."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')])
FOLDERS = ('configs', 'cyborgs_plugin', 'docs', 'tests', 'tools')
FILES = {
    path.name
    for folder in FOLDERS for path in (ROOT / folder).rglob('*')
}.union(path.name for path in ROOT.iterdir())
FILES.add('config.py')  # which mmengine writes into vis_data
# which the reader of a tutorial writes
FILES.update(['detector.py', 'detector_random.py'])


def code_of(text):
    blocks = re.findall(r'^```\w*\n(.*?)^```', text, re.M | re.S)
    return '\n'.join(blocks + re.findall(r'`([^`\n]+)`', text))


def unknown_files(text):
    """Names of files in backticks, without a folder, that there are not.

    One of a single letter, such as ``x.yaml``, stands for any.
    """
    named = re.findall(r'`([\w.-]{2,}\.(?:md|py|sh|ya?ml))`', text)
    return [name for name in named if name not in FILES]


@pytest.fixture(params=TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def text(request):
    return request.param


def test_links(text):
    links = re.findall(r'\]\(([^)\s]+)\)', text.read_text())
    for link in links:
        target = link.partition('#')[0]
        if target and not re.match(r'[a-z]+:', target):
            assert (text.parent / target).exists(), link


def test_make_targets(text):
    makefile = (ROOT / 'Makefile').read_text()
    for target in re.findall(r'^(?:\$ )?make ([a-z][a-z-]*)',
                             code_of(text.read_text()), re.M):
        assert re.search(f'^{target}:', makefile, re.M), target


def test_files_in_commands(text):
    paths = re.findall(
        r'(?<![\w/.:-])((?:configs|tools|tests|requirements|cyborgs_plugin)'
        r'/[\w./-]+\.(?:py|sh|txt|yml))\b', code_of(text.read_text()))
    for path in paths:
        assert (ROOT / path).exists(), path


def test_names_of_files(text):
    assert not unknown_files(text.read_text())


def test_an_unknown_name_is_seen():
    text = 'as of `ALGORITHM.md`, `no.py`, `data.md`, `x.yaml` and `torch.nn`'
    assert unknown_files(text) == ['ALGORITHM.md', 'no.py']


def strings_of_the_code():
    """All texts in the code; what is filled in at run time is left out."""
    texts = []
    for folder in ('cyborgs_plugin', 'tools'):
        for path in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    texts.append(''.join(
                        str(part.value) for part in node.values
                        if isinstance(part, ast.Constant)))
                elif isinstance(node, ast.Constant):
                    texts.append(str(node.value))
    return '\n'.join(texts)


def test_messages_in_troubleshooting_are_those_of_the_code():
    table = (ROOT / 'docs/troubleshooting.md').read_text()
    quoted = [
        message for message in re.findall(r'^\| `([^`]+)` \|', table, re.M)
        if not message.startswith('Could not import OneDL')  # mmpretrain's
    ]
    assert len(quoted) >= 5
    code = strings_of_the_code()
    assert [message for message in quoted if message not in code] == []


@pytest.fixture
def config_keys(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'docs' / '_ext'))
    return importlib.import_module('config_keys')


def test_the_table_of_keys_is_that_of_the_code(config_keys):
    """`make docs` writes it anew."""
    table = ROOT / 'docs' / config_keys.PAGE
    assert table.read_text() == config_keys.page()


def test_each_key_is_explained(config_keys):
    for kind in sum(config_keys.components().values(), []):
        explained = {name for name, *_ in config_keys.arguments(kind)}
        taken = {
            name
            for name, each in inspect.signature(kind).parameters.items()
            if each.kind is each.POSITIONAL_OR_KEYWORD
        } if '__init__' in vars(kind) else set()
        assert taken <= explained, kind


@pytest.mark.slow
def test_pages_build_without_a_warning(tmp_path):
    result = subprocess.run([
        sys.executable, '-m', 'sphinx', '--fail-on-warning', '--keep-going',
        '--quiet', ROOT / 'docs', tmp_path
    ], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / 'reference' / 'models.html').read_text()
    assert 'cyborgs_plugin.models.MaskGroundedNeck' in page
