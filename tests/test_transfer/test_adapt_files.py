"""Start files of other sources reach a model, or are refused by name."""
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.transfer.pretrained_check import (
    adapt_files,
    check_files,
    check_loaded,
)

from ..helpers import model_config, small_run, trained

RULES = {
    'moco': lambda state: dict(state_dict={
        f'module.encoder_q.{key}': value for key, value in state.items()}),
    'dino': lambda state: dict(student={
        f'module.backbone.{key}': value for key, value in state.items()}),
    'lightly': lambda state: dict(state_dict={
        f'model.backbone.{key}': value for key, value in state.items()}),
    'run': lambda state: dict(
        state_dict={f'backbone.{k}': v for k, v in state.items()},
        meta=dict(mean=[1., 2., 3.]))
}


def model_of(path, **init):
    init_default_scope('mmpretrain')
    cfg = model_config()
    cfg.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=str(path), **init)
    return MODELS.build(cfg)


@pytest.mark.parametrize('rule', RULES)
def test_each_source_is_loaded_whole(tmp_path, rule):
    state, path = trained(18).state_dict(), tmp_path / 'f.pth'
    torch.save(RULES[rule](state), path)
    with pytest.raises(UserError, match='does not fit'):
        check_files(model_of(path))
    model = model_of(path)
    copies = adapt_files(model, str(tmp_path / 'w'))
    assert [*copies.values()] == [str(path)]
    model.init_weights()
    assert 'were loaded' in ' '.join(check_loaded(model))
    for key, value in model.backbone.state_dict().items():
        if not key.endswith('num_batches_tracked'):
            assert torch.equal(value, state[key]), key
    meta = torch.load(*copies, weights_only=True)['meta']
    assert meta == ({} if rule != 'run' else dict(mean=[1., 2., 3.]))


def test_safetensors(tmp_path):
    from safetensors.torch import save_file
    state, path = trained(18).state_dict(), tmp_path / 'f.safetensors'
    save_file(state, path)
    model = model_of(path)
    assert adapt_files(model, str(tmp_path))
    model.init_weights()
    check_loaded(model)


def test_what_fits_stays_and_what_does_not_is_refused(tmp_path):
    path = tmp_path / 'f.pth'
    torch.save(trained(18).state_dict(), path)
    assert adapt_files(model_of(path), str(tmp_path)) == {}
    torch.save(RULES['run'](trained(18).state_dict()), path)
    assert adapt_files(model_of(path, prefix='backbone.'),
                       str(tmp_path)) == {}
    for state, words in (
            ({'blocks.0.norm1.weight': torch.ones(3)}, 'deit3_to_mmpretrain'),
            (trained(50).state_dict(), 'has converters')):
        torch.save(state, path)
        model = model_of(path)
        assert adapt_files(model, str(tmp_path)) == {}
        with pytest.raises(UserError, match=f'f.pth does not fit.*{words}'):
            check_files(model)
    assert [file.name for file in tmp_path.iterdir()] == ['f.pth']


@pytest.mark.slow
def test_a_run_starts_from_it(photo_root, tmp_path):
    state, path = trained(18).state_dict(), tmp_path / 'moco.pth'
    torch.save(RULES['moco'](state), path)
    runner = small_run(photo_root, tmp_path / 'w', **{
        'model.backbone.base_channels': 64,
        'model.backbone.stem_channels': 64,
        'model.neck.projector.in_channels': 896,
        'model.backbone.init_cfg': dict(
            type='Pretrained', checkpoint=str(path)),
        'optim_wrapper.optimizer.lr': 0.,
        'optim_wrapper.optimizer.weight_decay': 0.,
        'train_cfg.max_epochs': 1
    })
    runner.train()
    for key, value in runner.model.backbone.named_parameters():
        assert torch.equal(value, state[key]), key
    assert runner.message_hub.get_info('start') == 'moco.pth'
