"""UnlearningTrainer: transformers' Trainer, from a method's start, with the evidence around it."""
