"""Pages of the validation reports: what people see of each examination."""
