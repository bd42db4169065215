"""Finds out what each of mlx-lm's model types can do on this backend: `python -m histrio_mlx.survey`.

Every family is run as a tiny random model, through the backend itself, and compared with mlx-lm's own model.
"""
