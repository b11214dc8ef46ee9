"""Other people's measures: TOFU, canaries, the suites of the field, the modules of Hugging Face evaluate."""
