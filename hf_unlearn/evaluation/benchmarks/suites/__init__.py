"""Suites that the field measures unlearned models with: MUSE, RWKU, WMDP and KnowUnDo, from their authors' files."""
