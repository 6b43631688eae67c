"""Reference agents on Stable-Baselines3, one file each: ``python -m agents.<name>``."""
