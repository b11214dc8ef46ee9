"""Other people's measures: TOFU, canaries, the modules of Hugging Face evaluate."""
