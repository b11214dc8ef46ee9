"""Measuring: one forward pass a model gives a table of records, and everything else is arithmetic on tables."""
