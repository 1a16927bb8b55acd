"""Scores of the field's probes, one topic a file. NumPy only.

Units are in the names; rates and errors are fractions unless a docstring says otherwise. A score
that has no value on the given input (a class without examples, nothing predicted) is NaN.
"""

from ssl_audio.probes.metrics.classification import accuracy, bootstrap_interval, macro_f1

__all__ = ["accuracy", "bootstrap_interval", "macro_f1"]
