"""lsqctl: queue, run and rank Learned Step Size Quantization fine-tuning."""

__version__ = "0.2.0"

JSON_SCHEMA_VERSION = 2  # of what commands print with --json
