"""Nothing of a fine-tuning's start fails in silence."""
import json
import logging
import pickle
import types

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, BaseModule, Sequential
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from cyborgs_plugin.engine.transfer_check import (
    PretrainedCheckHook,
    check_annotations,
    check_files,
    check_loaded,
    check_name_hash,
    sha256,
)


class Body(BaseModule):

    def __init__(self, width=4, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, width, 1)
        self.bn = nn.BatchNorm2d(width)


class Model(BaseModel):
    """A model of the toolbox with a pretrained part."""

    def __init__(self, init_cfg, width=4, spoil=False):
        super().__init__()
        self.backbone = Body(width, init_cfg)
        self.head = Sequential(nn.Linear(width, 1))
        self.spoil = spoil

    def init_weights(self):
        super().init_weights()
        if self.spoil:
            nn.init.zeros_(self.backbone.conv.weight)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.head(inputs).mean())


def write(path, prefix='net4.', width=4, drop=()):
    torch.manual_seed(1)
    state = {
        f'{prefix}{key}': value
        for key, value in Body(width).state_dict().items() if key not in drop
    }
    torch.save(dict(state_dict=state), path)
    return str(path)


def init(path, prefix='net4.'):
    return dict(type='Pretrained', checkpoint=path, prefix=prefix)


def test_what_fits(tmp_path):
    model = Model(init(write(tmp_path / 'x.pth')))
    line, = check_files(model)
    assert 'model.backbone' in line and 'x.pth' in line
    with pytest.raises(ValueError, match='conv.weight.*init_weights has not'):
        check_loaded(model)  # not loaded yet
    model.init_weights()
    line, = check_loaded(model)
    assert '6 of 6 tensors' in line  # no count of batches


@pytest.mark.parametrize('drop', [(), ('bn.num_batches_tracked', )])
def test_without_a_prefix_and_behind_a_wrapper(tmp_path, drop):
    path = write(tmp_path / 'x.pth', 'module.', drop=drop)
    model = Model(dict(type='Pretrained', checkpoint=path))
    model.init_weights()
    assert len(check_loaded(model)) == 1


def test_wrong_prefix(tmp_path):
    path = write(tmp_path / 'x.pth', 'target_net.module.0.')
    with pytest.raises(ValueError, match="'net4.'.*target_net"):
        check_files(Model(init(path)))
    with pytest.raises(ValueError, match='6 are missing.*conv.weight.*tar'):
        check_files(Model(dict(type='Pretrained', checkpoint=path)))


def test_other_shapes_and_missing_tensors(tmp_path):
    path = write(tmp_path / 'x.pth', drop=('bn.bias', ), width=8)
    with pytest.raises(ValueError) as error:
        check_files(Model(init(path)))
    assert '1 are missing (bn.bias)' in str(error.value)
    assert 'conv.weight (8, 3, 1, 1) instead of (4, 3, 1, 1)' in str(
        error.value)


def test_mmengine_would_only_log_it(tmp_path):
    """The reason for all this: half a file passes, and nothing is said."""
    path = write(tmp_path / 'x.pth', drop=('bn.bias', ), width=8)
    Model(init(path)).init_weights()


class Canary:

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='publish_backbone.py'):
        check_files(Model(init(str(tmp_path / 'none.pth'))))
    path = tmp_path / 'x.pth'
    torch.save(dict(state_dict={}, evil=Canary(tmp_path / 'canary')), path)
    with pytest.raises(ValueError, match='code would run'):
        check_files(Model(init(str(path))))
    path.write_bytes(pickle.dumps(Canary(tmp_path / 'canary')))
    with pytest.raises(ValueError, match='damaged, or'):
        check_files(Model(init(str(path))))
    assert not (tmp_path / 'canary').exists()
    good = tmp_path / 'y.pth'
    write(good)
    good.write_bytes(good.read_bytes()[:-300])
    with pytest.raises(ValueError, match='damaged'):
        check_files(Model(init(str(good))))


