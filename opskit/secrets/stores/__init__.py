"""One module for each kind of place where a secret can lie; `wiring` chooses among them."""
