"""Sweeps: what ``hydra/launcher=cohort`` does with the jobs that Hydra hands it."""
