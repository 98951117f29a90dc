"""Runs, data and reports for other tools: the hub, evaluation harnesses, trainers, data standards."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'manifest': ['changed_files', 'write_export'],
        'croissant': ['write_croissant'],
        'exports': ['export_data', 'export_to'],
        'hub': ['push_data', 'push_runs', 'pull'],
    },
)
