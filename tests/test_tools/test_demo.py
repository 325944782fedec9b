"""Parts of tools/demo.py; `make demo` runs the whole."""
import os.path as osp
import sys

import pytest

from cyborgs_plugin.errors import UserError

from ..helpers import ROOT

sys.path.insert(0, osp.join(ROOT, 'tools'))
import demo  # noqa: E402


def test_backbone_is_the_one_that_was_published_last(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, 'WORK', str(tmp_path))
    for name in ('a.pth', 'b.pth', 'newest.pth'):
        (tmp_path / name).touch()
    (tmp_path / 'publish.log').write_text(
        f'{tmp_path}/a.pth\nWrote {tmp_path}/b.pth and b.safetensors: 3\n'
        f'{tmp_path}/b.pth\na warning that came later\n')
    assert demo.published() == f'{tmp_path}/b.pth'
    (tmp_path / 'b.pth').unlink()
    with pytest.raises(UserError, match='publish.log names no .*--fresh'):
        demo.published()
