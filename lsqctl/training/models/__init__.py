"""The networks a recipe may name, and where their first weights come from."""

from lsqctl.training.models.factory import MODELS, build_model, input_channels

__all__ = ["MODELS", "build_model", "input_channels"]
