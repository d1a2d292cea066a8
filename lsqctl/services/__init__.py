"""The service layer: one module for each question that a user asks."""
