"""What the texts link to and tell to run exists."""

import re
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
