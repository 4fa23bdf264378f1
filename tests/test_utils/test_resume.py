# Copyright (c) mmcropr contributors.
import os

import pytest
from mmengine.config import Config

from mmcropr.utils.resume import (check_resume, find_changes, find_checkpoint,
                                  is_finished)


def config(**options) -> Config:
    cfg = Config(
        dict(
            model=dict(backbone=dict(reducer=dict(type='Cropr', rate=8))),
            optim_wrapper=dict(optimizer=dict(lr=1e-3)),
            train_dataloader=dict(batch_size=4, num_workers=2),
            train_cfg=dict(max_epochs=2),
            work_dir='a'))
    cfg.merge_from_dict(options)
    return cfg


def content(cfg: Config, epoch: int = 1) -> dict:
    meta = dict(cfg=cfg.pretty_text, epoch=epoch, iter=4 * epoch)
    return dict(state_dict={}, meta=meta, message_hub={}, optimizer={})


@pytest.mark.parametrize('last', [None, '', '/gone/epoch_3.pth', 'here'])
def test_latest_checkpoint_is_found(tmp_path, last):
    for name in ('epoch_9.pth', 'epoch_10.pth', 'best_mIoU_epoch_12.pth'):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (100, 100))
    if last == 'here':  # as written where the folder was before
        last = '/gone/epoch_9.pth'
    if last is not None:
        (tmp_path / 'last_checkpoint').write_text(last)
    wanted = 'epoch_9.pth' if last == '/gone/epoch_9.pth' else 'epoch_10.pth'
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / wanted)


def test_no_checkpoint(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/gone/epoch_3.pth')
    assert find_checkpoint(str(tmp_path)) is None
    assert find_checkpoint(str(tmp_path / 'none')) is None


@pytest.mark.parametrize('key, value, text', [
    ('model.backbone.reducer.rate', 4, 'reducer.rate: 8 -> 4'),
    ('model.backbone.reducer.type', 'ToMe', "type: 'Cropr' -> 'ToMe'"),
    ('train_dataloader.batch_size', 2, 'batch_size: 4 -> 2'),
    ('optim_wrapper.optimizer.lr', .1, r'lr: 0.001 -> 0.1'),
    ('auto_scale_lr.enable', True, 'enable: not there -> True'),
])  # yapf: disable
def test_changes_are_named(key, value, text):
    changes = find_changes(content(config())['meta'], config(**{key: value}))
    assert len(changes) == 1 and text in changes[0]


def test_what_may_change():
    now = config(**{'work_dir': 'b', 'train_dataloader.num_workers': 0})
    assert not find_changes(content(config())['meta'], now)
    assert not find_changes({}, now)  # not known


def test_finished(capsys):
    old = content(config(), epoch=2)
    assert is_finished(old['meta'], config())
    assert not check_resume(old, 'x.pth', config())
    assert 'the end; to train on from it, start anew with load_from=x.pth' in (
        capsys.readouterr().out)
    assert check_resume(old, 'x.pth', config(**{'train_cfg.max_epochs': 3}))
    assert 'rates, their schedule and' in capsys.readouterr().out
    with pytest.raises(ValueError, match='nothing is left.*rate: 8 -> 4'):
        check_resume(old, 'x.pth',
                     config(**{'model.backbone.reducer.rate': 4}))


def test_foreign_file():
    with pytest.raises(ValueError, match='x.pth has no meta, message_hub, op'):
        check_resume(dict(state_dict={}), 'x.pth', config())


@pytest.mark.parametrize('hooks', ['default_hooks', 'custom_hooks'])
def test_a_changed_curriculum_is_named(hooks):

    def with_share(share: float) -> Config:
        hook = dict(type='mmcropr.PruningCurriculumHook', share=share)
        other = dict(type='LoggerHook', interval=int(10 * share))
        return config(**{hooks: dict(a=hook, b=other) if 'default' in hooks
                         else [hook, other]})

    changes = find_changes(content(with_share(.5))['meta'], with_share(.1))
    assert changes == ['curriculum.0.share: 0.5 -> 0.1']


def test_meta_of_something_else():
    old = content(config())
    del old['meta']['epoch']
    with pytest.raises(ValueError, match='x.pth has no meta.epoch, so'):
        check_resume(old, 'x.pth', config())


def test_config_of_a_checkpoint_is_not_run(tmp_path, capsys):
    """What it says is read; code in it is left alone."""
    old = content(config())
    old['meta']['cfg'] += f'a = __import__("os").mkdir("{tmp_path}/made")\n'
    assert check_resume(old, 'x.pth', config(**{'work_dir': 'b'}))
    assert 'cannot be told: one of the two is more' in capsys.readouterr().out
    assert not (tmp_path / 'made').exists()


def test_settings_of_every_kind():
    settings = dict(model=dict(
        shape=(1, -2.5), names=['a', None], custom_keys={'.cls_token': True},
        text='two "lines"\n', none=dict()))
    old = content(Config(settings))
    assert not find_changes(old['meta'], Config(settings))
    settings['model']['custom_keys']['.cls_token'] = False
    assert find_changes(old['meta'], Config(settings)) == [
        'model.custom_keys..cls_token: True -> False']


def test_types_that_are_classes():
    """As newer versions of mmengine write them."""
    old = content(config())
    old['meta']['cfg'] = old['meta']['cfg'].replace("'Cropr'", 'a.Cropr')
    assert find_changes(old['meta'], config()) == [
        "model.backbone.reducer.type: 'a.Cropr' -> 'Cropr'"]
