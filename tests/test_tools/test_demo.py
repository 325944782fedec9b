"""The stages of tools/demo.py, on a few scenes and for a few steps."""
import json
import os.path as osp
import sys
from types import SimpleNamespace

import pytest

from cyborgs_plugin.errors import UserError

from ..helpers import ROOT
from ..warm_python import python

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


FEW = [
    'train_cfg.max_epochs=1', 'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False'
]
DETECTOR = [
    *FEW, 'train_cfg.val_interval=1', 'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'model.test_cfg.rcnn.score_thr=0.'  # or it may find nothing
]


@pytest.mark.slow
@pytest.mark.needs('ops')
def test_the_stages_and_again(tmp_path, monkeypatch, capsys):
    """Its own configs and calls, each with fewer pictures and epochs."""
    work, data = tmp_path / 'work', tmp_path / 'toy'
    monkeypatch.setattr(demo, 'WORK', str(work))
    monkeypatch.setattr(demo, 'DATA', str(data))
    monkeypatch.setattr(demo, 'STATE', str(work / 'state.json'))
    monkeypatch.setattr(demo.sys, 'argv', ['demo.py'])
    monkeypatch.setattr(demo, 'sys', SimpleNamespace(executable=python()))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.chdir(tmp_path)
    scenes = [f'data_root={data}/']
    small = {
        'scenes': ['--num-train', '6', '--num-val', '2'],
        'pretrain': ['--cfg-options', *scenes, *FEW,
                     'train_dataloader.batch_size=4'],
        'cyborgs-pre': [*scenes, *DETECTOR],  # --cfg-options end its call
        'random': ['--cfg-options', *scenes, *DETECTOR]
    }
    stage = demo.stage
    monkeypatch.setattr(
        demo, 'stage', lambda name, *call, **share: stage(
            name, *call, *small.get(name, []), **share))
    demo.main()
    said = capsys.readouterr().out
    assert (work / 'masks.png').is_file()
    assert '[pretrain] Mask round 0: 8 images' in said
    log = (work / 'cyborgs-pre.log').read_text()
    assert 'model.backbone: 173 of 173 tensors were loaded' in log
    results = json.loads((work / 'results.json').read_text())
    assert {*results['scores']} == {'CYBORGS', 'random'}
    for start, scores in results['scores'].items():
        assert 0 <= scores['coco/bbox_mAP'] <= 1
        assert f'\n{start} ' in said
    demo.main()
    said = capsys.readouterr().out
    assert said.count('done before') == len(results['seconds']) == 6
