"""The public Python API: what the command line calls, one module per question a user asks."""
