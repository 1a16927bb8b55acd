"""HEAR: preprocessed task folders, embeddings, and the shallow networks that score them."""
