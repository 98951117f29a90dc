"""Published generations under every definition."""

import sys
import types

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=['page'],
    submod_attrs={
        'page': ['audit', 'audit_page'],
        'ladder': ['LADDER'],
    },
)


class _CallableModule(types.ModuleType):
    "The package, which can be called like its main function: `from tracenb import audit; audit(files)`."

    def __call__(self, *args, **kwargs):
        return self.page.audit(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
