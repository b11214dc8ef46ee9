"""Copies, near copies, quotations and paraphrases of the records to forget that would stay in L."""
