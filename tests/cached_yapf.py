"""yapf, which lays each text out once in a process.

mmengine asks it anew for each log, dump and checkpoint of one config, for half
a second each time: more than half of a short run.
"""
from yapf.yapflib import yapf_api


def cache_yapf():
    original, known = yapf_api.FormatCode, {}

    def format_code(text, **options):
        key = text, repr(options)
        if key not in known:
            known[key] = original(text, **options)
        return known[key]

    yapf_api.FormatCode = format_code
