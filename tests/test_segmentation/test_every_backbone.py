"""Mask rounds see the very features of a network, whichever it is."""
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import TIMMBackbone
from mmpretrain.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from cyborgs_plugin.segmentation import FeatureExtractor

from ..helpers import IMAGENET

pytestmark = pytest.mark.slow
extractor_of = partial(FeatureExtractor, data_preprocessor=IMAGENET)

TIMM = '''
bat_resnext26ts coatnet_pico_rw_224 convnext_atto convnextv2_atto
cs3darknet_s cspdarknet53 cspresnet50 csatv2 darknet17 davit_tiny densenet121
dla46_c dpn48b eca_botnext26ts_256 edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientnet_lite0 ese_vovnet19b_dw fastvit_t8 fbnetc_100
focalnet_tiny_srf gernet_s ghostnet_050 halonet26t hardcorenas_a hgnetv2_b0
inception_next_atto inception_v3 lambda_resnet26t lcnet_035 mambaout_femto
maxvit_pico_rw_256 mnasnet_small mobilenetv2_035 mobilenetv3_small_050
mobilenetv4_conv_small mobileone_s0 mobilevit_xxs mobilevitv2_050
nf_regnet_b0 poolformer_s12 pvt_v2_b0 rdnet_tiny regnetx_002 regnetz_005
repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnet18
resnetv2_18 resnext26ts rexnet_100 samvit_base_patch16 seresnet18 shvit_s1
skresnet18 starnet_s1 swiftformer_xs tf_efficientnetv2_b0 tiny_vit_5m_224
tresnet_m vgg11_bn xcit_nano_12_p16_224
'''.split()
TIMM_FIXED = {  # of one size, but for an option
    'swin_tiny_patch4_window7_224': dict(strict_img_size=False),
    'vit_tiny_patch16_224': dict(dynamic_img_size=True),
    'deit_tiny_patch16_224': dict(dynamic_img_size=True),
    'eva02_tiny_patch14_224': dict(dynamic_img_size=True),
}
UNPADDED = 'inception_v3',  # its cells are not at a whole stride
UNFIT_TIMM = {
    'hrnet_w18_small': 'gives no map',  # stages give a list of branches
    'crossvit_tiny_240': 'gives no map',  # blocks give two sets of tokens
    'mixer_s32_224': 'takes no image',  # weights for the places of 224x224
    'volo_d1_224': 'takes no image',
    'levit_128s': 'takes no image',  # biases for the places of 224x224
}
# Layer, stride (None: no whole number) and arguments of every other backbone;
# a text in place of the stride is what the refusal says.
MMPRETRAIN = dict(
    AlexNet=('features.7', None, {}),
    BEiTViT=('layers.1', 'takes no image', dict(arch='deit-tiny')),
    CSPDarkNet=('stages.2', 8, dict(depth=53)),
    CSPResNeXt=('stages.1', 8, dict(depth=50)),
    CSPResNet=('stages.1', 8, dict(depth=50)),
    Conformer=('conv_trans_7.fusion_block', 8, {}),
    ConvMixer=('stages.1', 7, {}),
    ConvNeXt=('stages.1', 8, dict(arch='atto')),
    DaViT=('stages.1', 8, {}),
    DeiT3=('layers.1', 16, dict(arch='small')),
    DenseNet=('stages.1', 8, {}),
    DistilledVisionTransformer=('layers.1', 16, dict(arch='deit-tiny')),
    EdgeNeXt=('stages.1', 8, {}),
    EfficientFormer=('network.1', 8, {}),
    EfficientNet=('layers.3', 8, {}),
    EfficientNetV2=('layers.3', 8, dict(arch='b0')),
    HRNet=('transition2.1', 8, dict(arch='w18')),
    HiViT=('blocks.15', 16, dict(arch='tiny')),
    HorNet=('stages.1', 8, {}),
    InceptionV3=('Mixed_5d', None, {}),
    LeViT=('patch_embed', 16, dict(arch='128s')),
    MViT=('blocks.2', 8, dict(arch='tiny')),
    MixMIMTransformer=('layers.0', 'takes no image', {}),
    MlpMixer=('layers.1', 'takes no image', dict(arch='small')),
    MobileNetV2=('layer3', 8, {}),
    MobileNetV3=('layer3', 8, {}),
    MobileOne=('stage2', 8, dict(arch='s0')),
    MobileViT=('layers.2', 8, {}),
    PCPVT=('norm_after_stage1', 8, dict(arch='small')),
    PoolFormer=('network.2', 8, {}),
    PyramidVig=('stages.1', 'takes no image', dict(arch='tiny')),
    RIFormer=('network.2', 8, {}),
    RegNet=('layer2', 8, dict(arch='regnetx_400mf')),
    RepLKNet=('stages.1', 8, dict(arch='31B')),
    RepMLPNet=('stages.1', 'takes no image', dict(arch='base')),
    RepVGG=('stage_2', 8, dict(arch='A0')),
    Res2Net=('layer2', 8, dict(depth=50)),
    ResNeSt=('layer2', 8, dict(depth=50)),
    ResNeXt=('layer2', 8, dict(depth=50)),
    ResNet=('layer2.2', 8, dict(depth=50)),
    ResNetV1c=('layer2', 8, dict(depth=18)),
    ResNetV1d=('layer2', 8, dict(depth=18)),
    ResNet_CIFAR=('layer4', 8, dict(depth=18)),
    RevVisionTransformer=('fusion_layer', 16, dict(arch='deit-tiny')),
    SEResNeXt=('layer2', 8, dict(depth=50)),
    SEResNet=('layer2', 8, dict(depth=50)),
    SVT=('norm_after_stage1', 8, dict(arch='small')),
    ShuffleNetV1=('layers.0', 8, {}),
    ShuffleNetV2=('layers.0', 8, {}),
    SwinTransformer=('stages.1', 8, {}),
    SwinTransformerV2=('stages.1', 8, {}),
    T2T_ViT=('tokens_to_token', 16, {}),
    TNT=('layers.1', 'takes no image', dict(arch='s')),
    TinyViT=('stages.1', 'takes no image', {}),
    VAN=('blocks2.1', 8, {}),
    VGG=('features.8', 8, dict(depth=11, norm_cfg=dict(type='BN'))),
    ViTEVA02=('layers.1', 16, {}),
    ViTSAM=('layers.1', 16, {}),
    Vig=('stem', 16, dict(arch='tiny')),
    VisionTransformer=('layers.1', 16, dict(arch='deit-tiny')),
    XCiT=('xca_layers.1', 16, dict(patch_size=16, embed_dims=192)))
