"""Label maps go to the device at once."""
import torch
from mmpretrain.models import SelfSupDataPreprocessor

from cyborgs_plugin.models import SceneDataPreprocessor

from ..helpers import fake_batch

LAW = dict(mean=(124, 116, 104), std=(58, 57, 57), to_rgb=True)


def test_it_gives_what_its_base_gives():
    for data in (fake_batch(), dict(fake_batch(), data_samples=[])):
        found, expected = (kind(**LAW)(data, True) for kind in (
            SceneDataPreprocessor, SelfSupDataPreprocessor))
        for one, other in zip(found['inputs'], expected['inputs']):
            assert torch.equal(one, other)
        assert len(found['data_samples']) == len(expected['data_samples'])
        for one, other in zip(found['data_samples'],
                              expected['data_samples']):
            assert torch.equal(one.mask, other.mask)


def test_other_fields_and_the_batch_stay():
    data = fake_batch()
    for number, sample in enumerate(data['data_samples']):
        sample.set_gt_label(number)
        sample.set_metainfo(dict(img_path=str(number)))
    masks = [sample.mask for sample in data['data_samples']]
    found = SceneDataPreprocessor(**LAW)(data, True)['data_samples']
    for number, sample in enumerate(found):
        assert int(sample.gt_label) == number
        assert sample.img_path == str(number)
        assert data['data_samples'][number].mask is masks[number]


def test_one_tensor_holds_all_maps():
    """It is one copy."""
    found = SceneDataPreprocessor(**LAW)(fake_batch(), True)['data_samples']
    assert len({sample.mask.untyped_storage().data_ptr()
                for sample in found}) == 1


def test_what_a_teacher_sees_goes_at_once_as_well():
    data = fake_batch()
    seen = torch.randn(3, 2, 5, 4, 4).half()
    for sample, one in zip(data['data_samples'], seen):
        sample.set_field(one.clone(), 'teacher')
    found = SceneDataPreprocessor(**LAW)(data, True)['data_samples']
    assert torch.equal(torch.stack([one.teacher for one in found]), seen)
    assert len({sample.teacher.untyped_storage().data_ptr()
                for sample in found}) == 1
