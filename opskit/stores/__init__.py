"""Where bytes are kept: the Store seam and its implementations."""
