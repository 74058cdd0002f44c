"""The repository format: pure code over stores and keys; no clock, network or config."""
