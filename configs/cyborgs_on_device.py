"""Like cyborgs_small_data.py, with the photographs in the device's memory.

Run: python tools/train.py configs/cyborgs_on_device.py \\
         --cfg-options data=/path/to/photos
"""
_base_ = 'cyborgs_small_data.py'

# docs/performance.md shows what this costs and saves. If the photographs do
# not fit, the ordinary loader is used.
default_hooks = dict(device_data=dict(type='DeviceDataHook'))
