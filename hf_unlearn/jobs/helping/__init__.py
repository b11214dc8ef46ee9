"""What helps the commands: the list of methods, a first recipe, a guard, and what attacks do with two models."""
