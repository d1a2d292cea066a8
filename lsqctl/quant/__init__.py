"""LSQ for PyTorch models, usable alone: ``from lsqctl.quant import prepare``."""
