"""Processes that train: started, watched over and ended; and the jobs of a sweep."""
