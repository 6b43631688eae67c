"""What produces every published figure: ``python -m benchmarks.<name>``."""
