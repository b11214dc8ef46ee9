"""Names to models: where one lives, what it does, its layers, and the record of its training."""
