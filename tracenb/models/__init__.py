"""Loading, training and generation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'presets': ['get_preset'],
        'loading': ['load_model', 'load_tokenizer'],
        'batches': ['TrainConfig'],
        'adapters': ['load_adapter'],
        'training': ['train'],
        'generation': ['GenerateConfig', 'generate'],
    },
)
