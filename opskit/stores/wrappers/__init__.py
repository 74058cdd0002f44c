"""What cuts across all kinds of stores, as stores around a store: retry, read-only, limits of the rate."""
