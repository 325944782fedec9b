"""Nothing of a fine-tuning's start fails in silence."""
import json
import logging
import pickle
import types

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import (
    BaseModel,
    BaseModule,
    ExponentialMovingAverage,
    ImgDataPreprocessor,
    Sequential,
)
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.models import ClsDataPreprocessor, ResNet
from torch import nn
from torch.utils.data import DataLoader

from cyborgs_plugin.engine import PretrainedCheckHook
from cyborgs_plugin.files import check_name_hash, sha256
from cyborgs_plugin.transfer.annotation_check import (
    check_annotations,
    check_config,
    check_file_kinds,
)
from cyborgs_plugin.transfer.pretrained_check import (
    check_checkpoint,
    check_files,
    check_loaded,
)
from cyborgs_plugin.transfer.recipe_check import (
    RECIPE,
    check_recipe,
    recipe_of,
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


class Blocks(BaseModule):
    """Blocks of a network, to which a detector may add parts."""

    def __init__(self, depth=2, added=False, init_cfg=None):
        super().__init__(init_cfg)
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(depth))
        if added:
            self.blocks[1].offset = nn.Conv2d(3, 18, 1)


@pytest.mark.parametrize('depth, added, fits', [
    (2, False, True), (2, True, True), (3, False, False)])
def test_added_parts_are_no_misfit_but_more_blocks_are(
        tmp_path, depth, added, fits):
    """As deformable convolutions in a ResNet of ImageNet."""
    path = tmp_path / 'x.pth'
    torch.save(dict(state_dict=Blocks().state_dict()), path)
    model = Model(None)
    model.backbone = Blocks(
        depth, added, dict(type='Pretrained', checkpoint=str(path)))
    if not fits:
        with pytest.raises(ValueError, match='blocks.2.weight'):
            check_files(model)
        return
    line, = check_files(model)
    assert ('blocks.1.offset.weight' in line) == added
    model.init_weights()
    line, = check_loaded(model)
    assert line.startswith('model.backbone: 4 of 4 tensors')


def test_networks_that_resize_what_they_load_are_left_alone(tmp_path):
    model = Model(init(write(tmp_path / 'x.pth')), width=8)
    with pytest.raises(ValueError, match='other shapes'):
        check_files(model)
    model.backbone._register_load_state_dict_pre_hook(lambda *_: None)
    line, = check_files(model)
    assert 'renames or resizes' in line and check_loaded(model) == []


def test_networks_that_rename_and_need_not_are_compared(tmp_path):
    """As mmdet's Swin, which reads what begins with `backbone.` alone."""
    path = write(tmp_path / 'x.pth')
    model = Model(init(path))
    model.backbone.convert_weights = False
    assert len(check_files(model)) == 1
    model.init_weights()
    assert len(check_loaded(model)) == 1
    with torch.no_grad():
        model.backbone.conv.weight.add_(1)
    with pytest.raises(ValueError, match='1 of 6 tensors are not.*conv.wei'):
        check_loaded(model)


def test_a_norm_that_the_pretraining_had_not(tmp_path):
    class Stages(BaseModule):

        def __init__(self, norms, init_cfg=None):
            super().__init__(init_cfg)
            self.conv = nn.Conv2d(3, 4, 1)
            for number in norms:
                self.add_module(f'norm{number}', nn.LayerNorm(4))

    path = tmp_path / 'x.pth'
    torch.save(dict(state_dict=Stages((1, 2)).state_dict()), path)
    model = Model(None)
    cfg = dict(type='Pretrained', checkpoint=str(path))
    model.backbone = Stages((0, 1, 2), cfg)
    with pytest.raises(ValueError, match='2 are missing .norm0.weight, norm0.'
                       'bias.*norms of outputs.*out_indices'):
        check_files(model)
    model.backbone = Stages((1, 2), cfg)
    assert len(check_files(model)) == 1


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


@pytest.mark.parametrize('named', [None, 'none.pth', 'other.pth'])
def test_a_missing_file_says_who_names_it(named, monkeypatch):
    monkeypatch.delenv('BACKBONE', raising=False)
    if named:
        monkeypatch.setenv('BACKBONE', named)
    with pytest.raises(FileNotFoundError, match='none.pth') as error:
        check_files(Model(init('none.pth')))
    said = str(error.value)
    assert ('variable BACKBONE names' in said) == (named == 'none.pth')
    assert ('by BACKBONE=FILE' in said) == (named is None)


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


