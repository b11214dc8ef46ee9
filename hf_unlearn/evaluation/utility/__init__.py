"""What unlearning cost in utility, by the metric of the task, and whether the model moved at all."""
