"""Raw data: landed files become typed, checked, versioned Delta partitions."""
