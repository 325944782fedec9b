"""The warning of a recipe from scratch that starts from good weights."""
import os.path as osp

import pytest
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.registry import init_default_scope

from cyborgs_plugin.engine.start_check import check_inits, check_start
from cyborgs_plugin.errors import UserError

from ..helpers import ROOT

START = dict(type='Pretrained', checkpoint='start.pth')


def config(name, **options):
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(osp.join(ROOT, 'configs', f'{name}.py'))
    cfg.merge_from_dict(options)
    return cfg


def test_names_all_that_spoils_and_the_recipe():
    line, = check_start(
        config('cyborgs_small_data', **{'model.backbone.init_cfg': START}))
    for words in ('start.pth', 'norm_eval=True', 'lr_mult=0.1', '96 pixels',
                  'cyborgs_plugin::cyborgs_continue.py'):
        assert words in line
    assert check_start(
        config('cyborgs_small_data', **{'load_from': 'start.pth'}))
    assert check_start(
        config('cyborgs_coco', **{'model.pretrained': 'start.pth'}))


@pytest.mark.parametrize('name, options', [
    ('cyborgs_small_data', {}),
    ('cyborgs_small_data', {'load_from': 'epoch_3.pth', 'resume': True}),
    ('cyborgs_continue', {}), ('cyborgs_continue_r18', {}),
    ('cyborgs_continue_mobilenetv2', {}),
    ('cyborgs_distill', {'model.backbone.init_cfg': START}),
])
def test_says_nothing_without_cause(name, options):
    assert check_start(config(name, **options)) == []


@pytest.mark.parametrize('init', [
    'start.pth', dict(checkpoint='start.pth'), dict(type='Pretrained'),
    dict(type='Pretrained', checkpoint=''), [START, dict(type='Pretrained')],
    dict(type='pretrained', checkpoint='start.pth')])
def test_an_init_that_names_no_file_is_refused(init):
    with pytest.raises(UserError, match=r'model\.backbone\.init_cfg is '):
        check_inits(config('cyborgs_small_data', **{
            'model.backbone.init_cfg': init}))


@pytest.mark.parametrize('init', [
    None, START, [START], dict(START, type=PretrainedInit, prefix='x.'),
    [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', val=1)]])
def test_other_inits_pass(init):
    check_inits(config('cyborgs_small_data', **{
        'model.backbone.init_cfg': init}))
    check_inits(config('transfer/mask-rcnn_r50_fpn_cyborgs-pre_1x_coco'))


def test_each_cause_by_itself():
    def lines(**options):
        return ' '.join(check_start(config('cyborgs_continue', **options)))

    norms = lines(**{'model.backbone.norm_eval': False})
    assert 'norm_eval' in norms and 'lr_mult' not in norms
    rate = lines(**{'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult':
                    1.})
    assert 'lr_mult' in rate and 'norm_eval' not in rate
    # the other layers learn at the rate of the heads
    rate = lines(**{'optim_wrapper.paramwise_cfg.custom_keys': {
        '_delete_': True, 'backbone.layer4': dict(lr_mult=0.1)}})
    assert 'learns at the rate of the new heads' in rate


def test_a_backbone_that_has_no_such_key():
    line, = check_start(config('cyborgs_small_data', **{
        'model.backbone': dict(
            _delete_=True, type='ConvNeXt', init_cfg=[START])}))
    assert 'norm_eval' not in line and 'lr_mult' in line


def test_rates_that_fall_with_depth():
    from mmengine.optim import build_optim_wrapper
    from mmpretrain.registry import MODELS
    cfg = config('ablations/continue_layer-decay', **{
        'model.backbone.init_cfg': None})
    cfg.model.backbone.update(depth=18)
    cfg.model.neck.projector.in_channels = 896
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    rates = {id(group['params'][0]): group['lr']
             for group in wrapper.optimizer.param_groups}
    found = [rates[id(parameter)] / 1e-3 for parameter in (
        model.backbone.conv1.weight, model.backbone.layer1[0].conv1.weight,
        model.backbone.layer2[0].conv1.weight,
        model.backbone.layer3[1].bn1.bias,
        model.backbone.layer4[1].conv2.weight,
        model.head.predictor.fc0.weight)]
    assert found == pytest.approx([0.0125, 0.0125, 0.025, 0.05, 0.1, 1.])
    frozen = MODELS.build({
        **config('ablations/continue_frozen-stem').model.backbone,
        'init_cfg': None})
    trained = {name.split('.')[0]
               for name, p in frozen.named_parameters() if p.requires_grad}
    assert trained == {'layer2', 'layer3', 'layer4'}
