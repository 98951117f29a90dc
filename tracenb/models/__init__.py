"""Loading, training and generation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'loading': ['get_preset', 'load_model', 'load_tokenizer'],
        'batches': ['TrainConfig'],
        'training': ['train', 'load_adapter'],
        'generation': ['GenerateConfig', 'generate'],
    },
)
