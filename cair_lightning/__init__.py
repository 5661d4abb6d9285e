"""CAIR: causal, adaptive, information-based reinforcement learning for multimodal emotion reasoning.

Nothing is imported here, so that `import cair_lightning.metrics` costs torch and torchmetrics only.
"""

__version__ = "0.1.0"
