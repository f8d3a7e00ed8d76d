"""Saving: solver files, sampler files, and the fingerprint that recognises a flow."""
