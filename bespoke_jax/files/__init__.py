"""Saving: solver files, sampler files, and the fingerprint by which a flow is recognised."""
