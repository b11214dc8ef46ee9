"""What helps before a run and after it: the list of methods, a first recipe, and a guard against what comes back."""
