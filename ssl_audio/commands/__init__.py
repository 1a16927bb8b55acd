"""Sub-commands of ``ssl-audio``, one module each; imports happen when a command runs."""
