"""X-ARES: its tars unchanged, its linear head and k-NN, its defects mended."""
