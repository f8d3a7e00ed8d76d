"""Thin bridges to other libraries. Each imports its library within its functions, so that nobody else needs it."""
