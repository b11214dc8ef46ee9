"""A data set and a request to what stays (L), what goes (S) and what no model saw (H); records to tensors."""
