"""Training of tokenizers: ``python -m train fit train/configs/cifar10.yaml``."""