class Averaged(Model):
    """As CYBORGS: the target copies the online network and its init_cfg."""

    def __init__(self, init_cfg, whole=None):
        super().__init__(init_cfg)
        self.init_cfg = whole
        self.target_net = ExponentialMovingAverage(
            nn.Sequential(self.backbone, self.head))


def test_moving_averages_load_no_files(tmp_path):
    path = write(tmp_path / 'x.pth')
    model = Averaged(init(path))
    model.init_weights()
    line, = check_loaded(model)  # not one more for the target
    assert 'model.backbone: 6 of 6' in line
    assert not torch.equal(model.target_net.module[0].conv.weight,
                           model.backbone.conv.weight)
    runner(Averaged(init(path)), tmp_path / 'a').train()


def test_a_whole_file_needs_no_moving_average(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(Model(None).state_dict(), path)
    model = Averaged(None, dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    line, = check_loaded(model)
    assert '8 of 8 tensors were loaded' in line


def test_a_checkpoint_that_fits():
    state = Averaged(None).state_dict()
    for found in (state, dict(state_dict=state), {
            f'module.{key}': value for key, value in state.items()}):
        assert check_checkpoint(Averaged(None), found, 'x.pth') is None
    online = {k: v for k, v in state.items() if 'target_net' not in k}
    assert check_checkpoint(Averaged(None), online, 'x.pth') is None


def test_half_a_checkpoint_is_told():
    state = Model(None, width=8).state_dict()
    state.pop('head.0.bias')
    state['backbone.bn.weight'] = torch.ones(4)
    said = check_checkpoint(Model(None), dict(state_dict=state), 'x.pth')
    assert said.startswith('x.pth: only 1 of 8 tensors')
    assert '1 are missing (head.0.bias), 6 have other shapes' in said
    assert 'backbone.conv.weight (8, 3, 1, 1) instead of (4, 3, 1, 1)' in said


@pytest.mark.parametrize('resume', [False, True])
@pytest.mark.parametrize('other', [
    dict(state_dict={'net4.conv.weight': torch.ones(2)},
         meta=dict(arch='net4')),
    {'net4.conv.weight': torch.ones(2)},
    dict(meta=dict(epoch=3)),
    # a count of batches is no weight
    {'backbone.bn.num_batches_tracked': torch.tensor(3)},
    {f'backbone.{key}': torch.ones(3, 3) for key in Body().state_dict()},
])
def test_a_load_of_nothing_stops(tmp_path, other, resume):
    path = tmp_path / 'x.pth'
    torch.save(other, path)
    prefix = "'net4.'" if 'arch' in other.get('meta', ()) else r'\.\.\.'
    with pytest.raises(ValueError, match=(
            r'x.pth fits none of the 8 tensors.*backbone.conv.weight.*The '
            rf'file has .*model.backbone.init_cfg=dict\(.*x.pth.*{prefix}')):
        runner(Model(None), tmp_path / 'a', load_from=str(path),
               resume=resume).train()


def test_half_a_load_goes_on_and_is_logged(tmp_path):
    path = tmp_path / 'x.pth'
    state = dict(Model(None).state_dict())
    state.pop('head.0.bias')
    torch.save(dict(state_dict=state), path)
    runner(Model(None), tmp_path / 'a', load_from=str(path)).train()
    logging.shutdown()
    log, = (tmp_path / 'a').glob('*/*.log')
    assert 'WARNING' in log.read_text()
    assert 'x.pth: only 7 of 8 tensors' in log.read_text()


def test_an_evaluation_needs_no_pretrained_file(tmp_path):
    """A detector's checkpoint has replaced all that it once gave."""
    path = tmp_path / 'x.pth'
    model = Model(init(str(tmp_path / 'gone.pth')))
    torch.save(dict(state_dict=model.state_dict()), path)

    def evaluate(source):
        made = runner(
            model, tmp_path / 'a', load_from=str(source),
            test_dataloader=DataLoader([torch.ones(4)] * 2), test_cfg={},
            test_evaluator=Evaluator([]))
        made.model.test_step = lambda data: [None]
        return made.test()

    assert evaluate(path) == {}
    other = write(tmp_path / 'y.pth', 'other.')
    with pytest.raises(ValueError, match='y.pth fits none of the 8'):
        evaluate(other)


def test_hook_is_known_in_every_scope():
    init_default_scope('mmdet')
    assert isinstance(
        HOOKS.build(dict(type='PretrainedCheckHook')), PretrainedCheckHook)


def test_model_without_pretrained_parts():
    model = Model(None)
    assert check_files(model) == check_loaded(model) == []
    assert MODELS  # the registry of the toolbox


IMAGES = dict(mean=RECIPE['mean'], std=RECIPE['std'], bgr_to_rgb=True)
FULL = dict(RECIPE, epoch=3)
AS_CONFIG = dict(config="""
import os  # never done
os.mkdir('canary')
data_preprocessor = dict(mean=[1, 2, 3], std=[1, 1, 1])
model = dict(
    backbone=dict(depth=50, type='ResNet', init=os.getcwd()),
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        to_rgb=True))
""")


class Network(BaseModel):

    def __init__(self, path, images=None, depth=50, style='pytorch'):
        super().__init__(images)
        self.backbone = ResNet(
            depth, style=style,
            init_cfg=dict(type='Pretrained', checkpoint=str(path)))

    def forward(self, inputs):
        pass


@pytest.fixture
def file(tmp_path):
    """Write a file with such a meta (check_recipe reads no tensors)."""

    def write_meta(meta):
        content = dict(state_dict={})
        torch.save(dict(content, meta=meta) if meta else content,
                   tmp_path / 'x.pth')
        return tmp_path / 'x.pth'

    return write_meta


@pytest.mark.parametrize('meta', [FULL, AS_CONFIG, None])
@pytest.mark.parametrize('images, depth, style, said', [
    (IMAGES, 50, 'pytorch', None),
    (IMAGES, 18, 'caffe', None),  # without bottlenecks it means nothing
    (IMAGES, 50, 'caffe',
     "model.backbone.style is 'caffe', set it to 'pytorch'"),
    (dict(IMAGES, mean=[103.53, 116.28, 123.675]), 50, 'pytorch',
     r'model.data_preprocessor.mean is \[103.53, 116.28, 123.675\], set it '
     r'to \[123.675, 116.28, 103.53\]'),
    (dict(IMAGES, std=[1., 1., 1.]), 18, 'pytorch',
     r'model.data_preprocessor.std is \[1.0, 1.0, 1.0\], set it to \[58.3'),
    (dict(IMAGES, bgr_to_rgb=False), 18, 'pytorch',
     'model.data_preprocessor.bgr_to_rgb is False, set it to True'),
    ({}, 18, 'pytorch', 'model.data_preprocessor.mean is None, set it to'),
])
def test_images_and_strides(meta, images, depth, style, said, file, tmp_path,
                            monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = file(meta)
    model = Network(path, ImgDataPreprocessor(**images), depth, style)
    assumed = 'x.pth itself does not say so: the recipe of this package'
    if said is None:
        line, = check_recipe(model)
        assert 'x.pth was trained' in line
        assert (assumed in line) == (meta is None)
    else:
        with pytest.raises(ValueError, match=said) as error:
            check_recipe(model)
        assert (assumed in str(error.value)) == (meta is None)
    assert not (tmp_path / 'canary').exists()


def test_style_is_where_the_stride_sits():
    """The tensors are the same, the features are not."""
    torch.manual_seed(0)
    one, two = ResNet(50), ResNet(50, style='caffe')
    two.load_state_dict(one.state_dict(), strict=True)
    one.eval()
    two.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        a, b = one(image)[0], two(image)[0]
    assert (a - b).abs().max() > 0.1 * a.abs().max()


def test_files_trained_otherwise(file):
    """What the file says of itself goes before the recipe."""
    other = dict(
        mean=[103.53, 116.28, 123.675], std=[1., 1., 1.], to_rgb=False,
        style='caffe')
    images = ImgDataPreprocessor(other['mean'], other['std'])
    assert check_recipe(Network(file(other), images, style='caffe'))
    with pytest.raises(ValueError) as error:
        check_recipe(Network(file(other), ImgDataPreprocessor(**IMAGES)))
    for key in ('mean', 'std', 'bgr_to_rgb'):
        assert f'model.data_preprocessor.{key} is' in str(error.value)
    assert "style is 'pytorch', set it to 'caffe'" in str(error.value)


def test_pixels_as_they_are(file):
    """A model that normalises nothing, as YOLOX, is told by 0 and 1."""
    raw = dict(mean=[0.] * 3, std=[1.] * 3, to_rgb=False)
    assert check_recipe(Network(file(raw), ImgDataPreprocessor(), 18))
    assert check_recipe(
        Network(file(raw), ImgDataPreprocessor([0.] * 3, [1.] * 3), 18))
    with pytest.raises(ValueError, match='std is .*set it to .1.0, 1.0'):
        check_recipe(Network(file(raw), ImgDataPreprocessor(**IMAGES), 18))


def test_the_key_of_mmpretrains_configs(file):
    images = dict(mean=RECIPE['mean'], std=RECIPE['std'])
    model = Network(file(None), ClsDataPreprocessor(**images))
    for cfg, key in ((dict(data_preprocessor=images), ' data_preprocessor'),
                     (dict(), ' model.data_preprocessor'),
                     (dict(data_preprocessor=images,
                           model=dict(data_preprocessor=dict(to_rgb=False))),
                      ' model.data_preprocessor')):
        with pytest.raises(ValueError, match=f'{key}.to_rgb is False'):
            check_recipe(model, Config(dict(cfg, default_scope='mmpretrain')))


def test_what_a_file_does_not_say(file):
    line, = check_recipe(Network(file(None), depth=18))
    assert 'does not say' in line
    model = Network(file(None), ImgDataPreprocessor(), 18)
    step = dict(type='mmcv.Normalize', mean=[0., 0., 0.])
    line, = check_recipe(
        model, dict(train_dataloader=dict(dataset=dict(pipeline=[step]))))
    assert 'does not say' in line


def test_addresses(monkeypatch):
    from mmengine.runner import CheckpointLoader
    monkeypatch.setattr(
        CheckpointLoader, 'load_checkpoint', lambda *_: dict(state_dict={}))
    bgr = ImgDataPreprocessor([103.53, 116.28, 123.675], [1., 1., 1.])
    line, = check_recipe(
        Network('open-mmlab://resnet50_caffe', bgr, style='caffe'))
    assert 'does not say' in line
    line, = check_recipe(
        Network('torchvision://resnet50', ImgDataPreprocessor(**IMAGES)))
    assert line.endswith('torchvision://resnet50 was trained.')
    with pytest.raises(ValueError, match='bgr_to_rgb'):
        check_recipe(Network('torchvision://resnet50', bgr))


def test_hook_checks_images_and_strides(tmp_path):
    path = write(tmp_path / 'x.pth')
    made = runner(Model(init(path)), tmp_path / 'a')
    made.model.data_preprocessor = ImgDataPreprocessor([1.], [1.])
    with pytest.raises(ValueError, match=r'mean is \[1.0\], set it to'):
        made.train()


@pytest.mark.parametrize('meta, found', [
    (None, {}),
    (dict(cfg=3), {}),
    (dict(cfg='model = ('), {}),
    (dict(cfg='model = dict(backbone=[1], data_preprocessor=f(2))'), {}),
    (dict(mean='x', std=['y'], to_rgb=1, style=None), {}),
    (dict(cfg='data_preprocessor = dict(mean=(1., 2, 3), bgr_to_rgb=True)'),
     dict(mean=(1., 2, 3), to_rgb=True)),
    (dict(cfg="model = {'backbone': {'type': 'ResNetV1d', 'style': 'caffe'}}",
          mean=[4.]), dict(style='caffe', mean=[4.])),
    (dict(cfg="model = dict(backbone=dict(type='ConvNeXt'))"), {}),
])
def test_what_a_file_says_of_its_training(meta, found):
    assert recipe_of(meta) == found


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


@pytest.mark.needs('ops')
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


@pytest.mark.parametrize('key, value', [
    ('ann_file', 'a.pkl'), ('ann_file', ['a.json', 'x/b.PKL']),
    ('meta_file', 'a.pkl'), ('hierarchy_file', 'a.yaml'),
    ('split_file', 'a.yml'), ('extra_ann_file', dict(x=('a.npy', )))])
def test_files_that_may_run_code(key, value):
    data = dict(dataset=dict(datasets=[dict(img='a.jpg', ann_file='a.json')]),
                outfile='x.pkl')
    cfg = Config(dict(train_dataloader=data, val_evaluator=[dict(data)]))
    check_file_kinds(cfg)
    for part, place in ((data, 'train_dataloader.dataset.datasets.0.'),
                        (cfg.val_evaluator[0], 'val_evaluator.0.')):
        part = part['dataset']['datasets'][0]
        part[key] = value
        changed = Config(dict(train_dataloader=data)) if (
            'train' in place) else cfg
        with pytest.raises(ValueError, match=rf'{key}.*json'):
            check_file_kinds(changed)


def test_configs_without_annotations():
    assert check_annotations(Config(dict(train_dataloader=None))) == []


def two_stage(classes=3, masks=3, **more):
    return dict(
        rpn_head=dict(num_classes=1),
        roi_head=dict(
            bbox_head=dict(num_classes=classes),
            mask_head=dict(num_classes=masks, **more),
            semantic_head=dict(num_classes=183)))


@pytest.mark.parametrize('model, wrong', [
    (two_stage(), []),
    (two_stage(80), ['roi_head.bbox_head.num_classes=80']),
    (two_stage(3, 80), ['roi_head.mask_head.num_classes=80']),
    (two_stage(3, 80, class_agnostic=True), []),
    (two_stage(80, 80), ['roi_head.bbox_head.num_classes=80',
                         'roi_head.mask_head.num_classes=80']),
    (dict(roi_head=dict(bbox_head=[dict(num_classes=n) for n in (3, 80, 3)],
                        mask_head=[dict(num_classes=80)])),
     ['roi_head.bbox_head.1.num_classes=80',
      'roi_head.mask_head.0.num_classes=80']),
    (dict(bbox_head=dict(num_classes=80)), ['bbox_head.num_classes=80']),
    (dict(bbox_head=[dict(num_classes=80)]), ['bbox_head.0.num_classes=80']),
    (dict(detector=two_stage(1)), ['detector.roi_head.bbox_head.'
                                   'num_classes=1']),
    (dict(panoptic_head=dict(num_things_classes=80, mask_head=dict(
        num_classes=80))), []),
    (dict(bbox_head=dict(num_classes=256), language_model=dict()), []),
])
def test_numbers_of_classes(tmp_path, model, wrong):
    """No file is read: the config says it all."""
    cfg = detection(tmp_path, model=model)
    if not wrong:
        check_config(cfg)
        return
    with pytest.raises(ValueError) as error:
        check_config(cfg)
    said = str(error.value)
    assert 'train_dataloader (CocoDataset) has 3 classes (cat, dog, co' in said
    assert ', '.join(f'model.{key}' for key in wrong) in said
    assert said.count('num_classes') == len(wrong) and 'to 3, or' in said


def test_numbers_of_classes_of_the_data_set_itself(tmp_path):
    for kind, number in (('CocoDataset', 80), ('mmdet.VOCDataset', 20),
                         ('LVISV1Dataset', 1203)):
        cfg = detection(tmp_path, model=two_stage(number, number))
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.dataset.pop('metainfo')
            loader.dataset.dataset.type = kind
        cfg.train_dataloader.dataset.dataset.ann_file = 'Main/train.txt'
        assert f'model.roi_head.bbox_head.num_classes={number}' in (
            check_config(cfg))
        cfg.val_dataloader.dataset.dataset.metainfo = dict(classes=CLASSES)
        with pytest.raises(ValueError, match='val_dataloader .* 3 classes'):
            check_config(cfg)


def test_classes_that_are_one_text(tmp_path):
    cfg = detection(tmp_path, model=two_stage())
    names = tmp_path / 'names.txt'
    names.write_text('\n'.join(CLASSES))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.dataset.metainfo.classes = str(names)
    assert check_config(cfg)
    cfg.val_dataloader.dataset.dataset.metainfo.classes = 'cat'
    with pytest.raises(ValueError, match=r"'cat', which .* \('cat', \)"):
        check_config(cfg)
