"""Hooks: when masks and the target network are renewed; rates; precision."""
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .late_step_lr import LateStepLR
from .mask_update_hook import MaskUpdateHook
from .mask_visualization_hook import MaskVisualizationHook
from .pretrained_check_hook import PretrainedCheckHook
from .schedule_hook import ScheduleHook
from .target_update_hook import TargetUpdateHook

__all__ = [
    'AtomicCheckpointHook', 'BFloat16OptimWrapper', 'LateStepLR',
    'MaskUpdateHook', 'MaskVisualizationHook', 'PretrainedCheckHook',
    'ScheduleHook', 'TargetUpdateHook'
]
