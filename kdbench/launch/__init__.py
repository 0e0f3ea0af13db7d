"""Sweeps: how ``hydra/launcher=cohort`` runs the jobs of Hydra."""
