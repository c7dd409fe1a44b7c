"""`thoonk-jobs demo`: two worker processes read the Python files of a folder, and every result is heard of."""
