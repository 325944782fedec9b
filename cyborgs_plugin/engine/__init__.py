"""Hooks: when masks and the target network are renewed; precision."""
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .mask_update_hook import MaskUpdateHook
from .mask_visualization_hook import MaskVisualizationHook
from .target_update_hook import TargetUpdateHook
from .transfer_check import PretrainedCheckHook

__all__ = [
    'AtomicCheckpointHook', 'BFloat16OptimWrapper', 'MaskUpdateHook',
    'MaskVisualizationHook', 'PretrainedCheckHook', 'TargetUpdateHook'
]