MMDET = dict(
    CSPDarknet=('stage2', 8, {}),
    CSPNeXt=('stage2', 8, {}),
    Darknet=('conv_res_block3', 8, {}),
    DetectoRS_ResNeXt=('layer2', 8, dict(depth=50)),
    DetectoRS_ResNet=('layer2', 8, dict(depth=50)),
    EfficientNet=('layers.3', 8, {}),
    HRNet=('transition1.1', 8, dict(extra=dict(
        stage1=dict(num_modules=1, num_branches=1, block='BOTTLENECK',
                    num_blocks=(1, ), num_channels=(64, )),
        stage2=dict(num_modules=1, num_branches=2, block='BASIC',
                    num_blocks=(1, 1), num_channels=(18, 36)),
        stage3=dict(num_modules=1, num_branches=3, block='BASIC',
                    num_blocks=(1, 1, 1), num_channels=(18, 36, 72)),
        stage4=dict(num_modules=1, num_branches=4, block='BASIC',
                    num_blocks=(1, 1, 1, 1),
                    num_channels=(18, 36, 72, 144))))),
    HourglassNet=('out_convs.0', 4, dict(
        downsample_times=2, num_stacks=1, stage_channels=(32, 32, 48),
        stage_blocks=(1, 1, 1), feat_channel=32)),
    MobileNetV2=('layer3', 8, {}),
    PyramidVisionTransformer=('layers.1.2', 8, {}),
    PyramidVisionTransformerV2=('layers.1.2', 8, {}),
    RegNet=('layer2', 8, dict(arch='regnetx_400mf')),
    Res2Net=('layer2', 8, dict(depth=50)),
    ResNeSt=('layer2', 8, dict(depth=50)),
    ResNeXt=('layer2', 8, dict(depth=50)),
    ResNet=('layer2', 8, dict(depth=18)),
    ResNetV1d=('layer2', 8, dict(depth=50)),
    SSDVGG=('features.22', 8, dict(depth=16)),
    SwinTransformer=('norm1', 8, {}),
    TridentResNet=('layer2', 8, dict(
        depth=50, num_branch=3, test_branch_idx=1, num_stages=3,
        strides=(1, 2, 2), dilations=(1, 1, 1), trident_dilations=(1, 2, 3),
        out_indices=(2, ))))
LEFT_OUT = dict(
    LeNet5='takes grey images',
    SparseConvNeXt='needs the mask of SparK in training',
    SparseResNet='needs the mask of SparK in training',
    TIMMBackbone='is tried by the networks of timm')
HEIGHT, WIDTH = 163, 125


