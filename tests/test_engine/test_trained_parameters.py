"""The optimizer gets what is trained, and the log stays readable."""
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from cyborgs_plugin.config_path import load_config

from ..helpers import RECIPE, model_config


def test_groups_are_those_of_mmengine(caplog, capfd):
    init_default_scope('mmpretrain')
    model = MODELS.build(model_config())
    cfg = load_config(RECIPE).optim_wrapper
    ours = build_optim_wrapper(model, cfg)
    said = ''.join(capfd.readouterr()) + caplog.text
    assert 'target_net: none of its' in said and 'is skipped' not in said
    cfg.pop('constructor')
    theirs = build_optim_wrapper(model, cfg)
    assert 'is skipped' in ''.join(capfd.readouterr()) + caplog.text
    ours, theirs = ours.optimizer.param_groups, theirs.optimizer.param_groups
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs):
        assert one.pop('params')[0] is other.pop('params')[0]
        assert one == other
