"""Hooks: when masks and target network are updated; rates; precision."""
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .device_data_hook import DeviceDataHook
from .drift_hook import DriftHook
from .epoch_seed_hook import EpochSeedHook
from .finite_hook import FiniteHook
from .foreach_lars import ForeachLARS
from .heads_first_hook import HeadsFirstHook
from .health_hook import HealthHook
from .late_step_lr import LateStepLR
from .logged_scalars_hook import LoggedScalarsHook
from .mask_time_hook import MaskTimeHook
from .mask_update_hook import MaskUpdateHook
from .mask_visualization_hook import MaskVisualizationHook
from .preemption_hook import PreemptionHook
from .pretrained_check_hook import PretrainedCheckHook
from .schedule_hook import ScheduleHook
from .target_update_hook import TargetUpdateHook
from .teacher_features_hook import TeacherFeaturesHook
from .trained_parameters import TrainedParametersConstructor
from .view_size_hook import ViewSizeHook
from .work_dir_hook import WorkDirHook
from .worker_exit_hook import WorkerExitHook

__all__ = [
    'AtomicCheckpointHook', 'BFloat16OptimWrapper', 'DeviceDataHook',
    'DriftHook', 'EpochSeedHook', 'FiniteHook', 'ForeachLARS',
    'HeadsFirstHook', 'HealthHook', 'LateStepLR', 'LoggedScalarsHook',
    'MaskTimeHook', 'MaskUpdateHook', 'MaskVisualizationHook',
    'PreemptionHook', 'PretrainedCheckHook', 'ScheduleHook',
    'TargetUpdateHook', 'TeacherFeaturesHook',
    'TrainedParametersConstructor', 'ViewSizeHook', 'WorkDirHook',
    'WorkerExitHook'
]
