"""What opskit does, one verb a module; they know bases, never concrete adapters."""