def test_hash_in_the_name(tmp_path):
    import hashlib
    path = write(tmp_path / 'x.pth')
    digest = hashlib.sha256((tmp_path / 'x.pth').read_bytes()).hexdigest()
    assert sha256(path) == digest
    named = tmp_path / f'x-{digest[:8]}.pth'
    (tmp_path / 'x.pth').rename(named)
    check_name_hash(str(named))
    content = bytearray(named.read_bytes())
    content[len(content) // 2] ^= 1
    named.write_bytes(content)
    with pytest.raises(ValueError, match='truncated or altered'):
        check_files(Model(init(str(named))))


def runner(model, folder, **more):
    model.register_forward_pre_hook(lambda *_: None)
    made = Runner(
        model,
        str(folder),
        train_dataloader=DataLoader([torch.ones(4)] * 2),
        train_cfg=dict(by_epoch=True, max_epochs=more.pop('epochs', 1)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=None),
        experiment_name=str(folder),
        **more)
    made.model.data_preprocessor = None
    made.model.train_step = types.MethodType(_step, made.model)
    made.register_hook(PretrainedCheckHook())
    return made


def _step(self, data, optim_wrapper):
    loss = self(data)['loss']
    optim_wrapper.update_params(loss)
    return dict(loss=loss)


def test_hook(tmp_path, caplog):
    path = write(tmp_path / 'x.pth')
    runner(Model(init(path)), tmp_path / 'a').train()
    log, = (tmp_path / 'a').glob('*/*.log')
    assert '6 of 6 tensors were loaded' in log.read_text()

    bad = write(tmp_path / 'y.pth', width=8)
    with pytest.raises(ValueError, match='does not fit'):
        runner(Model(init(bad)), tmp_path / 'b').train()
    with pytest.raises(ValueError, match='after loading: conv.weight'):
        runner(Model(init(path), spoil=True), tmp_path / 'c').train()
    # the pretrained weights of a resumed run are those of its checkpoint
    runner(Model(init(path), spoil=True), tmp_path / 'a', resume=True,
           epochs=2).train()
    logging.shutdown()


def test_hook_is_known_in_every_scope():
    init_default_scope('mmdet')
    assert isinstance(
        HOOKS.build(dict(type='PretrainedCheckHook')), PretrainedCheckHook)


def test_model_without_pretrained_parts():
    model = Model(None)
    assert check_files(model) == check_loaded(model) == []
    assert MODELS  # the registry of the toolbox


CLASSES = ('cat', 'dog', 'cow')


def coco(path, names=CLASSES, masks=True, cut=None):
    annotations = [
        dict(
            id=number,
            image_id=1,
            category_id=1,
            bbox=[1, 1, 4, 4],
            segmentation=[[1, 1, 5, 1, 5, 5]]) for number in range(1, 4)
    ]
    if not masks:
        annotations[1].pop('segmentation')
        annotations[2]['segmentation'] = []
    text = json.dumps(
        dict(
            images=[dict(id=1, file_name='a.jpg', width=8, height=8)],
            annotations=annotations,
            categories=[
                dict(id=number, name=name)
                for number, name in enumerate(names, 1)
            ]))
    path.write_text(text[:cut])


def detection(folder, with_mask=True, **more):
    loaders = {
        f'{split}_dataloader': dict(
            dataset=dict(
                type='RepeatDataset',
                dataset=dict(
                    type='CocoDataset',
                    data_root=str(folder),
                    ann_file=f'{split}.json',
                    metainfo=dict(classes=CLASSES),
                    pipeline=[
                        dict(type='LoadAnnotations', with_mask=with_mask)
                    ])))
        for split in ('train', 'val')
    }
    return Config(dict(default_scope='mmdet', **loaders, **more))


def test_annotations(tmp_path):
    coco(tmp_path / 'train.json')
    with pytest.raises(FileNotFoundError, match='val.json.*data_root'):
        check_annotations(detection(tmp_path))
    coco(tmp_path / 'val.json', (*CLASSES, 'tree'))  # more is no harm
    lines = check_annotations(detection(tmp_path))
    assert len(lines) == 2 and '1 images, 3 annotations' in lines[0]


@pytest.mark.parametrize('spoil, said', [
    (dict(masks=False), 'val.json.*2 of 3 annotations have no segmentation '
     r'\(ids 2, 3\)'),
    (dict(names=('cat', 'sheep')), 'val.json.*2 of 3 are missing: dog, cow; '
     'the file has cat, sheep.*metainfo.classes'),
    (dict(names=('cat', 'cow', 'dog')), 'different orders'),
    (dict(names=()), 'no categories'),
    (dict(cut=100), 'val.json.*truncated'),
])
def test_bad_annotations(tmp_path, spoil, said):
    coco(tmp_path / 'train.json')
    coco(tmp_path / 'val.json', **spoil)
    with pytest.raises(ValueError, match=said):
        check_annotations(detection(tmp_path))
    if 'masks' in spoil:  # boxes need none
        assert check_annotations(detection(tmp_path, with_mask=False))


def test_classes_of_the_data_set_itself(tmp_path):
    coco(tmp_path / 'train.json')
    coco(tmp_path / 'val.json')
    cfg = detection(tmp_path)
    cfg.train_dataloader.dataset.dataset.pop('metainfo')
    with pytest.raises(ValueError, match='77 of 80 are missing: person'):
        check_annotations(cfg)


def test_lvis_package(tmp_path, monkeypatch):
    import sys
    coco(tmp_path / 'train.json')
    coco(tmp_path / 'val.json')
    cfg = detection(tmp_path, val_evaluator=dict(type='LVISMetric'))
    old = tmp_path / 'eval.py'
    old.write_text('x.astype(dtype=np.float)')
    module = types.ModuleType('lvis')
    module.eval = types.ModuleType('lvis.eval')
    module.eval.__file__ = str(old)
    monkeypatch.setitem(sys.modules, 'lvis', module)
    monkeypatch.setitem(sys.modules, 'lvis.eval', module.eval)
    monkeypatch.delattr(np, 'float', raising=False)
    with pytest.raises(ImportError, match='np.float.*lvis-api.git'):
        check_annotations(cfg)
    old.write_text('x.astype(dtype=float)')
    assert check_annotations(cfg)
    monkeypatch.setitem(sys.modules, 'lvis.eval', None)
    with pytest.raises(ImportError, match='pip install.*lvis-api.git'):
        check_annotations(cfg)


def test_configs_without_annotations():
    assert check_annotations(Config(dict(train_dataloader=None))) == []
