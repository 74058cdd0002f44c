"""What accepts secrets, one module a kind."""