def images():
    """A grey image, and the same with a bright square."""
    grey = np.random.default_rng(0).integers(
        90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    bright = grey.copy()
    bright[100:124, 24:48] = 255
    return grey, bright


def randomise(model):
    """Statistics as after some training."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(std=0.1)


def hooked(model, layer, image):
    """What the layer gives in a forward of the whole network."""
    kept = []
    model = deepcopy(model)
    model.eval()
    # A copy, since what follows may be done in place.
    model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: kept.append(deepcopy(output)))
    mean = torch.tensor([123.675, 116.28, 103.53])
    std = torch.tensor([58.395, 57.12, 57.375])
    rgb = torch.from_numpy(image[..., ::-1].copy()).float()
    with torch.no_grad():
        try:
            model(((rgb - mean) / std).permute(2, 0, 1)[None])
        except Exception:
            if not kept:  # what comes after the layer does not count
                raise
    output = kept[0]
    if isinstance(output, (tuple, list)):
        output, = (part for part in output if torch.is_tensor(part))
    return output[0]


def check(model, layer, stride, channels=None):
    """Compare features with a hook's, and look for the bright square."""
    randomise(model)
    extractor = extractor_of(model, layer)
    grey, bright = images()
    with_square, without = extractor([bright, grey])
    height, width, found = with_square.shape
    assert channels in (None, found)
    if stride is not None:
        assert (height, width) == (-(-HEIGHT // stride), -(-WIDTH // stride))

    multiple = extractor._maps.multiple
    more = [-side % multiple for side in (HEIGHT, WIDTH)]
    padded = np.pad(bright, ((0, more[0]), (0, more[1]), (0, 0)),
                    mode='reflect')
    output = hooked(model, layer, padded)
    if output.ndim == 2:
        rows, cols = (-(-side // stride) for side in padded.shape[:2])
        output = output[-rows * cols:].view(rows, cols, found)
    elif output.shape[0] == found:
        output = output.permute(1, 2, 0)
    expected = F.normalize(output, dim=2)[:height, :width]
    torch.testing.assert_close(with_square, expected, rtol=0, atol=1e-5)

    change = (with_square - without).square().sum(dim=2).square()
    y, x = ((change.sum(dim=1 - axis) / change.sum()
             * (torch.arange(cells) + .5)).sum() * side / cells
            for axis, cells, side in ((0, height, HEIGHT), (1, width, WIDTH)))
    assert abs(y - 112) <= 24 and abs(x - 36) <= 24, (y, x)


def timm_network(name, **kwargs):
    """A network of timm, and its last stage up to stride 8."""
    torch.manual_seed(0)
    model = TIMMBackbone(name, features_only=True, **kwargs)
    stages = model.timm_model.feature_info.get_dicts()
    stage = [s for s in stages if s['reduction'] <= 8 or s is stages[0]][-1]
    names, layer = dict(model.named_modules()), stage['module']
    layer = next(found for found in (
        f'timm_model.{layer}', f'timm_model.{layer.replace(".", "_")}',
        f'timm_model.model.{layer}') if found in names)
    stride = None if name in UNPADDED else stage['reduction']
    return model, layer, stride, stage['num_chs']


@pytest.mark.parametrize('name', TIMM + list(TIMM_FIXED))
def test_timm(name):
    model, layer, stride, channels = timm_network(
        name, **TIMM_FIXED.get(name, {}))
    check(model, layer, stride, channels)


@pytest.mark.parametrize('name', UNFIT_TIMM)
def test_timm_that_does_not_fit(name):
    model, layer, *_ = timm_network(name)
    with pytest.raises(ValueError, match=f'(?s){layer}.*TIMMBackbone.*'
                       f'{UNFIT_TIMM[name]}'):
        extractor_of(model, layer)


def registry(package):
    """The backbones of a package by name."""
    if package == 'mmpretrain':
        models = MODELS
    else:
        import mmdet.models  # noqa: F401
        from mmdet.registry import MODELS as models
    return {
        name: backbone for name, backbone in models.module_dict.items()
        if backbone.__module__.startswith(f'{package}.models.backbones')
    }


@pytest.mark.parametrize('package, name', [
    *(('mmpretrain', name) for name in MMPRETRAIN),
    *(('mmdet', name) for name in MMDET)])
def test_openmmlab(package, name):
    layer, stride, kwargs = dict(
        mmpretrain=MMPRETRAIN, mmdet=MMDET)[package][name]
    torch.manual_seed(0)
    model = registry(package)[name](**kwargs)
    if isinstance(stride, str):
        with pytest.raises(ValueError, match=f'(?s){layer}.*{name}.*{stride}'):
            extractor_of(model, layer)
    else:
        check(model, layer, stride)


def test_none_is_forgotten():
    assert registry('mmdet').keys() == MMDET.keys()
    assert registry('mmpretrain').keys() - LEFT_OUT == MMPRETRAIN.keys()
    assert len(TIMM) >= 40
