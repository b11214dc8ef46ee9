"""After publishing: take the old weights and rows away, find what was made from them, tell an auditor."""
