"""Deletion by construction: one adapter a shard of owners, so that a deletion trains one adapter again."""
