"""Settings of every pretraining besides its model, data and schedule."""
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['cyborgs_plugin'], allow_failed_imports=False)

default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook'),
    # weights must fit; code in their files is not run
    pretrained_check=dict(type='PretrainedCheckHook'),
    # one training per work_dir, which may be moved
    work_dir=dict(type='WorkDirHook'),
    # a resumed run draws the random numbers of an uninterrupted one
    epoch_seed=dict(type='EpochSeedHook'),
    # a loss of NaN ends the run; the last good checkpoint stays
    finite=dict(type='FiniteHook', patience=3),
    # is it working? numbers and alarms without labels (docs/health.md)
    health=dict(type='HealthHook', interval=1),
    # the numbers of a step are copied from the device at once
    logged_scalars=dict(type='LoggedScalarsHook'),
    # the log's remaining time counts mask rounds
    mask_time=dict(type='MaskTimeHook'),
    # data workers end with the run, and not by a signal
    worker_exit=dict(type='WorkerExitHook'),
    # a signal of the cluster ends the run at a step that it resumes at
    preemption=dict(type='PreemptionHook'))

# views have one size; mask rounds turn this off, since their images do not
env_cfg = dict(cudnn_benchmark=True)

randomness = dict(seed=0, deterministic=False)
