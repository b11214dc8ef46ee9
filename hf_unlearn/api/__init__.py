"""hf_unlearn from Python: the jobs of the command line, given names or objects, with the result in hand."""
