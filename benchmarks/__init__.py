"""opskit measured beside restic and BorgBackup: `python -m benchmarks`; docs/benchmarks.md explains the result."""
