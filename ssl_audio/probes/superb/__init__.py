"""SUPERB: frozen encoders, learned layer weights, one small head for each task."""
