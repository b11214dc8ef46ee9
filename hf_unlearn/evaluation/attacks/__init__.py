"""Attacks that ask for more than one score a record: teach the model again, sample from it, ask in other words."""
